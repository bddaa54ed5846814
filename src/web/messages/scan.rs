//! A search in a topic: lanes that read from the brokers until there is enough, or time or bytes are used up.

use super::cursor;
use super::lane::{Direction, Lane, next_of};
use super::record::{Bounds, Matcher, Record, Taken, take};
use crate::clock::monotonic;
use crate::protocol::error_code::ErrorCode;
use crate::web::kafka::{KafkaClient, KafkaError, PartitionOf, Place, Target, topic_name};
use crate::web::problem::Problem;
use crate::web::state::Missing;
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Searches that are evaluated at a time; others wait for their turn.
const EVALUATING_MAX: usize = 2;
/// Bytes that a partition sends at a time, of a page and of a search.
const PAGE_FETCH_BYTES: i32 = 128 << 10;
const SEARCH_FETCH_BYTES: i32 = 1 << 20;
/// Bytes that a broker sends at a time.
const FETCH_BYTES_MAX: i32 = 8 << 20;
/// Bytes (decompressed) after which a page is handed out as it is.
const SCAN_BYTES_MAX: u64 = 64 << 20;
/// What a scan that somebody follows holds at most: of a partition, and of all of them. A browser that does not read keeps it.
const FOLLOWED_FETCH_BYTES: i32 = 8 << 10;
const FOLLOWED_BYTES_MAX: i32 = 16 << 10;
/// How long a broker waits for its object store, or for records to come.
const WAIT_MS: i32 = 500;
/// What is left of the time when brokers are asked, for the way.
const MARGIN: Duration = Duration::from_millis(200);

static EVALUATING: Semaphore = Semaphore::const_new(EVALUATING_MAX);

/// Where a search begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The end, and backwards.
    Newest,
    /// The end, and forwards: what comes from now on.
    Now,
    /// The beginning.
    Oldest,
    /// This offset.
    Offset(i64),
    /// The first record that is not older, Unix milliseconds.
    Time(i64),
    /// Where another page ended.
    Cursor(Direction, BTreeMap<i32, i64>),
}

/// What is searched.
#[derive(Debug)]
pub struct Plan {
    /// Name of the topic.
    pub topic: String,
    /// A partition, or all.
    pub partition: Option<i32>,
    /// Where to begin.
    pub from: From,
    /// Records that are expected to be wanted: no more is read than they need.
    pub limit: usize,
    /// Which records.
    pub matcher: Matcher,
}

/// Why a page ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// It is full.
    Limit,
    /// There is nothing more.
    End,
    /// Time is over.
    Time,
    /// Enough bytes were read.
    Bytes,
}

impl StoppedBy {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::End => "end",
            Self::Time => "time",
            Self::Bytes => "bytes",
        }
    }
}

/// See the module's documentation.
pub struct Scan {
    client: Arc<KafkaClient>,
    topic: String,
    direction: Direction,
    lanes: Vec<Lane>,
    matcher: Arc<Matcher>,
    /// Records looked at.
    pub scanned_records: u64,
    /// Bytes of them.
    pub scanned_bytes: u64,
    failed: (u64, Option<String>),
    /// Batches that cannot be read, by partition: the first of each.
    damaged: BTreeMap<i32, String>,
    /// Partitions of which nobody has said where they end.
    unbounded: BTreeSet<i32>,
    left_out: usize,
    is_followed: bool,
}

impl Scan {
    /// Finds the partitions, where they begin and end, and where to begin.
    pub async fn open(client: Arc<KafkaClient>, plan: Plan, deadline: Instant) -> Result<Self, Problem> {
        let topic = client.topic(&plan.topic, deadline).await?;
        let mut partitions = topic.partitions;
        if let Some(wanted) = plan.partition {
            partitions.retain(|p| p.partition == wanted);
            if partitions.is_empty() {
                return Err(Problem::not_found(format!("topic {} has no partition {wanted}", plan.topic)));
            }
        }
        let left_out = partitions.len().saturating_sub(cursor::PARTITIONS_MAX);
        partitions.truncate(cursor::PARTITIONS_MAX);
        let names: Vec<PartitionOf> = partitions.iter().map(|p| (plan.topic.clone(), p.partition)).collect();
        let time = match plan.from {
            From::Time(at_ms) => Some(Place::Time(at_ms)),
            _ => None,
        };
        let at_time = async {
            match time {
                Some(place) => Some(client.offsets(&names, place, deadline).await),
                None => None,
            }
        };
        let (starts, ends, times) = tokio::join!(
            client.offsets(&names, Place::Earliest, deadline),
            client.offsets(&names, Place::Latest, deadline),
            at_time
        );
        let direction = match &plan.from {
            From::Newest | From::Cursor(Direction::Down, _) => Direction::Down,
            _ => Direction::Up,
        };
        let step = plan.limit.div_ceil(partitions.len().max(1)).max(8) as i64;
        let mut lanes = Vec::with_capacity(partitions.len());
        let mut unbounded = BTreeSet::new();
        for (p, name) in partitions.iter().zip(&names) {
            let bound = |offsets: &crate::web::kafka::Offsets| match offsets.get(name) {
                Some(Ok(at)) => Ok(at.map(|at| at.offset)),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("no answer".to_owned()),
            };
            let bounds = bound(&starts).and_then(|start| {
                let end = bound(&ends)?;
                let at_time = times.as_ref().map(bound).transpose()?.flatten();
                Ok((start.unwrap_or(0), end.or(start).unwrap_or(0), at_time))
            });
            let known = match &plan.from {
                From::Cursor(_, positions) => positions.get(&p.partition).copied(),
                From::Offset(offset) => Some(*offset),
                _ => None,
            };
            let mut lane = match bounds {
                Ok((start, end, at_time)) => {
                    let position = match (&plan.from, known) {
                        (_, Some(known)) => known,
                        (From::Oldest, _) => start,
                        (From::Time(_), _) => at_time.unwrap_or(end),
                        (From::Cursor(Direction::Up, _), _) => start,
                        _ => end,
                    };
                    Lane::new(p.partition, direction, start, end, position, step)
                }
                Err(why) => {
                    unbounded.insert(p.partition);
                    // Where it is does not matter, other than that a cursor keeps it.
                    let position = known.unwrap_or(if direction == Direction::Down { i64::MAX } else { 0 });
                    let mut lane = Lane::new(p.partition, direction, 0, i64::MAX, position, step);
                    lane.failed = Some(why);
                    lane
                }
            };
            lane.leader = p.leader.map(|leader| (leader, p.leader_epoch));
            if lane.leader.is_none() && lane.failed.is_none() {
                lane.failed = Some("it has no leader at the moment".to_owned());
            }
            lanes.push(lane);
        }
        if !lanes.is_empty() && lanes.iter().all(|lane| lane.failed.is_some()) {
            let why = lanes[0].failed.clone().unwrap_or_default();
            return Err(Problem::unavailable(format!("no partition of topic {} can be read: {why}", plan.topic)));
        }
        Ok(Self {
            client,
            topic: plan.topic,
            direction,
            lanes,
            matcher: Arc::new(plan.matcher),
            scanned_records: 0,
            scanned_bytes: 0,
            failed: (0, None),
            damaged: BTreeMap::new(),
            unbounded,
            left_out,
            is_followed: plan.from == From::Now,
        })
    }

    /// The next records, at most `limit`.
    pub async fn page(&mut self, limit: usize, deadline: Instant) -> (Vec<Record>, StoppedBy) {
        let bytes_end = self.scanned_bytes + SCAN_BYTES_MAX;
        let mut records = Vec::new();
        loop {
            while records.len() < limit {
                let Some(lane) = next_of(&self.lanes, self.direction, true) else { break };
                records.extend(self.lanes[lane].pop());
            }
            if records.len() >= limit {
                return (records, StoppedBy::Limit);
            }
            if !self.lanes.iter().any(Lane::is_hungry) {
                return (records, StoppedBy::End);
            }
            let stopped = match () {
                () if monotonic() + MARGIN >= deadline => StoppedBy::Time,
                () if self.scanned_bytes >= bytes_end => StoppedBy::Bytes,
                () => {
                    self.read(deadline).await;
                    continue;
                }
            };
            // What was found is handed out, in order as far as that is known.
            while records.len() < limit
                && let Some(lane) = next_of(&self.lanes, self.direction, false)
            {
                records.extend(self.lanes[lane].pop());
            }
            return (records, stopped);
        }
    }

    /// Some of the next records, in the order in which they are here: as many as `bytes_max` holds, at least one if there is one.
    /// Brokers are asked only if nothing is here.
    pub async fn some(&mut self, bytes_max: usize, deadline: Instant) -> Vec<Record> {
        while self.lanes.iter().all(|lane| lane.peek().is_none())
            && self.lanes.iter().any(Lane::is_hungry)
            && monotonic() + MARGIN < deadline
        {
            self.read(deadline).await;
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(lane) = next_of(&self.lanes, self.direction, false) {
            let next = self.lanes[lane].peek().map_or(0, |record| record.size_bytes);
            if !records.is_empty() && bytes + next > bytes_max {
                break;
            }
            bytes += next;
            records.extend(self.lanes[lane].pop());
        }
        records
    }

    /// Lets all lanes that are hungry read, leaders beside each other.
    async fn read(&mut self, deadline: Instant) {
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            if lane.is_hungry() {
                match lane.leader {
                    Some((leader, _)) => by_leader.entry(leader).or_default().push(i),
                    None => lane.failed = Some("it has no leader at the moment".to_owned()),
                }
            }
        }
        let mut asked = Vec::new();
        for (leader, lanes) in by_leader {
            let wanted: Vec<_> = lanes
                .into_iter()
                .map(|i| {
                    let epoch = self.lanes[i].leader.map_or(-1, |(_, epoch)| epoch);
                    (i, self.lanes[i].partition, self.lanes[i].wants(), epoch)
                })
                .collect();
            let request = self.request(&wanted);
            let client = self.client.clone();
            asked.push(async move {
                let answer = client.call(Target::Node(leader), request, deadline).await;
                (wanted, answer)
            });
        }
        for (wanted, answer) in join_all(asked).await {
            let mut sent: BTreeMap<i32, PartitionData> = match answer {
                Ok(answer) => {
                    answer.responses.into_iter().flat_map(|t| t.partitions).map(|p| (p.partition_index, p)).collect()
                }
                Err(error) => {
                    for (i, ..) in wanted {
                        self.lanes[i].failed = Some(error.to_string());
                    }
                    continue;
                }
            };
            let mut work = Vec::new();
            for (place, (i, partition, range, _)) in wanted.into_iter().enumerate() {
                match sent.remove(&partition).map(received) {
                    // Brokers leave out what does not fit; the first one always has its turn.
                    Some(Received::Records(bytes)) if bytes.is_empty() && place > 0 => {}
                    Some(Received::Records(bytes)) => work.push((i, partition, range, bytes)),
                    Some(Received::Moved(start)) => self.lanes[i].out_of_range(start),
                    Some(Received::Failed(why)) => self.lanes[i].failed = Some(why),
                    None => self.lanes[i].give(Taken::default()),
                }
            }
            self.evaluate(work, deadline).await;
        }
    }

    fn request(&self, wanted: &[(usize, i32, (i64, i64), i32)]) -> FetchRequest {
        let (bytes_max, all_bytes_max) = match (self.is_followed, self.matcher.is_everything()) {
            (true, true) => (FOLLOWED_FETCH_BYTES, FOLLOWED_BYTES_MAX),
            (false, true) => (PAGE_FETCH_BYTES, FETCH_BYTES_MAX),
            (_, false) => (SEARCH_FETCH_BYTES, FETCH_BYTES_MAX),
        };
        let partition = |(_, partition, (from, _), epoch): &(usize, i32, (i64, i64), i32)| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(*epoch)
                .with_fetch_offset(*from)
                .with_partition_max_bytes(bytes_max)
        };
        let topic = FetchTopic::default()
            .with_topic(topic_name(&self.topic))
            .with_partitions(wanted.iter().map(partition).collect());
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(all_bytes_max)
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    }

    /// Takes batches apart on a thread that serves nobody.
    async fn evaluate(&mut self, work: Vec<(usize, i32, (i64, i64), Bytes)>, deadline: Instant) {
        let Ok(Ok(place)) = tokio::time::timeout_at(deadline, EVALUATING.acquire()).await else { return };
        let matcher = self.matcher.clone();
        let found_bytes_max = if self.is_followed { FOLLOWED_BYTES_MAX as usize } else { usize::MAX };
        let evaluated = actix_web::web::block(move || {
            // Held until the work is done, also if nobody waits for it any more.
            let _place = place;
            let evaluate = |(i, partition, (from, to), bytes): (usize, i32, (i64, i64), Bytes)| {
                let bounds = Bounds { from, to, bytes_max: SCAN_BYTES_MAX, found_bytes_max, deadline };
                (i, take(partition, &bytes, &matcher, bounds))
            };
            work.into_iter().map(evaluate).collect::<Vec<_>>()
        });
        for (i, taken) in evaluated.await.unwrap_or_default() {
            self.scanned_records += taken.scanned_records;
            self.scanned_bytes += taken.scanned_bytes;
            self.failed.0 += taken.failed.0;
            if self.failed.1.is_none() {
                self.failed.1.clone_from(&taken.failed.1);
            }
            if let Some(damage) = &taken.damage {
                self.damaged.entry(self.lanes[i].partition).or_insert_with(|| damage.clone());
            }
            self.lanes[i].give(taken);
        }
    }

    /// Where to go on; `None` if there is nothing more.
    pub fn cursor(&self) -> Option<String> {
        if self.lanes.iter().all(Lane::is_done) {
            return None;
        }
        Some(cursor::encode(self.direction, self.lanes.iter().map(|lane| (lane.partition, lane.resume()))))
    }

    /// What is missing.
    pub fn partial(&self) -> Vec<Missing> {
        let mut missing: Vec<Missing> = self
            .lanes
            .iter()
            .filter_map(|lane| Some((lane.partition, lane.failed.clone()?)))
            .chain(self.damaged.iter().map(|(partition, damage)| (*partition, damage.clone())))
            .map(|(partition, reason)| Missing { source: format!("partition {partition}"), reason, since_ms: None })
            .collect();
        if self.left_out > 0 {
            let reason = format!(
                "{} are read at a time, {} are left out: choose one of them by its number",
                cursor::PARTITIONS_MAX,
                self.left_out
            );
            missing.push(Missing { source: "partitions".to_owned(), reason, since_ms: None });
        }
        if let (records, Some(why)) = &self.failed {
            let reason = format!("the expression has no value for {records} records, for the first since {why}");
            missing.push(Missing { source: "filter".to_owned(), reason, since_ms: None });
        }
        missing
    }

    /// Looks for newer records; what a reader is behind by more than `behind_max` is skipped. Returns the offsets skipped.
    pub async fn follow(&mut self, behind_max: i64, deadline: Instant) -> Result<u64, KafkaError> {
        let topic = self.client.topic(&self.topic, deadline).await?;
        for p in &topic.partitions {
            if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.partition == p.partition) {
                lane.leader = p.leader.map(|leader| (leader, p.leader_epoch));
            }
        }
        let names: Vec<PartitionOf> = self.lanes.iter().map(|lane| (self.topic.clone(), lane.partition)).collect();
        let ends = self.client.offsets(&names, Place::Latest, deadline).await;
        let mut skipped = 0;
        for (lane, name) in self.lanes.iter_mut().zip(&names) {
            match ends.get(name) {
                Some(Ok(Some(at))) => {
                    if self.unbounded.remove(&lane.partition) {
                        let leader = lane.leader;
                        *lane = Lane::new(lane.partition, self.direction, at.offset, at.offset, at.offset, 1);
                        lane.leader = leader;
                    }
                    lane.failed = None;
                    lane.extend(at.offset);
                    if lane.behind() > behind_max {
                        skipped += lane.skip_to(at.offset - behind_max) as u64;
                    }
                }
                Some(Err(error)) => lane.failed = Some(error.to_string()),
                _ => {}
            }
        }
        Ok(skipped)
    }
}

enum Received {
    Records(Bytes),
    /// The offset is gone; what is there begins here.
    Moved(i64),
    Failed(String),
}

fn received(data: PartitionData) -> Received {
    match KafkaError::check(data.error_code, None) {
        Ok(()) => Received::Records(data.records.unwrap_or_default()),
        Err(error) if error.code() == Some(ErrorCode::OffsetOutOfRange) => Received::Moved(data.log_start_offset),
        Err(error) => Received::Failed(error.to_string()),
    }
}

/// That a search cannot be what it was asked to be.
pub fn filter_problem(why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid", format!("filter: {why}"))
}
