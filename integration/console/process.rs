//! A `kafscale console` process.

use super::browser::Browser;
use crate::cluster::Cluster;
use crate::harness::{READY_DEADLINE, TestDir, http};
use crate::process::{Process, free_port};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who may do everything.
pub const ADMIN: (&str, &str) = ("ann", "correct horse battery");
/// Who may look.
pub const VIEWER: (&str, &str) = ("vic", "looking is fine");

/// See the module's documentation.
pub struct Console {
    /// The process.
    pub process: Process,
    /// host:port
    pub address: String,
    _dir: TestDir,
}

/// The program.
pub fn binary() -> PathBuf {
    std::env::var("KAFSCALE_BIN").map_or_else(|_| env!("CARGO_BIN_EXE_kafscale").into(), Into::into)
}

impl Console {
    /// Starts it with both logins and waits until it is ready.
    pub async fn start(name: &str, envs: &[(&str, &str)]) -> Self {
        let logins = [
            ("KAFSCALE_UI_USERNAME", ADMIN.0),
            ("KAFSCALE_UI_PASSWORD", ADMIN.1),
            ("KAFSCALE_UI_VIEWER_USERNAME", VIEWER.0),
            ("KAFSCALE_UI_VIEWER_PASSWORD", VIEWER.1),
        ];
        Self::start_with(name, &[&logins[..], envs].concat()).await
    }

    /// Starts it with exactly these variables besides the address.
    pub async fn start_with(name: &str, envs: &[(&str, &str)]) -> Self {
        let dir = TestDir::new(name);
        let address = format!("127.0.0.1:{}", free_port());
        let mut all = vec![("KAFSCALE_CONSOLE_HTTP_ADDR".to_owned(), address.clone())];
        all.extend(envs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let log = dir.path().join("console.log");
        let process = Process::spawn("console", &binary(), &["console".to_owned()], &all, &log);
        let mut console = Self { process, address, _dir: dir };
        console.wait_ready().await;
        console
    }

    async fn wait_ready(&mut self) {
        let end = kafscale::clock::monotonic() + READY_DEADLINE;
        while let Err(error) = http("GET", &self.address, "/readyz", "").await {
            if let Some(status) = self.process.exited() {
                panic!("the console ended with {status}:\n{}", self.process.log_tail());
            }
            assert!(kafscale::clock::monotonic() < end, "{error}\n{}", self.process.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Somebody who is not signed in.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.address)
    }

    /// The administrator.
    pub async fn admin(&self) -> Browser {
        self.signed_in(ADMIN).await
    }

    /// The viewer.
    pub async fn viewer(&self) -> Browser {
        self.signed_in(VIEWER).await
    }

    async fn signed_in(&self, (username, password): (&str, &str)) -> Browser {
        let mut browser = self.browser();
        let answer = browser.login(username, password).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        browser
    }
}

/// Runs the program to its end: exit code, output, errors.
pub fn run(args: &[&str], envs: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = std::process::Command::new(binary());
    command.args(args).env_clear().envs(envs.iter().copied()).stdin(std::process::Stdio::null());
    let output = command.output().expect("the program can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it was not killed"), text(&output.stdout), text(&output.stderr))
}

/// Waits until the log of a process has a line with `part`; the line.
pub async fn logged(log: &Path, part: &str) -> String {
    let end = kafscale::clock::monotonic() + READY_DEADLINE;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.contains(part)) {
            return line.to_owned();
        }
        assert!(kafscale::clock::monotonic() < end, "no {part:?} in\n{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A console beside a cluster.
pub async fn beside(cluster: &mut Cluster, name: &str) -> Console {
    let etcd = cluster.stack.etcd().endpoint();
    Console::start(name, &[("KAFSCALE_CONSOLE_ETCD_ENDPOINTS", &etcd), ("KAFSCALE_S3_NAMESPACE", "test")]).await
}
