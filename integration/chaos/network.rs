//! The network is cut, in both directions or in one, between a broker and etcd, S3 or its clients.
//!
//! Whoever is cut off from etcd for longer than its lease is sealed by the others and starts again; what it may do until it
//! knows is in `zombies.rs`. All other cuts end nobody.

use super::trial::{TOPIC, Trial};
use super::world::{BROKERS, QUOTA_BYTES, Shape, World};
use std::time::Duration;

/// Which directions of a wire are cut: requests, answers.
const CUTS: [(bool, bool); 3] = [(true, true), (true, false), (false, true)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_cut_off_from_s3_or_from_clients_gets_on() {
    let mut trial = Trial::start("chaos-network").await;
    for (nth, (requests, answers)) in CUTS.into_iter().enumerate() {
        let broker = nth % BROKERS;
        let what = format!("broker {broker} and S3, requests cut {requests}, answers cut {answers}");
        let cut = async |w: &mut World| w.nodes[broker].s3.set(requests, answers, Duration::ZERO);
        trial.fault(&what, cut, async |w| w.nodes[broker].s3.heal()).await;

        let broker = (nth + 1) % BROKERS;
        let what = format!("broker {broker} and clients, requests cut {requests}, answers cut {answers}");
        let cut = async |w: &mut World| w.nodes[broker].clients.set(requests, answers, Duration::ZERO);
        let heal = async |w: &mut World| {
            w.nodes[broker].clients.heal();
            if nth > 0 {
                w.nodes[broker].clients.tear();
            }
        };
        trial.fault(&what, cut, heal).await;
    }
    let everything = |w: &World, delay| {
        w.wires().for_each(|wire| wire.set(false, false, delay));
    };
    let slow = async |w: &mut World| everything(w, Duration::from_millis(50));
    trial.fault("a slow network", slow, async |w| everything(w, Duration::ZERO)).await;
    let tear = async |w: &mut World| {
        w.wires().for_each(|wire| wire.tear());
    };
    trial.fault("all connections reset", tear, async |_| {}).await;
    trial.finish().await;
}

/// One member of etcd that hangs is no reason to be sealed: there are others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_cut_off_from_one_member_of_etcd_keeps_its_lease() {
    let shape = Shape { lease_sec: 6, quota_bytes: QUOTA_BYTES, envs: &[] };
    let mut trial = Trial::start_as("chaos-member", shape).await;
    // Longer than the lease: a broker that stays with the member that hangs would lose it.
    trial.duration = trial.duration.max(Duration::from_secs(9));
    let cut = async |w: &mut World| w.nodes.iter().for_each(|n| n.etcd[0].set(false, true, Duration::ZERO));
    trial
        .fault("all brokers and one member of etcd", cut, async |w| w.nodes.iter().for_each(|n| n.etcd[0].heal()))
        .await;
    trial.finish().await;
}

/// Nobody can renew a lease, and nobody can seal: when etcd is back, everybody goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_cut_off_from_all_of_etcd_are_sealed_or_go_on() {
    let shape = Shape { lease_sec: 3, quota_bytes: QUOTA_BYTES, envs: &[] };
    let mut trial = Trial::start_as("chaos-etcd-cut", shape).await;
    for (requests, answers) in CUTS {
        let what = format!("all brokers and etcd, requests cut {requests}, answers cut {answers}");
        trial.world.wait_shared_out(TOPIC).await;
        trial.load.fault(&what, true);
        trial.world.nodes.iter().for_each(|n| n.cut_etcd(requests, answers));
        trial.last().await;
        trial.world.nodes.iter().for_each(|n| n.cut_etcd(false, false));
        trial.recover(&what, false).await;
        trial.load.fault(&what, false);
        trial.got_on(&what).await;
    }
    trial.finish().await;
}
