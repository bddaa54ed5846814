//! Administrative changes against a store that loses answers.

use super::*;
use crate::metadata::embedded::EmbeddedStore;
use crate::metadata::{Entry, LeaseId, Revision, WatchEvent};
use async_trait::async_trait;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc;

/// Transactions before this one and after it are answered; the answer of the `lost`th (from 1) is not. If `applied`,
/// it takes effect all the same.
#[derive(Debug)]
struct LosesAnswers {
    inner: EmbeddedStore,
    count: AtomicU32,
    lost: Range<u32>,
    applied: bool,
}

impl LosesAnswers {
    fn new(lost: Range<u32>, applied: bool) -> Arc<Self> {
        Arc::new(Self { inner: EmbeddedStore::in_memory(), count: AtomicU32::new(0), lost, applied })
    }
}

#[async_trait]
impl MetadataStore for LosesAnswers {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.inner.get(key).await
    }
    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.inner.get_prefix(prefix).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        if !self.lost.contains(&(self.count.fetch_add(1, Ordering::Relaxed) + 1)) {
            return self.inner.txn(txn).await;
        }
        if self.applied {
            self.inner.txn(txn).await?;
        }
        Err(MetadataError::Unavailable { message: "lost".to_owned() })
    }
    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.inner.watch(prefix)
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.inner.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.lease_revoke(lease).await
    }
}

fn keys() -> Keys {
    Keys::new("test")
}

async fn create(admin: &Admin, name: &str) -> Result<TopicValue, AdminError> {
    admin.create_topic(name, 3, BTreeMap::new(), Vec::new()).await
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_once_and_deleted_by_id() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let admin = Admin::new(store.clone(), keys()).with_clock(Clock::simulated(1_000));
    let first = create(&admin, "a").await.unwrap();
    assert!(matches!(create(&admin, "a").await, Err(AdminError::TopicExists(name)) if name == "a"));
    let other = TopicId(uuid::Uuid::from_u128(1));
    assert!(matches!(admin.delete_topic("a", other).await, Err(AdminError::UnknownTopic(_))));
    admin.delete_topic("a", first.id).await.unwrap();
    assert!(matches!(admin.delete_topic("a", first.id).await, Err(AdminError::UnknownTopic(_))));

    let second = create(&admin, "a").await.unwrap();
    assert_ne!(first.id, second.id);
    let recorded = store.get(&keys().deleted(first.id)).await.unwrap().unwrap();
    let expected = DeletedTopicValue { v: 1, name: "a".into(), id: first.id, partitions: 3, deleted_ms: 1_000 };
    assert_eq!(model::decode::<DeletedTopicValue>(&recorded).unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn partitions_only_grow() {
    let admin = Admin::new(Arc::new(EmbeddedStore::in_memory()), keys());
    let topic = create(&admin, "a").await.unwrap();
    let (grown, revision) = admin.create_partitions("a", topic.id, 5, &[]).await.unwrap();
    assert_eq!((grown.partitions, grown.id, revision > 0), (5, topic.id, true));
    for wanted in [5, 4] {
        let refused = admin.create_partitions("a", topic.id, wanted, &[]).await;
        assert!(matches!(refused, Err(AdminError::NotMorePartitions { has: 5, .. })), "{wanted}: {refused:?}");
    }
    let other = TopicId(uuid::Uuid::from_u128(1));
    assert!(matches!(admin.create_partitions("a", other, 9, &[]).await, Err(AdminError::UnknownTopic(_))));
    assert!(matches!(admin.create_partitions("b", topic.id, 9, &[]).await, Err(AdminError::UnknownTopic(_))));
}

fn set(value: &str) -> impl Fn(&Configs) -> Result<Configs, ChangeError> {
    let configs = Configs::from([("log.retention.ms".to_owned(), value.to_owned())]);
    move |_| Ok(configs.clone())
}

#[tokio::test(start_paused = true)]
async fn configs_change_or_are_only_checked() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let admin = Admin::new(store.clone(), keys());
    let refuse = |_: &Configs| Err(ChangeError::NotDynamic("x".to_owned()));
    assert_eq!(admin.alter_broker_configs(None, true, set("5")).await.unwrap(), 0);
    assert!(store.get(&keys().broker_configs(None)).await.unwrap().is_none());
    let revision = admin.alter_broker_configs(None, false, set("5")).await.unwrap();
    assert_eq!(admin.alter_broker_configs(None, false, set("5")).await.unwrap(), revision, "nothing to write");
    let stored = store.get(&keys().broker_configs(None)).await.unwrap().unwrap();
    assert_eq!(model::decode::<BrokerConfigsValue>(&stored).unwrap().configs["log.retention.ms"], "5");
    assert!(matches!(admin.alter_broker_configs(None, false, refuse).await, Err(AdminError::Config(_))));

    let key = keys().group_configs("g");
    admin.alter_group_configs("g", false, set("5")).await.unwrap();
    assert!(store.get(&key).await.unwrap().is_some());
    admin.alter_group_configs("g", false, |_| Ok(Configs::new())).await.unwrap();
    assert!(store.get(&key).await.unwrap().is_none(), "the key goes with the last config");
    admin.alter_group_configs("g", false, |_| Ok(Configs::new())).await.unwrap();

    let topic = create(&admin, "a").await.unwrap();
    let configs = async || {
        let stored = store.get(&keys().topic("a")).await.unwrap().unwrap();
        model::decode::<TopicValue>(&stored).unwrap().configs
    };
    admin.alter_topic_configs("a", topic.id, true, set("6")).await.unwrap();
    assert!(configs().await.is_empty());
    admin.alter_topic_configs("a", topic.id, false, set("6")).await.unwrap();
    assert_eq!(configs().await["log.retention.ms"], "6");
    let gone = admin.alter_topic_configs("b", topic.id, false, set("6")).await;
    assert!(matches!(gone, Err(AdminError::UnknownTopic(_))));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_a_config_change_is_resolved() {
    for applied in [false, true] {
        let admin = Admin::new(LosesAnswers::new(1..2, applied), keys());
        assert!(
            admin.alter_broker_configs(Some(BrokerId(1)), false, set("5")).await.unwrap() > 0,
            "applied: {applied}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_growing_is_resolved() {
    for applied in [false, true] {
        let admin = Admin::new(LosesAnswers::new(2..3, applied), keys());
        let topic = create(&admin, "a").await.unwrap();
        let (grown, _) = admin.create_partitions("a", topic.id, 5, &[]).await.unwrap();
        assert_eq!(grown.partitions, 5, "applied: {applied}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_answers_of_create_and_delete_are_resolved() {
    for applied in [false, true] {
        let admin = Admin::new(LosesAnswers::new(1..2, applied), keys());
        let topic = create(&admin, "a").await.unwrap();
        assert!(matches!(create(&admin, "a").await, Err(AdminError::TopicExists(_))), "applied: {applied}");
        admin.delete_topic("a", topic.id).await.unwrap();

        let admin = Admin::new(LosesAnswers::new(2..3, applied), keys());
        let topic = create(&admin, "a").await.unwrap();
        admin.delete_topic("a", topic.id).await.unwrap();
        create(&admin, "a").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up() {
    let admin = Admin::new(LosesAnswers::new(1..u32::MAX, false), keys());
    let unavailable = |e| matches!(e, AdminError::Metadata(MetadataError::Unavailable { .. }));
    assert!(unavailable(create(&admin, "a").await.unwrap_err()));
    assert!(unavailable(admin.next_producer_id().await.unwrap_err()));
}

#[tokio::test(start_paused = true)]
async fn ids_are_unique_whatever_gets_lost() {
    let store = LosesAnswers::new(2..4, true);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let admin = Admin::new(store.clone(), keys());
        for _ in 0..PRODUCER_ID_BLOCK + 1 {
            ids.push(admin.next_producer_id().await.unwrap().0);
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);

    let first = allocate_writer_id(&*store, &keys()).await.unwrap();
    let second = allocate_writer_id(&*store, &keys()).await.unwrap();
    assert_eq!((first, second), (WriterId(1), WriterId(2)));
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_counter_is_an_error() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let full = model::encode(&CounterValue { v: 1, next: i64::MAX as u64 });
    let ops = vec![Op::Put(keys().next_producer(), full, None)];
    store.txn(Txn { ops, ..Txn::default() }).await.unwrap();
    let error = Admin::new(store, keys()).next_producer_id().await.unwrap_err();
    assert!(matches!(error, AdminError::Metadata(MetadataError::Malformed { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn everybody_agrees_on_the_cluster_id() {
    for applied in [false, true] {
        let store = LosesAnswers::new(1..2, applied);
        let first = ensure_cluster(&*store, &keys()).await.unwrap();
        assert_eq!(first.cluster_id.len(), 22);
        assert_eq!(ensure_cluster(&*store, &keys()).await.unwrap(), first);
    }
}
