import java.io.IOException;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Producer, consumer and administrator on Kafka's own client; see ../README.md for the arguments. */
public final class Client {
    private static final Duration DEADLINE = Duration.ofMinutes(1);

    /** Members ask this often whether the group rebalances. */
    private static final String HEARTBEAT_MS = "300";

    /** Records between two commits. */
    private static final String BATCH = "20";

    private static Properties properties(String bootstrap, Map<String, String> more) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.putAll(more);
        return properties;
    }

    private static void produce(String[] a) throws Exception {
        Properties config = properties(a[1], Map.of("compression.type", a[4], "acks", a[5]));
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            int partition = Integer.parseInt(a[3]);
            List<Future<RecordMetadata>> sent = IntStream.range(0, Integer.parseInt(a[6]))
                    .mapToObj(n -> producer.send(new ProducerRecord<>(a[2], partition, null, "value-" + n)))
                    .toList();
            for (Future<RecordMetadata> each : sent) {
                System.out.println(each.get().offset());
            }
        }
    }

    /** True once the standard input is closed. */
    private static AtomicBoolean stopped() {
        AtomicBoolean stopped = new AtomicBoolean();
        Thread waiter = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (IOException e) {
                e.printStackTrace();
            }
            stopped.set(true);
        });
        waiter.setDaemon(true);
        waiter.start();
        return stopped;
    }

    private static void load(String[] a) throws Exception {
        AtomicBoolean stopped = stopped();
        AtomicLong failed = new AtomicLong();
        long sent = 0;
        try (var producer = new KafkaProducer<>(
                properties(a[1], Map.of()), new StringSerializer(), new StringSerializer())) {
            for (; !stopped.get(); sent++) {
                int partition = (int) (sent % Integer.parseInt(a[3]));
                producer.send(new ProducerRecord<>(a[2], partition, null, "value-" + sent), (metadata, error) -> {
                    if (error == null) {
                        System.out.println(metadata.partition() + " " + metadata.offset());
                    } else {
                        System.err.println("error: " + error);
                        failed.incrementAndGet();
                    }
                });
                Thread.sleep(Long.parseLong(a[4]));
            }
        }
        if (failed.get() > 0) {
            throw new IllegalStateException(failed + " records of " + sent + " failed");
        }
        System.out.println("sent " + sent);
    }

    private static KafkaConsumer<String, String> consumer(String bootstrap, Map<String, String> more) {
        return new KafkaConsumer<>(properties(bootstrap, more), new StringDeserializer(), new StringDeserializer());
    }

    private static void consume(String[] a) {
        try (var consumer = consumer(a[1], Map.of())) {
            List<TopicPartition> assigned = List.of(new TopicPartition(a[2], Integer.parseInt(a[3])));
            consumer.assign(assigned);
            consumer.seekToBeginning(assigned);
            int left = Integer.parseInt(a[4]);
            long end = System.nanoTime() + DEADLINE.toNanos();
            while (left > 0) {
                if (System.nanoTime() > end) {
                    throw new IllegalStateException(left + " records were not read");
                }
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    if (left-- > 0) {
                        System.out.println(record.offset() + " " + record.value());
                    }
                }
            }
        }
    }

    private static void group(String[] a) {
        AtomicBoolean stopped = stopped();
        int count = Integer.parseInt(a[4]);
        Map<String, String> config = new HashMap<>(Map.of(
                "group.id", a[3],
                "auto.offset.reset", "earliest",
                "enable.auto.commit", "false",
                "max.poll.records", count == 0 ? BATCH : "1"));
        boolean brokerAssigns = a.length > 5 && a[5].equals("consumer");
        config.putAll(brokerAssigns
                ? Map.of("group.protocol", "consumer")
                : Map.of("heartbeat.interval.ms", HEARTBEAT_MS));
        if (a.length > 6) {
            config.put("group.instance.id", a[6]);
        }
        try (var consumer = consumer(a[1], config)) {
            consumer.subscribe(List.of(a[2]), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> revoked) {
                    commit(consumer, brokerAssigns);
                }

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> assigned) {}
            });
            int read = 0;
            while (!stopped.get() && (count == 0 || read < count)) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                    System.out.println(record.partition() + " " + record.offset() + " " + record.value());
                    read++;
                }
                try {
                    commit(consumer, brokerAssigns);
                } catch (RebalanceInProgressException e) {
                    continue; // polling completes the rebalance, and what is given up is committed before
                }
            }
        }
    }

    /** A commit may cross the answer that tells the client its new epoch; with the next epoch it succeeds. */
    private static void commit(KafkaConsumer<String, String> consumer, boolean brokerAssigns) {
        for (int attempt = 1; ; attempt++) {
            try {
                consumer.commitSync();
                return;
            } catch (CommitFailedException e) {
                boolean stale = brokerAssigns && e.getMessage().contains("stale member epoch");
                if (!stale || attempt == 50) {
                    throw e;
                }
            }
            try {
                Thread.sleep(20);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        }
    }

    private static void admin(String[] a) throws Exception {
        String topic = a[2];
        try (Admin admin = Admin.create(properties(a[1], Map.of()))) {
            NewTopic created = new NewTopic(topic, 3, (short) 1).configs(Map.of("retention.ms", "3600000"));
            admin.createTopics(List.of(created)).all().get();
            System.out.println("created " + topic);
            TopicDescription described = describe(admin, topic);
            int replicas = described.partitions().get(0).replicas().size();
            System.out.println("partitions " + described.partitions().size() + " replicas " + replicas);
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            show(admin, resource);
            AlterConfigOp set = new AlterConfigOp(new ConfigEntry("retention.ms", "7200000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
            show(admin, resource);
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
            System.out.println("partitions " + describe(admin, topic).partitions().size());
            admin.deleteTopics(List.of(topic)).all().get();
            System.out.println("exists " + admin.listTopics().names().get().contains(topic));
        }
    }

    private static TopicDescription describe(Admin admin, String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    private static void show(Admin admin, ConfigResource resource) throws Exception {
        var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        System.out.println("retention.ms " + config.get("retention.ms").value());
    }

    public static void main(String[] a) throws Exception {
        switch (a[0]) {
            case "produce" -> produce(a);
            case "load" -> load(a);
            case "consume" -> consume(a);
            case "group" -> group(a);
            case "admin" -> admin(a);
            default -> throw new IllegalArgumentException("no command " + a[0]);
        }
    }
}
