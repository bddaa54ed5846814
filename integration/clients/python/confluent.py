"""Producer, consumer and administrator on confluent-kafka (librdkafka); see ../README.md for the arguments."""

import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

DEADLINE_SEC = 60
# Members ask this often whether the group rebalances.
HEARTBEAT_MS = 300


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


def load(bootstrap, topic, partitions, pause_ms):
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    failed = []

    def delivered(error, message):
        if error is None:
            print(message.partition(), message.offset(), flush=True)
        else:
            print("error:", error, file=sys.stderr, flush=True)
            failed.append(error)

    producer, sent = Producer({"bootstrap.servers": bootstrap}), 0
    while not stop.wait(int(pause_ms) / 1000):
        producer.produce(topic, value=f"value-{sent}", partition=sent % int(partitions), on_delivery=delivered)
        producer.poll(0)
        sent += 1
    left = producer.flush(DEADLINE_SEC)
    if left or failed:
        sys.exit(f"{left} records of {sent} were not sent, {len(failed)} failed")
    print("sent", sent, flush=True)


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


def group(bootstrap, topic, group_id, count, strategy="range,roundrobin", instance=None):
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    config = {
        "bootstrap.servers": bootstrap,
        "group.id": group_id,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    if strategy == "consumer":
        config["group.protocol"] = "consumer"
    else:
        config |= {"partition.assignment.strategy": strategy, "heartbeat.interval.ms": HEARTBEAT_MS}
    if instance is not None:
        config["group.instance.id"] = instance
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
            print("error:", message.error(), file=sys.stderr, flush=True)
            if message.error().code() == KafkaError._FATAL:
                os._exit(1)  # closing a consumer after such an error may wait for ever
        elif message is not None:
            print(message.partition(), message.offset(), message.value().decode(), flush=True)
            read, uncommitted = read + 1, uncommitted + 1
        if uncommitted >= 20 or (message is None and uncommitted > 0):
            commit()
            uncommitted = 0
    commit()
    consumer.close()


def admin(bootstrap, topic):
    client = AdminClient({"bootstrap.servers": bootstrap})

    def done(futures):
        return {key: future.result(DEADLINE_SEC) for key, future in futures.items()}

    def partitions():
        return client.list_topics(topic, DEADLINE_SEC).topics[topic].partitions

    def show():
        resource = ConfigResource(ResourceType.TOPIC, topic)
        print("retention.ms", done(client.describe_configs([resource]))[resource]["retention.ms"].value)

    new = NewTopic(topic, num_partitions=3, replication_factor=1, config={"retention.ms": "3600000"})
    print("created", *done(client.create_topics([new])))
    print("partitions", len(partitions()), "replicas", len(partitions()[0].replicas))
    show()
    change = ConfigEntry("retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)
    done(client.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])]))
    show()
    done(client.create_partitions([NewPartitions(topic, 5)]))
    print("partitions", len(partitions()))
    done(client.delete_topics([topic]))
    print("exists", str(topic in client.list_topics(timeout=DEADLINE_SEC).topics).lower())


if __name__ == "__main__":
    {"produce": produce, "load": load, "consume": consume, "group": group, "admin": admin}[sys.argv[1]](*sys.argv[2:])
