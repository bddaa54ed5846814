//! What to do next about the brokers of one cluster: a pure function of what is wanted, what is there, and what was begun.
//!
//! Rules, in this order:
//! 1. Which template is right: the wanted one, or, if that one has failed, the last one that all brokers served with, until
//!    the wanted one changes.
//! 2. Brokers that are too many go first, from the highest number on, each emptied before it is stopped.
//! 3. A broker that was replaced has to serve before another one is touched. If it does not within the time it has, the
//!    rollout has failed.
//! 4. A broker of another template that does not serve is replaced at once: nothing is lost by it. One that serves is
//!    replaced only if all others serve, after it was emptied.
//! 5. A broker that was emptied and is not to be replaced any more takes work again.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a broker says it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It takes what should be its own.
    Serving,
    /// It gives away what it has.
    Draining,
    /// It has nothing and takes nothing.
    Drained,
    /// It does something else, or does not answer.
    Other,
}

/// A drain that this operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// It goes on.
    Running,
    /// It has ended, well or not: the pod may go.
    Over,
}

/// A broker's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Kubernetes' id of this very pod.
    pub uid: String,
    /// Fingerprint of its template.
    pub hash: String,
    /// Its deletion has begun.
    pub going: bool,
    /// Its readiness probe passes.
    pub ready: bool,
    /// What its broker says.
    pub doing: Doing,
    /// For how long it has not served, as far as is known.
    pub not_serving_for: Duration,
    /// A drain of this pod.
    pub drain: Option<Drain>,
    /// An operator has had it emptied, this one or the one before; else it was a person, who will know when it may work again.
    pub ours: bool,
}

impl Pod {
    /// Clients can use it, and it takes what is given to it.
    pub fn serves(&self) -> bool {
        self.ready && self.doing == Doing::Serving && !self.going
    }
}

/// Everything the decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// Fingerprint of the wanted template.
    pub wanted: String,
    /// Fingerprint of the last template that all brokers served with.
    pub stable: Option<String>,
    /// Fingerprint of a template that has failed.
    pub failed: Option<String>,
    /// Wanted number of brokers.
    pub replicas: i32,
    /// Number in the StatefulSet, if there is one.
    pub set_replicas: Option<i32>,
    /// The pods by ordinal.
    pub pods: BTreeMap<i32, Pod>,
    /// Time that a new broker has.
    pub ready_timeout: Duration,
}

/// What to do to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Let the broker give away what it has; it is asked until it is over.
    Drain(i32),
    /// Delete the pod; its successor is made of the right template.
    Delete(i32),
    /// Let the broker take work again.
    Undrain(i32),
}

/// How far the brokers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// All brokers are as they should be and serve.
    Done,
    /// A broker is emptied.
    Draining(i32),
    /// A broker that was replaced, or is new, does not serve yet.
    Starting(i32),
    /// Some serve and are of another template, but this one of the others does not serve.
    Waiting(i32),
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The template that is right is the last stable one, since this one has failed.
    pub failed: Option<String>,
    /// Number for the StatefulSet.
    pub set_replicas: i32,
    /// What to do.
    pub step: Step,
    /// How far it is.
    pub progress: Progress,
    /// All brokers serve with the wanted template: it becomes the stable one.
    pub stable: bool,
    /// A broker has not served for longer than it may, and there is nothing to go back to.
    pub stuck: Option<i32>,
}

/// Decides.
pub fn decide(situation: &Situation) -> Decision {
    let failed = failed(situation);
    let right = match (&failed, &situation.stable) {
        (Some(_), Some(stable)) => stable,
        _ => &situation.wanted,
    };
    let late = |pod: &Pod| is_late(pod, situation.ready_timeout);
    let stuck = situation.pods.iter().find(|(_, pod)| pod.hash == *right && late(pod)).map(|(ordinal, _)| *ordinal);
    let base = Decision {
        failed,
        set_replicas: situation.replicas,
        step: Step::Nothing,
        progress: Progress::Done,
        stable: false,
        stuck,
    };
    if let Some(decision) = scale_in(situation, &base) {
        return decision;
    }
    let pods = || situation.pods.iter().filter(|(ordinal, _)| **ordinal < situation.replicas);
    // Missing, going, or as it should be and not serving yet.
    let pending = (0..situation.replicas).find(|ordinal| match situation.pods.get(ordinal) {
        None => true,
        Some(pod) => pod.going || (pod.hash == *right && !pod.serves() && !is_emptied(pod)),
    });
    if let Some(ordinal) = pending {
        return Decision { progress: Progress::Starting(ordinal), ..base };
    }
    let outdated = || pods().filter(|(_, pod)| pod.hash != *right);
    if let Some((ordinal, _)) = outdated().rfind(|(_, pod)| !pod.serves() && pod.drain.is_none() && !is_emptied(pod)) {
        return Decision { step: Step::Delete(*ordinal), progress: Progress::Starting(*ordinal), ..base };
    }
    // One that was begun goes on; else the highest number.
    let begun = outdated().rfind(|(_, pod)| pod.drain.is_some() || is_emptied(pod));
    if let Some((ordinal, pod)) = begun.or_else(|| outdated().next_back()) {
        let behind = pods().find(|(other, pod)| *other != ordinal && !pod.serves());
        return match (behind, pod.drain) {
            (_, Some(Drain::Over)) => {
                Decision { step: Step::Delete(*ordinal), progress: Progress::Draining(*ordinal), ..base }
            }
            (Some((other, emptied)), _) if emptied.ours && is_emptied(emptied) => {
                Decision { step: Step::Undrain(*other), progress: Progress::Waiting(*other), ..base }
            }
            (Some((other, _)), None) => Decision { progress: Progress::Waiting(*other), ..base },
            (_, Some(Drain::Running)) => Decision { progress: Progress::Draining(*ordinal), ..base },
            (None, None) => Decision { step: Step::Drain(*ordinal), progress: Progress::Draining(*ordinal), ..base },
        };
    }
    if let Some((ordinal, _)) = pods().find(|(_, pod)| pod.ours && is_emptied(pod)) {
        return Decision { step: Step::Undrain(*ordinal), progress: Progress::Waiting(*ordinal), ..base };
    }
    let stable = base.failed.is_none() && situation.replicas > 0 && pods().all(|(_, pod)| pod.serves());
    Decision { stable, ..base }
}

fn is_late(pod: &Pod, timeout: Duration) -> bool {
    !pod.serves() && !pod.going && !is_emptied(pod) && pod.not_serving_for >= timeout
}

fn is_emptied(pod: &Pod) -> bool {
    !pod.going && matches!(pod.doing, Doing::Draining | Doing::Drained)
}

/// The wanted template has failed: it was said so before, or one of its brokers is too late now, and there is another one
/// to go back to.
fn failed(situation: &Situation) -> Option<String> {
    let wanted = &situation.wanted;
    let stable = situation.stable.as_ref().filter(|stable| *stable != wanted)?;
    if situation.failed.as_ref() == Some(wanted) {
        return Some(wanted.clone());
    }
    let late = |pod: &Pod| pod.hash == *wanted && is_late(pod, situation.ready_timeout);
    debug_assert_ne!(stable, wanted);
    situation.pods.values().any(late).then(|| wanted.clone())
}

/// The broker with the highest number goes, if there are too many.
fn scale_in(situation: &Situation, base: &Decision) -> Option<Decision> {
    let set = situation.set_replicas.filter(|set| *set > situation.replicas)?;
    let last = set - 1;
    let keep = |step, set_replicas| Decision { step, set_replicas, progress: Progress::Draining(last), ..base.clone() };
    Some(match situation.pods.get(&last) {
        // One that does not answer has nothing to give away that it could.
        None => keep(Step::Nothing, last),
        Some(pod) if pod.going || pod.drain == Some(Drain::Over) => keep(Step::Nothing, last),
        Some(pod) if pod.doing == Doing::Other => keep(Step::Nothing, last),
        Some(pod) if pod.drain == Some(Drain::Running) => keep(Step::Nothing, set),
        Some(_) => keep(Step::Drain(last), set),
    })
}
