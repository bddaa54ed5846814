//! What is said about etcd. Pure; messages are stable.

use super::maintenance::state::{Seen, is_roomy};
use super::record::{Phase, Record};
use crate::operator::crd::status::{ConditionType, Finding};

const KIND: ConditionType = ConditionType::EtcdAvailable;
/// Reason: all is well, and nothing under way.
pub const HEALTHY: &str = "QuorumHealthy";

/// What to call things in messages.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// The StatefulSet; members are `{this}-{ordinal}`.
    pub etcd: &'a str,
}

/// About managed etcd of `size` members with a quota of `quota_bytes`.
pub fn managed(names: Names<'_>, record: &Record, seen: &Seen, size: u32, quota_bytes: u64) -> Finding {
    let Names { namespace, etcd } = names;
    let silent: Vec<String> = (0..size)
        .filter(|n| !seen.serving.get(n).is_some_and(|member| member.follows))
        .map(|n| format!("{etcd}-{n}"))
        .collect();
    let list = silent.join(", ");
    if !seen.has_quorum(size) {
        if record.phase == Phase::Forming {
            let message = format!("etcd is being formed; if it stays so: kubectl -n {namespace} describe pod {list}");
            return Finding::unknown(KIND, "Forming", message);
        }
        let message = format!(
            "most members of etcd do not serve ({list}), brokers cannot ack: kubectl -n {namespace} describe pod {list}. \
             If their volumes are lost, restore a snapshot as docs/etcd-restore.md says"
        );
        return Finding::no(KIND, "QuorumLost", message);
    }
    if !seen.corrupt.is_empty() {
        let message = "etcd found that its members' data differ: restore a snapshot as docs/etcd-restore.md says";
        return Finding::no(KIND, "Corrupt", message);
    }
    if !seen.no_space.is_empty() {
        let message = match is_roomy(seen, quota_bytes) {
            true => "etcd is out of space and takes no writes; the operator compacts and defragments it".to_owned(),
            false => format!(
                "etcd is out of space and takes no writes; the operator compacts and defragments it. If that does not \
                 help, raise spec.etcd.managed.quotaBytes, which is {quota_bytes}"
            ),
        };
        return Finding::no(KIND, "NoSpace", message);
    }
    if let Phase::Joining(ordinal) = record.phase {
        let message = format!("etcd serves; {etcd}-{ordinal} joins with an empty volume");
        return Finding::yes(KIND, "MemberJoining", message);
    }
    if !silent.is_empty() {
        let message = format!(
            "etcd serves without {list}: kubectl -n {namespace} describe pod {list}. If a member's data is lost or \
             damaged, delete its volume claim and its pod; the operator then replaces the member"
        );
        return Finding::yes(KIND, "MemberDown", message);
    }
    if seen.listed.iter().flatten().any(|member| member.ordinal.is_none()) {
        let message = "etcd serves; it has a member that the operator has not added: etcdctl member list";
        return Finding::yes(KIND, "StrangeMember", message);
    }
    Finding::yes(KIND, HEALTHY, "all members of etcd serve")
}

/// What is wrong with etcd that the operator does not run, and that answers.
pub fn external(seen: &Seen) -> Option<Finding> {
    if !seen.corrupt.is_empty() {
        let message = "etcd found that its members' data differ: restore it from a backup";
        return Some(Finding::no(KIND, "Corrupt", message));
    }
    let message = "etcd is out of space and takes no writes: compact and defragment it, then disarm the alarm";
    (!seen.no_space.is_empty()).then(|| Finding::no(KIND, "NoSpace", message))
}
