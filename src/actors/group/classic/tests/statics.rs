//! Static members: who takes the place of whom.

use super::*;

/// A stable group of static members `a` (the leader) and `b`.
fn static_pair() -> (Bed, JoinReply, JoinReply) {
    let mut bed = Bed::new();
    let (a, b) = (bed.join(of_instance("a")), bed.join(of_instance("b")));
    bed.sleep(2 * DELAY_MS);
    let (a, b) = (bed.joined(a), bed.joined(b));
    assert_eq!((a.member_id.as_str(), a.leader.as_str()), ("a-1", "a-1"), "no id has to be asked for");
    bed.sync(&b, &[]);
    bed.sync(&a, &[("a-1", b"pa"), ("b-2", b"pb")]);
    assert_eq!(bed.group.state(), State::Stable);
    (bed, a, b)
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let (mut bed, a, b) = static_pair();
    let records = bed.records;
    let token = bed.join(of_instance("b"));
    let again = bed.joined(token);
    assert_eq!((again.error, again.generation, again.skip_assignment), (None, 1, false));
    assert_ne!(again.member_id, b.member_id);
    assert_eq!((bed.group.state(), bed.records), (State::Stable, records + 1));
    assert_eq!(bed.heartbeat(&a), Ok(()));
    let old_id = bed.group.heartbeat(bed.now, &b.member_id, Some("b"), 1);
    assert_eq!(old_id, Err(GroupError::FencedInstanceId));
    let token = bed.sync(&again, &[]);
    assert_eq!(bed.syncs[&token].assignment, "pb", "with its former assignment");
    // The leader too; it is told that there is nothing to assign.
    let token = bed.join(of_instance("a"));
    let again = bed.joined(token);
    assert_eq!((again.skip_assignment, again.members.len()), (true, 2));
    assert_eq!(again.leader, again.member_id);
    // A client that does not know of that must not believe that it leads.
    let token = bed.join(JoinRequest { may_skip_assignment: false, ..of_instance("a") });
    let last = bed.joined(token);
    assert_eq!((last.skip_assignment, last.members.len()), (false, 0));
    assert_eq!(last.leader, again.member_id);
}

#[test]
fn static_members_with_other_protocols_rebalance() {
    let (mut bed, ..) = static_pair();
    bed.join(JoinRequest { protocols: vec![protocol("roundrobin", b"")], ..of_instance("b") });
    assert_eq!(bed.group.state(), State::PreparingRebalance);
}

#[test]
fn the_older_of_two_static_processes_is_fenced_everywhere() {
    let (mut bed, a, _) = static_pair();
    let parked = bed.join(JoinRequest { member_id: a.member_id.clone(), ..of_instance("a") });
    assert!(!bed.joins.contains_key(&parked), "the leader wants a rebalance");
    bed.join(of_instance("a"));
    assert_eq!(bed.joined(parked).error, Some(GroupError::FencedInstanceId));
    let token = bed.join(JoinRequest { member_id: a.member_id.clone(), ..of_instance("a") });
    assert_eq!(bed.joined(token).error, Some(GroupError::FencedInstanceId));
    assert_eq!(bed.leave(&a.member_id, Some("a")), Err(GroupError::FencedInstanceId));
    let fenced = bed.group.check_commit(bed.now, &a.member_id, Some("a"), 1);
    assert_eq!(fenced, Err(GroupError::FencedInstanceId));
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_for_its_session() {
    let (mut bed, a, b) = static_pair();
    bed.join(JoinRequest { member_id: a.member_id.clone(), ..of_instance("a") });
    assert_eq!(bed.sleep(SESSION_MS as u64), [Expired::Session(b.member_id.as_str().into())]);
    assert_eq!((bed.group.generation(), bed.group.size()), (2, 1));
}

#[test]
fn an_administrator_removes_a_static_member_by_instance() {
    let (mut bed, ..) = static_pair();
    assert_eq!(bed.leave("", Some("c")), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.leave("", Some("b")), Ok(()));
    assert_eq!(bed.group.size(), 1);
}

#[test]
fn a_static_member_that_restarts_before_the_leader_assigned_rebalances() {
    let mut bed = Bed::new();
    bed.join(of_instance("a"));
    let b = bed.join(of_instance("b"));
    bed.sleep(2 * DELAY_MS);
    let b = bed.joined(b);
    let waiting = bed.sync(&b, &[]);
    bed.join(of_instance("b"));
    assert_eq!(bed.syncs[&waiting].error, Some(GroupError::FencedInstanceId));
    assert_eq!(bed.group.state(), State::PreparingRebalance);
}
