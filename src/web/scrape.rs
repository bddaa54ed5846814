//! Reads the brokers' metrics, every 10 s and every 2 s while somebody looks, and remembers what they say.

use super::exposition::{self, Numbers};
use super::fetch;
use super::history::catalogue::{self, HISTOGRAMS, METRICS, SCALARS};
use super::probes::ConsoleStats;
use super::source::BrokerSource;
use super::state::History;
use crate::clock::Clock;
use crate::metrics::HistogramSample;
use crate::node::quantile;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use arc_swap::ArcSwap;
use futures::StreamExt;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The broker behind `KAFSCALE_CONSOLE_BROKER_METRICS_URL` if no broker is known from etcd.
pub const UNKNOWN_BROKER: i32 = -1;
/// How often it is time to look whether to read.
const TICK: Duration = Duration::from_secs(2);
/// How often brokers are read when nobody looks, ms.
const QUIET_MS: i64 = 10_000;
/// Somebody looks until so long after they asked, ms.
const WANTED_MS: i64 = 15_000;
/// Rates are over at least this time, ms, once it has passed.
const WINDOW_MS: i64 = 9_500;
/// How long a broker may take to answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Longest page of metrics, bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Brokers that are read at a time.
const AT_A_TIME_MAX: usize = 16;
/// Brokers that are read at all.
const BROKERS_MAX: usize = 512;

/// One reading.
#[derive(Debug)]
struct Taken {
    at_ms: i64,
    numbers: Numbers,
}

/// What is known of a broker.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Base URL of its metrics listener.
    pub url: String,
    /// Why it does not answer.
    pub error: Option<String>,
    /// Since when it answers, or does not, Unix milliseconds.
    pub since_ms: i64,
    /// When it answered last, Unix milliseconds.
    pub read_ms: Option<i64>,
    /// Numbers by the names of the history; none if it does not answer.
    pub derived: BTreeMap<&'static str, f64>,
    /// What was observed in the last seconds.
    pub observed: BTreeMap<&'static str, HistogramSample>,
    /// Why the object store is not healthy.
    pub s3_reasons: Vec<String>,
    /// Since when the object store is as it is, Unix milliseconds.
    pub s3_since_ms: Option<i64>,
    /// When the process began, Unix milliseconds.
    pub started_ms: Option<i64>,
}

impl Reading {
    /// A number of the history.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.derived.get(name).copied()
    }

    /// How the object store is for this broker.
    pub fn s3_state(&self) -> &'static str {
        match self.get("s3_state").map(|state| state as i64) {
            Some(0) => "healthy",
            Some(1) => "degraded",
            Some(2) => "unavailable",
            _ => "unknown",
        }
    }
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub struct Readings {
    /// When, Unix milliseconds; 0 before the first time.
    pub at_ms: i64,
    /// By broker.
    pub brokers: BTreeMap<i32, Reading>,
}

impl Readings {
    /// Sum over brokers; `None` if no broker says it.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.brokers.values().filter_map(|reading| reading.get(name)).reduce(|a, b| a + b)
    }

    /// Quantile over what all brokers observed, ms.
    pub fn quantile_ms(&self, name: &str, share: f64) -> Option<f64> {
        let mut all: Option<HistogramSample> = None;
        for sample in self.brokers.values().filter_map(|reading| reading.observed.get(name)) {
            match &mut all {
                None => all = Some(sample.clone()),
                Some(all) if all.buckets.len() == sample.buckets.len() => {
                    all.buckets.iter_mut().zip(&sample.buckets).for_each(|(all, one)| all.1 += one.1);
                }
                Some(_) => {}
            }
        }
        quantile(&all?, share).map(|sec| sec * 1e3)
    }
}

/// What the scraper shares with those who look.
#[derive(Debug)]
pub struct Shared {
    /// The last readings.
    pub readings: ArcSwap<Readings>,
    wanted_until_ms: AtomicI64,
}

impl Default for Shared {
    fn default() -> Self {
        Self { readings: ArcSwap::default(), wanted_until_ms: AtomicI64::new(0) }
    }
}

impl Shared {
    /// Somebody looks.
    pub fn want(&self, now_ms: i64) {
        self.wanted_until_ms.fetch_max(now_ms + WANTED_MS, Ordering::Relaxed);
    }
}

/// See the module's documentation.
pub struct Scraper {
    clock: Clock,
    source: Arc<dyn BrokerSource>,
    shared: Arc<Shared>,
    history: History,
    stats: Arc<ConsoleStats>,
    taken: BTreeMap<i32, VecDeque<Taken>>,
}

impl Scraper {
    /// Knows nothing yet.
    pub fn new(
        clock: Clock,
        source: Arc<dyn BrokerSource>,
        shared: Arc<Shared>,
        history: History,
        stats: Arc<ConsoleStats>,
    ) -> Self {
        Self { clock, source, shared, history, stats, taken: BTreeMap::new() }
    }

    fn is_due(&self, now_ms: i64) -> bool {
        let last_ms = self.shared.readings.load().at_ms;
        // A clock that was set back must not stop it.
        let waited = now_ms - last_ms >= QUIET_MS - 500 || now_ms < last_ms;
        waited || now_ms < self.shared.wanted_until_ms.load(Ordering::Relaxed)
    }

    fn absorb(&mut self, asked: Vec<Asked>) {
        let (before, now_ms) = (self.shared.readings.load_full(), self.clock.wall_ms());
        let mut brokers = BTreeMap::new();
        self.taken.retain(|broker, _| asked.iter().any(|asked| asked.broker == *broker));
        for Asked { broker, url, answer } in asked {
            let former = before.brokers.get(&broker);
            let mut reading = match answer {
                Ok((numbers, s3_reasons)) => Reading { s3_reasons, ..self.read(broker, now_ms, numbers) },
                Err(error) => {
                    self.taken.remove(&broker);
                    Reading { error: Some(error), read_ms: former.and_then(|f| f.read_ms), ..Reading::default() }
                }
            };
            let same = former.filter(|former| former.error.is_some() == reading.error.is_some());
            reading.since_ms = same.map_or(now_ms, |former| former.since_ms);
            reading.url = url;
            brokers.insert(broker, reading);
        }
        self.shared.readings.store(Arc::new(Readings { at_ms: now_ms, brokers }));
    }

    /// A broker has answered: what follows from that, and from what it said before.
    fn read(&mut self, broker: i32, now_ms: i64, numbers: Numbers) -> Reading {
        let taken = self.taken.entry(broker).or_default();
        while taken.get(1).is_some_and(|second| now_ms - second.at_ms >= WINDOW_MS) {
            taken.pop_front();
        }
        let base = taken.front().filter(|base| base.at_ms < now_ms);
        let before = base.map(|base| (&base.numbers, (now_ms - base.at_ms) as f64 / 1e3));
        let derived = catalogue::derive(before, &numbers);
        let observed = numbers.histograms.iter().filter_map(|(name, sample)| {
            let between = match base?.numbers.histograms.get(name) {
                Some(base) => exposition::observed(base, sample)?,
                None => sample.clone(),
            };
            Some((*name, between))
        });
        let seconds = |name: &str| numbers.scalars.get(name).copied();
        let reading = Reading {
            read_ms: Some(now_ms),
            observed: observed.collect(),
            s3_since_ms: seconds("s3_state_sec").map(|sec| now_ms - (sec * 1e3) as i64),
            started_ms: seconds("started_sec").map(|sec| (sec * 1e3) as i64),
            derived,
            ..Reading::default()
        };
        {
            let mut history = self.history.lock().expect("no panic under the lock");
            for (position, metric) in METRICS.iter().enumerate() {
                if let Some(value) = reading.derived.get(metric.name) {
                    history.push((position, broker), now_ms, *value as f32);
                }
            }
        }
        taken.push_back(Taken { at_ms: now_ms, numbers });
        reading
    }
}

struct Asked {
    broker: i32,
    url: String,
    answer: Result<(Numbers, Vec<String>), String>,
}

async fn ask(broker: i32, url: String, stats: Arc<ConsoleStats>) -> Asked {
    stats.scrapes.fetch_add(1, Ordering::Relaxed);
    let page = fetch::get(&format!("{url}/metrics"), WITHIN, PAGE_BYTES_MAX).await;
    let answer = match page {
        Ok(page) => {
            let numbers = exposition::read(&String::from_utf8_lossy(&page), SCALARS, HISTOGRAMS);
            let is_well = numbers.scalars.get("s3_healthy").is_none_or(|healthy| *healthy > 0.5);
            let reasons = if is_well { Vec::new() } else { s3_reasons(&url).await };
            Ok((numbers, reasons))
        }
        Err(error) => {
            stats.scrape_failures.fetch_add(1, Ordering::Relaxed);
            Err(error)
        }
    };
    Asked { broker, url, answer }
}

async fn s3_reasons(url: &str) -> Vec<String> {
    let page = fetch::get(&format!("{url}/v1/s3"), WITHIN, PAGE_BYTES_MAX).await.ok();
    let page: Option<serde_json::Value> = page.and_then(|page| serde_json::from_slice(&page).ok());
    let reasons = page.and_then(|page| serde_json::from_value(page["reasons"].clone()).ok());
    reasons.unwrap_or_default()
}

#[derive(Message)]
#[rtype(result = "()")]
struct Tick;

impl Actor for Scraper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.notify(Tick);
    }
}

impl Handler<Tick> for Scraper {
    type Result = ();

    fn handle(&mut self, _: Tick, context: &mut Context<Self>) {
        if !self.is_due(self.clock.wall_ms()) {
            context.notify_later(Tick, TICK);
            return;
        }
        let urls = self.source.metrics_urls();
        let stats = self.stats.clone();
        let round = async move {
            let asked = urls.into_iter().take(BROKERS_MAX).map(|(broker, url)| ask(broker, url, stats.clone()));
            futures::stream::iter(asked).buffer_unordered(AT_A_TIME_MAX).collect::<Vec<_>>().await
        };
        context.spawn(round.into_actor(self).map(|asked, scraper, context| {
            scraper.absorb(asked);
            context.notify_later(Tick, TICK);
        }));
    }
}
