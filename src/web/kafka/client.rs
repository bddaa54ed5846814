//! Which broker is asked, over which connection.

use super::connection::{Connection, is_reading, key_of};
use super::error::KafkaError;
use crate::clock::monotonic;
use crate::web::source::BrokerSource;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Connections to one broker at a time.
const CONNECTIONS_MAX: usize = 8;
/// Connections that wait for their next use, per broker.
const IDLE_MAX: usize = 4;
/// A connection that nobody used for so long is closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Addresses of brokers are asked for again after this time.
const DIRECTORY_TIME_MAX: Duration = Duration::from_secs(5);
/// Pools of brokers; beyond it those that nobody uses are forgotten.
const POOLS_MAX: usize = 1_024;
/// Groups whose coordinators are asked for at a time.
const COORDINATORS_MAX: usize = 1_000;
/// Kinds of keys of FindCoordinator.
const GROUP_KEYS: i8 = 0;

/// Who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Whoever does first.
    Any,
    /// This broker.
    Node(i32),
    /// The broker that does administrative work.
    Controller,
    /// The coordinator of this group.
    Coordinator(&'a str),
}

/// The moment `time` from now: what calls want as a deadline.
pub fn within(time: Duration) -> Instant {
    monotonic() + time
}

/// Where brokers are.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Host and port by broker id.
    pub brokers: BTreeMap<i32, String>,
    /// Who does administrative work.
    pub controller: Option<i32>,
    read_at: Instant,
}

/// A partition as metadata have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionAt {
    /// Its number.
    pub partition: i32,
    /// Its leader, if it has one.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// Brokers that have it.
    pub replicas: Vec<i32>,
}

/// A topic as metadata have it; partitions in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAt {
    /// Name.
    pub name: String,
    /// Id, as Kafka's tools write it.
    pub id: String,
    /// Clients do not list it by default.
    pub internal: bool,
    /// Partitions.
    pub partitions: Vec<PartitionAt>,
}

struct Pool {
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle: Mutex::default(), places: Semaphore::new(CONNECTIONS_MAX) }
    }
}

/// See the module's documentation. Shared by all that ask; dropping a call closes its connection.
pub struct KafkaClient {
    source: Arc<dyn BrokerSource>,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    directory: Mutex<Option<Arc<Directory>>>,
}

impl KafkaClient {
    /// A client of the brokers that `source` knows; connects when it is used.
    pub fn new(source: Arc<dyn BrokerSource>) -> Self {
        Self { source, pools: Mutex::default(), directory: Mutex::default() }
    }

    /// Addresses to begin with, for people who are shown a command.
    pub fn bootstrap(&self) -> String {
        let mut addresses = self.source.bootstrap();
        addresses.truncate(3);
        addresses.join(",")
    }

    /// Sends `request` and waits for its answer until `deadline`. Error codes inside the answer are for the caller.
    pub async fn call<R: Request>(
        &self,
        target: Target<'_>,
        request: R,
        deadline: Instant,
    ) -> Result<R::Response, KafkaError> {
        match target {
            Target::Any => self.call_any(&request, deadline).await,
            Target::Node(node) => self.call_node(node, &request, deadline).await,
            Target::Controller => {
                let controller = self.directory(deadline).await?.controller;
                match controller {
                    Some(node) => self.call_node(node, &request, deadline).await,
                    None => self.call_any(&request, deadline).await,
                }
            }
            Target::Coordinator(group) => {
                let node = self.coordinator(group, deadline).await?;
                self.call_node(node, &request, deadline).await
            }
        }
    }

    /// Asks one broker after the other until one answers. What changes something goes on to the next one only if no
    /// connection was made.
    async fn call_any<R: Request>(&self, request: &R, deadline: Instant) -> Result<R::Response, KafkaError> {
        let mut last = KafkaError::NoBrokers;
        for address in self.source.bootstrap() {
            match self.exchange(&address, request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error @ KafkaError::Connect { .. }) => last = error,
                Err(error @ KafkaError::Closed { .. }) if is_reading(key_of::<R>()) => last = error,
                Err(error) => return Err(error),
            }
            if monotonic() >= deadline {
                break;
            }
        }
        Err(last)
    }

    async fn call_node<R: Request>(
        &self,
        node: i32,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response, KafkaError> {
        let address = self.directory(deadline).await?.brokers.get(&node).cloned();
        let address = match address {
            Some(address) => address,
            None => {
                self.forget_directory();
                let fresh = self.directory(deadline).await?;
                fresh.brokers.get(&node).cloned().ok_or(KafkaError::UnknownNode(node))?
            }
        };
        let answer = self.exchange(&address, request, deadline).await;
        if matches!(answer, Err(KafkaError::Connect { .. } | KafkaError::Closed { .. })) {
            self.forget_directory();
        }
        answer
    }

    async fn exchange<R: Request>(
        &self,
        address: &str,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response, KafkaError> {
        let pool = self.pool(address);
        let api = key_of::<R>();
        let busy = || KafkaError::Timeout { broker: address.to_owned(), api };
        let place = tokio::time::timeout_at(deadline, pool.places.acquire()).await.map_err(|_| busy())?;
        let _place: SemaphorePermit<'_> = place.map_err(|_| busy())?;
        if let Some(mut connection) = pool.take() {
            match connection.call(request, deadline).await {
                Ok(answer) => {
                    pool.put(connection);
                    return Ok(answer);
                }
                // The broker closed it while nobody looked.
                Err(KafkaError::Closed { .. }) if is_reading(api) => {}
                Err(error) => return Err(error),
            }
        }
        let mut connection = Connection::open(address, deadline).await?;
        let answer = connection.call(request, deadline).await?;
        pool.put(connection);
        Ok(answer)
    }

    fn pool(&self, address: &str) -> Arc<Pool> {
        let mut pools = self.pools.lock().expect("no panic under the lock");
        if pools.len() >= POOLS_MAX {
            pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        }
        pools.entry(address.to_owned()).or_default().clone()
    }

    fn forget_directory(&self) {
        *self.directory.lock().expect("no panic under the lock") = None;
    }

    /// Where brokers are, at most seconds old.
    pub async fn directory(&self, deadline: Instant) -> Result<Arc<Directory>, KafkaError> {
        let known = self.directory.lock().expect("no panic under the lock").clone();
        if let Some(known) = known.filter(|known| known.read_at.elapsed() < DIRECTORY_TIME_MAX) {
            return Ok(known);
        }
        let answer = self.call_any(&metadata_request(&[]), deadline).await?;
        Ok(self.learn(&answer))
    }

    fn learn(&self, answer: &MetadataResponse) -> Arc<Directory> {
        let address = |host: &str, port: i32| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let directory = Arc::new(Directory {
            brokers: answer.brokers.iter().map(|b| (b.node_id.0, address(&b.host, b.port))).collect(),
            controller: Some(answer.controller_id.0).filter(|id| *id >= 0),
            read_at: monotonic(),
        });
        *self.directory.lock().expect("no panic under the lock") = Some(directory.clone());
        directory
    }

    /// What the cluster says of these topics; an error per topic that there is not. Never of all topics.
    pub async fn topics(
        &self,
        names: &[&str],
        deadline: Instant,
    ) -> Result<BTreeMap<String, Result<TopicAt, KafkaError>>, KafkaError> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let answer = self.call_any(&metadata_request(names), deadline).await?;
        self.learn(&answer);
        let named = |topic: &MetadataResponseTopic| (name_of(topic), topic_of(topic));
        Ok(answer.topics.iter().map(named).collect())
    }

    /// What the cluster says of one topic.
    pub async fn topic(&self, name: &str, deadline: Instant) -> Result<TopicAt, KafkaError> {
        let mut topics = self.topics(&[name], deadline).await?;
        topics.remove(name).unwrap_or_else(|| Err(unknown_topic(name)))
    }

    /// The broker that coordinates a group.
    pub async fn coordinator(&self, group: &str, deadline: Instant) -> Result<i32, KafkaError> {
        let mut found = self.coordinators(&[group], deadline).await?;
        found.remove(group).unwrap_or(Err(KafkaError::NoBrokers))
    }

    /// The brokers that coordinate these groups.
    pub async fn coordinators(
        &self,
        groups: &[&str],
        deadline: Instant,
    ) -> Result<HashMap<String, Result<i32, KafkaError>>, KafkaError> {
        let mut found = HashMap::with_capacity(groups.len());
        for some in groups.chunks(COORDINATORS_MAX) {
            let keys = some.iter().map(|group| StrBytes::from_string((*group).to_owned())).collect();
            let request = FindCoordinatorRequest::default().with_key_type(GROUP_KEYS).with_coordinator_keys(keys);
            for c in self.call_any(&request, deadline).await?.coordinators {
                let checked = KafkaError::check(c.error_code, c.error_message.as_deref());
                found.insert(c.key.to_string(), checked.map(|()| c.node_id.0));
            }
        }
        Ok(found)
    }
}

impl Pool {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().expect("no panic under the lock");
        idle.retain(|connection| connection.used_at.elapsed() < IDLE_TIME_MAX);
        while let Some(connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.lock().expect("no panic under the lock");
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// A Kafka group id.
pub fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

/// A Kafka topic name.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// An id as Kafka's tools write it.
pub fn kafka_id(id: &uuid::Uuid) -> String {
    URL_SAFE_NO_PAD.encode(id.as_bytes())
}

/// That there is no such topic.
pub fn unknown_topic(name: &str) -> KafkaError {
    let error = crate::protocol::error_code::ErrorCode::UnknownTopicOrPartition;
    let message = format!("there is no topic {name:?}");
    KafkaError::Code { code: error.code(), name: super::code_name(error.code()), message }
}

fn metadata_request(names: &[&str]) -> MetadataRequest {
    let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    MetadataRequest::default()
        .with_topics(Some(names.iter().map(named).collect()))
        .with_allow_auto_topic_creation(false)
}

fn name_of(topic: &MetadataResponseTopic) -> String {
    topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default()
}

fn topic_of(topic: &MetadataResponseTopic) -> Result<TopicAt, KafkaError> {
    let name = name_of(topic);
    match KafkaError::check(topic.error_code, None) {
        Ok(()) => {}
        Err(error) if error.code() == Some(crate::protocol::error_code::ErrorCode::UnknownTopicOrPartition) => {
            return Err(unknown_topic(&name));
        }
        Err(error) => return Err(error),
    }
    let partition = |p: &kafka_protocol::messages::metadata_response::MetadataResponsePartition| PartitionAt {
        partition: p.partition_index,
        leader: Some(p.leader_id.0).filter(|id| *id >= 0),
        leader_epoch: p.leader_epoch,
        replicas: p.replica_nodes.iter().map(|id| id.0).collect(),
    };
    let mut partitions: Vec<_> = topic.partitions.iter().map(partition).collect();
    partitions.sort_unstable_by_key(|p| p.partition);
    Ok(TopicAt { name, id: kafka_id(&topic.topic_id), internal: topic.is_internal, partitions })
}
