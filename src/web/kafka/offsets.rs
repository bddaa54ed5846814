//! Offsets of partitions, asked of their leaders.
//!
//! What comes out is an offset or `None`: the protocol's negative numbers end here, so that none of them is ever committed.

use super::client::{KafkaClient, Target, topic_name};
use super::error::KafkaError;
use futures::future::join_all;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, ListOffsetsResponse};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// Topics whose leaders are asked for at a time.
const TOPICS_MAX: usize = 1_000;
/// How long a broker may look for a record, ms.
const TIMEOUT_MS: i32 = 5_000;
/// How often leaders are looked for anew.
const ATTEMPTS_MAX: usize = 2;

/// A partition by its topic's name.
pub type PartitionOf = (String, i32);

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first record there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// The record with the newest timestamp.
    MaxTimestamp,
    /// The first record that is not older, Unix milliseconds.
    Time(i64),
}

impl Place {
    /// The protocol's number.
    fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            // Negative times would mean something else.
            Self::Time(at_ms) => at_ms.max(0),
        }
    }
}

/// What is found at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Offset, never negative.
    pub offset: i64,
    /// Time of the record, if the place has one.
    pub timestamp_ms: Option<i64>,
    /// Epoch of the leader that wrote it, if known.
    pub leader_epoch: Option<i32>,
}

/// An answer per partition; `None` where there is no such record.
pub type Offsets = BTreeMap<PartitionOf, Result<Option<At>, KafkaError>>;

impl KafkaClient {
    /// Offsets of `place` in `partitions`, each asked of its leader; leaders beside each other, and once more of those that
    /// have just taken over.
    pub async fn offsets(&self, partitions: &[PartitionOf], place: Place, deadline: Instant) -> Offsets {
        let mut offsets = Offsets::new();
        let mut wanted: BTreeSet<PartitionOf> = partitions.iter().cloned().collect();
        for attempt in 1..=ATTEMPTS_MAX {
            if wanted.is_empty() {
                break;
            }
            let found = self.offsets_once(&wanted, place, deadline).await;
            let moved = |answer: &Result<Option<At>, KafkaError>| matches!(answer, Err(error) if error.is_misdirected() || matches!(error, KafkaError::Closed { .. }));
            wanted = match attempt {
                ATTEMPTS_MAX => BTreeSet::new(),
                _ => found.iter().filter(|(_, answer)| moved(answer)).map(|(at, _)| at.clone()).collect(),
            };
            offsets.extend(found);
        }
        offsets
    }

    async fn offsets_once(&self, wanted: &BTreeSet<PartitionOf>, place: Place, deadline: Instant) -> Offsets {
        let mut offsets = Offsets::new();
        let names: Vec<&str> =
            wanted.iter().map(|(topic, _)| topic.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let mut topics = BTreeMap::new();
        for some in names.chunks(TOPICS_MAX) {
            match self.topics(some, deadline).await {
                Ok(found) => topics.extend(found),
                Err(error) => topics.extend(some.iter().map(|name| ((*name).to_owned(), Err(error.clone())))),
            }
        }
        let mut by_leader: BTreeMap<i32, Vec<(PartitionOf, i32)>> = BTreeMap::new();
        for at in wanted {
            let leader = match topics.get(&at.0) {
                Some(Ok(topic)) => match topic.partitions.iter().find(|p| p.partition == at.1) {
                    Some(p) => p.leader.map(|leader| (leader, p.leader_epoch)),
                    None => {
                        let code = crate::protocol::error_code::ErrorCode::UnknownTopicOrPartition.code();
                        let message = format!("topic {} has no partition {}", at.0, at.1);
                        offsets.insert(at.clone(), KafkaError::check(code, Some(&message)).map(|()| None));
                        continue;
                    }
                },
                Some(Err(error)) => {
                    offsets.insert(at.clone(), Err(error.clone()));
                    continue;
                }
                None => None,
            };
            match leader {
                Some((leader, epoch)) => by_leader.entry(leader).or_default().push((at.clone(), epoch)),
                None => {
                    let error = KafkaError::NoLeader { topic: at.0.clone(), partition: at.1 };
                    offsets.insert(at.clone(), Err(error));
                }
            }
        }
        let asked = by_leader.into_iter().map(|(leader, partitions)| async move {
            let request = request_of(&partitions, place);
            let answer = self.call(Target::Node(leader), request, deadline).await;
            read(&partitions, answer)
        });
        offsets.extend(join_all(asked).await.into_iter().flatten());
        offsets
    }
}

fn request_of(partitions: &[(PartitionOf, i32)], place: Place) -> ListOffsetsRequest {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for ((topic, partition), leader_epoch) in partitions {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(*partition)
            .with_current_leader_epoch(*leader_epoch)
            .with_timestamp(place.timestamp());
        topics.entry(topic).or_default().push(partition);
    }
    let topic = |(name, partitions): (&str, Vec<ListOffsetsPartition>)| {
        ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(topics.into_iter().map(topic).collect())
        .with_timeout_ms(TIMEOUT_MS)
}

fn read(partitions: &[(PartitionOf, i32)], answer: Result<ListOffsetsResponse, KafkaError>) -> Offsets {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return partitions.iter().map(|(at, _)| (at.clone(), Err(error.clone()))).collect(),
    };
    let mut found = Offsets::new();
    for topic in &answer.topics {
        for p in &topic.partitions {
            let at = KafkaError::check(p.error_code, None).map(|()| {
                (p.offset >= 0).then_some(At {
                    offset: p.offset,
                    timestamp_ms: Some(p.timestamp).filter(|t| *t >= 0),
                    leader_epoch: Some(p.leader_epoch).filter(|e| *e >= 0),
                })
            });
            found.insert((topic.name.to_string(), p.partition_index), at);
        }
    }
    // A leader that leaves out what it was asked for.
    for ((topic, partition), _) in partitions {
        let at = (topic.clone(), *partition);
        let silent = || Err(KafkaError::NoLeader { topic: topic.clone(), partition: *partition });
        found.entry(at).or_insert_with(silent);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    use proptest::prelude::*;

    proptest! {
        /// Whatever a broker answers, no negative offset comes out.
        #[test]
        fn no_negative_offset_comes_out(offset: i64, timestamp: i64, code in prop_oneof![Just(0i16), any::<i16>()]) {
            let partition = ListOffsetsPartitionResponse::default()
                .with_partition_index(0).with_offset(offset).with_timestamp(timestamp).with_error_code(code);
            let topic = ListOffsetsTopicResponse::default().with_name(topic_name("t")).with_partitions(vec![partition]);
            let answer = ListOffsetsResponse::default().with_topics(vec![topic]);
            let found = read(&[(("t".to_owned(), 0), 0)], Ok(answer));
            match found.values().next().unwrap() {
                Ok(Some(at)) => prop_assert!(at.offset >= 0 && at.offset == offset && at.timestamp_ms.is_none_or(|t| t >= 0)),
                Ok(None) => prop_assert!(offset < 0 && code == 0),
                Err(_) => prop_assert!(code != 0),
            }
        }
    }

    #[test]
    fn a_negative_time_is_no_special_place() {
        assert_eq!([Place::Time(-1).timestamp(), Place::Latest.timestamp(), Place::Earliest.timestamp()], [0, -1, -2]);
    }
}
