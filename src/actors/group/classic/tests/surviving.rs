//! What outlives a takeover, and a process that stood still.

use super::*;

#[test]
fn a_rebalance_outlives_a_process_that_stood_still() {
    let (mut bed, members) = Bed::stable(2);
    let first = bed.join(known(&members[0]));
    bed.now.mono_ms += 10 * REBALANCE_MS as u64;
    bed.group.extend_sessions(bed.now);
    assert_eq!(bed.sleep(1_000), []);
    let second = bed.join(known(&members[1]));
    assert_eq!((bed.joined(first).error, bed.joined(second).error), (None, None));
}

#[test]
fn members_go_on_after_a_takeover() {
    let (bed, members) = Bed::stable(2);
    let value = GroupValue::clone(bed.group.durable().unwrap());
    let now = Now { mono_ms: 5, wall_ms: bed.now.wall_ms };
    let mut group: ClassicGroup<u32> = ClassicGroup::recover(GroupLimits::default(), now, value);
    for member in &members {
        assert_eq!(group.heartbeat(now, &member.member_id, None, 1), Ok(()));
    }
    assert_eq!(group.next_deadline(), Some(5 + SESSION_MS as u64));
    assert_eq!(group.describe()[0].0.assignment, "part");
    assert_eq!(group.bytes(), bed.group.bytes());
}

#[test]
fn a_generation_that_was_announced_survives_a_takeover() {
    let mut bed = Bed::new();
    let token = bed.join(old());
    bed.sleep(DELAY_MS);
    let joined = bed.joined(token);
    let value = GroupValue::clone(bed.group.durable().unwrap());
    bed.group = ClassicGroup::recover(GroupLimits::default(), bed.now, value);
    let token = bed.sync(&joined, &[(&joined.member_id, b"all")]);
    assert_eq!(bed.syncs[&token].assignment, "all");
    // And if nobody comes back, everybody is out at the end.
    let value = GroupValue::clone(bed.group.durable().unwrap());
    bed.group = ClassicGroup::recover(GroupLimits::default(), bed.now, value);
    bed.sleep(SESSION_MS as u64);
    assert_eq!((bed.group.state(), bed.group.generation()), (State::Empty, 2));
}
