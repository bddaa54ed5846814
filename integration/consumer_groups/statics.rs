//! Static members of the consumer protocol: who leaves with epoch -2 is waited for until its session ends, and nobody takes
//! its place or its instance meanwhile.

use super::member::{LEAVE_STATIC, Member, settle};
use super::{describe, held};
use crate::client::{Client, ClientError};
use crate::clients::{Client as Program, Running};
use crate::harness::{Backend, Stack, wait_until};
use kafka_protocol::messages::consumer_group_describe_response::Member as DescribedMember;
use std::collections::BTreeSet;
use std::time::Duration;

const FENCED_INSTANCE_ID: i16 = 82;
const UNRELEASED_INSTANCE_ID: i16 = 111;
const DEADLINE: Duration = Duration::from_secs(120);

/// A broker that waits `session_ms` for its members.
async fn start(name: &str, backend: Backend, session_ms: &str) -> Stack {
    let envs = [
        ("KAFSCALE_GROUP_CONSUMER_SESSION_TIMEOUT_MS", session_ms),
        ("KAFSCALE_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", "1000"),
        ("KAFSCALE_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "200"),
        ("KAFSCALE_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", "100"),
        ("KAFSCALE_FLUSH_INTERVAL_MS", "20"),
    ];
    Stack::start(name, backend, &envs).await
}

/// A process with the instance, which is new.
fn of_instance(instance: &'static str) -> Member {
    Member { instance: Some(instance), ..Member::new("g") }
}

/// The code that a member's next heartbeat is refused with.
async fn refused(client: &mut Client, member: &mut Member) -> i16 {
    let request = member.heartbeat();
    match member.send(client, request).await {
        Err(ClientError::Code(code)) => code,
        other => panic!("{member:?}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_comes_back_to_its_partitions_also_after_a_kill() {
    let mut stack = start("consumer-static", Backend::S3, "45000").await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 4).await;
    let mut members = vec![of_instance("i"), Member::new("g")];
    settle(&mut client, &mut members).await;
    let before = held(&members);
    assert!(members.iter().all(|m| m.owned.len() == 2), "{members:?}");

    let mut second = of_instance("i");
    assert_eq!(refused(&mut client, &mut second).await, UNRELEASED_INSTANCE_ID, "the first one is there");
    assert_eq!(settle(&mut client, &mut members).await, 0, "nobody notices the second");
    assert_eq!(held(&members), before);

    for kill in [false, true] {
        let left = members.remove(0);
        left.clone().leave(&mut client, LEAVE_STATIC).await;
        if kill {
            stack.broker.restart().await; // SIGKILL
            client = Client::new(&stack.address());
        }
        assert_eq!(settle(&mut client, &mut members).await, 0, "its partitions wait for it");
        let mut back = of_instance("i");
        back.beat(&mut client).await;
        assert_ne!(back.id, left.id);
        members.insert(0, back);
        assert_eq!(held(&members), before, "the former assignment at once");
        assert_eq!(settle(&mut client, &mut members).await, 0, "nobody notices");
        let mut old = left;
        assert_eq!(refused(&mut client, &mut old).await, FENCED_INSTANCE_ID);
    }
    assert_eq!(describe(&mut client, &["g"]).await[0].group_epoch, before[0].0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_a_static_member_that_stays_away_go_to_others() {
    let stack = start("consumer-static-away", Backend::Dev, "3000").await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 4).await;
    let mut members = vec![of_instance("i"), Member::new("g")];
    settle(&mut client, &mut members).await;
    let epoch = members[1].epoch;
    members.remove(0).leave(&mut client, LEAVE_STATIC).await;
    wait_until("its session ends", DEADLINE, async || {
        settle(&mut client, &mut members).await;
        assert!(members[0].epoch == epoch || members[0].owned.len() == 4, "one step for both");
        members[0].owned.len() == 4
    })
    .await;
    let group = &describe(&mut client, &["g"]).await[0];
    assert_eq!((group.group_state.as_str(), group.members.len()), ("Stable", 1));
    let mut back = of_instance("i");
    back.beat(&mut client).await;
    members.push(back);
    settle(&mut client, &mut members).await;
    assert!(members.iter().all(|m| m.owned.len() == 2), "as somebody new: {members:?}");
}

/// Everything a member was assigned.
fn partitions(member: &DescribedMember) -> BTreeSet<i32> {
    member.assignment.topic_partitions.iter().flat_map(|t| t.partitions.iter().copied()).collect()
}

/// The group's epoch, and id, epoch and partitions of the member with this instance, once the group is stable.
async fn stable(client: &mut Client, instance: &str, members: usize) -> (i32, String, i32, BTreeSet<i32>) {
    let mut found = None;
    wait_until("the group is stable", DEADLINE, async || {
        let group = describe(client, &["g"]).await.remove(0);
        let member = group.members.iter().find(|m| m.instance_id.as_deref() == Some(instance));
        let is_stable = group.group_state.as_str() == "Stable" && group.members.len() == members;
        found = member
            .filter(|_| is_stable)
            .map(|m| (group.group_epoch, m.member_id.to_string(), m.member_epoch, partitions(m)));
        found.is_some()
    })
    .await;
    found.expect("just found")
}

/// The same with other people's consumers: what they read, together, is every record once. `unreleased`: what a second process
/// says when it is refused.
async fn clients_come_back(program: Program, unreleased: &str) {
    const PARTITIONS: i32 = 6;
    let stack = start("consumer-static-clients", Backend::Dev, "6000").await;
    let address = stack.address();
    let mut client = Client::new(&address);
    client.ensure_topic("t", PARTITIONS).await;
    let mut written = 0;
    let mut write = async |client: &mut Client| {
        for n in 0..10 * PARTITIONS {
            client.produce_values("t", n % PARTITIONS, &[b"v"]).await;
        }
        written += 10 * PARTITIONS as usize;
    };
    let member = |instance| Running::start(&program, &address, "t", "g", &["consumer", instance]);
    write(&mut client).await;
    let (x, y) = (member("x"), member("y"));
    let (_, x_id, _, of_x) = stable(&mut client, "x", 2).await;
    let before = stable(&mut client, "y", 2).await;
    assert_eq!((of_x.len(), before.3.len()), (3, 3));

    let printed = program.run_in_vain(&["group", &address, "t", "g", "1", "consumer", "x"]).await;
    assert!(printed.contains(unreleased), "the first process with instance x is there:\n{printed}");
    assert_eq!(stable(&mut client, "y", 2).await, before, "nobody notices");

    // It leaves and another process comes in time.
    let mut read = x.stop().await;
    assert_eq!(stable(&mut client, "x", 2).await.2, LEAVE_STATIC);
    write(&mut client).await;
    let x = member("x");
    x.has_read(1).await;
    let (epoch, id, _, again) = stable(&mut client, "x", 2).await;
    assert_eq!((epoch, &again), (before.0, &of_x), "its former partitions, without a rebalance");
    assert_ne!(id, x_id);
    assert_eq!(stable(&mut client, "y", 2).await, before, "nobody notices");

    // It leaves, and nobody comes.
    read.extend(x.stop().await);
    let alone = stable(&mut client, "y", 1).await;
    assert_eq!((alone.1, alone.3.len()), (before.1, PARTITIONS as usize));
    write(&mut client).await;
    wait_until("everything is read", DEADLINE, async || read.len() + y.count() >= written).await;
    read.extend(y.stop().await);
    let distinct: BTreeSet<&String> = read.iter().collect();
    assert_eq!((distinct.len(), read.len()), (written, written), "every record once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_members_of_java_come_back() {
    clients_come_back(Program::java(), "UnreleasedInstanceIdException").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_members_of_librdkafka_come_back() {
    clients_come_back(Program::python("python/confluent.py"), "The instance ID is still used by another member").await;
}
