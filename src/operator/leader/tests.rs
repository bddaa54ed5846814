use super::state::*;
use super::*;

fn record(holder: &str, transitions: i32, version: u32) -> Record {
    let holder = (!holder.is_empty()).then(|| holder.to_owned());
    Record { holder, transitions, version: version.to_string(), duration: DURATION }
}

#[test]
fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_duration() {
    let mut b = Candidate::new("b");
    assert_eq!(b.next(Some(&record("a", 3, 1)), 0), Move::Wait);
    assert_eq!(b.next(Some(&record("a", 3, 1)), 14_999), Move::Wait);
    assert_eq!(b.next(Some(&record("a", 3, 2)), 15_000), Move::Wait, "it was renewed");
    assert_eq!(b.next(Some(&record("a", 3, 2)), 29_999), Move::Wait);
    assert_eq!(b.next(Some(&record("a", 3, 2)), 30_000), Move::Take { transitions: 4 });
    assert_eq!(b.written(record("b", 4, 3), 30_000), FencingToken(5));
    assert_eq!(b.next(Some(&record("b", 4, 3)), 32_000), Move::Renew);
    assert_eq!(b.next(Some(&record("c", 5, 4)), 60_000), Move::Wait, "it was taken from a sleeper");
    assert!(!b.holds());
}

#[test]
fn tokens_rise_with_every_leader() {
    let table = [
        ("given up", record("", 7, 1), Move::Take { transitions: 8 }),
        ("an earlier process of the same name", record("a", 7, 1), Move::Take { transitions: 8 }),
        ("another's", record("b", 7, 1), Move::Wait),
    ];
    for (name, record, expected) in table {
        assert_eq!(Candidate::new("a").next(Some(&record), 0), expected, "{name}");
    }
    let mut first = Candidate::new("a");
    assert_eq!(first.next(None, 0), Move::Create);
    assert_eq!(first.written(record("a", 0, 1), 0), FencingToken(1));
}

#[test]
fn a_leader_stops_believing_itself_before_others_may_begin() {
    let tenure = Tenure { token: FencingToken(1), confirmed_ms: 1_000 };
    assert_eq!(tenure.token(10_999), Some(FencingToken(1)));
    assert_eq!(tenure.token(11_000), None);
    assert!(RENEW_WITHIN < DURATION && ATTEMPT_WITHIN + RETRY < RENEW_WITHIN);
}

/// Two operators and one Lease, with pauses of any length: they never lead at once.
#[test]
fn two_never_lead_at_once() {
    struct Operator {
        candidate: Candidate,
        tenure: Option<Tenure>,
        wakes_ms: i64,
    }
    let mut changes = 0;
    for seed in 0..50 {
        crate::rng::follow(seed);
        let mut lease: Option<Record> = None;
        let mut written = 0;
        let mut all: Vec<Operator> =
            ["a", "b"].map(|name| Operator { candidate: Candidate::new(name), tenure: None, wakes_ms: 0 }).into();
        for now_ms in (0..600_000).step_by(100) {
            for operator in &mut all {
                if operator.wakes_ms > now_ms {
                    continue;
                }
                let sleeps = if crate::rng::u64().is_multiple_of(20) { 30_000 } else { 2_000 };
                operator.wakes_ms = now_ms + sleeps;
                let next = operator.candidate.next(lease.as_ref(), now_ms);
                let transitions = match next {
                    Move::Wait => {
                        operator.tenure = None;
                        continue;
                    }
                    Move::Create => 0,
                    Move::Renew => lease.as_ref().unwrap().transitions,
                    Move::Take { transitions } => transitions,
                };
                written += 1;
                let new = record(&operator.candidate_name(), transitions, written);
                let token = operator.candidate.written(new.clone(), now_ms);
                operator.tenure = Some(Tenure { token, confirmed_ms: now_ms });
                lease = Some(new);
            }
            let leading = all.iter().filter(|o| o.tenure.is_some_and(|t| t.token(now_ms).is_some())).count();
            assert!(leading <= 1, "seed {seed}, {now_ms} ms");
        }
        changes += lease.unwrap().transitions;
    }
    assert!(changes > 50, "it changed hands {changes} times");

    impl Operator {
        fn candidate_name(&self) -> String {
            self.candidate.identity().to_owned()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_ends_by_itself() {
    let leadership = Leadership::new(Clock::simulated(0));
    assert_eq!(leadership.token(), Err(NotLeading));
    leadership.confirm(FencingToken(4), leadership.clock.monotonic_ms());
    assert_eq!(leadership.token(), Ok(FencingToken(4)));
    tokio::time::advance(RENEW_WITHIN).await;
    assert_eq!(leadership.token(), Err(NotLeading));
}
