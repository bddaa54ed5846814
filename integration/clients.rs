//! Other people's clients, unmodified and with their defaults: each produces with every codec it has and with every acks
//! setting, reads back what it wrote from an assigned partition, and another client reads the same.
//!
//! The programs are in `integration/clients/` (see its README for their arguments); `make test` installs them. A client
//! that is missing fails its test.

use crate::harness::{Backend, Stack, tool, wait_until};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How long one run of a client may take; they give up by themselves before.
const RUN_DEADLINE: Duration = Duration::from_secs(180);
/// Records per run.
const COUNT: usize = 25;
const ALL_CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
const TOOLS_PACKAGE: &str = "org.apache.kafka.tools";

pub fn installed(path: &str) -> PathBuf {
    let tools = tool("etcd"); // names `make test` if nothing is installed
    let path = tools.parent().and_then(Path::parent).expect("tools are in the cache folder").join("clients").join(path);
    assert!(path.exists(), "{} is missing: run `make test`, which installs the clients", path.display());
    path
}

fn source(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/clients").join(path).display().to_string()
}

/// Runs a program to its end with `input`; its output.
async fn run(program: &Path, args: &[&str], input: &str) -> String {
    let (shown, output) = run_to_end(program, args, Some(input)).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Without `input` the standard input stays open until the end.
async fn run_to_end(program: &Path, args: &[&str], input: Option<&str>) -> (String, std::process::Output) {
    let shown = format!("{} {}", program.display(), args.join(" "));
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{shown}: {e}; run `make test`, which installs it"));
    let mut stdin = child.stdin.take();
    if let Some(input) = input {
        // A client that does not read its input closes it.
        let _ = stdin.take().expect("piped").write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(RUN_DEADLINE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{shown}: not done within {RUN_DEADLINE:?}")).expect("output");
    (shown, output)
}

/// A client program with the arguments of `integration/clients/README.md`.
#[derive(Debug, Clone)]
pub struct Client {
    program: PathBuf,
    first: Vec<String>,
}

impl Client {
    pub fn franz() -> Self {
        Self { program: installed("go/franz-client"), first: Vec::new() }
    }

    pub fn python(script: &str) -> Self {
        Self { program: installed("python/bin/python"), first: vec![source(script)] }
    }

    pub fn kafkajs() -> Self {
        Self { program: "node".into(), first: vec![installed("node/client.js").display().to_string()] }
    }

    pub fn java() -> Self {
        Self { program: "java".into(), first: java_options().into_iter().chain(["Client".to_owned()]).collect() }
    }

    /// The program and its first arguments.
    pub fn command(&self) -> (PathBuf, Vec<String>) {
        (self.program.clone(), self.first.clone())
    }

    /// Runs it to its end; the lines it printed.
    pub async fn run(&self, args: &[&str]) -> Vec<String> {
        let args: Vec<&str> = self.first.iter().map(String::as_str).chain(args.iter().copied()).collect();
        run(&self.program, &args, "").await.lines().map(ToString::to_string).collect()
    }

    /// Runs it to its end, which must be a failure; everything it printed.
    pub async fn run_in_vain(&self, args: &[&str]) -> String {
        let args: Vec<&str> = self.first.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let (shown, output) = run_to_end(&self.program, &args, None).await;
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!output.status.success(), "{shown}: {printed}");
        printed
    }

    async fn produce(&self, bootstrap: &str, topic: &str, codec: &str, acks: &str) -> Vec<String> {
        self.run(&["produce", bootstrap, topic, "0", codec, acks, &COUNT.to_string()]).await
    }

    async fn consume(&self, bootstrap: &str, topic: &str, count: usize) -> Vec<String> {
        self.run(&["consume", bootstrap, topic, "0", &count.to_string()]).await
    }
}

/// A client program that reads as a member of a group until it is told to stop.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    complaints: Arc<Mutex<Vec<String>>>,
    reading: [JoinHandle<()>; 2],
}

/// Takes lines until there are no more.
fn collect(
    from: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    show: bool,
) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let (read, mut from) = (lines.clone(), BufReader::new(from).lines());
    let reading = tokio::spawn(async move {
        while let Ok(Some(line)) = from.next_line().await {
            if show {
                eprintln!("{line}");
            }
            read.lock().expect("no panic under the lock").push(line);
        }
    });
    (lines, reading)
}

impl Running {
    pub fn start(client: &Client, bootstrap: &str, topic: &str, group: &str, more: &[&str]) -> Self {
        Self::spawn(client, &[&["group", bootstrap, topic, group, "0"], more].concat())
    }

    /// One that writes to all partitions of a topic, as `load` of the README says.
    pub fn load(client: &Client, bootstrap: &str, topic: &str, partitions: i32, pause_ms: u64) -> Self {
        Self::spawn(client, &["load", bootstrap, topic, &partitions.to_string(), &pause_ms.to_string()])
    }

    fn spawn(client: &Client, args: &[&str]) -> Self {
        let (program, first) = client.command();
        let mut command = Command::new(program);
        command.args(first).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("installed by `make test`");
        let (lines, out) = collect(child.stdout.take().expect("piped"), false);
        let (complaints, err) = collect(child.stderr.take().expect("piped"), true);
        Self { child, lines, complaints, reading: [out, err] }
    }

    /// What its client has told its user of trouble.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.complaints.lock().expect("no panic under the lock");
        let of_client = |line: &&String| line.starts_with("error: ") || line.starts_with("not committed: ");
        lines.iter().filter(of_client).cloned().collect()
    }

    /// `PARTITION OFFSET VALUE` of what it has read.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic under the lock").clone()
    }

    /// Records that it has read.
    pub fn count(&self) -> usize {
        self.lines.lock().expect("no panic under the lock").len()
    }

    /// Waits until it has read `count` more records.
    pub async fn has_read(&self, count: usize) {
        let wanted = self.count() + count;
        wait_until("a member reads", RUN_DEADLINE, async || self.count() >= wanted).await;
    }

    /// Lets it commit and leave; everything that it read.
    pub async fn stop(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let status = tokio::time::timeout(RUN_DEADLINE, self.child.wait()).await.expect("it ends").expect("it ran");
        assert!(status.success(), "{status}");
        for reading in &mut self.reading {
            reading.await.expect("read");
        }
        self.lines()
    }
}

/// What a partition holds after `runs` runs of a producer.
fn expected(runs: usize) -> Vec<String> {
    (0..runs * COUNT).map(|offset| format!("{offset} value-{}", offset % COUNT)).collect()
}

/// Every codec and every acks setting; the client and `other` must read the same.
async fn round_trips(client: &Client, other: &Client, codecs: &[&str]) {
    let stack = Stack::start("clients", Backend::Dev, &[]).await;
    let bootstrap = stack.address();
    for (run, codec) in codecs.iter().enumerate() {
        let offsets = client.produce(&bootstrap, "codecs", codec, "all").await;
        let ours: Vec<String> = (run * COUNT..(run + 1) * COUNT).map(|offset| offset.to_string()).collect();
        assert_eq!(offsets, ours, "offsets of the records with codec {codec}");
    }
    for reader in [client, other] {
        assert_eq!(reader.consume(&bootstrap, "codecs", codecs.len() * COUNT).await, expected(codecs.len()));
    }
    for acks in ["0", "1"] {
        let topic = format!("acks-{acks}");
        client.produce(&bootstrap, &topic, "none", acks).await;
        assert_eq!(client.consume(&bootstrap, &topic, COUNT).await, expected(1), "acks {acks}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn franz_go() {
    round_trips(&Client::franz(), &Client::python("python/confluent.py"), &ALL_CODECS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confluent_kafka_python() {
    round_trips(&Client::python("python/confluent.py"), &Client::franz(), &ALL_CODECS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_python() {
    round_trips(&Client::python("python/kafka_python.py"), &Client::franz(), &ALL_CODECS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_client() {
    round_trips(&Client::java(), &Client::franz(), &ALL_CODECS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafkajs() {
    // kafkajs has no zstd of its own.
    round_trips(&Client::kafkajs(), &Client::franz(), &ALL_CODECS[..4]).await;
}

/// Lines `value-0` … for programs that produce their standard input.
fn input() -> String {
    (0..COUNT).map(|n| format!("value-{n}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat() {
    let stack = Stack::start("kcat", Backend::Dev, &[]).await;
    let bootstrap = stack.address();
    let kcat = Path::new("kcat");
    for codec in ALL_CODECS {
        let mut args = vec!["-P", "-b", &bootstrap, "-t", "codecs", "-p", "0", "-X", "message.timeout.ms=60000"];
        args.extend(if codec == "none" { vec![] } else { vec!["-z", codec] });
        run(kcat, &args, &input()).await;
    }
    for acks in ["0", "1"] {
        let setting = format!("acks={acks}");
        let args = ["-P", "-b", &bootstrap, "-t", "acks", "-p", "0", "-X", &setting];
        run(kcat, &args, &input()).await;
        // What acks=0 sent is read here before more is sent, so that the order is known.
        let count = (if acks == "0" { COUNT } else { 2 * COUNT }).to_string();
        let args = ["-C", "-b", &bootstrap, "-t", "acks", "-p", "0", "-o", "beginning", "-c", &count, "-f", "%o %s\\n"];
        let read = run(kcat, &args, "").await;
        assert_eq!(read.lines().collect::<Vec<_>>(), expected(if acks == "0" { 1 } else { 2 }));
    }
    // -e: stop at the end, which kcat learns from the high watermark.
    let args = ["-C", "-b", &bootstrap, "-t", "codecs", "-p", "0", "-o", "beginning", "-e", "-f", "%o %s\\n"];
    assert_eq!(run(kcat, &args, "").await.lines().collect::<Vec<_>>(), expected(ALL_CODECS.len()));
    // As a member of a group; the second one goes on where the first stopped.
    for part in expected(ALL_CODECS.len()).chunks(100) {
        let count = part.len().to_string();
        let group = ["-b", &bootstrap, "-G", "readers", "-X", "auto.offset.reset=earliest"];
        let args = [&group[..], &["-c", &count, "-f", "%o %s\\n", "codecs"]].concat();
        assert_eq!(run(kcat, &args, "").await.lines().collect::<Vec<_>>(), part);
    }
    let listed = run(kcat, &["-L", "-b", &bootstrap], "").await;
    assert!(listed.contains("topic \"codecs\" with 1 partitions"), "{listed}");
}

/// Runs one of Kafka's tools, which must succeed; its output.
pub async fn java(class: &str, args: &[&str], input: &str) -> String {
    let all = java_args(class, args);
    run(Path::new("java"), &all.iter().map(String::as_str).collect::<Vec<_>>(), input).await
}

/// Runs one of Kafka's tools, whatever comes of it; everything it printed.
pub async fn try_java(class: &str, args: &[&str]) -> String {
    let all = java_args(class, args);
    let (_, output) =
        run_to_end(Path::new("java"), &all.iter().map(String::as_str).collect::<Vec<_>>(), Some("")).await;
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

fn java_args(class: &str, args: &[&str]) -> Vec<String> {
    let class = format!("{TOOLS_PACKAGE}.{class}");
    java_options().into_iter().chain([class]).chain(args.iter().map(|s| (*s).to_owned())).collect()
}

/// What comes before the class. Small and quick to start: these are many short runs on two cores.
pub fn java_options() -> Vec<String> {
    let folders = ["java/classes", "java/jars"].map(|folder| installed(folder).display().to_string());
    let path = format!("{}:{}/*", folders[0], folders[1]);
    ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", &path].map(str::to_owned).to_vec()
}
