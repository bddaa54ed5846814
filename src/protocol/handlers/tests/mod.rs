//! The handlers as a client sees them, without sockets: requests are encoded, dispatched, and their replies decoded.
//!
//! [`Bed`] is a broker with in-memory stores. Its partitions append at once, or when told, or fail; the rest is real.

mod admin;
mod configs;
mod data;
mod fetch;
mod groups;
mod placement;
mod preferred;
mod produce;
mod versions;

use super::fetch_session::SessionCache;
use super::{ConnectionContext, Reply, Request, dispatch};
use crate::actors::group::handle::Groups;
use crate::actors::group::limits::CoordinatorLimits;
use crate::actors::group::{self, GroupConfig};
use crate::actors::partition::handle::{Append, AppendError, AppendSink, Appended, PartitionRef, ValidBatch};
use crate::actors::partition::producers::{ProducerBatch, ProducerSnapshot};
use crate::actors::partition::view::{EpochStart, Extent, LogState, ObjectRef, PartitionView};
use crate::actors::runtime::{IoPool, Placement};
use crate::actors::s3_health::S3Health;
use crate::actors::s3_health::state::HealthLimits;
use crate::actors::standing::Standing;
use crate::broker::{Broker, BrokerSettings, Directory, PartitionControl, RaiseError};
use crate::clock::{Clock, monotonic};
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionIndex, PartitionKey};
use crate::ids::{ProducerEpoch, ProducerId, WriterId};
use crate::metadata::admin::Admin;
use crate::metadata::coordination::Coordination;
use crate::metadata::embedded::EmbeddedStore;
use crate::metadata::image::ClusterImage;
use crate::metadata::keys::Keys;
use crate::metadata::model::LiveValue;
use crate::metadata::ownership::Ownership;
use crate::metadata::{MetadataStore, watcher};
use crate::protocol::batch::StoredBatch;
use crate::protocol::config_defaults::Defaults;
use crate::protocol::group_config::GroupBounds;
use crate::storage::memory::MemoryStore;
use crate::storage::reader::{LogReader, ReaderLimits};
use crate::storage::{ObjectKey, ObjectStore};
use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::{Decodable, Request as KafkaRequest, StrBytes};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// Wall time at the start of each test.
const NOW_MS: i64 = 1_700_000_000_000;
/// Leader epoch of every partition.
const EPOCH: i32 = 3;

/// What a partition does with an append.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Behaviour {
    /// Commits it at once.
    Commit,
    /// Holds it until [`FakePartition::commit_held`].
    Hold,
    /// Refuses it.
    Fail(AppendError),
}

/// A partition without actor and flusher.
#[derive(Debug)]
struct FakePartition {
    view: Arc<PartitionView>,
    behaviour: Mutex<Behaviour>,
    held: Mutex<Vec<Append>>,
}

impl FakePartition {
    fn commit(&self, append: Append) {
        let base = self.view.high_watermark();
        let batch = StoredBatch::assign(&append.batch.bytes, &append.batch.header, base, self.view.leader_epoch);
        let next = batch.next;
        let object = ObjectRef { key: ObjectKey::new("none"), level: 0, len: 0, created_ms: NOW_MS };
        let extent = Extent {
            base,
            next,
            object: Arc::new(object),
            position: 0,
            len: batch.byte_len() as u64,
            max_timestamp: batch.max_timestamp,
            leader_epoch: self.view.leader_epoch,
        };
        self.view.update(next, self.view.log_start(), |log| {
            log.extents.push_back(extent);
            log.tail.push_back(batch);
        });
        let log_append_time_ms = append.batch.log_append_time_ms.unwrap_or(-1);
        let _ =
            append.reply.send(Ok(Appended { base_offset: base, log_start: self.view.log_start(), log_append_time_ms }));
    }

    fn commit_held(&self) {
        let held: Vec<_> = self.held.lock().unwrap().drain(..).collect();
        held.into_iter().for_each(|append| self.commit(append));
    }
}

impl AppendSink for FakePartition {
    fn append(&self, append: Append) -> Result<(), AppendError> {
        match self.behaviour.lock().unwrap().clone() {
            Behaviour::Commit => self.commit(append),
            Behaviour::Hold => self.held.lock().unwrap().push(append),
            Behaviour::Fail(error) => return Err(error),
        }
        Ok(())
    }
}

/// Fakes of all partitions, as the broker's controller would have made them.
type Partitions = Arc<Mutex<BTreeMap<PartitionKey, Arc<FakePartition>>>>;

/// Trims the fakes' views, unless it is told to fail.
#[derive(Debug, Default)]
struct FakeControl {
    partitions: Partitions,
    failure: Mutex<Option<RaiseError>>,
}

#[async_trait::async_trait]
impl PartitionControl for FakeControl {
    async fn raise_log_starts(&self, raises: &[(PartitionKey, Offset)]) -> Result<(), RaiseError> {
        if let Some(error) = self.failure.lock().unwrap().clone() {
            return Err(error);
        }
        for (key, log_start) in raises {
            let view = self.partitions.lock().unwrap()[key].view.clone();
            view.update(view.high_watermark(), *log_start, |log| log.trim(*log_start));
        }
        Ok(())
    }

    async fn producers(&self, key: &PartitionKey) -> Option<Vec<ProducerSnapshot>> {
        let next = self.partitions.lock().unwrap()[key].view.high_watermark();
        if next == Offset(0) {
            return Some(Vec::new());
        }
        let batch = ProducerBatch {
            epoch: ProducerEpoch(2),
            first_sequence: 5,
            last_sequence: 7,
            base: Offset(next.0 - 1),
            next,
        };
        Some(vec![ProducerSnapshot { id: ProducerId(9), last_append_ms: NOW_MS, batches: vec![batch] }])
    }
}

/// A real coordinator.
async fn groups(
    store: Arc<dyn MetadataStore>,
    keys: &Keys,
    image: Arc<ArcSwap<ClusterImage>>,
    clock: Clock,
    standing: Arc<Standing>,
) -> Groups {
    let live = LiveValue::sample(1);
    let ownership = Ownership::new(store.clone(), keys.clone());
    let registration = ownership.register(WriterId(1), 1, &live, Duration::from_secs(1 << 30)).await.unwrap();
    let config = GroupConfig {
        limits: CoordinatorLimits::default(),
        node: BrokerId(1),
        registry: Arc::default(),
        coordination: Coordination::new(store.clone(), keys.clone(), &registration),
        metadata: store,
        feed: watcher::ImageFeed::new(image),
        io: IoPool::current(),
        clock,
        standing,
        stats: Arc::default(),
        on_fatal: Arc::new(|fatal| panic!("{fatal}")),
        shards: Arc::default(),
    };
    group::start(config, &Placement::Here).await.unwrap()
}

/// A broker to talk to.
struct Bed {
    ctx: Rc<ConnectionContext>,
    partitions: Partitions,
    control: Arc<FakeControl>,
    /// Set: another process may have taken over.
    standing: Arc<Standing>,
    store: Arc<dyn MetadataStore>,
}

impl Bed {
    /// Must run inside a `LocalSet`.
    async fn new(auto_create_topics: bool) -> Self {
        let clock = Clock::simulated(NOW_MS);
        let keys = Keys::new("test");
        let store: Arc<dyn MetadataStore> = Arc::new(EmbeddedStore::in_memory());
        let feed = watcher::ImageFeed::with_defaults(Defaults::new(BrokerId(1), Vec::new()));
        let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(clock));
        let partitions = Partitions::default();
        let control = Arc::new(FakeControl { partitions: partitions.clone(), ..FakeControl::default() });
        let standing: Arc<Standing> = Arc::default();
        let groups = groups(store.clone(), &keys, feed.image().clone(), clock, standing.clone()).await;
        let broker = Arc::new(Broker {
            cluster_id: "test-cluster".into(),
            node: BrokerId(1),
            settings: BrokerSettings {
                auto_create_topics,
                default_partitions: 2,
                group_bounds: GroupBounds::default(),
                log_dir: "s3://bucket/test".into(),
                shown_configs: Vec::new(),
            },
            clock,
            image: feed.image().clone(),
            directory: Arc::new(Directory::default()),
            partitions: control.clone(),
            reader: LogReader::new(objects, ReaderLimits { cache_bytes: 1 << 20, readahead_segments: 0 }),
            admin: Admin::new(store.clone(), keys.clone()),
            latencies: Default::default(),
            health: Arc::new(S3Health::new(HealthLimits::default())),
            standing: standing.clone(),
            groups,
            followers: None,
            sent_away: Default::default(),
        });
        let (mut publications, shared) = (feed.subscribe(), store.clone());
        tokio::task::spawn_local(async move { watcher::run(store, keys, feed).await });
        let (leader, led) = (broker.clone(), partitions.clone());
        tokio::task::spawn_local(async move {
            loop {
                publications.changed().await;
                lead_everything(&leader.image, &leader.directory, &led);
            }
        });
        let advertised = ("broker-1".to_owned(), 9092);
        let peer = ([127, 0, 0, 1], 40_000).into();
        let sessions = Arc::new(SessionCache::default());
        let crowded = Rc::new(|| false);
        let ctx = ConnectionContext { broker, peer, advertised, sessions, crowded, sent_away: Default::default() };
        Self { ctx: Rc::new(ctx), partitions, control, standing, store: shared }
    }

    /// Creates a topic and waits until it is led.
    async fn topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Uuid {
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let value = self.ctx.broker.admin.create_topic(name, partitions, configs, Vec::new()).await.unwrap();
        let deadline = monotonic() + std::time::Duration::from_secs(60);
        assert!(super::common::wait_until(deadline, || super::common::is_led(&self.ctx.broker, name, value.id)).await);
        value.id.0
    }

    fn image(&self) -> Arc<ClusterImage> {
        self.ctx.broker.image.load_full()
    }

    fn partition(&self, topic: &str, index: i32) -> Arc<FakePartition> {
        let id = self.image().topic(topic).unwrap().value.id;
        self.partitions.lock().unwrap()[&PartitionKey { topic: id, partition: PartitionIndex(index) }].clone()
    }

    /// The reply to `request` at `version`.
    async fn reply<R: KafkaRequest>(&self, version: i16, request: &R) -> Reply {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).unwrap();
        let request = Request {
            api_key: R::KEY,
            api_version: version,
            correlation_id: 1,
            client_id: None,
            body: body.freeze(),
            received: monotonic(),
            ahead: 0,
            trace: Default::default(),
        };
        dispatch(self.ctx.clone(), request).await
    }

    /// The decoded response to `request` at `version`.
    async fn call<R: KafkaRequest>(&self, version: i16, request: &R) -> R::Response {
        decode_reply(self.reply(version, request).await, version)
    }

    /// Error code and base offset of producing `batch`.
    async fn produce(&self, topic: &str, index: i32, batch: Bytes) -> (i16, i64) {
        let response = self.call(9, &produce_request(topic, -1, vec![(index, batch)])).await;
        let partition = &response.responses[0].partition_responses[0];
        (partition.error_code, partition.base_offset)
    }
}

fn decode_reply<M: Decodable>(reply: Reply, version: i16) -> M {
    let (Reply::Body(chunks) | Reply::Throttled(Some(chunks), _)) = reply else { panic!("no body: {reply:?}") };
    let mut body = Bytes::from(chunks.concat());
    let response = M::decode(&mut body, version).unwrap();
    assert!(body.is_empty(), "bytes follow the response");
    response
}

fn lead_everything(image: &ArcSwap<ClusterImage>, directory: &Directory, partitions: &Partitions) {
    let image = image.load();
    let mut partitions = partitions.lock().unwrap();
    for topic in image.topics() {
        for index in 0..topic.value.partitions {
            let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(index) };
            partitions.entry(key).or_insert_with(|| {
                let epochs = vec![EpochStart { epoch: LeaderEpoch(EPOCH), start: Offset(0) }];
                let log = LogState { epochs, ..LogState::default() };
                let view = Arc::new(PartitionView::new(key, LeaderEpoch(EPOCH), Offset(0), Offset(0), log));
                let behaviour = Mutex::new(Behaviour::Commit);
                let fake = Arc::new(FakePartition { view: view.clone(), behaviour, held: Mutex::default() });
                directory.insert(PartitionRef { key, view, sink: fake.clone() });
                fake
            });
        }
    }
}

/// Runs a test on a paused clock.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test());
}

fn name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A batch with one record of this value.
fn batch_of(value: &[u8]) -> Bytes {
    crate::protocol::records::BatchBuilder::new().record(NOW_MS, Some(b"key"), Some(value)).build()
}

fn produce_request(topic: &str, acks: i16, batches: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partitions = batches
        .into_iter()
        .map(|(index, batch)| PartitionProduceData::default().with_index(index).with_records(Some(batch)));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(partitions.collect());
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// A sessionless fetch of partitions from offsets, that waits for one byte.
fn fetch_request(topic: &str, partitions: &[(i32, i64)], max_wait_ms: i32) -> FetchRequest {
    let partitions = partitions.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(partitions.collect());
    FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}
