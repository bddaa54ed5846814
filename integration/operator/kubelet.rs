//! Real processes behind pods: what a node's kubelet does, for the pods of one namespace that carry
//! [`KUBELET_LABEL`](super::namespace::KUBELET_LABEL).
//!
//! A pod gets an address of its own from 127.0.0.0/8, the same one for the same name, and its containers are processes
//! that listen there, on the ports of the pod's spec. Commands, variables from every source, volumes (as folders), init containers, probes,
//! hooks, grace periods, restarts with back-off and the pod's status are as a kubelet has them; the deletion ends when the processes have.
//!
//! What differs from a node: an image is a program that the test names ([`Image`]), the file system and the user are the test's, limits are not enforced, back-off
//! is shorter. There is no DNS: in variables and arguments, names of pods and paths of volumes are replaced by addresses and folders. With
//! [`Kubelet::with_names`] processes resolve names of pods and Services ([`names`]), and images can keep those in what they are told.
//! Endpoint slices never get these pods, because the API server refuses loopback addresses there.

mod containers;
mod environment;
mod names;
mod probes;
mod status;
mod volumes;
mod worker;

use super::control_plane::wait_for;
use super::namespace::{KUBELET_LABEL, KUBELET_VALUE, Namespace};
use crate::harness::binary;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use names::Names;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What an image's name stands for.
#[derive(Debug, Clone)]
pub struct Image {
    /// Run for the image's own entry point, and for a command of the same file name.
    pub program: PathBuf,
    /// Arguments of the entry point, before a container's own.
    pub args: Vec<String>,
    /// Variables unless the container sets them; `$(POD_IP)` is the pod's address.
    pub envs: Vec<(String, String)>,
    /// Names of pods stay as they are in variables and arguments. Only with [`Kubelet::with_names`].
    pub keeps_names: bool,
}

impl Image {
    /// This build's `kafscale`. Where it would listen on all addresses by itself, it listens on the pod's.
    pub fn kafscale() -> Self {
        let listen = [("KAFSCALE_BROKER_ADDR", 9092), ("KAFSCALE_METRICS_ADDR", 9093), ("KAFSCALE_CONTROL_ADDR", 9094)];
        let envs = listen.map(|(name, port)| (name.to_owned(), format!("$(POD_IP):{port}")));
        Self { envs: envs.into(), ..Self::program(&binary()) }
    }

    /// Any program.
    pub fn program(program: &std::path::Path) -> Self {
        Self { program: program.into(), args: Vec::new(), envs: Vec::new(), keeps_names: false }
    }
}

/// A process behind a container.
#[derive(Debug, Clone)]
pub struct Running {
    /// Process id, also of its group.
    pub pid: u32,
    /// Everything that this container's processes have printed, over restarts.
    pub log: PathBuf,
}

/// What all pods share.
pub(super) struct Context {
    client: kube::Client,
    namespace: String,
    dir: PathBuf,
    images: Mutex<BTreeMap<String, Image>>,
    replacements: Vec<(String, String)>,
    names: Option<Names>,
    addresses: Mutex<BTreeMap<String, Ipv4Addr>>,
    /// By the pod's and the container's names.
    running: Mutex<BTreeMap<(String, String), Running>>,
}

impl Context {
    /// The address of the pod of that name, whether there is one now or not.
    fn address(&self, pod: &str) -> Ipv4Addr {
        *self.addresses.lock().expect("addresses").entry(pod.to_owned()).or_insert_with(next_address)
    }

    /// The pod of that name has no processes any more.
    fn forget(&self, pod: &str) {
        self.running.lock().expect("running").retain(|(name, _), _| name != pod);
    }
}

/// An address that no other pod has, and most likely no other test program.
fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let (n, pid) = (NEXT.fetch_add(1, Ordering::Relaxed), std::process::id());
    // 16 bits of the process id, 6 of the counter, none of them 0 or 255 at the end.
    let [high, low] = ((pid % (1 << 16)) as u16).to_be_bytes();
    let second = 64 + (n / 200) as u8 % 128;
    Ipv4Addr::new(127, second ^ (high & 0x3f), low, 1 + (n % 200) as u8)
}

/// See the module's documentation. Its processes are killed when it is dropped.
pub struct Kubelet {
    context: Arc<Context>,
    task: AbortHandle,
}

impl Kubelet {
    /// Runs the pods of `namespace`, now and later. `replacements` are texts and what is put for them in variables and arguments, e.g. for
    /// names of services.
    pub async fn start(namespace: &Namespace, images: &[(&str, Image)], replacements: &[(&str, String)]) -> Self {
        Self::new(namespace, images, replacements, None).await
    }

    /// The same where processes resolve names of pods and Services.
    pub async fn with_names(namespace: &Namespace, images: &[(&str, Image)]) -> Self {
        Self::new(namespace, images, &[], Some(Names::new(namespace.dir()))).await
    }

    async fn new(
        namespace: &Namespace,
        images: &[(&str, Image)],
        replacements: &[(&str, String)],
        names: Option<Names>,
    ) -> Self {
        let context = Arc::new(Context {
            client: namespace.client().await,
            namespace: namespace.name().to_owned(),
            dir: namespace.dir().to_owned(),
            images: Mutex::new(images.iter().map(|(name, image)| ((*name).to_owned(), image.clone())).collect()),
            replacements: replacements.iter().map(|(from, to)| ((*from).to_owned(), to.clone())).collect(),
            names,
            addresses: Mutex::default(),
            running: Mutex::default(),
        });
        let task = tokio::spawn(watch_pods(context.clone())).abort_handle();
        Self { context, task }
    }

    /// What to run so that a program outside of pods resolves names as those inside do.
    pub fn wrap(&self, program: &std::path::Path, args: &[String]) -> (PathBuf, Vec<String>) {
        self.context.names.as_ref().map_or_else(|| (program.into(), args.to_vec()), |names| names.wrap(program, args))
    }

    /// Makes an image known, or another program for it; pods that run keep theirs.
    pub fn set_image(&self, name: &str, image: Image) {
        self.context.images.lock().expect("images").insert(name.to_owned(), image);
    }

    /// The address of the pod of that name.
    pub fn address(&self, pod: &str) -> Ipv4Addr {
        self.context.address(pod)
    }

    /// The process of the pod's container.
    pub fn running(&self, pod: &str, container: &str) -> Option<Running> {
        let key = (pod.to_owned(), container.to_owned());
        self.context.running.lock().expect("running").get(&key).cloned()
    }

    /// Sends a signal to the process group of the pod's container, once there is one.
    pub async fn signal(&self, pod: &str, container: &str, signal: i32) {
        let what = format!("a process of {pod}");
        let found = wait_for(&what, async || self.running(pod, container).ok_or(String::new())).await;
        crate::process::signal_group(found.pid, signal);
    }

    /// What the container's processes have printed.
    pub fn log(&self, pod: &str, container: &str) -> String {
        let path = containers::log_path(&self.context, pod, container);
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            let logs = std::fs::read_dir(self.context.dir.join("logs")).into_iter().flatten().flatten();
            for log in logs.map(|entry| entry.path()) {
                let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {} ---\n{}", log.display(), lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

/// Gives every pod a worker, and tells it what becomes of the pod.
async fn watch_pods(context: Arc<Context>) {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.namespace);
    let selected = watcher::Config::default().labels(&format!("{KUBELET_LABEL}={KUBELET_VALUE}"));
    let mut events = watcher::watcher(pods, selected).boxed();
    // Dropped with this task, and the processes with their workers.
    let mut tasks = JoinSet::new();
    let mut workers: BTreeMap<String, (watch::Sender<Pod>, AbortHandle)> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let uid = pod.uid().unwrap_or_default();
                if let Some((sender, _)) = workers.get(&uid) {
                    sender.send_replace(pod);
                } else {
                    let (sender, receiver) = watch::channel(pod);
                    let handle = tasks.spawn(worker::run(context.clone(), receiver));
                    workers.insert(uid, (sender, handle));
                }
            }
            Ok(Event::Delete(pod)) => {
                // Either its worker ended the deletion, or somebody forced it.
                let handle = workers.remove(&pod.uid().unwrap_or_default()).map(|(_, handle)| handle);
                if let Some(handle) = handle.filter(|h| !h.is_finished()) {
                    handle.abort();
                    context.forget(&pod.name_any());
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            // The control plane may be busy, or gone at the end of the run; the watcher tries again.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
        }
    }
}
