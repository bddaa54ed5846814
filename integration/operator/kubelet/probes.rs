//! Probes and hooks: one action, its schedule, and what its outcomes add up to.

use super::containers::Command;
use crate::harness::http;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

/// Something that is done to a container from outside.
#[derive(Debug, Clone)]
pub enum Action {
    /// A command with the container's variables.
    Exec(Vec<String>),
    /// GET http://ADDRESS PATH.
    Http(String, String),
    /// A connection.
    Tcp(String),
    /// Nothing for a while.
    Sleep(Duration),
}

impl Action {
    /// Of a probe.
    pub fn of_probe(probe: &Probe, container: &Container, ip: Ipv4Addr) -> Result<Self, String> {
        let tcp = probe.tcp_socket.as_ref().map(|t| (t.host.as_deref(), &t.port));
        Self::new(probe.exec.as_ref(), probe.http_get.as_ref(), tcp, container, ip)
    }

    /// Of a hook.
    pub fn of_hook(hook: &LifecycleHandler, container: &Container, ip: Ipv4Addr) -> Result<Self, String> {
        if let Some(sleep) = &hook.sleep {
            return Ok(Self::Sleep(Duration::from_secs(sleep.seconds.unsigned_abs())));
        }
        Self::new(hook.exec.as_ref(), hook.http_get.as_ref(), None, container, ip)
    }

    fn new(
        exec: Option<&ExecAction>,
        get: Option<&HTTPGetAction>,
        tcp: Option<(Option<&str>, &IntOrString)>,
        container: &Container,
        ip: Ipv4Addr,
    ) -> Result<Self, String> {
        let address = |host: Option<&str>, port: &IntOrString| {
            let host = host.map_or(ip.to_string(), str::to_owned);
            number(container, port).map(|port| format!("{host}:{port}"))
        };
        match (exec, get, tcp) {
            (Some(exec), _, _) => Ok(Self::Exec(exec.command.clone().unwrap_or_default())),
            (_, Some(get), _) if get.scheme.as_deref().unwrap_or("HTTP") == "HTTP" => {
                let path = get.path.clone().unwrap_or_else(|| "/".to_owned());
                Ok(Self::Http(address(get.host.as_deref(), &get.port)?, path))
            }
            (_, _, Some((host, port))) => Ok(Self::Tcp(address(host, port)?)),
            _ => Err("this kind of probe or hook is not known to the test's kubelet".to_owned()),
        }
    }

    /// Does it, for at most `limit`.
    pub async fn act(&self, command: &Command, limit: Duration) -> Result<(), String> {
        let doing = async {
            match self {
                Self::Exec(words) => command.exec(words).await,
                Self::Http(address, path) => http("GET", address, path, "").await.map(|_| ()),
                Self::Tcp(address) => {
                    tokio::net::TcpStream::connect(address).await.map(|_| ()).map_err(|e| format!("{address}: {e}"))
                }
                Self::Sleep(time) => {
                    tokio::time::sleep(*time).await;
                    Ok(())
                }
            }
        };
        tokio::time::timeout(limit, doing).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }
}

fn number(container: &Container, port: &IntOrString) -> Result<i32, String> {
    match port {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            named.map(|p| p.container_port).ok_or_else(|| format!("the container has no port named {name}"))
        }
    }
}

/// One probe of a running container.
#[derive(Debug)]
pub struct Schedule {
    action: Result<Action, String>,
    period: Duration,
    timeout: Duration,
    successes_wanted: i32,
    failures_allowed: i32,
    next: Instant,
    successes: i32,
    failures: i32,
    /// True while it has succeeded often enough.
    pub passed: bool,
    /// True once it has failed too often in a row; until the next success.
    pub failed: bool,
    /// What went wrong last.
    pub message: String,
}

impl Schedule {
    /// A probe of a container that starts now.
    pub fn new(probe: &Probe, container: &Container, ip: Ipv4Addr) -> Self {
        let seconds = |value: Option<i32>, default: i32| Duration::from_secs(value.unwrap_or(default).max(1) as u64);
        let delay = Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
        Self {
            action: Action::of_probe(probe, container, ip),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes_wanted: probe.success_threshold.unwrap_or(1).max(1),
            failures_allowed: probe.failure_threshold.unwrap_or(3).max(1),
            next: kafscale::clock::monotonic() + delay,
            successes: 0,
            failures: 0,
            passed: false,
            failed: false,
            message: String::new(),
        }
    }

    /// Probes, if it is time to.
    pub async fn probe(&mut self, command: &Command) {
        if kafscale::clock::monotonic() < self.next {
            return;
        }
        let outcome = match &self.action {
            Ok(action) => action.act(command, self.timeout).await,
            Err(e) => Err(e.clone()),
        };
        // From the end: a container that is slow to answer must not be asked all the time.
        self.next = kafscale::clock::monotonic() + self.period;
        match outcome {
            Ok(()) => {
                (self.successes, self.failures, self.failed) = (self.successes + 1, 0, false);
                self.passed |= self.successes >= self.successes_wanted;
            }
            Err(e) => {
                (self.successes, self.failures, self.message) = (0, self.failures + 1, e);
                self.failed = self.failures >= self.failures_allowed;
                self.passed &= !self.failed;
            }
        }
    }
}
