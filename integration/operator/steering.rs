//! What happens to pods and nodes in the life of a cluster, done by hand.

use super::namespace::Namespace;

impl Namespace {
    /// Makes a pod that kwok plays ready or not; it stays so.
    pub async fn set_ready(&self, pod: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let patch = format!(
            r#"{{"status":{{"conditions":[{{"type":"Ready","status":"{status}"}},{{"type":"ContainersReady","status":"{status}"}}]}}}}"#
        );
        let args = ["patch", "pod", pod, "--subresource=status", "--type=strategic", "-p", &patch];
        self.kubectl(&args).await.expect("a pod's status can be patched");
    }

    /// `kubectl drain`: evicts a node's pods, as far as their disruption budgets allow within `seconds`.
    pub async fn drain(&self, node: &str, seconds: u32) -> Result<String, String> {
        let timeout = format!("--timeout={seconds}s");
        let args = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", &timeout];
        self.plane().kubectl(&args).await
    }

    /// Lets pods onto a drained node again.
    pub async fn uncordon(&self, node: &str) {
        self.plane().kubectl(&["uncordon", node]).await.expect("a node can be uncordoned");
    }

    /// The node a pod is on.
    pub async fn node_of(&self, pod: &str) -> Result<String, String> {
        self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]).await
    }

    /// Waits until all replicas of e.g. `statefulset/a` are of its latest revision, and ready.
    pub async fn wait_rollout(&self, object: &str) {
        self.wait_object(object, "rolled out", |o| {
            let wanted = &o["spec"]["replicas"];
            let status = &o["status"];
            status["observedGeneration"] == o["metadata"]["generation"]
                && status["readyReplicas"] == *wanted
                && status["updatedReplicas"] == *wanted
                && status["replicas"] == *wanted
        })
        .await;
    }
}
