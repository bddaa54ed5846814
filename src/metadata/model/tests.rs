//! The stored format: golden values that must never change, and hostile bytes.

use super::*;
use crate::ids::PartitionIndex;
use crate::ids::PartitionKey;
use crate::metadata::keys::{Keys, ParsedKey};
use proptest::prelude::*;
use std::fmt::Debug;

const TOPIC: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

fn topic_id() -> TopicId {
    TopicId(TOPIC.parse().unwrap())
}

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, json: &str) {
    assert_eq!(String::from_utf8(encode(&value).to_vec()).unwrap(), json);
    assert_eq!(decode_bytes::<T>(json.as_bytes()).unwrap(), value);
    let newer = json.replacen("\"v\":1", "\"v\":2", 1);
    let error = decode_bytes::<T>(newer.as_bytes()).unwrap_err();
    assert!(error.contains("format 2") && error.contains("upgrade"), "{error}");
    let with_more = json.replacen('{', "{\"added_later\":[1],", 1);
    assert_eq!(decode_bytes::<T>(with_more.as_bytes()).unwrap(), value, "unknown fields are no reason to stop");
}

#[test]
fn values_are_stored_as_ever() {
    golden(
        BrokerConfigsValue { v: 1, configs: [("log.retention.ms".to_owned(), "5".to_owned())].into() },
        r#"{"v":1,"configs":{"log.retention.ms":"5"}}"#,
    );
    let cluster = ClusterValue { v: 1, cluster_id: "a".repeat(22), generation: 0 };
    golden(cluster.clone(), r#"{"v":1,"cluster_id":"aaaaaaaaaaaaaaaaaaaaaa"}"#);
    let rebuilt = ClusterValue { generation: 2, ..cluster };
    golden(rebuilt, r#"{"v":1,"cluster_id":"aaaaaaaaaaaaaaaaaaaaaa","generation":2}"#);
    golden(CounterValue { v: 1, next: 1001 }, r#"{"v":1,"next":1001}"#);
    golden(
        WriterValue {
            v: 1,
            node: BrokerId(3),
            state: WriterState::Active,
            head: Seq(7),
            nonce: 0xabc,
            checkpoint: None,
        },
        r#"{"v":1,"node":3,"state":"ACTIVE","head":7,"nonce":"0000000000000abc"}"#,
    );
    golden(
        WriterValue {
            v: 1,
            node: BrokerId(3),
            state: WriterState::Fenced,
            head: Seq(7),
            nonce: u64::MAX,
            checkpoint: Some(CheckpointRef { seq: Seq(5), key: "checkpoints/x".into() }),
        },
        r#"{"v":1,"node":3,"state":"FENCED","head":7,"nonce":"ffffffffffffffff","checkpoint":{"seq":5,"key":"checkpoints/x"}}"#,
    );
    golden(
        LiveValue {
            v: 1,
            node: BrokerId(3),
            host: "h".into(),
            port: 9092,
            rack: None,
            version: "0.1".into(),
            control: None,
            metrics: None,
            draining: false,
            follows: false,
        },
        r#"{"v":1,"node":3,"host":"h","port":9092,"version":"0.1"}"#,
    );
    golden(
        LiveValue {
            v: 1,
            node: BrokerId(3),
            host: "h".into(),
            port: 1,
            rack: Some("a".into()),
            version: "0".into(),
            control: None,
            metrics: None,
            draining: false,
            follows: true,
        },
        r#"{"v":1,"node":3,"host":"h","port":1,"rack":"a","version":"0","follows":true}"#,
    );
    golden(
        PartitionValue {
            v: 1,
            owner: Some(WriterId(9)),
            epoch: LeaderEpoch(4),
            history: vec![WriterId(8), WriterId(9)],
            log_start: Offset(100),
        },
        r#"{"v":1,"owner":9,"epoch":4,"history":[8,9],"log_start":100}"#,
    );
    golden(
        PartitionValue { v: 1, owner: None, epoch: LeaderEpoch(0), history: vec![], log_start: Offset(0) },
        r#"{"v":1,"owner":null,"epoch":0,"history":[],"log_start":0}"#,
    );
    golden(
        TopicValue {
            v: 1,
            id: topic_id(),
            partitions: 3,
            configs: BTreeMap::from([("retention.ms".into(), "1000".into())]),
            state: TopicState::Live,
            placement: Vec::new(),
        },
        &format!(r#"{{"v":1,"id":"{TOPIC}","partitions":3,"configs":{{"retention.ms":"1000"}},"state":"LIVE"}}"#),
    );
    golden(
        TopicValue {
            v: 1,
            id: topic_id(),
            partitions: 2,
            configs: BTreeMap::new(),
            state: TopicState::Live,
            placement: vec![BrokerId(3), BrokerId(1)],
        },
        &format!(r#"{{"v":1,"id":"{TOPIC}","partitions":2,"configs":{{}},"state":"LIVE","placement":[3,1]}}"#),
    );
    golden(
        LiveValue {
            v: 1,
            node: BrokerId(3),
            host: "h".into(),
            port: 1,
            rack: None,
            version: "0".into(),
            control: None,
            metrics: None,
            draining: true,
            follows: false,
        },
        r#"{"v":1,"node":3,"host":"h","port":1,"version":"0","draining":true}"#,
    );
    golden(
        LiveValue {
            v: 1,
            node: BrokerId(3),
            host: "h".into(),
            port: 1,
            rack: None,
            version: "0".into(),
            control: Some("h:9094".into()),
            metrics: Some("h:9093".into()),
            draining: false,
            follows: false,
        },
        r#"{"v":1,"node":3,"host":"h","port":1,"version":"0","control":"h:9094","metrics":"h:9093"}"#,
    );
    golden(
        DeletedTopicValue { v: 1, name: "a".into(), id: topic_id(), partitions: 3, deleted_ms: 5 },
        &format!(r#"{{"v":1,"name":"a","id":"{TOPIC}","partitions":3,"deleted_ms":5}}"#),
    );
}

#[test]
fn states_are_stored_as_ever() {
    let writers = [WriterState::Active, WriterState::Fenced, WriterState::Closed];
    assert_eq!(serde_json::to_string(&writers).unwrap(), r#"["ACTIVE","FENCED","CLOSED"]"#);
    let topics = [TopicState::Live, TopicState::Deleting];
    assert_eq!(serde_json::to_string(&topics).unwrap(), r#"["LIVE","DELETING"]"#);
}

#[test]
fn keys_are_formatted_as_ever_and_parse_back() {
    let keys = Keys::new("prod");
    let (writer, partition) = (WriterId(0xbeef), PartitionKey { topic: topic_id(), partition: PartitionIndex(12) });
    let cases = [
        (keys.cluster(), "cluster".to_owned(), None),
        (keys.next_writer(), "next/writer".to_owned(), None),
        (keys.next_producer(), "next/producer".to_owned(), None),
        (keys.writer(writer), "w/000000000000beef".to_owned(), Some(ParsedKey::Writer(writer))),
        (keys.fence(writer), "f/000000000000beef".to_owned(), None),
        (keys.live(writer), "live/000000000000beef".to_owned(), Some(ParsedKey::Live(writer))),
        (keys.partition(&partition), format!("p/{TOPIC}/12"), Some(ParsedKey::Partition(partition))),
        (keys.topic("a.b-c_d"), "t/a.b-c_d".to_owned(), Some(ParsedKey::Topic("a.b-c_d".to_owned()))),
        (keys.desired(), "desired".to_owned(), Some(ParsedKey::Desired)),
        (keys.desired_status(), "desired-status".to_owned(), Some(ParsedKey::DesiredStatus)),
        (keys.deleted(topic_id()), format!("deleted/{TOPIC}"), Some(ParsedKey::Deleted(topic_id()))),
    ];
    for (key, expected, parsed) in cases {
        assert_eq!(key, format!("/kafscale/prod/{expected}"));
        assert_eq!(keys.parse(&key), parsed, "{key}");
        assert_eq!(Keys::new("pro").parse(&key), None, "another cluster's");
    }
}

/// Decodes as every kind of value; that it returns is the point. Whether any accepted it.
fn decode_all(bytes: &[u8]) -> bool {
    [
        decode_bytes::<ClusterValue>(bytes).is_ok(),
        decode_bytes::<CounterValue>(bytes).is_ok(),
        decode_bytes::<WriterValue>(bytes).is_ok(),
        decode_bytes::<LiveValue>(bytes).is_ok(),
        decode_bytes::<PartitionValue>(bytes).is_ok(),
        decode_bytes::<TopicValue>(bytes).is_ok(),
        decode_bytes::<DeletedTopicValue>(bytes).is_ok(),
    ]
    .contains(&true)
}

/// JSON that is nearly a value: our fields with any content.
fn nearly() -> impl Strategy<Value = serde_json::Value> {
    const FIELDS: [&str; 22] = [
        "v",
        "cluster_id",
        "next",
        "node",
        "state",
        "head",
        "nonce",
        "checkpoint",
        "seq",
        "key",
        "host",
        "port",
        "rack",
        "version",
        "owner",
        "epoch",
        "history",
        "log_start",
        "id",
        "partitions",
        "configs",
        "deleted_ms",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        (0u32..3).prop_map(Into::into),
        prop_oneof![Just("ACTIVE"), Just("LIVE"), Just("ffffffffffffffff"), Just(TOPIC)].prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(3, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            prop::collection::btree_map(".{0,8}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    });
    let field = prop::sample::select(&FIELDS[..]).prop_map(str::to_owned);
    prop::collection::btree_map(field, value, 0..FIELDS.len()).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn any_json_decodes_or_fails(value in nearly()) {
        decode_all(&serde_json::to_vec(&value).unwrap());
    }

    #[test]
    fn other_formats_are_refused(mut value in nearly(), v in prop_oneof![Just(0u64), 2..u64::MAX]) {
        value.as_object_mut().unwrap().insert("v".to_owned(), v.into());
        prop_assert!(!decode_all(&serde_json::to_vec(&value).unwrap()));
    }

    #[test]
    fn any_key_parses_or_not(key in ".{0,60}") {
        let keys = Keys::new("test");
        keys.parse(&key);
        for kind in ["w", "live", "t", "p", "deleted"] {
            keys.parse(&format!("{}{kind}/{key}", keys.root()));
        }
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = [b"{\"v\":".as_slice(), &[b'['; 100_000]].concat();
    assert!(!decode_all(&deep));
}
