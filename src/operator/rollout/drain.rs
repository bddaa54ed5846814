//! Drains that this operator waits for. A drain belongs to who waits for it: when its task is dropped, since leadership is
//! lost or the process ends, the broker takes work again, and the next operator begins anew.

use super::state::Drain;
use crate::operator::control::{self, ControlError};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The drains of one cluster, by the uid of the pod.
#[derive(Debug, Default)]
pub struct Drains {
    tasks: BTreeMap<String, Task>,
}

#[derive(Debug)]
struct Task {
    handle: JoinHandle<()>,
    outcome: Rc<RefCell<Option<Result<(), ControlError>>>>,
    told: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Drains {
    /// Begins one; `done` is called when it is over.
    pub fn start(&mut self, uid: &str, address: String, within: Duration, done: impl FnOnce() + 'static) {
        let outcome: Rc<RefCell<Option<Result<(), ControlError>>>> = Rc::default();
        let result = Rc::clone(&outcome);
        let handle = actix_rt::spawn(async move {
            let ended = control::drain(&address, within).await;
            *result.borrow_mut() = Some(ended);
            done();
        });
        self.tasks.insert(uid.to_owned(), Task { handle, outcome, told: false });
    }

    /// How far the one of this pod is.
    pub fn state(&self, uid: &str) -> Option<Drain> {
        let task = self.tasks.get(uid)?;
        Some(if task.outcome.borrow().is_some() { Drain::Over } else { Drain::Running })
    }

    /// How it ended, once.
    pub fn outcome(&mut self, uid: &str) -> Option<Result<(), ControlError>> {
        let task = self.tasks.get_mut(uid).filter(|task| !task.told)?;
        let outcome = task.outcome.borrow().clone()?;
        task.told = true;
        Some(outcome)
    }

    /// Forgets those of pods that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.tasks.retain(|uid, _| is_there(uid));
    }

    /// Calls one off.
    pub fn forget(&mut self, uid: &str) {
        self.tasks.remove(uid);
    }
}
