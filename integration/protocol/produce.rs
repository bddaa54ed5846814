//! Cases 4, 22-33, 36 and 37: batches that are stored, refused, or were stored already.

use super::{batch, dev, end, now_ms, outcome, produce, produce_request, topic};
use crate::client::{Client, ClientError, Connection, RETRY_DEADLINE, fix_crc};
use crate::harness::wait_until;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{MetadataRequest, ProduceRequest};
use kafscale::protocol::batch::BatchHeader;
use kafscale::protocol::compression::Codec;
use kafscale::protocol::records::{BatchBuilder, Records, records_bytes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_stored_as_sent_or_refused() {
    let stack = dev("produce-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    topic(&mut client, "compacted", 1, &[("cleanup.policy", "compact")]).await;
    topic(&mut client, "small", 1, &[("max.message.bytes", "51200")]).await;
    topic(&mut client, "stamped", 1, &[("message.timestamp.type", "LogAppendTime")]).await;

    // 4. What comes in compressed comes out compressed, byte for byte behind the prefix that is the broker's.
    for (at, codec) in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().enumerate() {
        let sent = BatchBuilder::new().codec(codec).record(now_ms(), None, Some(&[7; 5_000])).build();
        assert_eq!(outcome(&mut client, "t", sent.clone()).await, (0, at as i64), "{codec:?}");
        let got = client.fetch("t", 0, at as i64, 0, 1 << 20).await.unwrap().records.unwrap();
        assert_eq!(got[16..sent.len()], sent[16..], "{codec:?}");
    }

    // 22. acks=0 has no answer: the next one on the connection is for Metadata. The record is stored all the same.
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    connection.send_unanswered(9, &produce_request("t", 0, &[(0, batch(&[b"x"]))])).await.unwrap();
    assert_eq!(connection.call(12, &MetadataRequest::default().with_topics(None)).await.unwrap().topics.len(), 4);
    // 23. Other numbers of acks do not exist.
    let refused = connection.call(9, &produce_request("t", 2, &[(0, batch(&[b"x"]))])).await.unwrap();
    assert_eq!(refused.responses[0].partition_responses[0].error_code, 21);
    wait_until("the record sent with acks=0 is stored", RETRY_DEADLINE, async || end(&mut client, "t").await == 6)
        .await;

    // 24. 10 MiB into a topic that takes 50 KiB. The compressed size counts.
    assert_eq!(outcome(&mut client, "small", batch(&[&vec![0; 10 << 20]])).await, (10, -1));
    let zeros = BatchBuilder::new().codec(Codec::Zstd).record(now_ms(), None, Some(&vec![0; 1 << 20])).build();
    assert_eq!(outcome(&mut client, "small", zeros).await, (0, 0));

    // 25. Ten of twenty records without a key: all refused, the ten are named.
    let mixed = (0..20).fold(BatchBuilder::new().codec(Codec::Lz4), |b, i| {
        b.record(now_ms(), if i < 10 { None } else { Some(b"k") }, Some(b"v"))
    });
    let refused = produce(&mut client, "compacted", mixed.build()).await;
    assert_eq!((refused.error_code, refused.base_offset), (87, -1));
    let named: Vec<_> = refused.record_errors.iter().map(|e| e.batch_index).collect();
    assert_eq!(named, (0..10).collect::<Vec<_>>());
    assert_eq!(outcome(&mut client, "compacted", batch(&[b"with a key"])).await, (0, 0), "none was stored");

    // 26. A flipped bit. 27. A control batch. And what else is not one good batch.
    let flipped = |at: usize| {
        let mut bytes = BytesMut::from(&batch(&[b"value"])[..]);
        bytes[at] ^= 4;
        bytes.freeze()
    };
    assert_eq!(outcome(&mut client, "t", flipped(75)).await, (2, -1));
    assert_eq!(outcome(&mut client, "t", flipped(17)).await, (2, -1));
    let control = BatchBuilder::new().attributes(0x20).record(now_ms(), Some(b"\0\0\0\0"), Some(b"")).build();
    assert_eq!(outcome(&mut client, "t", control).await, (87, -1));
    let two = Bytes::from([batch(&[b"1"]), batch(&[b"2"])].concat());
    assert_eq!(outcome(&mut client, "t", two).await, (87, -1));
    assert_eq!(outcome(&mut client, "t", Bytes::new()).await, (87, -1));
    let mut count = BytesMut::from(&batch(&[b"1"])[..]);
    count[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    fix_crc(&mut count);
    assert_eq!(outcome(&mut client, "t", count.freeze()).await, (87, -1));

    // 28. A timestamp from the future.
    let ahead = |ms: i64| BatchBuilder::new().record(now_ms() + ms, None, Some(b"x")).build();
    assert_eq!(outcome(&mut client, "t", ahead(2 * 3_600_000)).await, (32, -1));
    assert_eq!(outcome(&mut client, "t", ahead(50 * 60_000)).await, (0, 6), "nothing of all that was stored");

    // 29. The broker's time, in the reply and on the records.
    let reply = produce(&mut client, "stamped", ahead(-5_000_000)).await;
    assert_eq!(reply.error_code, 0);
    assert!((reply.log_append_time_ms - now_ms()).abs() < 60_000, "{}", reply.log_append_time_ms);
    let records = client.fetch("stamped", 0, 0, 0, 1 << 20).await.unwrap().records.unwrap();
    let header = BatchHeader::parse(&records).unwrap();
    assert!(header.is_log_append_time());
    assert_eq!(header.max_timestamp, reply.log_append_time_ms);
    let bytes = records_bytes(&header, &records).unwrap();
    assert_eq!(Records::new(&bytes, header.record_count).filter(Result::is_ok).count(), 1);
}

/// One record of an idempotent producer.
fn sequenced(id: i64, epoch: i16, sequence: i32) -> Bytes {
    let value = sequence.to_be_bytes();
    BatchBuilder::new().producer(id, epoch, sequence).record(now_ms(), None, Some(&value)).build()
}

/// Pause between two looks at a condition.
const POLL: std::time::Duration = std::time::Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotent_producers() {
    let mut stack = dev("idempotence-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let (id, epoch) = client.init_producer_id().await.unwrap();
    let sent: Vec<Bytes> = (0..7).map(|sequence| sequenced(id, epoch, sequence)).collect();
    for (offset, batch) in sent.iter().enumerate() {
        assert_eq!(outcome(&mut client, "t", batch.clone()).await, (0, offset as i64));
    }

    // 30. Each of the last five again: the offset of the first time. 31. The sixth from the end is forgotten.
    for (offset, batch) in sent.iter().enumerate().skip(2) {
        assert_eq!(outcome(&mut client, "t", batch.clone()).await, (0, offset as i64), "sequence {offset}");
    }
    assert_eq!(outcome(&mut client, "t", sent[1].clone()).await, (45, -1));
    // 32. A gap.
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch, 8)).await, (45, -1));
    assert_eq!(end(&mut client, "t").await, 7, "nothing was stored twice, nothing after the gap");

    // The same after SIGKILL: what a producer has sent is known to the next process.
    stack.broker.restart().await;
    client.ensure_topic("t", 1).await;
    for (offset, batch) in sent.iter().enumerate().skip(2) {
        assert_eq!(
            outcome(&mut client, "t", batch.clone()).await,
            (0, offset as i64),
            "sequence {offset} after restart"
        );
    }
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch, 8)).await, (45, -1));
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch, 7)).await, (0, 7));

    // 33. After 2^31-1 comes 0; a producer that is not known may start anywhere.
    // Shortly after a start it is asked to try again: its first batch could have been refused by the process before.
    let (wrapping, epoch_0) = client.init_producer_id().await.unwrap();
    let give_up = kafscale::clock::monotonic() + std::time::Duration::from_secs(60);
    let accepted = loop {
        match outcome(&mut client, "t", sequenced(wrapping, epoch_0, i32::MAX)).await {
            (19, _) if kafscale::clock::monotonic() < give_up => tokio::time::sleep(POLL).await,
            outcome => break outcome,
        }
    };
    assert_eq!(accepted, (0, 8));
    assert_eq!(outcome(&mut client, "t", sequenced(wrapping, epoch_0, 0)).await, (0, 9));

    // 36. A new epoch starts at sequence 0, and ends the old one.
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch + 1, 5)).await, (45, -1));
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch + 1, 0)).await, (0, 10));
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch, 8)).await, (47, -1));
    assert_eq!(outcome(&mut client, "t", sequenced(id, epoch + 1, 1)).await, (0, 11), "the old one's was not stored");

    // Five in flight on one connection, then all again: every answer is the first one's.
    let (id, epoch) = client.init_producer_id().await.unwrap();
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    for round in 0..2 {
        for sequence in 0..5 {
            let request = produce_request("t", -1, &[(0, sequenced(id, epoch, sequence))]);
            connection.send(9, &request).await.unwrap();
        }
        for sequence in 0..5 {
            let answer = connection.receive::<ProduceRequest>(9).await.unwrap();
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, 12 + sequence), "round {round}");
        }
    }
}

/// Sends the requests on a new connection, as a client does after its old one broke; the offsets, if all succeed.
async fn send_again(client: &mut Client, requests: &[ProduceRequest]) -> Result<Vec<i64>, ClientError> {
    let connection = client.connection().await?;
    for request in requests {
        connection.send(9, request).await?;
    }
    let mut offsets = Vec::new();
    for _ in requests {
        let answer = connection.receive::<ProduceRequest>(9).await?;
        let partition = &answer.responses[0].partition_responses[0];
        match partition.error_code {
            0 => offsets.push(partition.base_offset),
            code => {
                assert!([3, 5, 6, 7, 19].contains(&code), "the first failure has code {code}, which ends a producer");
                // The later ones fail with it. What is still unread goes with the connection.
                return Err(ClientError::Io(std::io::Error::other(format!("code {code}"))));
            }
        }
    }
    Ok(offsets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_broker_had_not_acked_is_stored_once() {
    // 37. Five in flight, killed when 0 to 4 of them are acked, all of them sent again. (The ledger does this with load
    // and at random moments, on both stores.)
    const IN_FLIGHT: usize = 5;
    let mut stack = dev("mid-ack", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let (id, epoch) = client.init_producer_id().await.unwrap();
    for acked in 0..IN_FLIGHT {
        let sequences = (acked * IN_FLIGHT) as i32..((acked + 1) * IN_FLIGHT) as i32;
        let requests: Vec<_> =
            sequences.clone().map(|s| produce_request("t", -1, &[(0, sequenced(id, epoch, s))])).collect();
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        for request in &requests {
            connection.send(9, request).await.unwrap();
        }
        for sequence in sequences.clone().take(acked) {
            let answer = connection.receive::<ProduceRequest>(9).await.unwrap();
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, i64::from(sequence)));
        }
        stack.broker.kill9();
        stack.broker.restart().await;
        let offsets = client.retry("send again", async |c| send_again(c, &requests).await).await;
        assert_eq!(offsets, sequences.map(i64::from).collect::<Vec<_>>(), "{acked} were acked");
    }
    let values: Vec<_> = client.read_all("t", 0).await.into_iter().filter_map(|r| r.value).collect();
    let expected: Vec<_> =
        (0..(IN_FLIGHT * IN_FLIGHT) as i32).map(|s| Bytes::copy_from_slice(&s.to_be_bytes())).collect();
    assert_eq!(values, expected, "no loss, no duplicate, in order");
}
