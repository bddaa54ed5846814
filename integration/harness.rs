//! What a test stands on: etcd, an S3 server, a latency and fault proxy before it, and the broker, as real processes.
//!
//! `Stack::start` gives a broker that is ready, with everything behind it; dropping it ends all of it. Waits poll a
//! condition and have generous deadlines, since tests share two cores with a compiler.

use crate::process::{Process, free_port};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long anything may take to become ready.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Bucket of every S3 server.
pub const BUCKET: &str = "kafscale-test";
/// Access key of every S3 server.
pub const ACCESS_KEY: &str = "test-access";
/// Secret key of every S3 server.
pub const SECRET_KEY: &str = "test-secret";
/// Region of every S3 server.
pub const REGION: &str = "us-east-1";

/// The number in environment variable `name`, or `default`: sizes of long proofs (`KILLS`, `DURATION_SEC`, `SEED`).
pub fn size(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")),
        Err(_) => default,
    }
}

/// Held by tests that measure or that load both cores, so that they run one after the other.
pub async fn quiet() -> tokio::sync::MutexGuard<'static, ()> {
    static QUIET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    QUIET.lock().await
}

/// Polls `condition` until it holds; panics with `what` after `deadline`.
pub async fn wait_until(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let end = kafscale::clock::monotonic() + deadline;
    while !condition().await {
        assert!(kafscale::clock::monotonic() < end, "gave up after {deadline:?} waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Path of an installed tool.
pub fn tool(name: &str) -> PathBuf {
    let folder = std::env::var("KAFSCALE_TOOLS")
        .map(PathBuf::from)
        .unwrap_or_else(|_| PathBuf::from(std::env::var("HOME").expect("HOME is set")).join(".cache/kafscale/tools"));
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `make test`, which installs the tools", path.display());
    path
}

/// A folder for one test's data and logs, removed when dropped; kept, and named, when the test fails.
#[derive(Debug)]
pub struct TestDir(Option<TempDir>);

impl TestDir {
    /// A new folder where temporary files go; `name` is part of its name.
    pub fn new(name: &str) -> Self {
        Self::new_in(name, &std::env::temp_dir())
    }

    /// A new folder below `parent`.
    pub fn new_in(name: &str, parent: &Path) -> Self {
        let prefix = format!("kafscale-{name}-");
        Self(Some(tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).expect("temporary folder")))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("set until dropped").path()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take().filter(|_| std::thread::panicking()) {
            eprintln!("data and logs are kept in {}", dir.keep().display());
        }
    }
}

/// One HTTP/1.0 exchange; the body as text, or what went wrong.
pub async fn http(method: &str, address: &str, path: &str, body: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(Duration::from_secs(30), exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Err(format!("{method} http://{address}{path}: {e}")),
        Err(_) => return Err(format!("{method} http://{address}{path}: no answer within 30 s")),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some(status) if status.starts_with('2') => Ok(body.to_string()),
        _ => Err(format!("{method} http://{address}{path}: {answer}")),
    }
}

async fn wait_port(process: &mut Process, what: &str, port: u16) {
    let end = kafscale::clock::monotonic() + READY_DEADLINE;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if let Some(status) = process.exited() {
            panic!("{what} ended with {status} before it was ready:\n{}", process.log_tail());
        }
        assert!(kafscale::clock::monotonic() < end, "{what} is not ready on port {port}:\n{}", process.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

/// Runs a tool to its end, which must be a good one.
fn run(program: &Path, args: &[&str]) {
    let output = std::process::Command::new(program).args(args).output().expect("the tool can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {errors}", program.display());
}

/// A single-member etcd.
#[derive(Debug)]
pub struct Etcd {
    /// The process; paused and killed by fault tests.
    pub process: Process,
    port: u16,
    peer_port: u16,
    dir: PathBuf,
}

impl Etcd {
    /// Starts one below `dir` and waits for it.
    pub async fn start(dir: &Path) -> Self {
        let (port, peer_port) = (free_port(), free_port());
        let mut etcd = Self { process: Self::spawn(dir, port, peer_port), port, peer_port, dir: dir.into() };
        etcd.wait_ready().await;
        etcd
    }

    fn spawn(dir: &Path, port: u16, peer_port: u16) -> Process {
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let data = dir.join("etcd").display().to_string();
        let args = strings(&[
            "--name=test",
            &format!("--data-dir={data}"),
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=test={peer}"),
            "--unsafe-no-fsync", // what survives SIGKILL is in the page cache; nobody cuts the power here
            "--log-level=warn",
        ]);
        Process::spawn("etcd", &tool("etcd"), &args, &[], &dir.join("etcd.log"))
    }

    async fn wait_ready(&mut self) {
        wait_port(&mut self.process, "etcd", self.port).await;
        let address = self.address();
        wait_until("etcd is healthy", READY_DEADLINE, async || {
            http("GET", &address, "/health", "").await.is_ok_and(|b| b.contains("true"))
        })
        .await;
    }

    /// host:port for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The store's revision: one more per write transaction.
    pub async fn revision(&self) -> u64 {
        let answer = http("POST", &self.address(), "/v3/maintenance/status", "{}").await.expect("etcd status");
        let status: serde_json::Value = serde_json::from_str(&answer).expect("etcd answers JSON");
        status["header"]["revision"].as_str().and_then(|r| r.parse().ok()).expect("revision is a number")
    }

    /// Writes a snapshot to `file`, as a backup does.
    pub fn snapshot(&self, file: &Path) {
        let endpoint = format!("--endpoints={}", self.endpoint());
        run(&tool("etcdctl"), &[&endpoint, "snapshot", "save", &file.display().to_string()]);
    }

    /// Ends it and starts it with what a snapshot has, or with nothing. `bump` raises the restored revision.
    pub async fn restore(&mut self, snapshot: Option<&Path>, bump: Option<u64>) {
        self.process.kill9();
        let data = self.dir.join("etcd");
        std::fs::remove_dir_all(&data).expect("etcd's data can be removed");
        if let Some(file) = snapshot {
            let peer = format!("http://127.0.0.1:{}", self.peer_port);
            let mut args = strings(&[
                "snapshot",
                "restore",
                &file.display().to_string(),
                "--name=test",
                &format!("--data-dir={}", data.display()),
                &format!("--initial-cluster=test={peer}"),
                &format!("--initial-advertise-peer-urls={peer}"),
            ]);
            args.extend(bump.map(|by| format!("--bump-revision={by}")));
            args.extend(bump.map(|_| "--mark-compacted".to_owned()));
            run(&tool("etcdutl"), &args.iter().map(String::as_str).collect::<Vec<_>>());
        }
        self.process = Self::spawn(&self.dir, self.port, self.peer_port);
        self.wait_ready().await;
    }

    /// Starts it again on the same ports and data, after [`Process::kill9`].
    pub async fn restart(&mut self) {
        self.process.kill9();
        self.process = Self::spawn(&self.dir, self.port, self.peer_port);
        self.wait_ready().await;
    }
}

/// An S3 server (versitygw on a folder).
#[derive(Debug)]
pub struct S3Server {
    /// The process; paused and killed by fault tests.
    pub process: Process,
    port: u16,
    dir: PathBuf,
}

impl S3Server {
    /// Starts one below `dir`, with [`BUCKET`].
    pub async fn start(dir: &Path) -> Self {
        for folder in ["s3/data", "s3/iam", "s3/versions"] {
            std::fs::create_dir_all(dir.join(folder)).expect("folder can be made");
        }
        std::fs::create_dir_all(dir.join("s3/data").join(BUCKET)).expect("folder can be made");
        let port = free_port();
        let mut process = Self::spawn(dir, port);
        wait_port(&mut process, "the S3 server", port).await;
        Self { process, port, dir: dir.into() }
    }

    fn spawn(dir: &Path, port: u16) -> Process {
        let path = |p: &str| dir.join("s3").join(p).display().to_string();
        let args = strings(&[
            "--quiet",
            "--keep-alive",
            "--region",
            REGION,
            "--port",
            &format!("127.0.0.1:{port}"),
            "--access",
            ACCESS_KEY,
            "--secret",
            SECRET_KEY,
            "--iam-dir",
            &path("iam"),
            "posix",
            "--versioning-dir",
            &path("versions"),
            &path("data"),
        ]);
        Process::spawn("versitygw", &tool("versitygw"), &args, &[], &dir.join("versitygw.log"))
    }

    /// host:port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same port and data.
    pub async fn restart(&mut self) {
        self.process.kill9();
        self.process = Self::spawn(&self.dir, self.port);
        wait_port(&mut self.process, "the S3 server", self.port).await;
    }

    /// True if the object `key` contains `needle`.
    pub fn contains(&self, key: &str, needle: &[u8]) -> bool {
        let bytes = std::fs::read(self.dir.join("s3/data").join(BUCKET).join(key)).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    }

    /// Keys of all objects in the bucket and their lengths, read from the folder.
    pub fn objects(&self) -> Vec<(String, u64)> {
        let root = self.dir.join("s3/data").join(BUCKET);
        let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let (Ok(key), Ok(meta)) = (path.strip_prefix(&root), entry.metadata()) {
                    found.push((key.display().to_string(), meta.len()));
                }
            }
        }
        found
    }
}

/// The latency and fault proxy before the S3 server.
#[derive(Debug)]
pub struct S3Proxy {
    process: Process,
    port: u16,
}

impl S3Proxy {
    /// Starts one before `backend` (host:port); `settings` as for [`S3Proxy::set`].
    pub async fn start(dir: &Path, backend: &str, seed: u64, settings: &str) -> Self {
        let port = free_port();
        let args = strings(&[
            "-listen",
            &format!("127.0.0.1:{port}"),
            "-backend",
            &format!("http://{backend}"),
            "-seed",
            &seed.to_string(),
            "-set",
            settings,
        ]);
        let mut process = Process::spawn("s3-latency", &tool("s3-latency"), &args, &[], &dir.join("s3-latency.log"));
        wait_port(&mut process, "the S3 proxy", port).await;
        Self { process, port }
    }

    /// host:port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes settings, e.g. `profile=std&503=0.2`; what is not named stays.
    pub async fn set(&self, settings: &str) {
        http("POST", &self.address(), &format!("/_config?{settings}"), "").await.expect("proxy takes settings");
    }

    /// A counter, e.g. `PUT requests`; 0 if it never counted.
    pub async fn count(&self, counter: &str) -> u64 {
        let answer = http("GET", &self.address(), "/_stats", "").await.expect("proxy answers");
        let stats: serde_json::Value = serde_json::from_str(&answer).expect("proxy answers JSON");
        stats[counter].as_u64().unwrap_or(0)
    }
}

/// Where a broker keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `kafscale dev`: a folder and a redb file.
    Dev,
    /// `kafscale broker`: S3 behind the proxy, and etcd.
    S3,
}

/// A broker process with fixed ports and environment, so that it can be killed and started again.
#[derive(Debug)]
pub struct Broker {
    /// The process.
    pub process: Process,
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    log: PathBuf,
    port: u16,
    metrics_port: u16,
    control_port: u16,
}

impl Broker {
    /// Starts `kafscale <command>` with `envs` besides the addresses, without waiting.
    pub fn spawn(command: &str, envs: &[(&str, String)], log: &Path) -> Self {
        Self::spawn_program(&binary(), &[command], envs, log)
    }

    /// As [`Broker::spawn`], with any program that takes the broker's environment.
    pub fn spawn_program(program: &Path, args: &[&str], envs: &[(&str, String)], log: &Path) -> Self {
        Self::spawn_on(free_port(), program, args, envs, log)
    }

    /// A broker of a cluster that listens on `port`.
    pub fn spawn_member(port: u16, envs: &[(&str, String)], log: &Path) -> Self {
        Self::spawn_on(port, &binary(), &["broker"], envs, log)
    }

    fn spawn_on(port: u16, program: &Path, args: &[&str], envs: &[(&str, String)], log: &Path) -> Self {
        let (metrics_port, control_port) = (free_port(), free_port());
        let mut all = vec![
            ("KAFSCALE_BROKER_ADDR".to_string(), format!("127.0.0.1:{port}")),
            ("KAFSCALE_METRICS_ADDR".to_string(), format!("127.0.0.1:{metrics_port}")),
        ];
        if args.first() == Some(&"dev") {
            all.push(("KAFSCALE_CONSOLE_HTTP_ADDR".into(), "127.0.0.1:0".into()));
        }
        if args == ["broker"] {
            all.push(("KAFSCALE_BROKER_HOST".into(), "127.0.0.1".into()));
            all.push(("KAFSCALE_BROKER_PORT".into(), port.to_string()));
            all.push(("KAFSCALE_CONTROL_ADDR".into(), format!("127.0.0.1:{control_port}")));
        }
        all.extend(envs.iter().map(|(k, v)| (k.to_string(), v.clone())));
        let args = strings(args);
        let process = Process::spawn("kafscale", program, &args, &all, log);
        Self { process, program: program.into(), args, envs: all, log: log.into(), port, metrics_port, control_port }
    }

    /// Starts it again with the same ports, data and environment, without waiting; ends it first if it runs.
    pub fn relaunch(&mut self) {
        self.process.kill9();
        self.process = Process::spawn("kafscale", &self.program, &self.args, &self.envs, &self.log);
    }

    /// [`Broker::relaunch`] and [`Broker::wait_ready`].
    pub async fn restart(&mut self) {
        self.relaunch();
        self.wait_ready().await;
    }

    /// Waits until the listener answers ApiVersions and `/readyz` is fine.
    pub async fn wait_ready(&mut self) {
        wait_port(&mut self.process, "the broker", self.port).await;
        let end = kafscale::clock::monotonic() + READY_DEADLINE;
        while let Err(e) = http("GET", &self.metrics_address(), "/readyz", "").await {
            if let Some(status) = self.process.exited() {
                panic!("the broker ended with {status} before it was ready:\n{}", self.process.log_tail());
            }
            assert!(kafscale::clock::monotonic() < end, "the broker is not ready: {e}\n{}", self.process.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM, and waits for the orderly end.
    pub async fn terminate(&mut self) -> std::process::ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.process.wait_exit(READY_DEADLINE).await
    }

    /// host:port of the Kafka listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// host:port of `/metrics`, `/livez`, `/readyz`.
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }

    /// host:port of the control plane; only of `kafscale broker`.
    pub fn control_address(&self) -> String {
        format!("127.0.0.1:{}", self.control_port)
    }

    /// All samples of `/metrics`: name with labels, value.
    pub async fn metrics(&self) -> Vec<(String, f64)> {
        let text = http("GET", &self.metrics_address(), "/metrics", "").await.expect("broker serves metrics");
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_string(), value.parse().ok()?))
        };
        text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect()
    }

    /// Sum of all samples whose name (before labels) contains `part`; `None` if there is none.
    pub async fn metric_sum(&self, part: &str) -> Option<f64> {
        let samples = self.metrics().await;
        let matching = samples.iter().filter(|(name, _)| name.split('{').next().unwrap_or("").contains(part));
        let values: Vec<f64> = matching.map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// The program that belongs to this build, or e.g. one of a release build.
pub fn binary() -> PathBuf {
    std::env::var("KAFSCALE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kafscale").into()).into()
}

/// A ready broker and all that it needs; ended in that order when dropped.
#[derive(Debug)]
pub struct Stack {
    /// The broker.
    pub broker: Broker,
    /// With [`Backend::S3`].
    pub etcd: Option<Etcd>,
    /// With [`Backend::S3`].
    pub proxy: Option<S3Proxy>,
    /// With [`Backend::S3`].
    pub s3: Option<S3Server>,
    /// Data and logs.
    pub dir: TestDir,
}

impl Stack {
    /// Starts everything and waits until the broker is ready. `envs` are further `KAFSCALE_*` variables; the proxy starts
    /// without latency and faults.
    pub async fn start(name: &str, backend: Backend, envs: &[(&str, &str)]) -> Self {
        Self::start_in(TestDir::new(name), backend, envs).await
    }

    /// The same with data and logs in `dir`.
    pub async fn start_in(dir: TestDir, backend: Backend, envs: &[(&str, &str)]) -> Self {
        let mut all: Vec<(&str, String)> = envs.iter().map(|(k, v)| (*k, v.to_string())).collect();
        let log = dir.path().join("broker.log");
        if backend == Backend::Dev {
            all.push(("KAFSCALE_DATA_DIR", dir.path().join("data").display().to_string()));
            let mut broker = Broker::spawn("dev", &all, &log);
            broker.wait_ready().await;
            return Self { broker, etcd: None, proxy: None, s3: None, dir };
        }
        let etcd = Etcd::start(dir.path()).await;
        let s3 = S3Server::start(dir.path()).await;
        let proxy = S3Proxy::start(dir.path(), &s3.address(), 1, "profile=none").await;
        all.extend(s3_envs(&etcd, &proxy.address()));
        let mut broker = Broker::spawn("broker", &all, &log);
        broker.wait_ready().await;
        Self { broker, etcd: Some(etcd), proxy: Some(proxy), s3: Some(s3), dir }
    }

    /// host:port of the Kafka listener.
    pub fn address(&self) -> String {
        self.broker.address()
    }

    /// The proxy of an S3 stack.
    pub fn proxy(&self) -> &S3Proxy {
        self.proxy.as_ref().expect("the stack was started with Backend::S3")
    }

    /// The etcd of an S3 stack.
    pub fn etcd(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("the stack was started with Backend::S3")
    }

    /// The S3 server of an S3 stack.
    pub fn s3(&mut self) -> &mut S3Server {
        self.s3.as_mut().expect("the stack was started with Backend::S3")
    }
}

/// Variables that point a broker at `etcd` and at the S3 endpoint `s3` (host:port).
pub fn s3_envs(etcd: &Etcd, s3: &str) -> Vec<(&'static str, String)> {
    store_envs(&etcd.endpoint(), s3)
}

/// The same with the URLs of etcd's members, separated by commas.
pub fn store_envs(etcd: &str, s3: &str) -> Vec<(&'static str, String)> {
    vec![
        ("KAFSCALE_ETCD_ENDPOINTS", etcd.to_owned()),
        ("KAFSCALE_S3_BUCKET", BUCKET.into()),
        ("KAFSCALE_S3_REGION", REGION.into()),
        ("KAFSCALE_S3_ENDPOINT", format!("http://{s3}")),
        ("KAFSCALE_S3_PATH_STYLE", "true".into()),
        ("KAFSCALE_S3_ACCESS_KEY", ACCESS_KEY.into()),
        ("KAFSCALE_S3_SECRET_KEY", SECRET_KEY.into()),
        ("KAFSCALE_S3_NAMESPACE", "test".into()),
    ]
}
