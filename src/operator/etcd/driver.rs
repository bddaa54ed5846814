//! Looks after the etcd of clusters: reads what Kubernetes and etcd say, carries out steps, and says what was found.

use super::super::view::{ClusterView, EtcdMode, FIELD_MANAGER};
use super::api::{self, Address, User};
use super::findings::{self, Names};
use super::maintenance::state::{self, Memory, Seen, Situation, Step};
use super::metrics::{ClusterKey, EtcdMetrics};
use super::record::{self, Phase, Record};
use super::{CLIENT_PORT, claim_name, client_url, member_name, peer_url, quota_bytes, size};
use crate::clock::Clock;
use crate::operator::crd::status::{ConditionType, Finding};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

/// Steps for one look; the rest waits for the next.
const STEPS_MAX: usize = 8;

/// What one look at a cluster's etcd came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdReport {
    /// For the condition `EtcdAvailable`.
    pub finding: Finding,
    /// What was done, for events: a word and a sentence.
    pub done: Vec<(&'static str, String)>,
    /// Why something could not be done.
    pub error: Option<String>,
}

/// The URL that a member of a cluster has for the others.
type PeerUrl = Box<dyn Fn(&ClusterView<'_>, u32) -> String + Send + Sync>;

/// Looks after etcd; one per operator, for all clusters. Only the leading operator may call it.
pub struct EtcdKeeper {
    client: Client,
    peer_url: PeerUrl,
    clock: Clock,
    metrics: Arc<EtcdMetrics>,
    memories: Mutex<BTreeMap<ClusterKey, Memory>>,
}

impl fmt::Debug for EtcdKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdKeeper")
    }
}

fn key(view: &ClusterView<'_>) -> ClusterKey {
    (view.namespace().to_owned(), view.name().to_owned())
}

impl EtcdKeeper {
    /// One that knows nothing yet.
    pub fn new(client: Client, clock: Clock, metrics: Arc<EtcdMetrics>) -> Self {
        Self { client, peer_url: Box::new(peer_url), clock, metrics, memories: Mutex::default() }
    }

    /// The same where members have other URLs than the DNS of Kubernetes gives them.
    pub fn with_peer_urls(self, peer_url: impl Fn(&ClusterView<'_>, u32) -> String + Send + Sync + 'static) -> Self {
        Self { peer_url: Box::new(peer_url), ..self }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &ClusterKey) {
        self.metrics.forget(key);
        self.memories.lock().expect("no panic under the lock").remove(key);
    }

    /// Looks at a cluster's etcd, and does what it needs if it is managed.
    ///
    /// Call it before the StatefulSet is applied for the first time, and from then on every half minute or so.
    pub async fn observe(&self, view: &ClusterView<'_>) -> EtcdReport {
        match view.etcd_mode() {
            EtcdMode::Managed => self.keep(view).await,
            EtcdMode::Spec | EtcdMode::Operator => self.look(view).await,
        }
    }

    async fn look(&self, view: &ClusterView<'_>) -> EtcdReport {
        self.forget(&key(view));
        let user = match self.user(view).await {
            Ok(user) => user,
            Err(finding) => return EtcdReport { finding, done: Vec::new(), error: None },
        };
        let endpoints = view.etcd_endpoints().into_iter().enumerate();
        let members = endpoints
            .map(|(n, client)| (n as u32, Address { peer: String::new(), client: with_scheme(client) }))
            .collect();
        let (seen, refusal) = api::look(&members, user.as_ref()).await;
        EtcdReport { finding: findings::external(&seen, refusal.as_deref()), done: Vec::new(), error: None }
    }

    async fn user(&self, view: &ClusterView<'_>) -> Result<Option<User>, Finding> {
        let Some(name) = &view.resource.spec.etcd.credentials_secret_ref else { return Ok(None) };
        let unknown = |message: String| Finding::unknown(ConditionType::EtcdAvailable, "CredentialsMissing", message);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), view.namespace());
        let secret = secrets.get_opt(name).await;
        let secret = secret.map_err(|error| unknown(format!("secret {name} cannot be read: {error}")))?;
        let value = |key: &str| {
            let data = secret.as_ref().and_then(|secret| secret.data.as_ref());
            data.and_then(|data| data.get(key)).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        };
        match (value("KAFSCALE_ETCD_USERNAME"), value("KAFSCALE_ETCD_PASSWORD")) {
            (Some(name), Some(password)) => Ok(Some(User { name, password })),
            _ => Err(unknown(format!(
                "secret {name} must have the keys KAFSCALE_ETCD_USERNAME and KAFSCALE_ETCD_PASSWORD"
            ))),
        }
    }

    async fn keep(&self, view: &ClusterView<'_>) -> EtcdReport {
        let mut done = Vec::new();
        let kept = self.steps(view, &mut done).await;
        match kept {
            Ok((finding, error)) => EtcdReport { finding, done, error },
            Err(error) => {
                let message = "Kubernetes could not be asked about etcd; the operator tries again";
                let finding = Finding::unknown(ConditionType::EtcdAvailable, "Unknown", message);
                EtcdReport { finding, done, error: Some(error.to_string()) }
            }
        }
    }

    /// Looks and acts until nothing is left to do.
    async fn steps(
        &self,
        view: &ClusterView<'_>,
        done: &mut Vec<(&'static str, String)>,
    ) -> kube::Result<(Finding, Option<String>)> {
        let mut error = None;
        let mut record = self.record(view).await?;
        let members = self.members(view).await?;
        let mut seen = self.seen(view, &members).await?;
        for _ in 0..STEPS_MAX {
            let Some(step) = self.next(view, &record, &seen) else { break };
            tracing::info!(namespace = view.namespace(), cluster = view.name(), ?step, "etcd: a step");
            match self.carry_out(view, &step, &members, &seen, &record).await? {
                Ok(changed) => record = changed.unwrap_or(record),
                Err(refusal) => {
                    error = Some(refusal.to_string());
                    break;
                }
            }
            done.extend(event(&step, &view.etcd_name()));
            seen = self.seen(view, &members).await?;
        }
        self.metrics.set(&key(view), &view.etcd_name(), &seen);
        let etcd = view.etcd_name();
        let names = Names { namespace: view.namespace(), etcd: &etcd };
        Ok((findings::managed(names, &record, &seen, size(view), quota_bytes(view)), error))
    }

    fn next(&self, view: &ClusterView<'_>, record: &Record, seen: &Seen) -> Option<Step> {
        let mut memories = self.memories.lock().expect("no panic under the lock");
        let memory = memories.entry(key(view)).or_default();
        let (size, quota_bytes, now_ms) = (size(view), quota_bytes(view), self.clock.wall_ms());
        state::next(&Situation { record, seen, size, quota_bytes, now_ms }, memory)
    }

    async fn seen(&self, view: &ClusterView<'_>, members: &BTreeMap<u32, Address>) -> kube::Result<Seen> {
        let (mut seen, _) = api::look(members, None).await;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), view.namespace());
        for ordinal in members.keys() {
            // One that is being deleted is as good as gone, but its member may still run on it.
            let claim = claims.get_opt(&claim_name(view, *ordinal)).await?;
            if let Some(uid) = claim.filter(|c| c.metadata.deletion_timestamp.is_none()).and_then(|c| c.uid()) {
                seen.volumes.insert(*ordinal, uid);
            }
        }
        Ok(seen)
    }

    /// Where the members are. Their pods say so sooner than DNS does.
    async fn members(&self, view: &ClusterView<'_>) -> kube::Result<BTreeMap<u32, Address>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), view.namespace());
        let mut members = BTreeMap::new();
        for n in 0..size(view) {
            let pod = pods.get_opt(&member_name(view, n)).await?;
            let ip = pod.and_then(|pod| pod.status).and_then(|status| status.pod_ip);
            let client = match ip.as_deref().map(str::parse::<IpAddr>) {
                Some(Ok(ip)) => format!("http://{}", SocketAddr::new(ip, CLIENT_PORT)),
                _ => client_url(view, n),
            };
            members.insert(n, Address { client, peer: (self.peer_url)(view, n) });
        }
        Ok(members)
    }

    /// The record, which is made if there is none.
    async fn record(&self, view: &ClusterView<'_>) -> kube::Result<Record> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), view.namespace());
        if let Some(map) = maps.get_opt(&record::config_map_name(view)).await? {
            let data = map.data.unwrap_or_default();
            let record = Record::from_data(&data);
            let is_owned = map.metadata.owner_references.is_some_and(|owners| !owners.is_empty());
            if data != record.data(view) || is_owned != record::is_owned(view) {
                self.save(view, &record).await?;
            }
            return Ok(record);
        }
        let phase = match self.has_older_volumes(view).await? {
            true => Phase::Formed,
            false => Phase::Forming,
        };
        let record = Record::new(phase);
        self.save(view, &record).await?;
        Ok(record)
    }

    /// Whether volumes are left from a cluster of the same name.
    async fn has_older_volumes(&self, view: &ClusterView<'_>) -> kube::Result<bool> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), view.namespace());
        for ordinal in 0..size(view) {
            let claim = claims.get_opt(&claim_name(view, ordinal)).await?;
            let made = claim.and_then(|claim| claim.metadata.creation_timestamp);
            if made.is_some_and(|made| Some(&made) < view.resource.metadata.creation_timestamp.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn save(&self, view: &ClusterView<'_>, record: &Record) -> kube::Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), view.namespace());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        maps.patch(&record::config_map_name(view), &params, &Patch::Apply(record.config_map(view))).await?;
        Ok(())
    }

    /// Outside: Kubernetes failed; inside: etcd did. Gives the record if it has changed.
    async fn carry_out(
        &self,
        view: &ClusterView<'_>,
        step: &Step,
        members: &BTreeMap<u32, Address>,
        seen: &Seen,
        record: &Record,
    ) -> kube::Result<Result<Option<Record>, api::ApiError>> {
        if let Err(error) = api::carry_out(step, members, seen).await {
            return Ok(Err(error));
        }
        let changed = match step {
            Step::Save(record) => Some(record.clone()),
            Step::Defragment { ordinal } => Some(state::defragmented(record, vec![*ordinal], self.clock.wall_ms())),
            _ => None,
        };
        if let Some(record) = &changed {
            self.save(view, record).await?;
        }
        Ok(Ok(changed))
    }
}

fn with_scheme(endpoint: String) -> String {
    match endpoint.contains("://") {
        true => endpoint,
        false => format!("http://{endpoint}"),
    }
}

/// What people are told of a step.
fn event(step: &Step, etcd: &str) -> Option<(&'static str, String)> {
    match step {
        Step::Save(Record { phase: Phase::Joining(n), .. }) => {
            Some(("EtcdMemberJoining", format!("{etcd}-{n} joins etcd with an empty volume")))
        }
        Step::Save(_) => None,
        Step::Remove { ordinal, .. } => {
            Some(("EtcdMemberRemoved", format!("{etcd}-{ordinal} has lost its volume and was taken out of etcd")))
        }
        Step::Add { ordinal } => Some(("EtcdMemberAdded", format!("{etcd}-{ordinal} was added to etcd again"))),
        Step::Compact { .. } => Some(("EtcdCompacted", "etcd is out of space: its history was compacted".to_owned())),
        Step::Defragment { ordinal } => {
            Some(("EtcdDefragmented", format!("{etcd}-{ordinal} was defragmented")))
        }
        Step::Disarm { .. } => Some(("EtcdSpaceAlarmDisarmed", "etcd has space again and takes writes".to_owned())),
    }
}
