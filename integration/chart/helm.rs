//! Runs Helm on the chart.

use crate::chart::repository;
use crate::harness::tool;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// The two Helms that users have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helm {
    Three,
    Four,
}

impl Helm {
    pub const BOTH: [Self; 2] = [Self::Three, Self::Four];

    /// Runs it in the repository with `stdin`; its output, or what it complained of.
    pub fn run(self, args: &[&str], stdin: &str) -> Result<String, String> {
        let program = tool(if self == Self::Three { "helm3" } else { "helm" });
        let mut child = Command::new(program)
            .args(args)
            .current_dir(repository(""))
            .env_clear() // no KUBECONFIG, no HELM_*: neither a cluster nor a user's settings play a part
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("helm starts");
        child.stdin.take().expect("it is piped").write_all(stdin.as_bytes()).expect("helm reads values");
        let output = child.wait_with_output().expect("helm ends");
        let text = |bytes| String::from_utf8(bytes).expect("helm prints UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

/// A rendering of the chart: release `kafscale` in namespace `kafscale`, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Render {
    helm: Helm,
    release: String,
    namespace: String,
    values: String,
    flags: Vec<String>,
}

impl Render {
    pub fn new() -> Self {
        let name = || "kafscale".to_owned();
        Self { helm: Helm::Four, release: name(), namespace: name(), values: String::new(), flags: Vec::new() }
    }

    pub fn helm(mut self, helm: Helm) -> Self {
        self.helm = helm;
        self
    }

    pub fn release(mut self, release: &str, namespace: &str) -> Self {
        self.release = release.to_owned();
        self.namespace = namespace.to_owned();
        self
    }

    /// Values as the text of a values file.
    pub fn values(mut self, yaml: &str) -> Self {
        self.values = yaml.to_owned();
        self
    }

    /// One value as on a command line: `operator.replicaCount=3`.
    pub fn set(self, assignment: &str) -> Self {
        self.flag("--set").flag(assignment)
    }

    /// Any flag of `helm template`.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// What Helm prints, or its error.
    pub fn text(&self) -> Result<String, String> {
        let mut args =
            vec!["template", &self.release, "helm/kafscale", "--namespace", &self.namespace, "--values", "-"];
        args.extend(self.flags.iter().map(String::as_str));
        self.helm.run(&args, &self.values)
    }

    /// The objects, in the order in which Helm prints them, hooks included.
    pub fn manifests(&self) -> Vec<Value> {
        documents(&self.text().unwrap_or_else(|error| panic!("{self:?}: {error}")))
    }
}

/// The documents of a YAML text; keys that are there twice are an error.
pub fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// `Kind/name`, or `Kind/namespace/name` if the object is in another namespace than `kafscale`.
pub fn title(manifest: &Value) -> String {
    let metadata = &manifest["metadata"];
    let (kind, name) = (manifest["kind"].as_str().expect("a kind"), metadata["name"].as_str().expect("a name"));
    match metadata["namespace"].as_str() {
        Some(namespace) if namespace != "kafscale" => format!("{kind}/{namespace}/{name}"),
        _ => format!("{kind}/{name}"),
    }
}

/// The object with that title.
pub fn find<'a>(manifests: &'a [Value], wanted: &str) -> Option<&'a Value> {
    manifests.iter().find(|manifest| title(manifest) == wanted)
}
