//! A decorator that makes a store fail, for simulations and tests.
//!
//! Faults come from a script (the next call of an operation meets the next fault of its list), from an outage switch,
//! and from rates with a seed: the same seed and the same order of calls give the same faults. A read never returns
//! wrong bytes unless it was told to corrupt.

use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError};
use crate::actors::runtime::IoPool;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Operations of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `create`
    Create,
    /// `get_range`
    GetRange,
    /// `get_suffix`
    GetSuffix,
    /// `head`
    Head,
    /// `delete`
    Delete,
    /// `list`
    List,
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing; in a script it lets a call pass.
    Pass,
    /// The call fails as unavailable and has no effect.
    FailBefore,
    /// The call takes effect, and fails as unavailable all the same.
    FailAfter,
    /// The call fails as unavailable now and takes effect after this long.
    LateApply(Duration),
    /// The call never answers and has no effect.
    Hang,
    /// The call takes effect and answers after this long.
    Delay(Duration),
    /// The call takes effect now and answers after this long.
    LateAnswer(Duration),
    /// The call meets another one of the same key and has no effect (409; creates only).
    Conflict,
    /// The store asks to slow down; no effect.
    Throttle,
    /// The store refuses; no effect.
    Refuse,
    /// One bit of what is read is wrong.
    Corrupt,
    /// The last byte of what is read is missing.
    Truncate,
}

/// Probabilities of faults, each from 0 to 1; what is left is the probability of none.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultRates {
    /// [`Fault::FailBefore`]
    pub fail_before: f64,
    /// [`Fault::FailAfter`]
    pub fail_after: f64,
    /// [`Fault::LateApply`], after up to `delay_max`.
    pub late_apply: f64,
    /// [`Fault::Delay`] of up to `delay_max`.
    pub delay: f64,
    /// [`Fault::LateAnswer`], after up to `delay_max`.
    pub late_answer: f64,
    /// [`Fault::Conflict`]
    pub conflict: f64,
    /// [`Fault::Throttle`]
    pub throttle: f64,
    /// [`Fault::Corrupt`] (reads only)
    pub corrupt: f64,
    /// [`Fault::Truncate`] (reads only)
    pub truncate: f64,
    /// Greatest delay.
    pub delay_max: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    rates: FaultRates,
    random: u64,
    outage: Option<Fault>,
    scripts: HashMap<Op, VecDeque<Fault>>,
    calls: HashMap<Op, u64>,
    injected: BTreeMap<&'static str, u64>,
}

impl Fault {
    fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::FailBefore => "fail-before",
            Self::FailAfter => "fail-after",
            Self::LateApply(_) => "late-apply",
            Self::Hang => "hang",
            Self::Delay(_) => "delay",
            Self::LateAnswer(_) => "late-answer",
            Self::Conflict => "conflict",
            Self::Throttle => "throttle",
            Self::Refuse => "refuse",
            Self::Corrupt => "corrupt",
            Self::Truncate => "truncate",
        }
    }
}

impl Plan {
    /// The next pseudo-random number (SplitMix64, after Steele, Lea and Flood).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn next(&mut self, op: Op) -> Fault {
        *self.calls.entry(op).or_default() += 1;
        let fault = self.choose(op);
        if fault != Fault::Pass {
            *self.injected.entry(fault.name()).or_default() += 1;
        }
        fault
    }

    fn choose(&mut self, op: Op) -> Fault {
        if let Some(fault) = &self.outage {
            return fault.clone();
        }
        if let Some(fault) = self.scripts.get_mut(&op).and_then(VecDeque::pop_front) {
            return fault;
        }
        let mut left = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        let delay = self.rates.delay_max.mul_f64((self.random() >> 11) as f64 / (1u64 << 53) as f64);
        let read = matches!(op, Op::GetRange | Op::GetSuffix);
        let table = [
            (self.rates.fail_before, Fault::FailBefore),
            (self.rates.fail_after, Fault::FailAfter),
            (self.rates.late_apply, Fault::LateApply(delay)),
            (self.rates.delay, Fault::Delay(delay)),
            (self.rates.late_answer, Fault::LateAnswer(delay)),
            (if op == Op::Create { self.rates.conflict } else { 0.0 }, Fault::Conflict),
            (self.rates.throttle, Fault::Throttle),
            (if read { self.rates.corrupt } else { 0.0 }, Fault::Corrupt),
            (if read { self.rates.truncate } else { 0.0 }, Fault::Truncate),
        ];
        for (rate, fault) in table {
            left -= rate;
            if left < 0.0 {
                return fault;
            }
        }
        Fault::Pass
    }
}

impl FaultStore {
    /// Fails calls to `inner` at `rates`, decided by `seed`.
    pub fn seeded(inner: Arc<dyn ObjectStore>, seed: u64, rates: FaultRates) -> Self {
        let (scripts, calls, injected) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let plan = Plan { rates, random: seed, outage: None, scripts, calls, injected };
        Self { inner, plan: Mutex::new(plan) }
    }

    /// Fails calls to `inner` only as scripted.
    pub fn scripted(inner: Arc<dyn ObjectStore>) -> Self {
        Self::seeded(inner, 0, FaultRates::default())
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no panic under the lock")
    }

    /// Appends faults to the script of `op`.
    pub fn script(&self, op: Op, faults: impl IntoIterator<Item = Fault>) {
        self.plan().scripts.entry(op).or_default().extend(faults);
    }

    /// From now on every call meets `outage`, until `None` ends it.
    pub fn set_outage(&self, outage: Option<Fault>) {
        self.plan().outage = outage;
    }

    /// Changes the rates.
    pub fn set_rates(&self, rates: FaultRates) {
        self.plan().rates = rates;
    }

    /// Calls of `op` so far.
    pub fn calls(&self, op: Op) -> u64 {
        self.plan().calls.get(&op).copied().unwrap_or(0)
    }

    /// Faults that calls have met so far, by their names.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.plan().injected.clone()
    }

    /// Lets a call meet its fault. `Ok(true)`: apply it and say it failed. `effect` is what a late call does.
    async fn meet<F>(&self, op: Op, fault: &Fault, effect: impl FnOnce() -> F + Send) -> Result<bool, StoreError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let injected = |what: &str| StoreError::Unavailable { message: format!("injected: {op:?} {what}") };
        match fault {
            Fault::Pass | Fault::LateAnswer(_) | Fault::Corrupt | Fault::Truncate => Ok(false),
            Fault::FailBefore => Err(injected("failed before it took effect")),
            Fault::FailAfter => Ok(true),
            Fault::Conflict => Err(injected("met a conflict")),
            Fault::Hang => std::future::pending().await,
            Fault::Throttle => Err(StoreError::Throttled { message: format!("injected: {op:?} is too fast") }),
            Fault::Refuse => Err(StoreError::Refused { message: format!("injected: {op:?} is not allowed") }),
            Fault::Delay(delay) => {
                tokio::time::sleep(*delay).await;
                Ok(false)
            }
            Fault::LateApply(delay) => {
                let (delay, effect) = (*delay, effect());
                IoPool::current().spawn(async move {
                    tokio::time::sleep(delay).await;
                    effect.await;
                });
                Err(injected("failed and takes effect later"))
            }
        }
    }
}

async fn answer<T>(op: Op, fault: &Fault, lost: bool, result: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Fault::LateAnswer(delay) = fault {
        tokio::time::sleep(*delay).await;
    }
    if !lost {
        return result;
    }
    Err(StoreError::Unavailable { message: format!("injected: {op:?} took effect, its answer was lost") })
}

fn damage(bytes: Bytes, fault: &Fault) -> Bytes {
    match fault {
        Fault::Corrupt if !bytes.is_empty() => {
            let mut damaged = bytes.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0x10;
            damaged.into()
        }
        Fault::Truncate if !bytes.is_empty() => bytes.slice(..bytes.len() - 1),
        _ => bytes,
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let fault = self.plan().next(Op::Create);
        let late = || {
            let (inner, key, payload) = (self.inner.clone(), key.clone(), payload.clone());
            async move { drop(inner.create(&key, &payload).await) }
        };
        let lost = self.meet(Op::Create, &fault, late).await?;
        answer(Op::Create, &fault, lost, self.inner.create(key, payload).await).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fault = self.plan().next(Op::GetRange);
        let lost = self.meet(Op::GetRange, &fault, || async {}).await?;
        answer(Op::GetRange, &fault, lost, self.inner.get_range(key, range).await)
            .await
            .map(|bytes| damage(bytes, &fault))
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        let fault = self.plan().next(Op::GetSuffix);
        let lost = self.meet(Op::GetSuffix, &fault, || async {}).await?;
        let (bytes, object_len) = answer(Op::GetSuffix, &fault, lost, self.inner.get_suffix(key, len).await).await?;
        Ok((damage(bytes, &fault), object_len))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let fault = self.plan().next(Op::Head);
        let lost = self.meet(Op::Head, &fault, || async {}).await?;
        answer(Op::Head, &fault, lost, self.inner.head(key).await).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let fault = self.plan().next(Op::Delete);
        let late = || {
            let (inner, keys) = (self.inner.clone(), keys.to_vec());
            async move { drop(inner.delete(&keys).await) }
        };
        let lost = self.meet(Op::Delete, &fault, late).await?;
        answer(Op::Delete, &fault, lost, self.inner.delete(keys).await).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        let fault = self.plan().next(Op::List);
        let lost = self.meet(Op::List, &fault, || async {}).await?;
        answer(Op::List, &fault, lost, self.inner.list(prefix, start_after).await).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::storage::memory::MemoryStore;
    use crate::storage::testkit::key;

    fn store(seed: u64, rates: FaultRates) -> FaultStore {
        FaultStore::seeded(Arc::new(MemoryStore::new(Clock::system())), seed, rates)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_faults() {
        let rates = FaultRates { fail_before: 0.2, fail_after: 0.2, throttle: 0.2, ..FaultRates::default() };
        let mut runs = Vec::new();
        for seed in [1, 1, 2] {
            let store = store(seed, rates);
            let mut outcomes = Vec::new();
            for i in 0..100 {
                let result = store.create(&key(&i.to_string()), &Payload::new(vec![], 1)).await;
                outcomes.push(result.map_err(|e| e.to_string()));
            }
            runs.push(outcomes);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        assert!(runs[0].iter().any(Result::is_ok) && runs[0].iter().any(Result::is_err));
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_it_says() {
        let store = store(0, FaultRates::default());
        let body = Payload::new(vec![Bytes::from_static(b"body")], 1);
        let late = Duration::from_secs(3);
        store.script(Op::Create, [Fault::FailBefore, Fault::LateApply(late), Fault::FailAfter, Fault::Throttle]);
        store.create(&key("before"), &body).await.unwrap_err();
        store.create(&key("late"), &body).await.unwrap_err();
        store.create(&key("after"), &body).await.unwrap_err();
        assert!(matches!(store.create(&key("t"), &body).await, Err(StoreError::Throttled { .. })));
        assert_eq!(store.head(&key("before")).await.unwrap(), None);
        assert_eq!(store.head(&key("late")).await.unwrap(), None);
        assert!(store.head(&key("after")).await.unwrap().is_some());
        tokio::time::sleep(late * 2).await;
        assert!(store.head(&key("late")).await.unwrap().is_some());
        store.script(Op::GetRange, [Fault::Corrupt, Fault::Truncate]);
        assert_eq!(store.get_range(&key("after"), 0..4).await.unwrap(), &b"bo\x74y"[..]);
        assert_eq!(store.get_range(&key("after"), 0..4).await.unwrap(), &b"bod"[..]);
        assert_eq!(store.get_range(&key("after"), 0..4).await.unwrap(), &b"body"[..]);
        store.set_outage(Some(Fault::Refuse));
        assert!(matches!(store.head(&key("t")).await, Err(StoreError::Refused { .. })));
        assert_eq!(store.calls(Op::Create), 4);
        store.set_outage(None);
        store.script(Op::Create, [Fault::Conflict, Fault::LateAnswer(late)]);
        store.create(&key("conflict"), &body).await.unwrap_err();
        assert_eq!(store.head(&key("conflict")).await.unwrap(), None);
        let answer = tokio::time::timeout(late / 2, store.create(&key("late answer"), &body)).await;
        assert!(answer.is_err() && store.head(&key("late answer")).await.unwrap().is_some());
        assert_eq!(store.injected()["late-answer"], 1);
    }
}
