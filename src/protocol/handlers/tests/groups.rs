//! Consumer groups through the protocol, in every version.

use super::*;
use crate::protocol::api;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;

fn versions<R: KafkaRequest>() -> std::ops::RangeInclusive<i16> {
    let api = api::find(R::KEY).unwrap();
    api.min..=api.max
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn group(s: &str) -> GroupId {
    GroupId(text(s))
}

fn join_request(of: &str, member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"));
    JoinGroupRequest::default()
        .with_group_id(group(of))
        .with_member_id(text(member))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

fn sync_request(of: &str, joined: &JoinGroupResponse) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"part"));
    SyncGroupRequest::default()
        .with_group_id(group(of))
        .with_member_id(joined.member_id.clone())
        .with_generation_id(joined.generation_id)
        .with_assignments(vec![assignment])
}

/// A group with one member, by JoinGroup of this version.
async fn member(bed: &Bed, of: &str, version: i16) -> JoinGroupResponse {
    let mut joined = bed.call(version, &join_request(of, "")).await;
    if version >= 4 {
        assert_eq!((joined.error_code, joined.generation_id), (79, -1), "version {version}");
        joined = bed.call(version, &join_request(of, &joined.member_id)).await;
    }
    assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 1, 1), "version {version}");
    joined
}

fn commit_request(of: &str, partitions: &[i32], metadata: &str) -> OffsetCommitRequest {
    let partition = |index: &i32| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*index)
            .with_committed_offset(40 + i64::from(*index))
            .with_committed_metadata(Some(text(metadata)))
    };
    let topic = |topic: &str| {
        let partitions = partitions.iter().map(partition).collect();
        OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(partitions)
    };
    OffsetCommitRequest::default()
        .with_group_id(group(of))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic("t"), topic("unknown")])
}

fn commit_codes(response: &OffsetCommitResponse) -> Vec<i16> {
    response.topics.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code)).collect()
}

#[test]
fn a_members_life_in_every_version() {
    run(|| async {
        let bed = Bed::new(false).await;
        for version in versions::<JoinGroupRequest>() {
            let of = format!("g{version}");
            let joined = member(&bed, &of, version).await;
            assert_eq!(joined.leader, joined.member_id);
            assert_eq!(joined.protocol_name.as_deref(), Some("range"));
            assert_eq!(joined.protocol_type.as_deref(), (version >= 7).then_some("consumer"));
            let sync_version = version.min(5);
            let synced = bed.call(sync_version, &sync_request(&of, &joined)).await;
            assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"part"[..]));
            assert_eq!(synced.protocol_name.as_deref(), (sync_version >= 5).then_some("range"));
            let beat = HeartbeatRequest::default()
                .with_group_id(group(&of))
                .with_member_id(joined.member_id.clone())
                .with_generation_id(1);
            assert_eq!(bed.call(version.min(4), &beat).await.error_code, 0);
            let stale = beat.clone().with_generation_id(0);
            assert_eq!(bed.call(version.min(4), &stale).await.error_code, 22);
            let leave_version = version.min(5);
            let leave = LeaveGroupRequest::default().with_group_id(group(&of));
            let leave = match leave_version {
                3.. => leave.with_members(vec![
                    MemberIdentity::default().with_member_id(joined.member_id.clone()),
                    MemberIdentity::default().with_member_id(text("stranger")),
                ]),
                _ => leave.with_member_id(joined.member_id.clone()),
            };
            let left = bed.call(leave_version, &leave).await;
            let codes: Vec<i16> = left.members.iter().map(|m| m.error_code).collect();
            assert_eq!((left.error_code, codes), (0, if leave_version >= 3 { vec![0, 25] } else { vec![] }));
            assert_eq!(bed.call(version.min(4), &beat).await.error_code, 25);
        }
    });
}

#[test]
fn refusals_have_kafkas_codes_in_every_version() {
    run(|| async {
        let bed = Bed::new(false).await;
        for version in versions::<JoinGroupRequest>() {
            let refused = [
                (join_request("", ""), 24),
                (join_request("g", "").with_session_timeout_ms(1), 26),
                (join_request("g", "stranger"), 25),
                (join_request("g", "").with_protocols(vec![]), 23),
            ];
            for (request, code) in refused {
                let response = bed.call(version, &request).await;
                assert_eq!((response.error_code, response.generation_id), (code, -1), "version {version}");
                assert_eq!(response.member_id, request.member_id);
            }
        }
        for version in versions::<SyncGroupRequest>() {
            let request = SyncGroupRequest::default().with_group_id(group("g")).with_member_id(text("m"));
            assert_eq!(bed.call(version, &request).await.error_code, 25);
        }
        for version in versions::<HeartbeatRequest>() {
            let request = HeartbeatRequest::default().with_group_id(group("g")).with_member_id(text("m"));
            assert_eq!(bed.call(version, &request).await.error_code, 25);
        }
        for version in versions::<LeaveGroupRequest>() {
            let leave = LeaveGroupRequest::default().with_group_id(group("g"));
            let member = MemberIdentity::default().with_member_id(text("m"));
            let request = if version < 3 { leave.with_member_id(text("m")) } else { leave.with_members(vec![member]) };
            let response = bed.call(version, &request).await;
            let code = response.members.first().map_or(response.error_code, |m| m.error_code);
            assert_eq!(code, 25, "version {version}");
            assert_eq!(response.error_code, if version < 3 { 25 } else { 0 });
        }
    });
}

#[test]
fn finding_coordinators() {
    run(|| async {
        let bed = Bed::new(false).await;
        for version in versions::<FindCoordinatorRequest>() {
            let request = FindCoordinatorRequest::default();
            let request = match version {
                4.. => request.with_coordinator_keys(vec![text("a"), text("b")]),
                _ => request.with_key(text("a")),
            };
            let response = bed.call(version, &request).await;
            let found: Vec<_> = response.coordinators.iter().map(|c| (c.error_code, c.node_id.0, c.port)).collect();
            match version {
                4.. => assert_eq!(found, [(0, 1, 9092); 2]),
                _ => assert_eq!((response.error_code, response.node_id.0, response.port), (0, 1, 9092)),
            }
            if version >= 1 {
                let response = bed.call(version, &request.with_key_type(7)).await;
                let code = response.coordinators.first().map_or(response.error_code, |c| c.error_code);
                assert_eq!(code, 42, "version {version}");
            }
        }
    });
}

#[test]
fn offsets_in_every_version() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        for version in versions::<OffsetCommitRequest>() {
            let of = format!("g{version}");
            let response = bed.call(version, &commit_request(&of, &[0, 1, 7], "note")).await;
            assert_eq!(commit_codes(&response), [0, 0, 3, 3, 3, 3], "version {version}");
            let long = bed.call(version, &commit_request(&of, &[0], &"x".repeat(4_097))).await;
            assert_eq!(commit_codes(&long), [12, 3]);
            let stranger =
                commit_request(&of, &[0], "").with_member_id(text("m")).with_generation_id_or_member_epoch(3);
            assert_eq!(commit_codes(&bed.call(version, &stranger).await), [25, 3]);
            let unknown = stranger.with_group_id(group("unknown"));
            let code = if version >= 9 { 69 } else { 22 };
            assert_eq!(commit_codes(&bed.call(version, &unknown).await), [code, 3]);
        }
        for version in versions::<OffsetFetchRequest>() {
            for (of, known) in [("g5", true), ("never seen", false)] {
                let rows = fetched(&bed, version, of, Some(&[("t", &[0, 1, 9]), ("unknown", &[0])])).await;
                let row =
                    |topic: &str, index, offset, metadata: &str| (topic.to_owned(), index, offset, metadata.to_owned());
                let expected = match known {
                    true => [row("t", 0, 40, "note"), row("t", 1, 41, "note")],
                    false => [row("t", 0, -1, ""), row("t", 1, -1, "")],
                };
                let missing = [row("t", 9, -1, ""), row("unknown", 0, -1, "")];
                assert_eq!(rows, [expected, missing].concat(), "version {version}");
                if version >= 2 {
                    let all = fetched(&bed, version, of, None).await;
                    assert_eq!(all, if known { expected_all() } else { vec![] }, "version {version}");
                }
            }
        }
    });
}

fn expected_all() -> Vec<(String, i32, i64, String)> {
    [(0, 40), (1, 41)].map(|(index, offset)| ("t".to_owned(), index, offset, "note".to_owned())).to_vec()
}

/// Topic, partition, offset, metadata of each row.
async fn fetched(
    bed: &Bed,
    version: i16,
    of: &str,
    topics: Option<&[(&str, &[i32])]>,
) -> Vec<(String, i32, i64, String)> {
    if version < 8 {
        let topic = |(t, indexes): &(&str, &[i32])| {
            OffsetFetchRequestTopic::default().with_name(name(t)).with_partition_indexes(indexes.to_vec())
        };
        let topics = topics.map(|topics| topics.iter().map(topic).collect());
        let request = OffsetFetchRequest::default().with_group_id(group(of)).with_topics(topics);
        let response = bed.call(version, &request).await;
        assert_eq!(response.error_code, 0);
        let rows = response.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (t.name.to_string(), p)));
        return rows
            .map(|(t, p)| {
                assert_eq!((p.error_code, p.committed_leader_epoch), (0, -1));
                (t, p.partition_index, p.committed_offset, p.metadata.as_ref().unwrap().to_string())
            })
            .collect();
    }
    let topic = |(t, indexes): &(&str, &[i32])| {
        OffsetFetchRequestTopics::default().with_name(name(t)).with_partition_indexes(indexes.to_vec())
    };
    let topics = topics.map(|topics| topics.iter().map(topic).collect());
    let one = OffsetFetchRequestGroup::default().with_group_id(group(of)).with_topics(topics);
    let other = OffsetFetchRequestGroup::default().with_group_id(group("other")).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![one, other]).with_require_stable(true);
    let response = bed.call(version, &request).await;
    assert_eq!(response.groups.len(), 2);
    assert_eq!((response.groups[1].error_code, response.groups[1].topics.len()), (0, 0));
    let rows = response.groups[0].topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (t.name.to_string(), p)));
    rows.map(|(t, p)| (t, p.partition_index, p.committed_offset, p.metadata.as_ref().unwrap().to_string())).collect()
}

#[test]
fn who_cannot_be_told_offsets_looks_for_the_coordinator_again() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.standing.lost();
        let topic = || OffsetFetchRequestTopic::default().with_name(name("t")).with_partition_indexes(vec![0]);
        for version in versions::<OffsetFetchRequest>() {
            let one = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(None);
            let request = match version {
                ..8 => OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![topic()])),
                _ => OffsetFetchRequest::default().with_groups(vec![one]),
            };
            let response = bed.call(version, &request).await;
            let code = match version {
                ..2 => response.topics[0].partitions[0].error_code,
                2..8 => response.error_code,
                _ => response.groups[0].error_code,
            };
            assert_eq!(code, 16, "version {version}");
        }
    });
}

#[test]
fn a_topic_made_again_has_no_offsets() {
    run(|| async {
        let bed = Bed::new(false).await;
        let id = bed.topic("t", 1, &[]).await;
        bed.call(8, &commit_request("g", &[0], "")).await;
        bed.ctx.broker.admin.delete_topic("t", crate::ids::TopicId(id)).await.unwrap();
        let gone = async || fetched(&bed, 8, "g", None).await.is_empty();
        while !gone().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bed.topic("t", 1, &[]).await;
        assert_eq!(fetched(&bed, 8, "g", Some(&[("t", &[0])])).await[0].2, -1);
        assert!(gone().await);
    });
}

#[test]
fn what_administrators_see() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        let joined = member(&bed, "members", 9).await;
        bed.call(5, &sync_request("members", &joined)).await;
        bed.call(9, &commit_request("offsets only", &[0], "")).await;
        for version in versions::<ListGroupsRequest>() {
            let listed = bed.call(version, &ListGroupsRequest::default()).await;
            let rows: Vec<_> = listed.groups.iter().map(|g| (g.group_id.as_str(), g.protocol_type.as_str())).collect();
            assert_eq!(rows, [("members", "consumer"), ("offsets only", "")]);
            let states: Vec<_> = listed.groups.iter().map(|g| g.group_state.as_str()).collect();
            assert_eq!(states, if version >= 4 { ["Stable", "Empty"] } else { ["", ""] });
            assert!(listed.groups.iter().all(|g| (g.group_type.as_str() == "classic") == (version >= 5)));
        }
        let filters = [("stable", "classic", 1), ("Stable", "Consumer", 0), ("Dead", "classic", 0)];
        for (state, kind, count) in filters {
            let request =
                ListGroupsRequest::default().with_states_filter(vec![text(state)]).with_types_filter(vec![text(kind)]);
            assert_eq!(bed.call(5, &request).await.groups.len(), count, "{state} {kind}");
        }
        for version in versions::<DescribeGroupsRequest>() {
            let groups = ["members", "offsets only", "none"].map(group).to_vec();
            let request =
                DescribeGroupsRequest::default().with_groups(groups).with_include_authorized_operations(version >= 3);
            let response = bed.call(version, &request).await;
            let rows: Vec<_> = response.groups.iter().map(|g| (g.error_code, g.group_state.as_str())).collect();
            let dead = if version >= 6 { 69 } else { 0 };
            assert_eq!(rows, [(0, "Stable"), (0, "Empty"), (dead, "Dead")], "version {version}");
            let first = &response.groups[0];
            assert_eq!((first.protocol_type.as_str(), first.protocol_data.as_str()), ("consumer", "range"));
            let shown = &first.members[0];
            assert_eq!((shown.client_host.as_str(), &shown.member_assignment[..]), ("/127.0.0.1", &b"part"[..]));
            assert_eq!(shown.member_id, joined.member_id);
            assert!(!shown.member_metadata.is_empty());
            let operations = response.groups.iter().map(|g| g.authorized_operations);
            assert!(operations.clone().all(|o| (o > 0) == (version >= 3)), "{operations:?}");
        }
    });
}

#[test]
fn deletions() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        let joined = member(&bed, "members", 9).await;
        bed.call(5, &sync_request("members", &joined)).await;
        let partitions = [0, 5].map(|p| OffsetDeleteRequestPartition::default().with_partition_index(p)).to_vec();
        let topic =
            |t: &str| OffsetDeleteRequestTopic::default().with_name(name(t)).with_partitions(partitions.clone());
        let delete = |of: &str| {
            OffsetDeleteRequest::default().with_group_id(group(of)).with_topics(vec![topic("t"), topic("unknown")])
        };
        let codes = |r: &OffsetDeleteResponse| -> Vec<i16> {
            r.topics.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code)).collect()
        };
        let response = bed.call(0, &delete("members")).await;
        assert_eq!((response.error_code, codes(&response)), (0, vec![86, 3, 3, 3]));
        bed.call(9, &commit_request("empty", &[0, 1], "")).await;
        let response = bed.call(0, &delete("empty")).await;
        assert_eq!((response.error_code, codes(&response)), (0, vec![0, 3, 3, 3]));
        assert_eq!(fetched(&bed, 9, "empty", None).await.len(), 1);
        assert_eq!(bed.call(0, &delete("none")).await.error_code, 69);
        for version in versions::<DeleteGroupsRequest>() {
            let of = format!("g{version}");
            bed.call(9, &commit_request(&of, &[0], "")).await;
            let groups = [of.as_str(), "members", "none"].map(group).to_vec();
            let response = bed.call(version, &DeleteGroupsRequest::default().with_groups_names(groups)).await;
            let codes: Vec<i16> = response.results.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 68, 69]);
            assert!(fetched(&bed, 9, &of, None).await.is_empty());
        }
    });
}

#[test]
fn a_join_that_waits_does_not_hold_up_others() {
    run(|| async {
        let bed = Bed::new(false).await;
        let join = join_request("g", "");
        let waits = bed.call(3, &join);
        let meanwhile = async {
            // Answered while the join waits out the delay of the first rebalance.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let at = monotonic();
            assert_eq!(bed.call(5, &ListGroupsRequest::default()).await.groups.len(), 1);
            assert!(monotonic() - at < Duration::from_millis(100));
        };
        let at = monotonic();
        let (joined, ()) = futures::join!(waits, meanwhile);
        assert_eq!(joined.error_code, 0);
        assert!(monotonic() - at >= Duration::from_secs(3), "paused time: exact, not lucky");
    });
}
