//! The one control plane of a run, and the commands that talk to it.
//!
//! `scripts/control-plane.sh run` starts it and waits for the end of its standard input. This process holds the other end
//! and never closes it, so the kernel does when the process ends, in whatever way: the script then stops what it
//! started, by process ids, and removes the folder.

use crate::harness::tool;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How long a condition of the cluster may take: two cores may be busy with a compiler.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// How long one command may take. Those that wait have a limit of their own, which is shorter.
const COMMAND_DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at the cluster.
const POLL: Duration = Duration::from_millis(100);

/// See the module's documentation.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    /// Held open; see the module's documentation.
    _script: std::process::Child,
}

impl ControlPlane {
    /// The control plane of this run, started by whoever asks first. All panic if it could not be started.
    pub async fn get() -> &'static Self {
        static PLANE: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
        let started = tokio::task::spawn_blocking(|| PLANE.get_or_init(Self::start)).await;
        match started.expect("starting does not panic") {
            Ok(plane) => plane,
            Err(e) => panic!("the control plane did not start: {e}"),
        }
    }

    /// Another one, for a test of what belongs to the whole cluster. It ends when it is dropped.
    pub async fn own() -> Self {
        let started = tokio::task::spawn_blocking(Self::start).await;
        started.expect("starting does not panic").unwrap_or_else(|e| panic!("the control plane did not start: {e}"))
    }

    fn start() -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("kafscale-k8s-").tempdir().map_err(|e| e.to_string())?.keep();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/control-plane.sh");
        let mut child = Command::new(&script)
            .arg("run")
            .arg(&dir)
            .env("KAFSCALE_TOOLS", tool("kubectl").parent().expect("tools are in a folder"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", script.display()))?;
        // The line that says it is ready. The pipe for errors is read only if there is none: a start that works says nothing.
        let mut ready = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut ready).map_err(|e| e.to_string())?;
        if ready.trim().is_empty() {
            let mut why = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut why);
            return Err(format!("{why}(its data and logs are in {})", dir.display()));
        }
        Ok(Self { dir, _script: child })
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// What service accounts outside of `kube-system` ask the API server for, a line of JSON for each stage of a request.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Certificate and key of the authority that the API server trusts.
    pub fn authority(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("ca.crt"), self.dir.join("ca.key"))
    }

    /// `kubectl` as an administrator, without a namespace: for what belongs to the cluster.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        kubectl(&self.kubeconfig(), args, "").await
    }

    /// Creates or changes what belongs to the cluster; see [`Namespace::apply`](super::namespace::Namespace::apply).
    pub async fn apply(&self, yaml: &str) -> Result<String, String> {
        apply(&self.kubeconfig(), &[], yaml).await
    }
}

/// Runs `kubectl` with what it caches beside the kubeconfig; its output, or the command and what it said.
pub async fn kubectl(kubeconfig: &Path, args: &[&str], stdin: &str) -> Result<String, String> {
    let mut all = vec![format!("--kubeconfig={}", kubeconfig.display())];
    all.push(format!("--cache-dir={}", kubeconfig.with_extension("kubectl-cache").display()));
    all.extend(args.iter().map(|a| (*a).to_owned()));
    run("kubectl", &all, &[], stdin).await
}

/// Applies on the server's side, where every field must be known and of the right type.
pub async fn apply(kubeconfig: &Path, args: &[&str], yaml: &str) -> Result<String, String> {
    let all = [args, &["apply", "--server-side", "--validate=strict", "-f", "-"]].concat();
    kubectl(kubeconfig, &all, yaml).await
}

/// Runs one of the tools with `stdin`.
pub async fn run(program: &str, args: &[String], envs: &[(&str, String)], stdin: &str) -> Result<String, String> {
    let shown = format!("{program} {}", args.join(" "));
    let mut command = tokio::process::Command::new(tool(program));
    command.args(args).envs(envs.iter().map(|(k, v)| (k, v))).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let exchange = async {
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().expect("piped");
        // A program that ends before it has read everything has its reasons, which its output tells.
        let _ = input.write_all(stdin.as_bytes()).await;
        drop(input);
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(COMMAND_DEADLINE, exchange).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => return Err(format!("{shown}: {e}")),
        Err(_) => return Err(format!("{shown}: no end after {COMMAND_DEADLINE:?}")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{shown}: {}: {}\n{}", output.status, text(&output.stderr), text(&output.stdout)))
}

/// Polls until `look` gives something; panics with `what` and what it said last after [`DEADLINE`].
pub async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = kafscale::clock::monotonic() + DEADLINE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(e) => assert!(kafscale::clock::monotonic() < end, "gave up after {DEADLINE:?} waiting for {what}: {e}"),
        }
        tokio::time::sleep(POLL).await;
    }
}
