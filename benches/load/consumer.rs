//! A tailing consumer that looks only at batch headers: when a record arrived, by its offset.

use crate::client::{FETCH_VERSION, fetch_request};
use crate::producer::{Meter, histogram};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ResponseHeader};
use kafka_protocol::protocol::Decodable;
use kafscale::clock::monotonic;
use kafscale::protocol::batch::BatchHeader;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

const FETCH_BYTES_MAX: i32 = 8 << 20;

/// Reads all partitions of `topic` from the beginning until [`Meter::stop`]; blocks. Latencies are from when a record was
/// due at the producer until it arrived here, µs, for what arrived while measuring.
pub fn run(address: &str, topic: &str, meter: &Meter) -> Histogram<u64> {
    let mut stream = TcpStream::connect(address).expect("broker accepts connections");
    stream.set_nodelay(true).expect("socket option");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("socket option");
    let mut next = vec![0i64; meter.due.len()];
    let mut latencies = histogram();
    let mut correlation = 0;
    while !meter.stop.load(Ordering::Relaxed) {
        correlation += 1;
        let frame = crate::client::Connection::frame(correlation, FETCH_VERSION, &request(topic, &next));
        stream.write_all(&frame.expect("request encodes")).expect("broker reads requests");
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("broker answers");
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).expect("broker answers");
        let arrived = monotonic();
        let mut frame = Bytes::from(frame);
        ResponseHeader::decode(&mut frame, 1).expect("response header");
        let answer = FetchResponse::decode(&mut frame, FETCH_VERSION).expect("response");
        assert_eq!(answer.error_code, 0, "Fetch was answered with an error");
        let measuring = meter.measuring.load(Ordering::Relaxed);
        for partition in answer.responses.iter().flat_map(|t| &t.partitions) {
            assert_eq!(partition.error_code, 0, "Fetch was answered with an error");
            let index = partition.partition_index as usize;
            let end = next_offset(partition.records.as_deref().unwrap_or(&[]), next[index]);
            let due = meter.due[index].lock().expect("no panic under the lock");
            for offset in (next[index]..end).filter(|_| measuring) {
                let latency = arrived.saturating_duration_since(due[offset as usize]);
                latencies.saturating_record(latency.as_micros() as u64);
            }
            next[index] = end;
        }
    }
    latencies
}

fn request(topic: &str, next: &[i64]) -> FetchRequest {
    let mut request = fetch_request(topic, 0, 0, 500, FETCH_BYTES_MAX);
    let partitions = next.iter().enumerate().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(index as i32)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(FETCH_BYTES_MAX)
    });
    let wanted = FetchTopic::default().with_topic(crate::client::topic_name(topic));
    request.topics = vec![wanted.with_partitions(partitions.collect())];
    request
}

/// The offset after the last whole batch in `records`, or `from` if there is none.
fn next_offset(records: &[u8], from: i64) -> i64 {
    let (mut at, mut next) = (0, from);
    while let Ok(header) = BatchHeader::parse(&records[at..]) {
        at += header.total_len() as usize;
        if at > records.len() {
            break;
        }
        next = header.next_offset().0;
    }
    next
}
