//! Three members of etcd that reach each other through wires.

use super::wire::Wire;
use crate::harness::{READY_DEADLINE, http, tool, wait_until};
use crate::process::{Process, free_port};
use std::path::{Path, PathBuf};

/// Members.
pub const MEMBERS: usize = 3;

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Paused and killed by tests.
    pub process: Process,
    /// What the others reach it through.
    pub peers: Wire,
    args: Vec<String>,
    port: u16,
    log: PathBuf,
}

impl Member {
    /// host:port for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again on its data.
    pub fn restart(&mut self) {
        self.process.kill9();
        self.process = Process::spawn("etcd", &tool("etcd"), &self.args, &[], &self.log);
    }

    async fn call(&self, path: &str, body: &str) -> Option<serde_json::Value> {
        let answer = http("POST", &self.address(), path, body).await.ok()?;
        serde_json::from_str(&answer).ok()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ensemble {
    /// All of them.
    pub members: Vec<Member>,
}

impl Ensemble {
    /// Starts them below `dir` and waits until they have a leader; `quota_bytes` is the space that each allows itself.
    pub async fn start(dir: &Path, quota_bytes: u64) -> Self {
        let ports: Vec<(u16, u16)> = (0..MEMBERS).map(|_| (free_port(), free_port())).collect();
        let mut wires = Vec::new();
        for (_, peer_port) in &ports {
            wires.push(Wire::to(&format!("127.0.0.1:{peer_port}")).await);
        }
        let name = |n: usize| format!("m{n}");
        let all: Vec<String> =
            wires.iter().enumerate().map(|(n, w)| format!("{}=http://{}", name(n), w.address())).collect();
        let mut members = Vec::new();
        for (n, (peers, (port, peer_port))) in wires.into_iter().zip(ports).enumerate() {
            let args = vec![
                format!("--name={}", name(n)),
                format!("--data-dir={}", dir.join(name(n)).display()),
                format!("--listen-client-urls=http://127.0.0.1:{port}"),
                format!("--advertise-client-urls=http://127.0.0.1:{port}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
                format!("--initial-advertise-peer-urls=http://{}", peers.address()),
                format!("--initial-cluster={}", all.join(",")),
                format!("--quota-backend-bytes={quota_bytes}"),
                "--unsafe-no-fsync".into(), // what survives SIGKILL is in the page cache; nobody cuts the power here
                "--log-level=warn".into(),
            ];
            let log = dir.join(format!("etcd-{n}.log"));
            let process = Process::spawn("etcd", &tool("etcd"), &args, &[], &log);
            members.push(Member { process, peers, args, port, log });
        }
        let ensemble = Self { members };
        ensemble.wait_healthy().await;
        ensemble
    }

    /// URLs of all members, as brokers are told them.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(Member::address).collect()
    }

    /// Waits until every member takes part and knows of a leader.
    pub async fn wait_healthy(&self) {
        for member in &self.members {
            wait_until("every member of etcd is healthy", READY_DEADLINE, async || {
                http("GET", &member.address(), "/health", "").await.is_ok_and(|b| b.contains("true"))
            })
            .await;
        }
    }

    /// Waits until every member answers and knows of a leader, alarms or not.
    pub async fn wait_joined(&self) {
        for member in &self.members {
            wait_until("every member of etcd has a leader", READY_DEADLINE, async || {
                let status = member.call("/v3/maintenance/status", "{}").await;
                status.is_some_and(|status| status["leader"].as_str().is_some_and(|leader| leader != "0"))
            })
            .await;
        }
    }

    /// The number of the leader.
    pub async fn leader(&self) -> usize {
        let give_up = kafscale::clock::monotonic() + READY_DEADLINE;
        loop {
            for (n, member) in self.members.iter().enumerate() {
                let Some(status) = member.call("/v3/maintenance/status", "{}").await else { continue };
                if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                    return n;
                }
            }
            assert!(kafscale::clock::monotonic() < give_up, "etcd has no leader");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Writes until the members' quota is exhausted and they refuse.
    pub async fn fill(&self) {
        use base64::Engine;
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let value = base64(&vec![b'x'; 1 << 20]);
        let give_up = kafscale::clock::monotonic() + READY_DEADLINE;
        // One key all the time: it is the history that takes the space, and a compaction frees it.
        let put = format!(r#"{{"key":"{}","value":"{value}"}}"#, base64(b"/elsewhere/filler"));
        while http("POST", &self.members[0].address(), "/v3/kv/put", &put).await.is_ok() {
            assert!(kafscale::clock::monotonic() < give_up, "etcd is not full");
        }
        let alarms = self.alarms().await;
        assert!(alarms.iter().any(|alarm| alarm["alarm"] == "NOSPACE"), "{alarms:?}");
    }

    /// What an operator does then: compaction, defragmentation, and the alarm is disarmed.
    pub async fn make_space(&self) {
        let status = self.members[0].call("/v3/maintenance/status", "{}").await.expect("status");
        let revision = status["header"]["revision"].as_str().expect("a revision");
        let compact = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.members[0].call("/v3/kv/compaction", &compact).await.expect("compaction");
        for member in &self.members {
            member.call("/v3/maintenance/defragment", "{}").await.expect("defragmentation");
        }
        wait_until("no alarm is left", READY_DEADLINE, async || {
            let alarms = self.alarms().await;
            for alarm in &alarms {
                let disarm = format!(r#"{{"action":"DEACTIVATE","memberID":{},"alarm":"NOSPACE"}}"#, alarm["memberID"]);
                self.members[0].call("/v3/maintenance/alarm", &disarm).await.expect("the alarm is disarmed");
            }
            alarms.is_empty()
        })
        .await;
        self.wait_healthy().await;
    }

    /// The alarms that are raised.
    pub async fn alarms(&self) -> Vec<serde_json::Value> {
        let answer = self.members[0].call("/v3/maintenance/alarm", r#"{"action":"GET"}"#).await.expect("alarms");
        answer["alarms"].as_array().cloned().unwrap_or_default()
    }
}
