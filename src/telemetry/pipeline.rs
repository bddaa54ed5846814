//! From the end of a span to its export, without ever holding up whoever ends it.
//!
//! A span that is sampled goes into a bounded queue, or is dropped and counted if that is full. A task on a thread of its own
//! takes batches out of it and sends them; while the collector does not answer, it waits longer and longer, and the queue
//! drops.
//!
//! A span that is recorded but not sampled belongs to a trace of which nobody knows yet whether it will have been slow: a
//! flush, a look of the operator, a read from the object store. It is kept aside, with few others, until the root of its
//! trace ends: then all of them go into the queue or none. A request that was not sampled has no span at all until it has
//! turned out slow ([`crate::trace::Watch`]), and calls [`Pipeline::keep`].

use super::export::Exporter;
use crate::config::telemetry::ExportConfig;
use crate::trace::{self, TraceContext};
use opentelemetry::Value;
use opentelemetry::trace::{SpanContext, TraceFlags, TraceId};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// Spans of traces that are not decided; older ones are forgotten.
const UNDECIDED_MAX: usize = 512;
/// Attempts at one batch.
const ATTEMPTS_MAX: u32 = 5;
/// Pauses after failures: the first one, and the longest.
const BACKOFF_MS_MIN: u64 = 500;
const BACKOFF_MS_MAX: u64 = 30_000;

/// What became of spans, for metrics.
#[derive(Debug, Default)]
pub struct SpanStats {
    /// The collector has them.
    pub exported: AtomicU64,
    /// Dropped since the queue was full.
    pub dropped_full: AtomicU64,
    /// Dropped since the collector did not take them.
    pub dropped_failed: AtomicU64,
    /// Wait for their export now.
    pub queued: AtomicU64,
}

/// The counters of this process.
pub static STATS: SpanStats = SpanStats {
    exported: AtomicU64::new(0),
    dropped_full: AtomicU64::new(0),
    dropped_failed: AtomicU64::new(0),
    queued: AtomicU64::new(0),
};

/// See the module's documentation.
pub struct Pipeline {
    queue: Mutex<VecDeque<SpanData>>,
    undecided: Mutex<VecDeque<SpanData>>,
    /// The queue has a batch, or is to be emptied.
    wake: Notify,
    closing: AtomicBool,
    queue_max: usize,
    batch_max: usize,
    delay: Duration,
    slow: Option<Duration>,
    stats: &'static SpanStats,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("queue_max", &self.queue_max).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// An empty one.
    pub fn new(config: &ExportConfig, slow: Option<Duration>, stats: &'static SpanStats) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(VecDeque::with_capacity(config.queue_max)),
            undecided: Mutex::default(),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            queue_max: config.queue_max,
            batch_max: config.batch_max,
            delay: config.delay,
            slow,
            stats,
        })
    }

    /// Takes a finished span that is to be exported.
    pub fn push(&self, span: SpanData) {
        let len = {
            let mut queue = self.queue();
            if queue.len() >= self.queue_max {
                drop(queue);
                self.stats.dropped_full.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.push_back(span);
            queue.len()
        };
        self.stats.queued.store(len as u64, Ordering::Relaxed);
        if len == self.batch_max {
            self.wake.notify_one();
        }
    }

    /// A trace of which spans are kept aside turned out to be wanted.
    pub fn keep(&self, trace: TraceId) {
        self.take(trace).into_iter().for_each(|span| self.push(sampled(span)));
    }

    /// What is kept aside of a trace.
    fn take(&self, trace: TraceId) -> Vec<SpanData> {
        let mut undecided = self.undecided.lock().expect("no panic under the lock");
        let mut taken = Vec::new();
        let mut index = 0;
        while index < undecided.len() {
            if undecided[index].span_context.trace_id() == trace {
                taken.extend(undecided.remove(index));
            } else {
                index += 1;
            }
        }
        taken
    }

    fn set_aside(&self, span: SpanData) {
        let mut undecided = self.undecided.lock().expect("no panic under the lock");
        if undecided.len() >= UNDECIDED_MAX {
            undecided.pop_front();
        }
        undecided.push_back(span);
    }

    /// The root of a trace that was not sampled has ended.
    fn decide(&self, mut root: SpanData) {
        let trace_id = root.span_context.trace_id();
        if !self.slow.is_some_and(|slow| was_slow(&root, slow)) {
            self.take(trace_id);
            return;
        }
        trace::keep_slow_links(&mut root, self.slow);
        self.keep(trace_id);
        self.push(sampled(root));
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<SpanData>> {
        self.queue.lock().expect("no panic under the lock")
    }

    /// Sends what comes, until it is closed and empty.
    pub async fn run(self: Arc<Self>, mut exporter: Exporter) {
        let mut failing = false;
        loop {
            let closing = self.closing.load(Ordering::Acquire);
            let batch: Vec<SpanData> = {
                let mut queue = self.queue();
                let len = queue.len().min(self.batch_max);
                queue.drain(..len).collect()
            };
            if batch.is_empty() {
                if closing {
                    return;
                }
                drop(tokio::time::timeout(self.delay, self.wake.notified()).await);
                // Whoever fills a batch wakes at once; fewer spans go when the time is over.
                continue;
            }
            self.stats.queued.store(self.queue().len() as u64, Ordering::Relaxed);
            let full = batch.len() == self.batch_max;
            self.send(&mut exporter, batch, &mut failing).await;
            if !full && !self.closing.load(Ordering::Acquire) {
                drop(tokio::time::timeout(self.delay, self.wake.notified()).await);
            }
        }
    }

    /// Sends a batch, or gives it up.
    async fn send(&self, exporter: &mut Exporter, batch: Vec<SpanData>, failing: &mut bool) {
        let count = batch.len() as u64;
        let mut wait_ms = BACKOFF_MS_MIN;
        for attempt in 1.. {
            let error = match exporter.send(batch.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.stats.exported.fetch_add(count - rejected, Ordering::Relaxed);
                    self.stats.dropped_failed.fetch_add(rejected, Ordering::Relaxed);
                    if std::mem::replace(failing, false) {
                        tracing::info!("traces are exported again");
                    }
                    return;
                }
                Err(error) => error,
            };
            if !std::mem::replace(failing, true) {
                tracing::warn!(%error, "traces cannot be exported; they are dropped until the collector takes them");
            }
            let closing = self.closing.load(Ordering::Acquire);
            if !error.is_passing || attempt >= ATTEMPTS_MAX || closing {
                self.stats.dropped_failed.fetch_add(count, Ordering::Relaxed);
                if !closing {
                    self.pause(wait_ms).await;
                }
                return;
            }
            self.pause(wait_ms).await;
            wait_ms = (wait_ms * 2).min(BACKOFF_MS_MAX);
        }
    }

    /// Waits for about so long, or until it is closed.
    async fn pause(&self, wait_ms: u64) {
        let closed = async {
            while !self.closing.load(Ordering::Acquire) {
                self.wake.notified().await;
            }
        };
        drop(tokio::time::timeout(Duration::from_millis(crate::rng::jitter_ms(wait_ms)), closed).await);
    }

    /// Nothing more comes: [`Self::run`] returns when everything is sent or has failed.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// The same span, as one that is exported.
fn sampled(mut span: SpanData) -> SpanData {
    let old = &span.span_context;
    span.span_context = SpanContext::new(
        old.trace_id(),
        old.span_id(),
        old.trace_flags() | TraceFlags::SAMPLED,
        old.is_remote(),
        old.trace_state().clone(),
    );
    span
}

/// Whether what `root` stands for took that long: a flush with the time that its oldest batch had waited.
fn was_slow(root: &SpanData, slow: Duration) -> bool {
    let own = root.end_time.duration_since(root.start_time).unwrap_or_default();
    let age = root.attributes.iter().find(|attribute| attribute.key.as_str() == trace::AGE_MS);
    match age.map(|attribute| &attribute.value) {
        Some(Value::F64(ms)) => own + Duration::from_secs_f64((ms / 1e3).max(0.0)) >= trace::slow_flush(slow),
        _ => own >= slow,
    }
}

/// What the SDK tells of spans.
#[derive(Debug)]
pub struct Processor(pub Arc<Pipeline>);

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, mut span: SpanData) {
        if span.span_context.is_sampled() {
            trace::keep_slow_links(&mut span, self.0.slow);
            self.0.push(span);
        } else if TraceContext::is_root(&span) {
            self.0.decide(span);
        } else {
            self.0.set_aside(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.wake.notify_one();
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.0.close();
        Ok(())
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
