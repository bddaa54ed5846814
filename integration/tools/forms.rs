//! Further forms of the administrative tools, and what they say where this broker refuses or does not have something: a table
//! of commands, exit statuses and what is printed.

use super::*;

/// A command, its exit status, and parts of what it prints.
type Form<'a> = (&'a str, &'a [&'a str], i32, &'a [&'a str]);

async fn check(tools: &mut Tools, forms: &[Form<'_>]) {
    for (class, arguments, expected, parts) in forms {
        let (status, text) = tools.run(class, arguments).await;
        assert_eq!(status, *expected, "{class} {arguments:?}:\n{text}");
        for part in *parts {
            assert!(text.contains(part), "{class} {arguments:?}: {part:?} is not in\n{text}");
        }
        assert!(!parts.is_empty() || text.trim().is_empty(), "{class} {arguments:?} prints nothing:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_forms() {
    let stack = Stack::start("tools-forms", Backend::Dev, &[]).await;
    let address = stack.address();
    let mut client = Client::new(&address);
    let mut tools = Tools::start(&address);
    client.ensure_topic("t", 2).await;
    client.produce_values("t", 1, &[b"a", b"b", b"c"]).await;
    let file = |name: &str, content: &str| {
        let path = stack.dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.display().to_string()
    };

    let forms: &[Form<'_>] = &[
        (TOPICS, &["--create", "--topic", "r", "--replica-assignment", "0,0,0"], 0, &["Created topic r."]),
        (
            TOPICS,
            &["--describe", "--topic", "r"],
            0,
            &["PartitionCount: 3\tReplicationFactor: 1", "Partition: 2\tLeader: 0"],
        ),
        (TOPICS, &["--create", "--topic", "s", "--replica-assignment", "7"], 1, &["different live brokers"]),
        (TOPICS, &["--create", "--topic", "a/b"], 1, &["characters other than ASCII letters, digits"]),
        (TOPICS, &["--create", "--topic", "x.y"], 0, &["Created topic x.y."]),
        (TOPICS, &["--create", "--topic", "x_y"], 1, &["topic x_y collides with x.y"]),
        (TOPICS, &["--create", "--topic", "p", "--partitions", "10001"], 1, &["10001 partitions are too many"]),
        (TOPICS, &["--list", "--topic", "x.*"], 0, &["x.y\n"]),
        (TOPICS, &["--list", "--exclude-internal"], 0, &["r\nt\nx.y\n"]),
        (
            TOPICS,
            &["--describe", "--at-min-isr-partitions", "--topic", "t"],
            0,
            &["Partition: 0\tLeader: 0\tReplicas: 0\tIsr: 0"],
        ),
        (TOPICS, &["--describe", "--topic-id", "AAAAAAAAAAAAAAAAAAAAAQ"], 1, &["does not exist as expected"]),
        (TOPICS, &["--alter", "--topic", "none", "--partitions", "3"], 1, &["'none' does not exist as expected"]),
        (TOPICS, &["--alter", "--topic", "none", "--partitions", "3", "--if-exists"], 0, &[]),
        (GET_OFFSETS, &["--topic-partitions", "t:0-2,x.y", "--time", "latest"], 0, &["t:0:0\nt:1:3\nx.y:0:0\n"]),
        (GET_OFFSETS, &["--topic", "t", "--partitions", "1", "--time", "0"], 0, &["t:1:0\n"]),
        (GET_OFFSETS, &["--topic", "t", "--partitions", "1", "--time", "earliest-local"], 0, &["t:1:0\n"]),
        (GET_OFFSETS, &["--topic", "none"], 1, &["Could not match any topic-partitions"]),
        (
            CONFIGS,
            &["--describe", "--entity-type", "topics", "--entity-name", "none"],
            0,
            &["The topic 'none' doesn't exist"],
        ),
        (CONFIGS, &["--describe", "--entity-type", "client-metrics"], 0, &[]),
        (CONFIGS, &["--describe", "--entity-type", "users"], 1, &["The node does not support DESCRIBE_CLIENT_QUOTAS"]),
        (
            LOG_DIRS,
            &["--describe", "--broker-list", "0", "--topic-list", "none"],
            0,
            &["\"partitions\":[],\"error\":null"],
        ),
        (LOG_DIRS, &["--describe", "--broker-list", "7"], 1, &["The given brokers do not exist from --broker-list: 7"]),
        (
            LEADER_ELECTION,
            &["--election-type", "preferred", "--topic", "t", "--partition", "9"],
            1,
            &["topic t has no partition 9"],
        ),
        (CLUSTER, &["list-endpoints", "--include-fenced-brokers"], 0, &["unfenced", "broker"]),
        (CLUSTER, &["unregister", "--id", "0"], 0, &["does not support the broker unregistration API"]),
        (FEATURES, &["version-mapping"], 0, &["group.version=1"]),
        (
            FEATURES,
            &["downgrade", "--feature", "kraft.version=0"],
            1,
            &["this version of kafscale does not have the feature"],
        ),
        (TRANSACTIONS, &["list"], 1, &["The node does not support LIST_TRANSACTIONS"]),
        (CLIENT_METRICS, &["--list"], 0, &[]),
        (ACLS, &["--list"], 1, &["The node does not support DESCRIBE_ACLS"]),
    ];
    check(&mut tools, forms).await;

    let properties = file("configs", "retention.ms=3600000\nmax.message.bytes=2000\n");
    let election = file("election", r#"{"partitions":[{"topic":"t","partition":0},{"topic":"t","partition":1}]}"#);
    let both = r#"{"topic":"t","partition":0,"offset":0},{"topic":"t","partition":1,"offset":-1}"#;
    let records = file("records", &format!(r#"{{"version":1,"partitions":[{both}]}}"#));
    let broken = file("broken", "[");
    let forms: &[Form<'_>] = &[
        (
            CONFIGS,
            &["--alter", "--topic", "t", "--add-config-file", &properties],
            0,
            &["Completed updating config for topic t."],
        ),
        (CONFIGS, &["--describe", "--topic", "t"], 0, &["  max.message.bytes=2000 ", "  retention.ms=3600000 "]),
        (CONFIGS, &["--alter", "--topic", "t", "--delete-config", "retention.ms,max.message.bytes"], 0, &["Completed"]),
        (CONFIGS, &["--describe", "--topic", "t"], 0, &["Dynamic configs for topic t are:\n"]),
        (
            LEADER_ELECTION,
            &["--election-type", "preferred", "--path-to-json-file", &election],
            0,
            &["Valid replica already elected"],
        ),
        (DELETE_RECORDS, &["--offset-json-file", &records], 0, &["t-0\tlow_watermark: 0", "t-1\tlow_watermark: 3"]),
        (DELETE_RECORDS, &["--offset-json-file", &broken], 1, &["not a valid JSON"]),
        (REASSIGN, &["--execute", "--reassignment-json-file", &broken], 1, &["Error"]),
    ];
    check(&mut tools, forms).await;
}
