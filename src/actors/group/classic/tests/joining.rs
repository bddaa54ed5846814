//! Who may join, and what a first join waits for.

use super::*;

#[test]
fn a_client_that_asks_for_an_id_joins_with_it() {
    let mut bed = Bed::new();
    let token = bed.join(new());
    let asked = bed.joined(token);
    assert_eq!((asked.error, asked.generation), (Some(GroupError::MemberIdRequired), -1));
    assert_eq!(asked.member_id, "client-1");
    assert_eq!(bed.group.state(), State::Empty);
    let token = bed.join(known(&asked));
    assert!(!bed.joins.contains_key(&token), "the first rebalance waits for more members");
    assert_eq!(bed.sleep(DELAY_MS), [Expired::Join]);
    let joined = bed.joined(token);
    assert_eq!((joined.error, joined.generation, joined.leader.as_str()), (None, 1, "client-1"));
    assert_eq!((joined.protocol_type.as_deref(), joined.protocol.as_deref()), (Some("consumer"), Some("range")));
    assert_eq!(joined.members.len(), 1);
    assert_eq!((bed.group.state(), bed.records), (State::CompletingRebalance, 1));
    let token = bed.sync(&joined, &[(&joined.member_id, b"all")]);
    assert_eq!(bed.syncs[&token].assignment, "all");
    assert_eq!(bed.syncs[&token].protocol.as_deref(), Some("range"));
    assert_eq!((bed.group.state(), bed.records), (State::Stable, 2));
    assert_eq!(bed.group.subscribed(), Some(&BTreeSet::from(["t".to_owned()])));
}

#[test]
fn an_id_that_is_not_used_is_forgotten() {
    let mut bed = Bed::new();
    let token = bed.join(new());
    let asked = bed.joined(token);
    assert_eq!(bed.sleep(SESSION_MS as u64), [Expired::Pending("client-1".into())]);
    assert!(bed.group.is_empty());
    let token = bed.join(known(&asked));
    assert_eq!(bed.joined(token).error, Some(GroupError::UnknownMemberId));
}

#[test]
fn refusals_of_joins() {
    let with = |change: fn(&mut JoinRequest)| {
        let mut request = old();
        change(&mut request);
        request
    };
    let table = [
        (with(|r| r.session_timeout_ms = 5_999), GroupError::InvalidSessionTimeout),
        (with(|r| r.session_timeout_ms = 1_800_001), GroupError::InvalidSessionTimeout),
        (with(|r| r.protocol_type = "connect".into()), GroupError::InconsistentProtocol),
        (with(|r| r.protocol_type = String::new()), GroupError::InconsistentProtocol),
        (with(|r| r.protocols.clear()), GroupError::InconsistentProtocol),
        (with(|r| r.protocols = vec![protocol("sticky", b"")]), GroupError::InconsistentProtocol),
        (with(|r| r.member_id = "stranger".into()), GroupError::UnknownMemberId),
        (with(|r| (r.member_id, r.instance) = ("stranger".into(), Some("i".into()))), GroupError::UnknownMemberId),
        (with(|r| r.protocols[0].metadata = Bytes::from(vec![0; GROUP_BYTES_MAX])), GroupError::MaxSizeReached),
    ];
    for (request, error) in table {
        let (mut bed, members) = Bed::stable(2);
        let sent = request.member_id.clone();
        let token = bed.join(request);
        let reply = bed.joined(token);
        assert_eq!((reply.error, reply.generation), (Some(error), -1));
        assert_eq!(reply.member_id, sent);
        assert_eq!(bed.heartbeat(&members[1]), Ok(()), "no rebalance after {error:?}");
    }
}

#[test]
fn the_first_rebalance_waits_for_those_who_come_while_it_waits() {
    let mut bed = Bed::new();
    let first = bed.join(old());
    bed.sleep(DELAY_MS - 1);
    let second = bed.join(old());
    assert_eq!(bed.sleep(1), [Expired::Join]);
    assert!(bed.joins.is_empty(), "put off once more, since somebody came");
    assert_eq!(bed.sleep(DELAY_MS), [Expired::Join]);
    assert_eq!(bed.joined(first).members.len(), 2);
    assert_eq!(bed.joined(second).members.len(), 0, "only the leader sees the members");
    // With members coming all the time it ends after the rebalance timeout.
    let mut bed = Bed::with(GroupLimits::default());
    let first = bed.join(old());
    for _ in 0..REBALANCE_MS as u64 / 1_000 {
        assert!(!bed.joins.contains_key(&first));
        bed.sleep(1_000);
        bed.join(old());
    }
    bed.sleep(DELAY_MS);
    assert_eq!(bed.joined(first).generation, 1);
}

#[test]
fn without_delay_the_first_member_is_answered_at_once() {
    let mut bed = Bed::with(GroupLimits { initial_rebalance_delay_ms: 0, ..GroupLimits::default() });
    let token = bed.join(old());
    assert_eq!(bed.joined(token).generation, 1);
}

#[test]
fn a_new_member_that_is_never_answered_is_dropped_after_five_minutes() {
    let mut bed = Bed::with(GroupLimits::default());
    let slow = JoinRequest { rebalance_timeout_ms: 1_000_000, ..old() };
    let first = bed.join(slow.clone());
    bed.sleep(DELAY_MS);
    let first = bed.joined(first);
    bed.sync(&first, &[]);
    let second = bed.join(slow);
    for _ in 0..NEW_MEMBER_JOIN_TIMEOUT_MS / 5_000 {
        let _ = bed.heartbeat(&first);
        bed.sleep(5_000);
    }
    assert_eq!(bed.joined(second).error, Some(GroupError::UnknownMemberId));
}

#[test]
fn who_asks_again_gets_the_same_answer() {
    let mut bed = Bed::new();
    let tokens = [bed.join(old()), bed.join(old())];
    bed.sleep(2 * DELAY_MS);
    for token in tokens {
        let reply = bed.joined(token);
        let again = bed.join(known(&reply));
        assert_eq!(bed.joined(again), reply);
    }
    assert_eq!(bed.group.generation(), 1);
    // With other metadata it wants a rebalance.
    let (mut bed, members) = Bed::stable(2);
    let again = bed.join(known(&members[1]));
    assert_eq!(bed.joined(again).generation, 1);
    bed.join(JoinRequest { protocols: vec![protocol("range", b"other")], ..known(&members[1]) });
    assert_eq!(bed.group.state(), State::PreparingRebalance);
}

#[test]
fn the_bound_on_members() {
    let mut bed = Bed::with(GroupLimits { members_max: 2, ..GroupLimits::default() });
    let tokens: Vec<u32> = (0..3).map(|_| bed.join(old())).collect();
    assert_eq!(bed.joined(tokens[2]).error, Some(GroupError::MaxSizeReached));
    bed.sleep(2 * DELAY_MS);
    let members: Vec<JoinReply> = tokens[..2].iter().map(|t| bed.joined(*t)).collect();
    let token = bed.join(new());
    assert_eq!(bed.joined(token).error, Some(GroupError::MaxSizeReached));
    let leader = members.iter().find(|m| m.leader == m.member_id).unwrap();
    bed.sync(leader, &[]);
    bed.join(known(leader));
    assert_eq!(bed.group.state(), State::PreparingRebalance, "those who are known come back");
    let token = bed.join(known(members.iter().find(|m| m.leader != m.member_id).unwrap()));
    assert_eq!(bed.joined(token).generation, 2);
}

#[test]
fn the_protocol_that_most_prefer_and_all_support() {
    let preferring = |names: &[&str]| {
        let protocols = names.iter().map(|n| protocol(n, b"")).collect();
        JoinRequest { protocols, ..old() }
    };
    let mut bed = Bed::new();
    let first = bed.join(preferring(&["only-mine", "a", "b"]));
    bed.join(preferring(&["b", "a"]));
    bed.join(preferring(&["b", "a"]));
    bed.sleep(2 * DELAY_MS);
    assert_eq!(bed.joined(first).protocol.as_deref(), Some("b"));
    let token = bed.join(preferring(&["only-mine"]));
    assert_eq!(bed.joined(token).error, Some(GroupError::InconsistentProtocol));
}
