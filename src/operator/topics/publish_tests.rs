use super::*;
use crate::operator::crd::PAUSED_ANNOTATION;
use crate::operator::crd::topic::{ConfigText, KafscaleTopicSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

/// A resource that was made at `created`.
pub(in crate::operator::topics) fn resource(name: &str, created: i64) -> KafscaleTopic {
    let at = |seconds| Time(Timestamp::from_second(seconds).unwrap());
    KafscaleTopic {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(format!("uid-{name}")),
            generation: Some(1),
            creation_timestamp: Some(at(created)),
            ..ObjectMeta::default()
        },
        spec: KafscaleTopicSpec {
            cluster_ref: "demo".into(),
            topic_name: None,
            partitions: 3,
            retention_ms: None,
            retention_bytes: None,
            config: BTreeMap::new(),
            deletion_policy: TopicDeletion::Retain,
        },
        status: None,
    }
}

/// What was done to a resource.
pub(in crate::operator::topics) trait Done: Sized {
    fn called(self, name: &str) -> Self;
    fn guarded(self) -> Self;
    fn deleting(self) -> Self;
    fn annotated(self, annotation: &str) -> Self;
    fn with_policy(self, policy: TopicDeletion) -> Self;
}

impl Done for KafscaleTopic {
    fn called(mut self, name: &str) -> Self {
        self.spec.topic_name = Some(name.to_owned());
        self
    }

    fn guarded(mut self) -> Self {
        self.metadata.finalizers = Some(vec!["other".into(), TOPIC_FINALIZER.into()]);
        self
    }

    fn deleting(mut self) -> Self {
        self.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(99).unwrap()));
        self
    }

    fn annotated(mut self, annotation: &str) -> Self {
        self.metadata.annotations.get_or_insert_default().insert(annotation.to_owned(), "true".into());
        self
    }

    fn with_policy(mut self, policy: TopicDeletion) -> Self {
        self.spec.deletion_policy = policy;
        self
    }
}

fn all(resources: Vec<KafscaleTopic>, published: &DesiredTopics) -> Decided {
    decide(&resources.into_iter().map(Arc::new).collect::<Vec<_>>(), published)
}

/// What `resource` becomes on its own, if a document says so already.
fn document_of(resource: KafscaleTopic) -> DesiredTopics {
    all(vec![resource], &DesiredTopics::new()).topics
}

use TopicDeletion::{Delete, Retain};

#[test]
fn a_resource_is_published_with_what_it_names() {
    let mut topic = resource("orders", 1);
    topic.spec.retention_ms = Some(5);
    topic.spec.config.insert("cleanup.policy".into(), ConfigText("compact".into()));
    topic.metadata.generation = Some(4);
    let decided = all(vec![topic], &DesiredTopics::new());
    let entry = &decided.topics["orders"];
    assert_eq!((entry.uid.as_str(), entry.resource, entry.partitions, entry.deletion), ("uid-orders", 4, 3, None));
    assert_eq!(entry.configs.iter().collect::<Vec<_>>().len(), 2);
    assert_eq!(entry.configs["retention.ms"], "5");
    assert_eq!(decided.verdicts, [Verdict::Published]);
}

#[test]
fn the_older_of_two_resources_for_one_topic_counts_and_the_younger_follows_it() {
    let (older, younger) = (resource("b", 1).called("t"), resource("a", 2).called("t"));
    let decided = all(vec![younger.clone(), older.clone()], &DesiredTopics::new());
    assert_eq!(decided.topics["t"].uid, "uid-b");
    assert_eq!(decided.verdicts, [Verdict::Conflict { with: "b".into() }, Verdict::Published]);
    // Of the same second: by uid.
    let decided = all(vec![resource("b", 1).called("t"), resource("a", 1).called("t")], &DesiredTopics::new());
    assert_eq!(decided.topics["t"].uid, "uid-a");
    // The older one goes and leaves its topic.
    let decided = all(vec![younger.clone(), older.clone().deleting()], &DesiredTopics::new());
    assert_eq!(decided.topics["t"].uid, "uid-a");
    assert_eq!(decided.verdicts, [Verdict::Published, Verdict::Released]);
    // It goes with its topic: the younger one waits.
    let decided = all(vec![younger, older.with_policy(Delete).guarded().deleting()], &DesiredTopics::new());
    assert_eq!(decided.topics["t"].deletion, Some(DesiredDeletion::Delete));
    assert_eq!(decided.verdicts, [Verdict::Conflict { with: "b".into() }, Verdict::Deleting]);
}

#[test]
fn who_loses_a_conflict_deletes_nothing() {
    let younger = resource("a", 2).called("t").with_policy(Delete).guarded().deleting();
    let decided = all(vec![younger, resource("b", 1).called("t")], &DesiredTopics::new());
    assert_eq!((decided.topics["t"].uid.as_str(), decided.topics["t"].deletion), ("uid-b", None));
    assert_eq!(decided.verdicts, [Verdict::Released, Verdict::Published]);
}

#[test]
fn deletion() {
    let cases = [
        (resource("t", 1).deleting(), Verdict::Released),
        (resource("t", 1).guarded().deleting(), Verdict::Released),
        (resource("t", 1).with_policy(Delete).deleting(), Verdict::Released),
        (resource("t", 1).with_policy(Delete).guarded().deleting(), Verdict::Deleting),
        (
            resource("t", 1).with_policy(Delete).guarded().deleting().annotated(FORCE_DELETE_ANNOTATION),
            Verdict::Released,
        ),
        (resource("t", 1).with_policy(Delete).guarded().deleting().annotated(PAUSED_ANNOTATION), Verdict::Paused),
        (
            resource("t", 1)
                .with_policy(Delete)
                .guarded()
                .deleting()
                .annotated(PAUSED_ANNOTATION)
                .annotated(FORCE_DELETE_ANNOTATION),
            Verdict::Released,
        ),
        // Before there is a finalizer, deleting the resource would forget the topic.
        (resource("t", 1).with_policy(Delete), Verdict::Unguarded),
        (resource("t", 1).with_policy(Delete).guarded(), Verdict::Published),
    ];
    for (topic, verdict) in cases {
        let decided = all(vec![topic.clone()], &DesiredTopics::new());
        assert_eq!(decided.verdicts, std::slice::from_ref(&verdict), "{topic:?}");
        assert_eq!(decided.topics.contains_key("t"), matches!(verdict, Verdict::Deleting | Verdict::Published));
    }
}

#[test]
fn what_is_left_alone_stays_as_it_was_published() {
    let mut published = document_of(resource("t", 1));
    published.get_mut("t").unwrap().partitions = 2;
    let paused = resource("t", 1).annotated(PAUSED_ANNOTATION);
    for topic in
        [paused.clone(), paused.clone().with_policy(Delete).guarded().deleting(), resource("t", 1).with_policy(Delete)]
    {
        assert_eq!(all(vec![topic], &published).topics, published);
    }
    assert!(all(vec![paused], &DesiredTopics::new()).topics.is_empty(), "it was never published");
    published.get_mut("t").unwrap().uid = "another".into();
    assert!(all(vec![resource("t", 1).annotated(PAUSED_ANNOTATION)], &published).topics.is_empty());
}

#[test]
fn the_youngest_are_left_out_when_there_is_no_room() {
    let big = |n: usize| {
        let mut topic = resource(&format!("t{n:05}"), n as i64);
        // Random as far as a compressor can tell.
        let mut state = n as u64 + 1;
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:016x}", state ^ (state >> 29))
        };
        topic.spec.config.insert("x".into(), ConfigText((0..60).map(|_| word()).collect()));
        topic
    };
    let resources: Vec<_> = (0..4_000).map(|n| Arc::new(big(n))).collect();
    let decided = decide(&resources, &DesiredTopics::new());
    let left_out = decided.verdicts.iter().filter(|verdict| **verdict == Verdict::NoRoom).count();
    assert!((100..3_900).contains(&left_out), "{left_out}");
    assert_eq!(decided.topics.len() + left_out, 4_000);
    assert!(decided.verdicts[..4_000 - left_out].iter().all(|verdict| *verdict == Verdict::Published));
    let value = DesiredValue { v: FORMAT, token: FencingToken(1), generation: 1, topics: decided.topics };
    assert!(desired::pack(&value).len() <= DESIRED_BYTES_MAX);
}

fn any_resource(name: usize) -> impl Strategy<Value = KafscaleTopic> {
    (0..3i64, 0..3usize, any::<[bool; 5]>()).prop_map(
        move |(created, topic, [guarded, gone, paused, forced, deletes])| {
            let mut resource = resource(&format!("r{name}"), created).called(["x", "y", "z"][topic]);
            resource = if guarded { resource.guarded() } else { resource };
            resource = if gone { resource.deleting() } else { resource };
            resource = if paused { resource.annotated(PAUSED_ANNOTATION) } else { resource };
            resource = if forced { resource.annotated(FORCE_DELETE_ANNOTATION) } else { resource };
            resource.with_policy(if deletes { Delete } else { Retain })
        },
    )
}

proptest! {
    /// Whatever there is: every resource gets a verdict, an entry belongs to a resource that describes this topic, deletion is
    /// only said for a resource that is being deleted and wants it, and the order of the list does not matter.
    #[test]
    fn documents_say_what_resources_say(
        resources in (any_resource(0), any_resource(1), any_resource(2), any_resource(3)),
    ) {
        let list = [resources.0, resources.1, resources.2, resources.3].map(Arc::new);
        let decided = decide(&list, &DesiredTopics::new());
        prop_assert_eq!(decided.verdicts.len(), list.len());
        for (name, entry) in &decided.topics {
            let owner = list.iter().find(|resource| uid(resource) == entry.uid).expect("somebody's");
            prop_assert_eq!(owner.topic_name(), name);
            let wants = is_deleting(owner) && owner.spec.deletion_policy == Delete && is_guarded(owner) && !is_forced(owner);
            prop_assert_eq!(entry.deletion.is_some(), wants);
            prop_assert!(!is_deleting(owner) || wants);
        }
        let reversed: Vec<_> = list.iter().rev().cloned().collect();
        let again = decide(&reversed, &decided.topics);
        prop_assert_eq!(&again.topics, &decided.topics, "it rests");
        prop_assert_eq!(again.verdicts.into_iter().rev().collect::<Vec<_>>(), decided.verdicts);
    }
}
