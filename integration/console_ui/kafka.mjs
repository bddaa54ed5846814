// Clients beside the browser: kafkajs, with names that a browser must not take for markup.
import { createRequire } from 'node:module';
import path from 'node:path';

const { Kafka, logLevel, CompressionTypes } = createRequire(path.join(process.env.NODE_CLIENT_MODULES, 'package.json'))('kafkajs');

export const IMG = '<img src=x onerror=alert(1)>';
export const SCRIPT = '"><script>alert(2)</script>';
export const SVG = "'><svg/onload=alert(3)>{{constructor.constructor('alert(4)')()}}";
/** As hostile as Kafka lets a topic's name be. */
export const TOPIC = '__proto__.constructor';

export function kafka(bootstrap, clientId = 'console-ui') {
  return new Kafka({ clientId, brokers: bootstrap.split(','), logLevel: logLevel.NOTHING, retry: { retries: 12 } });
}

export async function produce(bootstrap, topic, messages) {
  const producer = kafka(bootstrap).producer();
  await producer.connect();
  try { await producer.send({ topic, messages, compression: CompressionTypes.GZIP }); } finally { await producer.disconnect(); }
}

/** A member that reads everything and commits, until it is stopped. */
export async function consume(bootstrap, { topic, groupId, clientId, count }) {
  const consumer = kafka(bootstrap, clientId).consumer({ groupId, sessionTimeout: 10000, rebalanceTimeout: 10000 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  let seen = 0;
  const all = new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, (e) => { if (!e.payload.restart) reject(e.payload.error); });
    consumer.run({ eachMessage: async () => { seen += 1; if (seen >= count) resolve(); } }).catch(reject);
  });
  await all;
  return { stop: async () => { await consumer.stop(); await consumer.disconnect(); } };
}
