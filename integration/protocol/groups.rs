//! Cases 9 and 55-59: coordinators, offsets, members.

use super::{dev, topic};
use crate::client::{Client, Connection, text, topic_name};
use crate::group_client::{Member, commit_request, fetch_offsets, group_id, join_request};
use crate::harness::Stack;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{FindCoordinatorRequest, HeartbeatRequest, OffsetFetchRequest};

async fn without_delay(name: &str) -> Stack {
    dev(name, &[("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_and_offsets() {
    let stack = without_delay("group-offsets").await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 3, &[]).await;

    // 9. The coordinator is a broker that Metadata lists, under the same address.
    let brokers = client.metadata(Some(&[]), false).await.unwrap().brokers;
    for version in 0..=6 {
        let request = match version {
            4.. => FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]),
            _ => FindCoordinatorRequest::default().with_key(text("g")),
        };
        let found = client.call(version, &request).await.unwrap();
        let (node, host, port) = match found.coordinators.first() {
            Some(c) => (c.node_id, c.host.clone(), c.port),
            None => (found.node_id, found.host, found.port),
        };
        assert!(brokers.iter().any(|b| b.node_id == node && b.host == host && b.port == port), "version {version}");
    }

    // 55. A group that was never seen has offset -1 everywhere, and no offsets at all if none are named.
    for version in 1..=7 {
        let asked = OffsetFetchRequestTopic::default().with_name(topic_name("t")).with_partition_indexes(vec![0, 2]);
        let request = OffsetFetchRequest::default().with_group_id(group_id("never")).with_topics(Some(vec![asked]));
        let answer = client.call(version, &request).await.unwrap();
        let rows = &answer.topics[0].partitions;
        assert!(rows.len() == 2 && rows.iter().all(|p| (p.committed_offset, p.error_code) == (-1, 0)), "{rows:?}");
        if version >= 2 {
            let answer = client.call(version, &request.with_topics(None)).await.unwrap();
            assert_eq!((answer.error_code, answer.topics.len()), (0, 0));
        }
    }
    for version in 8..=9 {
        let asked = OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_partition_indexes(vec![1]);
        let group = OffsetFetchRequestGroup::default().with_group_id(group_id("never"));
        let groups = vec![group.clone().with_topics(Some(vec![asked])), group.with_topics(None)];
        let answer = client.call(version, &OffsetFetchRequest::default().with_groups(groups)).await.unwrap();
        assert_eq!(answer.groups[0].topics[0].partitions[0].committed_offset, -1);
        assert_eq!((answer.groups[1].error_code, answer.groups[1].topics.len()), (0, 0));
    }

    // 56. Metadata comes back as it was; too much of it is refused, and only for its partition.
    let nobody = Member::none("g");
    let mut request = commit_request(&nobody, "t", &[(0, 7), (1, 8)]);
    request.topics[0].partitions[0].committed_metadata = Some(text("x"));
    request.topics[0].partitions[1].committed_metadata = Some(text(&"x".repeat(4_097)));
    let answer = client.call(9, &request).await.unwrap();
    let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [0, 12]);
    assert_eq!(fetch_offsets(&mut client, "g").await.unwrap(), [("t".into(), 0, 7, "x".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members() {
    let stack = without_delay("group-members").await;
    let address = stack.address();

    // 57. Version 3 admits a member without an id, version 4 gives it one first.
    let mut client = Client::new(&address);
    let old = client.call(3, &join_request("old", "", None)).await.unwrap();
    assert_eq!((old.error_code, old.generation_id), (0, 1));
    let asked = client.call(4, &join_request("new", "", None)).await.unwrap();
    assert_eq!((asked.error_code, asked.generation_id), (79, -1));
    let joined = client.call(4, &join_request("new", &asked.member_id, None)).await.unwrap();
    assert_eq!((joined.error_code, &joined.member_id), (0, &asked.member_id));

    // 59. Two processes with one instance id: the first is fenced, the others do not rebalance.
    let mut other = Member::join(&address, "static", Some("other")).await;
    let first = Member::join_with(&address, "static", Some("one"), &mut [&mut other]).await;
    let generation = first.generation;
    let second = Member::join(&address, "static", Some("one")).await;
    assert_eq!((second.generation, second.id == first.id), (generation, false));
    assert_eq!(second.assignment, first.assignment, "with what the first had");
    let beat = |m: &Member, instance: &str| {
        HeartbeatRequest::default()
            .with_group_id(group_id("static"))
            .with_member_id(text(&m.id))
            .with_generation_id(m.generation)
            .with_group_instance_id(Some(text(instance)))
    };
    for (request, code) in [(beat(&first, "one"), 82), (beat(&second, "one"), 0), (beat(&other, "other"), 0)] {
        assert_eq!(client.call(4, &request).await.unwrap().error_code, code);
    }
}

/// 58. Members that join while others rebalance never hear that they are unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_join_while_they_rebalance() {
    let stack = dev("group-rebalance", &[("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "50")]).await;
    let address = stack.address();
    for round in 0..5 {
        let group = format!("g{round}");
        let members: Vec<_> = (0..3)
            .map(|_| {
                let (address, group) = (address.clone(), group.clone());
                tokio::spawn(async move { live_through(&address, &group, 3).await })
            })
            .collect();
        let mut ended = Vec::new();
        for member in members {
            ended.push(member.await.expect("no member hears an error that it must not hear"));
        }
        assert!(ended.iter().all(|m| m.generation == ended[0].generation), "one last generation");
    }
}

/// Joins and goes on, through every rebalance, until the group has `size` members and is stable.
async fn live_through(address: &str, group: &str, size: usize) -> Member {
    let mut connection = Connection::open(address).await.unwrap();
    let mut member = Member::none(group);
    loop {
        member.rejoin(&mut connection).await;
        if !member.sync(&mut connection).await {
            continue;
        }
        // Every assignment names the number of members, so that each knows when all are there.
        if member.assignment == [size as u8] {
            return member;
        }
        while member.heartbeat(&mut connection).await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
