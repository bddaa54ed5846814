//! Cases 45-54 and 60: reading.

use super::{batch, dev, end, now_ms, outcome, produce_request, topic};
use crate::client::{Client, Connection, fetch_request, topic_name};
use crate::harness::{Backend, Stack};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use kafscale::clock::monotonic;
use kafscale::protocol::batch::BatchHeader;
use kafscale::protocol::records::BatchBuilder;
use std::collections::BTreeMap;

/// A fetch of these partitions from these offsets, in session (0, -1).
fn fetch_of(topic: &str, partitions: &[(i32, i64)], max_wait_ms: i32) -> FetchRequest {
    let wanted = partitions.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(wanted.collect());
    let mut request = fetch_request("", 0, 0, max_wait_ms, 50 << 20);
    request.topics = if partitions.is_empty() { vec![] } else { vec![topic] };
    request
}

fn rows(answer: &FetchResponse) -> Vec<&PartitionData> {
    answer.responses.iter().flat_map(|t| &t.partitions).collect()
}

fn errors(answer: &FetchResponse) -> Vec<(i32, i16)> {
    rows(answer).iter().map(|p| (p.partition_index, p.error_code)).collect()
}

fn len(partition: &PartitionData) -> usize {
    partition.records.as_ref().map_or(0, Bytes::len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_waits_and_limits() {
    let stack = dev("fetch-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 2, &[]).await;

    // 45. From the middle of a batch, and of the last batch: the whole batch.
    assert_eq!(outcome(&mut client, "t", batch(&[b"a", b"b", b"c"])).await, (0, 0));
    assert_eq!(outcome(&mut client, "t", batch(&[b"d", b"e", b"f"])).await, (0, 3));
    for (offset, base) in [(1, 0), (2, 0), (4, 3), (5, 3)] {
        let records = client.fetch("t", 0, offset, 0, 1 << 20).await.unwrap().records.unwrap();
        let header = BatchHeader::parse(&records).unwrap();
        assert_eq!((header.base_offset.0, header.record_count), (base, 3), "from {offset}");
    }

    // 46. At the end: empty, without an error, when the time is up.
    let before = monotonic();
    let idle = client.fetch("t", 0, 6, 500, 1 << 20).await.unwrap();
    assert_eq!((idle.error_code, len(&idle), idle.high_watermark), (0, 0, 6));
    assert!((monotonic() - before).as_millis() >= 450, "answered too early");

    // 47. One bad partition is answered at once, though the others could wait for an hour.
    let mut request = fetch_of("t", &[(0, 6), (1, 0), (9, 0)], 3_600_000);
    request.min_bytes = 1 << 20;
    assert_eq!(errors(&client.call(12, &request).await.unwrap()), [(0, 0), (1, 0), (9, 3)]);

    // 48. A batch of 1 MB, with limits of one byte: the batch.
    let large = batch(&[&vec![7; 1_000_000]]);
    assert_eq!(client.produce("t", 1, large.clone()).await.unwrap().error_code, 0);
    let mut request = fetch_of("t", &[(1, 0)], 0).with_max_bytes(1);
    request.topics[0].partitions[0].partition_max_bytes = 1;
    assert_eq!(len(rows(&client.call(12, &request).await.unwrap())[0]), large.len());

    // 51. Past the end, and before the start.
    for offset in [7, i64::MAX, -1] {
        let refused = client.fetch("t", 0, offset, 5_000, 1 << 20).await.unwrap();
        assert_eq!((refused.error_code, refused.log_start_offset, refused.high_watermark), (1, 0, 6), "{offset}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_behind_a_produce_on_its_connection_shows_it() {
    let stack = dev("fetch-behind-produce", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    for round in 0..5i64 {
        // Nothing is received before everything is sent: two batches, then reads at the new end and of the first batch.
        let request = produce_request("t", -1, &[(0, batch(&[b"a", b"b"]))]);
        connection.send(9, &request).await.unwrap();
        connection.send(9, &request).await.unwrap();
        connection.send(12, &fetch_of("t", &[(0, 4 * round + 4)], 0)).await.unwrap();
        connection.send(12, &fetch_of("t", &[(0, 4 * round)], 0)).await.unwrap();
        let latest =
            ListOffsetsPartition::default().with_timestamp(crate::client::LATEST).with_current_leader_epoch(-1);
        let latest = ListOffsetsTopic::default().with_name(topic_name("t")).with_partitions(vec![latest]);
        let latest = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![latest]);
        connection.send(7, &latest).await.unwrap();
        for base in [4 * round, 4 * round + 2] {
            let answer = connection.receive::<ProduceRequest>(9).await.unwrap();
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, base));
        }
        let at_end = connection.receive::<FetchRequest>(12).await.unwrap();
        assert_eq!((errors(&at_end), rows(&at_end)[0].high_watermark), (vec![(0, 0)], 4 * round + 4));
        assert_eq!(len(rows(&at_end)[0]), 0);
        assert!(len(rows(&connection.receive::<FetchRequest>(12).await.unwrap())[0]) > 100);
        let listed = connection.receive::<ListOffsetsRequest>(7).await.unwrap();
        assert_eq!(listed.topics[0].partitions[0].offset, 4 * round + 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_is_woken() {
    let stack = dev("long-poll", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let address = stack.address();
    let waiting =
        tokio::spawn(
            async move { Client::new(&address).call(12, &fetch_of("t", &[(0, 0)], 3_600_000)).await.unwrap() },
        );
    assert_eq!(outcome(&mut client, "t", batch(&[b"news"])).await, (0, 0));
    assert!(len(rows(&waiting.await.unwrap())[0]) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_has_its_turn() {
    const PARTITIONS: i32 = 60;
    const BATCHES: i64 = 3;
    let stack = dev("fair-fetch", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", PARTITIONS, &[]).await;
    let value = vec![7; 64 << 10];
    for index in 0..PARTITIONS {
        for _ in 0..BATCHES {
            assert_eq!(client.produce("t", index, batch(&[&value])).await.unwrap().error_code, 0);
        }
    }

    // 49. 12 MB in 60 partitions, 1 MiB at a time in a session: about 1 MiB each, and all of it in the end.
    let mut at: BTreeMap<i32, i64> = (0..PARTITIONS).map(|p| (p, 0)).collect();
    let (mut id, mut epoch) = (0, 0);
    let mut changed: Vec<(i32, i64)> = at.iter().map(|(p, o)| (*p, *o)).collect();
    let mut rounds = 0;
    while at.values().any(|offset| *offset < BATCHES) {
        let mut request = fetch_of("t", &changed, 0).with_session_id(id).with_session_epoch(epoch);
        request.max_bytes = 1 << 20;
        let answer = client.call(12, &request).await.unwrap();
        assert_eq!(answer.error_code, 0);
        let total: usize = rows(&answer).iter().map(|p| len(p)).sum();
        assert!(total <= 1 << 20, "{total}");
        (id, epoch) = (answer.session_id, epoch + 1);
        changed.clear();
        for partition in rows(&answer) {
            assert_eq!(partition.error_code, 0);
            let mut rest = partition.records.clone().unwrap();
            while !rest.is_empty() {
                let header = BatchHeader::parse(&rest).unwrap();
                assert_eq!(at.insert(partition.partition_index, header.next_offset().0), Some(header.base_offset.0));
                rest = rest.split_off(header.total_len() as usize);
            }
            changed.push((partition.partition_index, at[&partition.partition_index]));
        }
        rounds += 1;
        assert!(rounds <= 60, "stuck at {at:?}");
    }
    assert!((12..=20).contains(&rounds), "{rounds} answers cannot have been about 1 MiB each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions() {
    let stack = dev("session-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 3, &[]).await;
    let in_session = |id: i32, epoch: i32, partitions: &[(i32, i64)]| {
        fetch_of("t", partitions, 0).with_session_id(id).with_session_epoch(epoch)
    };

    // 50. Full, incremental, a change, a partition forgotten, the wrong epoch, an unknown id.
    let full = client.call(12, &in_session(0, 0, &[(0, 0), (1, 0), (2, 0)])).await.unwrap();
    let id = full.session_id;
    assert!(id > 0);
    assert_eq!(errors(&full), [(0, 0), (1, 0), (2, 0)]);
    assert_eq!(errors(&client.call(12, &in_session(id, 1, &[])).await.unwrap()), []);
    client.produce_values("t", 1, &[b"x"]).await;
    let news = client.call(12, &in_session(id, 2, &[])).await.unwrap();
    assert_eq!((news.session_id, errors(&news)), (id, vec![(1, 0)]));
    assert!(len(rows(&news)[0]) > 0);
    assert_eq!(errors(&client.call(12, &in_session(id, 3, &[(1, 1)])).await.unwrap()), []);
    let forget = ForgottenTopic::default().with_topic(topic_name("t")).with_partitions(vec![1]);
    client.call(12, &in_session(id, 4, &[]).with_forgotten_topics_data(vec![forget])).await.unwrap();
    client.produce_values("t", 1, &[b"y"]).await;
    assert_eq!(errors(&client.call(12, &in_session(id, 5, &[])).await.unwrap()), []);
    assert_eq!(client.call(12, &in_session(id, 9, &[])).await.unwrap().error_code, 71);
    assert_eq!(client.call(12, &in_session(id ^ 1, 6, &[])).await.unwrap().error_code, 70);
    // Another connection may go on with the session; its end is the end for all.
    let mut other = Client::new(&stack.address());
    assert_eq!(other.call(12, &in_session(id, 6, &[])).await.unwrap().error_code, 0);
    other.call(12, &in_session(id, -1, &[(0, 0)])).await.unwrap();
    assert_eq!(client.call(12, &in_session(id, 7, &[])).await.unwrap().error_code, 70);
}

/// Error code, offset and timestamp.
async fn list(client: &mut Client, topic: &str, timestamp: i64) -> (i16, i64, i64) {
    let wanted = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let answer = client.call(10, &request).await.unwrap();
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.offset, partition.timestamp)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_by_time_and_epoch() {
    let mut stack = dev("offset-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    for name in ["even", "middle"] {
        topic(&mut client, name, 1, &[("retention.ms", "-1")]).await;
    }
    for pair in [[2, 4], [6, 8]] {
        let batch = pair.iter().fold(BatchBuilder::new(), |b, ts| b.record(*ts, None, Some(b"x"))).build();
        assert_eq!(outcome(&mut client, "even", batch).await.0, 0);
    }
    let batch = [100, 400, 200].iter().fold(BatchBuilder::new(), |b, ts| b.record(*ts, None, Some(b"x"))).build();
    assert_eq!(outcome(&mut client, "middle", batch).await.0, 0);

    // From memory, then from the store.
    for restarted in [false, true] {
        if restarted {
            stack.broker.restart().await;
            client.ensure_topic("even", 1).await;
            client.ensure_topic("middle", 1).await;
        }
        // 53. The first record that is not older.
        for (asked, found) in [(1, (0, 0, 2)), (3, (0, 1, 4)), (8, (0, 3, 8)), (9, (0, -1, -1))] {
            assert_eq!(list(&mut client, "even", asked).await, found, "{asked}, restarted: {restarted}");
        }
        assert_eq!(list(&mut client, "even", -1).await, (0, 4, -1));
        assert_eq!(list(&mut client, "even", -2).await, (0, 0, -1));
        assert_eq!(list(&mut client, "even", -5).await, (0, -1, -1));
        // 54. The newest record may be in the middle of its batch.
        assert_eq!(list(&mut client, "middle", -3).await, (0, 1, 400), "restarted: {restarted}");
    }

    // 52. Epochs that are over, and that have not come; a restart began a new one.
    let leader_epoch = client.metadata(Some(&["even"]), false).await.unwrap().topics[0].partitions[0].leader_epoch;
    assert!(leader_epoch > 0, "{leader_epoch}");
    for (believed, code) in [(leader_epoch - 1, 74), (leader_epoch, 0), (leader_epoch + 1, 75)] {
        let mut request = fetch_of("even", &[(0, 0)], 0);
        request.topics[0].partitions[0].current_leader_epoch = believed;
        assert_eq!(errors(&client.call(12, &request).await.unwrap()), [(0, code)]);
    }
    let ask = async |client: &mut Client, epoch: i32| {
        let wanted = OffsetForLeaderPartition::default().with_current_leader_epoch(-1).with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default().with_topic(topic_name("even")).with_partitions(vec![wanted]);
        let request = OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = client.call(4, &request).await.unwrap();
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code, partition.leader_epoch, partition.end_offset)
    };
    assert_eq!(ask(&mut client, leader_epoch).await, (0, leader_epoch, 4));
    assert_eq!(ask(&mut client, leader_epoch - 1).await, (0, leader_epoch - 1, 4), "nothing was written since");
    assert_eq!(ask(&mut client, leader_epoch + 1).await, (0, -1, -1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acked_records_survive_sigkill() {
    // 60, on both stores. (The ledger does this with load and at random moments.)
    for backend in [Backend::Dev, Backend::S3] {
        let mut stack = Stack::start("sigkill-case", backend, &[("KAFSCALE_FLUSH_INTERVAL_MS", "10")]).await;
        let mut client = Client::new(&stack.address());
        topic(&mut client, "t", 1, &[]).await;
        let mut acked = Vec::new();
        for i in 0..20 {
            let value = format!("value {i}");
            acked.push((outcome(&mut client, "t", batch(&[value.as_bytes()])).await, value));
            if i % 7 == 0 {
                stack.broker.kill9();
                stack.broker.restart().await;
                client.ensure_topic("t", 1).await;
            }
        }
        let read = client.read_all("t", 0).await;
        let read: Vec<_> = read
            .iter()
            .map(|r| ((0, r.offset), String::from_utf8_lossy(r.value.as_ref().unwrap()).into_owned()))
            .collect();
        assert_eq!(read, acked);
        assert_eq!(end(&mut client, "t").await, 20);
        assert!(now_ms() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_slower_than_the_wait_gives_empty_answers() {
    // 46, second half: the data is committed and in the store only, and the store does not answer.
    let mut stack = Stack::start("slow-store", Backend::S3, &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    assert_eq!(outcome(&mut client, "t", batch(&[b"stored"])).await, (0, 0));
    stack.broker.restart().await;
    client.ensure_topic("t", 1).await;
    stack.s3().process.pause();
    for (max_wait_ms, waited_ms_min) in [(0, 0), (700, 650)] {
        let before = monotonic();
        let answer = client.fetch("t", 0, 0, max_wait_ms, 1 << 20).await.unwrap();
        assert_eq!((answer.error_code, answer.high_watermark, len(&answer)), (0, 1, 0), "waiting {max_wait_ms} ms");
        assert!(before.elapsed().as_millis() >= waited_ms_min, "answered too early");
    }
    stack.s3().process.resume();
    let values: Vec<_> = client.read_all("t", 0).await.into_iter().filter_map(|r| r.value).collect();
    assert_eq!(values, ["stored"]);
}
