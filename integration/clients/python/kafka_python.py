"""Producer, consumer and administrator on kafka-python; see ../README.md for the arguments."""

import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic
from kafka.errors import CommitFailedError, RebalanceInProgressError

DEADLINE_SEC = 60
# Members ask this often whether the group rebalances.
HEARTBEAT_MS = 300


def produce(bootstrap, topic, partition, codec, acks, count):
    # Idempotence is this client's default only with acks=all; with other acks it refuses to start unless it is off.
    config = {"acks": acks if acks == "all" else int(acks)}
    if acks != "all":
        config["enable_idempotence"] = False
    if codec != "none":
        config["compression_type"] = codec
    producer = KafkaProducer(bootstrap_servers=bootstrap, **config)
    futures = [producer.send(topic, f"value-{i}".encode(), partition=int(partition)) for i in range(int(count))]
    producer.flush(DEADLINE_SEC)
    for future in futures:
        print(future.get(DEADLINE_SEC).offset)
    producer.close()


def consume(bootstrap, topic, partition, count):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    assigned = TopicPartition(topic, int(partition))
    consumer.assign([assigned])
    consumer.seek_to_beginning(assigned)
    deadline, read = time.monotonic() + DEADLINE_SEC, 0
    while read < int(count):
        if time.monotonic() > deadline:
            sys.exit(f"only {read} of {count} records were read")
        for message in consumer.poll(1000, max_records=int(count) - read).get(assigned, []):
            print(message.offset, message.value.decode())
            read += 1
    consumer.close()


def group(bootstrap, topic, group_id, count):
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group_id,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        heartbeat_interval_ms=HEARTBEAT_MS,
    )
    consumer.subscribe([topic])
    # Partitions are given up while polling only, so that committing after each poll is committing before that.
    read, committed, uncommitted = 0, False, []
    while not committed or not (stop.is_set() or read == int(count) > 0):
        left = int(count) - read if int(count) else 20
        for messages in consumer.poll(100, max_records=max(1, min(left, 20))).values():
            for message in messages:
                uncommitted.append((message.partition, message.offset, message.value.decode()))
        try:
            consumer.commit()
            committed, read = True, read + len(uncommitted)
            for record in uncommitted:
                print(*record, flush=True)
        except (CommitFailedError, RebalanceInProgressError):
            committed = False  # polling completes the rebalance; what was not committed is read again
        uncommitted = []
    consumer.close()


def admin(bootstrap, topic):
    client = KafkaAdminClient(bootstrap_servers=bootstrap)

    def partitions():
        return client.describe_topics([topic])[0]["partitions"]

    def show():
        described = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
        print("retention.ms", described["topic"][topic]["retention.ms"]["value"])

    new = NewTopic(topic, num_partitions=3, replication_factor=1, topic_configs={"retention.ms": "3600000"})
    client.create_topics([new])
    print("created", topic)
    print("partitions", len(partitions()), "replicas", len(partitions()[0]["replica_nodes"]))
    show()
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "7200000"})])
    show()
    client.create_partitions({topic: NewPartitions(5)})
    print("partitions", len(partitions()))
    client.delete_topics([topic])
    print("exists", str(topic in client.list_topics()).lower())
    client.close()


if __name__ == "__main__":
    {"produce": produce, "consume": consume, "group": group, "admin": admin}[sys.argv[1]](*sys.argv[2:])
