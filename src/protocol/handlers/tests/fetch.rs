//! Fetch, ListOffsets and OffsetForLeaderEpoch.

use super::*;
use crate::protocol::records::BatchBuilder;
use kafka_protocol::messages::fetch_request::ForgottenTopic;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{FetchResponse, ListOffsetsRequest, OffsetForLeaderEpochRequest};
use std::collections::BTreeSet;

fn len(partition: &PartitionData) -> usize {
    partition.records.as_ref().map_or(0, Bytes::len)
}

fn all(response: &FetchResponse) -> Vec<&PartitionData> {
    response.responses.iter().flat_map(|t| &t.partitions).collect()
}

/// Partition and error of everything in a response.
fn errors(response: &FetchResponse) -> Vec<(i32, i16)> {
    all(response).iter().map(|p| (p.partition_index, p.error_code)).collect()
}

fn each_partition(request: FetchRequest, change: impl Fn(&mut FetchPartition)) -> FetchRequest {
    let mut request = request;
    request.topics.iter_mut().flat_map(|t| &mut t.partitions).for_each(change);
    request
}

#[test]
fn whole_batches_come_back_byte_for_byte() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let three = BatchBuilder::new()
            .record(NOW_MS, None, Some(&[1; 30_000]))
            .record(NOW_MS, None, Some(b"b"))
            .record(NOW_MS, None, Some(b"c"))
            .build();
        assert_eq!(bed.produce("t", 0, three.clone()).await, (0, 0));
        assert_eq!(bed.produce("t", 0, batch_of(b"last")).await, (0, 3));
        for offset in 0..4 {
            let response = bed.call(12, &fetch_request("t", &[(0, offset)], 500)).await;
            let partition = all(&response)[0];
            assert_eq!((partition.error_code, partition.high_watermark, partition.last_stable_offset), (0, 4, 4));
            assert_eq!((partition.log_start_offset, partition.preferred_read_replica.0), (0, -1));
            assert_eq!(partition.aborted_transactions, None);
            let records = partition.records.clone().unwrap();
            if offset < 3 {
                assert_eq!(records[16..three.len()], three[16..], "from {offset}: the whole batch");
                assert_eq!(records[12..16], EPOCH.to_be_bytes(), "with the leader's epoch");
            } else {
                assert_eq!(records[0..8], 3i64.to_be_bytes());
            }
        }
        let committed = fetch_request("t", &[(0, 0)], 0).with_isolation_level(1);
        assert_eq!(all(&bed.call(12, &committed).await)[0].aborted_transactions, Some(vec![]));
    });
}

#[test]
fn a_long_poll_waits_for_a_commit_or_for_the_time() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let start = monotonic();
        let response = bed.call(12, &fetch_request("t", &[(0, 0)], 500)).await;
        assert_eq!((errors(&response), len(all(&response)[0])), (vec![(0, 0)], 0));
        assert_eq!((monotonic() - start).as_millis(), 500);

        let request = fetch_request("t", &[(0, 0)], 500);
        let mut call = Box::pin(bed.call(12, &request));
        assert!(futures::poll!(&mut call).is_pending());
        assert_eq!(bed.produce("t", 0, batch_of(b"x")).await, (0, 0));
        let start = monotonic();
        let response = call.await;
        assert!(len(all(&response)[0]) > 0);
        assert_eq!(monotonic(), start, "woken by the commit");
        for impatient in [0, -1] {
            let response = bed.call(12, &fetch_request("t", &[(0, 1)], impatient)).await;
            assert_eq!((errors(&response), monotonic()), (vec![(0, 0)], start));
        }
    });
}

#[test]
fn min_bytes_is_waited_for() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        let request = fetch_request("t", &[(0, 0), (1, 0)], 5_000).with_min_bytes(1_500);
        let start = monotonic();
        let mut call = Box::pin(bed.call(12, &request));
        bed.produce("t", 0, batch_of(&[0; 1_000])).await;
        assert!(futures::poll!(&mut call).is_pending());
        bed.produce("t", 1, batch_of(&[0; 1_000])).await;
        let response = call.await;
        assert_eq!(monotonic(), start);
        assert!(all(&response).iter().all(|p| len(p) > 1_000));

        // One partition that can never be enough: empty at the end is as good as data; here it is data.
        let response = bed.call(12, &fetch_request("t", &[(0, 0)], 700).with_min_bytes(1 << 20)).await;
        assert_eq!((monotonic() - start).as_millis(), 700);
        assert!(len(all(&response)[0]) > 1_000);
    });
}

#[test]
fn an_error_is_answered_at_once() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let start = monotonic();
        let wait = |partitions: &[(i32, i64)]| fetch_request("t", partitions, 5_000).with_min_bytes(1 << 20);
        let response = bed.call(12, &wait(&[(0, 0), (1, 0), (2, 0)])).await;
        assert_eq!(errors(&response), [(0, 0), (1, 0), (2, 3)]);
        assert!(len(all(&response)[0]) > 0, "what there is comes along");
        let response = bed.call(12, &wait(&[(0, 2)])).await;
        assert_eq!(errors(&response), [(0, 1)]);
        assert_eq!((all(&response)[0].log_start_offset, all(&response)[0].high_watermark), (0, 1));
        assert_eq!(errors(&bed.call(12, &wait(&[(0, -1)])).await), [(0, 1)]);
        for (epoch, code) in [(EPOCH - 1, 74), (EPOCH + 1, 75)] {
            let request = each_partition(wait(&[(0, 0)]), |p| p.current_leader_epoch = epoch);
            let response = bed.call(12, &request).await;
            assert_eq!(errors(&response), [(0, code)]);
            let leader = all(&response)[0].current_leader.leader_id.0;
            assert_eq!(leader, if code == 74 { 1 } else { -1 });
        }
        assert_eq!(errors(&bed.call(12, &fetch_request("u", &[(0, 0)], 5_000)).await), [(0, 3)]);
        bed.partition("t", 1).view.update(Offset(0), Offset(0), |_| {});
        bed.partition("t", 0).view.update(Offset(1), Offset(1), |log| log.tail.clear());
        let response = bed.call(12, &wait(&[(0, 0)])).await;
        assert_eq!((errors(&response), all(&response)[0].log_start_offset), (vec![(0, 1)], 1));
        assert_eq!(monotonic(), start);
    });
}

#[test]
fn a_waiting_fetch_hears_that_the_leader_is_gone() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let request = fetch_request("t", &[(0, 0)], 5_000).with_topics(vec![by_id(&bed, "t")]);
        let start = monotonic();
        let mut call = Box::pin(bed.call(16, &request));
        assert!(futures::poll!(&mut call).is_pending());
        bed.partition("t", 0).view.close();
        assert_eq!(errors(&call.await), [(0, 6)]);
        assert_eq!(monotonic(), start);
    });
}

#[test]
fn a_broker_in_doubt_serves_what_is_committed_and_sends_on_who_has_it_all() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let request = |offset| fetch_request("t", &[(0, offset)], 5_000);
        let start = monotonic();
        let at_end = request(1);
        let mut waiting = Box::pin(bed.call(12, &at_end));
        assert!(futures::poll!(&mut waiting).is_pending());
        bed.standing.lost();
        let response = bed.call(12, &request(0)).await;
        assert_eq!(errors(&response), [(0, 0)]);
        assert!(len(all(&response)[0]) > 0);
        assert_eq!(errors(&bed.call(12, &request(2)).await), [(0, 6)], "a successor may have written more");
        assert_eq!(monotonic(), start);
        let response = waiting.await;
        assert_eq!(errors(&response), [(0, 6)]);
        assert_eq!(all(&response)[0].current_leader.leader_id.0, -1);
    });
}

#[test]
fn a_broker_that_slept_serves_nothing_until_its_lease_is_confirmed() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        bed.standing.renewed(monotonic());
        bed.standing.awake();
        let at_end = fetch_request("t", &[(0, 1)], 60_000);
        let mut waiting = Box::pin(bed.call(12, &at_end));
        assert!(futures::poll!(&mut waiting).is_pending());
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(errors(&bed.call(12, &fetch_request("t", &[(0, 0)], 0)).await), [(0, 6)]);
        assert_eq!(errors(&waiting.await), [(0, 6)], "also what was asked before");
        bed.standing.awake();
        assert_eq!(errors(&bed.call(12, &fetch_request("t", &[(0, 0)], 0)).await), [(0, 6)]);
        tokio::time::advance(Duration::from_millis(1)).await;
        bed.standing.renewed(monotonic());
        assert_eq!(errors(&bed.call(12, &fetch_request("t", &[(0, 0)], 0)).await), [(0, 0)]);
    });
}

fn by_id(bed: &Bed, topic: &str) -> FetchTopic {
    let id = bed.image().topic(topic).unwrap().value.id.0;
    let mut topic = fetch_request(topic, &[(0, 0)], 0).topics.remove(0).with_topic_id(id);
    topic.topic = name("");
    topic
}

#[test]
fn byte_limits_hold_except_for_the_first_batch() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 40, &[]).await;
        for index in 0..40 {
            for _ in 0..3 {
                bed.produce("t", index, batch_of(&[0; 9_900])).await;
            }
        }
        let everything: Vec<_> = (0..40).map(|p| (p, 0)).collect();
        let tiny = each_partition(fetch_request("t", &everything, 0).with_max_bytes(1), |p| p.partition_max_bytes = 1);
        let sizes = |r: &FetchResponse| all(r).iter().map(|p| len(p)).filter(|l| *l > 0).collect::<Vec<_>>();
        let one = sizes(&bed.call(12, &tiny).await);
        assert_eq!(one.len(), 1, "one batch of one partition");
        assert!((9_900..11_000).contains(&one[0]));
        let response = bed.call(12, &fetch_request("t", &everything, 0).with_max_bytes(100_000)).await;
        let total: usize = sizes(&response).iter().sum();
        assert!((80_000..=100_000).contains(&total), "{total}");
        assert_eq!(all(&response).len(), 40);
        let two_each = each_partition(fetch_request("t", &everything, 0), |p| p.partition_max_bytes = 25_000);
        assert!(sizes(&bed.call(12, &two_each).await).iter().all(|l| (19_000..25_000).contains(l)));
    });
}

#[test]
fn a_thousand_partitions_all_have_their_turn() {
    // Case 49 at full size: 10 MiB in each partition (all batches share one buffer), 1 MiB at a time, in a session.
    const PARTITIONS: i32 = 1_000;
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", PARTITIONS, &[]).await;
        let bytes = batch_of(&vec![7; (1 << 20) - 100]);
        let header = crate::protocol::batch::BatchHeader::parse(&bytes).unwrap();
        let valid = ValidBatch { bytes: bytes.clone(), header, log_append_time_ms: None };
        for index in 0..PARTITIONS {
            for _ in 0..10 {
                let (reply, _nobody) = tokio::sync::oneshot::channel();
                bed.partition("t", index).commit(Append {
                    batch: valid.clone(),
                    reply,
                    origin: crate::actors::partition::Origin::NONE,
                });
            }
        }
        let everything: Vec<_> = (0..PARTITIONS).map(|p| (p, 0)).collect();
        let request = fetch_request("t", &everything, 0).with_max_bytes(1 << 20).with_session_epoch(0);
        let mut response = bed.call(12, &request).await;
        let id = response.session_id;
        let mut turns = BTreeSet::new();
        // Turns are counted from the second answer on, so that the first partition has two.
        for epoch in 1..=PARTITIONS + 1 {
            let with_records: Vec<_> = all(&response).into_iter().filter(|p| len(p) > 0).collect();
            assert_eq!((response.error_code, with_records.len()), (0, 1), "answer {epoch}");
            let (index, got) = (with_records[0].partition_index, len(with_records[0]));
            assert_eq!(got, bytes.len(), "one batch of 1 MiB, and no second one");
            turns.insert(index);
            let next = fetch_request("t", &[(index, 1)], 0).with_max_bytes(1 << 20);
            response = bed.call(12, &next.with_session_id(id).with_session_epoch(epoch)).await;
        }
        assert_eq!(turns.len(), PARTITIONS as usize, "everybody is reached before anybody comes again");
    });
}

#[test]
fn sessions_carry_changes_and_rotate() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 3, &[]).await;
        let in_session = |id: i32, epoch: i32, partitions: &[(i32, i64)]| {
            let mut request = fetch_request("t", partitions, 0).with_session_id(id).with_session_epoch(epoch);
            request.topics.retain(|t| !t.partitions.is_empty());
            request
        };
        let response = bed.call(12, &in_session(0, 0, &[(0, 0), (1, 0), (2, 0)])).await;
        let id = response.session_id;
        assert!(id > 0);
        assert_eq!(errors(&response), [(0, 0), (1, 0), (2, 0)], "the first answer has all partitions");
        let response = bed.call(12, &in_session(id, 1, &[])).await;
        assert_eq!((response.session_id, response.responses.len()), (id, 0), "nothing changed");
        for index in 0..3 {
            bed.produce("t", index, batch_of(&[0; 1_000])).await;
        }
        let response = bed.call(12, &in_session(id, 2, &[]).with_max_bytes(1)).await;
        let got =
            |r: &FetchResponse| all(r).iter().filter(|p| len(p) > 0).map(|p| p.partition_index).collect::<Vec<_>>();
        assert_eq!((got(&response), errors(&response).len()), (vec![0], 3), "0 has records, all a high watermark");
        let response = bed.call(12, &in_session(id, 3, &[(0, 1)]).with_max_bytes(1)).await;
        assert_eq!((got(&response), errors(&response).len()), (vec![1], 1), "1 is next");
        let forget = ForgottenTopic::default().with_topic(name("t")).with_partitions(vec![1]);
        let request = in_session(id, 4, &[]).with_max_bytes(1).with_forgotten_topics_data(vec![forget]);
        assert_eq!(got(&bed.call(12, &request).await), [2]);
        let refused = bed.call(12, &in_session(id, 4, &[])).await;
        assert_eq!((refused.error_code, refused.session_id, refused.responses.len()), (71, 0, 0));
        assert_eq!(bed.call(12, &in_session(id ^ 1, 1, &[])).await.error_code, 70);
        assert_eq!(bed.call(13, &in_session(id, 5, &[])).await.error_code, 106);
        let closed = bed.call(12, &in_session(id, -1, &[(0, 0)])).await;
        assert_eq!((closed.error_code, closed.session_id), (0, 0));
        assert_eq!(bed.call(12, &in_session(id, 5, &[])).await.error_code, 70);
        assert_eq!(bed.call(6, &fetch_request("t", &[(0, 0)], 0)).await.session_id, 0);
    });
}

#[test]
fn topics_are_named_by_id_from_version_13_on() {
    run(|| async {
        let bed = Bed::new(false).await;
        let id = bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let request = fetch_request("t", &[(0, 0)], 0).with_topics(vec![by_id(&bed, "t")]);
        let response = bed.call(13, &request).await;
        assert_eq!((response.responses[0].topic_id, errors(&response)), (id, vec![(0, 0)]));
        bed.ctx.broker.admin.delete_topic("t", crate::ids::TopicId(id)).await.unwrap();
        let again = bed.topic("t", 1, &[]).await;
        assert_ne!(id, again);
        assert_eq!(errors(&bed.call(13, &request).await), [(0, 100)]);
    });
}

#[test]
fn a_diverged_client_is_told_where() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let asked =
            |epoch, offset| each_partition(fetch_request("t", &[(0, offset)], 0), |p| p.last_fetched_epoch = epoch);
        let response = bed.call(12, &asked(EPOCH, 0)).await;
        assert!(len(all(&response)[0]) > 0);
        let response = bed.call(12, &asked(EPOCH - 1, 1)).await;
        let diverging = &all(&response)[0].diverging_epoch;
        assert_eq!((diverging.epoch, diverging.end_offset, len(all(&response)[0])), (EPOCH - 1, 0, 0));
    });
}

/// Partition-less answer: error, offset, timestamp, epoch.
async fn list(bed: &Bed, version: i16, timestamp: i64) -> (i16, i64, i64, i32) {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
    let response = bed.call(version, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
    let p = &response.topics[0].partitions[0];
    (p.error_code, p.offset, p.timestamp, p.leader_epoch)
}

#[test]
fn offsets_are_listed_by_time() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[("message.timestamp.after.max.ms", "9223372036854775807")]).await;
        assert_eq!(list(&bed, 10, -3).await, (0, -1, -1, -1), "empty");
        assert_eq!(list(&bed, 10, 0).await, (0, -1, -1, -1), "empty");
        for pair in [[2, 4], [6, 8]] {
            let batch = pair.iter().fold(BatchBuilder::new(), |b, ts| b.record(*ts, None, None)).build();
            bed.produce("t", 0, batch).await;
        }
        let table = [(1, (0, 2)), (3, (1, 4)), (5, (2, 6)), (8, (3, 8))];
        for (asked, (offset, timestamp)) in table {
            assert_eq!(list(&bed, 10, asked).await, (0, offset, timestamp, EPOCH), "{asked}");
        }
        assert_eq!(list(&bed, 10, 9).await, (0, -1, -1, -1));
        assert_eq!(list(&bed, 10, -1).await, (0, 4, -1, EPOCH));
        assert_eq!(list(&bed, 10, -2).await, (0, 0, -1, EPOCH));
        assert_eq!(list(&bed, 10, -4).await, (0, 0, -1, EPOCH));
        assert_eq!(list(&bed, 10, -5).await, (0, -1, -1, -1));
        assert_eq!(list(&bed, 3, -1).await, (0, 4, -1, -1), "no epoch before version 4");
        for (version, special) in [(6, -3), (7, -4), (8, -5), (10, -6)] {
            assert_eq!(list(&bed, version, special).await.0, 35, "{special}");
        }
        let batch = [100, 400, 200].iter().fold(BatchBuilder::new(), |b, ts| b.record(*ts, None, None)).build();
        bed.produce("t", 0, batch).await;
        assert_eq!(list(&bed, 10, -3).await, (0, 5, 400, EPOCH), "the middle record of the last batch");
        // Case 52: what the client believes about the leader's epoch.
        for (believed, code) in [(EPOCH - 1, 74), (EPOCH, 0), (EPOCH + 1, 75)] {
            let partition = ListOffsetsPartition::default().with_timestamp(-1).with_current_leader_epoch(believed);
            let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
            let response = bed.call(10, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
            assert_eq!(response.topics[0].partitions[0].error_code, code, "{believed}");
        }
    });
}

#[test]
fn epochs_have_ends() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.produce("t", 0, batch_of(b"x")).await;
        let ask = async |believed: i32, epoch: i32| {
            let partition =
                OffsetForLeaderPartition::default().with_current_leader_epoch(believed).with_leader_epoch(epoch);
            let topic = OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            let response = bed.call(4, &request).await;
            let p = &response.topics[0].partitions[0];
            (p.error_code, p.leader_epoch, p.end_offset)
        };
        assert_eq!(ask(-1, EPOCH).await, (0, EPOCH, 1));
        assert_eq!(ask(-1, EPOCH + 1).await, (0, -1, -1));
        assert_eq!(ask(-1, 0).await, (0, 0, 0));
        assert_eq!(ask(EPOCH - 1, 0).await, (74, -1, -1));
        assert_eq!(ask(EPOCH + 1, 0).await, (75, -1, -1));
    });
}
