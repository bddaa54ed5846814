//! Situations and what follows, and whole rollouts against a naive cluster.

use super::state::*;
use std::collections::BTreeMap;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(300);

fn pod(hash: &str) -> Pod {
    Pod {
        uid: format!("{hash}-0"),
        hash: hash.to_owned(),
        going: false,
        ready: true,
        doing: Doing::Serving,
        not_serving_for: Duration::ZERO,
        drain: None,
        ours: true,
    }
}

fn down(hash: &str, seconds: u64) -> Pod {
    Pod { ready: false, doing: Doing::Other, not_serving_for: Duration::from_secs(seconds), ..pod(hash) }
}

fn situation(pods: Vec<Pod>) -> Situation {
    let replicas = pods.len() as i32;
    Situation {
        wanted: "new".to_owned(),
        stable: Some("old".to_owned()),
        failed: None,
        replicas,
        set_replicas: Some(replicas),
        pods: (0..).zip(pods).collect(),
        ready_timeout: TIMEOUT,
    }
}

#[test]
fn the_order_and_the_gate() {
    let table: Vec<(&str, Vec<Pod>, Step, Progress)> = vec![
        ("all are right", vec![pod("new"), pod("new")], Step::Nothing, Progress::Done),
        ("the highest first", vec![pod("old"), pod("old")], Step::Drain(1), Progress::Draining(1)),
        ("one that is down first", vec![down("old", 1), pod("old")], Step::Delete(0), Progress::Starting(0)),
        ("a new one has to serve", vec![pod("old"), down("new", 1)], Step::Nothing, Progress::Starting(1)),
        (
            "ready is not serving",
            vec![pod("old"), Pod { doing: Doing::Other, ..pod("new") }],
            Step::Nothing,
            Progress::Starting(1),
        ),
        (
            "one that goes is waited for",
            vec![pod("old"), Pod { going: true, ..pod("old") }],
            Step::Nothing,
            Progress::Starting(1),
        ),
        (
            "while it is emptied",
            vec![pod("old"), Pod { drain: Some(Drain::Running), doing: Doing::Draining, ..pod("old") }],
            Step::Nothing,
            Progress::Draining(1),
        ),
        (
            "when it is empty",
            vec![pod("old"), Pod { drain: Some(Drain::Over), doing: Doing::Drained, ..pod("old") }],
            Step::Delete(1),
            Progress::Draining(1),
        ),
        (
            "another operator began",
            vec![Pod { doing: Doing::Drained, ..pod("old") }, pod("old")],
            Step::Drain(0),
            Progress::Draining(0),
        ),
        (
            "a rollout that was called off leaves nobody empty",
            vec![pod("new"), Pod { doing: Doing::Drained, ..pod("new") }],
            Step::Undrain(1),
            Progress::Waiting(1),
        ),
        (
            "what a person has emptied stays empty, and nobody else is touched",
            vec![pod("old"), Pod { doing: Doing::Drained, ours: false, ..pod("new") }],
            Step::Nothing,
            Progress::Waiting(1),
        ),
        (
            "an empty one that stays takes work before the next goes",
            vec![pod("old"), Pod { doing: Doing::Drained, ..pod("new") }],
            Step::Undrain(1),
            Progress::Waiting(1),
        ),
    ];
    for (name, pods, step, progress) in table {
        let decision = decide(&situation(pods));
        assert_eq!((decision.step, decision.progress), (step, progress), "{name}");
    }
}

#[test]
fn a_template_that_fails_is_gone_back_from_until_another_is_wanted() {
    let late = situation(vec![pod("old"), pod("old"), down("new", 300)]);
    let decision = decide(&late);
    assert_eq!(decision.failed.as_deref(), Some("new"));
    assert_eq!(decision.step, Step::Delete(2), "it is set back");
    let in_time = situation(vec![pod("old"), pod("old"), down("new", 299)]);
    assert_eq!(decide(&in_time).failed, None);
    let said = Situation { failed: Some("new".to_owned()), ..situation(vec![pod("old"), pod("old"), pod("old")]) };
    let decision = decide(&said);
    assert_eq!((decision.step, decision.progress, decision.stable), (Step::Nothing, Progress::Done, false));
    assert_eq!(decision.failed.as_deref(), Some("new"));
    let other = Situation { wanted: "newer".to_owned(), ..said };
    let decision = decide(&other);
    assert_eq!((decision.failed, decision.step), (None, Step::Drain(2)));
}

#[test]
fn without_anything_to_go_back_to_it_is_only_said() {
    let first = Situation { stable: None, ..situation(vec![down("new", 400), pod("new")]) };
    let decision = decide(&first);
    assert_eq!((decision.failed, decision.step, decision.stuck), (None, Step::Nothing, Some(0)));
    let crashed = Situation { stable: Some("new".to_owned()), ..first };
    assert_eq!((decide(&crashed).failed, decide(&crashed).stuck), (None, Some(0)));
    // A spec that repairs it is rolled out though nobody serves.
    let repaired =
        Situation { stable: None, wanted: "newer".to_owned(), ..situation(vec![down("new", 400), down("new", 400)]) };
    assert_eq!(decide(&repaired).step, Step::Delete(1));
}

#[test]
fn brokers_that_are_too_many_are_emptied_first_from_the_highest_on() {
    let all = situation(vec![pod("new"), pod("new"), pod("new")]);
    let fewer = Situation { replicas: 1, ..all };
    let decision = decide(&fewer);
    assert_eq!((decision.step, decision.set_replicas), (Step::Drain(2), 3));
    let mut over = fewer.clone();
    over.pods.get_mut(&2).unwrap().drain = Some(Drain::Over);
    let decision = decide(&over);
    assert_eq!((decision.step, decision.set_replicas), (Step::Nothing, 2));
    let more = Situation { replicas: 5, ..fewer };
    let decision = decide(&more);
    assert_eq!((decision.set_replicas, decision.progress), (5, Progress::Starting(3)));
    let first = Situation { set_replicas: None, pods: BTreeMap::new(), ..more };
    assert_eq!(decide(&first).set_replicas, 5);
}

/// What a cluster does by itself, step by step: pods that are deleted come back with the StatefulSet's template.
struct Naive {
    situation: Situation,
    starts: bool,
    made: u64,
}

impl Naive {
    fn turn(&mut self) -> Decision {
        let decision = decide(&self.situation);
        let s = &mut self.situation;
        s.failed.clone_from(&decision.failed);
        s.set_replicas = Some(decision.set_replicas);
        let right = match (&decision.failed, &s.stable) {
            (Some(_), Some(stable)) => stable.clone(),
            _ => s.wanted.clone(),
        };
        let serving = s.pods.values().filter(|pod| pod.serves()).count() as i32;
        match decision.step {
            Step::Drain(n) => {
                let pod = s.pods.get_mut(&n).unwrap();
                (pod.drain, pod.doing) = (Some(Drain::Over), Doing::Drained);
            }
            Step::Undrain(n) => s.pods.get_mut(&n).unwrap().doing = Doing::Serving,
            Step::Delete(n) => {
                let gone = s.pods.remove(&n).unwrap();
                let was_serving = gone.doing == Doing::Drained;
                assert!(!was_serving || serving >= s.replicas - 1, "two are away at once");
            }
            Step::Nothing => {}
        }
        s.pods.retain(|n, _| *n < decision.set_replicas);
        for n in 0..decision.set_replicas {
            self.made += 1;
            let (starts, made) = (self.starts || right == "old", self.made);
            s.pods.entry(n).or_insert_with(|| {
                let new = if starts { pod(&right) } else { down(&right, 0) };
                Pod { uid: made.to_string(), ..new }
            });
        }
        for pod in s.pods.values_mut().filter(|pod| !pod.serves()) {
            pod.not_serving_for += Duration::from_secs(10);
        }
        decision
    }
}

#[test]
fn a_rollout_ends_and_a_bad_one_ends_where_it_began() {
    for starts in [true, false] {
        let start = situation(vec![pod("old"), pod("old"), pod("old")]);
        let mut naive = Naive { situation: start, starts, made: 0 };
        let turns = (0..200).take_while(|_| naive.turn().progress != Progress::Done).count();
        assert!(turns < 199, "it does not end");
        let hash = if starts { "new" } else { "old" };
        assert!(naive.situation.pods.values().all(|pod| pod.hash == hash && pod.serves()), "{:?}", naive.situation);
        assert_eq!(naive.situation.failed.is_some(), !starts);
    }
}
