//! Commits and deletions of offsets, as far as the members decide about them.

use super::*;

#[test]
fn commits() {
    let (mut bed, members) = Bed::stable(1);
    let id = members[0].member_id.clone();
    let table = [
        (id.as_str(), None, 1, Ok(())),
        (&id, None, 0, Err(GroupError::IllegalGeneration)),
        (&id, None, -1, Err(GroupError::IllegalGeneration)),
        ("", None, -1, Err(GroupError::UnknownMemberId)),
        ("", None, 1, Err(GroupError::UnknownMemberId)),
        ("stranger", None, 1, Err(GroupError::UnknownMemberId)),
        (&id, Some("i"), 1, Err(GroupError::UnknownMemberId)),
    ];
    for (member, instance, generation, expected) in table {
        assert_eq!(bed.group.check_commit(bed.now, member, instance, generation), expected, "{member} {generation}");
    }
    // Commits keep a member alive, also while others join.
    bed.join(old());
    for _ in 0..3 {
        bed.sleep(SESSION_MS as u64 - 1);
        assert_eq!(bed.group.check_commit(bed.now, &id, None, 1), Ok(()));
    }
    let token = bed.join(known(&members[0]));
    let reply = bed.joined(token);
    let too_early = bed.group.check_commit(bed.now, &id, None, reply.generation);
    assert_eq!(too_early, Err(GroupError::RebalanceInProgress));
    let mut empty = Bed::new();
    assert_eq!(empty.group.check_commit(empty.now, "", None, -1), Ok(()));
    assert_eq!(empty.group.check_commit(empty.now, "x", None, 3), Err(GroupError::UnknownMemberId));
}

#[test]
fn deleting_offsets() {
    let (mut bed, members) = Bed::stable(1);
    assert_eq!(bed.group.check_offset_delete("t"), Err(GroupError::SubscribedToTopic));
    assert_eq!(bed.group.check_offset_delete("other"), Ok(()));
    bed.leave(&members[0].member_id, None).unwrap();
    assert_eq!(bed.group.check_offset_delete("t"), Ok(()));
    // What cannot be read may be subscribed to anything.
    let token = bed.join(JoinRequest { protocols: vec![protocol("range", b"?")], ..old() });
    bed.sleep(DELAY_MS);
    assert_eq!(bed.joined(token).error, None);
    assert_eq!(bed.group.check_offset_delete("other"), Err(GroupError::SubscribedToTopic));
}
