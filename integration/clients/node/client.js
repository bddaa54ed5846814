// Producer, consumer and administrator on kafkajs; see ../README.md for the arguments.
//
// kafkajs has no consumer without a group, so `consume` speaks Fetch through its cluster object, which is what its own
// consumer stands on.
"use strict";

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require("kafkajs");
const SnappyCodec = require("kafkajs-snappy");
const lz4 = require("lz4js");

const DEADLINE_MS = 60_000;
// Members ask this often whether the group rebalances.
const HEARTBEAT_MS = 300;

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});

const codecs = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
};

function client(bootstrap) {
  return new Kafka({ clientId: "kafscale-test", brokers: [bootstrap], logLevel: logLevel.ERROR });
}

async function produce(bootstrap, topic, partition, codec, acks, count) {
  if (!(codec in codecs)) throw new Error(`kafkajs has no codec ${codec} here`);
  const producer = client(bootstrap).producer();
  await producer.connect();
  const messages = Array.from({ length: Number(count) }, (_, i) => ({ value: `value-${i}`, partition: Number(partition) }));
  const answers = await producer.send({
    topic,
    messages,
    compression: codecs[codec],
    acks: acks === "all" ? -1 : Number(acks),
  });
  const base = answers?.[0]?.baseOffset;
  messages.forEach((_, i) => console.log(base === undefined ? -1 : Number(base) + i));
  await producer.disconnect();
}

async function consume(bootstrap, topic, partition, count) {
  // Not part of the documented interface, but of the package: the parts below the consumer group.
  const Cluster = require("kafkajs/src/cluster");
  const { createLogger } = require("kafkajs/src/loggers");
  const consoleLogger = require("kafkajs/src/loggers/console");
  const socketFactory = require("kafkajs/src/network/socketFactory");
  const cluster = new Cluster({
    logger: createLogger({ level: logLevel.ERROR, logCreator: consoleLogger }),
    socketFactory: socketFactory(),
    brokers: [bootstrap],
    clientId: "kafscale-test",
    connectionTimeout: 10_000,
    authenticationTimeout: 10_000,
    metadataMaxAge: 300_000,
    allowAutoTopicCreation: false,
    retry: {},
    offsets: new Map(),
  });
  await cluster.connect();
  await cluster.addTargetTopic(topic);
  const leader = cluster.findLeaderForPartitions(topic, [Number(partition)]);
  const broker = await cluster.findBroker({ nodeId: Object.keys(leader)[0] });
  const deadline = Date.now() + DEADLINE_MS;
  let read = 0;
  let fetchOffset = 0n;
  while (read < Number(count)) {
    if (Date.now() > deadline) throw new Error(`only ${read} of ${count} records were read`);
    const answer = await broker.fetch({
      maxWaitTime: 1000,
      isolationLevel: 1, // as its consumer: read committed
      topics: [{ topic, partitions: [{ partition: Number(partition), fetchOffset: fetchOffset.toString(), maxBytes: 1 << 20 }] }],
    });
    for (const message of answer.responses[0].partitions[0].messages) {
      const offset = BigInt(message.offset);
      if (offset < fetchOffset || read >= Number(count)) continue; // a batch may begin before the asked offset
      console.log(`${offset} ${message.value}`);
      fetchOffset = offset + 1n;
      read += 1;
    }
  }
  await cluster.disconnect();
}

// Commits each message before it takes the next one, and so before it gives its partition up.
async function group(bootstrap, topic, groupId, count) {
  const consumer = client(bootstrap).consumer({ groupId, heartbeatInterval: HEARTBEAT_MS });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  let read = 0;
  await new Promise((resolve, reject) => {
    process.stdin.resume().on("end", resolve);
    consumer
      .run({
        autoCommit: false,
        eachMessage: async ({ partition, message }) => {
          console.log(`${partition} ${message.offset} ${message.value}`);
          await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }]);
          read += 1;
          if (read === Number(count)) resolve();
        },
      })
      .catch(reject);
  });
  await consumer.disconnect(); // after the message it has is handled and committed
}

async function admin(bootstrap, topic) {
  const admin = client(bootstrap).admin();
  await admin.connect();
  const partitions = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions;
  const show = async () => {
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: ["retention.ms"] }],
    });
    console.log("retention.ms", resources[0].configEntries[0].configValue);
  };
  await admin.createTopics({
    waitForLeaders: true,
    topics: [{ topic, numPartitions: 3, replicationFactor: 1, configEntries: [{ name: "retention.ms", value: "3600000" }] }],
  });
  console.log("created", topic);
  console.log("partitions", (await partitions()).length, "replicas", (await partitions())[0].replicas.length);
  await show();
  await admin.alterConfigs({
    validateOnly: false,
    resources: [
      { type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: "retention.ms", value: "7200000" }] },
    ],
  });
  await show();
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] });
  console.log("partitions", (await partitions()).length);
  await admin.deleteTopics({ topics: [topic] });
  console.log("exists", (await admin.listTopics()).includes(topic));
  await admin.disconnect();
}

const [command, ...args] = process.argv.slice(2);
({ produce, consume, group, admin })[command](...args)
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  })
  // A consumer that has restarted after an error leaves a connection behind, which would keep the process alive.
  .finally(() => process.exit());
