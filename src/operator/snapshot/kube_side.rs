//! What Kubernetes knows of snapshots: the secret, the CronJob and its status.

use super::metrics::{Numbers, SnapshotMetrics};
use super::objects::name;
use super::scheduler::{Check, Forget, SnapshotScheduler};
use super::state::{self, Access, History};
use super::{SnapshotSettings, scheduler};
use crate::actors::supervisor::ActorRef;
use crate::clock::Clock;
use crate::operator::crd::status::Finding;
use crate::operator::etcd::metrics::ClusterKey;
use crate::operator::view::ClusterView;
use crate::storage::s3::StaticCredentials;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use std::fmt;
use std::sync::Arc;

/// What one look at a cluster's snapshots came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotReport {
    /// For the conditions `EtcdSnapshot` and `EtcdSnapshotAccess`; none where there are no snapshots.
    pub findings: Vec<Finding>,
    /// Whether the CronJob has to be suspended ([`super::objects()`]).
    pub suspended: bool,
    /// When the last snapshot succeeded, RFC 3339.
    pub last_snapshot: Option<String>,
    /// Why the reconciliation has failed, until the bucket can be written.
    pub error: Option<String>,
}

/// Watches over the snapshots of clusters; one per operator.
pub struct SnapshotWatch {
    client: Client,
    clock: Clock,
    scheduler: ActorRef<SnapshotScheduler>,
    metrics: Arc<SnapshotMetrics>,
}

impl fmt::Debug for SnapshotWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotWatch")
    }
}

impl SnapshotWatch {
    /// One that asks `scheduler` about buckets.
    pub fn new(
        client: Client,
        clock: Clock,
        scheduler: ActorRef<SnapshotScheduler>,
        metrics: Arc<SnapshotMetrics>,
    ) -> Self {
        Self { client, clock, scheduler, metrics }
    }

    /// Forgets a cluster.
    pub fn forget(&self, key: &ClusterKey) {
        self.metrics.forget(key);
        // One that is not there remembers nothing.
        let _sent = self.scheduler.try_send(Forget(key.clone()));
    }

    /// Looks at a cluster's snapshots, before its objects are applied. With `hands_off` nothing is written to the bucket.
    pub async fn observe(&self, view: &ClusterView<'_>, hands_off: bool) -> SnapshotReport {
        let key = (view.namespace().to_owned(), view.name().to_owned());
        let Some(settings) = SnapshotSettings::of(view) else {
            self.forget(&key);
            return SnapshotReport::default();
        };
        let access = match hands_off {
            true => Access::Paused,
            false => self.access(view, &key, settings.clone()).await,
        };
        let history = match self.history(view).await {
            Ok(history) => history,
            Err(error) => {
                let error = Some(format!("the CronJob of etcd's snapshots cannot be read: {error}"));
                let suspended = matches!(access, Access::Failing { .. });
                return SnapshotReport {
                    findings: vec![state::access(&access)],
                    suspended,
                    error,
                    last_snapshot: None,
                };
            }
        };
        let now_ms = self.clock.wall_ms();
        let stale_after = settings.stale_after;
        self.metrics.set(&key, Numbers { access: access.clone(), history, stale_after });
        let snapshot = state::snapshot(view.namespace(), &name(view), &history, stale_after, now_ms);
        let last = history.last_success_ms.and_then(|ms| k8s_openapi::jiff::Timestamp::from_millisecond(ms).ok());
        SnapshotReport {
            findings: vec![snapshot, state::access(&access)],
            suspended: matches!(access, Access::Failing { .. }),
            last_snapshot: last.map(|time| time.to_string()),
            error: match access {
                Access::Failing { message, .. } => Some(message),
                Access::Fine | Access::Skipped | Access::Paused => None,
            },
        }
    }

    async fn access(&self, view: &ClusterView<'_>, cluster: &ClusterKey, settings: SnapshotSettings) -> Access {
        let credentials = match &settings.secret {
            Some(name) => match self.credentials(view, name).await {
                Ok(credentials) => Some(credentials),
                Err(message) => return Access::Failing { reason: "CredentialsMissing", message },
            },
            None => None,
        };
        let check = scheduler::Check { cluster: cluster.clone(), settings, credentials };
        self.ask(check).await
    }

    async fn ask(&self, check: Check) -> Access {
        let failing = || Access::Failing {
            reason: "PreflightFailed",
            message: "the operator could not try the bucket; it tries again".to_owned(),
        };
        let Some(scheduler) = self.scheduler.addr() else { return failing() };
        scheduler.send(check).await.unwrap_or_else(|_| failing())
    }

    async fn credentials(&self, view: &ClusterView<'_>, name: &str) -> Result<StaticCredentials, String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), view.namespace());
        let secret = secrets.get_opt(name).await.map_err(|error| format!("secret {name} cannot be read: {error}"))?;
        let data =
            secret.ok_or_else(|| format!("secret {name} does not exist; spec.s3.credentialsSecretRef names it"))?;
        let value = |key: &str| {
            let bytes = data.data.as_ref().and_then(|data| data.get(key));
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        };
        let missing = |key: &str| format!("secret {name} has no key {key}");
        Ok(StaticCredentials {
            access_key: value("KAFSCALE_S3_ACCESS_KEY").ok_or_else(|| missing("KAFSCALE_S3_ACCESS_KEY"))?,
            secret_key: value("KAFSCALE_S3_SECRET_KEY").ok_or_else(|| missing("KAFSCALE_S3_SECRET_KEY"))?,
            session_token: value("KAFSCALE_S3_SESSION_TOKEN"),
        })
    }

    async fn history(&self, view: &ClusterView<'_>) -> kube::Result<History> {
        let jobs: Api<CronJob> = Api::namespaced(self.client.clone(), view.namespace());
        let status = jobs.get_opt(&name(view)).await?.and_then(|job| job.status).unwrap_or_default();
        Ok(History {
            last_success_ms: status.last_successful_time.map(|time| time.0.as_millisecond()),
            last_schedule_ms: status.last_schedule_time.map(|time| time.0.as_millisecond()),
        })
    }
}
