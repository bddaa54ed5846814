//! The tools that write and read records.

use super::{
    CONSOLE_CONSUMER, CONSOLE_PRODUCER, CONSUMER_GROUPS, CONSUMER_PERF, PRODUCER_PERF, Tools, VERIFIABLE_CONSUMER,
};
use crate::client::{Client, LATEST};
use crate::clients::java;
use crate::group_client::fetch_offsets;
use crate::harness::{Backend, Stack};
use serde_json::Value;

/// Offset of the only partition that a group has committed.
async fn position(client: &mut Client, group: &str) -> i64 {
    let offsets = fetch_offsets(client, group).await.expect("OffsetFetch is answered");
    assert_eq!(offsets.len(), 1, "{group}");
    offsets[0].2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn console_producer_and_consumer() {
    let stack = Stack::start("tools-console", Backend::Dev, &[]).await;
    let mut tools = Tools::start(&stack.address());
    let mut client = Client::new(&stack.address());
    let input = stack.dir.path().join("input");
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        std::fs::write(&input, format!("k1:{codec} 1\nk2:{codec} 2\n")).unwrap();
        let args = [
            "--topic",
            "t",
            "--compression-codec",
            codec,
            "--property",
            "parse.key=true",
            "--property",
            "key.separator=:",
        ];
        let (status, text) = tools.run_with(Some(&input), CONSOLE_PRODUCER, &args).await;
        assert_eq!((status, text.as_str()), (0, ""));
    }
    let show = ["--property", "print.offset=true", "--property", "print.key=true"];
    let expected =
        |offset: usize| format!("Offset:{offset}\tk{}\t{} {}", offset % 2 + 1, codecs[offset / 2], offset % 2 + 1);
    let all: Vec<String> = (0..10).map(expected).collect();

    // An assigned partition; a group that goes on where it stopped; and nothing, in time.
    let args =
        ["--topic", "t", "--partition", "0", "--offset", "earliest", "--max-messages", "10", "--timeout-ms", "90000"];
    let read = |text: &str, count: usize| {
        assert!(text.ends_with(&format!("Processed a total of {count} messages\n")), "{text}");
        text.lines().filter(|l| l.starts_with("Offset:")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(read(&tools.ok(CONSOLE_CONSUMER, &[&args[..], &show].concat()).await, 10), all);
    for part in all.chunks(5) {
        let args = ["--topic", "t", "--group", "g", "--from-beginning", "--max-messages", "5", "--timeout-ms", "90000"];
        assert_eq!(read(&tools.ok(CONSOLE_CONSUMER, &[&args[..], &show].concat()).await, 5), part);
    }
    assert_eq!(position(&mut client, "g").await, 10);
    let args = ["--topic", "t", "--group", "g", "--max-messages", "1", "--timeout-ms", "500"];
    let (_, text) = tools.run(CONSOLE_CONSUMER, &args).await;
    assert_eq!(read(&text, 0), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn performance_and_verification() {
    let stack = Stack::start("tools-perf", Backend::Dev, &[]).await;
    let mut tools = Tools::start(&stack.address());
    let mut client = Client::new(&stack.address());
    let args = ["--topic", "perf", "--num-records", "5000", "--record-size", "1000", "--throughput", "-1"];
    tools.says(PRODUCER_PERF, &args, &["5000 records sent"]).await;
    assert_eq!(client.list_offset("perf", 0, LATEST).await.unwrap(), 5_000, "every record is there once");
    let args = ["--topic", "perf", "--messages", "5000", "--group", "perf", "--timeout", "90000", "--hide-header"];
    let text = tools.ok(CONSUMER_PERF, &args).await;
    let columns: Vec<&str> = text.trim().split(", ").collect();
    assert_eq!((columns.len(), columns[2], columns[4]), (10, "4.7684", "5000"), "{text}");
    assert_eq!(position(&mut client, "perf").await, 5_000);

    // Both print an event per line.
    let events = |text: &str| {
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        events.collect::<Vec<Value>>()
    };
    // The producer's last events come when its process ends, so that it needs one of its own.
    let address = stack.address();
    let args = ["--bootstrap-server", &address, "--topic", "verified", "--max-messages", "10", "--value-prefix", "5"];
    let sent = events(&java("VerifiableProducer", &args, "").await);
    let acked: Vec<_> = sent.iter().filter(|e| e["name"] == "producer_send_success").map(|e| &e["offset"]).collect();
    assert_eq!(acked, (0..10).collect::<Vec<_>>());
    let total = sent.iter().find(|e| e["name"] == "tool_data").expect("a summary");
    assert_eq!((&total["sent"], &total["acked"]), (&10.into(), &10.into()));
    let args =
        ["--topic", "verified", "--group-id", "v", "--max-messages", "10", "--reset-policy", "earliest", "--verbose"];
    let seen = events(&tools.ok(VERIFIABLE_CONSUMER, &args).await);
    let names: Vec<&str> = seen.iter().filter_map(|e| e["name"].as_str()).filter(|n| *n != "record_data").collect();
    let expected = [
        "startup_complete",
        "partitions_assigned",
        "records_consumed",
        "offsets_committed",
        "partitions_revoked",
        "shutdown_complete",
    ];
    assert_eq!(names, expected, "one poll has all records");
    let values: Vec<_> = seen.iter().filter_map(|e| e["value"].as_str()).collect();
    assert_eq!(values, (0..10).map(|n| format!("5.{n}")).collect::<Vec<_>>());
    let commit = seen.iter().find(|e| e["name"] == "offsets_committed").expect("committed");
    assert_eq!((&commit["success"], &commit["offsets"][0]["offset"]), (&true.into(), &10.into()));
    tools.says(CONSUMER_GROUPS, &["--describe", "--group", "v", "--state"], &["Empty"]).await;
    assert_eq!(position(&mut client, "v").await, 10);
}
