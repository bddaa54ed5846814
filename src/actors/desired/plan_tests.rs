use super::*;
use crate::ids::{FencingToken, WriterId};
use crate::metadata::keys::Keys;
use crate::metadata::model::desired::DesiredDeletion;
use crate::metadata::model::{self, LiveValue, TopicState, TopicValue};
use crate::metadata::{Entry, WatchEvent};
use proptest::prelude::*;

/// Topics as they are stored, and the answer.
#[derive(Debug, Clone, Default)]
struct World {
    topics: BTreeMap<String, TopicValue>,
    status: DesiredStatusValue,
    gone: BTreeSet<TopicId>,
    ids: u128,
}

fn pairs(list: &[(&str, &str)]) -> Configs {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn want(uid: &str, partitions: i32, configs: &[(&str, &str)]) -> DesiredTopic {
    DesiredTopic { uid: uid.into(), resource: 1, partitions, configs: pairs(configs), deletion: None }
}

fn deleting(topic: DesiredTopic) -> DesiredTopic {
    DesiredTopic { deletion: Some(DesiredDeletion::Delete), ..topic }
}

fn document(topics: &[(&str, DesiredTopic)]) -> DesiredValue {
    let topics = topics.iter().map(|(name, topic)| ((*name).to_owned(), topic.clone())).collect();
    DesiredValue { v: FORMAT, token: FencingToken(1), generation: 9, topics }
}

impl World {
    fn image(&self) -> ClusterImage {
        let (keys, mut image) = (Keys::new("test"), ClusterImage::default());
        let entry = |key, value| WatchEvent::Put(Entry { key, value, create_revision: 1, mod_revision: 1 });
        for node in [1, 2, 3] {
            let live = model::encode(&LiveValue::sample(node));
            image.apply(&keys, entry(keys.live(WriterId(node as u64)), live));
        }
        for (name, topic) in &self.topics {
            image.apply(&keys, entry(keys.topic(name), model::encode(topic)));
        }
        image
    }

    /// As a client makes it.
    fn client_makes(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicId {
        self.ids += 1;
        let id = TopicId(uuid::Uuid::from_u128(self.ids));
        let (configs, state, placement) = (pairs(configs), TopicState::Live, Vec::new());
        self.topics.insert(name.to_owned(), TopicValue { v: 1, id, partitions, configs, state, placement });
        id
    }

    fn client_deletes(&mut self, name: &str) {
        self.gone.extend(self.topics.remove(name).map(|topic| topic.id));
    }

    fn plan(&mut self, desired: &DesiredValue) -> Plan {
        let (image, before, gone) = (self.image(), self.status.clone(), self.gone.clone());
        plan(desired, &image, &before, &gone, || {
            self.ids += 1;
            TopicId(uuid::Uuid::from_u128(self.ids))
        })
    }

    /// What the metadata store makes of an operation: nothing, if it is about another topic.
    fn operate(&mut self, name: &str, operation: &Operate) {
        let own = |id: &TopicId, topics: &BTreeMap<String, TopicValue>| topics.get(name).is_some_and(|t| t.id == *id);
        match operation {
            Operate::Create { id, partitions, configs, placement } => {
                assert_eq!(placement.len(), *partitions as usize);
                if !self.topics.contains_key(name) && !self.gone.contains(id) {
                    let (configs, placement) = (configs.clone(), placement.clone());
                    let (id, partitions, state) = (*id, *partitions, TopicState::Live);
                    self.topics.insert(name.to_owned(), TopicValue { v: 1, id, partitions, configs, state, placement });
                }
            }
            Operate::Grow { id, partitions, .. } if own(id, &self.topics) => {
                let topic = self.topics.get_mut(name).unwrap();
                topic.partitions = topic.partitions.max(*partitions);
            }
            Operate::Configure { id, changes } if own(id, &self.topics) => {
                let topic = self.topics.get_mut(name).unwrap();
                topic.configs = config_change::incremental(Owner::Topic, &topic.configs, changes).unwrap();
            }
            Operate::Delete { id } if own(id, &self.topics) => self.client_deletes(name),
            _ => {}
        }
    }

    /// Rounds until there is nothing to do; how many operations there were.
    fn settle(&mut self, desired: &DesiredValue) -> usize {
        let mut count = 0;
        for _ in 0..4 {
            let plan = self.plan(desired);
            self.status = plan.status.clone();
            if plan.operations.is_empty() {
                return count;
            }
            count += plan.operations.len();
            plan.operations.iter().for_each(|(name, operation)| self.operate(name, operation));
        }
        panic!("it does not settle: {:?}", self.plan(desired));
    }

    fn state(&self, name: &str) -> AppliedState {
        self.status.topics[name].state
    }

    fn error(&self, name: &str) -> &str {
        self.status.topics[name].error.as_deref().unwrap_or_default()
    }
}

#[test]
fn topics_are_made_grow_and_are_spread_over_brokers() {
    let mut world = World::default();
    let desired = document(&[("a", want("a", 2, &[("retention.ms", " 5 ")])), ("b", want("b", 1, &[]))]);
    let first = world.plan(&desired);
    let placed = first.operations.iter().flat_map(|(_, operation)| match operation {
        Operate::Create { placement, .. } => placement.clone(),
        _ => Vec::new(),
    });
    assert_eq!(placed.collect::<BTreeSet<_>>().len(), 3, "{first:?}");
    assert_eq!(first.status.topics["a"].state, AppliedState::Pending);
    assert_eq!(world.settle(&desired), 2);
    let made = &world.status.topics["a"];
    assert_eq!((made.state, made.partitions, made.adopted), (AppliedState::Live, 2, false));
    assert_eq!(world.topics["a"].configs, pairs(&[("retention.ms", "5")]));
    assert_eq!(world.settle(&desired), 0);
    let grown = document(&[("a", want("a", 5, &[("retention.ms", "5")])), ("b", want("b", 1, &[]))]);
    assert_eq!(world.settle(&grown), 1);
    assert_eq!(world.topics["a"].partitions, 5);
    assert_eq!(world.status.generation, 9);
}

#[test]
fn what_was_begun_is_gone_on_with() {
    let mut world = World::default();
    let desired = document(&[("a", want("a", 2, &[]))]);
    let begun = world.plan(&desired);
    world.status = begun.status.clone();
    assert_eq!(world.plan(&desired).operations, begun.operations, "the same id");
    world.operate("a", &begun.operations[0].1);
    assert_eq!(world.settle(&desired), 0);
    assert!(!world.status.topics["a"].adopted, "it was made for the resource, whoever wrote that down");
    // Made, and deleted by a client, before anybody wrote it down: the id cannot be given again.
    let mut world = World { status: begun.status, gone: BTreeSet::new(), ..World::default() };
    world.operate("a", &begun.operations[0].1);
    world.client_deletes("a");
    world.ids = 100;
    assert_eq!(world.settle(&desired), 1);
    assert_eq!(world.state("a"), AppliedState::Live);
}

#[test]
fn drift_is_corrected_and_what_the_resource_does_not_name_is_left() {
    let mut world = World::default();
    let named = document(&[("a", want("a", 1, &[("retention.ms", "5"), ("cleanup.policy", "compact")]))]);
    world.settle(&named);
    let configs = &mut world.topics.get_mut("a").unwrap().configs;
    configs.insert("retention.ms".into(), "7".into());
    configs.insert("segment.ms".into(), "11".into());
    assert_eq!(world.settle(&named), 1);
    let expected = [("cleanup.policy", "compact"), ("retention.ms", "5"), ("segment.ms", "11")];
    assert_eq!(world.topics["a"].configs, pairs(&expected));
    // Named no more: the default counts again, but for what a client has set.
    assert_eq!(world.settle(&document(&[("a", want("a", 1, &[("cleanup.policy", "compact")]))])), 1);
    assert_eq!(world.topics["a"].configs, pairs(&[("cleanup.policy", "compact"), ("segment.ms", "11")]));
    assert_eq!(world.settle(&document(&[("a", want("a", 1, &[("segment.ms", "11")]))])), 1);
    assert_eq!(world.settle(&document(&[("a", want("a", 1, &[]))])), 1, "named once, and so the resource's");
    assert_eq!(world.topics["a"].configs, pairs(&[]));
}

#[test]
fn a_config_whose_setting_was_not_written_down_as_done_is_reset_nevertheless() {
    let mut world = World::default();
    world.settle(&document(&[("a", want("a", 1, &[]))]));
    let begun = world.plan(&document(&[("a", want("a", 1, &[("retention.ms", "5")]))]));
    world.status = begun.status;
    world.operate("a", &begun.operations[0].1);
    world.settle(&document(&[("a", want("a", 1, &[]))]));
    assert_eq!(world.topics["a"].configs, pairs(&[]));
}

#[test]
fn what_cannot_be_done_is_said_and_the_rest_is_done() {
    let mut world = World::default();
    world.client_makes("a_b", 6, &[]);
    world.client_makes("old", 6, &[("segment.ms", "11")]);
    let longest = "x".repeat(250);
    let desired = document(&[
        ("a.b", want("1", 1, &[])),
        ("__consumer_offsets", want("2", 1, &[])),
        ("old", want("3", 3, &[("retention.ms", "5")])),
        ("bad", want("4", 1, &[("retention.ms", "soon")])),
        ("unknown", want("5", 1, &[("no.such", "1")])),
        ("none", want("6", 0, &[])),
        ("c.d", want("7", 1, &[])),
        ("c_d", want("8", 1, &[])),
        (longest.as_str(), want("9", 1, &[])),
    ]);
    assert_eq!(world.settle(&desired), 2);
    assert_eq!(world.topics["old"].configs, pairs(&[("retention.ms", "5"), ("segment.ms", "11")]));
    assert_eq!((world.state("c.d"), world.state("c_d")), (AppliedState::Live, AppliedState::Refused));
    let says = [
        ("a.b", "collides with a_b"),
        ("__consumer_offsets", "belong to the brokers"),
        ("old", "set spec.partitions to 6 or more"),
        ("bad", "invalid value soon for configuration retention.ms"),
        ("unknown", "unknown topic config no.such"),
        ("none", "change spec.partitions"),
        ("c_d", "collides with c.d"),
        (longest.as_str(), "250 characters"),
    ];
    for (name, part) in says {
        assert_eq!(world.state(name), AppliedState::Refused, "{name}");
        assert!(world.error(name).contains(part), "{name}: {}", world.error(name));
    }
    let old = &world.status.topics["old"];
    assert_eq!((old.partitions, old.adopted, old.id), (6, true, Some(world.topics["old"].id)));
}

#[test]
fn a_refused_change_of_configs_leaves_those_of_before() {
    let mut world = World::default();
    world.settle(&document(&[("a", want("a", 1, &[("min.compaction.lag.ms", "5")]))]));
    world.topics.get_mut("a").unwrap().configs.insert("max.compaction.lag.ms".into(), "10".into());
    let desired = document(&[("a", want("a", 2, &[("min.compaction.lag.ms", "11")]))]);
    assert_eq!(world.settle(&desired), 1, "it grows");
    assert!(world.error("a").contains("max.compaction.lag.ms"), "{}", world.error("a"));
    assert_eq!((world.topics["a"].partitions, world.topics["a"].configs["min.compaction.lag.ms"].as_str()), (2, "5"));
    world.settle(&document(&[("a", want("a", 2, &[]))]));
    assert_eq!(world.topics["a"].configs, pairs(&[("max.compaction.lag.ms", "10")]), "it is remembered whose it was");
}

#[test]
fn only_the_resources_own_topic_is_deleted() {
    let mut world = World::default();
    world.client_makes("adopted", 1, &[]);
    world.client_makes("other", 1, &[]);
    let topics = [("made", want("1", 1, &[])), ("adopted", want("2", 1, &[])), ("replaced", want("3", 1, &[]))];
    world.settle(&document(&topics));
    world.client_deletes("replaced");
    world.client_makes("replaced", 1, &[]);
    let mut all: Vec<_> = topics.into_iter().map(|(name, topic)| (name, deleting(topic))).collect();
    // A resource that was never followed owns nothing.
    all.push(("other", deleting(want("4", 1, &[]))));
    assert_eq!(world.settle(&document(&all)), 2);
    assert_eq!(world.topics.keys().collect::<Vec<_>>(), ["other", "replaced"]);
    assert!(all.iter().all(|(name, _)| world.state(name) == AppliedState::Deleted), "{:?}", world.status);
    assert_eq!(world.settle(&document(&[])), 0);
    assert!(world.status.topics.is_empty());
}

#[test]
fn a_topic_that_stays_and_is_described_again_is_adopted() {
    let mut world = World::default();
    world.settle(&document(&[("a", want("1", 1, &[("retention.ms", "5")]))]));
    world.settle(&document(&[]));
    world.settle(&document(&[("a", want("2", 1, &[]))]));
    assert!(world.status.topics["a"].adopted);
    assert_eq!(world.topics["a"].configs, pairs(&[("retention.ms", "5")]), "another resource's");
}

#[test]
fn a_topic_that_a_client_deleted_is_made_again() {
    let mut world = World::default();
    let desired = document(&[("a", want("1", 1, &[]))]);
    world.settle(&desired);
    let first = world.topics["a"].id;
    world.client_deletes("a");
    assert_eq!(world.settle(&desired), 1);
    assert_ne!(world.topics["a"].id, first);
    assert!(!world.status.topics["a"].adopted);
}

const NAMES: [&str; 6] = ["a", "a.b", "a_b", "c", "d", "__x"];

fn any_topic() -> impl Strategy<Value = DesiredTopic> {
    let configs = prop::sample::subsequence(
        vec![("retention.ms", "5"), ("retention.ms", "9"), ("min.compaction.lag.ms", "11"), ("no.such", "1")],
        0..3,
    );
    (0..3u8, 1..5i32, configs, any::<bool>()).prop_map(|(uid, partitions, configs, delete)| {
        let topic = want(&format!("u{uid}"), partitions, &configs);
        if delete { deleting(topic) } else { topic }
    })
}

fn any_document() -> impl Strategy<Value = DesiredValue> {
    let topics = prop::collection::btree_map(prop::sample::select(&NAMES[..]), any_topic(), 0..5);
    topics.prop_map(|topics| document(&topics.into_iter().collect::<Vec<_>>()))
}

#[derive(Debug, Clone)]
enum Step {
    Document(DesiredValue),
    ClientMakes(&'static str, i32),
    ClientDeletes(&'static str),
    ClientSets(&'static str, &'static str),
    /// A controller stores its answer, does so many operations and dies.
    Crash(usize),
    /// A controller does its work.
    Settle,
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = || prop::sample::select(&NAMES[..]);
    prop_oneof![
        3 => any_document().prop_map(Step::Document),
        1 => (name(), 1..5i32).prop_map(|(name, partitions)| Step::ClientMakes(name, partitions)),
        1 => name().prop_map(Step::ClientDeletes),
        1 => (name(), prop::sample::select(vec!["retention.ms", "segment.ms"])).prop_map(|(n, c)| Step::ClientSets(n, c)),
        3 => (0..4usize).prop_map(Step::Crash),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    /// Whatever happens, and wherever controllers die: it settles, what the document says is so or is refused, topics that no
    /// document ever named are as clients made them, and nothing is deleted that is not the resource's.
    #[test]
    fn it_settles(steps in prop::collection::vec(any_step(), 1..12)) {
        let (mut world, mut desired) = (World::default(), document(&[]));
        let mut named: BTreeSet<String> = BTreeSet::new();
        for step in steps.into_iter().chain([Step::Settle]) {
            match step {
                Step::Document(next) => {
                    named.extend(next.topics.keys().cloned());
                    desired = next;
                }
                Step::ClientMakes(name, partitions) if !world.topics.contains_key(name) => {
                    world.client_makes(name, partitions, &[]);
                }
                Step::ClientDeletes(name) => world.client_deletes(name),
                Step::ClientSets(name, config) => {
                    if let Some(topic) = world.topics.get_mut(name) {
                        topic.configs.insert(config.into(), "77".into());
                    }
                }
                Step::Crash(done) => {
                    let plan = world.plan(&desired);
                    world.status = plan.status;
                    plan.operations.iter().take(done).for_each(|(name, operation)| world.operate(name, operation));
                }
                Step::Settle => {
                    let before = world.topics.clone();
                    world.settle(&desired);
                    for (name, topic) in before {
                        if !named.contains(&name) {
                            prop_assert_eq!(world.topics.get(&name), Some(&topic));
                        }
                    }
                    for (name, topic) in &desired.topics {
                        let applied = &world.status.topics[name];
                        let live = world.topics.get(name);
                        match applied.state {
                            AppliedState::Pending => prop_assert!(false, "{} is pending", name),
                            AppliedState::Refused => prop_assert!(applied.error.is_some()),
                            AppliedState::Deleted => {
                                prop_assert!(topic.deletion.is_some() && live.is_none_or(|live| applied.id != Some(live.id)));
                            }
                            AppliedState::Live => {
                                let live = live.expect("it says so");
                                prop_assert_eq!((live.partitions, Some(live.id)), (topic.partitions, applied.id));
                                for (name, value) in &topic.configs {
                                    prop_assert_eq!(live.configs.get(name), Some(value));
                                }
                            }
                        }
                    }
                }
                Step::ClientMakes(..) => {}
            }
        }
    }
}
