use super::*;
use proptest::prelude::*;

const TICK_MS: u64 = 250;
const NONE: (u64, u64) = (0, 1);
const ALL: (u64, u64) = (1, 1);

/// A store that is judged four times per second, as the actor does it.
struct Bed {
    state: HealthState,
    now_ms: u64,
}

impl Bed {
    fn new() -> Self {
        Self::with(HealthLimits::default())
    }

    fn with(limits: HealthLimits) -> Self {
        Self { state: HealthState::new(limits, 1_000_000), now_ms: 1_000_000 }
    }

    /// For `seconds`, `per_second` attempts (a multiple of 4) of which `fails.0` of `fails.1` fail, of `ms` each.
    fn load(&mut self, seconds: u64, kind: Kind, per_second: u64, fails: (u64, u64), ms: f64) -> Verdict {
        let mut count = 0;
        for _ in 0..seconds * 4 {
            for _ in 0..per_second / 4 {
                let failed = count % fails.1 < fails.0;
                count += 1;
                self.state.record(self.now_ms, Sample { kind, failed, elapsed_ms: ms, is_small: true });
            }
            self.now_ms += TICK_MS;
            self.state.judge(self.now_ms);
        }
        self.state.judge(self.now_ms)
    }

    fn creates(&mut self, seconds: u64, per_second: u64, fails: (u64, u64), ms: f64) -> Verdict {
        self.load(seconds, Kind::Create, per_second, fails, ms)
    }

    fn idle(&mut self, seconds: u64) -> Verdict {
        self.creates(seconds, 0, NONE, 0.0)
    }
}

#[test]
fn levels_by_what_the_creates_do() {
    use Level::{Degraded, Healthy, Unavailable};
    // Attempts per second, how many fail of how many, ms, level after 20 s.
    let table = [
        ("S3 at its best", 20, NONE, 65.0, Healthy),
        ("all of it as slow as one in a hundred", 20, NONE, 220.0, Healthy),
        ("one in twenty fails", 20, (1, 20), 65.0, Healthy),
        ("one in five fails", 20, (1, 5), 65.0, Degraded),
        ("slow", 20, NONE, 1_500.0, Degraded),
        ("two of three fail", 20, (2, 3), 65.0, Unavailable),
        ("all fail", 20, ALL, 65.0, Unavailable),
        ("all fail, few", 4, ALL, 65.0, Unavailable),
        ("much too slow", 4, NONE, 6_000.0, Unavailable),
    ];
    for (case, per_second, fails, ms, level) in table {
        let verdict = Bed::new().creates(20, per_second, fails, ms);
        assert_eq!(verdict.level, level, "{case}: {verdict:?}");
        assert_eq!(verdict.cause.is_some(), level != Healthy, "{case}");
        let throttle = match level {
            Healthy => 0..=0,
            Degraded => THROTTLE_MS_MIN..=THROTTLE_MS_MAX,
            Unavailable => REFUSED_THROTTLE_MS..=REFUSED_THROTTLE_MS,
        };
        assert!(throttle.contains(&verdict.throttle_ms), "{case}: {verdict:?}");
    }
}

#[test]
fn reads_that_succeed_do_not_hide_creates_that_fail_and_reads_alone_refuse_nobody() {
    let mut bed = Bed::new();
    for _ in 0..40 {
        let sample = |kind, failed| Sample { kind, failed, elapsed_ms: 10.0, is_small: true };
        (0..50).for_each(|_| bed.state.record(bed.now_ms, sample(Kind::Read, false)));
        bed.state.record(bed.now_ms, sample(Kind::Create, true));
        bed.now_ms += TICK_MS;
        bed.state.judge(bed.now_ms);
    }
    assert_eq!(bed.state.judge(bed.now_ms).level, Level::Unavailable);
    let verdict = Bed::new().load(20, Kind::Read, 20, ALL, 10.0);
    assert_eq!((verdict.level, verdict.throttle_ms), (Level::Degraded, THROTTLE_MS_MAX));
    assert!(matches!(verdict.cause, Some(Cause::ReadErrors { rate }) if rate == 1.0), "{verdict:?}");
}

#[test]
fn a_few_failures_are_no_outage() {
    let failure = Sample { kind: Kind::Create, failed: true, elapsed_ms: 8_000.0, is_small: true };
    let mut bed = Bed::new();
    // A single one, on a broker that does nothing else.
    bed.state.record(bed.now_ms, failure);
    assert_eq!(bed.idle(60).level, Level::Healthy);
    // Again and again, but each time after a silence.
    for _ in 0..20 {
        bed.state.record(bed.now_ms, failure);
        assert_eq!(bed.idle(31).level, Level::Healthy);
    }
    // Many at the same moment, and then none.
    for _ in 0..8 {
        bed.state.record(bed.now_ms, failure);
    }
    assert_eq!(bed.creates(30, 4, NONE, 65.0).level, Level::Healthy);
}

#[test]
fn an_outage_is_seen_in_seconds_whatever_was_before_and_ends_with_the_first_successes() {
    let mut bed = Bed::new();
    bed.creates(30, 40, NONE, 65.0);
    let mut seconds = 0;
    while bed.creates(1, 8, ALL, 65.0).level != Level::Unavailable {
        seconds += 1;
        assert!(seconds < 5, "after {seconds} s");
    }
    assert!(seconds * 1_000 >= FAIL_MS - 1_000, "not before it lasts: {seconds} s");
    let verdict = bed.creates(60, 4, ALL, 65.0);
    assert!(matches!(verdict.cause, Some(Cause::Outage { failures }) if failures > 200), "{verdict:?}");
    let verdict = bed.creates(1, 4, NONE, 65.0);
    assert_eq!((verdict.level, verdict.throttle_ms), (Level::Degraded, THROTTLE_MS_MIN), "{verdict:?}");
    assert_eq!(bed.creates(2, 4, NONE, 65.0).level, Level::Healthy, "the window is full of what is over");
}

#[test]
fn an_outage_that_nobody_looks_at_any_more_is_forgotten() {
    let mut bed = Bed::new();
    assert_eq!(bed.creates(10, 8, ALL, 65.0).level, Level::Unavailable);
    assert_eq!(bed.idle(10).level, Level::Unavailable, "nothing says that it is over");
    assert_eq!(bed.idle(30).level, Level::Healthy);
}

#[test]
fn creates_that_fail_at_random_do_not_make_it_flap() {
    let (mut bed, mut random, mut changes, mut last) = (Bed::new(), 7u64, 0, Level::Healthy);
    for _ in 0..600 {
        for _ in 0..4 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let failed = (random >> 33) % 100 < 60;
            let sample = Sample { kind: Kind::Create, failed, elapsed_ms: 65.0, is_small: true };
            bed.state.record(bed.now_ms, sample);
        }
        bed.now_ms += TICK_MS;
        let level = bed.state.judge(bed.now_ms).level;
        changes += u64::from(level != last);
        last = level;
    }
    // 150 s; a stay in each of two levels lasts 2 and 3 s at least.
    assert!((2..=2 * 150 / 5).contains(&changes), "{changes} changes");
}

#[test]
fn thresholds_that_are_off_are_never_reached() {
    let off = Thresholds { warn: f64::INFINITY, crit: f64::INFINITY };
    let limits = HealthLimits { latency_ms: off, error_rate: off, ..HealthLimits::default() };
    for (fails, ms) in [(ALL, 65.0), (NONE, 20_000.0)] {
        assert_eq!(Bed::with(limits).creates(60, 20, fails, ms).level, Level::Healthy);
    }
    let only_warn =
        HealthLimits { error_rate: Thresholds { warn: 0.1, crit: f64::INFINITY }, ..HealthLimits::default() };
    let verdict = Bed::with(only_warn).creates(60, 20, ALL, 65.0);
    assert_eq!((verdict.level, verdict.throttle_ms), (Level::Degraded, THROTTLE_MS_MAX));
    let verdict = Bed::with(HealthLimits::local()).creates(60, 20, NONE, 20_000.0);
    assert_eq!(verdict.level, Level::Healthy, "a slow disk");
}

#[test]
fn throttling_grows_from_the_first_threshold_to_the_second() {
    let throttles: Vec<u64> = [1_100.0, 2_000.0, 3_000.0, 4_500.0]
        .into_iter()
        .map(|ms| Bed::new().creates(20, 20, NONE, ms).throttle_ms)
        .collect();
    assert!(throttles.is_sorted() && throttles[0] < 100 && throttles[3] > 700, "{throttles:?}");
    // A straggler in twenty is not what producers wait for.
    let mut bed = Bed::new();
    for _ in 0..20 {
        bed.creates(1, 20, NONE, 65.0);
        bed.state.record(bed.now_ms, Sample { kind: Kind::Create, failed: false, elapsed_ms: 7_000.0, is_small: true });
    }
    let verdict = bed.state.judge(bed.now_ms);
    assert_eq!((verdict.level, verdict.seen.p99_ms > 5_000.0), (Level::Healthy, true), "{verdict:?}");
}

#[test]
fn quantiles_are_right_to_a_bin() {
    let mut bed = Bed::new();
    for ms in 1..=1_000 {
        let sample = Sample { kind: Kind::Create, failed: false, elapsed_ms: f64::from(ms), is_small: true };
        bed.state.record(bed.now_ms, sample);
    }
    let large = Sample { kind: Kind::Create, failed: false, elapsed_ms: 60_000.0, is_small: false };
    bed.state.record(bed.now_ms, large);
    let seen = bed.state.judge(bed.now_ms).seen;
    for (found, exact) in [(seen.p50_ms, 500.0), (seen.p90_ms, 900.0), (seen.p99_ms, 990.0)] {
        assert!(found <= exact && found > exact * 0.91, "{found} for {exact}");
    }
    assert_eq!((seen.mean_ms, seen.timed, seen.creates.attempts), (500.5, 1_000, 1_001));
}

proptest! {
    /// Against a list of all attempts: what the window holds, and what no sequence of attempts may bring about.
    #[test]
    fn the_window_and_the_rules_hold(
        steps in prop::collection::vec((0u64..4_000, 0u8..4, any::<bool>(), 1u32..10_000), 1..300),
        window_s in 5u64..120,
    ) {
        let limits = HealthLimits { window_ms: window_s * 1_000, ..HealthLimits::default() };
        let mut state = HealthState::new(limits, 0);
        let (mut now_ms, mut all) = (0u64, Vec::new());
        let mut before = state.judge(0);
        for (step, kind, failed, ms) in steps {
            now_ms += if kind == 0 { step } else { step % 60 };
            let kind = if kind == 1 { Kind::Read } else { Kind::Create };
            state.record(now_ms, Sample { kind, failed, elapsed_ms: f64::from(ms), is_small: true });
            all.push((now_ms, kind, failed));
            let verdict = state.judge(now_ms);
            let bucket_ms = limits.window_ms / BUCKETS as u64;
            let oldest = (now_ms / bucket_ms + 1).saturating_sub(BUCKETS as u64) * bucket_ms;
            let seen = |kind| {
                let of = || all.iter().filter(move |(at, k, _)| *at >= oldest && *k == kind);
                Tally { attempts: of().count() as u64, failures: of().filter(|(.., failed)| *failed).count() as u64 }
            };
            prop_assert_eq!((verdict.seen.creates, verdict.seen.reads), (seen(Kind::Create), seen(Kind::Read)));
            prop_assert!(verdict.throttle_ms <= THROTTLE_MS_MAX);
            prop_assert_eq!(verdict.throttle_ms == 0, verdict.level == Level::Healthy);
            prop_assert_eq!(verdict.cause.is_none(), verdict.level == Level::Healthy);
            if verdict.level > before.level {
                let many = verdict.seen.creates.attempts.max(verdict.seen.reads.attempts) >= ATTEMPTS_MIN;
                let failed = all.iter().filter(|(_, kind, failed)| *kind == Kind::Create && *failed).count() as u64;
                prop_assert!(many || failed >= OUTAGE_FAILURES);
            }
            if verdict.level < before.level {
                prop_assert!(now_ms - before.since_ms >= DWELL_MS);
            }
            if (before.level, verdict.level) == (Level::Unavailable, Level::Degraded) {
                all.clear(); // the window begins anew
            }
            before = verdict;
        }
        // Whatever was: a window of good creates makes it healthy, and a window of failures unavailable.
        for _ in 0..=limits.window_ms / TICK_MS + 2 * DWELL_MS / TICK_MS {
            now_ms += TICK_MS;
            state.record(now_ms, Sample { kind: Kind::Create, failed: false, elapsed_ms: 65.0, is_small: true });
            before = state.judge(now_ms);
        }
        prop_assert_eq!(before.level, Level::Healthy);
        for _ in 0..=FAIL_MS / TICK_MS {
            now_ms += TICK_MS;
            state.record(now_ms, Sample { kind: Kind::Create, failed: true, elapsed_ms: 65.0, is_small: true });
            before = state.judge(now_ms);
        }
        prop_assert_eq!(before.level, Level::Unavailable);
    }
}
