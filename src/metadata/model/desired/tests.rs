use super::*;
use proptest::prelude::*;

const TOPIC: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

fn desired(topics: usize) -> DesiredValue {
    let topic = |n: usize| DesiredTopic {
        uid: uuid::Uuid::from_u128((n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_string(),
        resource: 2,
        partitions: 3,
        configs: [
            ("retention.ms".to_owned(), "86400000".to_owned()),
            ("cleanup.policy".to_owned(), "compact".to_owned()),
        ]
        .into(),
        deletion: None,
    };
    let topics = (0..topics).map(|n| (format!("team-{}.orders-{n}", n % 7), topic(n))).collect();
    DesiredValue { v: FORMAT, token: FencingToken(7), generation: 3, topics }
}

#[test]
fn documents_are_stored_as_ever() {
    let plain = DesiredTopic { uid: "u".into(), resource: 2, partitions: 3, configs: BTreeMap::new(), deletion: None };
    let value = DesiredValue {
        v: 1,
        token: FencingToken(7),
        generation: 3,
        topics: [
            ("a".to_owned(), plain.clone()),
            (
                "b".to_owned(),
                DesiredTopic {
                    configs: [("retention.ms".to_owned(), "5".to_owned())].into(),
                    deletion: Some(DesiredDeletion::Delete),
                    ..plain
                },
            ),
        ]
        .into(),
    };
    let json = concat!(
        r#"{"v":1,"token":7,"generation":3,"topics":{"a":{"uid":"u","resource":2,"partitions":3},"#,
        r#""b":{"uid":"u","resource":2,"partitions":3,"configs":{"retention.ms":"5"},"deletion":"DELETE"}}}"#
    );
    assert_eq!(pack(&value), json.as_bytes());
    assert_eq!(unpack_bytes::<DesiredValue>(json.as_bytes()).unwrap(), value);
    let newer = json.replacen("\"v\":1", "\"v\":2", 1);
    assert!(unpack_bytes::<DesiredValue>(newer.as_bytes()).unwrap_err().contains("upgrade"));
}

#[test]
fn answers_are_stored_as_ever() {
    let live = AppliedTopic {
        uid: "u".into(),
        resource: 2,
        state: AppliedState::Live,
        id: Some(TopicId(TOPIC.parse().unwrap())),
        partitions: 3,
        adopted: true,
        configs: ["retention.ms".to_owned()].into(),
        error: None,
    };
    let refused = AppliedTopic {
        state: AppliedState::Refused,
        id: None,
        partitions: 0,
        adopted: false,
        configs: BTreeSet::new(),
        error: Some("no".into()),
        ..live.clone()
    };
    let value = DesiredStatusValue {
        v: 1,
        generation: 3,
        error: None,
        topics: [("a".to_owned(), live), ("b".to_owned(), refused)].into(),
    };
    let json = format!(
        concat!(
            r#"{{"v":1,"generation":3,"topics":{{"a":{{"uid":"u","resource":2,"state":"LIVE","id":"{}","partitions":3,"#,
            r#""adopted":true,"configs":["retention.ms"]}},"b":{{"uid":"u","resource":2,"state":"REFUSED","error":"no"}}}}}}"#
        ),
        TOPIC
    );
    assert_eq!(pack(&value), json.as_bytes());
    assert_eq!(unpack_bytes::<DesiredStatusValue>(json.as_bytes()).unwrap(), value);
    let states = [AppliedState::Pending, AppliedState::Live, AppliedState::Refused, AppliedState::Deleted];
    assert_eq!(serde_json::to_string(&states).unwrap(), r#"["PENDING","LIVE","REFUSED","DELETED"]"#);
}

#[test]
fn a_packed_value_of_before_is_read() {
    let hex = "28b52ffd24575d0200b2c40f16a0a51a03539f4492ee97160baeea62d06c2c07febf21adb58127554bd027e059769d94fbbdc6095d6486a7a268e0e6a8229b268b6fc04d028efa023c300b0304015ce550ce3c9d494de343";
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    let value: DesiredValue = unpack_bytes(&bytes).unwrap();
    assert_eq!((value.generation, value.topics["a"].partitions), (3, 3));
}

#[test]
fn ten_thousand_topics_fit_and_so_does_the_answer() {
    let desired = desired(10_000);
    let packed = pack(&desired);
    assert!(packed.len() <= DESIRED_BYTES_MAX, "{}", packed.len());
    assert_eq!(unpack_bytes::<DesiredValue>(&packed).unwrap(), desired);
    let id = |name: &str| {
        let sum = name
            .bytes()
            .fold(7u128, |sum, b| sum.wrapping_mul(0x1000_0000_01b3_9e37_79b9_7f4a_7c15).wrapping_add(b.into()));
        TopicId(uuid::Uuid::from_u128(sum))
    };
    let topics = desired.topics.iter().map(|(name, topic)| {
        let applied = AppliedTopic {
            uid: topic.uid.clone(),
            resource: 2,
            state: AppliedState::Refused,
            id: Some(id(name)),
            partitions: 3,
            adopted: false,
            configs: topic.configs.keys().cloned().collect(),
            error: Some(format!("topic {name} cannot be: {}", "very ".repeat(100))),
        };
        (name.clone(), applied)
    });
    let status = DesiredStatusValue { generation: 3, topics: topics.collect(), ..DesiredStatusValue::default() };
    let packed = pack_status(&status).expect("it fits");
    let read: DesiredStatusValue = unpack_bytes(&packed).unwrap();
    assert!(read.topics.values().all(|t| t.error.as_ref().is_some_and(|e| e.len() <= ERROR_LEN_MAX + '…'.len_utf8())));
}

#[test]
fn bombs_are_not_unpacked() {
    let bomb = zstd::stream::encode_all(&vec![b' '; (UNPACKED_BYTES_MAX + 1) as usize][..], 1).unwrap();
    assert!(bomb.len() < DESIRED_BYTES_MAX);
    assert!(unpack_bytes::<DesiredValue>(&bomb).unwrap_err().contains("more than"));
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(shortened("äöü".into(), 3), "ä…");
    assert_eq!(shortened("abc".into(), 3), "abc");
    assert_eq!(shortened("äb".into(), 0), "…");
}

proptest! {
    #[test]
    fn any_bytes_unpack_or_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..200), packed in any::<bool>()) {
        if packed {
            bytes.splice(0..0, ZSTD_MAGIC);
        }
        drop(unpack_bytes::<DesiredValue>(&bytes));
        drop(unpack_bytes::<DesiredStatusValue>(&bytes));
    }
}
