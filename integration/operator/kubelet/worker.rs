//! The life of one pod: from the node it is bound to until its deletion is final.

use super::Context;
use super::containers::ContainerState;
use super::status::{Phase, now, status};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks at the processes.
const TICK: Duration = Duration::from_millis(100);

/// One pod.
struct Worker {
    context: Arc<Context>,
    pods: Api<Pod>,
    updates: watch::Receiver<Pod>,
    ip: Ipv4Addr,
    started: Value,
    init: Vec<ContainerState>,
    containers: Vec<ContainerState>,
    reported: Value,
}

/// Runs the pod until it is gone. `updates` has the pod as it is.
pub(super) async fn run(context: Arc<Context>, mut updates: watch::Receiver<Pod>) {
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    if updates.wait_for(|pod| bound(pod) || deletion(pod).is_some()).await.is_err() {
        return;
    }
    let pod = updates.borrow().clone();
    let states = |containers: Option<Vec<Container>>| containers.iter().flatten().map(ContainerState::new).collect();
    let spec = pod.spec.clone().unwrap_or_default();
    let ip = context.address(&pod.name_any());
    while let Some(names) = &context.names {
        match names.publish(&context, &pod, ip).await {
            Ok(()) => break,
            // The API server may be busy.
            Err(_) => tokio::time::sleep(TICK).await,
        }
    }
    let pods = Api::namespaced(context.client.clone(), &context.namespace);
    let (init, containers) = (states(spec.init_containers), states(Some(spec.containers)));
    let mut worker = Worker { context, pods, updates, ip, started: now(), init, containers, reported: Value::Null };
    worker.live().await;
    worker.die().await;
}

/// The grace period of a pod that is being deleted.
fn deletion(pod: &Pod) -> Option<Duration> {
    pod.metadata.deletion_timestamp.as_ref()?;
    Some(Duration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(30).unsigned_abs()))
}

impl Worker {
    fn pod(&self) -> Pod {
        self.updates.borrow().clone()
    }

    /// Until the pod is to be deleted.
    async fn live(&mut self) {
        let policy = self.pod().spec.and_then(|s| s.restart_policy).unwrap_or_else(|| "Always".to_owned());
        // An init container is done when it has ended well.
        let init_policy = if policy == "Never" { "Never" } else { "OnFailure" };
        loop {
            let pod = self.pod();
            if deletion(&pod).is_some() {
                return;
            }
            let next = self.init.iter_mut().find(|c| !matches!(c.phase, Phase::Terminated { code: 0, .. }));
            match next {
                Some(init) => init.tick(&self.context, &pod, self.ip, init_policy).await,
                None => {
                    for container in &mut self.containers {
                        container.tick(&self.context, &pod, self.ip, &policy).await;
                    }
                }
            }
            self.report().await;
            tokio::select! {
                changed = self.updates.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Ends the processes, with their grace, then the pod.
    async fn die(&mut self) {
        let grace = deletion(&self.pod()).unwrap_or_default();
        let mut stops = Vec::new();
        for (n, container) in self.init.iter_mut().chain(&mut self.containers).enumerate() {
            if let Some(stop) = container.stop(self.ip, grace) {
                stops.push(async move { (n, stop.await) });
            }
        }
        let stopped = futures::future::join_all(stops);
        tokio::pin!(stopped);
        let exits = loop {
            tokio::select! {
                exits = &mut stopped => break exits,
                () = tokio::time::sleep(TICK) => {
                    for container in &mut self.containers {
                        container.tick_stopping().await;
                    }
                    self.report().await;
                }
            }
        };
        for (n, status) in exits {
            let container = self.init.iter_mut().chain(&mut self.containers).nth(n).expect("numbered above");
            container.stopped(status);
        }
        self.report().await;
        self.finalise().await;
    }

    /// Tells the API server what changed; if that fails, again with the next tick.
    async fn report(&mut self) {
        let pod = self.pod();
        let wanted = status(&pod, self.ip, &self.started, &self.init, &self.containers);
        // Times of conditions come from the pod, which is a moment behind: compared without them.
        let mut compared = wanted.clone();
        for condition in compared["status"]["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastTransitionTime"] = Value::Null;
        }
        if compared == self.reported {
            return;
        }
        let patch = Patch::Strategic(&wanted);
        if self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.is_ok() {
            self.reported = compared;
        }
    }

    async fn finalise(&self) {
        let pod = self.pod();
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let now = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        self.context.forget(&pod.name_any());
        loop {
            match self.pods.delete(&pod.name_any(), &now).await {
                Ok(_) => return,
                // Gone, or another pod of that name.
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(_) => tokio::time::sleep(TICK).await,
            }
        }
    }
}
