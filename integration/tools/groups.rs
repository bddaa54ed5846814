//! `kafka-consumer-groups` and `kafka-groups`, in every form that administrators use, and the examples of the operations guide.

use super::{CONFIGS, CONSUMER_GROUPS, GROUPS, TOPICS, Tools};
use crate::client::{Batch, Client};
use crate::clients::{Client as Program, Running};
use crate::group_client::{Member, commit_request, fetch_offsets};
use crate::harness::{Backend, Stack};

const NO_DELAY: (&str, &str) = ("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "0");
/// 2023-11-14T22:13:20Z
const LONG_AGO_MS: i64 = 1_700_000_000_000;

/// The rows of a table, sorted, without its head; words of a row are separated by one blank.
fn rows(text: &str, head: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = text.lines().map(words).skip_while(|line| line != head);
    assert!(lines.next().is_some(), "{head:?} expected in\n{text}");
    let mut rows: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    rows.sort();
    rows
}

/// What a reset prints; offsets of t-0, t-1 and u-0 where it has them.
fn new_offsets(text: &str) -> Vec<String> {
    rows(text, "GROUP TOPIC PARTITION NEW-OFFSET")
}

/// Five records in each partition of `t`, the first three of `t-0` long ago, four in `u-0`; group `g` is at 4, 2 and 3.
async fn cluster(stack: &Stack) -> Client {
    let mut client = Client::new(&stack.address());
    client.create_topic("t", 2, &[("retention.ms", "-1")]).await.expect("created");
    client.ensure_topic("t", 2).await;
    client.ensure_topic("u", 1).await;
    let mut old = Batch::of(&[b"0", b"1", b"2"]);
    old.base_timestamp_ms = LONG_AGO_MS;
    old.records.iter_mut().zip([0, 1_000, 2_000]).for_each(|(record, delta)| record.timestamp_delta_ms = delta);
    let stored = client.retry("old records", async |c| c.produce("t", 0, old.encode()).await).await;
    assert_eq!(stored.error_code, 0);
    for (topic, partition, count) in [("t", 0, 2), ("t", 1, 5), ("u", 0, 4)] {
        client.produce_values(topic, partition, &vec![&b"now"[..]; count]).await;
    }
    for (topic, offsets) in [("t", &[(0, 4), (1, 2)][..]), ("u", &[(0, 3)])] {
        let request = commit_request(&Member::none("g"), topic, offsets);
        let answer = client.call(9, &request).await.expect("OffsetCommit is answered");
        assert!(answer.topics[0].partitions.iter().all(|p| p.error_code == 0));
    }
    client
}

async fn committed(client: &mut Client, group: &str) -> Vec<(String, i32, i64)> {
    let offsets = fetch_offsets(client, group).await.expect("OffsetFetch is answered");
    let mut offsets: Vec<_> =
        offsets.into_iter().map(|(topic, partition, offset, _)| (topic, partition, offset)).collect();
    offsets.sort();
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets() {
    let stack = Stack::start("tools-resets", Backend::Dev, &[NO_DELAY]).await;
    let mut client = cluster(&stack).await;
    let mut tools = Tools::start(&stack.address());
    let before = committed(&mut client, "g").await;

    // Every way to say where to; nothing is done yet.
    let forms: [(&[&str], [i64; 3]); 9] = [
        (&["--to-earliest"], [0, 0, 0]),
        (&["--to-latest"], [5, 5, 4]),
        (&["--to-current"], [4, 2, 3]),
        (&["--to-offset", "3"], [3, 3, 3]),
        (&["--to-offset", "99"], [5, 5, 4]),
        (&["--shift-by", "-3"], [1, 0, 0]),
        (&["--shift-by", "1"], [5, 3, 4]),
        (&["--to-datetime", "2023-11-14T22:13:21.500"], [2, 0, 0]),
        (&["--by-duration", "PT1H"], [3, 0, 0]),
    ];
    let reset =
        |form: &[&'static str], rest: &[&'static str]| [&["--reset-offsets", "--group", "g"], form, rest].concat();
    for (form, [t0, t1, u0]) in forms {
        let text = tools.ok(CONSUMER_GROUPS, &reset(form, &["--all-topics", "--dry-run"])).await;
        assert_eq!(
            new_offsets(&text),
            [format!("g t 0 {t0}"), format!("g t 1 {t1}"), format!("g u 0 {u0}")],
            "{form:?}"
        );
    }
    // Every way to say what.
    let scopes: [(&[&str], &[&str]); 4] = [
        (&["--topic", "t"], &["g t 0 1", "g t 1 1"]),
        (&["--topic", "t:0,1"], &["g t 0 1", "g t 1 1"]),
        (&["--topic", "t:1"], &["g t 1 1"]),
        (&["--topic", "t:0", "--topic", "u"], &["g t 0 1", "g u 0 1"]),
    ];
    for (scope, expected) in scopes {
        let text = tools.ok(CONSUMER_GROUPS, &reset(&["--to-offset", "1"], scope)).await;
        assert!(text.contains("No action will be performed as the --execute option is missing"), "{text}");
        assert_eq!(new_offsets(&text), expected, "{scope:?}");
    }
    assert_eq!(committed(&mut client, "g").await, before, "so far nothing was done");

    // To a file and from a file.
    let exported =
        tools.ok(CONSUMER_GROUPS, &reset(&["--to-current"], &["--all-topics", "--dry-run", "--export"])).await;
    let mut lines: Vec<&str> = exported.lines().filter(|l| !l.is_empty()).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["t,0,4", "t,1,2", "u,0,3"]);
    let path = stack.dir.path().join("offsets.csv");
    std::fs::write(&path, "t,0,1\nu,0,2\n").unwrap();
    let path = path.display().to_string();
    let from_file = ["--reset-offsets", "--group", "g", "--from-file", &path];
    let text = tools.ok(CONSUMER_GROUPS, &[&from_file[..], &["--dry-run"]].concat()).await;
    assert_eq!(new_offsets(&text), ["g t 0 1", "g u 0 2"]);
    assert_eq!(committed(&mut client, "g").await, before);
    let text = tools.ok(CONSUMER_GROUPS, &[&from_file[..], &["--execute"]].concat()).await;
    assert_eq!(new_offsets(&text), ["g t 0 1", "g u 0 2"]);
    let row = |topic: &str, partition, offset| (topic.to_owned(), partition, offset);
    assert_eq!(committed(&mut client, "g").await, [row("t", 0, 1), row("t", 1, 2), row("u", 0, 2)]);
    let two = stack.dir.path().join("two.csv");
    std::fs::write(&two, "g,t,0,1\nother,t,1,3\n").unwrap();
    let two = two.display().to_string();
    let two = ["--reset-offsets", "--group", "g", "--group", "other", "--from-file", &two, "--execute"];
    assert_eq!(new_offsets(&tools.ok(CONSUMER_GROUPS, &two).await), ["g t 0 1", "other t 1 3"]);
    assert_eq!(committed(&mut client, "other").await, [row("t", 1, 3)]);
    tools.ok(CONSUMER_GROUPS, &["--delete", "--group", "other"]).await;
    let text = tools.ok(CONSUMER_GROUPS, &reset(&["--shift-by", "2"], &["--topic", "t", "--execute"])).await;
    assert_eq!(new_offsets(&text), ["g t 0 3", "g t 1 4"]);
    let export = reset(&["--to-latest"], &["--all-topics", "--execute", "--export"]);
    assert_eq!(tools.ok(CONSUMER_GROUPS, &export).await.lines().filter(|l| l.contains(',')).count(), 3);
    assert_eq!(committed(&mut client, "g").await, [row("t", 0, 5), row("t", 1, 5), row("u", 0, 4)]);

    // A group that does not exist yet, all groups, and what is refused.
    let new = ["--reset-offsets", "--group", "new", "--topic", "t", "--to-offset", "2", "--execute"];
    assert_eq!(new_offsets(&tools.ok(CONSUMER_GROUPS, &new).await), ["new t 0 2", "new t 1 2"]);
    let all = ["--reset-offsets", "--all-groups", "--all-topics", "--to-earliest", "--execute"];
    let expected = ["g t 0 0", "g t 1 0", "g u 0 0", "new t 0 0", "new t 1 0"];
    assert_eq!(new_offsets(&tools.ok(CONSUMER_GROUPS, &all).await), expected);
    let none = reset(&["--to-earliest"], &["--topic", "none", "--dry-run"]);
    tools.says(CONSUMER_GROUPS, &none, &["UnknownTopicOrPartitionException"]).await;
    tools.fails(CONSUMER_GROUPS, &reset(&[], &["--topic", "t"]), "requires one of the following scenarios").await;
    let _busy = Member::join(&stack.address(), "busy", None).await;
    let busy = ["--reset-offsets", "--group", "busy", "--topic", "t", "--to-latest", "--execute"];
    let refused = "Assignments can only be reset if the group 'busy' is inactive, but the current state is Stable.";
    tools.says(CONSUMER_GROUPS, &busy, &[refused]).await;
    assert_eq!(committed(&mut client, "busy").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_and_deleted() {
    let stack = Stack::start("tools-groups", Backend::Dev, &[NO_DELAY]).await;
    let mut client = cluster(&stack).await;
    let mut tools = Tools::start(&stack.address());
    let address = stack.address();
    let live = Running::start(&Program::python("python/confluent.py"), &address, "t", "live", &[]);
    live.has_read(10).await;

    // Lists, with and without filters.
    let lists: [(&[&str], &str, &[&str]); 7] = [
        (&["--state"], "GROUP STATE", &["g Empty", "live Stable"]),
        (&["--type"], "GROUP TYPE", &["g Classic", "live Classic"]),
        (&["--state", "stable,dead"], "GROUP STATE", &["live Stable"]),
        (&["--state", "Empty", "--type", "classic"], "GROUP TYPE STATE", &["g Classic Empty"]),
        (&["--state", "preparingrebalance"], "GROUP STATE", &[]),
        (&["--type", "consumer"], "GROUP TYPE", &[]),
        (&["--type", "classic"], "GROUP TYPE", &["g Classic", "live Classic"]),
    ];
    for (filter, head, expected) in lists {
        let text = tools.ok(CONSUMER_GROUPS, &[&["--list"], filter].concat()).await;
        assert_eq!(rows(&text, head), expected, "{filter:?}");
    }
    let listed = tools.ok(CONSUMER_GROUPS, &["--list"]).await;
    assert_eq!(listed.lines().collect::<std::collections::BTreeSet<_>>(), ["g", "live"].into());
    tools.fails(CONSUMER_GROUPS, &["--list", "--state", "idle"], "Invalid state list 'idle'").await;
    let head = "GROUP TYPE PROTOCOL";
    for filter in [&[][..], &["--consumer"], &["--group-type", "classic", "--protocol", "consumer"]] {
        let text = tools.ok(GROUPS, &[&["--list"], filter].concat()).await;
        // A group that only has offsets has no protocol.
        let both = ["g Classic", "live Classic consumer"];
        let consumers = if filter.contains(&"--protocol") { &both[1..] } else { &both[..] };
        assert_eq!(rows(&text, head), consumers, "{filter:?}");
    }
    assert_eq!(rows(&tools.ok(GROUPS, &["--list", "--share"]).await, head), [""; 0]);

    // A group without members, a group with one, and one that does not exist.
    let describe = |group: &'static str, more: &[&'static str]| [&["--describe", "--group", group], more].concat();
    let head = "GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID";
    let of_g = ["g t 0 4 5 1 - - -", "g t 1 2 5 3 - - -", "g u 0 3 4 1 - - -"];
    for more in [&[][..], &["--offsets"]] {
        let text = tools.ok(CONSUMER_GROUPS, &describe("g", more)).await;
        assert!(text.contains("Consumer group 'g' has no active members."), "{text}");
        assert_eq!(rows(&text, head), of_g);
    }
    let verbose = head.replace("PARTITION", "PARTITION LEADER-EPOCH");
    let text = tools.ok(CONSUMER_GROUPS, &describe("g", &["--offsets", "--verbose"])).await;
    assert_eq!(rows(&text, &verbose)[0], "g t 0 - 4 5 1 - - -");
    let id = {
        let head = "GROUP CONSUMER-ID HOST CLIENT-ID #PARTITIONS";
        let text = tools.ok(CONSUMER_GROUPS, &describe("live", &["--members"])).await;
        let members = rows(&text, head);
        let words: Vec<&str> = members[0].split(' ').collect();
        assert_eq!((members.len(), words[0], &words[2..]), (1, "live", &["/127.0.0.1", "rdkafka", "2"][..]), "{text}");
        words[1].to_owned()
    };
    let text = tools.ok(CONSUMER_GROUPS, &describe("live", &[])).await;
    let end = format!("{id} /127.0.0.1 rdkafka");
    assert_eq!(rows(&text, head), [format!("live t 0 5 5 0 {end}"), format!("live t 1 5 5 0 {end}")]);
    let text = tools.ok(CONSUMER_GROUPS, &describe("live", &["--members", "--verbose"])).await;
    let members =
        "GROUP CONSUMER-ID HOST CLIENT-ID #PARTITIONS CURRENT-EPOCH CURRENT-ASSIGNMENT TARGET-EPOCH TARGET-ASSIGNMENT";
    assert_eq!(rows(&text, members), [format!("live {end} 2 - t:0,1 - -")]);
    let state = "GROUP COORDINATOR (ID) ASSIGNMENT-STRATEGY STATE #MEMBERS";
    for (group, row) in [("live", "range Stable 1"), ("g", "- Empty 0")] {
        let text = tools.ok(CONSUMER_GROUPS, &describe(group, &["--state"])).await;
        assert_eq!(rows(&text, state), [format!("{group} {address} (0) {row}")]);
    }
    let state = "GROUP COORDINATOR (ID) ASSIGNMENT-STRATEGY STATE GROUP-EPOCH TARGET-ASSIGNMENT-EPOCH #MEMBERS";
    let text = tools.ok(CONSUMER_GROUPS, &describe("live", &["--state", "--verbose"])).await;
    assert_eq!(rows(&text, state), [format!("live {address} (0) range Stable - - 1")]);
    let text = tools.ok(CONSUMER_GROUPS, &["--describe", "--all-groups"]).await;
    assert!(of_g.iter().all(|row| rows(&text, head).contains(&(*row).to_owned())) && text.contains(&id), "{text}");
    for what in ["--offsets", "--members", "--state"] {
        tools.says(CONSUMER_GROUPS, &describe("none", &[what]), &["Group none not found."]).await;
    }

    // Deletion of offsets, then of groups.
    let delete = |group: &'static str, topic: &'static str| ["--delete-offsets", "--group", group, "--topic", topic];
    let head = "TOPIC PARTITION STATUS";
    let text = tools.ok(CONSUMER_GROUPS, &delete("g", "t:1")).await;
    assert!(text.contains("Request succeeded for deleting offsets from group g."), "{text}");
    assert_eq!(rows(&text, head), ["t 1 Successful"]);
    assert_eq!(committed(&mut client, "g").await, [("t".to_owned(), 0, 4), ("u".to_owned(), 0, 3)]);
    for (group, topic, error) in [
        ("live", "t:0", "GroupSubscribedToTopicException"),
        ("none", "t:0", "GroupIdNotFoundException"),
        ("g", "none", "UnknownTopicOrPartitionException"),
    ] {
        tools.says(CONSUMER_GROUPS, &delete(group, topic), &[error]).await;
    }
    assert_eq!(committed(&mut client, "live").await.len(), 2);
    let refused = tools.ok(CONSUMER_GROUPS, &["--delete", "--group", "live", "--group", "none", "--group", "g"]).await;
    for part in [
        "Group 'live' could not be deleted due to: org.apache.kafka.common.errors.GroupNotEmptyException",
        "Group 'none' could not be deleted due to: org.apache.kafka.common.errors.GroupIdNotFoundException",
        "These consumer groups were deleted successfully: 'g'",
    ] {
        assert!(refused.contains(part), "{part:?} is not in\n{refused}");
    }
    let mut read = live.stop().await;
    read.sort();
    assert_eq!(read.len(), 10);
    let deleted = "Deletion of requested consumer groups ('live') was successful.";
    tools.says(CONSUMER_GROUPS, &["--delete", "--all-groups"], &[deleted]).await;
    assert_eq!(tools.ok(CONSUMER_GROUPS, &["--list"]).await, "");

    tools.says(CONSUMER_GROUPS, &["--validate-regex", "t.*"], &["`t.*` is valid"]).await;
    tools.says(CONSUMER_GROUPS, &["--validate-regex", "t["], &["`t[` is invalid: missing closing ]"]).await;
}

/// What the operations guide tells administrators to type, and a line of what comes of it.
const GUIDE: [(&str, &str); 6] = [
    ("kafka-consumer-groups.sh --bootstrap-server <broker> --list", "g"),
    ("kafka-consumer-groups.sh --bootstrap-server <broker> --describe --group <group-id>", "g t 1 2 5 3 - - -"),
    (
        "kafka-consumer-groups.sh --bootstrap-server <broker> --delete --group <group-id>",
        "Deletion of requested consumer groups ('g') was successful.",
    ),
    (
        "kafka-configs.sh --bootstrap-server <broker> --describe --entity-type topics --entity-name <topic>",
        "retention.ms=-1 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=-1, \
         DEFAULT_CONFIG:log.retention.ms=604800000}",
    ),
    ("kafka-topics.sh --bootstrap-server <broker> --alter --topic <topic> --partitions <count>", ""),
    (
        "kafka-configs.sh --bootstrap-server <broker> --alter --entity-type topics --entity-name <topic> \
         --add-config retention.ms=604800000",
        "Completed updating config for topic t.",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_of_the_operations_guide() {
    let stack = Stack::start("tools-guide", Backend::Dev, &[NO_DELAY]).await;
    let mut client = cluster(&stack).await;
    let mut tools = Tools::start(&stack.address());
    for (typed, expected) in GUIDE {
        let typed = typed.replace("<group-id>", "g").replace("<topic>", "t").replace("<count>", "3");
        let (program, arguments) = typed.split_once(" --bootstrap-server <broker> ").expect("all name the server");
        let class = match program {
            "kafka-consumer-groups.sh" => CONSUMER_GROUPS,
            "kafka-configs.sh" => CONFIGS,
            _ => TOPICS,
        };
        let text = tools.ok(class, &arguments.split(' ').collect::<Vec<_>>()).await;
        let lines: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines.iter().any(|l| l == expected) || (text.is_empty() && expected.is_empty()), "{typed}:\n{text}");
    }
    tools.says(CONFIGS, &["--describe", "--topic", "t"], &["retention.ms=604800000"]).await;
    let topic = client.metadata(Some(&["t"]), false).await.unwrap().topics.remove(0);
    assert_eq!(topic.partitions.len(), 3);
}
