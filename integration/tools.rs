//! Kafka's own administrative tools, as their users type them: what they print and how they end.
//!
//! All commands run in one JVM (`integration/clients/java/Tools.java`), because a JVM starts slower than they work.

mod data;
mod forms;
mod groups;

use crate::client::{Client, EARLIEST};
use crate::clients::java_options;
use crate::harness::{Backend, Stack, wait_until};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long one command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const GET_OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
const LOG_DIRS: &str = "org.apache.kafka.tools.LogDirsCommand";
const LEADER_ELECTION: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const CLUSTER: &str = "org.apache.kafka.tools.ClusterTool";
const API_VERSIONS: &str = "org.apache.kafka.tools.BrokerApiVersionsCommand";
const FEATURES: &str = "org.apache.kafka.tools.FeatureCommand";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
const CLIENT_METRICS: &str = "org.apache.kafka.tools.ClientMetricsCommand";
const ACLS: &str = "org.apache.kafka.tools.AclCommand";
pub const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
pub const GROUPS: &str = "org.apache.kafka.tools.GroupsCommand";
const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const PRODUCER_PERF: &str = "org.apache.kafka.tools.ProducerPerformance";
const CONSUMER_PERF: &str = "org.apache.kafka.tools.ConsumerPerformance";
const VERIFIABLE_CONSUMER: &str = "org.apache.kafka.tools.VerifiableConsumer";

/// A JVM that runs tools against one broker.
pub struct Tools {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    bootstrap: String,
}

impl Tools {
    /// Starts the JVM; every command gets `--bootstrap-server`.
    pub fn start(bootstrap: &str) -> Self {
        let mut command = Command::new("java");
        command.args(java_options()).arg("Tools");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("java is installed by `make test`");
        let (input, output) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        Self { _process: process, input, output: BufReader::new(output), bootstrap: bootstrap.to_owned() }
    }

    /// Exit status and everything that a command wrote.
    pub async fn run(&mut self, class: &str, arguments: &[&str]) -> (i32, String) {
        self.run_with(None, class, arguments).await
    }

    /// The same for a command whose standard input is a file.
    pub async fn run_with(&mut self, input: Option<&Path>, class: &str, arguments: &[&str]) -> (i32, String) {
        let property = format!("bootstrap.servers={}", self.bootstrap);
        let server = ["--bootstrap-server", &self.bootstrap];
        let words = match class {
            // The server is not an option of its own.
            PRODUCER_PERF => [arguments, &["--producer-props", &property]].concat(),
            // Some tools have sub-commands; their options come after those, or before.
            CLUSTER => [arguments, &server[..]].concat(),
            _ => [&server[..], arguments].concat(),
        };
        let input = input.map(|path| path.display().to_string()).unwrap_or_default();
        let line = format!("{input}\t{class}\t{}\n", words.join("\t"));
        let exchange = async {
            self.input.write_all(line.as_bytes()).await.expect("the JVM reads");
            let mut head = String::new();
            self.output.read_line(&mut head).await.expect("the JVM answers");
            let (status, length) = head.trim_end().split_once(' ').unwrap_or_else(|| panic!("{line}: {head:?}"));
            let mut text = vec![0; length.parse().expect("a length")];
            self.output.read_exact(&mut text).await.expect("the JVM answers");
            (status.parse().expect("a status"), String::from_utf8(text).expect("tools write UTF-8"))
        };
        let done = tokio::time::timeout(COMMAND_DEADLINE, exchange).await;
        let (status, text) = done.unwrap_or_else(|_| panic!("{line}: not done within {COMMAND_DEADLINE:?}"));
        println!("$ {} {}\n{text}[{status}]", class.rsplit('.').next().unwrap_or(class), arguments.join(" "));
        (status, text)
    }

    /// What a command writes that ends well.
    pub async fn ok(&mut self, class: &str, arguments: &[&str]) -> String {
        let (status, text) = self.run(class, arguments).await;
        assert_eq!(status, 0, "{class} {arguments:?}: {text}");
        text
    }

    /// Expects a command to end well and its output to have all of `parts`.
    pub async fn says(&mut self, class: &str, arguments: &[&str], parts: &[&str]) {
        let text = self.ok(class, arguments).await;
        for part in parts {
            assert!(text.contains(part), "{class} {arguments:?}: {part:?} is not in\n{text}");
        }
    }

    /// Expects a command to fail with `part` in its output.
    pub async fn fails(&mut self, class: &str, arguments: &[&str], part: &str) {
        let (status, text) = self.run(class, arguments).await;
        assert!(status != 0 && text.contains(part), "{class} {arguments:?}: {status}, {part:?} expected in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_and_offsets() {
    let stack = Stack::start("tools-topics", Backend::Dev, &[]).await;
    let mut client = Client::new(&stack.address());
    let mut tools = Tools::start(&stack.address());

    let create = ["--create", "--topic", "t", "--partitions", "3", "--replication-factor", "1"];
    tools.says(TOPICS, &create, &["Created topic t."]).await;
    tools.fails(TOPICS, &create, "topic t exists already").await;
    let again = [&create[..], &["--if-not-exists"]].concat();
    assert_eq!(tools.ok(TOPICS, &again).await, "");
    let with_config = ["--create", "--topic", "u", "--config", "retention.ms=3600000"];
    tools.says(TOPICS, &with_config, &["Created topic u."]).await;
    tools.fails(TOPICS, &["--create", "--topic", "v", "--config", "retention.ms=soon"], "retention.ms").await;
    assert_eq!(tools.ok(TOPICS, &["--list"]).await, "t\nu\n");

    let described = tools.ok(TOPICS, &["--describe", "--topic", "t"]).await;
    for part in
        ["Topic: t", "PartitionCount: 3", "ReplicationFactor: 1", "Partition: 2\tLeader: 0\tReplicas: 0\tIsr: 0"]
    {
        assert!(described.contains(part), "{part:?} is not in\n{described}");
    }
    tools.says(TOPICS, &["--describe", "--topic", "u"], &["PartitionCount: 1", "Configs: retention.ms=3600000"]).await;
    tools.says(TOPICS, &["--describe"], &["Topic: t", "Topic: u"]).await;
    for filter in ["--under-replicated-partitions", "--unavailable-partitions", "--under-min-isr-partitions"] {
        assert_eq!(tools.ok(TOPICS, &["--describe", filter]).await, "");
    }
    tools.fails(TOPICS, &["--describe", "--topic", "none"], "'none' does not exist").await;
    assert_eq!(tools.ok(TOPICS, &["--describe", "--topic", "none", "--if-exists"]).await, "");

    assert_eq!(tools.ok(TOPICS, &["--alter", "--topic", "t", "--partitions", "5"]).await, "");
    tools.says(TOPICS, &["--describe", "--topic", "t"], &["PartitionCount: 5", "Partition: 4\tLeader: 0"]).await;
    tools.fails(TOPICS, &["--alter", "--topic", "t", "--partitions", "2"], "2 would not be more").await;

    client.produce_values("t", 1, &[b"a", b"b", b"c", b"d"]).await;
    let offsets = tools.ok(GET_OFFSETS, &["--topic", "t"]).await;
    assert_eq!(offsets.lines().collect::<Vec<_>>(), ["t:0:0", "t:1:4", "t:2:0", "t:3:0", "t:4:0"]);
    assert_eq!(tools.ok(GET_OFFSETS, &["--topic-partitions", "t:1", "--time", "earliest"]).await, "t:1:0\n");
    assert_eq!(tools.ok(GET_OFFSETS, &["--topic-partitions", "t:1", "--time", "max-timestamp"]).await, "t:1:0\n");

    let wanted = stack.dir.path().join("delete.json");
    std::fs::write(&wanted, r#"{"version":1,"partitions":[{"topic":"t","partition":1,"offset":3}]}"#).unwrap();
    let file = wanted.display().to_string();
    tools.says(DELETE_RECORDS, &["--offset-json-file", &file], &["partition: t-1\tlow_watermark: 3"]).await;
    assert_eq!(tools.ok(GET_OFFSETS, &["--topic-partitions", "t:1", "--time", "earliest"]).await, "t:1:3\n");
    assert_eq!(client.list_offset("t", 1, EARLIEST).await.unwrap(), 3);
    std::fs::write(&wanted, r#"{"version":1,"partitions":[{"topic":"t","partition":1,"offset":9}]}"#).unwrap();
    let (_, beyond) = tools.run(DELETE_RECORDS, &["--offset-json-file", &file]).await;
    assert!(beyond.contains("OffsetOutOfRangeException"), "{beyond}");

    assert_eq!(tools.ok(TOPICS, &["--delete", "--topic", "u"]).await, "");
    assert_eq!(tools.ok(TOPICS, &["--list"]).await, "t\n");
    tools.fails(TOPICS, &["--delete", "--topic", "u"], "'u' does not exist").await;
    assert_eq!(tools.ok(TOPICS, &["--delete", "--topic", "u", "--if-exists"]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs() {
    let stack = Stack::start("tools-configs", Backend::Dev, &[("KAFSCALE_LOG_RETENTION_HOURS", "240")]).await;
    let mut client = Client::new(&stack.address());
    let mut tools = Tools::start(&stack.address());
    client.ensure_topic("t", 1).await;
    client.produce_values("t", 0, &[b"old"]).await;

    let topic = ["--entity-type", "topics", "--entity-name", "t"];
    let describe = [&["--describe"], &topic[..]].concat();
    let alter = |change: &[&'static str]| [&["--alter"], &topic[..], change].concat();
    assert_eq!(tools.ok(CONFIGS, &describe).await, "Dynamic configs for topic t are:\n");
    let all = [&describe[..], &["--all"]].concat();
    let parts = [
        "All configs for topic t are:",
        "  retention.ms=864000000 sensitive=false synonyms={STATIC_BROKER_CONFIG:log.retention.hours=240, DEFAULT_CONFIG:log.retention.ms=604800000}",
        "  max.message.bytes=1048588 sensitive=false synonyms={DEFAULT_CONFIG:message.max.bytes=1048588}",
    ];
    tools.says(CONFIGS, &all, &parts).await;
    let change = alter(&["--add-config", "retention.ms=604800000,cleanup.policy=[compact,delete]"]);
    tools.says(CONFIGS, &change, &["Completed updating config for topic t."]).await;
    let parts =
        ["cleanup.policy=compact,delete", "retention.ms=604800000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:"];
    tools.says(CONFIGS, &describe, &parts).await;
    tools
        .says(TOPICS, &["--describe", "--topic", "t"], &["cleanup.policy=compact,delete", "retention.ms=604800000"])
        .await;
    let change = alter(&["--delete-config", "cleanup.policy"]);
    tools.says(CONFIGS, &change, &["Completed updating config for topic t."]).await;
    assert!(!tools.ok(CONFIGS, &describe).await.contains("cleanup.policy"));
    tools.fails(CONFIGS, &alter(&["--add-config", "retention.ms=soon"]), "retention.ms").await;
    tools.fails(CONFIGS, &alter(&["--add-config", "no.such.config=1"]), "no.such.config").await;
    tools.fails(CONFIGS, &alter(&["--delete-config", "segment.bytes"]), "segment.bytes").await;
    let none = ["--alter", "--entity-type", "topics", "--entity-name", "none", "--add-config", "retention.ms=1"];
    tools.fails(CONFIGS, &none, "none").await;

    // Brokers: one, and all of them.
    let broker = ["--entity-type", "brokers", "--entity-name", "0"];
    let brokers = ["--entity-type", "brokers", "--entity-default"];
    let with = |entity: &[&'static str], more: &[&'static str]| [entity, more].concat();
    let change = with(&brokers, &["--alter", "--add-config", "message.max.bytes=2000000"]);
    tools.says(CONFIGS, &change, &["Completed updating default config for brokers in the cluster."]).await;
    tools.says(CONFIGS, &with(&brokers, &["--describe"]), &["message.max.bytes=2000000"]).await;
    let change = with(&broker, &["--alter", "--add-config", "message.max.bytes=3000000"]);
    tools.says(CONFIGS, &change, &["Completed updating config for broker 0."]).await;
    let part = "message.max.bytes=3000000 sensitive=false synonyms={DYNAMIC_BROKER_CONFIG:message.max.bytes=3000000, \
                DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=2000000, DEFAULT_CONFIG:message.max.bytes=1048588}";
    tools.says(CONFIGS, &with(&broker, &["--describe"]), &[part]).await;
    tools.says(CONFIGS, &with(&broker, &["--describe", "--all"]), &[part, "  node.id=0 "]).await;
    tools.says(CONFIGS, &all, &["max.message.bytes=3000000"]).await;
    let change = with(&broker, &["--alter", "--add-config", "num.io.threads=3"]);
    tools.fails(CONFIGS, &change, "broker config num.io.threads cannot be changed at run time").await;
    for entity in [&broker[..], &brokers[..]] {
        tools.ok(CONFIGS, &with(entity, &["--alter", "--delete-config", "message.max.bytes"])).await;
    }
    tools.says(CONFIGS, &all, &["max.message.bytes=1048588"]).await;
    // Without a name: all of them.
    tools.says(CONFIGS, &["--describe", "--entity-type", "topics"], &["Dynamic configs for topic t are:"]).await;
    let parts = ["Dynamic configs for broker 0 are:", "Default configs for brokers in the cluster are:"];
    tools.says(CONFIGS, &["--describe", "--entity-type", "brokers"], &parts).await;
    tools.says(TOPICS, &["--describe", "--topics-with-overrides"], &["Topic: t"]).await;

    // The retention of the operations guide reaches the log.
    tools.ok(CONFIGS, &alter(&["--add-config", "retention.ms=1"])).await;
    wait_until("retention deletes the record", Duration::from_secs(90), async || {
        client.list_offset("t", 0, EARLIEST).await.is_ok_and(|start| start == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_and_placement() {
    let stack = Stack::start("tools-cluster", Backend::Dev, &[]).await;
    let bootstrap = stack.address();
    let mut client = Client::new(&bootstrap);
    let mut tools = Tools::start(&bootstrap);
    client.ensure_topic("t", 2).await;
    client.produce_values("t", 0, &[&[7; 5_000]]).await;

    let described = tools.ok(LOG_DIRS, &["--describe"]).await;
    let json = described.lines().find(|l| l.starts_with('{')).expect("a line of JSON");
    let parsed: serde_json::Value = serde_json::from_str(json).unwrap();
    let dir = &parsed["brokers"][0]["logDirs"][0];
    assert_eq!((&dir["error"], parsed["brokers"][0]["broker"].as_i64()), (&serde_json::Value::Null, Some(0)));
    assert!(dir["logDir"].as_str().is_some_and(|d| d.ends_with("/data/objects/default")), "{json}");
    let size = |partition: &str| {
        let found = dir["partitions"].as_array().unwrap().iter().find(|p| p["partition"] == partition);
        found.unwrap()["size"].as_i64().unwrap()
    };
    assert!((5_000..5_200).contains(&size("t-0")) && size("t-1") == 0, "{json}");
    tools.says(LOG_DIRS, &["--describe", "--topic-list", "t"], &["\"t-1\""]).await;

    let elect = ["--election-type", "preferred", "--topic", "t", "--partition", "0"];
    tools.says(LEADER_ELECTION, &elect, &["Valid replica already elected for partitions t-0"]).await;
    tools.ok(LEADER_ELECTION, &["--election-type", "preferred", "--all-topic-partitions"]).await;
    let elect = ["--election-type", "unclean", "--topic", "none", "--partition", "0"];
    tools.fails(LEADER_ELECTION, &elect, "UnknownTopicOrPartitionException").await;

    tools.says(REASSIGN, &["--list"], &["No partition reassignments found."]).await;
    let file = stack.dir.path().join("reassign.json");
    let path = file.display().to_string();
    let to = |broker: i32| {
        std::fs::write(
            &file,
            format!(r#"{{"version":1,"partitions":[{{"topic":"t","partition":0,"replicas":[{broker}]}}]}}"#),
        )
    };
    to(0).unwrap();
    let verify = ["--verify", "--reassignment-json-file", &path];
    tools.says(REASSIGN, &verify, &["Reassignment of partition t-0 is completed."]).await;
    let execute = ["--execute", "--reassignment-json-file", &path];
    tools.says(REASSIGN, &execute, &["Successfully started partition reassignment for t-0"]).await;
    let cancel = ["--cancel", "--reassignment-json-file", &path];
    tools.says(REASSIGN, &cancel, &["None of the specified partition moves are active."]).await;
    let moves = stack.dir.path().join("move.json");
    std::fs::write(&moves, r#"{"version":1,"topics":[{"topic":"t"}]}"#).unwrap();
    let moves = moves.display().to_string();
    let generate = ["--generate", "--topics-to-move-json-file", &moves, "--broker-list", "0"];
    tools.says(REASSIGN, &generate, &["\"topic\":\"t\",\"partition\":1,\"replicas\":[0]"]).await;
    to(7).unwrap();
    tools.fails(REASSIGN, &execute, "7").await;

    let metadata = client.metadata(Some(&[]), false).await.unwrap();
    let id = metadata.cluster_id.unwrap();
    tools.says(CLUSTER, &["cluster-id"], &[&format!("Cluster ID: {}", &*id)]).await;
    let port = bootstrap.rsplit_once(':').unwrap().1;
    tools.says(CLUSTER, &["list-endpoints"], &["127.0.0.1", port]).await;
    let parts = [&format!("{bootstrap} (id: 0 rack: null") as &str, "\tProduce(0): 0 to 13 [usable: 13]"];
    tools.says(API_VERSIONS, &[], &parts).await;
    tools.ok(FEATURES, &["describe"]).await;
    let (id, _) = client.init_producer_id().await.unwrap();
    let batch = crate::client::Batch::of(&[b"x"]).idempotent(id, 0, 0).encode();
    assert_eq!(client.produce("t", 1, batch).await.unwrap().error_code, 0);
    let described = tools.ok(TRANSACTIONS, &["describe-producers", "--topic", "t", "--partition", "1"]).await;
    let row: Vec<&str> = described.lines().nth(1).expect("a row below the head").split_whitespace().collect();
    assert_eq!((row[0], row[1], row[3]), (&*id.to_string(), "0", "0"), "{described}");
    tools.fails(FEATURES, &["upgrade", "--feature", "metadata.version=27"], "metadata.version").await;
}
