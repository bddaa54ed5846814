//! etcd loses its leader, its quorum, its space, or answers to nobody. Brokers wait, nobody is sealed by accident, and
//! producing goes on by itself.

use super::ensemble::MEMBERS;
use super::trial::Trial;
use super::world::{Shape, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_loses_its_leader_or_its_quorum_ends_no_broker() {
    let mut trial = Trial::start("chaos-etcd").await;
    let leader = trial.world.etcd.leader().await;
    let kill = async |w: &mut World| w.etcd.members[leader].process.kill9();
    let restart = async |w: &mut World| {
        w.etcd.members[leader].restart();
        w.etcd.wait_healthy().await;
    };
    trial.fault("leader of etcd killed", kill, restart).await;

    let leader = trial.world.etcd.leader().await;
    let pause = async |w: &mut World| w.etcd.members[leader].process.pause();
    trial.fault("leader of etcd paused", pause, async |w| w.etcd.members[leader].process.resume()).await;

    let leader = trial.world.etcd.leader().await;
    let stop = async |w: &mut World| {
        w.etcd.members[leader].process.pause();
        w.etcd.members[(leader + 1) % MEMBERS].process.kill9();
    };
    let start = async |w: &mut World| {
        w.etcd.members[leader].process.resume();
        w.etcd.members[(leader + 1) % MEMBERS].restart();
        w.etcd.wait_healthy().await;
    };
    trial.fault("etcd without a quorum", stop, start).await;

    let leader = trial.world.etcd.leader().await;
    let cut = async |w: &mut World| w.etcd.members[leader].peers.cut();
    let heal = async |w: &mut World| {
        w.etcd.members[leader].peers.heal();
        w.etcd.wait_healthy().await;
    };
    trial.fault("nobody reaches the leader of etcd", cut, heal).await;
    trial.finish().await;
}

/// Space of etcd in the test that fills it.
const SMALL_QUOTA_BYTES: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_without_space_is_waited_for() {
    let shape = Shape { lease_sec: 10, quota_bytes: SMALL_QUOTA_BYTES, envs: &[] };
    let mut trial = Trial::start_as("chaos-nospace", shape).await;
    let fill = async |w: &mut World| w.etcd.fill().await;
    trial.fault("etcd has no space", fill, async |w| w.etcd.make_space().await).await;
    trial.finish().await;
}
