//! Judges the object store by how its requests went lately.
//!
//! Attempts are counted in a ring of [`BUCKETS`] stretches of time that together are the window; memory does not depend
//! on their number. Attempts to create objects and to read them are counted apart: producers wait for the former, and
//! reads that succeed must not hide creates that fail. The *latency* is the 90th percentile of successful creates of up
//! to [`LATENCY_BYTES_MAX`]: a mean is moved by a single straggler, the 99th percentile of a few dozen requests *is* one.
//!
//! What makes it worse has to last, and has to be many:
//! - *degraded*: at least [`ATTEMPTS_MIN`] attempts in the window and a value over its first threshold for [`DEGRADE_MS`],
//! - *unavailable*: the same with creates over a second threshold for [`FAIL_MS`]; or no create but failed ones,
//!   [`OUTAGE_FAILURES`] or more, for as long, whatever was in the window before. Reads alone never lead here.
//!
//! What makes it better is quicker than the window: unavailable ends with [`GOOD_IN_A_ROW`] good creates in a row, and the
//! window begins anew; degraded ends when everything is clearly below the first thresholds. Each level lasts [`DWELL_MS`] before it gets better. A window
//! without attempts says nothing, so nothing is held against the store.

use std::fmt;

/// Stretches of time in the window.
pub const BUCKETS: usize = 30;
/// With fewer attempts in the window nothing gets worse.
pub const ATTEMPTS_MIN: u64 = 10;
/// How long a first threshold must be passed, ms.
pub const DEGRADE_MS: u64 = 2_000;
/// How long a second threshold must be passed, or everything must fail, ms.
pub const FAIL_MS: u64 = 3_000;
/// Failures in a row that are an outage, if they last.
pub const OUTAGE_FAILURES: u64 = 5;
/// Creates in a row, in time and without failure, that end an outage.
pub const GOOD_IN_A_ROW: u64 = 3;
/// Shortest time in a level before a better one, ms.
pub const DWELL_MS: u64 = 2_000;
/// Share of the first thresholds below which degraded ends.
pub const CLEARLY: f64 = 0.8;
/// Creates of more bytes say more about bandwidth than about latency.
pub const LATENCY_BYTES_MAX: u64 = 8 << 20;
/// What producers are asked to wait, ms: from the least when a first threshold is passed to the most at the second.
pub const THROTTLE_MS_MIN: u64 = 20;
/// See [`THROTTLE_MS_MIN`].
pub const THROTTLE_MS_MAX: u64 = 1_000;
/// What a refused producer is asked to wait, ms.
pub const REFUSED_THROTTLE_MS: u64 = 500;

/// Latencies are counted in bins whose bounds grow by this power of two: values are right to 9 %.
const BINS_PER_DOUBLING: f64 = 8.0;
/// Up to 65 s.
const BINS: usize = 128;

/// Thresholds of one value. Infinite ones are never passed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// From here on the store is degraded.
    pub warn: f64,
    /// From here on it is unavailable.
    pub crit: f64,
}

/// What is judged, and when it is bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthLimits {
    /// Length of the window, ms.
    pub window_ms: u64,
    /// Latency of creates, ms.
    pub latency_ms: Thresholds,
    /// Failed attempts per attempt, 0 to 1.
    pub error_rate: Thresholds,
}

impl Default for HealthLimits {
    /// For S3 Standard, whose PUTs take 65 ms (p50) to 220 ms (p99).
    fn default() -> Self {
        Self {
            window_ms: 30_000,
            latency_ms: Thresholds { warn: 1_000.0, crit: 5_000.0 },
            error_rate: Thresholds { warn: 0.1, crit: 0.5 },
        }
    }
}

impl HealthLimits {
    /// For stores on this machine: how slow a disk may be is its owner's business, errors are not.
    pub fn local() -> Self {
        let never = Thresholds { warn: f64::INFINITY, crit: f64::INFINITY };
        Self { latency_ms: never, ..Self::default() }
    }
}

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is held back.
    Healthy,
    /// Producers are asked to be slower.
    Degraded,
    /// New batches are refused; those that were accepted are tried on.
    Unavailable,
}

impl Level {
    /// All of them with the names that metrics and logs have, in order.
    pub const ALL: [(Self, &str); 3] =
        [(Self::Healthy, "healthy"), (Self::Degraded, "degraded"), (Self::Unavailable, "unavailable")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What an attempt was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To create an object.
    Create,
    /// To read from one.
    Read,
}

/// One attempt that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// What it was for.
    pub kind: Kind,
    /// The store failed, refused, or did not answer; "is there already" and "is not there" are good answers.
    pub failed: bool,
    /// How long it took, ms.
    pub elapsed_ms: f64,
    /// It is small enough for its time to be latency.
    pub is_small: bool,
}

/// Why the store is not healthy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// No create but failed ones.
    Outage {
        /// So many in a row.
        failures: u64,
    },
    /// Too many creates fail.
    CreateErrors {
        /// Failed per attempt.
        rate: f64,
    },
    /// Too many reads fail.
    ReadErrors {
        /// Failed per attempt.
        rate: f64,
    },
    /// Creates take too long.
    Latency {
        /// 90th percentile, ms.
        p90_ms: f64,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outage { failures } => write!(f, "the last {failures} attempts to create an object failed"),
            Self::CreateErrors { rate } => write!(f, "{:.0} % of the attempts to create an object fail", rate * 100.0),
            Self::ReadErrors { rate } => write!(f, "{:.0} % of the attempts to read fail", rate * 100.0),
            Self::Latency { p90_ms } => write!(f, "one in ten objects takes {p90_ms:.0} ms or more to create"),
        }
    }
}

/// Attempts and failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts that have ended.
    pub attempts: u64,
    /// Of these, failed ones.
    pub failures: u64,
}

impl Tally {
    /// Failures per attempt; 0 without attempts.
    pub fn rate(&self) -> f64 {
        self.failures as f64 / self.attempts.max(1) as f64
    }
}

/// What the window holds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Attempts to create.
    pub creates: Tally,
    /// Attempts to read.
    pub reads: Tally,
    /// Successful creates whose latency is known.
    pub timed: u64,
    /// Their mean, ms; 0 if there is none, as for the quantiles.
    pub mean_ms: f64,
    /// Their median, ms.
    pub p50_ms: f64,
    /// Their 90th percentile, ms: the latency that is judged.
    pub p90_ms: f64,
    /// Their 99th percentile, ms.
    pub p99_ms: f64,
}

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// How the store is.
    pub level: Level,
    /// Since when, in the caller's ms.
    pub since_ms: u64,
    /// Why, unless it is healthy.
    pub cause: Option<Cause>,
    /// What producers are asked to wait, ms.
    pub throttle_ms: u64,
    /// What it is based on.
    pub seen: Seen,
}

#[derive(Debug, Clone)]
struct Bucket {
    number: u64,
    creates: Tally,
    reads: Tally,
    bins: [u32; BINS],
    sum_ms: f64,
}

impl Bucket {
    fn new(number: u64) -> Self {
        Self { number, creates: Tally::default(), reads: Tally::default(), bins: [0; BINS], sum_ms: 0.0 }
    }
}

/// See the module's documentation. Times are in ms of any clock that does not go back.
#[derive(Debug)]
pub struct HealthState {
    limits: HealthLimits,
    buckets: Vec<Bucket>,
    level: Level,
    since_ms: u64,
    cause: Option<Cause>,
    /// Creates since the last failed or slow one.
    good_in_a_row: u64,
    /// Creates since the last one that did not fail.
    failed_in_a_row: u64,
    /// When the first of those failed.
    failing_since_ms: u64,
    /// When the last create ended.
    last_create_ms: u64,
    /// Since when the window is over a first and a second threshold.
    warned_since_ms: Option<u64>,
    critical_since_ms: Option<u64>,
}

impl HealthState {
    /// A healthy store of which nothing is known.
    pub fn new(limits: HealthLimits, now_ms: u64) -> Self {
        Self {
            limits,
            buckets: Vec::with_capacity(BUCKETS),
            level: Level::Healthy,
            since_ms: now_ms,
            cause: None,
            good_in_a_row: 0,
            failed_in_a_row: 0,
            failing_since_ms: now_ms,
            last_create_ms: now_ms,
            warned_since_ms: None,
            critical_since_ms: None,
        }
    }

    /// Takes the outcome of an attempt.
    pub fn record(&mut self, now_ms: u64, sample: Sample) {
        if sample.kind == Kind::Create {
            // What was in a row before a silence as long as the window says nothing about now.
            if now_ms.saturating_sub(self.last_create_ms) > self.limits.window_ms {
                (self.good_in_a_row, self.failed_in_a_row) = (0, 0);
            }
            self.last_create_ms = now_ms;
        }
        let bucket = self.bucket_at(now_ms);
        let tally = match sample.kind {
            Kind::Create => &mut bucket.creates,
            Kind::Read => &mut bucket.reads,
        };
        tally.attempts += 1;
        tally.failures += u64::from(sample.failed);
        if sample.kind == Kind::Read {
            return;
        }
        if !sample.failed && sample.is_small {
            bucket.bins[bin(sample.elapsed_ms)] += 1;
            bucket.sum_ms += sample.elapsed_ms;
        }
        let in_time = !sample.is_small || sample.elapsed_ms < self.limits.latency_ms.crit;
        self.good_in_a_row = if !sample.failed && in_time { self.good_in_a_row + 1 } else { 0 };
        if sample.failed && self.failed_in_a_row == 0 {
            self.failing_since_ms = now_ms;
        }
        self.failed_in_a_row = if sample.failed { self.failed_in_a_row + 1 } else { 0 };
    }

    /// The bucket of `now_ms`; what was in its place is older than the window.
    fn bucket_at(&mut self, now_ms: u64) -> &mut Bucket {
        let number = now_ms / self.bucket_ms();
        let place = (number % BUCKETS as u64) as usize;
        while self.buckets.len() <= place {
            self.buckets.push(Bucket::new(0));
        }
        let bucket = &mut self.buckets[place];
        if bucket.number != number {
            *bucket = Bucket::new(number);
        }
        bucket
    }

    fn bucket_ms(&self) -> u64 {
        (self.limits.window_ms / BUCKETS as u64).max(1)
    }

    /// What the window holds at `now_ms`.
    fn seen(&self, now_ms: u64) -> Seen {
        let newest = now_ms / self.bucket_ms();
        let mut seen = Seen::default();
        let (mut bins, mut sum_ms) = ([0u64; BINS], 0.0);
        for bucket in self.buckets.iter().filter(|b| b.number + BUCKETS as u64 > newest) {
            for (sum, tally) in [(&mut seen.creates, bucket.creates), (&mut seen.reads, bucket.reads)] {
                sum.attempts += tally.attempts;
                sum.failures += tally.failures;
            }
            bins.iter_mut().zip(bucket.bins).for_each(|(sum, n)| *sum += u64::from(n));
            sum_ms += bucket.sum_ms;
        }
        seen.timed = bins.iter().sum();
        seen.mean_ms = sum_ms / seen.timed.max(1) as f64;
        [seen.p50_ms, seen.p90_ms, seen.p99_ms] = [0.5, 0.9, 0.99].map(|q| quantile(&bins, seen.timed, q));
        seen
    }

    /// Judges. To be called several times per second, whatever happens.
    pub fn judge(&mut self, now_ms: u64) -> Verdict {
        let seen = self.seen(now_ms);
        let enough = seen.creates.attempts >= ATTEMPTS_MIN;
        let warned = self.over(&seen, |t| t.warn, true).filter(|_| enough || seen.reads.attempts >= ATTEMPTS_MIN);
        let critical = self.over(&seen, |t| t.crit, false).filter(|_| enough);
        let lasts = |since: &mut Option<u64>, is: bool, ms: u64| {
            *since = if is { since.or(Some(now_ms)) } else { None };
            since.is_some_and(|since| now_ms.saturating_sub(since) >= ms)
        };
        let warned_long = lasts(&mut self.warned_since_ms, warned.is_some(), DEGRADE_MS);
        let critical_long = lasts(&mut self.critical_since_ms, critical.is_some(), FAIL_MS);
        let outage = self.outage(now_ms);
        let recovered = self.good_in_a_row >= GOOD_IN_A_ROW;
        let worse = match () {
            () if outage.is_some() => Some((Level::Unavailable, outage)),
            () if critical_long && !recovered => Some((Level::Unavailable, critical)),
            () if warned_long => Some((Level::Degraded, warned)),
            () => None,
        };
        match worse {
            Some((level, cause)) if level > self.level => self.enter(level, cause, now_ms),
            Some((level, cause)) if level == self.level => self.cause = cause,
            _ => self.improve(&seen, warned, recovered, now_ms),
        }
        let throttle_ms = self.throttle_ms(&seen);
        Verdict { level: self.level, since_ms: self.since_ms, cause: self.cause, throttle_ms, seen }
    }

    fn improve(&mut self, seen: &Seen, warned: Option<Cause>, recovered: bool, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) < DWELL_MS {
            return;
        }
        let calm = self.over(seen, |t| t.warn * CLEARLY, true).is_none();
        match self.level {
            Level::Healthy => {}
            Level::Unavailable if seen.creates.attempts == 0 => self.enter(Level::Healthy, None, now_ms),
            Level::Unavailable if recovered => {
                // What led here is over: producers would be held back for it as long as the window is. If it is not, it
                // shows again.
                self.enter(Level::Degraded, self.cause, now_ms);
                self.buckets.clear();
                (self.warned_since_ms, self.critical_since_ms) = (None, None);
            }
            Level::Degraded if calm => self.enter(Level::Healthy, None, now_ms),
            Level::Degraded | Level::Unavailable => self.cause = warned.or(self.cause),
        }
    }

    fn enter(&mut self, level: Level, cause: Option<Cause>, now_ms: u64) {
        (self.level, self.cause, self.since_ms) = (level, cause, now_ms);
    }

    fn outage(&self, now_ms: u64) -> Option<Cause> {
        let failures = self.failed_in_a_row;
        let lasts = now_ms.saturating_sub(self.failing_since_ms) >= FAIL_MS;
        // Long ago is another matter: nobody has tried since.
        let recent = now_ms.saturating_sub(self.last_create_ms) <= self.limits.window_ms;
        let is = failures >= OUTAGE_FAILURES && lasts && recent && self.limits.error_rate.crit.is_finite();
        is.then_some(Cause::Outage { failures })
    }

    /// The first value that reaches its threshold.
    fn over(&self, seen: &Seen, threshold: impl Fn(&Thresholds) -> f64, reads: bool) -> Option<Cause> {
        let (rate_max, ms_max) = (threshold(&self.limits.error_rate), threshold(&self.limits.latency_ms));
        let over = |tally: &Tally| tally.failures > 0 && tally.rate() >= rate_max;
        if over(&seen.creates) {
            return Some(Cause::CreateErrors { rate: seen.creates.rate() });
        }
        if seen.timed > 0 && seen.p90_ms >= ms_max {
            return Some(Cause::Latency { p90_ms: seen.p90_ms });
        }
        (reads && over(&seen.reads)).then(|| Cause::ReadErrors { rate: seen.reads.rate() })
    }

    fn throttle_ms(&self, seen: &Seen) -> u64 {
        match self.level {
            Level::Healthy => 0,
            Level::Unavailable => REFUSED_THROTTLE_MS,
            Level::Degraded => {
                let (rates, latency) = (&self.limits.error_rate, &self.limits.latency_ms);
                let values = [(seen.creates.rate(), rates), (seen.reads.rate(), rates), (seen.p90_ms, latency)];
                let share = values.map(|(value, t)| between(value, t)).into_iter().fold(0.0, f64::max);
                THROTTLE_MS_MIN + ((THROTTLE_MS_MAX - THROTTLE_MS_MIN) as f64 * share) as u64
            }
        }
    }
}

/// Where `value` is between the thresholds, 0 to 1; without a second one, between the first and twice as much.
fn between(value: f64, thresholds: &Thresholds) -> f64 {
    if !thresholds.warn.is_finite() {
        return 0.0;
    }
    let full = if thresholds.crit.is_finite() { thresholds.crit } else { thresholds.warn * 2.0 };
    ((value - thresholds.warn) / (full - thresholds.warn)).clamp(0.0, 1.0)
}

fn bin(ms: f64) -> usize {
    let bin = (ms.max(1.0).log2() * BINS_PER_DOUBLING) as usize;
    bin.min(BINS - 1)
}

/// The quantile, up to the width of a bin: the lower bound of the bin it is in.
fn quantile(bins: &[u64; BINS], count: u64, q: f64) -> f64 {
    if count == 0 {
        return 0.0;
    }
    let rank = ((count as f64 * q).ceil() as u64).max(1);
    let mut below = 0;
    let place = bins.iter().position(|n| {
        below += n;
        below >= rank
    });
    2f64.powf(place.unwrap_or(BINS - 1) as f64 / BINS_PER_DOUBLING)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
