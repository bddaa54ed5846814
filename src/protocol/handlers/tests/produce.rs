//! Produce.

use super::*;
use crate::protocol::batch::BatchHeader;
use crate::protocol::records::BatchBuilder;
use crate::storage::fault::Op;
use crate::storage::measured::Observer;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::protocol::Encodable;
use std::time::Duration;

async fn one(bed: &Bed, version: i16, request: &ProduceRequest) -> PartitionProduceResponse {
    bed.call(version, request).await.responses.remove(0).partition_responses.remove(0)
}

#[test]
fn offsets_count_up() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        let two = BatchBuilder::new().record(NOW_MS, None, None).record(NOW_MS, None, None).build();
        assert_eq!(bed.produce("t", 0, two).await, (0, 0));
        assert_eq!(bed.produce("t", 0, batch_of(b"x")).await, (0, 2));
        assert_eq!(bed.produce("t", 1, batch_of(b"x")).await, (0, 0));
    });
}

#[test]
fn what_is_wrong_is_told_per_partition() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[("max.message.bytes", "100")]).await;
        let corrupt = {
            let mut bytes = BytesMut::from(&batch_of(b"x")[..]);
            *bytes.last_mut().unwrap() ^= 1;
            bytes.freeze()
        };
        let batches = vec![(0, batch_of(b"x")), (1, corrupt), (2, batch_of(b"x")), (1, batch_of(&[7; 100]))];
        let response = bed.call(9, &produce_request("t", -1, batches)).await;
        let codes: Vec<_> = response.responses[0].partition_responses.iter().map(|p| p.error_code).collect();
        assert_eq!(codes, [0, 2, 3, 10]);
        assert_eq!(one(&bed, 9, &produce_request("t", 2, vec![(0, batch_of(b"x"))])).await.error_code, 21);
        assert_eq!(one(&bed, 9, &produce_request("u", -1, vec![(0, batch_of(b"x"))])).await.error_code, 3);
        assert_eq!(one(&bed, 9, &produce_request("a/b", -1, vec![(0, batch_of(b"x"))])).await.error_code, 17);
        let unknown = one(&bed, 13, &produce_request("t", -1, vec![(0, batch_of(b"x"))])).await;
        assert_eq!((unknown.error_code, unknown.base_offset), (100, -1));
        assert_eq!(bed.partition("t", 0).view.high_watermark(), Offset(1), "only the good one was stored");
        assert_eq!(bed.partition("t", 1).view.high_watermark(), Offset(0));
    });
}

#[test]
fn null_keys_on_a_compacted_topic() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[("cleanup.policy", "compact")]).await;
        let mixed = BatchBuilder::new().record(NOW_MS, Some(b"k"), None).record(NOW_MS, None, Some(b"v")).build();
        let refused = one(&bed, 9, &produce_request("t", -1, vec![(0, mixed)])).await;
        assert_eq!(refused.error_code, 87);
        assert_eq!(refused.record_errors.iter().map(|e| e.batch_index).collect::<Vec<_>>(), [1]);
        assert!(refused.error_message.is_some());
        assert_eq!(bed.partition("t", 0).view.high_watermark(), Offset(0));
        assert_eq!(bed.produce("t", 0, batch_of(b"v")).await, (0, 0));
    });
}

#[test]
fn log_append_time_is_replied_and_stored() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
        tokio::time::sleep(Duration::from_millis(77)).await;
        let now_ms = bed.ctx.broker.clock.wall_ms();
        let stored = one(&bed, 9, &produce_request("t", -1, vec![(0, batch_of(b"x"))])).await;
        assert_eq!((stored.error_code, stored.log_append_time_ms), (0, now_ms));
        let fetched = bed.call(11, &fetch_request("t", &[(0, 0)], 0)).await;
        let records = fetched.responses[0].partitions[0].records.clone().unwrap();
        let header = BatchHeader::parse(&records).unwrap();
        assert!(header.is_log_append_time());
        assert_eq!(header.max_timestamp, now_ms);
        assert_eq!(header.crc, crate::storage::crc32c(&records[21..]));
    });
}

#[test]
fn acks_zero_is_silent_or_fatal() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let reply = bed.reply(9, &produce_request("t", 0, vec![(0, batch_of(b"x"))])).await;
        assert!(matches!(reply, Reply::None), "{reply:?}");
        assert_eq!(bed.partition("t", 0).view.high_watermark(), Offset(1));
        let reply = bed.reply(9, &produce_request("t", 0, vec![(9, batch_of(b"x"))])).await;
        assert!(matches!(reply, Reply::Close(_)), "{reply:?}");
    });
}

#[test]
fn appends_happen_in_request_order_before_any_wait() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        *bed.partition("t", 0).behaviour.lock().unwrap() = Behaviour::Hold;
        let first = produce_request("t", -1, vec![(0, batch_of(b"1")), (1, batch_of(b"1"))]);
        let second = produce_request("t", -1, vec![(0, batch_of(b"2")), (1, batch_of(b"2"))]);
        let (mut a, mut b) = (Box::pin(bed.call(9, &first)), Box::pin(bed.call(9, &second)));
        assert!(futures::poll!(&mut a).is_pending());
        assert!(futures::poll!(&mut b).is_pending());
        assert_eq!(bed.partition("t", 1).view.high_watermark(), Offset(2), "the second partition did not wait");
        bed.partition("t", 0).commit_held();
        let offsets = |r: &kafka_protocol::messages::ProduceResponse| {
            r.responses[0].partition_responses.iter().map(|p| p.base_offset).collect::<Vec<_>>()
        };
        assert_eq!((offsets(&a.await), offsets(&b.await)), (vec![0, 0], vec![1, 1]));
    });
}

#[test]
fn waiting_ends_with_the_time_out() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        *bed.partition("t", 0).behaviour.lock().unwrap() = Behaviour::Hold;
        let start = monotonic();
        let request = produce_request("t", -1, vec![(0, batch_of(b"x"))]).with_timeout_ms(1_500);
        assert_eq!(one(&bed, 9, &request).await.error_code, 7);
        assert_eq!((monotonic() - start).as_millis(), 1_500);
        // Kafka does not wait for replicas with acks=1, so that its time-out does not apply.
        let request = produce_request("t", 1, vec![(0, batch_of(b"x"))]).with_timeout_ms(1);
        let start = monotonic();
        assert_eq!(one(&bed, 9, &request).await.error_code, 7);
        assert_eq!((monotonic() - start).as_secs(), 30);
    });
}

/// True if batches that a partition holds lie in `body`.
fn shares(bed: &Bed, index: i32, body: &Bytes) -> Vec<bool> {
    let inside = body.as_ptr_range();
    let held = bed.partition("t", index).held.lock().unwrap().drain(..).collect::<Vec<_>>();
    held.iter().map(|append| inside.contains(&append.batch.bytes.as_ptr())).collect()
}

#[test]
fn a_batch_does_not_keep_a_much_longer_request_alive() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        for index in [0, 1] {
            *bed.partition("t", index).behaviour.lock().unwrap() = Behaviour::Hold;
        }
        let (stored, too_large) = (batch_of(&[7; 40_000]), batch_of(&[7; 2 << 20]));
        let cases = [
            (vec![(0, stored.clone())], vec![true], vec![]),
            (vec![(0, stored.clone()), (1, stored.clone())], vec![true], vec![true]),
            (vec![(0, stored.clone()), (1, too_large.clone())], vec![false], vec![]),
            (vec![(1, too_large), (0, stored.clone()), (1, stored)], vec![false], vec![false]),
        ];
        for (batches, of_0, of_1) in cases {
            let mut body = BytesMut::new();
            produce_request("t", -1, batches).encode(&mut body, 9).unwrap();
            let body = body.freeze();
            let request = Request {
                api_key: ProduceRequest::KEY,
                api_version: 9,
                correlation_id: 1,
                client_id: None,
                body: body.clone(),
                received: monotonic(),
                ahead: 0,
                trace: Default::default(),
            };
            let mut reply = dispatch(bed.ctx.clone(), request);
            assert!(futures::poll!(&mut reply).is_pending());
            assert_eq!((shares(&bed, 0, &body), shares(&bed, 1, &body)), (of_0, of_1));
        }
    });
}

#[test]
fn append_errors_have_their_codes() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let table = [
            (AppendError::NotLeader, 6, 0),
            (AppendError::OutOfOrderSequence { producer: 1, sequence: 5, expected: 2 }, 45, 0),
            (AppendError::InvalidProducerEpoch { producer: 1, epoch: 0, current: 1 }, 47, 0),
            (AppendError::Interrupted, 7, 0),
            (AppendError::Overloaded, 19, 100),
            (AppendError::StoreUnavailable, 19, 0), // the throttle is the store's affair
        ];
        for (error, code, throttle_ms) in table {
            *bed.partition("t", 0).behaviour.lock().unwrap() = Behaviour::Fail(error.clone());
            let response = bed.call(12, &produce_request("t", -1, vec![(0, batch_of(b"x"))])).await;
            let partition = &response.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, response.throttle_time_ms), (code, throttle_ms), "{error}");
            let moved = error == AppendError::NotLeader;
            assert_eq!(partition.current_leader.leader_id.0, if moved { 1 } else { -1 }, "{error}");
            assert_eq!(response.node_endpoints.len(), usize::from(moved), "{error}");
        }
        // An actor that dies with appends in its hands leaves their outcome unknown.
        *bed.partition("t", 0).behaviour.lock().unwrap() = Behaviour::Hold;
        let request = produce_request("t", -1, vec![(0, batch_of(b"x"))]);
        let mut call = Box::pin(bed.call(9, &request));
        assert!(futures::poll!(&mut call).is_pending());
        bed.partition("t", 0).held.lock().unwrap().clear();
        assert_eq!(call.await.responses[0].partition_responses[0].error_code, 7);
        bed.partition("t", 0).view.close();
        assert_eq!(bed.produce("t", 0, batch_of(b"x")).await.0, 6);
    });
}

#[test]
fn an_object_store_that_does_badly_slows_producers_down() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let health = bed.ctx.broker.health.clone();
        tokio::task::spawn_local(health.clone().run());
        let slow = Duration::from_secs(3);
        for _ in 0..40 {
            health.ended(Op::Create, slow, Ok(1_000));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let throttle_ms = health.throttle_ms();
        assert!((100..1_000).contains(&throttle_ms), "{:?}", health.verdict());
        let throttle = Duration::from_millis(throttle_ms);
        let request = |acks| produce_request("t", acks, vec![(0, batch_of(b"x"))]);
        let response = bed.call(9, &request(-1)).await;
        assert_eq!(response.throttle_time_ms as u64, throttle_ms);
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0, "slow is not refused");
        let acked = bed.reply(9, &request(1)).await;
        assert!(matches!(acked, Reply::Throttled(Some(_), by) if by == throttle), "{acked:?}");
        let silent = bed.reply(9, &request(0)).await;
        assert!(matches!(silent, Reply::Throttled(None, by) if by == throttle), "{silent:?}");
        let fetched = bed.call(11, &fetch_request("t", &[(0, 0)], 0)).await;
        assert_eq!(fetched.throttle_time_ms, 0, "consumers are not held back");
    });
}
