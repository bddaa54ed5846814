//! What the APIs of groups and of lists answer to nonsense: unknown and duplicate entities, empty lists, names that are too
//! long, negative numbers; and what any API does about versions that do not exist and requests that are too large. (`refused_admin.rs`
//! has what changes topics and configs.)

use super::{dev, is_alive, topic};
use crate::client::{Client, ClientError, Connection, text, topic_name};
use crate::group_client::{Member, commit_request, fetch_offsets, group_id, join_request};
use crate::harness::Stack;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::*;

/// Error code and state of a group.
type Described = (i16, &'static str);
/// A topic and partitions of it.
type Partitions<'a> = (&'a str, &'a [i32]);

/// One byte longer than a group id may be.
fn too_long() -> String {
    "g".repeat(1_025)
}

/// A broker with a topic `t`, and group `live` with a member.
async fn cluster(name: &str) -> (Stack, Client, Member) {
    let stack = dev(name, &[("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let member = Member::join(&stack.address(), "live", None).await;
    (stack, client, member)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members() {
    let (_stack, mut client, live) = cluster("refused-members").await;
    let long = too_long();
    let join = |group: &str, member: &str| join_request(group, member, None);
    let joins = [
        ("empty group id", join("", ""), 24),
        ("too long a group id", join(&long, ""), 24),
        ("unknown member, unknown group", join("none", "nobody"), 25),
        ("unknown member", join("live", "nobody"), 25),
        ("unknown instance", join_request("live", "nobody", Some("i")), 25),
        ("negative session timeout", join("new", "").with_session_timeout_ms(-1), 26),
        ("too long a session timeout", join("new", "").with_session_timeout_ms(1_800_001), 26),
        ("no protocols", join("new", "").with_protocols(vec![]), 23),
        ("no protocol type", join("new", "").with_protocol_type(text("")), 23),
        ("another protocol type", join("live", &live.id).with_protocol_type(text("connect")), 23),
        (
            "one protocol twice",
            {
                let join = join("new", "");
                let twice = [&join.protocols[..], &join.protocols[..]].concat();
                join.with_protocols(twice)
            },
            79,
        ),
    ];
    for (what, request, code) in joins {
        let answer = client.call(9, &request).await.unwrap();
        assert_eq!((answer.error_code, answer.generation_id), (code, -1), "JoinGroup, {what}");
    }

    let sync = |group: &str, member: &str, generation| {
        let request = SyncGroupRequest::default().with_group_id(group_id(group)).with_member_id(text(member));
        request.with_generation_id(generation)
    };
    let syncs = [
        ("empty group id", sync("", "", 1), 24),
        ("too long a group id", sync(&long, "", 1), 24),
        ("unknown group", sync("none", &live.id, 1), 25),
        ("unknown member", sync("live", "nobody", 1), 25),
        ("unknown instance", sync("live", &live.id, 1).with_group_instance_id(Some(text("i"))), 25),
        ("negative generation", sync("live", &live.id, -1), 22),
        ("another generation", sync("live", &live.id, 9), 22),
        ("another protocol", sync("live", &live.id, 1).with_protocol_name(Some(text("other"))), 23),
        ("another protocol type", sync("live", &live.id, 1).with_protocol_type(Some(text("connect"))), 23),
    ];
    for (what, request, code) in syncs {
        assert_eq!(client.call(5, &request).await.unwrap().error_code, code, "SyncGroup, {what}");
    }

    let beat = |group: &str, member: &str, generation| {
        let request = HeartbeatRequest::default().with_group_id(group_id(group)).with_member_id(text(member));
        request.with_generation_id(generation)
    };
    let beats = [
        ("empty group id", beat("", "", 1), 24),
        ("too long a group id", beat(&long, "", 1), 24),
        ("unknown group", beat("none", &live.id, 1), 25),
        ("unknown member", beat("live", "nobody", 1), 25),
        ("negative generation", beat("live", &live.id, -1), 22),
        ("another generation", beat("live", &live.id, 9), 22),
        ("nothing wrong", beat("live", &live.id, 1), 0),
    ];
    for (what, request, code) in beats {
        assert_eq!(client.call(4, &request).await.unwrap().error_code, code, "Heartbeat, {what}");
    }

    let leave = |group: &str, members: &[&str]| {
        let members = members.iter().map(|id| MemberIdentity::default().with_member_id(text(id)));
        LeaveGroupRequest::default().with_group_id(group_id(group)).with_members(members.collect())
    };
    let leaves: [(_, _, _, &[i16]); 7] = [
        ("empty group id", leave("", &["nobody"]), 24, &[]),
        ("too long a group id", leave(&long, &["nobody"]), 24, &[]),
        ("unknown group", leave("none", &["nobody"]), 0, &[25]),
        ("unknown member", leave("live", &["nobody"]), 0, &[25]),
        ("one member twice", leave("live", &["nobody", "nobody"]), 0, &[25, 25]),
        ("nobody", leave("live", &[]), 0, &[]),
        ("nobody of an unknown group", leave("none", &[]), 0, &[]),
    ];
    for (what, request, code, rows) in leaves {
        let answer = client.call(5, &request).await.unwrap();
        let codes: Vec<i16> = answer.members.iter().map(|m| m.error_code).collect();
        assert_eq!((answer.error_code, &codes[..]), (code, rows), "LeaveGroup, {what}");
    }
    let old = LeaveGroupRequest::default().with_group_id(group_id("none")).with_member_id(text("nobody"));
    assert_eq!(client.call(2, &old).await.unwrap().error_code, 25);
    assert_eq!(client.call(4, &beat("live", &live.id, 1)).await.unwrap().error_code, 0, "nothing changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets() {
    let (_stack, mut client, live) = cluster("refused-offsets").await;
    let long = too_long();
    let nobody = Member::none;
    let as_member = |id: &str, generation| Member { id: id.into(), generation, ..Member::none("live") };
    let commits: [(_, _, &[i16]); 12] = [
        (
            "generation of an unknown group",
            commit_request(&Member { generation: 5, ..nobody("none") }, "t", &[(0, 1)]),
            &[69],
        ),
        ("too long a group id", commit_request(&nobody(&long), "t", &[(0, 1)]), &[24]),
        ("unknown topic", commit_request(&nobody("new"), "none", &[(0, 1)]), &[3]),
        ("too long a topic", commit_request(&nobody("new"), &"t".repeat(250), &[(0, 1)]), &[3]),
        ("unknown partition", commit_request(&nobody("new"), "t", &[(7, 1)]), &[3]),
        ("negative partition", commit_request(&nobody("new"), "t", &[(-1, 1)]), &[3]),
        ("no partitions", commit_request(&nobody("new"), "t", &[]), &[]),
        ("nothing", commit_request(&nobody("new"), "t", &[]).with_topics(vec![]), &[]),
        ("nobody, to a group with members", commit_request(&nobody("live"), "t", &[(0, 1)]), &[25]),
        ("unknown member", commit_request(&as_member("nobody", 1), "t", &[(0, 1)]), &[25]),
        ("another generation", commit_request(&as_member(&live.id, 9), "t", &[(0, 1)]), &[22]),
        ("negative generation of a member", commit_request(&as_member(&live.id, -1), "t", &[(0, 1)]), &[22]),
    ];
    for (what, request, codes) in commits {
        let answer = client.call(9, &request).await.unwrap();
        let found: Vec<i16> = answer.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
        assert_eq!(found, codes, "OffsetCommit, {what}");
    }
    let old = commit_request(&Member { generation: 5, ..nobody("none") }, "t", &[(0, 1)]);
    assert_eq!(client.call(8, &old).await.unwrap().topics[0].partitions[0].error_code, 22);
    let listed = client.call(5, &ListGroupsRequest::default()).await.unwrap();
    assert_eq!(listed.groups.len(), 1, "refused commits make no group: {listed:?}");
    let twice = commit_request(&nobody("kept"), "t", &[(0, 1), (0, 2)]);
    let answer = client.call(9, &twice).await.unwrap();
    assert_eq!(answer.topics[0].partitions.iter().map(|p| p.error_code).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(
        fetch_offsets(&mut client, "kept").await.unwrap(),
        [("t".into(), 0, 2, String::new())],
        "the last counts"
    );

    // Nothing is committed: that is no error, whatever was asked for.
    let of = |topic: &str, partitions: &[i32]| {
        OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(partitions.to_vec())
    };
    let asked = |group: &str, topics| {
        OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(topics))
    };
    let fetches: [(_, _, _, &[i64]); 7] = [
        ("unknown group", asked("none", vec![of("t", &[0])]), 0, &[-1]),
        ("too long a group id", asked(&long, vec![of("t", &[0])]), 24, &[]),
        ("unknown topic", asked("kept", vec![of("none", &[0])]), 0, &[-1]),
        ("unknown and negative partitions", asked("kept", vec![of("t", &[7, -1])]), 0, &[-1, -1]),
        ("one partition twice", asked("kept", vec![of("t", &[0, 0])]), 0, &[2, 2]),
        ("no partitions", asked("kept", vec![of("t", &[])]), 0, &[]),
        ("no topics", asked("kept", vec![]), 0, &[]),
    ];
    for (what, group, code, offsets) in fetches {
        let answer = client.call(9, &OffsetFetchRequest::default().with_groups(vec![group])).await.unwrap();
        let rows = answer.groups[0].topics.iter().flat_map(|t| &t.partitions);
        let found: Vec<i64> = rows.map(|p| if p.error_code == 0 { p.committed_offset } else { -2 }).collect();
        assert_eq!((answer.groups[0].error_code, &found[..]), (code, offsets), "OffsetFetch, {what}");
    }
    // Every topic that was named is answered, in the order of the request, also one without partitions.
    let named = vec![of("none", &[]), of("t", &[0]), of("t", &[])];
    for version in 1..=9 {
        let topics: Vec<(String, usize)> = if version < 8 {
            let topics = named.iter().map(|t| {
                OffsetFetchRequestTopic::default()
                    .with_name(t.name.clone())
                    .with_partition_indexes(t.partition_indexes.clone())
            });
            let request = OffsetFetchRequest::default().with_group_id(group_id("kept"));
            let answer = client.call(version, &request.with_topics(Some(topics.collect()))).await.unwrap();
            answer.topics.iter().map(|t| (t.name.to_string(), t.partitions.len())).collect()
        } else {
            let request = OffsetFetchRequest::default().with_groups(vec![asked("kept", named.clone())]);
            let answer = client.call(version, &request).await.unwrap();
            answer.groups[0].topics.iter().map(|t| (t.name.to_string(), t.partitions.len())).collect()
        };
        let expected = [("none", 0), ("t", 1), ("t", 0)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(topics, expected, "version {version}");
    }
    let twice = OffsetFetchRequest::default().with_groups(vec![asked("kept", vec![of("t", &[0])]); 2]);
    assert_eq!(client.call(9, &twice).await.unwrap().groups.len(), 2);
    assert_eq!(client.call(9, &OffsetFetchRequest::default()).await.unwrap().groups, []);

    let delete = |group: &str, topic: &str, partitions: &[i32]| {
        let partitions = partitions.iter().map(|p| OffsetDeleteRequestPartition::default().with_partition_index(*p));
        let topic =
            OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect());
        OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(vec![topic])
    };
    let deletions: [(_, _, _, &[i16]); 8] = [
        ("empty group id", delete("", "t", &[0]), 24, &[]),
        ("too long a group id", delete(&long, "t", &[0]), 24, &[]),
        ("unknown group", delete("none", "t", &[0]), 69, &[]),
        ("unknown topic", delete("kept", "none", &[0]), 0, &[3]),
        ("unknown and negative partitions", delete("kept", "t", &[7, -1]), 0, &[3, 3]),
        ("a topic in use", delete("live", "t", &[0]), 0, &[86]),
        ("nothing", delete("kept", "t", &[]).with_topics(vec![]), 0, &[]),
        ("one partition twice", delete("kept", "t", &[0, 0]), 0, &[0, 0]),
    ];
    for (what, request, code, rows) in deletions {
        let answer = client.call(0, &request).await.unwrap();
        let found: Vec<i16> = answer.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
        assert_eq!((answer.error_code, &found[..]), (code, rows), "OffsetDelete, {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups() {
    let (_stack, mut client, _live) = cluster("refused-groups").await;
    let long = too_long();
    let commit = commit_request(&Member::none("kept"), "t", &[(0, 1)]);
    assert_eq!(client.call(9, &commit).await.unwrap().topics[0].partitions[0].error_code, 0);

    // An error comes with a message where the version has one.
    let describe =
        |names: &[&str]| DescribeGroupsRequest::default().with_groups(names.iter().map(|n| group_id(n)).collect());
    let descriptions: [(&[&str], &[Described]); 5] = [
        (&["none"], &[(69, "Dead")]),
        (&[""], &[(69, "Dead")]),
        (&[&long], &[(24, "")]),
        (&["live", "live", "kept"], &[(0, "Stable"), (0, "Stable"), (0, "Empty")]),
        (&[], &[]),
    ];
    for (names, expected) in descriptions {
        let answer = client.call(6, &describe(names)).await.unwrap();
        let rows: Vec<_> = answer.groups.iter().map(|g| (g.error_code, g.group_state.as_str())).collect();
        assert_eq!(rows, expected, "DescribeGroups {names:?}");
        assert!(answer.groups.iter().all(|g| g.error_message.is_some() == (g.error_code != 0)), "{answer:?}");
    }
    let old = client.call(5, &describe(&["none"])).await.unwrap();
    assert_eq!((old.groups[0].error_code, old.groups[0].group_state.as_str()), (0, "Dead"));

    let list = |states: &[&str], types: &[&str]| {
        let strings = |words: &[&str]| words.iter().map(|w| text(w)).collect();
        ListGroupsRequest::default().with_states_filter(strings(states)).with_types_filter(strings(types))
    };
    for (states, types, count) in [
        (&[][..], &[][..], 2),
        (&["idle"], &[], 0),
        (&["", "stable"], &[], 1),
        (&[], &["none"], 0),
        (&[], &["CLASSIC"], 2),
    ] {
        let answer = client.call(5, &list(states, types)).await.unwrap();
        assert_eq!((answer.error_code, answer.groups.len()), (0, count), "ListGroups {states:?} {types:?}");
        assert!(answer.groups.iter().all(|g| g.group_type.as_str() == "classic"));
    }

    let delete =
        |names: &[&str]| DeleteGroupsRequest::default().with_groups_names(names.iter().map(|n| group_id(n)).collect());
    let deletions: [(&[&str], &[i16]); 5] =
        [(&["none", ""], &[69, 69]), (&[&long], &[24]), (&["live"], &[68]), (&["kept", "kept"], &[0]), (&[], &[])];
    for (names, expected) in deletions {
        let answer = client.call(2, &delete(names)).await.unwrap();
        assert_eq!(answer.results.iter().map(|r| r.error_code).collect::<Vec<_>>(), expected, "DeleteGroups {names:?}");
    }

    let find = |kind, keys: &[&str]| {
        let keys = keys.iter().map(|k| text(k)).collect();
        FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(keys)
    };
    for (kind, keys, codes) in
        [(0, &["none", "none"][..], &[0, 0][..]), (0, &[], &[]), (2, &["share"], &[42]), (-1, &["g"], &[42])]
    {
        let answer = client.call(6, &find(kind, keys)).await.unwrap();
        assert_eq!(
            answer.coordinators.iter().map(|c| c.error_code).collect::<Vec<_>>(),
            codes,
            "FindCoordinator {kind}"
        );
        assert!(answer.coordinators.iter().all(|c| c.error_code == 0 || c.error_message.is_some()));
    }
    let old = FindCoordinatorRequest::default().with_key_type(7).with_key(text("g"));
    let answer = client.call(3, &old).await.unwrap();
    assert!(answer.error_code == 42 && answer.error_message.is_some(), "{answer:?}");
}

/// An API's versions that do not exist, and a request of it that is too large: the connection ends without an answer.
pub(super) async fn ends_the_connection(stack: &Stack, api: &ApiVersion) {
    let header = |version: i16| {
        let mut header = Vec::from(api.api_key.to_be_bytes());
        header.extend_from_slice(&version.to_be_bytes());
        header.extend_from_slice(&[0, 0, 0, 1, 0xff, 0xff, 0]);
        header
    };
    let closes = async |what: &str, length: u32, header: &[u8]| {
        let mut connection = Connection::open(&stack.address()).await.expect("the broker accepts");
        connection.send_raw(&[&length.to_be_bytes()[..], header].concat()).await.expect("sent");
        let answered = connection.receive_raw().await;
        assert!(matches!(answered, Err(ClientError::Io(_))), "{what}: {answered:?}");
    };
    // A version of ApiVersions that is not known is answered, so that clients can ask again.
    let versions = if api.api_key == ApiKey::ApiVersions as i16 { vec![] } else { vec![-1, api.max_version + 1] };
    for version in versions.into_iter().chain((api.min_version > 0).then_some(api.min_version - 1)) {
        let header = header(version);
        closes(&format!("{api:?}, version {version}"), header.len() as u32, &header).await;
    }
    closes(&format!("{api:?}, 100 MiB"), (100 << 20) + 1, &header(api.max_version)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_versions_and_sizes_end_only_their_connection() {
    let (stack, mut client, _live) = cluster("refused-versions").await;
    let apis = client.api_versions().await.unwrap();
    assert!(apis.len() > 30);
    for api in apis {
        ends_the_connection(&stack, &api).await;
    }
    is_alive(&stack).await;
}

/// APIs that only describe the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptions() {
    let (_stack, mut client, _live) = cluster("refused-descriptions").await;
    let long = "t".repeat(250);

    let dirs = |topics: &[Partitions]| {
        let topics = topics.iter().map(|(name, partitions)| {
            DescribableLogDirTopic::default().with_topic(topic_name(name)).with_partitions(partitions.to_vec())
        });
        DescribeLogDirsRequest::default().with_topics(Some(topics.collect()))
    };
    let table: [(&[Partitions], usize); 6] = [
        (&[("none", &[0])], 0),
        (&[("t", &[7, -1])], 0),
        (&[("t", &[0, 0]), ("t", &[0])], 1),
        (&[(&long, &[0])], 0),
        (&[], 0),
        (&[("t", &[])], 0),
    ];
    for (topics, count) in table {
        let answer = client.call(4, &dirs(topics)).await.unwrap();
        let rows = answer.results[0].topics.iter().map(|t| t.partitions.len()).sum::<usize>();
        assert_eq!(
            (answer.error_code, answer.results[0].error_code, rows),
            (0, 0, count),
            "DescribeLogDirs {topics:?}"
        );
    }

    let pages = |names: &[&str]| {
        let topics = names.iter().map(|n| TopicRequest::default().with_name(topic_name(n)));
        DescribeTopicPartitionsRequest::default().with_topics(topics.collect()).with_response_partition_limit(9)
    };
    let table: [(&[&str], &[i16]); 4] = [(&["none"], &[3]), (&["t", "t"], &[0]), (&[&long], &[17]), (&[], &[0])];
    for (names, codes) in table {
        let answer = client.call(0, &pages(names)).await.unwrap();
        assert_eq!(
            answer.topics.iter().map(|t| t.error_code).collect::<Vec<_>>(),
            codes,
            "DescribeTopicPartitions {names:?}"
        );
    }
    for (topic, partition) in [("t", -1), ("none", 0)] {
        let cursor = Cursor::default().with_topic_name(topic_name(topic)).with_partition_index(partition);
        let answer = client.call(0, &pages(&["t"]).with_cursor(Some(cursor))).await.unwrap();
        assert_eq!(answer.topics.iter().map(|t| t.error_code).collect::<Vec<_>>(), [42], "cursor {topic} {partition}");
    }

    let cluster = |kind| DescribeClusterRequest::default().with_endpoint_type(kind);
    for (kind, code) in [(1, 0), (2, 114), (0, 115), (9, 115)] {
        let answer = client.call(2, &cluster(kind)).await.unwrap();
        assert_eq!((answer.error_code, answer.error_message.is_some()), (code, code != 0), "DescribeCluster {kind}");
    }

    let moves = |topics: &[Partitions]| {
        let topics = topics.iter().map(|(name, partitions)| {
            ListPartitionReassignmentsTopics::default()
                .with_name(topic_name(name))
                .with_partition_indexes(partitions.to_vec())
        });
        ListPartitionReassignmentsRequest::default().with_topics(Some(topics.collect()))
    };
    let table: [&[Partitions]; 4] = [&[("none", &[0])], &[("t", &[-1, 7])], &[("t", &[0]), ("t", &[0])], &[]];
    for topics in table {
        let answer = client.call(0, &moves(topics)).await.unwrap();
        assert_eq!((answer.error_code, answer.topics.len()), (0, 0), "ListPartitionReassignments {topics:?}");
    }

    let resources = |types: &[i8]| ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
    for (types, code) in [(&[3][..], 35), (&[2, 3], 35), (&[-1], 35), (&[2, 2], 0), (&[], 0), (&[8], 0)] {
        let answer = client.call(1, &resources(types)).await.unwrap();
        assert_eq!(answer.error_code, code, "ListConfigResources {types:?}");
    }
}
