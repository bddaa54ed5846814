//! Child processes of a test: started with their output in a file, observed through `/proc`, and never left behind.
//!
//! A child gets its own process group, and the kernel kills it when its parent thread ends (`PR_SET_PDEATHSIG` is about
//! the *thread* that forked). Therefore all children are forked by one thread that lives as long as the test process:
//! they die with it, however it dies, and not with the test thread that happened to ask first.

// `pre_exec` and `kill(2)` have no safe form in std.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

/// Bytes of a log that a failing test prints.
const LOG_TAIL_BYTES_MAX: usize = 8 * 1024;

/// A running (or ended) child; killed with its process group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

type SpawnJob = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that forks.
fn spawner() -> &'static Mutex<mpsc::Sender<SpawnJob>> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<SpawnJob>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<SpawnJob>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in jobs {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    })
}

impl Process {
    /// Starts `program` with only `envs` and the variables every program needs; output is appended to `log`.
    pub fn spawn(name: &str, program: &Path, args: &[String], envs: &[(String, String)], log: &Path) -> Self {
        assert!(program.exists(), "{} is missing: run `make test`, which installs the tools", program.display());
        let out = File::options().create(true).append(true).open(log).expect("log file can be opened");
        let mut command = Command::new(program);
        command.args(args).env_clear();
        for inherited in ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(inherited) {
                command.env(inherited, value);
            }
        }
        command.envs(envs.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("file handle")).stderr(out).process_group(0);
        // Safety: prctl is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let (answer, spawned) = mpsc::channel();
        spawner().lock().expect("spawner").send((command, answer)).expect("spawner lives as long as the process");
        let child = spawned.recv().expect("spawner answers").unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { name: name.into(), child, log: log.into(), exit: None }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process group, if the process is still there.
    pub fn signal(&mut self, signal: i32) {
        if self.exited().is_none() {
            // Safety: plain system call; the group is ours and its leader has not been reaped.
            unsafe { libc::kill(-(self.pid() as i32), signal) };
        }
    }

    /// SIGSTOP: the process keeps its sockets and answers nothing.
    pub fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGKILL, and waits until the kernel has taken everything down.
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        if self.exit.is_none() {
            self.exit = self.child.wait().ok();
        }
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("waiting for a child");
        }
        self.exit
    }

    /// Waits for the end by itself or after [`Process::signal`].
    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let end = kafscale::clock::monotonic() + deadline;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                kafscale::clock::monotonic() < end,
                "{} (pid {}) did not end within {deadline:?}",
                self.name,
                self.pid()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// User and system CPU time so far, ms.
    pub fn cpu_ms(&self) -> f64 {
        cpu_ms(self.pid())
    }

    /// Resident memory now, bytes.
    pub fn rss_bytes(&self) -> u64 {
        status_kib(self.pid(), "VmRSS:") * 1024
    }

    /// Greatest resident memory since the start, bytes.
    pub fn rss_peak_bytes(&self) -> u64 {
        status_kib(self.pid(), "VmHWM:") * 1024
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it has printed.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        log[from..].to_string()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.exited();
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- {} (pid {}, ended by itself: {ended:?}), end of its log ---", self.name, self.pid());
            eprintln!("{}", self.log_tail());
        }
    }
}

/// Sends a signal to the process group of a child of which only the number is known, e.g. one that a task owns.
pub fn signal_group(pid: u32, signal: i32) {
    // Safety: plain system call.
    unsafe { libc::kill(-(pid as i32), signal) };
}

/// User and system CPU time of a process so far, ms; 0 if it is gone.
pub fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command name may contain spaces; the numbers start after its closing parenthesis, with field 3.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // Safety: plain system call.
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    (ticks(14) + ticks(15)) * 1000.0 / hz
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// A loopback port that is free and stays so until it is used.
///
/// Ports are taken from below the kernel's ephemeral range: a broker that restarts on its port must not find it taken by
/// some outgoing connection, and a client that dials a dead port in that range can connect to itself.
pub fn free_port() -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let mut next = NEXT.lock().expect("port counter");
    let mut offset = next.unwrap_or((std::process::id().wrapping_mul(211) % u32::from(COUNT)) as u16);
    for _ in 0..COUNT {
        let port = FIRST + offset;
        offset = (offset + 1) % COUNT;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            *next = Some(offset);
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
