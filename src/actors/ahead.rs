//! Reads what writers have that are about to give partitions away, while they still serve them: nobody does from the
//! release until the successor has claimed, and then there is little left to read.
//!
//! Nothing is decided here. Bytes under a key never change. A takeover reads ownership and head as if this did not exist,
//! computes the keys of the objects from them, and checks what is in those; it only need not wait for them.

use crate::actors::context::NodeContext;
use crate::actors::runtime::IoPool;
use crate::ids::{Seq, WriterId};
use crate::metadata::model::WriterValue;
use crate::storage::layout::Layout;
use crate::storage::segment::TAIL_READ_LEN;
use crate::storage::{ObjectKey, ObjectStore, StoreError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Slots after a checkpoint that are read ahead. Where there are more, a checkpoint comes before anything is given away.
const SLOTS_MAX: u64 = 64;
/// Pause between two looks at a writer whose head moves.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The same if nothing happens.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The end of an object and its length, once they are there.
type Reading = Shared<BoxFuture<'static, Result<(Bytes, u64), StoreError>>>;
type Readings = Arc<Mutex<HashMap<ObjectKey, Reading>>>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Ahead {
    givers: Mutex<BTreeMap<WriterId, Giver>>,
}

/// A writer that is being followed.
#[derive(Debug)]
struct Giver {
    readings: Readings,
    looking: AbortHandle,
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Ahead {
    /// Follows `givers` too.
    pub fn follow(&self, context: &Arc<NodeContext>, givers: &BTreeSet<WriterId>) {
        let mut followed = self.givers();
        for giver in givers {
            followed.entry(*giver).or_insert_with(|| {
                let readings = Readings::default();
                let looking = context.io.spawn(look(context.clone(), *giver, readings.clone())).abort_handle();
                Giver { readings, looking }
            });
        }
    }

    /// Forgets all but `givers`.
    pub fn retain(&self, givers: &BTreeSet<WriterId>) {
        self.givers().retain(|giver, _| givers.contains(giver));
    }

    /// What has been read, or is being read, of an object of `writer`. It is handed out once: who finds it damaged, or
    /// fails for another reason and tries again, reads the store.
    pub async fn take(&self, writer: WriterId, key: &ObjectKey) -> Option<(Bytes, u64)> {
        let reading = self.givers().get(&writer)?.readings.lock().expect("no panic under the lock").remove(key);
        reading?.await.ok()
    }

    fn givers(&self) -> MutexGuard<'_, BTreeMap<WriterId, Giver>> {
        self.givers.lock().expect("no panic under the lock")
    }
}

async fn look(context: Arc<NodeContext>, giver: WriterId, readings: Readings) {
    let (mut seen, mut pause) = (None, PAUSE_MIN);
    loop {
        let value = context.ownership.writer(giver).await.ok().flatten().map(|(value, _)| value);
        pause = (pause * 2).min(PAUSE_MAX);
        if value.is_some() && value != seen {
            let wanted = value.as_ref().map(|value| objects(&context.layout, giver, value)).unwrap_or_default();
            read(&context.io, &context.store, &readings, &wanted);
            (seen, pause) = (value, PAUSE_MIN);
        }
        tokio::time::sleep(pause).await;
    }
}

/// The objects that a successor would need now, with how much of their ends.
fn objects(layout: &Layout, writer: WriterId, value: &WriterValue) -> Vec<(ObjectKey, u64)> {
    let from = value.checkpoint.as_ref().map_or(0, |pointer| pointer.seq.0);
    if value.head.0.saturating_sub(from) > SLOTS_MAX {
        return Vec::new();
    }
    let checkpoint = value.checkpoint.iter().map(|pointer| (ObjectKey::new(&*pointer.key), u64::from(u32::MAX)));
    let slots = (from + 1..=value.head.0).map(|seq| (layout.wal(writer, value.nonce, Seq(seq)), TAIL_READ_LEN));
    checkpoint.chain(slots).collect()
}

/// Begins to read what is wanted and not there, and forgets the rest.
fn read(io: &IoPool, store: &Arc<dyn ObjectStore>, readings: &Readings, wanted: &[(ObjectKey, u64)]) {
    let mut readings = readings.lock().expect("no panic under the lock");
    let keys: BTreeSet<&ObjectKey> = wanted.iter().map(|(key, _)| key).collect();
    readings.retain(|key, _| keys.contains(key));
    for (key, len) in wanted.iter().filter(|(key, _)| !readings.contains_key(key)).cloned().collect::<Vec<_>>() {
        let (store, object) = (store.clone(), key.clone());
        let reading = async move { store.get_suffix(&object, len).await }.boxed().shared();
        drop(io.spawn(reading.clone().map(drop))); // whoever waits for it or not
        readings.insert(key, reading);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::ids::BrokerId;
    use crate::metadata::model::{CheckpointRef, FORMAT, WriterState};
    use crate::storage::Payload;
    use crate::storage::fault::{Fault, FaultStore, Op};
    use crate::storage::memory::MemoryStore;

    fn value(head: u64, checkpoint: Option<u64>) -> WriterValue {
        let checkpoint = checkpoint.map(|seq| CheckpointRef { seq: Seq(seq), key: format!("c{seq}") });
        let (node, state, head, nonce) = (BrokerId(1), WriterState::Active, Seq(head), 7);
        WriterValue { v: FORMAT, node, state, head, nonce, checkpoint }
    }

    #[test]
    fn what_a_successor_needs_is_the_checkpoint_and_the_slots_after_it() {
        let (layout, writer) = (Layout::new("t"), WriterId(3));
        let keys = |value: &WriterValue| -> Vec<ObjectKey> {
            objects(&layout, writer, value).into_iter().map(|(key, _)| key).collect()
        };
        let slot = |seq| layout.wal(writer, 7, Seq(seq));
        assert_eq!(keys(&value(0, None)), []);
        assert_eq!(keys(&value(2, None)), [slot(1), slot(2)]);
        assert_eq!(keys(&value(6, Some(5))), [ObjectKey::new("c5"), slot(6)]);
        assert_eq!(keys(&value(5 + SLOTS_MAX, Some(5))).len() as u64, 1 + SLOTS_MAX);
        assert_eq!(keys(&value(6 + SLOTS_MAX, Some(5))), [], "a checkpoint comes first");
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_handed_out_once_and_never_a_failure() {
        let store = Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(Clock::system()))));
        let (good, bad, dropped) = (ObjectKey::new("good"), ObjectKey::new("bad"), ObjectKey::new("dropped"));
        for key in [&good, &bad, &dropped] {
            store.create(key, &Payload::new(vec![Bytes::from_static(b"0123456789")], 1)).await.unwrap();
        }
        let (ahead, writer, readings) = (Ahead::default(), WriterId(3), Readings::default());
        let looking = IoPool::current().spawn(std::future::pending::<()>()).abort_handle();
        ahead.givers().insert(writer, Giver { readings: readings.clone(), looking });
        let shared: Arc<dyn ObjectStore> = store.clone();
        let begin = |keys: &[&ObjectKey]| {
            let wanted: Vec<_> = keys.iter().map(|key| ((*key).clone(), 4)).collect();
            read(&IoPool::current(), &shared, &readings, &wanted);
        };
        begin(&[&good, &dropped]);
        begin(&[&good]);
        assert_eq!(ahead.take(WriterId(4), &good).await, None);
        assert_eq!(ahead.take(writer, &good).await, Some((Bytes::from_static(b"6789"), 10)));
        assert_eq!(ahead.take(writer, &good).await, None, "whoever asks again reads the store");
        assert_eq!(ahead.take(writer, &dropped).await, None, "nobody wanted it any more");
        store.script(Op::GetSuffix, [Fault::FailBefore]);
        begin(&[&bad]);
        assert_eq!(ahead.take(writer, &bad).await, None);
        begin(&[&good]);
        ahead.retain(&BTreeSet::new());
        assert_eq!(ahead.take(writer, &good).await, None, "it is not followed any more");
    }
}
