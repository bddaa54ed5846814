//! What coordinators say of groups: their members, and what they have committed.

use crate::protocol::error_code::ErrorCode;
use crate::web::kafka::{KafkaClient, KafkaError, PartitionOf, Target, group_id, topic_name};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DescribeGroupsRequest, OffsetFetchRequest, consumer_group_describe_response,
    describe_groups_response,
};
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// Groups of the protocol of KIP-848, as ListGroups names their type.
pub const CONSUMER: &str = "consumer";
/// Groups of the older protocol.
pub const CLASSIC: &str = "classic";

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Given by the coordinator or chosen by the client.
    pub id: String,
    /// Of static members.
    pub instance_id: Option<String>,
    /// What the client calls itself.
    pub client_id: String,
    /// Its address.
    pub host: String,
    /// Partitions by topic.
    pub assignments: BTreeMap<String, Vec<i32>>,
}

/// A group as its coordinator has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// State, in Kafka's words.
    pub state: String,
    /// [`CLASSIC`] or [`CONSUMER`].
    pub kind: &'static str,
    /// How partitions are shared out.
    pub assignor: String,
    /// Members.
    pub members: Vec<Member>,
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Offset, never negative.
    pub offset: i64,
    /// Epoch of the leader that the client knew.
    pub leader_epoch: Option<i32>,
    /// The client's note.
    pub metadata: String,
}

/// Committed offsets by topic and partition.
pub type Commits = BTreeMap<PartitionOf, Committed>;

/// Groups of one coordinator, of whatever type; an error per group that it does not know.
pub async fn groups(
    kafka: &KafkaClient,
    node: i32,
    wanted: &[(&str, &str)],
    deadline: Instant,
) -> HashMap<String, Result<Described, KafkaError>> {
    let of_kind = |is_consumer: bool| -> Vec<&str> {
        wanted.iter().filter(|(_, kind)| (*kind == CONSUMER) == is_consumer).map(|(id, _)| *id).collect()
    };
    let (consumer, classic) = (of_kind(true), of_kind(false));
    let (mut found, others) = futures::join!(
        consumer_groups(kafka, node, &consumer, deadline),
        classic_groups(kafka, node, &classic, deadline)
    );
    found.extend(others);
    found
}

/// One group, of whatever type.
pub async fn group(kafka: &KafkaClient, node: i32, id: &str, deadline: Instant) -> Result<Described, KafkaError> {
    let newer = consumer_groups(kafka, node, &[id], deadline).await.remove(id);
    if let Some(Ok(described)) = newer {
        return Ok(described);
    }
    classic_groups(kafka, node, &[id], deadline).await.remove(id).unwrap_or_else(|| Err(unknown(id)))
}

/// That there is no such group.
pub fn unknown(id: &str) -> KafkaError {
    let code = ErrorCode::GroupIdNotFound.code();
    KafkaError::Code { code, name: crate::web::kafka::code_name(code), message: format!("there is no group {id:?}") }
}

async fn consumer_groups(
    kafka: &KafkaClient,
    node: i32,
    ids: &[&str],
    deadline: Instant,
) -> HashMap<String, Result<Described, KafkaError>> {
    if ids.is_empty() {
        return HashMap::new();
    }
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids.iter().map(|id| group_id(id)).collect());
    match kafka.call(Target::Node(node), request, deadline).await {
        Ok(answer) => answer.groups.into_iter().map(|g| (g.group_id.to_string(), of_consumer(g))).collect(),
        Err(error) => ids.iter().map(|id| ((*id).to_owned(), Err(error.clone()))).collect(),
    }
}

fn of_consumer(group: consumer_group_describe_response::DescribedGroup) -> Result<Described, KafkaError> {
    KafkaError::check(group.error_code, group.error_message.as_deref())?;
    let member = |m: consumer_group_describe_response::Member| {
        let assignments = m.assignment.topic_partitions.into_iter();
        Member {
            id: m.member_id.to_string(),
            instance_id: m.instance_id.map(|id| id.to_string()),
            client_id: m.client_id.to_string(),
            host: m.client_host.to_string(),
            assignments: assignments.map(|t| (t.topic_name.to_string(), t.partitions)).collect(),
        }
    };
    Ok(Described {
        state: group.group_state.to_string(),
        kind: CONSUMER,
        assignor: group.assignor_name.to_string(),
        members: group.members.into_iter().map(member).collect(),
    })
}

async fn classic_groups(
    kafka: &KafkaClient,
    node: i32,
    ids: &[&str],
    deadline: Instant,
) -> HashMap<String, Result<Described, KafkaError>> {
    if ids.is_empty() {
        return HashMap::new();
    }
    let request = DescribeGroupsRequest::default().with_groups(ids.iter().map(|id| group_id(id)).collect());
    match kafka.call(Target::Node(node), request, deadline).await {
        Ok(answer) => answer.groups.into_iter().map(|g| (g.group_id.to_string(), of_classic(g))).collect(),
        Err(error) => ids.iter().map(|id| ((*id).to_owned(), Err(error.clone()))).collect(),
    }
}

fn of_classic(group: describe_groups_response::DescribedGroup) -> Result<Described, KafkaError> {
    KafkaError::check(group.error_code, group.error_message.as_deref())?;
    // What older versions say of a group that there is not.
    if &*group.group_state == "Dead" {
        return Err(unknown(&group.group_id));
    }
    let is_consumer = matches!(&*group.protocol_type, CONSUMER | "");
    let member = |m: describe_groups_response::DescribedGroupMember| Member {
        id: m.member_id.to_string(),
        instance_id: m.group_instance_id.map(|id| id.to_string()),
        client_id: m.client_id.to_string(),
        host: m.client_host.to_string(),
        // Others (Connect, for one) put something else there.
        assignments: if is_consumer { assignment(&m.member_assignment).unwrap_or_default() } else { BTreeMap::new() },
    };
    Ok(Described {
        state: group.group_state.to_string(),
        kind: CLASSIC,
        assignor: group.protocol_data.to_string(),
        members: group.members.into_iter().map(member).collect(),
    })
}

/// What is assigned to a member. The bytes were made by another member: they may be anything, and nothing is reserved for
/// what they merely promise.
fn assignment(bytes: &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut rest = bytes;
    let version = i16::from_be_bytes(take(&mut rest)?);
    if version < 0 {
        return None;
    }
    let topics = i32::from_be_bytes(take(&mut rest)?);
    let mut assigned = BTreeMap::new();
    for _ in 0..topics {
        let length = usize::try_from(i16::from_be_bytes(take(&mut rest)?)).ok()?;
        let (name, tail) = rest.split_at_checked(length)?;
        rest = tail;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let count = i32::from_be_bytes(take(&mut rest)?);
        let mut partitions = Vec::new();
        for _ in 0..count {
            partitions.push(i32::from_be_bytes(take(&mut rest)?));
        }
        assigned.insert(name, partitions);
    }
    Some(assigned)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

/// What groups of one coordinator have committed: everything, or for these partitions of a topic.
pub async fn commits(
    kafka: &KafkaClient,
    node: i32,
    ids: &[&str],
    only: Option<(&str, &[i32])>,
    deadline: Instant,
) -> HashMap<String, Result<Commits, KafkaError>> {
    let topics = only.map(|(name, partitions)| {
        vec![
            OffsetFetchRequestTopics::default().with_name(topic_name(name)).with_partition_indexes(partitions.to_vec()),
        ]
    });
    let group = |id: &&str| {
        OffsetFetchRequestGroup::default().with_group_id(group_id(id)).with_member_epoch(-1).with_topics(topics.clone())
    };
    let request = OffsetFetchRequest::default().with_groups(ids.iter().map(group).collect());
    let answer = match kafka.call(Target::Node(node), request, deadline).await {
        Ok(answer) => answer,
        Err(error) => return ids.iter().map(|id| ((*id).to_owned(), Err(error.clone()))).collect(),
    };
    let mut found = HashMap::with_capacity(ids.len());
    for group in answer.groups {
        let mut commits = KafkaError::check(group.error_code, None).map(|()| Commits::new());
        if let Ok(commits) = &mut commits {
            for topic in &group.topics {
                for p in topic.partitions.iter().filter(|p| p.error_code == 0 && p.committed_offset >= 0) {
                    let committed = Committed {
                        offset: p.committed_offset,
                        leader_epoch: Some(p.committed_leader_epoch).filter(|epoch| *epoch >= 0),
                        metadata: p.metadata.as_ref().map(|text| text.to_string()).unwrap_or_default(),
                    };
                    commits.insert((topic.name.to_string(), p.partition_index), committed);
                }
            }
        }
        found.insert(group.group_id.to_string(), commits);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::ConsumerProtocolAssignment;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
    use kafka_protocol::protocol::Encodable;
    use proptest::prelude::*;

    #[test]
    fn an_assignment_is_read_as_clients_write_it() {
        let topic = TopicPartition::default().with_topic(topic_name("orders")).with_partitions(vec![0, 7]);
        let mut bytes = BytesMut::from(&[0u8, 3][..]);
        ConsumerProtocolAssignment::default().with_assigned_partitions(vec![topic]).encode(&mut bytes, 3).unwrap();
        assert_eq!(assignment(&bytes), Some(BTreeMap::from([("orders".to_owned(), vec![0, 7])])));
    }

    #[test]
    fn what_an_assignment_promises_is_not_reserved() {
        let huge = [0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 1, b'a', 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(assignment(&huge), None);
        assert_eq!(assignment(&[0xff, 0xff, 0, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn whatever_members_wrote_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = assignment(&bytes);
        }
    }
}
