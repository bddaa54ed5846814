//! Writes records that somebody typed.

use crate::ids::Offset;
use crate::protocol::records::BatchBuilder;
use crate::web::audit::{Actor, Audit, Outcome};
use crate::web::kafka::{KafkaClient, KafkaError, PartitionAt, Target, topic_name, within};
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Records of a request.
pub const RECORDS_MAX: usize = 500;
/// Longest body, bytes.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Headers of a record.
const HEADERS_MAX: usize = 256;
/// How long brokers are waited for; an answer begins within 15 s.
const WITHIN: Duration = Duration::from_secs(12);
/// How long a broker may take to make them durable, ms.
const TIMEOUT_MS: i32 = 10_000;
/// All replicas, that is: durable.
const ACKS_ALL: i16 = -1;

#[derive(Deserialize)]
struct Body {
    records: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    partition: Option<i32>,
    key: Option<String>,
    #[serde(default)]
    key_encoding: Encoding,
    value: Option<String>,
    #[serde(default)]
    value_encoding: Encoding,
    #[serde(default)]
    headers: Vec<GivenHeader>,
    timestamp_ms: Option<i64>,
}

#[derive(Deserialize)]
struct GivenHeader {
    key: String,
    value: Option<String>,
    #[serde(default)]
    value_encoding: Encoding,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Text,
    Base64,
}

/// A record in bytes.
struct Ready {
    partition: i32,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp_ms: i64,
}

/// POST `/topics/{name}/messages`.
pub async fn produce(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {BODY_BYTES_MAX} bytes: send the records in several requests");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", detail)
    };
    let body = payload.to_bytes_limited(BODY_BYTES_MAX).await.map_err(|_| too_large())?;
    let body = body.map_err(|e| Problem::invalid(format!("the body cannot be read: {e}")))?;
    let body: Body = serde_json::from_slice(&body).map_err(|e| Problem::invalid(format!("the body: {e}")))?;
    if body.records.is_empty() || body.records.len() > RECORDS_MAX {
        return Err(Problem::invalid(format!("send 1 to {RECORDS_MAX} records")));
    }
    let deadline = within(WITHIN);
    let topic = state.kafka.topic(&path, deadline).await?;
    let now_ms = state.clock.wall_ms();
    let partitions = &topic.partitions;
    let mut ready = Vec::with_capacity(body.records.len());
    // Records without a key go together, to a partition that changes with each request.
    let keyless = partitions.get(crate::rng::u64() as usize % partitions.len().max(1)).map_or(0, |p| p.partition);
    for (index, given) in body.records.into_iter().enumerate() {
        ready.push(
            prepare(given, partitions, keyless, now_ms)
                .map_err(|why| Problem::invalid(format!("record {index}: {why}")))?,
        );
    }
    let results = send(&state.kafka, &path, partitions, &ready, deadline).await;
    let failed = results.iter().filter_map(|result| result.as_ref().err()).collect::<Vec<_>>();
    let (outcome, detail) = match failed.first() {
        None => (Outcome::Ok, String::new()),
        Some(error) => (Outcome::Failed, format!("{} of {} records: {error}", failed.len(), ready.len())),
    };
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    ready.iter().for_each(|record| *counts.entry(record.partition).or_default() += 1);
    let written = json!({ "records": ready.len(), "by_partition": counts });
    audit.record(&actor, "records.produce", format!("topic/{path}"), Value::Null, written, outcome, detail);
    let results = ready.iter().zip(&results).map(|(record, result)| match result {
        Ok(offset) => json!({ "partition": record.partition, "offset": offset.0.to_string(), "error": null }),
        Err(error) => json!({ "partition": record.partition, "offset": null, "error": error.to_string() }),
    });
    Ok(HttpResponse::Ok().json(json!({ "results": results.collect::<Vec<_>>() })))
}

fn bytes_of(text: Option<String>, encoding: Encoding, what: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(text) = text else { return Ok(None) };
    match encoding {
        Encoding::Text => Ok(Some(text.into_bytes())),
        Encoding::Base64 => STANDARD.decode(text).map(Some).map_err(|e| format!("{what} is no base64: {e}")),
    }
}

fn prepare(given: Given, partitions: &[PartitionAt], keyless: i32, now_ms: i64) -> Result<Ready, String> {
    let key = bytes_of(given.key, given.key_encoding, "key")?;
    if given.headers.len() > HEADERS_MAX {
        return Err(format!("a record has at most {HEADERS_MAX} headers here"));
    }
    let header = |header: GivenHeader| Ok((header.key, bytes_of(header.value, header.value_encoding, "a header")?));
    let partition = match (given.partition, &key) {
        (Some(partition), _) if partitions.iter().any(|p| p.partition == partition) => partition,
        (Some(partition), _) => return Err(format!("there is no partition {partition}")),
        (None, Some(key)) => (murmur2(key) & 0x7fff_ffff) as i32 % partitions.len().max(1) as i32,
        (None, None) => keyless,
    };
    if given.timestamp_ms.is_some_and(|at_ms| at_ms < 0) {
        return Err("timestamp_ms is Unix milliseconds".to_owned());
    }
    Ok(Ready {
        partition,
        value: bytes_of(given.value, given.value_encoding, "value")?,
        headers: given.headers.into_iter().map(header).collect::<Result<_, String>>()?,
        timestamp_ms: given.timestamp_ms.unwrap_or(now_ms),
        key,
    })
}

/// A batch per partition, a request per leader. What was not answered may have been written or not, and says so.
async fn send(
    client: &KafkaClient,
    topic: &str,
    partitions: &[PartitionAt],
    ready: &[Ready],
    deadline: Instant,
) -> Vec<Result<Offset, KafkaError>> {
    let leader_of = |partition: i32| partitions.iter().find(|p| p.partition == partition).and_then(|p| p.leader);
    let mut results: Vec<Result<Offset, KafkaError>> = ready
        .iter()
        .map(|record| Err(KafkaError::NoLeader { topic: topic.to_owned(), partition: record.partition }))
        .collect();
    let mut by_leader: BTreeMap<i32, BTreeMap<i32, Vec<usize>>> = BTreeMap::new();
    for (i, record) in ready.iter().enumerate() {
        if let Some(leader) = leader_of(record.partition) {
            by_leader.entry(leader).or_default().entry(record.partition).or_default().push(i);
        }
    }
    let asked = by_leader.into_iter().map(|(leader, batches)| async move {
        let data = batches.iter().map(|(partition, records)| {
            let records = batch(records.iter().map(|i| &ready[*i]));
            PartitionProduceData::default().with_index(*partition).with_records(Some(records))
        });
        let data = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(data.collect());
        let request =
            ProduceRequest::default().with_acks(ACKS_ALL).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![data]);
        let answer = client.call(Target::Node(leader), request, deadline).await;
        (batches, answer)
    });
    for (batches, answer) in join_all(asked).await {
        let answers: Result<BTreeMap<i32, Result<i64, KafkaError>>, KafkaError> = answer.map(|answer| {
            let of_partition = |p: &kafka_protocol::messages::produce_response::PartitionProduceResponse| {
                (p.index, KafkaError::check(p.error_code, p.error_message.as_deref()).map(|()| p.base_offset))
            };
            answer.responses.iter().flat_map(|t| &t.partition_responses).map(of_partition).collect()
        });
        for (partition, records) in batches {
            for (place, i) in records.into_iter().enumerate() {
                match &answers {
                    Ok(answers) => {
                        if let Some(answer) = answers.get(&partition) {
                            results[i] = answer.clone().map(|base| Offset(base.saturating_add(place as i64)));
                        }
                    }
                    Err(error) => results[i] = Err(error.clone()),
                }
            }
        }
    }
    results
}

fn batch<'a>(records: impl Iterator<Item = &'a Ready>) -> Bytes {
    let mut builder = BatchBuilder::new();
    for record in records {
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        builder.push_with_headers(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build()
}

/// The hash that Kafka's producers choose partitions by.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ bytes.len() as u32;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("four bytes")).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::batch::BatchHeader;
    use crate::protocol::records::{Records, headers};

    fn given(json: Value) -> Result<Ready, String> {
        let partition = |partition| PartitionAt { partition, leader: Some(0), leader_epoch: 0, replicas: vec![0] };
        let partitions: Vec<_> = (0..4).map(partition).collect();
        prepare(serde_json::from_value(json).unwrap(), &partitions, 2, 77)
    }

    #[test]
    fn keys_go_where_kafkas_producers_send_them() {
        // Values of the test of Kafka's own utility.
        let cases: [(&[u8], i32); 4] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"abc", 479_470_107),
        ];
        for (bytes, hash) in cases {
            assert_eq!(murmur2(bytes) as i32, hash);
        }
    }

    #[test]
    fn records_are_what_was_typed() {
        let record =
            given(json!({ "value": null, "headers": [{ "key": "h", "value": "AAE=", "value_encoding": "base64" }] }))
                .unwrap();
        assert_eq!((record.partition, record.value.clone(), record.timestamp_ms), (2, None, 77));
        assert_eq!(record.headers, [("h".to_owned(), Some(vec![0, 1]))]);
        assert!(given(json!({ "partition": 9, "value": "x" })).is_err());
        assert!(given(json!({ "value": "%", "value_encoding": "base64" })).is_err());
        let bytes = batch([&record].into_iter());
        let header = BatchHeader::parse(&bytes).unwrap();
        let records = &bytes[crate::protocol::batch::HEADER_LEN..];
        let read = Records::stored(records, &header).next().unwrap().unwrap();
        let (name, value) = headers(records, &read).remove(0);
        assert_eq!((read.value, &records[name], &records[value.unwrap()]), (None, &b"h"[..], &[0_u8, 1][..]));
    }
}
