//! The control plane of real brokers, asked by the real `kafscale drain` and `kafscale status`, under load.

use crate::cluster::{Cluster, leaders};
use crate::harness::{Backend, Stack, wait_until};
use crate::workload::{Plan, Workload};
use kafscale::control::proto::control_client::ControlClient;
use kafscale::control::proto::{BrokerState, DrainRequest, Phase, StatusRequest, UndrainRequest};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(60);

/// A `kafscale` command that talks to a broker.
fn command(etcd: &str, args: &[&str]) -> tokio::process::Command {
    let binary = std::env::var("KAFSCALE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kafscale").into());
    let mut command = tokio::process::Command::new(binary);
    command.args(args).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command.env("KAFSCALE_ETCD_ENDPOINTS", etcd).env("KAFSCALE_S3_NAMESPACE", "test");
    command
}

/// Its exit code, its output, and its errors.
async fn run(etcd: &str, args: &[&str]) -> (i32, String, String) {
    let output = command(etcd, args).output();
    let output = tokio::time::timeout(DEADLINE, output).await.expect("it ends").expect("the program can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it was not killed"), text(&output.stdout), text(&output.stderr))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

async fn client(address: &str) -> ControlClient<Channel> {
    ControlClient::connect(format!("http://{address}")).await.expect("the control plane accepts")
}

async fn state(address: &str) -> BrokerState {
    client(address).await.status(StatusRequest {}).await.expect("a status").into_inner().state()
}

fn six_partitions(seed: u64) -> Plan {
    Plan { partitions: 6, producers: 6, pause: Duration::from_millis(20), ..Plan::new("ledger", seed) }
}

async fn wait_shares(address: &str, of: &[i32]) {
    wait_until("the partitions are where they should be", DEADLINE, async || {
        leaders(address, "ledger").await.keys().eq(of)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_drained_on_request_and_takes_work_again() {
    let mut cluster = Cluster::start("control-drain", "20").await;
    let (addresses, etcd) = (cluster.addresses(), cluster.stack.etcd().endpoint());
    let load = Workload::start_on(&addresses, six_partitions(1)).await;
    load.wait_acks(50).await;
    let control = cluster.broker(1).control_address();
    wait_until("it has some of the coordinator shards", DEADLINE, async || {
        client(&control).await.status(StatusRequest {}).await.expect("a status").into_inner().coordinator_shards > 0
    })
    .await;
    let (code, out, err) = run(&etcd, &["status", "--broker", "2", "--json"]).await;
    assert_eq!(code, 0, "{err}");
    let before = &json_lines(&out)[0];
    assert_eq!((&before["state"], &before["partitions"]), (&"serving".into(), &2.into()), "{out}");
    assert!(before["writer_head"].as_u64() > Some(0), "{out}");
    for round in 1..=2 {
        load.fault("drain", true);
        let (code, out, err) = run(&etcd, &["drain", "--broker", "2", "--json"]).await;
        assert_eq!(code, 0, "{err}");
        let progress = json_lines(&out);
        let (first, last) = (&progress[0], &progress[progress.len() - 1]);
        assert_eq!((&first["phase"], &first["partitions_left"]), (&"handing_over".into(), &2.into()), "{out}");
        let left = ["partitions_left", "coordinator_shards_left", "inflight_bytes"].map(|name| last[name].as_u64());
        assert_eq!((&last["phase"], left), (&"drained".into(), [Some(0); 3]), "{out}");
        // Its own image and those of others follow within a moment.
        wait_shares(&addresses[0], &[1, 3]).await;
        wait_shares(&addresses[1], &[1, 3]).await;
        load.wait_acks(50).await;
        let (code, out, err) = run(&etcd, &["status", "--broker", "2"]).await;
        assert!(code == 0 && out.contains("drained"), "{out}{err}");
        let (code, out, _) = run(&etcd, &["drain", "--broker", "2"]).await;
        assert!(code == 0 && out.starts_with("broker 2 is drained"), "once more changes nothing: {out}");
        if round == 1 {
            let (code, out, _) = run(&etcd, &["drain", "--broker", "2", "--undrain"]).await;
            assert_eq!((code, out.as_str()), (0, "broker 2 takes work again\n"));
            let (code, out, _) = run(&etcd, &["drain", "--broker", "2", "--undrain"]).await;
            assert_eq!((code, out.as_str()), (0, "broker 2 did not drain; nothing changed\n"));
            wait_until("it has its share again", DEADLINE, async || {
                leaders(&addresses[0], "ledger").await.get(&2).is_some_and(|p| p.len() == 2)
            })
            .await;
        }
        load.fault("drain", false);
        load.wait_acks(20).await;
    }
    // A drained broker has nothing to do before it ends, and forgets that it was drained.
    assert!(cluster.broker(1).terminate().await.success());
    cluster.broker(1).restart().await;
    wait_shares(&addresses[0], &[1, 2, 3]).await;
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_called_off_by_who_leaves_and_by_undrain() {
    let mut cluster = Cluster::start("control-cancel", "20").await;
    let (addresses, etcd) = (cluster.addresses(), cluster.stack.etcd().endpoint());
    let control = cluster.broker(1).control_address();
    let load = Workload::start_on(&addresses, six_partitions(2)).await;
    load.wait_acks(50).await;
    // Without the object store nothing can be given away: every drain is in the middle.
    load.fault("s3", true);
    cluster.stack.proxy().set("503=1").await;
    let mut child = command(&etcd, &["drain", "--broker", "2", "--json"]);
    let mut child = child.stdout(Stdio::piped()).spawn().expect("the program can be run");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next_line().await.expect("it can be read").expect("progress");
    assert_eq!(json_lines(&first)[0]["phase"], "handing_over");
    assert_eq!(state(&control).await, BrokerState::Draining);
    // Another one waits too: it goes on without the first.
    let mut other = client(&control).await.drain(DrainRequest {}).await.expect("accepted").into_inner();
    child.kill().await.expect("it can be killed");
    for _ in 0..3 {
        assert_eq!(other.message().await.expect("progress").map(|p| p.phase()), Some(Phase::HandingOver));
    }
    drop(other);
    wait_until("nobody waits, and it takes work again", DEADLINE, async || {
        state(&control).await == BrokerState::Serving
    })
    .await;
    let (code, _, err) = run(&etcd, &["drain", "--broker", "2", "--timeout", "1"]).await;
    assert!(code == 75 && err.contains("not drained within 1 s"), "{code} {err}");
    wait_until("nobody waits", DEADLINE, async || state(&control).await == BrokerState::Serving).await;
    let mut drain = client(&control).await.drain(DrainRequest {}).await.expect("accepted").into_inner();
    assert!(client(&control).await.undrain(UndrainRequest {}).await.expect("an answer").into_inner().was_draining);
    let error = loop {
        match drain.message().await {
            Ok(progress) => assert_eq!(progress.expect("an error comes first").phase(), Phase::HandingOver),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), tonic::Code::Aborted, "{error}");
    assert_eq!(state(&control).await, BrokerState::Serving);
    cluster.stack.proxy().set("503=0").await;
    load.fault("s3", false);
    wait_until("it has its share", DEADLINE, async || {
        leaders(&addresses[0], "ledger").await.get(&2).is_some_and(|p| p.len() == 2)
    })
    .await;
    load.wait_acks(50).await;
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said() {
    let mut stack = Stack::start("control-alone", Backend::S3, &[("KAFSCALE_BROKER_ID", "4")]).await;
    let etcd = stack.etcd().endpoint();
    let (kafka, control) = (stack.address(), stack.broker.control_address());
    let nobody = format!("127.0.0.1:{}", crate::process::free_port());
    let cases: [(&[&str], i32, &str); 7] = [
        (&["drain", "--broker", "4"], 77, "no other live broker could take over"),
        (&["drain", "--broker", "5"], 69, "no broker 5 is live in the cluster \"test\""),
        (&["status", "--broker", "5", "--address", &control], 69, "is broker 4, not 5"),
        (&["status", "--address", &nobody], 69, "cannot be reached"),
        (&["status", "--address", &kafka], 69, "is this its KAFSCALE_CONTROL_ADDR?"),
        (&["drain"], 64, "--broker"),
        (&["drain", "--broker", "4", "--timeout", "0"], 64, "--timeout"),
    ];
    for (args, expected, part) in cases {
        let (code, out, err) = run(&etcd, args).await;
        assert!(code == expected && err.contains(part), "{args:?}: {code} {out}{err}");
    }
    let output = command(&etcd, &["drain", "--broker", "4"]).env_remove("KAFSCALE_ETCD_ENDPOINTS").output().await;
    assert_eq!(output.expect("the program can be run").status.code(), Some(78));
    let (code, out, err) = run("http://127.0.0.1:1", &["status", "--broker", "4"]).await;
    assert!(code == 69 && out.is_empty(), "{code} {err}");
    let (code, out, _) = run(&etcd, &["status", "--address", &control]).await;
    assert!(code == 0 && out.contains("state               serving"), "{out}");
    let channel =
        Channel::from_shared(format!("http://{control}")).expect("a URL").connect().await.expect("it accepts");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    for service in ["", "kafscale.control.v1.Control"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.expect("it answers").into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_are_closed_and_make_room() {
    let stack = Stack::start("control-silent", Backend::S3, &[]).await;
    let control = stack.broker.control_address();
    let mut silent = Vec::new();
    for _ in 0..2 * kafscale::control::listener::CONNECTIONS_MAX {
        silent.push(tokio::net::TcpStream::connect(&control).await.expect("it accepts"));
    }
    // Behind all of them, it gets its turn when they are gone.
    assert_eq!(tokio::time::timeout(DEADLINE, state(&control)).await, Ok(BrokerState::Serving));
    let mut nothing = Vec::new();
    for stream in &mut silent {
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut nothing)).await;
        assert!(read.is_ok(), "it is closed");
    }
}
