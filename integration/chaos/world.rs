//! Three brokers, three members of etcd and an S3 server, with a wire wherever two of them, or a client and a broker, meet.

use super::ensemble::Ensemble;
use super::wire::Wire;
use crate::client::Client;
use crate::harness::{Broker, S3Proxy, S3Server, TestDir, store_envs, wait_until};
use crate::process::free_port;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Brokers, with ids from 1.
pub const BROKERS: usize = 3;
/// How long anything may take that has to happen.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// Space of etcd if nothing else is said.
pub const QUOTA_BYTES: u64 = 1 << 30;

/// A broker and the wires from and to it.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub broker: Broker,
    /// To each member of etcd.
    pub etcd: Vec<Wire>,
    /// To S3.
    pub s3: Wire,
    /// From clients; the address that the broker advertises.
    pub clients: Wire,
    /// How far its wall clock is ahead, ms; read by debug builds.
    clock: PathBuf,
}

impl Node {
    /// Cuts or heals what it says to etcd, and what it hears from there.
    pub fn cut_etcd(&self, requests: bool, answers: bool) {
        self.etcd.iter().for_each(|wire| wire.set(requests, answers, Duration::ZERO));
    }

    /// Moves its wall clock away from the machine's.
    pub fn set_clock(&self, ahead_ms: i64) {
        // Renamed into place: half a number would be another time.
        let new = self.clock.with_extension("new");
        std::fs::write(&new, ahead_ms.to_string()).expect("the file can be written");
        std::fs::rename(&new, &self.clock).expect("the file can be renamed");
    }
}

/// See the module's documentation. Ended in this order.
#[derive(Debug)]
pub struct World {
    /// By number, from 0.
    pub nodes: Vec<Node>,
    /// The metadata store.
    pub etcd: Ensemble,
    /// Faults of S3 itself.
    pub s3_proxy: S3Proxy,
    /// The object store.
    pub s3: S3Server,
    dir: TestDir,
}

/// What differs between worlds.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// `KAFSCALE_BROKER_LEASE_SEC`.
    pub lease_sec: u64,
    /// `--quota-backend-bytes` of etcd.
    pub quota_bytes: u64,
    /// Further variables of the brokers.
    pub envs: &'static [(&'static str, &'static str)],
}

impl World {
    /// Starts everything and waits until all brokers are ready.
    pub async fn start(name: &str, shape: Shape) -> Self {
        let dir = TestDir::new(name);
        let etcd = Ensemble::start(dir.path(), shape.quota_bytes).await;
        let s3 = S3Server::start(dir.path()).await;
        let s3_proxy = S3Proxy::start(dir.path(), &s3.address(), 1, "profile=none").await;
        let mut nodes = Vec::new();
        for id in 1..=BROKERS {
            let mut wires = Vec::new();
            for member in etcd.addresses() {
                wires.push(Wire::to(&member).await);
            }
            let s3_wire = Wire::to(&s3_proxy.address()).await;
            let port = free_port();
            let clients = Wire::to(&format!("127.0.0.1:{port}")).await;
            let clock = dir.path().join(format!("clock-{id}"));
            let endpoints: Vec<String> = wires.iter().map(|w| format!("http://{}", w.address())).collect();
            let mut envs = store_envs(&endpoints.join(","), &s3_wire.address());
            envs.extend([
                ("KAFSCALE_BROKER_ID", id.to_string()),
                ("KAFSCALE_BROKER_LEASE_SEC", shape.lease_sec.to_string()),
                ("KAFSCALE_FLUSH_INTERVAL_MS", "20".into()),
                ("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "0".into()),
                ("KAFSCALE_BROKER_PORT", clients.port().to_string()),
            ]);
            if cfg!(debug_assertions) {
                envs.push((kafscale::clock::OFFSET_FILE_VARIABLE, clock.display().to_string()));
            }
            envs.extend(shape.envs.iter().map(|(k, v)| (*k, v.to_string())));
            let broker = Broker::spawn_member(port, &envs, &dir.path().join(format!("broker-{id}.log")));
            nodes.push(Node { broker, etcd: wires, s3: s3_wire, clients, clock });
        }
        let mut world = Self { nodes, etcd, s3_proxy, s3, dir };
        for node in &mut world.nodes {
            node.broker.wait_ready().await;
        }
        world
    }

    /// Where clients connect, by number of the broker.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.clients.address()).collect()
    }

    /// The wires of all brokers.
    pub fn wires(&self) -> impl Iterator<Item = &Wire> {
        self.nodes.iter().flat_map(|n| n.etcd.iter().chain([&n.s3, &n.clients]))
    }

    /// Ends all faults but those of brokers that have ended.
    pub async fn heal(&mut self) {
        self.wires().for_each(Wire::heal);
        for node in &mut self.nodes {
            node.set_clock(0);
            node.broker.process.resume();
        }
        for member in &mut self.etcd.members {
            member.peers.heal();
            member.process.resume();
            if member.process.exited().is_some() {
                member.restart();
            }
        }
        self.s3.process.resume();
        if self.s3.process.exited().is_some() {
            self.s3.restart().await;
        }
        self.s3_proxy.set("profile=none&500=0&503=0&lost=0&applied500=0").await;
        self.etcd.wait_joined().await;
        if !self.etcd.alarms().await.is_empty() {
            self.etcd.make_space().await;
        }
        self.etcd.wait_healthy().await;
    }

    /// Starts brokers again that have ended, as a supervisor would; how each of them ended.
    pub async fn restart_ended(&mut self) -> Vec<Option<i32>> {
        let mut codes = Vec::new();
        for node in &mut self.nodes {
            if let Some(status) = node.broker.process.exited() {
                codes.push(status.code());
                node.broker.relaunch();
                node.broker.wait_ready().await;
            }
        }
        codes
    }

    /// The exit codes of brokers that have ended.
    pub fn ended(&mut self) -> Vec<Option<i32>> {
        self.nodes.iter_mut().filter_map(|n| n.broker.process.exited()).map(|s| s.code()).collect()
    }

    /// Partitions of `topic` by the broker (by number) that leads them, as broker `asked` says; nobody's are left out.
    pub async fn leaders(&self, asked: usize, topic: &str) -> BTreeMap<usize, BTreeSet<i32>> {
        leaders(&self.nodes[asked].clients.address(), topic).await
    }

    /// Waits until brokers other than `gone` lead all `partitions` of `topic`, as broker `asked` says.
    pub async fn wait_taken_over(&self, asked: usize, gone: usize, topic: &str, partitions: usize) {
        wait_until("the others lead what it led", DEADLINE, async || {
            let now = self.leaders(asked, topic).await;
            !now.contains_key(&gone) && now.values().map(BTreeSet::len).sum::<usize>() == partitions
        })
        .await;
    }

    /// Waits until each broker leads something of `topic` again.
    pub async fn wait_shared_out(&self, topic: &str) {
        wait_until("every broker has a share", DEADLINE, async || self.leaders(0, topic).await.len() == BROKERS).await;
    }
}

async fn leaders(address: &str, topic: &str) -> BTreeMap<usize, BTreeSet<i32>> {
    let mut leaders: BTreeMap<usize, BTreeSet<i32>> = BTreeMap::new();
    let Ok(metadata) = Client::new(address).metadata(Some(&[topic]), false).await else { return leaders };
    for partition in metadata.topics.first().into_iter().flat_map(|t| &t.partitions) {
        if let Ok(id) = usize::try_from(partition.leader_id.0) {
            leaders.entry(id - 1).or_default().insert(partition.partition_index);
        }
    }
    leaders
}
