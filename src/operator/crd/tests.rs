use super::*;

#[test]
fn the_schema_keeps_what_a_user_writes_and_has_many_rules() {
    let all: String = definitions().iter().map(yaml).collect();
    let rules = all.matches("rule:").count();
    assert!(rules >= 30, "{rules} rules");
    assert!(!all.contains("x-kubernetes-preserve-unknown-fields"), "something is not described");
    for definition in definitions() {
        let text = yaml(&definition);
        assert!(
            text.len() < 256 << 10,
            "kubectl apply keeps a copy in an annotation of at most 256 KiB: {}",
            text.len()
        );
    }
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    use super::status::{ConditionType, Conditions, Finding};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let at = |seconds| Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap());
    let mut status = super::topic::KafscaleTopicStatus::default();
    status.set(&Finding::no(ConditionType::Ready, "Creating", "not there yet"), Some(1), &at(1));
    status.set(&Finding::no(ConditionType::Ready, "Refused", "the brokers refuse it"), Some(2), &at(2));
    assert_eq!((status.conditions[0].last_transition_time.clone(), status.conditions.len()), (at(1), 1));
    assert_eq!((status.conditions[0].reason.as_str(), status.conditions[0].observed_generation), ("Refused", Some(2)));
    status.set(&Finding::yes(ConditionType::Ready, "Live", "the topic is live"), Some(2), &at(3));
    assert_eq!(status.conditions[0].last_transition_time, at(3));
}
