//! Looks at what is there of a cluster: in Kubernetes, in etcd, and at the brokers themselves.

use super::duplicates;
use super::memory::{EtcdAccess, Memory};
use super::plan::{Observed, PodSeen, Secrets};
use crate::control::find;
use crate::control::proto::StatusResponse;
use crate::ids::BrokerId;
use crate::operator::context::OperatorContext;
use crate::operator::control;
use crate::operator::resources::environment::{self, SecretUse};
use crate::operator::resources::pods::{self, SPEC_HASH_ANNOTATION};
use crate::operator::resources::{BROKER, CONTROL_PORT};
use crate::operator::view::ClusterView;
use futures::future;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long etcd is waited for.
const ETCD_WITHIN: Duration = Duration::from_secs(5);

/// Looks.
pub async fn observe(
    context: &OperatorContext,
    view: &ClusterView<'_>,
    memory: &mut Memory,
) -> Result<Observed, kube::Error> {
    let (client, namespace) = (&context.client, view.namespace());
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_opt(&view.brokers_name()).await?;
    let stable = maps.get_opt(&pods::stable_name(view)).await?;
    let secrets = secrets(client, view).await?;
    let (etcd, lives) = live(view, &secrets, memory).await;
    let pods = pods_of(context, view, &lives, memory).await?;
    let all = context.seen.clusters();
    let others = all.iter().map(|(key, cluster)| (key, &**cluster));
    Ok(Observed {
        set_replicas: set.map(|set| set.spec.replicas.unwrap_or(1)),
        pods,
        stable: pods::read_stable(stable.as_ref().and_then(|map| map.data.as_ref())),
        taken: duplicates::elder(view.resource, others, view.defaults),
        secrets,
        etcd: Some(etcd),
    })
}

/// Reads the secrets that the cluster names, each by its name: the operator may not list them.
async fn secrets(client: &kube::Client, view: &ClusterView<'_>) -> Result<Secrets, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), view.namespace());
    let mut found = Secrets::default();
    for used in environment::secrets(view) {
        match api.get_opt(&used.secret).await {
            Ok(secret) => keep(&mut found, &used, secret),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                found.problems.push(format!("the operator may not read the secret {:?} ({})", used.secret, used.field));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn keep(found: &mut Secrets, used: &SecretUse, secret: Option<Secret>) {
    let Some(secret) = secret else {
        found.problems.push(format!("make the secret {:?}, which {} names", used.secret, used.field));
        return;
    };
    let data = secret.data.unwrap_or_default();
    for key in used.required.iter().filter(|key| data.get(**key).is_none_or(|value| value.0.is_empty())) {
        found.problems.push(format!("put the key {key} into the secret {:?}, which {} names", used.secret, used.field));
    }
    let wanted = used.required.iter().chain(used.optional);
    let kept = wanted.filter_map(|key| Some(((*key).to_owned(), data.get(*key)?.0.clone())));
    found.data.entry(used.secret.clone()).or_default().extend(kept);
}

/// Whether etcd answers, and where the control planes of live brokers are.
async fn live(
    view: &ClusterView<'_>,
    secrets: &Secrets,
    memory: &mut Memory,
) -> (Result<(), String>, BTreeMap<BrokerId, String>) {
    let user = view.resource.spec.etcd.credentials_secret_ref.as_ref().and_then(|name| {
        let data = secrets.data.get(name)?;
        let text = |key: &str| data.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
        text("KAFSCALE_ETCD_USERNAME").zip(text("KAFSCALE_ETCD_PASSWORD"))
    });
    let access = EtcdAccess { endpoints: view.etcd_endpoints(), user };
    let ask = async {
        let store = memory.etcd(access).await?;
        find::live_brokers(&store, view.kafscale_namespace()).await
    };
    match tokio::time::timeout(ETCD_WITHIN, ask).await {
        Ok(Ok(lives)) => {
            let addresses = lives.into_iter().filter_map(|(id, live)| Some((id, live.control?))).collect();
            (Ok(()), addresses)
        }
        Ok(Err(error)) => {
            memory.forget_etcd();
            (Err(error.to_string()), BTreeMap::new())
        }
        Err(_) => {
            memory.forget_etcd();
            (Err(format!("no answer within {} s", ETCD_WITHIN.as_secs())), BTreeMap::new())
        }
    }
}

async fn pods_of(
    context: &OperatorContext,
    view: &ClusterView<'_>,
    lives: &BTreeMap<BrokerId, String>,
    memory: &mut Memory,
) -> Result<Vec<PodSeen>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), view.namespace());
    let selector = view.selector(BROKER).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let list = api.list(&ListParams::default().labels(&selector.join(","))).await?;
    let prefix = format!("{}-", view.brokers_name());
    let mut seen: Vec<PodSeen> = list.items.iter().filter_map(|pod| pod_seen(pod, &prefix, lives)).collect();
    seen.sort_by_key(|pod| pod.ordinal);
    let asked = future::join_all(seen.iter().map(ask)).await;
    let now_ms = context.clock.monotonic_ms();
    for (pod, status) in seen.iter_mut().zip(asked) {
        pod.status = status;
        pod.drain = memory.drains.state(&pod.uid);
        let since = &mut memory.not_serving_since_ms;
        if pod.serves() {
            since.remove(&pod.uid);
        } else {
            let since_ms = *since.entry(pod.uid.clone()).or_insert(now_ms);
            pod.not_serving_for = Duration::from_millis((now_ms - since_ms).unsigned_abs());
        }
    }
    let is_there = |uid: &str| seen.iter().any(|pod| pod.uid == uid);
    memory.not_serving_since_ms.retain(|uid, _| is_there(uid));
    memory.drains.retain(is_there);
    Ok(seen)
}

fn pod_seen(pod: &Pod, prefix: &str, lives: &BTreeMap<BrokerId, String>) -> Option<PodSeen> {
    let name = pod.name_any();
    let ordinal: i32 = name.strip_prefix(prefix)?.parse().ok()?;
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    let address = status
        .and_then(|status| status.pod_ip.as_ref())
        .filter(|ip| !ip.is_empty())
        .map(|ip| if ip.contains(':') { format!("[{ip}]:{CONTROL_PORT}") } else { format!("{ip}:{CONTROL_PORT}") });
    Some(PodSeen {
        ordinal,
        uid: pod.uid().unwrap_or_default(),
        hash: pod.annotations().get(SPEC_HASH_ANNOTATION).cloned().unwrap_or_default(),
        going: pod.metadata.deletion_timestamp.is_some(),
        ready,
        // It says itself where it listens.
        control: lives.get(&BrokerId(ordinal)).cloned().or(address),
        status: None,
        not_serving_for: Duration::ZERO,
        drain: None,
        name,
    })
}

/// Asks a broker what it does. One whose pod is not ready is not asked: it would not answer, and each look would wait.
async fn ask(pod: &PodSeen) -> Option<StatusResponse> {
    let address = pod.control.as_deref().filter(|_| pod.ready && !pod.going)?;
    match control::status(address).await {
        Ok(status) if status.broker_id == pod.ordinal => Some(status),
        Ok(status) => {
            tracing::warn!(pod = pod.name, address, broker = status.broker_id, "another broker answers");
            None
        }
        Err(error) => {
            tracing::debug!(pod = pod.name, %error, "a broker does not answer");
            None
        }
    }
}
