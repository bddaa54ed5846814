//! The disk below `kafscale dev` is full: what was acked is there, batches are refused in a way that clients try again, and
//! when there is space the same process goes on.
//!
//! Two ways to run out: a file system of a few MiB, in a mount namespace of the broker's own, where that may be made; and,
//! which anybody can, a limit for the size of each file that the broker writes.

// prlimit(2) has no safe form in std.
#![allow(unsafe_code)]

use super::trial::TOPIC;
use super::world::DEADLINE;
use crate::harness::{Broker, READY_DEADLINE, TestDir, binary, size, wait_until};
use crate::workload::{Plan, Workload};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Space of the small file system: enough for the metadata and some seconds of the load.
const DISK: &str = "size=64m";
/// Batches that show that producers get on.
const ACKS: u64 = 20;

/// Lets each file of the process grow to `bytes` and no further; the hard limit stays.
fn limit_files(pid: u32, bytes: u64) {
    let (mut old, none) = (libc::rlimit { rlim_cur: 0, rlim_max: 0 }, std::ptr::null());
    // Safety: plain system calls on values of ours; the process is a child of ours.
    let done = unsafe {
        libc::prlimit(pid as i32, libc::RLIMIT_FSIZE, none, &raw mut old) == 0 && {
            let new = libc::rlimit { rlim_cur: bytes.min(old.rlim_max), rlim_max: old.rlim_max };
            libc::prlimit(pid as i32, libc::RLIMIT_FSIZE, &raw const new, std::ptr::null_mut()) == 0
        }
    };
    assert!(done, "prlimit: {}", std::io::Error::last_os_error());
}

/// A broker whose data and log are in `dir`, load, and what makes its disk full and empty again.
struct Trial {
    broker: Broker,
    load: Workload,
    duration: Duration,
    dir: TestDir,
}

impl Trial {
    async fn start(name: &str, script: &str, data: &Path, dir: TestDir) -> Self {
        let envs = [
            ("KAFSCALE_FLUSH_INTERVAL_MS", "20".to_owned()),
            ("KAFSCALE_DATA_DIR", data.display().to_string()),
            // Else at its usual address, where another test's may be.
            ("KAFSCALE_CONSOLE_HTTP_ADDR", "off".to_owned()),
            ("PROGRAM", binary().display().to_string()),
        ];
        let args = ["-c", script];
        let mut broker = Broker::spawn_program(Path::new("/bin/sh"), &args, &envs, &dir.path().join("broker.log"));
        broker.wait_ready().await;
        let seed = size("SEED", kafscale::rng::u64() >> 32);
        let duration = Duration::from_secs(size("DURATION_SEC", 2));
        eprintln!("{name}: {duration:?}, SEED={seed}");
        let load = Workload::start(&broker.address(), Plan::new(TOPIC, seed)).await;
        load.wait_acks(ACKS).await;
        Self { broker, load, duration, dir }
    }

    /// Waits until nothing is acked any more, for some time; then `end`s it and sees everybody get on.
    async fn full(&mut self, what: &str, begin: impl FnOnce(), end: impl FnOnce()) {
        self.load.fault(what, true);
        begin();
        wait_until("nothing is acked any more", DEADLINE, async || {
            let before = self.load.acks();
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.load.acks() == before
        })
        .await;
        tokio::time::sleep(self.duration).await;
        assert_eq!(self.broker.process.exited(), None, "it waits: {}", self.broker.process.log_tail());
        end();
        self.load.fault(what, false);
        self.load.wait_acks(ACKS).await;
        assert_eq!(self.broker.process.exited(), None, "it goes on: {}", self.broker.process.log_tail());
        eprintln!("{what}: healed, {} batches acked", self.load.acks());
    }

    /// What was acked is there now, and after a crash.
    async fn finish(mut self) {
        self.broker.kill9();
        self.broker.relaunch();
        self.broker.wait_ready().await;
        let report = self.load.finish().await;
        eprintln!("{report}");
        report.assert_clean();
        drop(self.dir);
    }
}

/// A signal that would end the process is ignored, as by a supervisor that knows of limits, so that writes fail instead.
const LIMITED: &str = r#"trap "" XFSZ; exec "$PROGRAM" dev"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_grow_are_waited_for() {
    let dir = TestDir::new("chaos-fsize");
    let data = dir.path().join("data");
    let mut trial = Trial::start("chaos-fsize", LIMITED, &data, dir).await;
    let pid = trial.broker.process.pid();
    trial.full("files cannot grow", || limit_files(pid, 64), || limit_files(pid, u64::MAX)).await;
    trial.full("files cannot grow, again", || limit_files(pid, 1024), || limit_files(pid, u64::MAX)).await;
    trial.finish().await;
}

/// True if this user may mount something in a namespace of its own.
fn may_mount() -> bool {
    let mount = ["-rm", "sh", "-c", "mount -t tmpfs none /mnt"];
    Command::new("unshare").args(mount).output().is_ok_and(|done| done.status.success())
}

/// Everything is on the small disk: objects, metadata, and the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_is_waited_for() {
    if !may_mount() {
        eprintln!("no file system can be mounted here: the limit of file sizes has to do");
        return;
    }
    // One namespace for all lives of the broker: the disk outlives a crash.
    let dir = TestDir::new("chaos-enospc");
    let disk = dir.path().join("disk");
    std::fs::create_dir_all(&disk).expect("a folder");
    let hold = format!("mount -t tmpfs -o {DISK} none {} && exec sleep infinity", disk.display());
    let args: Vec<String> = ["-rm", "sh", "-c", hold.as_str()].map(str::to_owned).to_vec();
    let unshare = PathBuf::from("/usr/bin/unshare");
    let holder = crate::process::Process::spawn("the disk", &unshare, &args, &[], &dir.path().join("disk.log"));
    let inside = PathBuf::from(format!("/proc/{}/root{}", holder.pid(), disk.display()));
    wait_until("the disk is mounted", READY_DEADLINE, async || {
        std::fs::read_to_string(format!("/proc/{}/mounts", holder.pid())).is_ok_and(|m| m.contains("chaos-enospc"))
    })
    .await;
    let script = format!(r#"exec "$PROGRAM" dev 2>>"{}/log""#, inside.display());
    let mut trial = Trial::start("chaos-enospc", &script, &inside.join("data"), dir).await;
    let filler = inside.join("filler");
    let fill = || {
        let chunk = vec![0u8; 64 * 1024];
        let mut file = std::fs::File::create(&filler).expect("a file");
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
        while std::io::Write::write_all(&mut file, &[0]).is_ok() {}
    };
    let make_space = || std::fs::remove_file(&filler).expect("the filler is removed");
    trial.full("the disk is full", fill, make_space).await;
    trial.full("the disk is full, again", fill, make_space).await;
    trial.finish().await;
}
