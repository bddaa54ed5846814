//! The list of all groups, and their lag once somebody has asked for it, kept in the background.
//!
//! ListGroups is asked of every broker every few seconds while somebody looks, so that a list of ten thousand groups is
//! answered from memory. Members and lag of all groups are asked for only if a list is sorted by them, in small portions.

use super::measure::{self, Known, Measured};
use crate::clock::Clock;
use crate::web::cluster::Cluster;
use crate::web::kafka::{KafkaClient, KafkaError, Target, within};
use crate::web::state::Missing;
use arc_swap::ArcSwap;
use futures::future::join_all;
use kafka_protocol::messages::ListGroupsRequest;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The list is not asked for more often, ms.
const AGE_MS: i64 = 3_000;
/// An older list is waited for, ms.
const OLD_MS: i64 = 10_000;
/// Groups' lag is not asked for more often, ms.
const MEASURED_AGE_MS: i64 = 30_000;
/// Somebody looks at lists sorted by lag until so long after they asked, ms.
const WANTED_MS: i64 = 60_000;
/// How long a broker may take to list its groups.
const LIST_WITHIN: Duration = Duration::from_secs(5);
/// How long a portion of groups may take.
const MEASURE_WITHIN: Duration = Duration::from_secs(5);
/// Groups of a portion.
const PORTION: usize = 100;
/// Rest between portions, so that brokers have time for others.
const REST: Duration = Duration::from_millis(50);
/// Groups that are remembered at all.
const GROUPS_MAX: usize = 200_000;
/// How long a first list may be waited for.
const FIRST_WITHIN: Duration = Duration::from_millis(1_800);

/// A group in the list.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: Arc<str>,
    /// Its state, in Kafka's words.
    pub state: Arc<str>,
    /// `classic`, `consumer`, …
    pub kind: Arc<str>,
    /// The broker that listed it.
    pub node: i32,
}

impl Row {
    /// What it takes to ask for more.
    pub fn known(&self) -> Known {
        Known { id: self.id.clone(), kind: self.kind.clone(), node: self.node }
    }
}

/// All groups, in the order of their ids.
#[derive(Debug, Default)]
pub struct Groups {
    /// The groups.
    pub rows: Vec<Row>,
    /// When brokers were asked, Unix milliseconds; 0 before the first time.
    pub as_of_ms: i64,
    /// Who did not answer.
    pub missing: Vec<Missing>,
}

impl Groups {
    /// The group with this id.
    pub fn get(&self, id: &str) -> Option<&Row> {
        self.rows.binary_search_by(|row| (*row.id).cmp(id)).ok().map(|at| &self.rows[at])
    }
}

/// What was measured of all groups.
#[derive(Debug, Default)]
pub struct AllMeasured {
    /// By group.
    pub groups: HashMap<Arc<str>, Measured>,
    /// When the last round ended, Unix milliseconds; 0 before the first.
    pub as_of_ms: i64,
}

/// See the module's documentation.
pub struct GroupIndex {
    clock: Clock,
    listed: watch::Sender<Arc<Groups>>,
    measured: ArcSwap<AllMeasured>,
    wanted: Notify,
    measure_until_ms: AtomicI64,
    /// Since when each broker does not answer.
    silent: std::sync::Mutex<BTreeMap<i32, i64>>,
}

impl GroupIndex {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            listed: watch::Sender::new(Arc::default()),
            measured: ArcSwap::default(),
            wanted: Notify::new(),
            measure_until_ms: AtomicI64::new(0),
            silent: std::sync::Mutex::default(),
        }
    }

    /// The groups as last listed, seconds old. Who looks first after a while waits for a new list.
    pub async fn groups(&self) -> Arc<Groups> {
        self.wanted.notify_one();
        let mut listed = self.listed.subscribe();
        let oldest_ms = self.clock.wall_ms() - OLD_MS;
        // Without one in time, what there is, and its age says the rest.
        let is_new = |groups: &Arc<Groups>| groups.as_of_ms >= oldest_ms;
        drop(tokio::time::timeout(FIRST_WITHIN, listed.wait_for(is_new)).await);
        self.listed.borrow().clone()
    }

    /// The list changed by what somebody did here: the next one who looks waits for a new one.
    pub fn forget(&self) {
        self.listed.send_replace(Arc::default());
        self.wanted.notify_one();
    }

    /// What is known of all groups' members and lag; asks for it from now on.
    pub fn measured(&self) -> Arc<AllMeasured> {
        self.measure_until_ms.fetch_max(self.clock.wall_ms() + WANTED_MS, Ordering::Relaxed);
        self.wanted.notify_one();
        self.measured.load_full()
    }

    /// Works for as long as the console runs.
    pub async fn run(self: Arc<Self>, kafka: Arc<KafkaClient>, cluster: Arc<Cluster>) {
        loop {
            self.wanted.notified().await;
            self.list_if_old(&kafka, &cluster).await;
            let now_ms = self.clock.wall_ms();
            let measured_age_ms = now_ms - self.measured.load().as_of_ms;
            let is_wanted = now_ms < self.measure_until_ms.load(Ordering::Relaxed);
            if is_wanted && !(0..MEASURED_AGE_MS).contains(&measured_age_ms) {
                self.measure(&kafka, &cluster).await;
            }
        }
    }

    /// A long round of measuring is no reason for an old list.
    async fn list_if_old(&self, kafka: &KafkaClient, cluster: &Cluster) {
        let age_ms = self.clock.wall_ms() - self.listed.borrow().as_of_ms;
        if !(0..AGE_MS).contains(&age_ms) {
            let groups = self.list(kafka, cluster).await;
            self.listed.send_replace(Arc::new(groups));
        }
    }

    async fn list(&self, kafka: &KafkaClient, cluster: &Cluster) -> Groups {
        let deadline = within(LIST_WITHIN);
        let brokers: Vec<i32> = cluster.brokers().iter().map(|live| live.node.0).collect();
        let asked = brokers.iter().copied().map(|broker| async move {
            let answer = kafka.call(Target::Node(broker), ListGroupsRequest::default(), deadline).await;
            let checked = answer.and_then(|a| KafkaError::check(a.error_code, None).map(|()| a.groups));
            (broker, checked)
        });
        let (mut rows, mut missing, mut words) = (Vec::new(), Vec::new(), HashMap::<String, Arc<str>>::new());
        let now_ms = self.clock.wall_ms();
        let mut silent = BTreeMap::new();
        let before = self.silent.lock().expect("no panic under the lock").clone();
        for (broker, answer) in join_all(asked).await {
            match answer {
                Err(error) => {
                    let since_ms = before.get(&broker).copied().unwrap_or(now_ms);
                    silent.insert(broker, since_ms);
                    let (source, reason) = (format!("broker {broker}"), error.to_string());
                    missing.push(Missing { source, reason, since_ms: Some(since_ms) });
                }
                Ok(groups) => {
                    // States and types are few words; each is kept once.
                    let mut word = |text: &str, otherwise: &str| {
                        let text = if text.is_empty() { otherwise } else { text };
                        words.entry(text.to_owned()).or_insert_with(|| text.into()).clone()
                    };
                    rows.extend(groups.iter().map(|group| Row {
                        id: group.group_id.as_str().into(),
                        state: word(&group.group_state, "Unknown"),
                        kind: word(&group.group_type, super::describe::CLASSIC),
                        node: broker,
                    }));
                }
            }
        }
        if brokers.is_empty() {
            let reason = KafkaError::NoBrokers.to_string();
            missing.push(Missing { source: "brokers".to_owned(), reason, since_ms: None });
        }
        *self.silent.lock().expect("no panic under the lock") = silent;
        rows.sort_unstable_by(|a: &Row, b: &Row| a.id.cmp(&b.id));
        rows.dedup_by(|a, b| a.id == b.id);
        if rows.len() > GROUPS_MAX {
            rows.truncate(GROUPS_MAX);
            let reason = format!("there are more than {GROUPS_MAX} groups");
            missing.push(Missing { source: "groups".to_owned(), reason, since_ms: None });
        }
        Groups { rows, as_of_ms: self.clock.wall_ms(), missing }
    }

    async fn measure(&self, kafka: &KafkaClient, cluster: &Cluster) {
        let listed = self.listed.borrow().clone();
        let mut all = HashMap::with_capacity(listed.rows.len());
        for portion in listed.rows.chunks(PORTION) {
            let known: Vec<Known> = portion.iter().map(Row::known).collect();
            let (measured, _) = measure::measure(kafka, &known, within(MEASURE_WITHIN)).await;
            all.extend(portion.iter().filter_map(|row| Some((row.id.clone(), measured.get(&*row.id)?.clone()))));
            tokio::time::sleep(REST).await;
            self.list_if_old(kafka, cluster).await;
        }
        self.measured.store(Arc::new(AllMeasured { groups: all, as_of_ms: self.clock.wall_ms() }));
    }
}
