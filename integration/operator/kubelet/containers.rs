//! One container: its command, its process, and how it comes and goes.

use super::environment::{Environment, expand, resolve};
use super::probes::{Action, Schedule};
use super::status::Phase;
use super::{Context, Image, Running, volumes};
use crate::process::Process;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// After the second end of a process; doubled after each further one. A node has 10 s.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// A node has 5 min.
const BACK_OFF_MAX: Duration = Duration::from_secs(8);
/// Between two tries to make a container whose image or variables are missing.
const RETRY: Duration = Duration::from_secs(1);
/// A kubelet waits that long at least, whatever the hook left of the grace period.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// What a container runs: program, arguments and variables, with all texts replaced.
#[derive(Debug, Clone, Default)]
pub struct Command {
    program: PathBuf,
    args: Vec<String>,
    envs: Environment,
    /// The image, for commands that are run beside.
    image: Option<Image>,
    replacements: Vec<(String, String)>,
}

impl Command {
    async fn new(context: &Context, pod: &Pod, ip: Ipv4Addr, container: &Container) -> Result<Self, (String, String)> {
        let name = container.image.clone().unwrap_or_default();
        let image = context.images.lock().expect("images").get(&name).cloned();
        let missing = || ("ErrImagePull".to_owned(), format!("the test names no program for image \"{name}\""));
        let image = image.ok_or_else(missing)?;
        if !image.program.exists() {
            return Err(("ErrImagePull".to_owned(), format!("{} does not exist", image.program.display())));
        }
        let wrong = |e: String| ("CreateContainerConfigError".to_owned(), e);
        let folders = volumes::prepare(context, pod, ip).await.map_err(wrong)?;
        let mut envs = resolve(context, pod, ip, container, &image).await.map_err(wrong)?;
        let mut replacements = volumes::mounts(container, &folders);
        replacements.extend(context.replacements.iter().cloned());
        let command = Self { image: Some(image), replacements, ..Self::default() };
        let fill = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(|w| command.replace(context, ip, &expand(w, &envs))).collect()
        };
        let (words, args) = (fill(&container.command), fill(&container.args));
        for value in envs.values_mut() {
            *value = command.replace(context, ip, value);
        }
        let (program, own) = command.program_of(&words);
        Ok(Self { program, args: [own, args].concat(), envs, ..command })
    }

    /// The image's program for no words at all and for its name, else the first word; and the arguments.
    fn program_of(&self, words: &[String]) -> (PathBuf, Vec<String>) {
        let image = self.image.as_ref().expect("set when it is made");
        match words.split_first() {
            None => (image.program.clone(), image.args.clone()),
            Some((first, rest)) if Path::new(first).file_name() == image.program.file_name() => {
                (image.program.clone(), rest.to_vec())
            }
            Some((first, rest)) => {
                // An image may have several programs, which are beside each other.
                let beside = image.program.with_file_name(first);
                let found = if !first.contains('/') && beside.exists() { beside } else { first.into() };
                (found, rest.to_vec())
            }
        }
    }

    /// Addresses for names of pods and for "all addresses", folders for paths of volumes, and what the test wants replaced.
    fn replace(&self, context: &Context, ip: Ipv4Addr, text: &str) -> String {
        let text = substitute(text, &self.replacements);
        let text = text.replace("0.0.0.0:", &format!("{ip}:")).replace("[::]:", &format!("{ip}:"));
        if context.names.is_some() && self.image.as_ref().is_some_and(|image| image.keeps_names) {
            return text;
        }
        let pattern = format!(r"([a-z0-9-]+)\.[a-z0-9-]+\.{}(\.svc)?(\.cluster\.local)?\b", context.namespace);
        let name = regex::Regex::new(&pattern).expect("names of namespaces are plain");
        name.replace_all(&text, |found: &regex::Captures| context.address(&found[1]).to_string()).into_owned()
    }

    /// Runs another command with the same variables to its end.
    pub async fn exec(&self, words: &[String]) -> Result<(), String> {
        let words: Vec<String> = words.iter().map(|w| substitute(w, &self.replacements)).collect();
        let (program, args) = self.program_of(&words);
        let mut command = tokio::process::Command::new(&program);
        command.args(args).env_clear().envs(inherited()).envs(&self.envs).kill_on_drop(true);
        let output = command.output().await.map_err(|e| format!("{}: {e}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{}: {text}", output.status)) }
    }
}

/// Replaces in one pass, so that nothing is replaced twice; a path only where a path begins and one of its parts ends.
fn substitute(text: &str, replacements: &[(String, String)]) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let begins = out.chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"/._-".contains(c));
        let fits = |(from, _): &&(String, String)| {
            let after = rest.strip_prefix(from.as_str()).map(|after| after.chars().next());
            let ends = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !"._-".contains(c));
            !from.is_empty() && after.is_some_and(|c| !from.starts_with('/') || (begins && ends(c)))
        };
        match replacements.iter().find(fits) {
            Some((from, to)) => {
                out.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

fn inherited() -> impl Iterator<Item = (String, String)> {
    ["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
}

/// Where the output of a container's processes goes.
pub(super) fn log_path(context: &Context, pod: &str, container: &str) -> PathBuf {
    context.dir.join("logs").join(format!("{pod}-{container}.log"))
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ContainerState {
    /// As the pod has it.
    pub spec: Container,
    /// What it is doing.
    pub phase: Phase,
    /// How it ended before it was started again.
    pub last: Option<Phase>,
    /// How often it was started again.
    pub restarts: u32,
    process: Option<Process>,
    command: Command,
    next_start: Instant,
    startup: Option<Schedule>,
    liveness: Option<Schedule>,
    readiness: Option<Schedule>,
}

impl ContainerState {
    /// One that is to be started.
    pub fn new(spec: &Container) -> Self {
        Self {
            spec: spec.clone(),
            phase: Phase::waiting("ContainerCreating", ""),
            last: None,
            restarts: 0,
            process: None,
            command: Command::default(),
            next_start: kafscale::clock::monotonic(),
            startup: None,
            liveness: None,
            readiness: None,
        }
    }

    /// True if it runs, has started up, and its readiness probe, if there is one, has passed.
    pub fn ready(&self) -> bool {
        self.started() && self.readiness.as_ref().is_none_or(|r| r.passed)
    }

    /// True if it runs and its startup probe, if there is one, has passed.
    pub fn started(&self) -> bool {
        matches!(self.phase, Phase::Running { .. }) && self.startup.as_ref().is_none_or(|s| s.passed)
    }

    /// What its readiness probe saw last.
    pub fn message(&self) -> &str {
        self.readiness.as_ref().map_or("", |r| &r.message)
    }

    /// Starts it if it is due, notices its end, probes it. `restart` is the pod's policy.
    pub(super) async fn tick(&mut self, context: &Context, pod: &Pod, ip: Ipv4Addr, restart: &str) {
        if let Some(status) = self.process.as_mut().and_then(Process::exited) {
            self.process = None;
            self.ended(status, restart);
        }
        if self.process.is_none() {
            let due = matches!(self.phase, Phase::Waiting { .. }) && kafscale::clock::monotonic() >= self.next_start;
            if due {
                self.start(context, pod, ip).await;
            }
            return;
        }
        if let Some(startup) = self.startup.as_mut().filter(|s| !s.passed) {
            startup.probe(&self.command).await;
            if startup.failed {
                self.kill(pod, ip).await;
            }
            return;
        }
        if let Some(liveness) = &mut self.liveness {
            liveness.probe(&self.command).await;
            if liveness.failed {
                return self.kill(pod, ip).await;
            }
        }
        self.probe_readiness().await;
    }

    async fn probe_readiness(&mut self) {
        if let Some(readiness) = &mut self.readiness {
            readiness.probe(&self.command).await;
        }
    }

    async fn start(&mut self, context: &Context, pod: &Pod, ip: Ipv4Addr) {
        self.next_start = kafscale::clock::monotonic() + RETRY;
        self.command = match Command::new(context, pod, ip, &self.spec).await {
            Ok(command) => command,
            Err((reason, message)) => {
                self.phase = Phase::waiting(&reason, &message);
                return;
            }
        };
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        let log = log_path(context, &pod_name, &self.spec.name);
        std::fs::create_dir_all(log.parent().expect("below the test's folder")).expect("the folder can be made");
        let envs: Vec<(String, String)> = self.command.envs.clone().into_iter().collect();
        let name = format!("{pod_name}/{}", self.spec.name);
        if !self.command.program.exists() {
            let message = format!("exec: {}: no such file", self.command.program.display());
            self.phase = Phase::waiting("RunContainerError", &message);
            return;
        }
        let (program, args) = match &context.names {
            Some(names) => names.wrap(&self.command.program, &self.command.args),
            None => (self.command.program.clone(), self.command.args.clone()),
        };
        let process = Process::spawn(&name, &program, &args, &envs, &log);
        let running = Running { pid: process.pid(), log };
        context.running.lock().expect("running").insert((pod_name, self.spec.name.clone()), running);
        self.process = Some(process);
        if matches!(self.last, Some(Phase::Terminated { .. })) {
            self.restarts += 1;
        }
        self.phase = Phase::running();
        let schedule = |probe: &Option<_>| probe.as_ref().map(|p| Schedule::new(p, &self.spec, ip));
        let schedules = (
            schedule(&self.spec.startup_probe),
            schedule(&self.spec.liveness_probe),
            schedule(&self.spec.readiness_probe),
        );
        (self.startup, self.liveness, self.readiness) = schedules;
    }

    fn ended(&mut self, status: std::process::ExitStatus, restart: &str) {
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let ended = self.phase.terminated(code);
        self.readiness = None;
        if restart == "Never" || (restart == "OnFailure" && code == 0) {
            self.phase = ended;
            return;
        }
        self.last = Some(ended);
        let pause = match self.restarts {
            0 => Duration::ZERO,
            n => BACK_OFF_MAX.min(BACK_OFF_MIN * 2u32.pow((n - 1).min(16))),
        };
        self.next_start = kafscale::clock::monotonic() + pause;
        self.phase = Phase::waiting("CrashLoopBackOff", &format!("back-off {pause:?} restarting failed container"));
    }

    /// Ends the process because a probe says so; it is started again like one that ended by itself.
    async fn kill(&mut self, pod: &Pod, ip: Ipv4Addr) {
        let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        if let Some(stop) = self.stop(ip, Duration::from_secs(grace.unsigned_abs())) {
            let status = stop.await;
            self.ended(status, "Always");
        }
    }

    /// Takes the process away and ends it: hook, SIGTERM, SIGKILL when the grace period is over.
    pub(super) fn stop(
        &mut self,
        ip: Ipv4Addr,
        grace: Duration,
    ) -> Option<impl Future<Output = std::process::ExitStatus> + use<>> {
        let mut process = self.process.take()?;
        let hook = self.spec.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let action = hook.map(|hook| Action::of_hook(&hook, &self.spec, ip));
        let command = self.command.clone();
        let stop = async move {
            let end = kafscale::clock::monotonic() + grace;
            if let Some(action) = action {
                // A hook that fails is an event on a node, and no reason not to go on.
                let done = match action {
                    Ok(action) => action.act(&command, grace).await,
                    Err(e) => Err(e),
                };
                if let Err(e) = done {
                    eprintln!("preStop: {e}");
                }
            }
            let end = end.max(kafscale::clock::monotonic() + GRACE_MIN);
            process.signal(libc::SIGTERM);
            loop {
                if let Some(status) = process.exited() {
                    return status;
                }
                if kafscale::clock::monotonic() >= end {
                    process.kill9();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        Some(stop)
    }

    /// Goes on probing readiness while it is being stopped.
    pub async fn tick_stopping(&mut self) {
        if matches!(self.phase, Phase::Running { .. }) {
            self.probe_readiness().await;
        }
    }

    /// Notes the end of a process that was stopped.
    pub fn stopped(&mut self, status: std::process::ExitStatus) {
        self.ended(status, "Never");
    }
}

#[test]
fn paths_are_replaced_where_they_are_paths() {
    let pairs = [("/cache", "/tmp/x/cache"), ("/tmp", "/tmp/x/tmp"), ("s3.test", "127.0.0.1:9")];
    let pairs = pairs.map(|(from, to)| (from.to_owned(), to.to_owned()));
    for (text, expected) in [
        ("/cache", "/tmp/x/cache"),
        ("cat /cache/a >/tmp/b", "cat /tmp/x/cache/a >/tmp/x/tmp/b"),
        ("--dir=/cache,/tmp", "--dir=/tmp/x/cache,/tmp/x/tmp"),
        ("/caches /var/cache http://a/cache", "/caches /var/cache http://a/cache"),
        ("http://s3.test/b", "http://127.0.0.1:9/b"),
        ("", ""),
    ] {
        assert_eq!(substitute(text, &pairs), expected, "{text}");
    }
}
