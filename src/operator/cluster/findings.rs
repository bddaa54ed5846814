//! What is said about a cluster: pure functions of what was seen and decided. Messages are stable: they name brokers and
//! what to do, no ages.

use super::duplicates::Taken;
use super::plan::{Observed, PodSeen};
use crate::operator::control;
use crate::operator::crd::status::{ConditionType, Finding};
use crate::operator::rollout::state::{Decision, Progress};

/// Brokers in words.
fn brokers(ordinals: &[i32]) -> String {
    let list = ordinals.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if ordinals.len() == 1 { format!("broker {list}") } else { format!("brokers {list}") }
}

/// The secrets that the resource names.
pub fn secrets(problems: &[String]) -> Finding {
    if problems.is_empty() {
        return Finding::yes(ConditionType::SecretsReady, "Found", "all secrets that the resource names are there");
    }
    let message = format!("{}; brokers are not changed until then", problems.join("; "));
    Finding::no(ConditionType::SecretsReady, "SecretsMissing", message)
}

/// Whether somebody has asked the operator to leave the resource alone.
pub fn paused(yes: bool) -> Finding {
    let message = "the annotation kafscale.io/paused says so; nothing is changed until it is removed";
    match yes {
        true => Finding::yes(ConditionType::Paused, "Annotation", message),
        false => Finding::no(ConditionType::Paused, "NotPaused", "the operator looks after the resource"),
    }
}

/// Whether etcd answered.
pub fn etcd(outcome: Option<&Result<(), String>>) -> Finding {
    const KIND: ConditionType = ConditionType::EtcdAvailable;
    match outcome {
        Some(Ok(())) => Finding::yes(KIND, "Answers", "etcd answers"),
        Some(Err(reason)) => Finding::no(KIND, "Unreachable", format!("etcd does not answer: {reason}")),
        None => Finding::unknown(KIND, "NotAsked", "etcd has not been asked yet"),
    }
}

/// Whether brokers reach the bucket, by their own words.
pub fn bucket(pods: &[PodSeen]) -> Finding {
    const KIND: ConditionType = ConditionType::S3Access;
    let said = |wanted: bool| -> Vec<i32> {
        let that = |pod: &&PodSeen| pod.status.as_ref().and_then(control::reaches_bucket) == Some(wanted);
        pods.iter().filter(that).map(|pod| pod.ordinal).collect()
    };
    let (without, with) = (said(false), said(true));
    match (without.as_slice(), with.as_slice()) {
        ([], []) => Finding::unknown(KIND, "NoBroker", "no broker has said yet whether it reaches the bucket"),
        ([], _) => Finding::yes(KIND, "Reached", "brokers reach the bucket"),
        (without, _) => {
            let message =
                format!("{} cannot write to the bucket; look at S3, its credentials and the network", brokers(without));
            Finding::no(KIND, "Unavailable", message)
        }
    }
}

/// Ready, Progressing and Degraded of a cluster that is left alone or whose place is taken.
pub fn without_decision(observed: &Observed, taken: Option<&Taken>, replicas: i32) -> Vec<Finding> {
    let ready = ready(observed, replicas);
    match taken {
        Some(Taken { by, what, namespace }) => {
            let message = format!(
                "cluster {by} has the namespace {namespace:?} in the same {what} already; give this one another spec.s3.namespace in a new resource"
            );
            vec![
                Finding::no(ConditionType::Ready, "NamespaceTaken", message.clone()),
                Finding::no(ConditionType::Progressing, "NamespaceTaken", "nothing is applied"),
                Finding::yes(ConditionType::Degraded, "NamespaceTaken", message),
            ]
        }
        None => vec![ready, Finding::no(ConditionType::Progressing, "Waiting", "brokers are left as they are")],
    }
}

/// Ready: pods are ready and the brokers say that they serve.
pub fn ready(observed: &Observed, replicas: i32) -> Finding {
    const KIND: ConditionType = ConditionType::Ready;
    if replicas == 0 {
        return Finding::no(KIND, "NoBrokers", "spec.brokers.replicas is 0; data stays");
    }
    let serves = |ordinal: &i32| observed.pods.iter().any(|pod| pod.ordinal == *ordinal && pod.serves());
    let away: Vec<i32> = (0..replicas).filter(|ordinal| !serves(ordinal)).collect();
    match away.as_slice() {
        [] => Finding::yes(KIND, "Serving", "all brokers serve"),
        all if all.len() as i32 == replicas => Finding::no(KIND, "NotServing", "no broker serves"),
        some if some.len() == 1 => Finding::no(KIND, "BrokersNotServing", format!("{} does not serve", brokers(some))),
        some => Finding::no(KIND, "BrokersNotServing", format!("{} do not serve", brokers(some))),
    }
}

/// Ready, Progressing and Degraded of a cluster that is looked after.
pub fn of_decision(observed: &Observed, decision: &Decision, replicas: i32) -> Vec<Finding> {
    let ready = ready(observed, replicas);
    const PROGRESSING: ConditionType = ConditionType::Progressing;
    let begun = observed.stable.is_some();
    let going = match decision.progress {
        Progress::Done => Finding::no(PROGRESSING, "AsWanted", "brokers are as the resource says"),
        Progress::Draining(n) => {
            Finding::yes(PROGRESSING, "Draining", format!("broker {n} gives away what it has before it is stopped"))
        }
        Progress::Starting(n) => {
            let reason = if begun { "Starting" } else { "Creating" };
            Finding::yes(PROGRESSING, reason, format!("broker {n} is to serve next"))
        }
        Progress::Waiting(n) => {
            Finding::yes(PROGRESSING, "Waiting", format!("broker {n} has to serve before another one is replaced"))
        }
    };
    const DEGRADED: ConditionType = ConditionType::Degraded;
    let late = decision.stuck.map(|n| {
        let message = format!(
            "broker {n} does not serve in time; look at its pod's events and log (kubectl describe, kubectl logs)"
        );
        Finding::yes(DEGRADED, "BrokersNotReady", message)
    });
    let Some(failed) = &decision.failed else {
        let well = || Finding::no(DEGRADED, "AsExpected", "nothing is wrong that does not heal by itself");
        return vec![ready, going, late.unwrap_or_else(well)];
    };
    let message = format!(
        "brokers of template {failed} did not serve in time; the ones before are back. Repair the resource or the image, or change it back: the next change is rolled out"
    );
    vec![
        ready,
        Finding::no(PROGRESSING, "RolloutFailed", message.clone()),
        Finding::yes(DEGRADED, "RolloutFailed", message),
    ]
}
