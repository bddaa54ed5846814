//! What is between a process and everything else: it can be cut, and the process can be stopped as by SIGSTOP.

use super::trace::Trace;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When a request across a cut is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);
/// For how long requests of a process that crashed may still arrive.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// What does not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// Everything does.
    Nothing,
    /// Requests do not arrive.
    Requests,
    /// Requests arrive, answers do not.
    Answers,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Link {
    trace: Arc<Trace>,
    paused: AtomicBool,
    asleep: AtomicBool,
    ended: AtomicBool,
    resumed: Notify,
    threads: Mutex<Vec<Waker>>,
    crashed: Mutex<Option<Instant>>,
    /// The way to the metadata store.
    pub metadata: AtomicU8,
    /// The way to the object store.
    pub objects: AtomicU8,
}

impl Link {
    /// Everything gets through.
    pub fn new(trace: Arc<Trace>) -> Self {
        Self {
            trace,
            paused: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            resumed: Notify::new(),
            threads: Mutex::default(),
            crashed: Mutex::default(),
            metadata: AtomicU8::new(Cut::Nothing as u8),
            objects: AtomicU8::new(Cut::Nothing as u8),
        }
    }

    /// Cuts one of the two ways, or mends it.
    pub fn cut(&self, way: &AtomicU8, cut: Cut) {
        way.store(cut as u8, Ordering::Relaxed);
    }

    /// Mends both ways, and lets the process go on.
    pub fn heal(&self) {
        self.cut(&self.metadata, Cut::Nothing);
        self.cut(&self.objects, Cut::Nothing);
        self.resume();
    }

    /// True if the way is cut.
    pub fn is_cut(&self, way: &AtomicU8) -> bool {
        way.load(Ordering::Relaxed) != Cut::Nothing as u8
    }

    /// Stops the process.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Lets the process go on.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        self.resumed.notify_waiters();
        self.threads.lock().expect("no panic under the lock").drain(..).for_each(Waker::wake);
    }

    /// True while the process is stopped.
    pub fn is_paused(&self) -> bool {
        [&self.paused, &self.asleep, &self.ended].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Stops the process until [`Self::wake`], whoever else lets it go on.
    pub fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
    }

    /// Lets it go on.
    pub fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        self.resume();
    }

    /// The process has ended at this moment.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The process is gone; requests of it may still arrive for a moment.
    pub fn crash(&self) {
        *self.crashed.lock().expect("no panic under the lock") = Some(Instant::now());
        self.resume();
    }

    /// True once nothing of the process goes on.
    pub fn is_silent(&self) -> bool {
        let crashed = *self.crashed.lock().expect("no panic under the lock");
        self.ended.load(Ordering::Relaxed) || crashed.is_some_and(|at| at.elapsed() > LAST_REQUESTS)
    }

    /// Passes when the process runs, and never once it is gone.
    pub async fn gate(&self) {
        loop {
            let resumed = self.resumed.notified();
            if self.is_silent() {
                std::future::pending::<()>().await;
            }
            if !self.is_paused() {
                return;
            }
            resumed.await;
        }
    }

    /// Makes a call, as far as the way allows.
    pub async fn across<T, E>(
        &self,
        way: &AtomicU8,
        error: impl Fn() -> E,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.gate().await;
        let lost = |cut: Cut| way.load(Ordering::Relaxed) == cut as u8;
        let is_metadata = std::ptr::eq(way, &self.metadata);
        if lost(Cut::Requests) {
            self.trace.happened(if is_metadata { "cut: request to metadata" } else { "cut: request to objects" });
            tokio::time::sleep(GIVEN_UP_AFTER).await;
            self.gate().await;
            return Err(error());
        }
        let result = call.await;
        if lost(Cut::Answers) {
            self.trace.happened(if is_metadata { "cut: answer of metadata" } else { "cut: answer of objects" });
            tokio::time::sleep(GIVEN_UP_AFTER).await;
            self.gate().await;
            return Err(error());
        }
        self.gate().await;
        result
    }

    /// Runs a thread of the process, while the process runs.
    pub async fn thread(&self, run: impl Future<Output = ()>) {
        Thread { link: self, run: Box::pin(run) }.await;
    }
}

struct Thread<'a, F> {
    link: &'a Link,
    run: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Thread<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.link.is_paused() {
            self.link.threads.lock().expect("no panic under the lock").push(cx.waker().clone());
            return Poll::Pending;
        }
        self.run.as_mut().poll(cx)
    }
}
