"""Producer and consumer on confluent-kafka (librdkafka); see ../README.md for the arguments."""

import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

DEADLINE_SEC = 60


def produce(bootstrap, topic, partition, codec, acks, count):
    offsets, errors = [], []

    def delivered(error, message):
        if error is not None:
            errors.append(str(error))
        elif acks == "0":
            offsets.append(-1)
        else:
            offsets.append(message.offset())

    config = {"bootstrap.servers": bootstrap, "compression.type": codec, "acks": acks}
    producer = Producer(config)
    for i in range(int(count)):
        producer.produce(topic, value=f"value-{i}", partition=int(partition), on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(DEADLINE_SEC)
    if errors or left:
        sys.exit(f"{left} records were not sent; errors: {errors[:3]}")
    print("\n".join(map(str, offsets)))


def consume(bootstrap, topic, partition, count):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, int(partition), 0)])
    deadline, read = time.monotonic() + DEADLINE_SEC, 0
    while read < int(count):
        if time.monotonic() > deadline:
            sys.exit(f"only {read} of {count} records were read")
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            sys.exit(str(message.error()))
        print(message.offset(), message.value().decode())
        read += 1
    consumer.close()


def group(bootstrap, topic, group_id, count, strategy="range,roundrobin"):
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    config = {
        "bootstrap.servers": bootstrap,
        "group.id": group_id,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "partition.assignment.strategy": strategy,
    }
    consumer = Consumer(config)

    def commit():
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            if error.args[0].name() != "_NO_OFFSET":
                print("not committed:", error, file=sys.stderr)

    consumer.subscribe([topic], on_revoke=lambda *_: commit())
    read, uncommitted = 0, 0
    while not stop.is_set() and (int(count) == 0 or read < int(count)):
        message = consumer.poll(0.1)
        if message is not None and message.error():
            print(message.error(), file=sys.stderr)
        elif message is not None:
            print(message.partition(), message.offset(), message.value().decode(), flush=True)
            read, uncommitted = read + 1, uncommitted + 1
        if uncommitted >= 20 or (message is None and uncommitted > 0):
            commit()
            uncommitted = 0
    commit()
    consumer.close()


if __name__ == "__main__":
    {"produce": produce, "consume": consume, "group": group}[sys.argv[1]](*sys.argv[2:])
