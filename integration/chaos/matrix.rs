//! All faults in random order, one or two at a time, each for up to `DURATION_SEC`.
//!
//! CI makes a few `ROUNDS`; `make chaos-matrix ROUNDS=60 DURATION_SEC=30` is the full size. `SEED` decides which faults come in
//! which order, where and for how long. Every kind of fault has its turn before one comes again.

use super::ensemble::MEMBERS;
use super::trial::Trial;
use super::world::{BROKERS, Shape, World};
use crate::harness::size;
use crate::workload::Rng;
use std::time::Duration;

/// Space of etcd: little, so that it is filled soon.
const QUOTA_BYTES: u64 = 64 << 20;
/// Short enough that some faults outlast it and some do not.
const LEASE_SEC: u64 = 4;
const HOUR_MS: i64 = 3_600_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy)]
enum Fault {
    BrokerKilled,
    BrokerPaused,
    EtcdLeaderKilled,
    EtcdLeaderPaused,
    EtcdQuorumLost,
    EtcdFull,
    EtcdPeersCut,
    S3Slow,
    S3Throttles,
    S3Fails,
    S3Lies,
    S3Paused,
    S3Killed,
    BrokerCutFromEtcd,
    BrokersCutFromMember,
    BrokerCutFromS3,
    BrokerCutFromClients,
    NetworkSlow,
    ConnectionsReset,
    ClockAhead,
    ClockBehind,
}

const FAULTS: [Fault; 21] = [
    Fault::BrokerKilled,
    Fault::BrokerPaused,
    Fault::EtcdLeaderKilled,
    Fault::EtcdLeaderPaused,
    Fault::EtcdQuorumLost,
    Fault::EtcdFull,
    Fault::EtcdPeersCut,
    Fault::S3Slow,
    Fault::S3Throttles,
    Fault::S3Fails,
    Fault::S3Lies,
    Fault::S3Paused,
    Fault::S3Killed,
    Fault::BrokerCutFromEtcd,
    Fault::BrokersCutFromMember,
    Fault::BrokerCutFromS3,
    Fault::BrokerCutFromClients,
    Fault::NetworkSlow,
    Fault::ConnectionsReset,
    Fault::ClockAhead,
    Fault::ClockBehind,
];

impl Fault {
    async fn begin(self, world: &mut World, dice: &mut Rng) {
        let broker = dice.below(BROKERS as u64) as usize;
        let member = dice.below(MEMBERS as u64) as usize;
        let (requests, answers) = [(true, true), (true, false), (false, true)][dice.below(3) as usize];
        match self {
            Self::BrokerKilled => world.nodes[broker].broker.kill9(),
            Self::BrokerPaused => world.nodes[broker].broker.process.pause(),
            Self::EtcdLeaderKilled => {
                let leader = world.etcd.leader().await;
                world.etcd.members[leader].process.kill9();
            }
            Self::EtcdLeaderPaused => {
                let leader = world.etcd.leader().await;
                world.etcd.members[leader].process.pause();
            }
            Self::EtcdQuorumLost => {
                world.etcd.members[member].process.kill9();
                world.etcd.members[(member + 1) % MEMBERS].process.pause();
            }
            Self::EtcdFull => world.etcd.fill().await,
            Self::EtcdPeersCut => world.etcd.members[member].peers.set(requests, answers, Duration::ZERO),
            Self::S3Slow => world.s3_proxy.set("profile=std").await,
            Self::S3Throttles => world.s3_proxy.set("503=1").await,
            Self::S3Fails => world.s3_proxy.set("500=0.5").await,
            Self::S3Lies => world.s3_proxy.set("applied500=0.3&lost=0.3").await,
            Self::S3Paused => world.s3.process.pause(),
            Self::S3Killed => world.s3.process.kill9(),
            Self::BrokerCutFromEtcd => world.nodes[broker].cut_etcd(requests, answers),
            Self::BrokersCutFromMember => {
                world.nodes.iter().for_each(|n| n.etcd[member].set(requests, answers, Duration::ZERO));
            }
            Self::BrokerCutFromS3 => world.nodes[broker].s3.set(requests, answers, Duration::ZERO),
            Self::BrokerCutFromClients => world.nodes[broker].clients.set(requests, answers, Duration::ZERO),
            Self::NetworkSlow => world.wires().for_each(|wire| wire.set(false, false, Duration::from_millis(50))),
            Self::ConnectionsReset => world.wires().for_each(|wire| wire.tear()),
            Self::ClockAhead => world.nodes[broker].set_clock(HOUR_MS),
            Self::ClockBehind => world.nodes[broker].set_clock(-HOUR_MS),
        }
    }
}

/// All faults, shuffled; again when all have had their turn.
struct Bag(Vec<Fault>);

impl Bag {
    fn draw(&mut self, dice: &mut Rng) -> Fault {
        if self.0.is_empty() {
            // Builds without debug assertions cannot be told another time: there these two do nothing.
            let moves_clocks = |fault: &Fault| matches!(fault, Fault::ClockAhead | Fault::ClockBehind);
            self.0.extend(FAULTS.into_iter().filter(|fault| cfg!(debug_assertions) || !moves_clocks(fault)));
        }
        let nth = dice.below(self.0.len() as u64) as usize;
        self.0.swap_remove(nth)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_in_random_order_lose_nothing() {
    let rounds = size("ROUNDS", 4);
    let shape = Shape { lease_sec: LEASE_SEC, quota_bytes: QUOTA_BYTES, envs: &[] };
    let mut trial = Trial::start_as("chaos-matrix", shape).await;
    let (mut dice, mut bag) = (Rng(trial.seed), Bag(Vec::new()));
    for round in 1..=rounds {
        let mut faults = vec![bag.draw(&mut dice)];
        if dice.below(3) == 0 {
            faults.push(bag.draw(&mut dice));
        }
        let what = format!("round {round}: {faults:?}");
        trial.load.fault(&what, true);
        // What cannot be done while etcd is away comes first.
        faults.sort_by_key(|fault| !matches!(fault, Fault::EtcdFull));
        for fault in faults {
            // With etcd away there is no leader to be found: then the fault that is there has to do.
            let begin = fault.begin(&mut trial.world, &mut dice);
            let _ = tokio::time::timeout(Duration::from_secs(10), begin).await;
        }
        tokio::time::sleep(trial.duration.mul_f64(dice.below(100) as f64 / 100.0)).await;
        trial.world.heal().await;
        trial.recover(&what, true).await;
        trial.load.fault(&what, false);
        trial.got_on(&what).await;
    }
    trial.finish().await;
}
