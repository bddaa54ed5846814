use super::super::publish::tests::{Done, resource};
use super::*;
use crate::ids::TopicId;
use crate::operator::crd::{FORCE_DELETE_ANNOTATION, PAUSED_ANNOTATION};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;

fn at(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap())
}

fn answer(state: AppliedState, resource: i64) -> DesiredStatusValue {
    let applied = AppliedTopic {
        uid: "uid-t".into(),
        resource,
        state,
        id: Some(TopicId(uuid::Uuid::from_u128(7))),
        partitions: 3,
        adopted: false,
        configs: BTreeSet::new(),
        error: (state == AppliedState::Refused).then(|| "because".to_owned()),
    };
    DesiredStatusValue { topics: [("t".to_owned(), applied)].into(), ..DesiredStatusValue::default() }
}

fn say(topic: &KafscaleTopic, verdict: &Verdict, answer: Option<&DesiredStatusValue>) -> KafscaleTopicStatus {
    status(topic, verdict, &Known { answer, trouble: None, now: &at(5) })
}

fn reason_and_message(status: &KafscaleTopicStatus) -> (&str, &str, &str) {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("always");
    (&ready.status, &ready.reason, &ready.message)
}

#[test]
fn what_brokers_answer_is_said() {
    let topic = resource("t", 1);
    let live = answer(AppliedState::Live, 1);
    let said = say(&topic, &Verdict::Published, Some(&live));
    assert_eq!(reason_and_message(&said), ("True", "Live", "the topic is live"));
    assert_eq!((said.partitions, said.adopted, said.observed_generation), (Some(3), Some(false), Some(1)));
    assert_eq!(said.topic_id.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
    let refused = answer(AppliedState::Refused, 1);
    assert_eq!(reason_and_message(&say(&topic, &Verdict::Published, Some(&refused))), ("False", "Refused", "because"));
    for old in [None, Some(answer(AppliedState::Live, 0)), Some(answer(AppliedState::Pending, 1))] {
        let said = say(&topic, &Verdict::Published, old.as_ref());
        assert_eq!(reason_and_message(&said).1, "Pending", "{old:?}");
        let known = Known { answer: old.as_ref(), trouble: None, now: &at(5) };
        assert!(is_waiting(&topic, &Verdict::Published, &known));
    }
    let unreadable = DesiredStatusValue { error: Some("upgrade".into()), ..live };
    assert_eq!(reason_and_message(&say(&topic, &Verdict::Published, Some(&unreadable))).1, "NotUnderstood");
    let mut other = answer(AppliedState::Live, 1);
    other.topics.get_mut("t").unwrap().uid = "another's".into();
    assert_eq!(reason_and_message(&say(&topic, &Verdict::Published, Some(&other))).1, "Pending");
}

#[test]
fn verdicts_are_said() {
    let topic = resource("t", 1);
    let said = say(&topic, &Verdict::Conflict { with: "older".into() }, Some(&answer(AppliedState::Live, 1)));
    let (status, reason, message) = reason_and_message(&said);
    assert_eq!((status, reason, said.topic_id.as_ref()), ("False", "Conflict", None));
    assert!(message.contains("KafscaleTopic older"), "{message}");
    assert_eq!(reason_and_message(&say(&topic, &Verdict::NoRoom, None)).1, "NoRoom");
    assert_eq!(reason_and_message(&say(&topic, &Verdict::Deleting, None)).1, "Deleting");
    let orphan = orphaned(&topic, Orphan::ClusterNotFound, &at(5));
    let (status, reason, message) = reason_and_message(&orphan);
    assert_eq!((status, reason), ("False", "ClusterNotFound"));
    assert!(message.contains("no KafscaleCluster demo"), "{message}");
    assert_eq!(reason_and_message(&orphaned(&topic, Orphan::ClusterDeleting, &at(5))).1, "ClusterDeleting");
}

#[test]
fn a_paused_topic_says_so_and_what_was_last_known_of_it() {
    let topic = resource("t", 1).annotated(PAUSED_ANNOTATION);
    let said = say(&topic, &Verdict::Paused, Some(&answer(AppliedState::Live, 0)));
    assert_eq!(reason_and_message(&said).1, "Live");
    assert!(said.conditions.iter().any(|condition| condition.type_ == "Paused" && condition.status == "True"));
    let resumed = KafscaleTopic { status: Some(said), ..resource("t", 1) };
    let said = say(&resumed, &Verdict::Published, Some(&answer(AppliedState::Live, 1)));
    assert_eq!(said.conditions.len(), 1, "{said:?}");
}

#[test]
fn trouble_with_etcd_is_said_and_what_is_known_stays() {
    let mut topic = resource("t", 1);
    topic.status = Some(say(&topic, &Verdict::Published, Some(&answer(AppliedState::Live, 1))));
    for reason in ["EtcdUnavailable", "Superseded"] {
        let trouble = Trouble { reason, message: "no answer".to_owned() };
        let known = Known { answer: None, trouble: Some(&trouble), now: &at(9) };
        let said = status(&topic, &Verdict::Published, &known);
        assert_eq!(reason_and_message(&said), ("Unknown", reason, "no answer"));
        assert_eq!(said.partitions, Some(3));
        assert!(!is_waiting(&topic, &Verdict::Published, &known));
    }
}

#[test]
fn while_the_cluster_is_paused_it_is_said_and_nothing_else_happens() {
    let mut topic = resource("t", 1);
    topic.status = Some(say(&topic, &Verdict::Published, Some(&answer(AppliedState::Live, 1))));
    let trouble = Trouble::paused("demo");
    let known = Known { answer: None, trouble: Some(&trouble), now: &at(9) };
    for verdict in [Verdict::Published, Verdict::Paused, Verdict::Unguarded] {
        let said = status(&topic, &verdict, &known);
        let (holds, reason, message) = reason_and_message(&said);
        assert_eq!((holds, reason), ("Unknown", "ClusterPaused"), "{verdict:?}");
        assert!(message.contains("KafscaleCluster demo has the annotation kafscale.io/paused"), "{message}");
        assert_eq!(said.partitions, Some(3), "what is known stays");
    }
    let said = status(&topic, &Verdict::Deleting, &known);
    let (holds, reason, message) = reason_and_message(&said);
    assert_eq!((holds, reason), ("False", "Deleting"));
    assert!(message.contains("which waits: KafscaleCluster demo"), "{message}");

    let skip = FinalizerChange::Skip("a namespace ends".to_owned());
    for (change, in_trouble, held) in [
        (FinalizerChange::Add, FinalizerChange::Keep, FinalizerChange::Keep),
        (FinalizerChange::Keep, FinalizerChange::Keep, FinalizerChange::Keep),
        (FinalizerChange::Remove { deleted: false }, FinalizerChange::Remove { deleted: false }, FinalizerChange::Keep),
        (skip.clone(), skip.clone(), skip),
    ] {
        assert_eq!(change.clone().in_trouble(false), in_trouble, "{change:?}");
        assert_eq!(change.clone().in_trouble(true), held, "{change:?}");
    }
}

#[test]
fn nothing_is_written_for_a_paused_cluster_and_for_one_whose_place_is_an_older_ones() {
    let named = |name: &str, created: i64, annotations: serde_json::Value| -> Arc<KafscaleCluster> {
        let metadata = serde_json::json!({
            "name": name, "namespace": "shop", "uid": name, "creationTimestamp": at(created), "annotations": annotations,
        });
        let spec = serde_json::json!({
            "s3": {"bucket": "records", "region": "r"}, "etcd": {"endpoints": ["http://etcd:2379"]},
        });
        let resource = serde_json::json!({
            "apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleCluster", "metadata": metadata, "spec": spec,
        });
        Arc::new(serde_json::from_value(resource).expect("a cluster"))
    };
    let none = || serde_json::json!({});
    let all = [
        named("first", 1, none()),
        named("second", 2, none()),
        named("paused", 3, serde_json::json!({PAUSED_ANNOTATION: "true"})),
        named("not-paused", 0, serde_json::json!({PAUSED_ANNOTATION: "false"})),
    ];
    let defaults = crate::operator::etcd::tests::defaults(&[]);
    let reason = |all: &[Arc<KafscaleCluster>], n: usize| held(&all[n], all, &defaults).map(|trouble| trouble.reason);
    assert_eq!(reason(&all, 0), Some(CLUSTER_NOT_LOOKED_AFTER));
    assert_eq!(reason(&all, 2), Some(CLUSTER_PAUSED));
    assert_eq!(reason(&all, 3), None);
    let others = &all[..3];
    assert_eq!([reason(others, 0), reason(others, 1)], [None, Some(CLUSTER_NOT_LOOKED_AFTER)]);
}

#[test]
fn the_same_is_said_the_same_way_later() {
    let mut topic = resource("t", 1);
    let live = answer(AppliedState::Live, 1);
    topic.status = Some(say(&topic, &Verdict::Published, Some(&live)));
    let later = status(&topic, &Verdict::Published, &Known { answer: Some(&live), trouble: None, now: &at(500) });
    assert_eq!(topic.status, Some(later));
}

#[test]
fn finalizers() {
    use TopicDeletion::Delete;
    let (live, gone) = (answer(AppliedState::Live, 1), answer(AppliedState::Deleted, 1));
    let change = |topic: &KafscaleTopic, verdict, answer, ends| finalizer(topic, &verdict, answer, ends);
    let topic = resource("t", 1);
    assert_eq!(change(&topic, Verdict::Published, None, false), FinalizerChange::Keep);
    let unguarded = resource("t", 1).with_policy(Delete);
    assert_eq!(change(&unguarded, Verdict::Unguarded, None, false), FinalizerChange::Add);
    assert_eq!(change(&unguarded, Verdict::Conflict { with: "o".into() }, None, false), FinalizerChange::Keep);
    let kept = resource("t", 1).guarded();
    assert_eq!(change(&kept, Verdict::Published, None, false), FinalizerChange::Remove { deleted: false });
    assert_eq!(
        change(&kept.clone().deleting(), Verdict::Released, None, false),
        FinalizerChange::Remove { deleted: false }
    );
    let deleting = resource("t", 1).with_policy(Delete).guarded().deleting();
    for unconfirmed in [None, Some(&live)] {
        assert_eq!(change(&deleting, Verdict::Deleting, unconfirmed, false), FinalizerChange::Keep);
    }
    assert_eq!(change(&deleting, Verdict::Deleting, Some(&gone), false), FinalizerChange::Remove { deleted: true });
    assert_eq!(
        change(&deleting, Verdict::Released, None, false),
        FinalizerChange::Remove { deleted: false },
        "lost a conflict"
    );
    let skips = |change| matches!(change, FinalizerChange::Skip(_));
    assert!(skips(change(&deleting, Verdict::Deleting, Some(&live), true)));
    assert!(skips(change(&deleting.clone().annotated(FORCE_DELETE_ANNOTATION), Verdict::Released, None, false)));
    assert_eq!(change(&deleting, Verdict::Paused, Some(&gone), false), FinalizerChange::Keep);
    assert!(skips(change(&deleting, Verdict::Paused, None, true)));
    for orphan in [Orphan::ClusterNotFound, Orphan::ClusterDeleting] {
        assert!(skips(orphan_finalizer(&deleting, orphan)));
        assert_eq!(
            orphan_finalizer(&resource("t", 1).guarded().deleting(), orphan),
            FinalizerChange::Remove { deleted: false }
        );
        assert_eq!(orphan_finalizer(&unguarded, orphan), FinalizerChange::Keep);
    }
}
