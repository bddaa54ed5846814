//! Several brokers on one etcd and one bucket: they share the partitions out, and whoever dies, is stopped or joins, clients
//! lose nothing, producers and members of a group alike; and how long a partition goes without acks when its leader is killed.
//! CI kills a few; `make chaos-cluster KILLS=1000` is the full size, says every 50 kills how far it is, and ends with one line
//! that begins with `cluster:`.

use crate::checker::{Kind, Report};
use crate::client::{Client, Connection, text};
use crate::group_client::Member;
use crate::harness::{Backend, Broker, Stack, s3_envs, size, wait_until};
use crate::rolling::quantile;
use crate::workload::{AckTimes, Plan, Rng, Workload};
use kafka_protocol::messages::FindCoordinatorRequest;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(60);
/// Brokers of a cluster.
pub const BROKERS: usize = 3;
/// A short lease, so that a death is noticed soon.
const LEASE_SEC: &str = "2";

/// Brokers 1 to 3, with etcd and an S3 server.
pub struct Cluster {
    /// The first one, and what they share.
    pub stack: Stack,
    /// The others.
    pub others: Vec<Broker>,
}

impl Cluster {
    /// Starts them.
    pub async fn start(name: &str, flush_ms: &str) -> Self {
        let of = |id: usize| [("KAFSCALE_BROKER_ID", id.to_string()), ("KAFSCALE_BROKER_LEASE_SEC", LEASE_SEC.into())];
        let own = [("KAFSCALE_FLUSH_INTERVAL_MS", flush_ms.to_owned())];
        let envs: Vec<(&str, String)> = of(1).into_iter().chain(own.clone()).collect();
        let envs: Vec<(&str, &str)> = envs.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let mut stack = Stack::start(name, Backend::S3, &envs).await;
        let proxy = stack.proxy().address();
        let mut others = Vec::new();
        for id in 2..=BROKERS {
            let mut envs = s3_envs(stack.etcd(), &proxy);
            envs.extend(of(id).into_iter().chain(own.clone()));
            let mut broker = Broker::spawn("broker", &envs, &stack.dir.path().join(format!("broker-{id}.log")));
            broker.wait_ready().await;
            others.push(broker);
        }
        Self { stack, others }
    }

    /// By number, from 0.
    pub fn broker(&mut self, n: usize) -> &mut Broker {
        if n == 0 { &mut self.stack.broker } else { &mut self.others[n - 1] }
    }

    /// Of all of them.
    pub fn addresses(&self) -> Vec<String> {
        let others = self.others.iter().map(Broker::address);
        [self.stack.address()].into_iter().chain(others).collect()
    }
}

/// Partitions by the broker that leads them, as the broker at `address` says.
pub async fn leaders(address: &str, topic: &str) -> BTreeMap<i32, BTreeSet<i32>> {
    let mut leaders: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
    let Ok(metadata) = Client::new(address).metadata(Some(&[topic]), false).await else { return leaders };
    for partition in metadata.topics.first().into_iter().flat_map(|t| &t.partitions) {
        leaders.entry(partition.leader_id.0).or_default().insert(partition.partition_index);
    }
    leaders
}

/// A broker that was killed.
struct Kill {
    at: Instant,
    /// When it was ready again.
    back: Instant,
    /// What it led.
    led: BTreeSet<i32>,
}

/// How long partitions went without acks.
#[derive(Default)]
struct Outages {
    /// After one kill.
    once: Vec<Duration>,
    /// While one broker after the other was killed.
    in_a_row: Vec<Duration>,
}

impl Outages {
    /// The longest time without an ack of each partition that a killed broker led, between the last ack before the kill and
    /// the first one after the broker was back.
    fn of(kills: &[Kill], acks: &AckTimes) -> Self {
        let acks = acks.lock().expect("no panic under the lock");
        let mut outages = Self::default();
        for kill in kills {
            for times in kill.led.iter().filter_map(|partition| acks.get(partition)) {
                let begin = times.partition_point(|t| *t <= kill.at).saturating_sub(1);
                let gaps = times[begin..].windows(2).take_while(|gap| gap[0] <= kill.back);
                let Some(gap) = gaps.max_by_key(|gap| gap[1] - gap[0]) else { continue };
                let met = kills.iter().filter(|other| gap[0] <= other.at && other.at <= gap[1]).count();
                let of = if met > 1 { &mut outages.in_a_row } else { &mut outages.once };
                of.push(gap[1] - gap[0]);
            }
        }
        outages.once.sort();
        outages.in_a_row.sort();
        outages
    }
}

impl std::fmt::Display for Outages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |times: &[Duration]| {
            let [p50, p99, max] = [50, 99, 100].map(|percent| quantile(times, percent).as_millis());
            format!("p50 {p50} ms, p99 {p99} ms, max {max} ms of {}", times.len())
        };
        write!(f, "a partition without acks after SIGKILL: {}", of(&self.once))?;
        write!(f, " (when another broker was killed meanwhile: {})", of(&self.in_a_row))
    }
}

/// What was promised, in one line.
fn verdict(report: &Report) -> String {
    use Kind::{BecameOutOfRange, CommittedOffsetWentBack, Duplicate, Hole, LostWrite, PollOrder, Reordered};
    let [lost, twice, reordered, back] = [
        report.count(&[LostWrite, Hole, BecameOutOfRange]),
        report.count(&[Duplicate]),
        report.count(&[Reordered, PollOrder]),
        report.count(&[CommittedOffsetWentBack]),
    ];
    let all = report.violations.len();
    format!(
        "{} records acked, {lost} lost, {twice} duplicated, {reordered} reordered, {back} committed offsets went back, \
         {all} violations in all",
        report.acked_values
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_share_partitions_out_and_survive_kills() {
    let (kills, seed) = (size("KILLS", 4), size("SEED", kafscale::rng::u64() >> 32));
    eprintln!("cluster: {kills} kills, SEED={seed}");
    let (mut rng, started) = (Rng(seed), kafscale::clock::monotonic());
    let mut cluster = Cluster::start("cluster-kills", "20").await;
    let addresses = cluster.addresses();
    let pause = Duration::from_millis(20);
    let plan = Plan { partitions: 6, producers: 6, pause, members: 2, ..Plan::new("ledger", seed) };
    let load = Workload::start_on(&addresses, plan).await;
    load.wait_acks(20).await;
    let shares = leaders(&addresses[0], "ledger").await;
    assert_eq!(shares.iter().map(|(node, p)| (*node, p.len())).collect::<Vec<_>>(), [(1, 2), (2, 2), (3, 2)]);
    wait_until("the group commits", DEADLINE, async || load.commits() > 0).await;
    let (mut killed, mut moved) = (Vec::new(), 0);
    for kill in 1..=kills {
        let victim = rng.below(BROKERS as u64) as usize;
        load.wait_acks(1 + rng.below(100)).await;
        let (node, alive) = (victim as i32 + 1, addresses[(victim + 1) % BROKERS].clone());
        let led = leaders(&alive, "ledger").await.remove(&node).unwrap_or_default();
        load.fault("kill", true);
        let at = kafscale::clock::monotonic();
        cluster.broker(victim).kill9();
        // Sometimes it comes back before anybody has noticed, sometimes the others have taken over.
        if rng.below(4) > 0 {
            wait_until("the others lead what it led", DEADLINE, async || {
                let now = leaders(&alive, "ledger").await;
                !now.is_empty() && !now.contains_key(&node) && !now.contains_key(&-1)
            })
            .await;
            moved += 1;
        }
        cluster.broker(victim).relaunch();
        cluster.broker(victim).wait_ready().await;
        load.fault("kill", false);
        killed.push(Kill { at, back: kafscale::clock::monotonic(), led });
        if kill % 50 == 0 {
            let outages = Outages::of(&killed, &load.ack_times());
            let (minutes, acks, commits) = (started.elapsed().as_secs() / 60, load.acks(), load.commits());
            eprintln!("{kill} of {kills} kills, {minutes} min, {acks} batches and {commits} commits acked; {outages}");
        }
    }
    load.wait_acks(20).await;
    wait_until("everybody has its share again", DEADLINE, async || {
        leaders(&addresses[0], "ledger").await.values().map(BTreeSet::len).eq([2, 2, 2])
    })
    .await;
    let (acks, commits) = (load.ack_times(), load.commits());
    let report = load.finish().await;
    eprintln!(
        "cluster: {kills} kills ({moved} times the others took over, else it was back first), {commits} commits of a group, \
         {}; {}; SEED={seed}",
        verdict(&report),
        Outages::of(&killed, &acks)
    );
    report.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_gives_everything_away_first() {
    let mut cluster = Cluster::start("cluster-rolling", "20").await;
    let addresses = cluster.addresses();
    let plan = Plan { partitions: 6, producers: 6, pause: Duration::from_millis(20), ..Plan::new("ledger", 1) };
    let load = Workload::start_on(&addresses, plan).await;
    for n in 0..BROKERS {
        load.wait_acks(50).await;
        load.fault("stop", true);
        assert!(cluster.broker(n).terminate().await.success());
        let (node, alive) = (n as i32 + 1, &addresses[(n + 1) % BROKERS]);
        assert!(!leaders(alive, "ledger").await.contains_key(&node));
        wait_until("others have claimed what it gave away", DEADLINE, async || {
            let now = leaders(alive, "ledger").await;
            now.values().map(BTreeSet::len).sum::<usize>() == 6 && !now.contains_key(&-1) && !now.contains_key(&node)
        })
        .await;
        cluster.broker(n).relaunch();
        cluster.broker(n).wait_ready().await;
        load.fault("stop", false);
    }
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_writer_acks_and_serves_nothing_after_it_was_replaced() {
    let mut cluster = Cluster::start("cluster-pause", "20").await;
    let addresses = cluster.addresses();
    let plan = Plan { partitions: 6, producers: 6, pause: Duration::from_millis(20), ..Plan::new("ledger", 2) };
    let load = Workload::start_on(&addresses, plan).await;
    load.wait_acks(50).await;
    load.fault("pause", true);
    cluster.broker(2).process.pause();
    wait_until("the others lead what it led", DEADLINE, async || {
        let now = leaders(&addresses[0], "ledger").await;
        now.len() == 2 && !now.contains_key(&3) && !now.contains_key(&-1)
    })
    .await;
    load.wait_acks(50).await;
    cluster.broker(2).process.resume();
    let status = cluster.broker(2).process.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(75), "{}", cluster.broker(2).process.log_tail());
    load.fault("pause", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
}

/// The coordinator of a group, as one of the brokers says that answers.
pub async fn find_coordinator(addresses: &[String], group: &str) -> Option<i32> {
    for address in addresses {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
        let Ok(answer) = Client::new(address).call(4, &request).await else { continue };
        if let Some(found) = answer.coordinators.first().filter(|c| c.error_code == 0) {
            return Some(found.node_id.0);
        }
    }
    None
}

/// The member's heartbeats find the new coordinator, which knows it: there is no rebalance.
async fn assert_goes_on(member: &Member, addresses: &[String]) {
    wait_until("the member's heartbeats succeed", DEADLINE, async || {
        let Some(node) = find_coordinator(addresses, &member.group).await else { return false };
        let Ok(mut connection) = Connection::open(&addresses[node as usize - 1]).await else { return false };
        let code = member.heartbeat_code(&mut connection).await;
        assert!([0, 14, 15, 16].contains(&code), "{} hears {code}", member.group);
        code == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_spread_over_brokers_and_move() {
    let mut cluster = Cluster::start("cluster-groups", "20").await;
    let addresses = cluster.addresses();
    Client::new(&addresses[0]).ensure_topic("t", 1).await;
    let coordinators = async |address: &str| {
        let mut found: BTreeMap<i32, usize> = BTreeMap::new();
        let keys = (0..60).map(|n| text(&format!("group-{n}"))).collect();
        let request = FindCoordinatorRequest::default().with_coordinator_keys(keys);
        let answer = Client::new(address).call(4, &request).await.expect("an answer");
        for coordinator in answer.coordinators {
            *found.entry(if coordinator.error_code == 0 { coordinator.node_id.0 } else { -1 }).or_default() += 1;
        }
        found
    };
    wait_until("every broker has some of the groups, and all agree", DEADLINE, async || {
        let found = coordinators(&addresses[0]).await;
        let others = [coordinators(&addresses[1]).await, coordinators(&addresses[2]).await];
        found.keys().eq(&[1, 2, 3]) && others.iter().all(|other| *other == found)
    })
    .await;
    // A member of a group of each of the two that will go.
    let mut members = Vec::new();
    for node in [2, 3] {
        let of_node = async |group: &str| find_coordinator(&addresses, group).await == Some(node);
        let mut groups = (0..60).map(|n| format!("group-{n}"));
        let group = loop {
            let group = groups.next().expect("every broker has some");
            if of_node(&group).await {
                break group;
            }
        };
        members.push(Member::join(&addresses[node as usize - 1], &group, None).await);
    }
    cluster.broker(1).kill9();
    wait_until("the others have them all", DEADLINE, async || {
        coordinators(&addresses[0]).await.keys().eq(&[1, 3]) && coordinators(&addresses[2]).await.keys().eq(&[1, 3])
    })
    .await;
    assert_goes_on(&members[0], &addresses).await;
    assert!(cluster.broker(2).terminate().await.success());
    wait_until("the last one has them all", DEADLINE, async || coordinators(&addresses[0]).await.keys().eq(&[1])).await;
    assert_goes_on(&members[1], &addresses[..1]).await;
}
