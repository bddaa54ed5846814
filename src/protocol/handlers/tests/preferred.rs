//! Consumers with a rack, at the leader.

use super::*;
use crate::ids::TopicId;
use crate::metadata::model::{TopicState, TopicValue};
use crate::metadata::{Op, Txn};
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, FetchResponse, MetadataRequest};

impl Bed {
    /// Another live broker, and waits until the image has it.
    async fn broker(&self, node: i32, rack: &str, follows: bool, draining: bool) {
        let live = LiveValue { rack: Some(rack.to_owned()), draining, follows, ..LiveValue::sample(node) };
        let writer = WriterId(node as u64);
        let value = crate::metadata::model::encode(&live);
        let put = Op::Put(Keys::new("test").live(writer), value, None);
        self.store.txn(Txn { compares: Vec::new(), ops: vec![put] }).await.unwrap();
        let deadline = monotonic() + Duration::from_secs(60);
        let known = || self.image().lives().any(|(w, known)| w == writer && **known == live);
        assert!(super::super::common::wait_until(deadline, known).await);
    }

    async fn fetch_from(&self, rack: &'static str, offset: i64) -> PartitionData {
        let request = fetch_request("t", &[(0, offset)], 500).with_rack_id(StrBytes::from_static_str(rack));
        let response = self.call(12, &request).await;
        response.responses[0].partitions[0].clone()
    }
}

/// Error, preferred replica, whether there are records.
fn told(data: &PartitionData) -> (i16, i32, bool) {
    (data.error_code, data.preferred_read_replica.0, data.records.as_ref().is_some_and(|r| !r.is_empty()))
}

#[test]
fn the_leader_sends_consumers_of_another_rack_there() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        assert_eq!(told(&bed.fetch_from("eu", 0).await), (0, -1, true), "nobody follows");
        bed.broker(2, "eu", true, true).await;
        bed.broker(3, "eu", false, false).await;
        assert_eq!(told(&bed.fetch_from("eu", 0).await), (0, -1, true), "nobody who may be asked");
        bed.broker(2, "eu", true, false).await;
        assert_eq!(told(&bed.fetch_from("", 0).await), (0, -1, true), "a consumer without a rack");
        assert_eq!(told(&bed.fetch_from("us", 0).await), (0, -1, true), "one of another rack");
        let old: FetchResponse = bed.call(10, &fetch_request("t", &[(0, 0)], 500)).await;
        assert_eq!(told(&old.responses[0].partitions[0]), (0, -1, true), "one that cannot name its rack");
        let code = ErrorCode::OffsetOutOfRange.code();
        assert_eq!(told(&bed.fetch_from("eu", 5).await), (code, -1, false), "that is for the leader to say");

        let start = monotonic();
        let sent = bed.fetch_from("eu", 1).await;
        assert_eq!((told(&sent), monotonic()), ((0, 2, false), start), "at the end too, and at once");
        assert_eq!((sent.high_watermark, sent.log_start_offset), (1, 0));
        assert_eq!(told(&bed.fetch_from("eu", 0).await), (0, -1, true), "it came back: it gets its records");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(told(&bed.fetch_from("eu", 0).await), (0, 2, false));
        assert_eq!(bed.ctx.broker.sent_away.load(std::sync::atomic::Ordering::Relaxed), 2);

        tokio::time::sleep(Duration::from_secs(6)).await;
        bed.standing.lost();
        assert_eq!(told(&bed.fetch_from("eu", 0).await), (0, -1, true), "whoever may not lead sends nobody away");
    });
}

#[test]
fn a_session_tells_it_once_and_goes_on() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let of = |partitions: &[(i32, i64)], id, epoch| {
            let request = fetch_request("t", partitions, 100).with_rack_id(StrBytes::from_static_str("eu"));
            request.with_session_id(id).with_session_epoch(epoch)
        };
        let first: FetchResponse = bed.call(12, &of(&[(0, 1), (1, 0)], 0, 0)).await;
        assert!(first.session_id > 0);
        let quiet: FetchResponse = bed.call(12, &of(&[], first.session_id, 1)).await;
        assert!(quiet.responses.is_empty());
        bed.broker(2, "eu", true, false).await;
        let sent: FetchResponse = bed.call(12, &of(&[], first.session_id, 2)).await;
        let sent: Vec<_> = sent.responses.iter().flat_map(|t| &t.partitions).map(told).collect();
        assert_eq!(sent, [(0, 2, false), (0, 2, false)], "although nothing else is new");
    });
}

#[test]
fn metadata_names_who_serves_and_descriptions_name_who_leads() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.broker(2, "eu", true, false).await;
        bed.broker(3, "asia", true, false).await;
        bed.broker(4, "africa", false, false).await;
        let ids = |nodes: &[kafka_protocol::messages::BrokerId]| nodes.iter().map(|n| n.0).collect::<Vec<_>>();
        let metadata = bed.call(12, &MetadataRequest::default().with_topics(None)).await;
        let partition = &metadata.topics[0].partitions[0];
        assert_eq!((partition.leader_id.0, ids(&partition.replica_nodes)), (1, vec![1, 3, 2]));
        assert_eq!(partition.isr_nodes, partition.replica_nodes);
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(vec![TopicRequest::default().with_name(name("t"))])
            .with_response_partition_limit(10)
            .with_cursor(None);
        let described = bed.call(0, &request).await;
        let partition = &described.topics[0].partitions[0];
        assert_eq!((ids(&partition.replica_nodes), ids(&partition.isr_nodes)), (vec![1], vec![1]));

        // Nobody leads it now: whoever is to, and who will then serve its reads.
        let id = TopicId(uuid::Uuid::from_u128(77));
        let (configs, state, placement) = (BTreeMap::new(), TopicState::Live, vec![BrokerId(4)]);
        let value = TopicValue { v: 1, id, partitions: 1, configs, state, placement };
        let put = Op::Put(Keys::new("test").topic("u"), crate::metadata::model::encode(&value), None);
        bed.store.txn(Txn { compares: Vec::new(), ops: vec![put] }).await.unwrap();
        let deadline = monotonic() + Duration::from_secs(60);
        let key = PartitionKey { topic: id, partition: PartitionIndex(0) };
        let directory = &bed.ctx.broker.directory;
        assert!(super::super::common::wait_until(deadline, || directory.remove(&key).is_some()).await);
        let metadata = bed.call(12, &MetadataRequest::default().with_topics(None)).await;
        let partition = &metadata.topics.iter().find(|t| t.topic_id == id.0).unwrap().partitions[0];
        let leaderless = (ErrorCode::LeaderNotAvailable.code(), -1, vec![4, 3, 2]);
        assert_eq!((partition.error_code, partition.leader_id.0, ids(&partition.replica_nodes)), leaderless);
    });
}
