//! The operator has the rights that the chart gives it and no others, and they are enough: the API server writes down what every
//! service account asks for, and a request that was forbidden fails the test that it belongs to.

use super::control_plane::ControlPlane;
use super::namespace::Namespace;
use crate::chart::helm::{Render, title};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The chart's name for the operator, its service account and its roles.
const ACCOUNT: &str = "kafscale-operator";
/// Secrets that clusters of the tests name.
const SECRETS: [&str; 2] = ["s3", "etcd"];
/// The reason for which nothing new can be made in a namespace that ends; that is no matter of rights.
const NAMESPACE_ENDS: &str = "because it is being terminated";

/// A request of a service account, as the API server wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of the request; a watch has several stages.
    pub id: String,
    /// How far it is: `ResponseStarted` (of a watch) or `ResponseComplete`.
    pub stage: String,
    /// get, list, watch…
    pub verb: String,
    /// `pods`, `kafscaletopics/status`…
    pub resource: String,
    /// Of the object, if it is about one.
    pub name: Option<String>,
    /// HTTP status.
    pub code: u64,
    /// What the API server said about an error.
    pub message: String,
}

impl Request {
    fn parse(line: &str, user: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?; // the last line may be half written
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &event["objectRef"];
        let parts = [&about["resource"], &about["subresource"]];
        let resource = parts.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join("/");
        (event["user"]["username"] == user).then(|| Self {
            id: text(&event["auditID"]),
            stage: text(&event["stage"]),
            verb: text(&event["verb"]),
            resource: if resource.is_empty() { text(&event["requestURI"]) } else { resource },
            name: about["name"].as_str().map(str::to_owned),
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            message: text(&event["responseStatus"]["message"]),
        })
    }

    /// Why it should not have been, if so.
    fn complaint(&self) -> Option<String> {
        let secret = self.resource == "secrets"
            && !(self.verb == "get" && self.name.as_deref().is_some_and(|name| SECRETS.contains(&name)));
        let forbidden = self.code == 403 && !self.message.contains(NAMESPACE_ENDS);
        (secret || forbidden)
            .then(|| format!("{} {} {:?}: {} {}", self.verb, self.resource, self.name, self.code, self.message))
    }
}

/// The rights of an operator, for as long as its test takes. When dropped it fails a test in which the operator asked for more.
#[derive(Debug)]
pub struct Rights {
    plane: &'static ControlPlane,
    user: String,
    kubeconfig: PathBuf,
}

impl Rights {
    /// What `helm install` with `values` would give to the operator of a namespace: service account, roles and bindings.
    pub async fn of_chart(namespace: &Namespace, values: &str) -> Self {
        let rendered = Render::new().release("kafscale", namespace.name()).values(values).set("crds.install=false");
        let mut yaml = String::new();
        for manifest in rendered.manifests() {
            let kind = manifest["kind"].as_str().expect("a kind");
            if kind == "ServiceAccount" && manifest["metadata"]["name"] != ACCOUNT {
                continue; // the console's
            }
            if ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"].contains(&kind) {
                yaml.push_str(&format!("--- # {}\n{manifest}\n", title(&manifest)));
            }
        }
        namespace.plane().apply(&yaml).await.expect("the chart's roles are right");
        let kubeconfig = namespace.kubeconfig_of(ACCOUNT).await;
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", namespace.name());
        Self { plane: namespace.plane(), user, kubeconfig }
    }

    /// With a token of the service account.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with these rights, for the runtime of the caller.
    pub async fn client(&self) -> kube::Client {
        super::namespace::client(&self.kubeconfig).await
    }

    /// Everything that was asked for with these rights.
    pub fn requests(&self) -> Vec<Request> {
        requests(self.plane, &self.user)
    }

    /// Watches that are open now.
    pub fn open_watches(&self) -> usize {
        let all = self.requests();
        let ended: std::collections::BTreeSet<&str> =
            all.iter().filter(|one| one.stage == "ResponseComplete").map(|one| one.id.as_str()).collect();
        let begun = |one: &&Request| one.verb == "watch" && one.stage == "ResponseStarted";
        all.iter().filter(begun).filter(|one| !ended.contains(one.id.as_str())).count()
    }
}

fn requests(plane: &ControlPlane, user: &str) -> Vec<Request> {
    let log = std::fs::read_to_string(plane.audit_log()).expect("the API server writes it");
    let mine = log.lines().filter(|line| line.contains(user));
    mine.filter_map(|line| Request::parse(line, user)).collect()
}

impl Drop for Rights {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let all = self.requests();
        assert!(!all.is_empty(), "nothing was asked for by {}", self.user);
        let complaints: Vec<String> = all.iter().filter_map(Request::complaint).collect();
        assert!(complaints.is_empty(), "the operator asked for what the chart does not give it: {complaints:#?}");
    }
}

/// What would be missed if the log were not there, or were read wrongly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forbidden_is_noticed() {
    let namespace = Namespace::new("forbidden").await;
    let kubeconfig =
        namespace.service_account("some", "- {apiGroups: [''], resources: [secrets], verbs: [get, list]}").await;
    let user = format!("system:serviceaccount:{}:some", namespace.name());
    namespace.kubectl_as(&kubeconfig, &["get", "pod", "a"]).await.expect_err("pods may not be read");
    for args in [&["get", "secret", "s3", "--ignore-not-found"][..], &["get", "secret", "x", "--ignore-not-found"]] {
        namespace.kubectl_as(&kubeconfig, args).await.expect("it may");
    }
    namespace.kubectl_as(&kubeconfig, &["get", "secrets"]).await.expect("it may");
    let all = requests(namespace.plane(), &user);
    let complaints: Vec<String> = all.iter().filter_map(Request::complaint).collect();
    let about = |part: &str| complaints.iter().any(|complaint| complaint.starts_with(part));
    assert!(about("get pods Some(\"a\"): 403"), "{complaints:?}");
    assert!(about("get secrets Some(\"x\")"), "{complaints:?}");
    assert!(about("list secrets None: 200"), "{complaints:?}");
    assert!(!about("get secrets Some(\"s3\")"), "{complaints:?}");
}
