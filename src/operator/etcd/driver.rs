//! Looks after the etcd of clusters: reads what Kubernetes and etcd say, carries out steps, and says what was found.

use super::super::view::{ClusterView, FIELD_MANAGER};
use super::api::{self, Address, User};
use super::findings::{self, Names};
use super::maintenance::state::{self, Memory, Seen, Situation, Step};
use super::metrics::{ClusterKey, EtcdMetrics};
use super::record::{self, Phase, Record};
use super::{CLIENT_PORT, claim_name, client_url, member_name, peer_url, quota_bytes, size};
use crate::clock::Clock;
use crate::operator::crd::status::{ConditionType, Finding};
use crate::operator::leader::{Leadership, NotLeading};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

/// Steps for one look; the rest waits for the next.
const STEPS_MAX: usize = 8;
/// Between two looks at etcd of others, ms.
const ALARMS_EVERY_MS: i64 = 30_000;

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

impl EtcdReport {
    /// Nothing is under way: the next look can wait.
    pub fn is_settled(&self) -> bool {
        self.finding.reason == findings::HEALTHY
    }
}

/// Why Kubernetes could not be asked or told.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    /// Another operator leads.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// It refuses or cannot be reached.
    #[error("Kubernetes: {0}")]
    Kubernetes(#[from] kube::Error),
}

/// The URL that a member of a cluster has for the others.
type PeerUrl = Box<dyn Fn(&ClusterView<'_>, u32) -> String + Send + Sync>;

/// Looks after etcd; one per operator, for all clusters. It does nothing while this operator does not lead.
pub struct EtcdKeeper {
    client: Client,
    leadership: Option<Arc<Leadership>>,
    peer_url: PeerUrl,
    clock: Clock,
    metrics: Arc<EtcdMetrics>,
    memories: Mutex<BTreeMap<ClusterKey, Memory>>,
    /// What was last found of etcd of others, and when.
    alarms: Mutex<BTreeMap<ClusterKey, (i64, Option<Finding>)>>,
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
        let (memories, alarms) = (Mutex::default(), Mutex::default());
        Self { client, leadership: None, peer_url: Box::new(peer_url), clock, metrics, memories, alarms }
    }

    /// The same, which acts only as long as this operator leads.
    pub fn while_leading(self, leadership: Arc<Leadership>) -> Self {
        Self { leadership: Some(leadership), ..self }
    }

    /// The same where members have other URLs than the DNS of Kubernetes gives them.
    pub fn with_peer_urls(self, peer_url: impl Fn(&ClusterView<'_>, u32) -> String + Send + Sync + 'static) -> Self {
        Self { peer_url: Box::new(peer_url), ..self }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &ClusterKey) {
        self.metrics.forget(key);
        self.memories.lock().expect("no panic under the lock").remove(key);
        self.alarms.lock().expect("no panic under the lock").remove(key);
    }

    /// What is wrong with etcd that somebody else runs and that answers: an alarm. Asked every half minute.
    pub async fn alarm(&self, view: &ClusterView<'_>) -> Option<Finding> {
        let (key, now_ms) = (key(view), self.clock.monotonic_ms());
        let known = self.alarms.lock().expect("no panic under the lock").get(&key).cloned();
        if let Some((_, finding)) = known.filter(|(at_ms, _)| now_ms - at_ms < ALARMS_EVERY_MS) {
            return finding;
        }
        let user = self.user(view).await?;
        let endpoints = view.etcd_endpoints().into_iter().enumerate();
        let members = endpoints
            .map(|(n, client)| (n as u32, Address { peer: String::new(), client: with_scheme(client) }))
            .collect();
        let (seen, _) = api::look(&members, user.as_ref()).await;
        let finding = findings::external(&seen);
        self.alarms.lock().expect("no panic under the lock").insert(key, (now_ms, finding.clone()));
        finding
    }

    /// The user that the resource names, if any; nothing if the secret is not as it has to be, which others say.
    async fn user(&self, view: &ClusterView<'_>) -> Option<Option<User>> {
        let Some(name) = &view.resource.spec.etcd.credentials_secret_ref else { return Some(None) };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), view.namespace());
        let data = secrets.get_opt(name).await.ok()??.data?;
        let value = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        let (name, password) = value("KAFSCALE_ETCD_USERNAME").zip(value("KAFSCALE_ETCD_PASSWORD"))?;
        Some(Some(User { name, password }))
    }

    /// Looks at a cluster's managed etcd, and unless `hands_off` does what it needs.
    ///
    /// Call it before the StatefulSet is applied for the first time, and from then on every half minute or so.
    pub async fn observe(&self, view: &ClusterView<'_>, hands_off: bool) -> EtcdReport {
        let mut done = Vec::new();
        let kept = self.steps(view, hands_off, &mut done).await;
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
        hands_off: bool,
        done: &mut Vec<(&'static str, String)>,
    ) -> Result<(Finding, Option<String>), KeepError> {
        let mut error = None;
        let mut record = self.record(view, hands_off).await?;
        let members = self.members(view).await?;
        let mut seen = self.seen(view, &members).await?;
        let steps_max = if hands_off { 0 } else { STEPS_MAX };
        for _ in 0..steps_max {
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
            // It takes long; whoever waits for this look has waited enough.
            if matches!(step, Step::Defragment { .. }) {
                break;
            }
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

    /// The record, which is made if there is none, unless `hands_off`.
    async fn record(&self, view: &ClusterView<'_>, hands_off: bool) -> Result<Record, KeepError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), view.namespace());
        if let Some(map) = maps.get_opt(&record::config_map_name(view)).await? {
            let data = map.data.unwrap_or_default();
            let record = Record::from_data(&data);
            let is_owned = map.metadata.owner_references.is_some_and(|owners| !owners.is_empty());
            if hands_off {
                return Ok(record);
            }
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
        if hands_off {
            return Ok(record);
        }
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

    async fn save(&self, view: &ClusterView<'_>, record: &Record) -> Result<(), KeepError> {
        self.leads()?;
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), view.namespace());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        maps.patch(&record::config_map_name(view), &params, &Patch::Apply(record.config_map(view))).await?;
        Ok(())
    }

    fn leads(&self) -> Result<(), NotLeading> {
        self.leadership.as_ref().map_or(Ok(()), |leadership| leadership.token().map(drop))
    }

    /// Outside: Kubernetes failed; inside: etcd did. Gives the record if it has changed.
    async fn carry_out(
        &self,
        view: &ClusterView<'_>,
        step: &Step,
        members: &BTreeMap<u32, Address>,
        seen: &Seen,
        record: &Record,
    ) -> Result<Result<Option<Record>, api::ApiError>, KeepError> {
        let changed = match step {
            Step::Save(record) => Some(record.clone()),
            // Before it begins: one that takes too long must not be begun again and again.
            Step::Defragment { ordinal } => Some(state::defragmented(record, vec![*ordinal], self.clock.wall_ms())),
            _ => None,
        };
        if let Some(record) = &changed {
            self.save(view, record).await?;
        }
        self.leads()?;
        Ok(api::carry_out(step, members, seen).await.map(|()| changed))
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
        Step::Defragment { ordinal } => Some(("EtcdDefragmented", format!("{etcd}-{ordinal} was defragmented"))),
        Step::Disarm { .. } => Some(("EtcdSpaceAlarmDisarmed", "etcd has space again and takes writes".to_owned())),
    }
}
