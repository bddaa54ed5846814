//! Every decision about managed etcd, as a table of situations.

use super::state::{
    DEFRAGMENT_EVERY_MS, Listed, Memory, SILENT_MS_MIN, SPACE_RETRY_MS, Seen, Serving, Situation, Step, next,
};
use crate::operator::etcd::record::{Phase, Record};

const QUOTA: u64 = 1 << 30;
const NOW: i64 = 1_000_000_000_000;

fn serving(n: u32) -> Serving {
    let (db_bytes, used_bytes) = (10 << 20, 10 << 20);
    Serving { id: u64::from(n) + 100, leads: n == 0, follows: true, db_bytes, used_bytes, revision: 50 }
}

/// Three members that serve on volumes v0, v1, v2.
fn healthy() -> Seen {
    let listed = (0..3).map(|n| Listed { id: u64::from(n) + 100, ordinal: Some(n), started: true }).collect();
    Seen {
        serving: (0..3).map(|n| (n, serving(n))).collect(),
        listed: Some(listed),
        volumes: (0..3).map(|n| (n, format!("v{n}"))).collect(),
        ..Seen::default()
    }
}

fn formed() -> Record {
    Record {
        phase: Phase::Formed,
        volumes: (0..3).map(|n| (n, format!("v{n}"))).collect(),
        defragmented_ms: (0..3).map(|n| (n, NOW)).collect(),
    }
}

fn at<'a>(record: &'a Record, seen: &'a Seen, now_ms: i64) -> Situation<'a> {
    Situation { record, seen, size: 3, quota_bytes: QUOTA, now_ms }
}

/// Member 1 is silent, on a new volume.
fn lost() -> Seen {
    let mut seen = healthy();
    seen.serving.remove(&1);
    seen.volumes.insert(1, "new".to_owned());
    seen
}

#[test]
fn nothing_is_done_to_what_is_well() {
    assert_eq!(next(&at(&formed(), &healthy(), NOW), &mut Memory::default()), None);
}

#[test]
fn the_door_is_shut_when_the_first_quorum_is_seen_and_not_before() {
    let record = Record::new(Phase::Forming);
    let mut seen = healthy();
    seen.serving.remove(&1);
    let Some(Step::Save(saved)) = next(&at(&record, &seen, NOW), &mut Memory::default()) else { panic!("not saved") };
    assert_eq!((saved.phase, saved.volumes.len()), (Phase::Formed, 3));
    seen.serving.remove(&2);
    assert_eq!(next(&at(&record, &seen, NOW), &mut Memory::default()), None, "one of three is no quorum");
    let leaderless = Seen { listed: None, ..healthy() };
    assert_eq!(next(&at(&record, &leaderless, NOW), &mut Memory::default()), None, "nobody can list the members");
}

#[test]
fn a_member_that_lost_its_volume_is_replaced_step_by_step() {
    let mut memory = Memory::default();
    let mut seen = lost();
    let record = formed();
    assert_eq!(next(&at(&record, &seen, NOW), &mut memory), None, "it may only be slow");
    assert_eq!(next(&at(&record, &seen, NOW + SILENT_MS_MIN - 1), &mut memory), None);
    let late = NOW + SILENT_MS_MIN;
    assert_eq!(next(&at(&record, &seen, late), &mut memory), Some(Step::Remove { id: 101, ordinal: 1 }));
    // It is out: a new one is added.
    seen.listed.as_mut().unwrap().retain(|member| member.ordinal != Some(1));
    assert_eq!(next(&at(&record, &seen, late), &mut memory), Some(Step::Add { ordinal: 1 }));
    // It is in and has not started: its door is opened, and nobody else's.
    seen.listed.as_mut().unwrap().push(Listed { id: 200, ordinal: Some(1), started: false });
    let Some(Step::Save(joining)) = next(&at(&record, &seen, late), &mut memory) else { panic!("not saved") };
    assert_eq!((joining.phase, joining.volumes[&1].as_str()), (Phase::Joining(1), "new"));
    assert_eq!(next(&at(&joining, &seen, late), &mut memory), None, "waits for it");
    // It serves: the door is shut.
    seen.serving.insert(1, Serving { id: 200, ..serving(1) });
    let Some(Step::Save(done)) = next(&at(&joining, &seen, late), &mut memory) else { panic!("not saved") };
    assert_eq!(done.phase, Phase::Formed);
    assert_eq!(next(&at(&done, &seen, late), &mut memory), None);
}

#[test]
fn a_volume_that_is_lost_again_while_its_member_joins_is_a_loss_like_any_other() {
    let mut memory = Memory::default();
    let mut seen = lost();
    seen.volumes.insert(1, "newer".to_owned());
    seen.listed.as_mut().unwrap()[1].id = 200;
    let mut record = formed();
    (record.phase, _) = (Phase::Joining(1), record.volumes.insert(1, "new".to_owned()));
    assert_eq!(next(&at(&record, &seen, NOW), &mut memory), None);
    let step = next(&at(&record, &seen, NOW + SILENT_MS_MIN), &mut memory);
    assert_eq!(step, Some(Step::Remove { id: 200, ordinal: 1 }), "it had started, so it may have promised something");
}

#[test]
fn nothing_is_added_to_members_that_are_as_many_as_there_shall_be() {
    let mut seen = healthy();
    seen.serving.remove(&1);
    seen.listed.as_mut().unwrap()[1].ordinal = None;
    assert_eq!(next(&at(&formed(), &seen, NOW), &mut Memory::default()), None);
}

#[test]
fn members_are_not_replaced_because_they_are_away() {
    let mut seen = healthy();
    seen.serving.remove(&1);
    let mut memory = Memory::default();
    for hours in 0..48 {
        let now_ms = NOW + hours * 3_600_000;
        assert_eq!(next(&at(&formed(), &seen, now_ms), &mut memory), None, "its volume is the one it had");
    }
    seen.volumes.remove(&1);
    assert_eq!(next(&at(&formed(), &seen, NOW), &mut memory), None, "a claim that is not there yet");
}

#[test]
fn nothing_is_done_without_a_quorum() {
    let mut memory = Memory::default();
    let mut seen = lost();
    seen.serving.remove(&2);
    seen.no_space.insert(100);
    for minutes in 0..10 {
        assert_eq!(next(&at(&formed(), &seen, NOW + minutes * 60_000), &mut memory), None);
    }
}

#[test]
fn a_member_that_was_restored_on_a_new_volume_only_changes_the_record() {
    let mut memory = Memory::default();
    let mut seen = lost();
    assert_eq!(next(&at(&formed(), &seen, NOW), &mut memory), None);
    seen.serving.insert(1, serving(1));
    let Some(Step::Save(record)) = next(&at(&formed(), &seen, NOW + SILENT_MS_MIN), &mut memory) else {
        panic!("not saved")
    };
    assert_eq!((record.phase, record.volumes[&1].as_str()), (Phase::Formed, "new"));
}

#[test]
fn two_doors_are_never_open() {
    let mut seen = healthy();
    // Five members, of which two were added and have not started.
    for n in 3..5 {
        seen.serving.insert(n, serving(n));
        seen.volumes.insert(n, format!("v{n}"));
        seen.listed.as_mut().unwrap().push(Listed { id: u64::from(n) + 100, ordinal: Some(n), started: true });
    }
    for n in [1, 3] {
        seen.serving.remove(&n);
        seen.listed.as_mut().unwrap()[n as usize].started = false;
    }
    let mut record = formed();
    record.volumes = seen.volumes.clone();
    record.phase = Phase::Joining(3);
    let situation = Situation { record: &record, seen: &seen, size: 5, quota_bytes: QUOTA, now_ms: NOW };
    assert_eq!(next(&situation, &mut Memory::default()), None, "3 joins first, although 1 comes before it");
}

#[test]
fn space_is_made_in_order_and_the_alarm_comes_last() {
    let mut memory = Memory::default();
    let mut seen = healthy();
    seen.no_space.extend([101]);
    seen.serving.values_mut().for_each(|member| member.db_bytes = QUOTA);
    let record = formed();
    let mut step = || next(&at(&record, &seen, NOW), &mut memory);
    assert_eq!(step(), Some(Step::Compact { revision: 50 }));
    let order: Vec<_> = (0..3).map(|_| step()).collect();
    assert_eq!(order, [1, 2, 0].map(|ordinal| Some(Step::Defragment { ordinal })), "the leader is the last");
    assert_eq!(step(), None, "all of it is in use: the alarm stays");
    seen.serving.values_mut().for_each(|member| member.db_bytes = QUOTA / 2);
    assert_eq!(next(&at(&record, &seen, NOW), &mut memory), Some(Step::Disarm { id: 101 }));
    let later = NOW + SPACE_RETRY_MS;
    assert_eq!(next(&at(&record, &seen, later), &mut memory), Some(Step::Compact { revision: 50 }), "tried again");
    seen.no_space.clear();
    assert_eq!(next(&at(&record, &seen, later), &mut memory), None);
}

#[test]
fn members_are_defragmented_once_a_day_where_it_pays() {
    let mut memory = Memory::default();
    let mut seen = healthy();
    let record = formed();
    let due = NOW + DEFRAGMENT_EVERY_MS;
    assert_eq!(next(&at(&record, &seen, due - 1), &mut memory), None);
    // 1 has nothing to give back.
    for n in [0, 2] {
        seen.serving.get_mut(&n).unwrap().db_bytes = 100 << 20;
    }
    let Some(Step::Save(saved)) = next(&at(&record, &seen, due), &mut memory) else { panic!("not saved") };
    assert_eq!(saved.defragmented_ms[&1], due);
    assert_eq!(next(&at(&saved, &seen, due), &mut memory), Some(Step::Defragment { ordinal: 2 }));
    let mut saved = saved;
    saved.defragmented_ms.insert(2, due);
    assert_eq!(next(&at(&saved, &seen, due), &mut memory), Some(Step::Defragment { ordinal: 0 }), "the leader last");
    seen.serving.remove(&1);
    assert_eq!(next(&at(&saved, &seen, due), &mut memory), None, "not while a member is away");
}

#[test]
fn a_new_cluster_is_not_defragmented_at_once() {
    let record = Record { defragmented_ms: Default::default(), ..formed() };
    let Some(Step::Save(saved)) = next(&at(&record, &healthy(), NOW), &mut Memory::default()) else {
        panic!("not saved")
    };
    assert_eq!(saved.defragmented_ms.into_values().collect::<Vec<_>>(), [NOW; 3]);
}
