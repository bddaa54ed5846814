use super::*;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionIndex, TopicId};
use crate::metadata::model::{CheckpointRef, FORMAT};
use crate::storage::layout::Layout;
use proptest::prelude::*;
use ulid::Ulid;

const ME: WriterId = WriterId(5);
const NONCE: u64 = 0x5;
const OLD_MS: i64 = 1_000;

fn partition(n: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(n) }
}

fn writer(state: WriterState, checkpoint: Option<ObjectKey>) -> WriterValue {
    let checkpoint = checkpoint.map(|key| CheckpointRef { seq: Seq(9), key: key.as_str().to_owned() });
    WriterValue { v: FORMAT, node: BrokerId(1), state, head: Seq(9), nonce: NONCE, checkpoint }
}

fn owned(owner: Option<u64>, history: &[u64]) -> PartitionValue {
    PartitionValue {
        v: FORMAT,
        owner: owner.map(WriterId),
        epoch: LeaderEpoch(0),
        history: history.iter().copied().map(WriterId).collect(),
        log_start: Offset(0),
    }
}

fn ulid() -> Ulid {
    Ulid::from(7)
}

fn wal(writer: u64, seq: u64) -> ParsedKey {
    ParsedKey::Wal { writer: WriterId(writer), nonce: NONCE, seq: Seq(seq) }
}

fn merged(writer: u64) -> ParsedKey {
    ParsedKey::Merged { writer: WriterId(writer), from: Seq(0), to: Seq(3), ulid: ulid() }
}

fn checkpoint(writer: u64, nonce: u64) -> ParsedKey {
    ParsedKey::Checkpoint { writer: WriterId(writer), nonce, seq: Seq(3), ulid: ulid() }
}

fn segment(n: i32) -> ParsedKey {
    ParsedKey::Segment { key: partition(n), base: Offset(0), next: Offset(3), ulid: ulid() }
}

fn key(kind: &ParsedKey) -> ObjectKey {
    let layout = Layout::new("ns");
    match kind {
        ParsedKey::Cluster => layout.cluster(),
        ParsedKey::Wal { writer, nonce, seq } => layout.wal(*writer, *nonce, *seq),
        ParsedKey::Merged { writer, from, to, ulid } => layout.merged(*writer, *from, *to, *ulid),
        ParsedKey::Segment { key, base, next, ulid } => layout.segment(key, *base, *next, *ulid),
        ParsedKey::Checkpoint { writer, nonce, seq, ulid } => layout.checkpoint(*writer, *nonce, *seq, *ulid),
        ParsedKey::Registered(writer) => layout.registered(*writer),
        ParsedKey::Probe(ulid) => layout.probe(*ulid),
    }
}

fn judge_at(facts: &Facts, kind: &ParsedKey, last_modified_ms: i64) -> Result<(), Reason> {
    let object = Listed { key: key(kind), len: 1, last_modified_ms };
    facts.judge(&object, Some(kind), &HashSet::new(), &HashSet::new(), OLD_MS)
}

fn judge(facts: &Facts, kind: &ParsedKey) -> Result<(), Reason> {
    judge_at(facts, kind, OLD_MS)
}

/// This writer alone with a sealed predecessor 4, which partition 1 still names, and an older one that is forgotten.
fn alone() -> Facts {
    let writers = BTreeMap::from([
        (ME, writer(WriterState::Active, None)),
        (WriterId(4), writer(WriterState::Fenced, Some(key(&checkpoint(4, NONCE))))),
        (WriterId(3), writer(WriterState::Fenced, Some(key(&checkpoint(3, NONCE))))),
    ]);
    let partitions = BTreeMap::from([(partition(0), owned(Some(5), &[5])), (partition(1), owned(Some(5), &[4, 5]))]);
    Facts::new(ME, NONCE, writers, &partitions)
}

#[test]
fn who_may_need_what() {
    let facts = alone();
    let needed = Err(Reason::Needed);
    let cases = [
        (ParsedKey::Cluster, needed),
        (ParsedKey::Probe(ulid()), Ok(())),
        // Ours: the WAL is accounted for slot by slot; the rest nobody else can know.
        (wal(5, 1), needed),
        (merged(5), Ok(())),
        (checkpoint(5, NONCE), Ok(())),
        (checkpoint(5, 99), needed),
        (segment(0), Ok(())),
        // A partition that is not ours, or not known.
        (segment(2), needed),
        // A history names the writer: whatever its head is.
        (wal(4, 1), needed),
        (wal(4, 99), needed),
        (merged(4), needed),
        (checkpoint(4, 99), needed),
        // Sealed and not named; forgotten; never heard of.
        (wal(3, 1), Ok(())),
        (merged(3), Ok(())),
        (checkpoint(3, 99), Ok(())),
        (checkpoint(3, NONCE), Err(Reason::Referenced)),
        (wal(1, 1), Ok(())),
        (checkpoint(1, NONCE), Ok(())),
        // Registrations of writers of the past; ours says that ids up to it were given away.
        (ParsedKey::Registered(WriterId(3)), Ok(())),
        (ParsedKey::Registered(WriterId(1)), Ok(())),
        (ParsedKey::Registered(WriterId(4)), needed),
        (ParsedKey::Registered(ME), needed),
        (ParsedKey::Registered(WriterId(6)), needed),
        // Newer than we are: it registered after we looked.
        (wal(6, 1), needed),
        (merged(6), needed),
        (checkpoint(6, NONCE), needed),
    ];
    for (kind, expected) in cases {
        assert_eq!(judge(&facts, &kind), expected, "{kind:?}");
    }
}

#[test]
fn beside_another_writer_only_what_is_our_own_is_judged() {
    let mine = owned(Some(5), &[5]);
    let other_active = BTreeMap::from([(WriterId(2), writer(WriterState::Active, None))]);
    let other_owner = owned(Some(4), &[4]);
    for (writers, other) in
        [(other_active, mine.clone()), (BTreeMap::new(), other_owner), (BTreeMap::new(), owned(None, &[]))]
    {
        let partitions = BTreeMap::from([(partition(0), mine.clone()), (partition(1), other)]);
        let facts = Facts::new(ME, NONCE, writers, &partitions);
        for kind in [checkpoint(5, NONCE), segment(0)] {
            assert_eq!(judge(&facts, &kind), Ok(()), "{kind:?}");
        }
        for kind in [wal(1, 1), merged(1), merged(5), checkpoint(1, NONCE), wal(2, 1), merged(2)] {
            assert_eq!(judge(&facts, &kind), Err(Reason::Needed), "{kind:?}");
        }
    }
}

#[test]
fn what_is_young_foreign_referenced_or_garbage_is_kept() {
    let facts = alone();
    for (last_modified_ms, expected) in [(OLD_MS, Ok(())), (OLD_MS + 1, Err(Reason::Young)), (0, Err(Reason::Young))] {
        assert_eq!(judge_at(&facts, &merged(5), last_modified_ms), expected);
    }
    let object = Listed { key: key(&merged(5)), len: 1, last_modified_ms: 1 };
    let (these, none) = (HashSet::from([object.key.clone()]), HashSet::new());
    let kind = Some(&merged(5));
    assert_eq!(facts.judge(&object, None, &none, &none, OLD_MS), Err(Reason::Foreign));
    assert_eq!(facts.judge(&object, kind, &these, &none, OLD_MS), Err(Reason::Referenced));
    assert_eq!(facts.judge(&object, kind, &none, &these, OLD_MS), Err(Reason::Garbage));
}

#[test]
fn an_object_must_say_what_its_key_says() {
    let facts = alone();
    let origin = |writer: u64, nonce, seq| Origin {
        cluster_id: "c".into(),
        writer: WriterId(writer),
        nonce,
        seq: Seq(seq),
        revision_seen: 10,
    };
    let cases = [
        (wal(3, 1), origin(3, NONCE, 1), true),
        (wal(3, 1), origin(3, NONCE, 2), false),
        (wal(3, 1), origin(3, 99, 1), false),
        (checkpoint(3, 99), origin(3, 99, 3), true),
        (merged(3), origin(3, 99, 3), true),
        (merged(3), origin(2, 99, 3), false),
        (merged(5), origin(5, NONCE, 3), true),
        (merged(5), origin(5, 99, 3), false),
        (segment(0), origin(5, NONCE, 0), true),
        (segment(0), origin(4, 99, 0), true),
        (segment(0), origin(6, 99, 0), false),
        (ParsedKey::Registered(WriterId(3)), origin(3, 99, 0), true),
        (ParsedKey::Registered(WriterId(3)), origin(2, 99, 0), false),
        (ParsedKey::Cluster, origin(5, NONCE, 0), false),
    ];
    for (kind, origin, expected) in cases {
        assert_eq!(facts.confirms(&kind, &origin, "c", 10), expected, "{kind:?} {origin:?}");
        assert!(!facts.confirms(&kind, &origin, "another", 10));
        assert!(!facts.confirms(&kind, &origin, "c", 9), "from a future that the metadata store forgot");
    }
}

/// Whether writer `reader`, or whoever recovers from its log, may look for the object; naively, from who reads what.
fn may_refer(
    reader: WriterId,
    kind: &ParsedKey,
    writers: &BTreeMap<WriterId, WriterValue>,
    partitions: &BTreeMap<PartitionKey, PartitionValue>,
) -> bool {
    // A log is read for a partition by its owner; a partition that has another owner than the reader and this writer
    // will be recovered from all logs that it names. What is ours is in our own checkpoint.
    let is_read = |p: &PartitionValue| p.owner == Some(reader) || (p.owner != Some(ME) && p.history.contains(&reader));
    let active = writers.get(&reader).is_some_and(|w| w.state == WriterState::Active);
    let read = partitions.values().any(is_read);
    match kind {
        ParsedKey::Wal { writer, .. } | ParsedKey::Checkpoint { writer, .. } => *writer == reader && (active || read),
        // It may have taken over partitions from the merged object's writer at any time before.
        ParsedKey::Merged { writer, .. } => *writer <= reader && (active || read),
        ParsedKey::Segment { key, .. } => partitions.get(key).is_some_and(is_read),
        ParsedKey::Cluster => true,
        // Nobody reads it; the newest has to stay.
        ParsedKey::Registered(writer) => *writer >= ME,
        ParsedKey::Probe(_) => false,
    }
}

fn kinds() -> impl Strategy<Value = ParsedKey> {
    let id = || 1u64..8;
    prop_oneof![
        Just(ParsedKey::Cluster),
        Just(ParsedKey::Probe(ulid())),
        (id(), 1u64..20).prop_map(|(w, seq)| wal(w, seq)),
        id().prop_map(merged),
        id().prop_map(|w| ParsedKey::Registered(WriterId(w))),
        (id(), prop_oneof![Just(NONCE), Just(99)]).prop_map(|(w, nonce)| checkpoint(w, nonce)),
        (0i32..4).prop_map(segment),
    ]
}

proptest! {
    /// Against a naive model: nothing that is referenced here, or that another writer or a successor may look for.
    #[test]
    fn an_object_that_anybody_may_look_for_is_never_an_orphan(
        states in prop::collection::btree_map(1u64..8, any::<bool>(), 0..6),
        values in prop::collection::btree_map(0i32..4, (prop::option::of(1u64..8), prop::collection::vec(1u64..8, 0..3)), 0..4),
        mine in any::<bool>(),
        objects in prop::collection::vec((kinds(), any::<bool>(), any::<bool>()), 1..20),
    ) {
        let state = |active| if active { WriterState::Active } else { WriterState::Fenced };
        let mut writers: BTreeMap<_, _> =
            states.into_iter().map(|(id, active)| (WriterId(id), writer(state(active), None))).collect();
        writers.insert(ME, writer(WriterState::Active, None));
        let partitions: BTreeMap<_, _> = values
            .into_iter()
            .map(|(n, (owner, history))| (partition(n), owned(if mine { Some(ME.0) } else { owner }, &history)))
            .collect();
        let facts = Facts::new(ME, NONCE, writers.clone(), &partitions);
        let referenced: HashSet<_> = objects.iter().filter(|o| o.1).map(|(kind, ..)| key(kind)).collect();
        let garbage: HashSet<_> = objects.iter().filter(|o| o.2).map(|(kind, ..)| key(kind)).collect();
        for (kind, ..) in &objects {
            let object = Listed { key: key(kind), len: 1, last_modified_ms: OLD_MS };
            if facts.judge(&object, Some(kind), &referenced, &garbage, OLD_MS).is_err() {
                continue;
            }
            prop_assert!(!referenced.contains(&object.key) && !garbage.contains(&object.key));
            for reader in (1..8).map(WriterId).filter(|w| *w != ME) {
                prop_assert!(!may_refer(reader, kind, &writers, &partitions), "{:?} for {:?}", kind, reader);
            }
        }
    }
}
