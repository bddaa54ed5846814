//! Decides whether the replica is worth a try: not for a while after it has failed several times in a row.

/// Failures in a row after which the replica is left alone.
pub const FAILURES_MAX: u32 = 5;
/// How long it is left alone at first, ms; twice as long after each try that fails, up to the greatest.
pub const PAUSE_MS_MIN: u64 = 1_000;
/// Longest time between two tries, ms.
pub const PAUSE_MS_MAX: u64 = 30_000;

/// A read that may go to the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    /// It finds out whether a replica that failed answers again.
    probes: bool,
}

/// What an outcome has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The replica is left alone from now on.
    Opened,
    /// The replica answers again.
    Closed,
}

/// See the module's documentation. Times are in ms of any clock that does not go back.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    /// The next try.
    until_ms: u64,
    pause_ms: u64,
}

impl Breaker {
    /// True while reads go to the replica.
    pub fn is_closed(&self) -> bool {
        self.open.is_none()
    }

    /// The try that a read may make, if any. One that never comes to an outcome is followed by another after a pause.
    pub fn admit(&mut self, now_ms: u64) -> Option<Try> {
        match &mut self.open {
            None => Some(Try { probes: false }),
            Some(open) if now_ms >= open.until_ms => {
                open.until_ms = now_ms + open.pause_ms;
                Some(Try { probes: true })
            }
            Some(_) => None,
        }
    }

    /// The replica answered, even if it does not have the object.
    pub fn answered(&mut self) -> Option<Change> {
        self.failures = 0;
        self.open.take().map(|_| Change::Closed)
    }

    /// The replica did not answer in time, or with an error.
    pub fn failed(&mut self, now_ms: u64, attempt: Try) -> Option<Change> {
        match &mut self.open {
            // What began before says nothing new.
            Some(_) if !attempt.probes => None,
            Some(open) => {
                open.pause_ms = (open.pause_ms * 2).min(PAUSE_MS_MAX);
                open.until_ms = now_ms + open.pause_ms;
                None
            }
            None => {
                self.failures += 1;
                (self.failures >= FAILURES_MAX).then(|| self.trip(now_ms))
            }
        }
    }

    /// Leaves the replica alone at once.
    pub fn trip(&mut self, now_ms: u64) -> Change {
        self.open = Some(Open { until_ms: now_ms + PAUSE_MS_MIN, pause_ms: PAUSE_MS_MIN });
        Change::Opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fail(breaker: &mut Breaker, now_ms: u64) -> Option<Change> {
        let attempt = breaker.admit(now_ms).expect("a try is due");
        breaker.failed(now_ms, attempt)
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX - 1 {
            assert_eq!(fail(&mut breaker, 10), None);
        }
        assert_eq!(breaker.answered(), None, "four failures and an answer: not in a row");
        for _ in 0..FAILURES_MAX - 1 {
            assert_eq!(fail(&mut breaker, 10), None);
        }
        let late = breaker.admit(10).unwrap();
        assert_eq!(fail(&mut breaker, 10), Some(Change::Opened));
        assert_eq!((breaker.is_closed(), breaker.admit(PAUSE_MS_MIN + 9)), (false, None));
        assert_eq!(breaker.failed(20, late), None);
        // One try per pause, and pauses grow.
        let mut now_ms = 10 + PAUSE_MS_MIN;
        for pause_ms in [2_000, 4_000, 8_000, 16_000, PAUSE_MS_MAX, PAUSE_MS_MAX] {
            assert_eq!(fail(&mut breaker, now_ms), None);
            assert_eq!(breaker.admit(now_ms + pause_ms - 1), None, "{pause_ms}");
            now_ms += pause_ms;
        }
        assert!(breaker.admit(now_ms).is_some());
        assert_eq!(breaker.answered(), Some(Change::Closed));
        assert_eq!(fail(&mut breaker, now_ms), None, "counted anew");
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_try_that_is_never_heard_of_again_does_not_close_the_way() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.trip(0), Change::Opened);
        assert!(breaker.admit(PAUSE_MS_MIN).is_some());
        assert_eq!(breaker.admit(2 * PAUSE_MS_MIN - 1), None);
        assert!(breaker.admit(2 * PAUSE_MS_MIN).is_some());
    }

    proptest! {
        /// A dead replica costs few reads their time, and one that is back is found within the longest pause.
        #[test]
        fn tries_of_a_dead_replica_are_rare(steps in prop::collection::vec(0u64..2_000, 1..200)) {
            let (mut breaker, mut now_ms, mut tries) = (Breaker::default(), 0, 0);
            for step in steps {
                now_ms += step;
                if let Some(attempt) = breaker.admit(now_ms) {
                    tries += 1;
                    breaker.failed(now_ms, attempt);
                }
            }
            prop_assert!(tries <= u64::from(FAILURES_MAX) + 5 + now_ms / PAUSE_MS_MAX, "{tries} in {now_ms} ms");
            prop_assert!(breaker.admit(now_ms + PAUSE_MS_MAX).is_some());
        }
    }
}
