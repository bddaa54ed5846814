//! The console's pages in Chromium, with real brokers behind them: signing in and being locked out, every page with hostile data in
//! light and dark and on a phone, and what people come for.
//!
//! Scenarios are in `integration/console_ui/*.mjs`; each of these tests starts what a scenario needs and runs it. Screenshots go to the cache
//! folder's `console-ui`.

use crate::client::Client;
use crate::clients::{self, Running, installed};
use crate::cluster::Cluster;
use crate::harness::{Backend, Etcd, READY_DEADLINE, Stack, TestDir, binary, http, quiet, wait_until};
use crate::process::{Process, free_port};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// How long a scenario may take; it gives up by itself before.
const SCENARIO_DEADLINE: Duration = Duration::from_secs(900);
const USERNAME: &str = "operator";
const PASSWORD: &str = "a password for tests";
const VIEWER: &str = "guest";
const VIEWER_PASSWORD: &str = "another password for tests";
const LOGIN: [(&str, &str); 4] = [
    ("KAFSCALE_UI_USERNAME", USERNAME),
    ("KAFSCALE_UI_PASSWORD", PASSWORD),
    ("KAFSCALE_UI_VIEWER_USERNAME", VIEWER),
    ("KAFSCALE_UI_VIEWER_PASSWORD", VIEWER_PASSWORD),
];

/// A console, in `kafscale dev` or by itself.
struct Console {
    address: String,
    bootstrap: String,
    broker: i32,
}

impl Console {
    /// What a scenario gets to know.
    fn settings(&self, more: Value) -> Value {
        let cache = installed("browser").ancestors().nth(2).expect("in the cache folder").to_path_buf();
        let mut settings = json!({
            "base": format!("http://{}", self.address), "bootstrap": self.bootstrap, "broker": self.broker, "username": USERNAME, "password": PASSWORD,
            "viewer": VIEWER, "viewerPassword": VIEWER_PASSWORD, "topic": "t", "shots": cache.join("console-ui").display().to_string(),
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            settings[key] = value.clone();
        }
        settings
    }

    fn start(&self, scenario: &str, more: Value) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/console_ui/run.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(scenario).arg(self.settings(more).to_string());
        command.env("CONSOLE_UI_MODULES", installed("browser")).env("NODE_CLIENT_MODULES", installed("node"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().expect("node is installed by `make test`")
    }

    /// Runs a scenario to its end.
    async fn run(&self, scenario: &str) {
        let run = self.start(scenario, json!({})).wait_with_output();
        let output = tokio::time::timeout(SCENARIO_DEADLINE, run).await;
        let output =
            output.unwrap_or_else(|_| panic!("{scenario}: not done within {SCENARIO_DEADLINE:?}")).expect("output");
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{scenario}: {}", output.status);
    }
}

/// `kafscale dev` with its console.
async fn dev(name: &str) -> (Stack, Console) {
    let address = format!("127.0.0.1:{}", free_port());
    let envs: Vec<(&str, &str)> = LOGIN.into_iter().chain([("KAFSCALE_CONSOLE_HTTP_ADDR", address.as_str())]).collect();
    let stack = Stack::start(name, Backend::Dev, &envs).await;
    wait_console(&address).await;
    let bootstrap = stack.address();
    (stack, Console { address, bootstrap, broker: 0 })
}

/// `kafscale console` by itself, looking at the cluster of `etcd`.
async fn alone(etcd: &Etcd, bootstrap: &str, broker: i32, login: &[(&str, &str)], dir: &Path) -> (Process, Console) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut envs = vec![
        ("KAFSCALE_CONSOLE_HTTP_ADDR".to_owned(), address.clone()),
        ("KAFSCALE_CONSOLE_ETCD_ENDPOINTS".to_owned(), etcd.endpoint()),
        ("KAFSCALE_S3_NAMESPACE".to_owned(), "test".to_owned()), // as the brokers of the harness
    ];
    envs.extend(login.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    let process = Process::spawn("console", &binary(), &["console".to_owned()], &envs, &dir.join("console.log"));
    wait_console(&address).await;
    (process, Console { address, bootstrap: bootstrap.to_owned(), broker })
}

async fn wait_console(address: &str) {
    wait_until("the console serves its pages", READY_DEADLINE, async || {
        http("GET", address, "/login", "").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in() {
    let _quiet = quiet().await;
    let (stack, console) = dev("ui-sign-in").await;
    Client::new(&stack.address()).ensure_topic("t", 1).await;
    console.run("signingIn").await;
    console.run("viewer").await;
    console.run("lockout").await; // last, since it locks this address out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_without_a_login() {
    let _quiet = quiet().await;
    let dir = TestDir::new("ui-no-login");
    let etcd = Etcd::start(dir.path()).await;
    let (_process, console) = alone(&etcd, "", 0, &[], dir.path()).await;
    console.run("notConfigured").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page() {
    let _quiet = quiet().await;
    let (_stack, console) = dev("ui-pages").await;
    console.run("pages").await;
    console.run("offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics() {
    let _quiet = quiet().await;
    let (_stack, console) = dev("ui-topics").await;
    console.run("topics").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages() {
    let _quiet = quiet().await;
    let (stack, console) = dev("ui-messages").await;
    Client::new(&stack.address()).ensure_topic("t", 2).await;
    console.run("messages").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups() {
    let _quiet = quiet().await;
    let (stack, console) = dev("ui-groups").await;
    Client::new(&stack.address()).ensure_topic("t", 2).await;
    console.run("groups").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain() {
    let _quiet = quiet().await;
    let mut cluster = Cluster::start("ui-drain", "100").await;
    Client::new(&cluster.stack.address()).ensure_topic("t", 12).await;
    let dir = cluster.stack.dir.path().to_path_buf();
    let bootstrap = cluster.addresses().join(",");
    let (_process, console) = alone(cluster.stack.etcd(), &bootstrap, 1, &LOGIN, &dir).await;
    console.run("drain").await;
}

/// Ends the object store, the brokers and etcd one after the other; each time every page is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_without_what_they_need() {
    let _quiet = quiet().await;
    let mut stack = Stack::start("ui-outages", Backend::S3, &[("KAFSCALE_BROKER_LEASE_SEC", "2")]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 2).await;
    client.produce_values("t", 0, &[b"a", b"b"]).await;
    let dir: PathBuf = stack.dir.path().into();
    let bootstrap = stack.address();
    let (_process, console) = alone(stack.etcd(), &bootstrap, 0, &LOGIN, &dir).await;
    let mut looking = console.start("outages", json!({}));
    let mut say = looking.stdin.take().expect("piped");
    let mut answers = BufReader::new(looking.stdout.take().expect("piped")).lines();
    // Health is judged by requests, so there must be some.
    let mut load = Some(Running::load(&clients::Client::franz(), &bootstrap, "t", 2, 50));
    for away in ["store", "broker", "etcd"] {
        match away {
            "store" => stack.proxy().set("503=1").await,
            "broker" => stack.broker.kill9(),
            _ => stack.etcd().process.kill9(),
        }
        say.write_all(format!("{away}\n").as_bytes()).await.expect("the browser listens");
        let answer = tokio::time::timeout(SCENARIO_DEADLINE, answers.next_line()).await.expect("in time");
        assert_eq!(answer.expect("readable").as_deref(), Some(format!("looked {away}").as_str()));
        if away == "store" {
            stack.proxy().set("503=0").await;
            drop(load.take());
        }
    }
    say.write_all(b"end\n").await.expect("the browser listens");
    drop(say);
    let status = tokio::time::timeout(SCENARIO_DEADLINE, looking.wait()).await.expect("in time").expect("a status");
    assert!(status.success(), "{status}");
}
