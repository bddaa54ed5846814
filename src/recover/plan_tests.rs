use super::*;
use crate::ids::PartitionIndex;
use proptest::prelude::*;

const CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAAAA";

fn key(partition: i32) -> PartitionKey {
    key_of(1, partition)
}

fn key_of(topic: u128, partition: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(uuid::Uuid::from_u128(topic)), partition: PartitionIndex(partition) }
}

fn record(name: &str, id: u128, partitions: i32) -> TopicRecord {
    let configs = [("retention.ms".to_owned(), id.to_string())].into();
    TopicRecord { name: name.into(), id: TopicId(uuid::Uuid::from_u128(id)), partitions, configs }
}

fn catalog(generation: u32, revision: Revision, topics: &[TopicRecord]) -> Catalog {
    Catalog { generation, revision, node: BrokerId(1), topics: topics.to_vec(), settings: BTreeMap::new() }
}

fn source(writer: u64, head: u64, catalog: Option<Catalog>) -> Source {
    let checkpoint = Some(CheckpointRef { seq: Seq(head.min(3)), key: format!("c{writer}") });
    let (writer, nonce) = (WriterId(writer), writer * 10);
    Source { writer, nonce, node: None, head: Seq(head), checkpoint, catalog, is_older: false }
}

/// Epochs with their first offsets.
fn candidate(source: usize, epochs: &[(i32, i64)], next: i64) -> Candidate {
    let epochs = epochs.iter().map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(*epoch), start: Offset(*start) });
    Candidate { source, epochs: epochs.collect(), log_start: Offset(0), next_offset: Offset(next), missing: 0 }
}

fn found(sources: Vec<Source>, partitions: Vec<(PartitionKey, Vec<Candidate>)>) -> Found {
    let writer_max = sources.iter().map(|s| s.writer.0).max().unwrap_or(0);
    let partitions = partitions.into_iter().collect();
    Found { cluster_id: CLUSTER.into(), sources, partitions, writer_max, producer_max: 7, ..Found::default() }
}

fn writer(id: u64, state: WriterState, head: u64) -> (WriterId, (WriterValue, Revision)) {
    let checkpoint = Some(CheckpointRef { seq: Seq(0), key: "old".into() });
    let value = WriterValue { v: 1, node: BrokerId(4), state, head: Seq(head), nonce: id * 10, checkpoint };
    (WriterId(id), (value, 50))
}

fn topic_value(record: &TopicRecord) -> TopicValue {
    restored_topic(record, &Store::default())
}

/// A store of `revision` with writers 1 to 3.
fn store(revision: Revision, topics: &[TopicRecord]) -> Store {
    Store {
        cluster: Some(ClusterValue { v: 1, cluster_id: CLUSTER.into(), generation: 0 }),
        revision,
        next_writer: 4,
        next_producer: 1_000,
        writers: [writer(2, WriterState::Active, 1), writer(3, WriterState::Active, 2)].into(),
        topics: topics.iter().map(|t| (t.name.clone(), topic_value(t))).collect(),
        ..Store::default()
    }
}

fn winner(plan: &Plan, key: PartitionKey) -> (usize, i32, i64) {
    let restored = &plan.partitions[&key];
    (restored.source, restored.value.epoch.0, restored.next_offset.0)
}

#[test]
fn the_highest_epoch_wins_and_what_it_leaves_out_is_said() {
    let topics = [record("t", 1, 4)];
    let sources = vec![source(2, 9, Some(catalog(0, 90, &topics))), source(3, 9, None)];
    let partitions = vec![
        // 3 went on from 100; 2 had written up to 120, which was not committed or was forgotten.
        (key(0), vec![candidate(0, &[(0, 0), (1, 50)], 120), candidate(1, &[(0, 0), (1, 50), (2, 100)], 110)]),
        // 2 gave it to 3, and then took it back.
        (key(1), vec![candidate(0, &[(0, 0), (2, 20)], 20), candidate(1, &[(0, 0), (1, 10)], 20)]),
        // 2's checkpoint was to claim it, but 3 was first.
        (key(2), vec![candidate(0, &[(0, 0), (1, 10)], 10), candidate(1, &[(0, 0), (1, 10)], 30)]),
    ];
    let plan = plan(&Store::default(), &found(sources, partitions), 7).unwrap();
    assert_eq!(winner(&plan, key(0)), (1, 2, 110));
    assert_eq!(winner(&plan, key(1)), (0, 2, 20));
    assert_eq!(winner(&plan, key(2)), (1, 1, 30));
    assert_eq!((&plan.decisions[..], plan.losses.len()), (&[plan.decisions[0].clone()][..], 0));
    assert!(plan.decisions[0].starts_with("t-0: offsets 100 to 120 of writer 2"), "{:?}", plan.decisions);
}

#[test]
fn everybody_is_fenced_and_ids_go_on_above_everything() {
    let sources = vec![source(2, 5, None), source(9, 4, None)];
    let partitions = vec![(key(0), vec![candidate(0, &[(0, 0)], 3)]), (key(1), vec![candidate(1, &[(0, 0)], 3)])];
    let topics = [record("t", 1, 3)];
    let mut store = store(60, &topics);
    store.partitions.insert(key(2), owned_by(3, 4));
    let plan = plan(&store, &found(sources, partitions), 7).unwrap();
    let heads: Vec<_> = plan.writers.iter().map(|(id, v)| (id.0, v.head.0, v.state, v.node.0)).collect();
    assert_eq!(heads, [(2, 5, WriterState::Closed, 4), (9, 4, WriterState::Closed, -1)]);
    // The store says that 3 has committed something, of which nothing is there.
    assert_eq!(plan.forgotten, [WriterId(3)]);
    assert_eq!(plan.losses.len(), 2, "the writer's log, and what it led: {:?}", plan.losses);
    let homes: Vec<_> = plan.homes.iter().map(|h| (h.source, h.writer.0, h.partitions.clone())).collect();
    assert_eq!(homes, [(0, 1_010, vec![key(0)]), (1, 1_011, vec![key(1)])]);
    assert_eq!(plan.partitions[&key(1)].value.history, [WriterId(1_011)]);
    assert_eq!((plan.next_writer, plan.next_producer), (1_012, 1_000_001_000));
    assert_eq!(plan.cluster.unwrap().generation, 1);
}

#[test]
fn what_only_an_older_checkpoint_has_counts_unless_it_was_given_away() {
    let topics = [record("t", 1, 2)];
    let older = Source { is_older: true, ..source(2, 5, None) };
    let sources = vec![source(2, 9, Some(catalog(0, 90, &topics))), source(3, 9, None), older];
    let partitions = vec![
        (key(0), vec![candidate(2, &[(0, 0), (3, 10)], 30)]),
        (key(1), vec![candidate(1, &[(0, 0), (4, 20)], 40), candidate(2, &[(0, 0), (3, 10)], 20)]),
    ];
    let plan = plan(&Store::default(), &found(sources, partitions), 7).unwrap();
    assert_eq!(winner(&plan, key(0)), (2, 3, 30));
    assert_eq!(winner(&plan, key(1)), (1, 4, 40));
    assert_eq!((plan.losses, plan.decisions), (Vec::new(), Vec::new()));
    assert_eq!(plan.writers[&WriterId(2)].head, Seq(9), "the newest log is the writer's");
}

fn broken(source: usize, epoch: i32, end: i64) -> Broken {
    let (epoch, end, error) = (LeaderEpoch(epoch), Offset(end), "gap".to_owned());
    Broken { source, key: key(0), epoch, end, error }
}

#[test]
fn what_is_left_of_a_log_is_a_loss_only_if_it_can_have_had_more_than_the_winner() {
    let topics = [record("t", 1, 1)];
    let other = || vec![source(2, 9, Some(catalog(0, 90, &topics))), source(3, 9, None)];
    let losses = |store: &Store, sources: Vec<Source>, broken: Broken| {
        let partitions = vec![(key(0), vec![candidate(0, &[(0, 0), (4, 20)], 30)])];
        let planned = plan(store, &Found { broken: vec![broken], ..found(sources, partitions) }, 7).unwrap();
        assert_eq!(winner(&planned, key(0)), (0, 4, 30));
        let is_said = planned.decisions.iter().any(|line| line.contains("is not used for 1 partition(s)"));
        assert_eq!(planned.losses.is_empty(), is_said, "one of them says it: {planned:?}");
        planned.losses.len()
    };
    let empty = Store::default();
    for (epoch, end, expected) in [(3, 20, 0), (3, 99, 0), (4, 20, 0), (4, 30, 0), (4, 31, 1), (5, 20, 1)] {
        assert_eq!(losses(&empty, other(), broken(1, epoch, end)), expected, "epoch {epoch}, end {end}");
    }
    // The store knows of a claim of which nothing is to be seen any more; somebody else's says nothing of this log.
    for (owner, epoch, expected) in [(3, 3, 0), (3, 4, 1), (2, 4, 0)] {
        let mut known = store(60, &topics);
        known.partitions.insert(key(0), owned_by(owner, epoch));
        assert_eq!(losses(&known, other(), broken(1, 3, 20)), expected, "writer {owner} had it at epoch {epoch}");
    }
    // The same log from an older checkpoint on is complete.
    let mut known = store(60, &topics);
    known.partitions.insert(key(0), owned_by(2, 4));
    let older = || Source { is_older: true, ..source(2, 9, None) };
    let same = || vec![older(), source(2, 9, Some(catalog(0, 90, &topics)))];
    assert_eq!(losses(&known, same(), broken(1, 4, 30)), 0);
    assert_eq!(losses(&known, same(), broken(1, 4, 31)), 1);
}

#[test]
fn what_an_incomplete_log_has_beyond_where_the_winner_went_on_is_said() {
    let topics = [record("t", 1, 1)];
    let sources = vec![source(2, 9, Some(catalog(0, 90, &topics))), source(3, 9, None)];
    let partitions = vec![(key(0), vec![candidate(0, &[(0, 0), (4, 20)], 30)])];
    let all = Found { broken: vec![broken(1, 3, 25)], ..found(sources, partitions) };
    let planned = plan(&Store::default(), &all, 7).unwrap();
    assert!(planned.decisions[0].starts_with("t-0: offsets 20 to 25 of writer 3"), "{:?}", planned.decisions);
}

fn owned_by(writer: u64, epoch: i32) -> (PartitionValue, Revision) {
    let (owner, epoch, history) = (Some(WriterId(writer)), LeaderEpoch(epoch), vec![WriterId(writer)]);
    (PartitionValue { v: 1, owner, epoch, history, log_start: Offset(0) }, 50)
}

#[test]
fn a_writer_that_was_forgotten_after_the_backup_is_no_loss() {
    let topics = [record("t", 1, 1)];
    let mut store = store(60, &topics);
    store.partitions.insert(key(0), owned_by(3, 4));
    let losses = |epoch| {
        let partitions = vec![(key(0), vec![candidate(0, &[(0, 0), (epoch, 5)], 9)])];
        plan(&store, &found(vec![source(2, 9, None)], partitions), 7).unwrap().losses
    };
    assert_eq!(losses(5), Vec::<String>::new());
    assert_eq!(losses(4).len(), 1, "nobody went on from where it was");
}

#[test]
fn a_writer_that_the_store_has_known_and_forgotten_does_not_count() {
    let sources = vec![source(1, 5, Some(catalog(0, 99, &[record("gone", 8, 1)]))), source(3, 5, None)];
    let partitions = vec![
        (key(0), vec![candidate(0, &[(5, 0)], 3), candidate(1, &[(1, 0)], 9)]),
        (key_of(8, 0), vec![candidate(0, &[(0, 0)], 3)]),
    ];
    let plan = plan(&store(60, &[record("t", 1, 1)]), &found(sources, partitions), 7).unwrap();
    assert_eq!(winner(&plan, key(0)), (1, 1, 9));
    assert_eq!(plan.partitions.len(), 1);
    assert!(plan.topics.is_empty() && !plan.writers.contains_key(&WriterId(1)), "{plan:?}");
}

#[test]
fn a_catalog_of_later_than_the_store_says_what_topics_there_are() {
    let (kept, created, gone) = (record("kept", 1, 2), record("created", 2, 3), record("gone", 3, 1));
    let changed = TopicRecord { partitions: 6, ..kept.clone() };
    let later = catalog(0, 90, &[changed.clone(), created.clone()]);
    let older = catalog(0, 80, &[record("deleted-since", 5, 1)]);
    let sources = vec![source(2, 5, Some(older)), source(3, 5, Some(later))];
    let data = |topic, partition| (key_of(topic, partition), vec![candidate(1, &[(0, 0)], 3)]);
    let partitions = vec![data(1, 0), data(2, 4), data(3, 0), data(5, 0), data(6, 1)];
    let plan = plan(&store(60, &[kept, gone]), &found(sources, partitions), 7).unwrap();
    let written: Vec<_> = plan.topics.iter().map(|(name, t)| (name.as_str(), t.partitions)).collect();
    let nameless = format!("recovered-{}", key_of(6, 0).topic);
    // As many partitions as the catalog says, or as have data.
    assert_eq!(written, [("created", 5), ("kept", 6), (nameless.as_str(), 2)]);
    assert_eq!(plan.topics["created"].configs, created.configs);
    assert_eq!(plan.deleted.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["gone"]);
    let restored: Vec<_> = plan.partitions.keys().map(|key| key.topic.0.as_u128()).collect();
    assert_eq!(restored, [1, 2, 6]);
    assert_eq!(plan.catalog.topics.len(), 3);
}

#[test]
fn a_store_of_later_than_all_catalogs_says_it_and_what_it_lacks_comes_back() {
    let topics = [record("t", 1, 2), record("created", 2, 3)];
    let sources = vec![source(3, 5, Some(catalog(0, 50, &topics)))];
    let data = |topic| (key_of(topic, 0), vec![candidate(0, &[(0, 0)], 3)]);
    let mut known = store(60, &[TopicRecord { partitions: 8, ..record("t", 1, 2) }]);
    let plan_now = |known: &Store| plan(known, &found(sources.clone(), vec![data(1), data(2)]), 7).unwrap();
    // Its revision was raised when it was restored.
    assert_eq!(plan_now(&known).topics.keys().collect::<Vec<_>>(), ["created"]);
    assert!(plan_now(&known).deleted.is_empty());
    known.deleted.insert(topics[1].id);
    assert!(plan_now(&known).topics.is_empty());
    assert_eq!(plan_now(&known).partitions.len(), 1);
    // A catalog of a later generation is newer, whatever the revisions say.
    let sources = vec![source(3, 5, Some(catalog(1, 5, &topics)))];
    let plan = plan(&store(60, &[]), &found(sources, vec![]), 7).unwrap();
    assert_eq!(plan.topics.len(), 2);
    assert_eq!(plan.cluster.unwrap().generation, 2);
}

#[test]
fn a_broker_s_own_settings_come_from_its_own_catalog() {
    let configs = |value: &str| -> Configs { [("x".to_owned(), value.to_owned())].into() };
    let with = |node, revision, settings: &[(&str, &str)]| Catalog {
        node: BrokerId(node),
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), configs(value))).collect(),
        ..catalog(0, revision, &[])
    };
    let sources = vec![
        source(2, 1, Some(with(1, 70, &[("1", "new"), ("default", "old")]))),
        source(3, 1, Some(with(2, 80, &[("2", "two"), ("default", "new"), ("group/g", "same")]))),
        source(4, 1, Some(with(1, 60, &[("1", "old")]))),
    ];
    let mut known = store(40, &[]);
    known.settings.insert("group/g".into(), configs("same"));
    let plan = plan(&known, &found(sources, vec![]), 7).unwrap();
    let expected = [("1", "new"), ("2", "two"), ("default", "new")];
    assert_eq!(plan.settings, expected.map(|(key, value)| (key.to_owned(), configs(value))).into());
    assert_eq!(plan.catalog.settings.len(), 4);
}

#[test]
fn what_the_bucket_has_lost_is_a_loss() {
    let value = |epoch, log_start| {
        let (owner, history) = (Some(WriterId(3)), vec![WriterId(3)]);
        (PartitionValue { v: 1, owner, epoch: LeaderEpoch(epoch), history, log_start: Offset(log_start) }, 40)
    };
    let mut known = store(60, &[record("t", 1, 5)]);
    known.writers = [writer(3, WriterState::Active, 6)].into();
    known.partitions = [
        (key(0), value(1, 2)),
        (key(1), value(2, 0)),
        (key(2), value(1, 9)),
        (key(3), value(1, 0)),
        (key(4), value(0, 0)),
    ]
    .into();
    let data = |partition| (key(partition), vec![candidate(0, &[(1, 0)], 5)]);
    let mut all = found(vec![source(3, 5, None)], vec![data(0), data(1), data(2)]);
    let losses = |all: &Found| plan(&known, all, 7).unwrap().losses.len();
    // The writer's last slot; an epoch; what is below a log start; a partition. One that was never written to is none.
    assert_eq!(losses(&all), 4);
    all.partitions.get_mut(&key(0)).unwrap()[0].missing = 1;
    all.broken.push(broken(0, 2, 5));
    all.damaged.push("object".into());
    assert_eq!(losses(&all), 7);
    let planned = plan(&known, &all, 7).unwrap();
    assert_eq!(planned.partitions[&key(0)].value.log_start, Offset(2), "it never goes back");
    assert_eq!(planned.unclaimed, [key(3), key(4)]);
}

#[test]
fn another_cluster_is_refused() {
    let other = Found { cluster_id: "B".into(), ..Found::default() };
    assert!(plan(&store(60, &[]), &other, 7).unwrap_err().contains("KAFSCALE_ETCD_ENDPOINTS"));
}

/// One thing that happens to a partition: a broker claims it, or its owner writes, with or without being acked.
#[derive(Debug, Clone, Copy)]
enum Step {
    Claim(usize),
    Write { records: i64, committed: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0usize..4).prop_map(Step::Claim),
        (1i64..20, any::<bool>()).prop_map(|(records, committed)| Step::Write { records, committed }),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    /// Against a model: writers that claim one after the other, from what was committed, and leave uncommitted objects
    /// behind. Whatever the store remembers, everything that was committed is restored, at its offsets.
    #[test]
    fn what_was_acked_is_restored(steps in steps(), remembered in any::<bool>(), claiming in prop::option::of(0usize..4)) {
        let mut logs: Vec<Option<Candidate>> = vec![None; 4];
        // Who wrote each committed record: the writer, by offset. A writer's uncommitted records end its life.
        let (mut committed, mut owner): (Vec<usize>, Option<usize>) = (Vec::new(), None);
        let mut epochs: Vec<(i32, i64)> = Vec::new();
        for step in steps {
            match step {
                // A writer is one incarnation: it does not come back after it left something uncommitted.
                Step::Claim(writer) => {
                    let end = committed.len() as i64;
                    if logs[writer].as_ref().is_some_and(|log| log.next_offset.0 > end) {
                        continue;
                    }
                    epochs.push((epochs.len() as i32, end));
                    logs[writer] = Some(candidate(writer, &epochs, end));
                    owner = Some(writer);
                }
                Step::Write { records, committed: acked } => {
                    let Some(writer) = owner else { continue };
                    let log = logs[writer].as_mut().expect("it has claimed");
                    if acked && log.next_offset.0 == committed.len() as i64 {
                        committed.extend(std::iter::repeat_n(writer, records as usize));
                    }
                    log.next_offset = log.next_offset.plus(records);
                }
            }
        }
        // A checkpoint for a claim that never came.
        if let Some(writer) = claiming.filter(|writer| logs[*writer].is_none()) {
            let end = committed.len() as i64;
            let mut epochs = epochs.clone();
            epochs.push((epochs.len() as i32, end));
            logs[writer] = Some(candidate(writer, &epochs, end));
        }
        let candidates: Vec<Candidate> = logs.iter().flatten().cloned().collect();
        let sources = (0..4).map(|index| source(index as u64 + 2, 9, None)).collect();
        let known = if remembered { store(60, &[record("t", 1, 1)]) } else { Store::default() };
        let planned = plan(&known, &found(sources, vec![(key(0), candidates.clone())]), 7).unwrap();
        prop_assert!(planned.losses.is_empty(), "{:?}", planned.losses);
        let Some(restored) = planned.partitions.get(&key(0)) else {
            prop_assert!(candidates.is_empty());
            return Ok(());
        };
        let best = candidates.iter().find(|c| c.source == restored.source).expect("a candidate");
        prop_assert!(restored.next_offset.0 >= committed.len() as i64);
        prop_assert!(best.epochs.len() >= epochs.len(), "an epoch was claimed later");
        prop_assert!(restored.value.epoch == best.last_epoch());
        // Fenced, and every new id above.
        prop_assert!(planned.writers.values().all(|w| w.state == WriterState::Closed));
        prop_assert!(planned.homes.iter().all(|h| h.writer.0 > 5 && h.writer.0 < planned.next_writer));
    }
}
