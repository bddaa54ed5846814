//! Incremental fetch sessions (KIP-227).
//!
//! A session remembers which partitions a client fetches and what it was told about them last, so that requests and
//! responses carry only what changed. [`Sessions`] is the pure state machine; [`SessionCache`] shares one per process.
//!
//! Bounds: sessions and partitions over all sessions. When the sessions are used up, a new one takes the place of the
//! one that was unused longest, if that was long enough, or of a smaller one that had its turn; else the client gets
//! session id 0 and goes on without a session. A session that vanished is answered with FETCH_SESSION_ID_NOT_FOUND, and
//! the client starts a new one.

use crate::protocol::error_code::ErrorCode;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use uuid::Uuid;

/// Sessions of one process (Kafka's `max.incremental.fetch.session.cache.slots`).
pub const SESSIONS_MAX: usize = 1_000;
/// Partitions over all sessions of one process; one takes about 150 bytes.
pub const SESSION_PARTITIONS_MAX: usize = 500_000;
/// A session that was used, or is as old as this at most, keeps its place, ms (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
pub const EVICTION_MS_MIN: i64 = 120_000;

/// Epoch of a request that wants a new session.
const EPOCH_INITIAL: i32 = 0;
/// Epoch of a request that wants none.
const EPOCH_FINAL: i32 = -1;

/// A topic as a client names it: by id from Fetch version 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicKey {
    /// By name.
    Name(Arc<str>),
    /// By id.
    Id(Uuid),
}

/// A partition as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchKey {
    /// The topic.
    pub topic: TopicKey,
    /// The partition number.
    pub partition: i32,
}

/// What a client wants of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchParams {
    /// First offset it does not have.
    pub fetch_offset: i64,
    /// Leader epoch it believes in, -1 for none.
    pub current_leader_epoch: i32,
    /// Epoch of the last record it has, -1 for none.
    pub last_fetched_epoch: i32,
    /// Bytes it wants at most.
    pub bytes_max: i32,
}

/// One partition to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub key: FetchKey,
    /// What.
    pub params: FetchParams,
    /// Its place in the session's order; 0 outside sessions.
    pub place: u64,
}

/// What a response says about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// It has records.
    pub records: bool,
    /// It has an error, a diverging epoch, or another broker to read from.
    pub error: bool,
    /// High watermark.
    pub high_watermark: i64,
    /// Log start offset.
    pub log_start: i64,
}

/// The session part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// Session id, 0 for none.
    pub id: i32,
    /// Session epoch.
    pub epoch: i32,
    /// Topics are named by id.
    pub by_id: bool,
    /// Partitions to fetch, or to add or change.
    pub partitions: Vec<(FetchKey, FetchParams)>,
    /// Partitions to forget.
    pub forgotten: Vec<FetchKey>,
}

/// What kind of response a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All partitions, no session.
    Sessionless,
    /// All partitions; a session is made when the response is.
    New {
        /// Topics are named by id.
        by_id: bool,
    },
    /// What changed.
    Incremental {
        /// The session.
        id: i32,
    },
}

#[derive(Debug)]
struct Cached {
    key: FetchKey,
    params: FetchParams,
    /// `None` before the first response, and after an error, which is told again.
    told: Option<(i64, i64)>,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    /// Epoch of the next request.
    next_epoch: i32,
    created_ms: i64,
    used_ms: i64,
    /// In fetch order; a partition that returned records goes to the end.
    partitions: BTreeMap<u64, Cached>,
    places: HashMap<FetchKey, u64>,
    next_place: u64,
}

/// See the module's documentation. Time is any clock in ms.
#[derive(Debug)]
pub struct Sessions {
    sessions: HashMap<i32, Session>,
    by_use: BTreeSet<(i64, i32)>,
    partitions: usize,
    sessions_max: usize,
    partitions_max: usize,
}

impl Sessions {
    /// An empty cache with these bounds.
    pub fn new(sessions_max: usize, partitions_max: usize) -> Self {
        Self { sessions: HashMap::new(), by_use: BTreeSet::new(), partitions: 0, sessions_max, partitions_max }
    }

    /// Applies a request: which partitions to fetch, and what kind of response to send.
    pub fn begin(&mut self, now_ms: i64, request: SessionRequest) -> Result<(Mode, Vec<Target>), ErrorCode> {
        if request.epoch == EPOCH_FINAL || request.epoch == EPOCH_INITIAL {
            self.remove(request.id);
            let all = request.partitions.into_iter().map(|(key, params)| Target { key, params, place: 0 });
            let mode = match request.epoch {
                EPOCH_FINAL => Mode::Sessionless,
                _ => Mode::New { by_id: request.by_id },
            };
            return Ok((mode, all.collect()));
        }
        let partitions_max = self.partitions_max;
        let session = self.sessions.get_mut(&request.id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != request.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != request.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.partitions.len();
        request.forgotten.iter().for_each(|key| session.forget(key));
        request.partitions.into_iter().for_each(|(key, params)| session.set(key, params));
        session.next_epoch = next_epoch(session.next_epoch);
        self.by_use.remove(&(session.used_ms, request.id));
        session.used_ms = now_ms;
        self.by_use.insert((now_ms, request.id));
        self.partitions = self.partitions - before + session.partitions.len();
        if self.partitions > partitions_max || session.partitions.is_empty() {
            let targets = session.targets();
            self.remove(request.id);
            return Ok((Mode::Sessionless, targets));
        }
        Ok((Mode::Incremental { id: request.id }, session.targets()))
    }

    /// Makes the session that [`Mode::New`] asked for, if there is room; returns its id or 0. `new_id` is random.
    pub fn create(&mut self, now_ms: i64, by_id: bool, new_id: i32, told: Vec<(Target, Told)>) -> i32 {
        let size = told.len();
        if new_id <= 0 || self.sessions.contains_key(&new_id) || !self.make_room(now_ms, size) {
            return 0;
        }
        let mut session = Session {
            by_id,
            next_epoch: next_epoch(EPOCH_INITIAL),
            created_ms: now_ms,
            used_ms: now_ms,
            partitions: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 1,
        };
        for (target, told) in told {
            session.set(target.key.clone(), target.params);
            let place = session.places[&target.key];
            session.tell(place, &told);
        }
        self.partitions += session.partitions.len();
        self.sessions.insert(new_id, session);
        self.by_use.insert((now_ms, new_id));
        new_id
    }

    /// Records what an incremental response is about to say, and returns for each partition whether it must be in it.
    pub fn update(&mut self, id: i32, told: &[(u64, Told)]) -> Vec<bool> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return vec![true; told.len()];
        };
        told.iter().map(|(place, told)| session.tell(*place, told)).collect()
    }

    /// Number of sessions and of their partitions.
    pub fn len(&self) -> (usize, usize) {
        (self.sessions.len(), self.partitions)
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&(session.used_ms, id));
            self.partitions -= session.partitions.len();
        }
    }

    fn make_room(&mut self, now_ms: i64, size: usize) -> bool {
        if self.sessions.len() >= self.sessions_max {
            let Some((used_ms, oldest)) = self.by_use.first().copied() else {
                return false;
            };
            let idle = now_ms - used_ms > EVICTION_MS_MIN;
            let smaller = || {
                let had_its_turn = self.sessions.iter().filter(|(_, s)| now_ms - s.created_ms > EVICTION_MS_MIN);
                let smallest = had_its_turn.min_by_key(|(id, s)| (s.partitions.len(), **id))?;
                (smallest.1.partitions.len() < size).then_some(*smallest.0)
            };
            match if idle { Some(oldest) } else { smaller() } {
                Some(id) => self.remove(id),
                None => return false,
            }
        }
        self.partitions + size <= self.partitions_max
    }
}

impl Session {
    fn set(&mut self, key: FetchKey, params: FetchParams) {
        if let Some(cached) = self.places.get(&key).and_then(|place| self.partitions.get_mut(place)) {
            cached.params = params;
            return;
        }
        self.places.insert(key.clone(), self.next_place);
        self.partitions.insert(self.next_place, Cached { key, params, told: None });
        self.next_place += 1;
    }

    fn forget(&mut self, key: &FetchKey) {
        if let Some(place) = self.places.remove(key) {
            self.partitions.remove(&place);
        }
    }

    fn targets(&self) -> Vec<Target> {
        let target = |(place, c): (&u64, &Cached)| Target { key: c.key.clone(), params: c.params, place: *place };
        self.partitions.iter().map(target).collect()
    }

    /// True if `told` is news.
    fn tell(&mut self, place: u64, told: &Told) -> bool {
        let Some(cached) = self.partitions.get_mut(&place) else {
            return true;
        };
        let now = (told.high_watermark, told.log_start);
        let news = told.records || told.error || cached.told != Some(now);
        cached.told = (!told.error).then_some(now);
        if told.records {
            let cached = self.partitions.remove(&place).expect("found above");
            self.places.insert(cached.key.clone(), self.next_place);
            self.partitions.insert(self.next_place, cached);
            self.next_place += 1;
        }
        news
    }
}

/// After 2^31-1 comes 1; 0 and -1 have a meaning of their own.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// The fetch sessions of one process.
#[derive(Debug)]
pub struct SessionCache(Mutex<Sessions>);

impl Default for SessionCache {
    fn default() -> Self {
        Self(Mutex::new(Sessions::new(SESSIONS_MAX, SESSION_PARTITIONS_MAX)))
    }
}

impl SessionCache {
    /// The sessions; never held across an `await`.
    pub fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().expect("no panic under the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(partition: i32) -> FetchKey {
        FetchKey { topic: TopicKey::Name("t".into()), partition }
    }

    fn at(fetch_offset: i64) -> FetchParams {
        FetchParams { fetch_offset, current_leader_epoch: -1, last_fetched_epoch: -1, bytes_max: 1 << 20 }
    }

    fn request(id: i32, epoch: i32, partitions: &[(i32, i64)], forgotten: &[i32]) -> SessionRequest {
        SessionRequest {
            id,
            epoch,
            by_id: false,
            partitions: partitions.iter().map(|(p, o)| (key(*p), at(*o))).collect(),
            forgotten: forgotten.iter().map(|p| key(*p)).collect(),
        }
    }

    fn told(high_watermark: i64) -> Told {
        Told { records: false, error: false, high_watermark, log_start: 0 }
    }

    fn partitions(targets: &[Target]) -> Vec<i32> {
        targets.iter().map(|t| t.key.partition).collect()
    }

    /// A session over `0..count`, told high watermark 0.
    fn session(sessions: &mut Sessions, now_ms: i64, id: i32, count: i32) -> i32 {
        let wanted: Vec<_> = (0..count).map(|p| (p, 0)).collect();
        let (mode, targets) = sessions.begin(now_ms, request(0, 0, &wanted, &[])).unwrap();
        assert_eq!(mode, Mode::New { by_id: false });
        sessions.create(now_ms, false, id, targets.into_iter().map(|t| (t, told(0))).collect())
    }

    #[test]
    fn sessionless() {
        let mut sessions = Sessions::new(10, 10);
        let (mode, targets) = sessions.begin(0, request(0, -1, &[(0, 5), (1, 6)], &[])).unwrap();
        assert_eq!((mode, partitions(&targets)), (Mode::Sessionless, vec![0, 1]));
        assert_eq!(sessions.len(), (0, 0));
    }

    #[test]
    fn a_session_remembers_and_forgets() {
        let mut sessions = Sessions::new(10, 10);
        assert_eq!(session(&mut sessions, 0, 7, 2), 7);
        let (mode, targets) = sessions.begin(1, request(7, 1, &[(1, 50), (2, 9)], &[0])).unwrap();
        assert_eq!(mode, Mode::Incremental { id: 7 });
        let offsets: Vec<_> = targets.iter().map(|t| (t.key.partition, t.params.fetch_offset)).collect();
        assert_eq!(offsets, [(1, 50), (2, 9)]);
        assert_eq!(sessions.begin(2, request(7, 1, &[], &[])), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(sessions.begin(2, request(7, 3, &[], &[])), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert!(sessions.begin(2, request(7, 2, &[], &[])).is_ok(), "a wrong epoch does not use one up");
        assert_eq!(sessions.begin(3, request(8, 1, &[], &[])), Err(ErrorCode::FetchSessionIdNotFound));
        let by_id = SessionRequest { by_id: true, ..request(7, 3, &[], &[]) };
        assert_eq!(sessions.begin(3, by_id), Err(ErrorCode::FetchSessionTopicIdError));
        assert!(sessions.begin(4, request(7, -1, &[(0, 0)], &[])).is_ok());
        assert_eq!(sessions.begin(5, request(7, 3, &[], &[])), Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(sessions.len(), (0, 0));
    }

    #[test]
    fn forgetting_everything_ends_the_session() {
        let mut sessions = Sessions::new(10, 10);
        session(&mut sessions, 0, 7, 2);
        let (mode, targets) = sessions.begin(1, request(7, 1, &[], &[0, 1])).unwrap();
        assert_eq!((mode, targets.len()), (Mode::Sessionless, 0));
        assert_eq!(sessions.len(), (0, 0));
    }

    #[test]
    fn only_news_is_told() {
        let mut sessions = Sessions::new(10, 10);
        session(&mut sessions, 0, 7, 3);
        let mut epoch = 0;
        let mut round = |answers: [Told; 3]| {
            epoch += 1;
            let (_, targets) = sessions.begin(epoch.into(), request(7, epoch, &[], &[])).unwrap();
            let order = partitions(&targets);
            let by_place: Vec<_> = targets.iter().map(|t| (t.place, answers[t.key.partition as usize])).collect();
            let news = sessions.update(7, &by_place);
            let told: Vec<_> = order.iter().zip(news).filter(|(_, n)| *n).map(|(p, _)| *p).collect();
            (order, told)
        };
        let quiet = [told(0); 3];
        assert_eq!(round(quiet), (vec![0, 1, 2], vec![]));
        assert_eq!(round([told(0), told(4), told(0)]), (vec![0, 1, 2], vec![1]));
        assert_eq!(round([told(0), told(4), told(0)]).1, Vec::<i32>::new());
        let records = Told { records: true, ..told(4) };
        assert_eq!(round([records, told(4), told(0)]).1, [0]);
        assert_eq!(round([told(4), told(4), told(0)]), (vec![1, 2, 0], vec![]), "0 went to the end");
        let failed = Told { error: true, ..told(-1) };
        assert_eq!(round([told(4), failed, told(0)]).1, [1]);
        assert_eq!(round([told(4), failed, told(0)]).1, [1], "errors are told again");
        assert_eq!(round([told(4), told(4), told(0)]).1, [1], "and so is their end");
        let trimmed = Told { log_start: 2, ..told(4) };
        assert_eq!(round([told(4), trimmed, told(0)]).1, [1]);
    }

    #[test]
    fn epochs_wrap_to_one() {
        assert_eq!([0, 1, i32::MAX - 1, i32::MAX].map(next_epoch), [1, 2, i32::MAX, 1]);
    }

    #[test]
    fn eviction() {
        let mut sessions = Sessions::new(2, 100);
        assert_eq!(session(&mut sessions, 0, 1, 5), 1);
        assert_eq!(session(&mut sessions, 10, 2, 3), 2);
        assert_eq!(session(&mut sessions, 20, 3, 50), 0, "both are young");
        let late = EVICTION_MS_MIN + 5;
        sessions.begin(late, request(1, 1, &[], &[])).unwrap();
        sessions.begin(late, request(2, 1, &[], &[])).unwrap();
        assert_eq!(session(&mut sessions, late + 1, 3, 5), 0, "nobody is idle, nobody who had a turn is smaller");
        assert_eq!(session(&mut sessions, late + 1, 3, 6), 3, "session 1 had its turn and is smaller");
        assert_eq!(sessions.begin(late + 2, request(1, 2, &[], &[])), Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(session(&mut sessions, late + EVICTION_MS_MIN + 1, 4, 1), 4, "session 2 is idle");
        assert_eq!(sessions.begin(late, request(2, 2, &[], &[])), Err(ErrorCode::FetchSessionIdNotFound));
    }

    #[test]
    fn partitions_are_bounded() {
        let mut sessions = Sessions::new(10, 5);
        assert_eq!(session(&mut sessions, 0, 1, 4), 1);
        assert_eq!(session(&mut sessions, 0, 2, 2), 0);
        let (mode, targets) = sessions.begin(0, request(1, 1, &[(8, 0), (9, 0)], &[])).unwrap();
        assert_eq!((mode, targets.len()), (Mode::Sessionless, 6), "served, but the session is gone");
        assert_eq!(sessions.len(), (0, 0));
    }

    proptest! {
        /// Whatever clients do, the counters agree with what is stored, and the bounds hold.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0i32..6, -1i32..4, 0i32..6, 0i64..90_000), 1..80)) {
            let mut sessions = Sessions::new(3, 12);
            let mut now_ms = 0;
            for (id, epoch, partition, later_ms) in steps {
                now_ms += later_ms;
                let change = request(id, epoch, &[(partition, 0), (partition + 1, 0)], &[partition + 2]);
                if let Ok((mode, targets)) = sessions.begin(now_ms, change) {
                    match mode {
                        Mode::New { by_id } => {
                            let all = targets.into_iter().map(|t| (t, told(0))).collect();
                            sessions.create(now_ms, by_id, id, all);
                        }
                        Mode::Incremental { id } => {
                            let records = Told { records: partition % 2 == 0, ..told(now_ms) };
                            let all: Vec<_> = targets.iter().map(|t| (t.place, records)).collect();
                            prop_assert_eq!(sessions.update(id, &all).len(), all.len());
                        }
                        Mode::Sessionless => {}
                    }
                }
                let (count, partitions) = sessions.len();
                prop_assert!(count <= 3 && partitions <= 12);
                prop_assert_eq!(partitions, sessions.sessions.values().map(|s| s.partitions.len()).sum::<usize>());
                prop_assert_eq!(count, sessions.by_use.len());
                for session in sessions.sessions.values() {
                    prop_assert_eq!(session.places.len(), session.partitions.len());
                }
            }
        }
    }
}
