//! CreatePartitions and DeleteRecords.

use super::*;
use crate::metadata::MetadataError;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{CreatePartitionsRequest, DeleteRecordsRequest, DeleteRecordsResponse};

fn growing(topic: &str, count: i32) -> CreatePartitionsTopic {
    CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None)
}

fn assigned(topic: &str, count: i32, brokers: &[&[i32]]) -> CreatePartitionsTopic {
    let assignment =
        |b: &&[i32]| CreatePartitionsAssignment::default().with_broker_ids(b.iter().map(|id| (*id).into()).collect());
    growing(topic, count).with_assignments(Some(brokers.iter().map(assignment).collect()))
}

async fn grow(bed: &Bed, version: i16, topics: Vec<CreatePartitionsTopic>, validate_only: bool) -> Vec<i16> {
    let request =
        CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(5_000).with_validate_only(validate_only);
    let response = bed.call(version, &request).await;
    assert!(response.results.iter().all(|r| r.error_message.is_some() == (r.error_code != 0)), "{response:?}");
    response.results.iter().map(|r| r.error_code).collect()
}

#[test]
fn partitions_are_created() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 3, &[]).await;
        let partitions = |bed: &Bed| bed.image().topic("t").unwrap().value.partitions;
        assert_eq!(grow(&bed, 3, vec![growing("t", 5)], true).await, [0]);
        assert_eq!(partitions(&bed), 3, "only validated");
        assert_eq!(grow(&bed, 3, vec![growing("t", 5), growing("none", 9), growing("a/b", 9)], false).await, [0, 3, 3]);
        assert_eq!(partitions(&bed), 5);
        assert_eq!(bed.produce("t", 4, batch_of(b"x")).await, (0, 0), "led when the answer comes");
        for too_few in [5, 2, 0, -1] {
            assert_eq!(grow(&bed, 3, vec![growing("t", too_few)], false).await, [37], "{too_few}");
        }
        assert_eq!(grow(&bed, 3, vec![growing("t", 10_001)], false).await, [37]);
        assert_eq!(grow(&bed, 3, vec![growing("t", 6), growing("u", 6), growing("t", 7)], false).await, [42, 3]);
        assert_eq!(grow(&bed, 3, vec![], false).await, Vec::<i16>::new());
        for (brokers, code) in [
            (&[&[1][..]][..], 39), // one is missing
            (&[&[1], &[2]], 39),
            (&[&[1], &[1, 1]], 39),
            (&[&[1], &[]], 39),
            (&[&[1], &[1]], 0),
        ] {
            assert_eq!(grow(&bed, 3, vec![assigned("t", 7, brokers)], false).await, [code], "{brokers:?}");
        }
        for version in 0..=3 {
            let count = 8 + i32::from(version);
            assert_eq!(grow(&bed, version, vec![growing("t", count)], false).await, [0], "version {version}");
        }
        assert_eq!(partitions(&bed), 11);
    });
}

async fn delete(bed: &Bed, version: i16, topic: &str, partitions: &[(i32, i64)]) -> Vec<(i16, i64)> {
    let asked = partitions
        .iter()
        .map(|(index, offset)| DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset));
    let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(asked.collect());
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
    let response: DeleteRecordsResponse = bed.call(version, &request).await;
    response.topics[0].partitions.iter().map(|p| (p.error_code, p.low_watermark)).collect()
}

#[test]
fn records_are_deleted() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 3, &[]).await;
        bed.topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
        for _ in 0..10 {
            assert_eq!(bed.produce("t", 0, batch_of(b"x")).await.0, 0);
        }
        bed.partition("t", 2).view.close();
        let asked = [(0, 4), (0, 11), (0, -2), (1, -1), (1, 1), (2, 0), (3, 0)];
        let rows = [(0, 4), (1, -1), (1, -1), (0, 0), (1, -1), (6, -1), (3, -1)];
        assert_eq!(delete(&bed, 2, "t", &asked).await, rows);
        assert_eq!(delete(&bed, 2, "t", &[(0, 2)]).await, [(0, 4)], "it never goes back");
        assert_eq!(delete(&bed, 2, "t", &[(0, 5), (0, 6), (0, 5)]).await, [(0, 6); 3], "the highest counts");
        assert_eq!(delete(&bed, 2, "none", &[(0, 0)]).await, [(3, -1)]);
        assert_eq!(delete(&bed, 2, "a/b", &[(0, 0)]).await, [(3, -1)]);
        assert_eq!(delete(&bed, 2, "compacted", &[(0, 0)]).await, [(44, -1)]);
        for version in 0..=2 {
            let to = 7 + i64::from(version);
            assert_eq!(delete(&bed, version, "t", &[(0, to)]).await, [(0, to)], "version {version}");
        }
        assert_eq!(delete(&bed, 2, "t", &[(0, -1)]).await, [(0, 10)], "-1 is the high watermark");
        assert_eq!(bed.produce("t", 0, batch_of(b"x")).await, (0, 10));
        let response = bed.call(2, &DeleteRecordsRequest::default()).await;
        assert!(response.topics.is_empty());
    });
}

#[test]
fn records_that_could_not_be_deleted_say_so() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let unknown = RaiseError::Metadata(MetadataError::Unavailable { message: "down".into() });
        for (failure, code) in [(RaiseError::NotOwned, 6), (unknown, 7)] {
            *bed.control.failure.lock().unwrap() = Some(failure);
            assert_eq!(delete(&bed, 2, "t", &[(0, 1)]).await, [(code, -1)]);
        }
        *bed.control.failure.lock().unwrap() = None;
        assert_eq!(delete(&bed, 2, "t", &[(0, 1)]).await, [(0, 1)]);
    });
}
