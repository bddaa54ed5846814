//! From a change of the members to the next assignment, and who is out by then.

use super::*;

#[test]
fn a_new_member_of_a_stable_group_causes_one_rebalance() {
    let (mut bed, members) = Bed::stable(2);
    let third = bed.join(old());
    assert_eq!(bed.group.state(), State::PreparingRebalance);
    for member in &members {
        assert_eq!(bed.heartbeat(member), Err(GroupError::RebalanceInProgress));
    }
    let tokens: Vec<u32> = members.iter().map(|m| bed.join(known(m))).collect();
    for token in tokens.iter().chain([&third]) {
        let reply = bed.joined(*token);
        assert_eq!((reply.error, reply.generation), (None, 2));
        assert_eq!(reply.members.len(), if reply.leader == reply.member_id { 3 } else { 0 });
    }
    assert_eq!(bed.joined(tokens[0]).leader, members[0].member_id, "the leader stays");
    assert_eq!(bed.heartbeat(&members[0]), Err(GroupError::IllegalGeneration), "that was the old generation");
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let (mut bed, members) = Bed::stable(2);
    let third = bed.join(old());
    let again = bed.join(known(&members[0]));
    let mut expired = Vec::new();
    for _ in 0..REBALANCE_MS / 1_000 {
        let _ = bed.heartbeat(&members[1]); // alive, but does not join
        expired.extend(bed.sleep(1_000));
    }
    assert_eq!(expired, [Expired::Join]);
    assert_eq!(bed.joined(again).members.len(), 2);
    assert_eq!(bed.joined(third).error, None);
    assert_eq!(bed.heartbeat(&members[1]), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let (mut bed, members) = Bed::stable(2);
    bed.sleep(SESSION_MS as u64 - 1);
    assert_eq!(bed.heartbeat(&members[0]), Ok(()));
    assert_eq!(bed.sleep(1), [Expired::Session(members[1].member_id.as_str().into())]);
    assert_eq!(bed.heartbeat(&members[0]), Err(GroupError::RebalanceInProgress));
    assert_eq!(bed.heartbeat(&members[1]), Err(GroupError::UnknownMemberId));
    let token = bed.join(known(&members[0]));
    assert_eq!(bed.joined(token).generation, 2);
}

#[test]
fn a_parked_request_shows_that_its_member_is_alive() {
    let (mut bed, members) = Bed::stable(2);
    let parked = bed.join(known(&members[0])); // the leader wants a rebalance
    for _ in 0..5 {
        bed.sleep(SESSION_MS as u64 - 1);
        assert_eq!(bed.heartbeat(&members[1]), Err(GroupError::RebalanceInProgress));
    }
    let other = bed.join(known(&members[1]));
    assert_eq!((bed.joined(parked).error, bed.joined(other).error), (None, None));
}

#[test]
fn syncs() {
    let (mut bed, members) = Bed::stable(2);
    let token = bed.sync(&members[1], &[]);
    assert_eq!(bed.syncs[&token].assignment, "part", "asked again in a stable group");
    let strange = JoinReply { member_id: "stranger".into(), ..members[1].clone() };
    let stale = JoinReply { generation: 0, ..members[1].clone() };
    let wrong = SyncRequest {
        member_id: members[1].member_id.clone(),
        generation: 1,
        protocol: Some("roundrobin".into()),
        ..SyncRequest::default()
    };
    for (member, error) in [(strange, GroupError::UnknownMemberId), (stale, GroupError::IllegalGeneration)] {
        let token = bed.sync(&member, &[]);
        assert_eq!(bed.syncs[&token].error, Some(error));
    }
    let mut effects = Vec::new();
    bed.group.sync(bed.now, wrong, 77, &mut effects);
    assert_eq!(effects, [Effect::Sync(77, SyncReply::failed(GroupError::InconsistentProtocol))]);
    bed.join(old());
    let token = bed.sync(&members[1], &[]);
    assert_eq!(bed.syncs[&token].error, Some(GroupError::RebalanceInProgress));
}

#[test]
fn a_rebalance_while_members_wait_for_the_leader_sends_them_back() {
    let mut bed = Bed::new();
    let tokens = [bed.join(old()), bed.join(old())];
    bed.sleep(2 * DELAY_MS);
    let replies = tokens.map(|t| bed.joined(t));
    let follower = replies.iter().find(|r| r.leader != r.member_id).unwrap();
    let waiting = bed.sync(follower, &[]);
    assert!(!bed.syncs.contains_key(&waiting));
    assert_eq!(bed.heartbeat(follower), Ok(()), "heartbeats are normal while the leader computes");
    bed.join(old());
    assert_eq!(bed.syncs[&waiting].error, Some(GroupError::RebalanceInProgress));
    assert_eq!(bed.heartbeat(follower), Err(GroupError::RebalanceInProgress));
}

#[test]
fn who_does_not_sync_is_out() {
    let mut bed = Bed::new();
    let tokens = [bed.join(old()), bed.join(old())];
    bed.sleep(2 * DELAY_MS);
    let mut replies = tokens.map(|t| bed.joined(t));
    replies.sort_by_key(|r| r.leader != r.member_id);
    bed.sync(&replies[0], &[]);
    let mut expired = Vec::new();
    for _ in 0..REBALANCE_MS / 1_000 {
        for reply in &replies {
            let _ = bed.heartbeat(reply);
        }
        expired.extend(bed.sleep(1_000));
    }
    assert_eq!(expired, [Expired::Sync]);
    assert_eq!(bed.heartbeat(&replies[0]), Err(GroupError::RebalanceInProgress));
    assert_eq!(bed.heartbeat(&replies[1]), Err(GroupError::UnknownMemberId));
}

#[test]
fn leaving() {
    let (mut bed, members) = Bed::stable(3);
    assert_eq!(bed.leave("stranger", None), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.leave("", None), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.group.state(), State::Stable);
    assert_eq!(bed.leave(&members[0].member_id, None), Ok(()));
    assert_eq!(bed.group.state(), State::PreparingRebalance);
    let token = bed.join(known(&members[1]));
    assert_eq!(bed.leave(&members[2].member_id, None), Ok(()));
    let reply = bed.joined(token);
    assert_eq!((reply.leader, reply.members.len()), (members[1].member_id.clone(), 1));
    assert_eq!(bed.leave(&members[1].member_id, None), Ok(()));
    assert_eq!(bed.group.state(), State::Empty);
    assert_eq!((bed.group.generation(), bed.group.bytes()), (3, 0));
    assert_eq!(bed.group.durable().unwrap().phase, Phase::Empty);
    assert_eq!(bed.group.next_deadline(), None);
}
