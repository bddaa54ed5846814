//! Members of one group: they share the partitions out, read them, and commit what they have read.
//!
//! A member does what real consumers do: it looks for the coordinator again when an answer says so or none comes, joins
//! again when its generation is over, and begins where the group has committed.

use super::{BACKOFF, Poller, ROUTE_DEADLINE, Shared};
use crate::client::{Client, ClientError, Connection, text};
use crate::group_client::{self, fetch_offsets, group_id, join_request};
use crate::history::Event;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{FindCoordinatorRequest, HeartbeatRequest, SyncGroupRequest};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The group.
const GROUP: &str = "readers";
/// A member that is not heard of for so long is out.
const SESSION_MS: i32 = 10_000;
/// How long an answer may take; a rebalance waits for members that are gone.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// How long a fetch waits for records: a member has several partitions and reads them in turn.
const FETCH_WAIT_MS: i32 = 50;
/// Pause between two looks at what is committed.
const COMMITS_EVERY: Duration = Duration::from_millis(500);
/// Consumers without a group have the numbers of their partitions.
const CONSUMER_FIRST: u32 = 1_000;

/// Codes after which a member looks for its coordinator again.
const ELSEWHERE: [i16; 5] = [7, 13, 14, 15, 16];
/// Codes after which it joins again: an old generation, an unknown member, a rebalance.
const REJOIN: [i16; 3] = [22, 25, 27];
const UNKNOWN_MEMBER: i16 = 25;
const MEMBER_ID_REQUIRED: i16 = 79;

struct Member {
    number: u32,
    /// Empty without one.
    id: String,
    generation: i32,
    turn: usize,
    shared: Arc<Shared>,
}

/// Reads until it is told to stop.
pub(super) async fn read_as_member(shared: Arc<Shared>, number: u32) {
    let mut member = Member { number, id: String::new(), generation: -1, turn: number as usize, shared };
    while !member.is_stopped() {
        match member.live().await {
            Ok(()) => {}
            Err(ClientError::Malformed(what)) => {
                member.shared.error(format!("member {number}: {what}"));
                return;
            }
            Err(ClientError::Code(UNKNOWN_MEMBER)) => member.id.clear(),
            Err(_) => tokio::time::sleep(BACKOFF).await,
        }
    }
}

/// Asks now and then what is committed, whoever coordinates: nobody may hear less than was acked or told before.
pub(super) async fn watch_commits(shared: Arc<Shared>) {
    let mut watcher = Member { number: 0, id: String::new(), generation: -1, turn: 0, shared };
    while !watcher.is_stopped() {
        if let Err(ClientError::Malformed(what)) = watcher.committed().await {
            return watcher.shared.error(format!("what is committed: {what}"));
        }
        tokio::time::sleep(COMMITS_EVERY).await;
    }
}

impl Member {
    fn is_stopped(&self) -> bool {
        self.shared.stop_consumers.load(Ordering::Relaxed)
    }

    /// host:port of the coordinator, as one of the brokers says.
    async fn coordinator(&mut self) -> Result<String, ClientError> {
        self.turn += 1;
        let mut client = Client::new(&self.shared.addresses[self.turn % self.shared.addresses.len()]);
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(GROUP)]);
        let answer = tokio::time::timeout(ROUTE_DEADLINE, client.call(4, &request)).await;
        let answer = answer.map_err(|_| ClientError::Timeout(ROUTE_DEADLINE))??;
        let missing = || ClientError::Malformed("no coordinator in the answer".into());
        let found = answer.coordinators.first().ok_or_else(missing)?;
        judge(found.error_code)?;
        Ok(format!("{}:{}", found.host.as_str(), found.port))
    }

    async fn connect(&mut self) -> Result<Connection, ClientError> {
        let mut connection = Connection::open(&self.coordinator().await?).await?;
        connection.deadline = ANSWER_DEADLINE;
        Ok(connection)
    }

    /// One generation, from joining to the first failure.
    async fn live(&mut self) -> Result<(), ClientError> {
        let mut connection = self.connect().await?;
        let members = self.join(&mut connection).await?;
        let mine = self.sync(&mut connection, &members).await?;
        let mut committed = self.committed().await?;
        let shared = self.shared.clone();
        let mut pollers: Vec<Poller<'_>> = Vec::new();
        for partition in mine {
            let mut poller = Poller::new(&shared, partition, false);
            poller.next = committed.get(&partition).copied().unwrap_or(0);
            (poller.consumer, poller.wait_ms) = (CONSUMER_FIRST + self.number, FETCH_WAIT_MS);
            pollers.push(poller);
        }
        while !self.is_stopped() {
            if pollers.is_empty() {
                tokio::time::sleep(BACKOFF).await;
            }
            for poller in &mut pollers {
                poller.poll().await;
            }
            let reached = pollers.iter().map(|p| (p.partition, p.next));
            let news = reached.filter(|(p, next)| committed.get(p).is_none_or(|c| c < next)).collect::<Vec<_>>();
            let said = match news.is_empty() {
                true => self.heartbeat(&mut connection).await,
                false => self.commit(&mut connection, &news).await,
            };
            match said {
                Ok(()) => committed.extend(news),
                Err(ClientError::Code(code)) if REJOIN.contains(&code) => return Err(ClientError::Code(code)),
                Err(error @ ClientError::Malformed(_)) => return Err(error),
                // The generation may go on with another coordinator.
                Err(_) => match self.connect().await {
                    Ok(found) => connection = found,
                    Err(_) => tokio::time::sleep(BACKOFF).await,
                },
            }
        }
        Ok(())
    }

    /// The members, if this one leads.
    async fn join(&mut self, connection: &mut Connection) -> Result<Vec<String>, ClientError> {
        loop {
            let request = join_request(GROUP, &self.id, None)
                .with_session_timeout_ms(SESSION_MS)
                .with_rebalance_timeout_ms(SESSION_MS);
            let answer = connection.call(9, &request).await?;
            if answer.error_code == MEMBER_ID_REQUIRED {
                self.id = answer.member_id.to_string();
                continue;
            }
            judge(answer.error_code)?;
            self.id = answer.member_id.to_string();
            self.generation = answer.generation_id;
            let leads = answer.leader == answer.member_id;
            return Ok(answer.members.iter().filter(|_| leads).map(|m| m.member_id.to_string()).collect());
        }
    }

    /// The partitions that this one reads.
    async fn sync(&self, connection: &mut Connection, members: &[String]) -> Result<Vec<i32>, ClientError> {
        let partitions = self.shared.plan.partitions;
        let assignments = members.iter().enumerate().map(|(nth, id)| {
            let of = (0..partitions).filter(|p| *p as usize % members.len() == nth).collect::<Vec<_>>();
            SyncGroupRequestAssignment::default()
                .with_member_id(text(id))
                .with_assignment(encode(&self.shared.plan.topic, &of))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation)
            .with_assignments(assignments.collect());
        let answer = connection.call(5, &request).await?;
        judge(answer.error_code)?;
        decode(&self.shared.plan.topic, &answer.assignment)
            .ok_or_else(|| ClientError::Malformed(format!("assignment {:?}", answer.assignment)))
    }

    /// Where the group is, by partition.
    async fn committed(&mut self) -> Result<HashMap<i32, i64>, ClientError> {
        let invoke_ns = self.shared.history.now_ns();
        let mut client = Client::new(&self.coordinator().await?);
        let offsets = tokio::time::timeout(ANSWER_DEADLINE, fetch_offsets(&mut client, GROUP)).await;
        let offsets = match offsets.map_err(|_| ClientError::Timeout(ANSWER_DEADLINE))? {
            Err(ClientError::Code(code)) => return Err(judge(code).expect_err("it is an error")),
            other => other?,
        };
        let found: HashMap<i32, i64> = offsets.into_iter().map(|(_, p, offset, _)| (p, offset)).collect();
        for partition in 0..self.shared.plan.partitions {
            self.shared.history.push(Event::CommitRead {
                group: GROUP.into(),
                partition: self.shared.partition_name(partition),
                invoke_ns,
                offset: found.get(&partition).copied().unwrap_or(0),
            });
        }
        Ok(found)
    }

    async fn heartbeat(&self, connection: &mut Connection) -> Result<(), ClientError> {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation);
        judge(connection.call(4, &request).await?.error_code)
    }

    async fn commit(&self, connection: &mut Connection, read: &[(i32, i64)]) -> Result<(), ClientError> {
        let caller = group_client::Member {
            id: self.id.clone(),
            generation: self.generation,
            ..group_client::Member::none(GROUP)
        };
        let request = group_client::commit_request(&caller, &self.shared.plan.topic, read);
        let answer = connection.call(9, &request).await?;
        let rows = answer.topics.first().map(|t| &t.partitions[..]).unwrap_or_default();
        if rows.len() != read.len() {
            return Err(ClientError::Malformed("another number of partitions than was committed".into()));
        }
        rows.iter().try_for_each(|row| judge(row.error_code))?;
        for (partition, offset) in read {
            self.shared.history.push(Event::CommitOk {
                group: GROUP.into(),
                partition: self.shared.partition_name(*partition),
                offset: *offset,
            });
            self.shared.committed.lock().expect("no panic under the lock").insert(*partition, *offset);
        }
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A code of the coordinator's as a result; what no correct broker says is malformed.
fn judge(code: i16) -> Result<(), ClientError> {
    match code {
        0 => Ok(()),
        code if ELSEWHERE.contains(&code) || REJOIN.contains(&code) => Err(ClientError::Code(code)),
        code => Err(ClientError::Malformed(format!("code {code} from the coordinator"))),
    }
}

/// An assignment of partitions of one topic, as Kafka's consumers write it.
fn encode(topic: &str, partitions: &[i32]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(1);
    out.put_i16(topic.len() as i16);
    out.put_slice(topic.as_bytes());
    out.put_i32(partitions.len() as i32);
    partitions.iter().for_each(|p| out.put_i32(*p));
    out.put_i32(-1);
    out.freeze()
}

/// What [`encode`] wrote.
fn decode(topic: &str, assignment: &[u8]) -> Option<Vec<i32>> {
    let head = 2 + 4 + 2 + topic.len();
    let count = i32::from_be_bytes(assignment.get(head..head + 4)?.try_into().ok()?);
    let partition = |nth: usize| {
        let at = head + 4 + 4 * nth;
        Some(i32::from_be_bytes(assignment.get(at..at + 4)?.try_into().ok()?))
    };
    let partitions: Option<Vec<i32>> = (0..count as usize).map(partition).collect();
    partitions.filter(|p| encode(topic, p)[..] == *assignment)
}
