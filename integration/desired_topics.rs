//! The operator's document of topics, without an operator: real etcd, three real brokers, and a Kafka client that sees what became
//! of it.

use crate::client::{Client, text, topic_name};
use crate::cluster::{BROKERS, Cluster, leaders};
use crate::harness::{size, wait_until};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DeleteTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafscale::ids::FencingToken;
use kafscale::metadata::desired::{self, DesiredTopics, Published, Writer};
use kafscale::metadata::etcd::{EtcdSettings, EtcdStore};
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::desired::{
    AppliedState, AppliedTopic, DesiredDeletion, DesiredStatusValue, DesiredTopic,
};
use kafscale::metadata::{MetadataStore, Op, Txn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(90);
/// Of the operator that a test plays.
const TOKEN: FencingToken = FencingToken(5);
/// DescribeConfigs' number of topics, and of a value that is set on the topic.
const TOPIC_RESOURCE: i8 = 2;
const SET_ON_TOPIC: i8 = 1;

/// An operator's connection.
struct Operator {
    store: Arc<dyn MetadataStore>,
    keys: Keys,
}

impl Operator {
    async fn connect(endpoint: &str) -> Self {
        let store = EtcdStore::connect(EtcdSettings::new(vec![endpoint.to_owned()])).await.expect("etcd answers");
        Self { store: Arc::new(store), keys: Keys::new("test") }
    }

    async fn of(cluster: &mut Cluster) -> Self {
        let endpoint = cluster.stack.etcd().endpoint();
        Self::connect(&endpoint).await
    }

    /// Publishes and returns the generation.
    async fn publish(&self, topics: &DesiredTopics) -> u64 {
        let writer = Writer::Writing(TOKEN);
        match desired::publish(&*self.store, &self.keys, writer, topics, || true).await.expect("etcd answers") {
            Published::Written { generation, .. } | Published::Unchanged(generation) => generation,
            nothing_written => panic!("{nothing_written:?}"),
        }
    }

    async fn status(&self) -> DesiredStatusValue {
        desired::read_status(&*self.store, &self.keys).await.expect("etcd answers").0
    }

    /// The answer to the document of this generation, once nothing is pending.
    async fn settled(&self, generation: u64) -> DesiredStatusValue {
        wait_until("the brokers have followed the document", DEADLINE, async || {
            let status = self.status().await;
            status.generation >= generation && status.topics.values().all(|topic| topic.state != AppliedState::Pending)
        })
        .await;
        self.status().await
    }

    async fn publish_and_settle(&self, topics: &DesiredTopics) -> BTreeMap<String, AppliedTopic> {
        let generation = self.publish(topics).await;
        self.settled(generation).await.topics
    }
}

fn want(uid: &str, partitions: i32, configs: &[(&str, &str)]) -> DesiredTopic {
    let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    DesiredTopic { uid: uid.into(), resource: 1, partitions, configs, deletion: None }
}

fn document(topics: &[(&str, DesiredTopic)]) -> DesiredTopics {
    topics.iter().map(|(name, topic)| ((*name).to_owned(), topic.clone())).collect()
}

/// Number of partitions that are led, as the broker at `address` says; `None` if it knows no such topic.
pub async fn led_partitions(address: &str, topic: &str) -> Option<usize> {
    let metadata = Client::new(address).metadata(Some(&[topic]), false).await.ok()?;
    let found = metadata.topics.first().filter(|topic| topic.error_code == 0)?;
    Some(found.partitions.iter().filter(|partition| partition.leader_id.0 >= 0).count())
}

async fn wait_led(addresses: &[String], topic: &str, partitions: usize) {
    for address in addresses {
        wait_until(&format!("{topic} has {partitions} leaders at {address}"), DEADLINE, async || {
            led_partitions(address, topic).await == Some(partitions)
        })
        .await;
    }
}

async fn wait_gone(addresses: &[String], topic: &str) {
    for address in addresses {
        wait_until(&format!("{topic} is gone at {address}"), DEADLINE, async || {
            led_partitions(address, topic).await.is_none()
        })
        .await;
    }
}

/// What is set on a topic.
pub async fn configs_of(address: &str, topic: &str) -> BTreeMap<String, String> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(topic))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let Ok(answer) = Client::new(address).call(4, &request).await else { return BTreeMap::new() };
    let configs = answer.results.into_iter().flat_map(|result| result.configs);
    let own = configs.filter(|config| config.config_source == SET_ON_TOPIC);
    own.map(|config| (config.name.to_string(), config.value.unwrap_or_default().to_string())).collect()
}

/// As a client changes it.
pub async fn set_config(address: &str, topic: &str, name: &str, value: &str) {
    let config =
        AlterableConfig::default().with_name(text(name)).with_config_operation(0).with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = Client::new(address).call(1, &request).await.expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

pub fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn wait_configs(address: &str, topic: &str, expected: &[(&str, &str)]) {
    wait_until(&format!("{topic} has {expected:?}"), DEADLINE, async || {
        configs_of(address, topic).await == pairs(expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_follow_the_document() {
    let mut cluster = Cluster::start("desired", "20").await;
    let addresses = cluster.addresses();
    let operator = Operator::of(&mut cluster).await;
    let mut client = Client::new(&addresses[1]);
    client.ensure_topic("clients", 2).await;
    client.ensure_topic("existing", 4).await;
    set_config(&addresses[0], "existing", "segment.ms", "11").await;
    set_config(&addresses[0], "clients", "retention.ms", "77").await;

    // Made, grown, adopted.
    let orders = |partitions, configs: &[(&str, &str)]| want("u1", partitions, configs);
    let applied = operator
        .publish_and_settle(&document(&[
            ("orders", orders(3, &[("retention.ms", "5000"), ("max.message.bytes", "100000")])),
            ("existing", want("u2", 4, &[("retention.ms", "6000")])),
        ]))
        .await;
    assert_eq!((applied["orders"].state, applied["orders"].adopted), (AppliedState::Live, false));
    assert_eq!((applied["existing"].state, applied["existing"].adopted), (AppliedState::Live, true));
    wait_led(&addresses, "orders", 3).await;
    wait_configs(&addresses[2], "existing", &[("retention.ms", "6000"), ("segment.ms", "11")]).await;
    let led = leaders(&addresses[0], "orders").await;
    let leader = led.iter().find(|(_, partitions)| partitions.contains(&2)).expect("it is led").0;
    Client::new(&addresses[*leader as usize - 1]).produce_values("orders", 2, &[b"a record"]).await;
    let grown = document(&[("orders", orders(6, &[("retention.ms", "5000")])), ("existing", want("u2", 4, &[]))]);
    let applied = operator.publish_and_settle(&grown).await;
    assert_eq!((applied["orders"].state, applied["orders"].partitions), (AppliedState::Live, 6));
    wait_led(&addresses, "orders", 6).await;
    wait_configs(&addresses[0], "orders", &[("retention.ms", "5000")]).await;
    wait_configs(&addresses[0], "existing", &[("segment.ms", "11")]).await;

    // A client's change of what the document names is taken back, one of what it does not name stays.
    set_config(&addresses[1], "orders", "retention.ms", "1").await;
    set_config(&addresses[1], "orders", "segment.ms", "12").await;
    for address in &addresses {
        wait_configs(address, "orders", &[("retention.ms", "5000"), ("segment.ms", "12")]).await;
    }

    // What cannot be done is said, and done when it can be.
    let applied = operator
        .publish_and_settle(&document(&[
            ("orders", orders(2, &[("retention.ms", "5000")])),
            ("existing", want("u2", 4, &[("retention.ms", "soon")])),
            ("clients.a", want("u3", 1, &[])),
            ("clients_a", want("u4", 1, &[])),
            ("__internal", want("u5", 1, &[])),
        ]))
        .await;
    let says = [
        ("orders", "set spec.partitions to 6 or more"),
        ("existing", "invalid value soon"),
        ("clients_a", "collides with clients.a"),
        ("__internal", "belong to the brokers"),
    ];
    for (name, part) in says {
        assert_eq!(applied[name].state, AppliedState::Refused, "{name}");
        assert!(applied[name].error.as_ref().is_some_and(|error| error.contains(part)), "{:?}", applied[name]);
    }
    assert_eq!(applied["clients.a"].state, AppliedState::Live);

    // A former leader changes nothing; nor is the same written again.
    let topics = document(&[("orders", orders(6, &[])), ("existing", want("u2", 4, &[]))]);
    let generation = operator.publish(&topics).await;
    assert_eq!(operator.publish(&topics).await, generation);
    let former = Writer::Writing(FencingToken(TOKEN.0 - 1));
    let stale = desired::publish(&*operator.store, &operator.keys, former, &document(&[]), || true).await;
    assert_eq!(stale.unwrap(), Published::Superseded(TOKEN));
    operator.settled(generation).await;

    // Deleted is what the document says is to be deleted; what it no longer names stays.
    let deleting = DesiredTopic { deletion: Some(DesiredDeletion::Delete), ..orders(6, &[]) };
    let never_followed = DesiredTopic { deletion: Some(DesiredDeletion::Delete), ..want("u9", 2, &[]) };
    let applied = operator.publish_and_settle(&document(&[("orders", deleting), ("clients", never_followed)])).await;
    assert!(applied.values().all(|topic| topic.state == AppliedState::Deleted), "{applied:?}");
    wait_gone(&addresses, "orders").await;
    assert_eq!(operator.publish_and_settle(&document(&[])).await, BTreeMap::new());
    wait_led(&addresses, "existing", 4).await;
    wait_led(&addresses, "clients", 2).await;
    wait_led(&addresses, "clients.a", 1).await;
    assert_eq!(configs_of(&addresses[0], "clients").await, pairs(&[("retention.ms", "77")]));
    assert_eq!(configs_of(&addresses[0], "existing").await, pairs(&[("segment.ms", "11")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_deletes_a_described_topic_does_so_in_vain() {
    let mut cluster = Cluster::start("desired-vain", "20").await;
    let addresses = cluster.addresses();
    let operator = Operator::of(&mut cluster).await;
    let topics = document(&[("t", want("u1", 2, &[("retention.ms", "5000")]))]);
    let first = operator.publish_and_settle(&topics).await["t"].id;
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("t")]).with_timeout_ms(30_000);
    let answer = Client::new(&addresses[0]).call(4, &request).await.expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0);
    wait_until("it is there again, as another topic", DEADLINE, async || {
        let applied = operator.status().await.topics.remove("t").expect("it is described");
        applied.state == AppliedState::Live && applied.id != first && !applied.adopted
    })
    .await;
    wait_led(&addresses, "t", 2).await;
    wait_configs(&addresses[0], "t", &[("retention.ms", "5000")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_controller_goes_on() {
    let mut cluster = Cluster::start("desired-kill", "20").await;
    let addresses = cluster.addresses();
    let operator = Operator::of(&mut cluster).await;
    let names: Vec<String> = (0..200).map(|n| format!("t-{n}")).collect();
    let topics: DesiredTopics =
        names.iter().map(|name| (name.clone(), want(name, 1, &[("retention.ms", "5000")]))).collect();
    let generation = operator.publish(&topics).await;
    wait_until("it has begun", DEADLINE, async || operator.status().await.generation >= generation).await;
    // The oldest broker is the controller.
    cluster.broker(0).kill9();
    let (made, _) = operator.store.get_prefix(&operator.keys.topics()).await.expect("etcd answers");
    eprintln!("the controller died after {} of {} topics", made.len(), names.len());
    let status = operator.settled(generation).await;
    assert_eq!(status.topics.len(), names.len());
    for (name, topic) in &status.topics {
        assert_eq!((topic.state, topic.adopted), (AppliedState::Live, false), "{name}");
    }
    wait_led(&addresses[1..], "t-199", 1).await;
    // It comes back as the youngest, and is the controller when the others are gone.
    cluster.broker(0).relaunch();
    cluster.broker(0).wait_ready().await;
    for n in 1..BROKERS {
        cluster.broker(n).kill9();
    }
    let generation = operator.publish(&document(&[("t-0", want("t-0", 2, &[]))])).await;
    assert_eq!(operator.settled(generation).await.topics["t-0"].partitions, 2);
    wait_configs(&addresses[0], "t-0", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_in_one_document() {
    let count = size("DESIRED_TOPICS", 500);
    let mut cluster = Cluster::start("desired-many", "20").await;
    let addresses = cluster.addresses();
    let operator = Operator::of(&mut cluster).await;
    let topics: DesiredTopics = (0..count)
        .map(|n| (format!("team-{}.topic-{n}", n % 9), want(&format!("u{n}"), 1, &[("retention.ms", "86400000")])))
        .collect();
    let (before, began) = (cluster.stack.etcd().revision().await, kafscale::clock::monotonic());
    let generation = operator.publish(&topics).await;
    let status = operator.settled(generation).await;
    let made = began.elapsed();
    assert!(status.topics.values().all(|topic| topic.state == AppliedState::Live));
    for address in &addresses {
        wait_until("all are known", DEADLINE, async || {
            let metadata = Client::new(address).metadata(None, false).await;
            metadata.is_ok_and(|metadata| metadata.topics.len() as u64 == count)
        })
        .await;
    }
    let known = began.elapsed();
    wait_until("all are led", DEADLINE, async || {
        let Ok(metadata) = Client::new(&addresses[0]).metadata(None, false).await else { return false };
        metadata.topics.iter().flat_map(|topic| &topic.partitions).all(|partition| partition.leader_id.0 >= 0)
    })
    .await;
    let led = began.elapsed();
    let one = kafscale::clock::monotonic();
    let mut more = topics;
    more.insert("one-more".into(), want("more", 1, &[]));
    let generation = operator.publish(&more).await;
    operator.settled(generation).await;
    let writes = cluster.stack.etcd().revision().await - before;
    eprintln!(
        "{count} topics in one document: answered after {made:?}, known to all after {known:?}, led after {led:?}; one more: {:?}; {writes} writes of etcd in all",
        one.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_of_a_later_version_is_left_alone_and_that_is_said() {
    let mut cluster = Cluster::start("desired-later", "20").await;
    let operator = Operator::of(&mut cluster).await;
    let topics = document(&[("t", want("u1", 1, &[]))]);
    operator.publish_and_settle(&topics).await;
    let later = Op::Put(operator.keys.desired(), br#"{"v":2,"topics":[]}"#[..].into(), None);
    operator.store.txn(Txn { compares: vec![], ops: vec![later] }).await.expect("etcd answers");
    wait_until("it is said", DEADLINE, async || {
        operator.status().await.error.is_some_and(|error| error.contains("upgrade kafscale"))
    })
    .await;
    assert_eq!(operator.status().await.topics["t"].state, AppliedState::Live, "what was known stays");
}
