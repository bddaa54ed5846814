//! Etcd that the operator runs for clusters that have none.
//!
//! **The one rule**: a member that has lost its volume never starts under the identity it had. It would have forgotten what
//! it has promised, and two such members could lose what brokers were told is committed. So etcd is started with an initial
//! cluster that comes from a ConfigMap ([`record`]), and in its normal state that is one which no member is in: a member
//! that has data does not read it, one without data refuses to start. The operator alone opens the door, for all members
//! when the cluster is formed for the first time, later for one at a time, after it has taken the old member out of etcd and
//! added a new one ([`maintenance`]).
//!
//! Images of etcd have no shell since 3.5.7, so nothing here needs one.

pub mod api;
mod driver;
pub mod findings;
pub mod maintenance;
pub mod metrics;
pub mod objects;
pub mod pods;
pub mod record;

pub use driver::{EtcdKeeper, EtcdReport};
pub use objects::objects;
pub use record::Phase;

use super::view::ClusterView;

/// Port for clients.
pub const CLIENT_PORT: u16 = 2379;
/// Port for other members.
pub const PEER_PORT: u16 = 2380;
/// Port of metrics and probes.
pub const METRICS_PORT: u16 = 2381;
/// Where the volume is mounted.
pub const VOLUME_PATH: &str = "/var/lib/etcd";
/// Where a member keeps its data.
pub const DATA_DIR: &str = "/var/lib/etcd/data";
/// Name of the volume claim template.
pub const CLAIM: &str = "data";
/// Component label of members.
pub const COMPONENT: &str = "etcd";

/// Members that the cluster shall have.
pub fn size(view: &ClusterView<'_>) -> u32 {
    let managed = view.resource.spec.etcd.managed.as_ref();
    managed.and_then(|managed| u32::try_from(managed.replicas).ok()).unwrap_or(3)
}

/// Space quota of the database in bytes.
pub fn quota_bytes(view: &ClusterView<'_>) -> u64 {
    let managed = view.resource.spec.etcd.managed.clone().unwrap_or_default();
    match u64::try_from(managed.quota_bytes) {
        Ok(bytes) if bytes > 0 => bytes,
        _ => 4 << 30,
    }
}

/// Name of a member and of its pod.
pub fn member_name(view: &ClusterView<'_>, ordinal: u32) -> String {
    format!("{}-{ordinal}", view.etcd_name())
}

/// Name of a member's volume claim.
pub fn claim_name(view: &ClusterView<'_>, ordinal: u32) -> String {
    format!("{CLAIM}-{}", member_name(view, ordinal))
}

/// URL of a member for other members.
pub fn peer_url(view: &ClusterView<'_>, ordinal: u32) -> String {
    member_url(view, ordinal, PEER_PORT)
}

/// URL of a member for clients.
pub fn client_url(view: &ClusterView<'_>, ordinal: u32) -> String {
    member_url(view, ordinal, CLIENT_PORT)
}

fn member_url(view: &ClusterView<'_>, ordinal: u32, port: u16) -> String {
    format!("http://{}.{}.{}.svc:{port}", member_name(view, ordinal), view.etcd_name(), view.namespace())
}

/// URL of the Service for clients.
pub fn service_url(view: &ClusterView<'_>) -> String {
    format!("http://{}.{}.svc:{CLIENT_PORT}", view.etcd_client_name(), view.namespace())
}

#[cfg(test)]
pub mod tests;
