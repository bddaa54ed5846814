//! The metadata store is lost, or goes back to a backup: brokers refuse to serve, `kafscale recover` rebuilds it from the
//! object store, and everything that was acked is there. Real brokers, etcd with real snapshots, a real S3 server.

mod interrupted;

use crate::client::Client;
use crate::group_client::{Member, commit_request, fetch_offsets};
use crate::harness::{Backend, Broker, Stack, s3_envs, wait_until};
use crate::workload::{Plan, Workload};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{DescribeConfigsRequest, OffsetCommitRequest};
use kafscale::cli::exit;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(90);
const BROKERS: usize = 3;
/// Kafka's number for topics in config requests.
const TOPIC: i8 = 2;
const CREATED_LATER: &str = "created-after-the-backup";
const RETENTION_MS: &str = "987654321";

struct Cluster {
    stack: Stack,
    others: Vec<Broker>,
}

impl Cluster {
    async fn start(name: &str) -> Self {
        let of = |id: usize| {
            [
                ("KAFSCALE_BROKER_ID", id.to_string()),
                ("KAFSCALE_BROKER_LEASE_SEC", "2".to_owned()),
                ("KAFSCALE_FLUSH_INTERVAL_MS", "20".to_owned()),
            ]
        };
        let envs = of(1);
        let envs: Vec<(&str, &str)> = envs.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let mut stack = Stack::start(name, Backend::S3, &envs).await;
        let proxy = stack.proxy().address();
        let mut others = Vec::new();
        for id in 2..=BROKERS {
            let mut envs = s3_envs(stack.etcd(), &proxy);
            envs.extend(of(id));
            let mut broker = Broker::spawn("broker", &envs, &stack.dir.path().join(format!("broker-{id}.log")));
            broker.wait_ready().await;
            others.push(broker);
        }
        Self { stack, others }
    }

    fn brokers(&mut self) -> impl Iterator<Item = &mut Broker> {
        [&mut self.stack.broker].into_iter().chain(&mut self.others)
    }

    fn addresses(&self) -> Vec<String> {
        let others = self.others.iter().map(Broker::address);
        [self.stack.address()].into_iter().chain(others).collect()
    }

    async fn load(&self) -> Workload {
        let plan = Plan { partitions: 6, producers: 6, pause: Duration::from_millis(20), ..Plan::new("ledger", 5) };
        let load = Workload::start_on(&self.addresses(), plan).await;
        load.wait_acks(50).await;
        load
    }

    fn snapshot(&mut self) -> PathBuf {
        let file = self.stack.dir.path().join("backup.db");
        self.stack.etcd().snapshot(&file);
        file
    }

    /// Creates a topic, and waits until a checkpoint has its name.
    async fn create_topic_for_good(&mut self, name: &str) {
        let mut client = Client::new(&self.stack.address());
        let configs = [("retention.ms", RETENTION_MS)];
        client.retry("create the topic", async |c| c.create_topic(name, 2, &configs).await).await;
        let s3 = self.stack.s3();
        wait_until("a checkpoint has the topic", DEADLINE, async || {
            s3.objects().iter().any(|(key, _)| key.contains("/checkpoints/") && s3.contains(key, name.as_bytes()))
        })
        .await;
    }

    /// `kafscale recover` with the brokers' variables.
    fn recover(&mut self, flags: &[&str]) -> Output {
        let proxy = self.stack.proxy().address();
        let envs = s3_envs(self.stack.etcd(), &proxy);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale"));
        command.arg("recover").args(flags).env_clear().envs(envs.iter().map(|(k, v)| (*k, v.as_str())));
        let output = command.output().expect("the program can be run");
        eprintln!("kafscale recover {flags:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        output
    }

    /// Every broker ends by itself, naming the command that helps.
    async fn assert_all_refuse(&mut self) {
        for broker in self.brokers() {
            let status = broker.process.wait_exit(DEADLINE).await;
            assert_eq!(status.code(), Some(exit::WENT_BACK.into()), "{}", broker.process.log_tail());
            assert!(broker.process.log_tail().contains("kafscale recover"), "{}", broker.process.log_tail());
        }
    }

    async fn relaunch(&mut self) {
        self.brokers().for_each(Broker::relaunch);
        for broker in self.brokers() {
            broker.wait_ready().await;
        }
    }

    /// Prints the plan, then carries it out.
    fn assert_recovers(&mut self) {
        let planned = self.recover(&[]);
        assert!(planned.status.success() && text(&planned.stdout).contains("Nothing was written"));
        let written = self.recover(&["--write"]);
        assert!(written.status.success());
        assert!(!text(&written.stdout).contains("CANNOT BE RESTORED"));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The topic has its partitions and its config.
async fn assert_topic(address: &str, name: &str) {
    let mut client = Client::new(address);
    let metadata = client.metadata(Some(&[name]), false).await.expect("metadata");
    assert_eq!(metadata.topics[0].partitions.len(), 2, "{metadata:?}");
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(crate::client::text(name))
        .with_configuration_keys(Some(vec![crate::client::text("retention.ms")]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(4, &request).await.expect("an answer");
    let value = answer.results[0].configs[0].value.as_ref().map(|v| v.as_str().to_owned());
    assert_eq!(value.as_deref(), Some(RETENTION_MS));
}

/// Commits offset 7 of `ledger-0` for the group, wherever its coordinator is.
async fn commit(addresses: &[String], group: &str) {
    let request: OffsetCommitRequest = commit_request(&Member::none(group), "ledger", &[(0, 7)]);
    wait_until("an offset is committed", DEADLINE, async || {
        for address in addresses {
            let answer = Client::new(address).call(7, &request).await;
            if answer.is_ok_and(|a| a.topics[0].partitions[0].error_code == 0) {
                return true;
            }
        }
        false
    })
    .await;
}

/// What the group has committed.
async fn committed(addresses: &[String], group: &str) -> Vec<i64> {
    let mut offsets = Vec::new();
    wait_until("the coordinator answers", DEADLINE, async || {
        for address in addresses {
            if let Ok(rows) = fetch_offsets(&mut Client::new(address), group).await {
                offsets = rows.iter().map(|row| row.2).collect();
                return true;
            }
        }
        false
    })
    .await;
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_do_not_start_on_an_older_backup_and_recovery_brings_everything_back() {
    let mut cluster = Cluster::start("recover-backup").await;
    let load = cluster.load().await;
    let backup = cluster.snapshot();
    cluster.create_topic_for_good(CREATED_LATER).await;
    load.wait_acks(200).await;
    load.fault("disaster", true);
    // One of them is only paused: it still believes in everything when it wakes.
    for broker in cluster.brokers().take(BROKERS - 1) {
        broker.kill9();
    }
    cluster.others[BROKERS - 2].process.pause();
    cluster.stack.etcd().restore(Some(&backup), None).await;
    cluster.stack.broker.relaunch();
    cluster.others[0].relaunch();
    for broker in cluster.brokers().take(BROKERS - 1) {
        let status = broker.process.wait_exit(DEADLINE).await;
        assert_eq!(status.code(), Some(exit::WENT_BACK.into()), "{}", broker.process.log_tail());
        assert!(broker.process.log_tail().contains("kafscale recover"), "{}", broker.process.log_tail());
    }
    cluster.assert_recovers();
    cluster.stack.broker.relaunch();
    cluster.others[0].relaunch();
    cluster.stack.broker.wait_ready().await;
    cluster.others[0].wait_ready().await;
    let zombie = &mut cluster.others[BROKERS - 2];
    zombie.process.resume();
    let code = zombie.process.wait_exit(DEADLINE).await.code();
    let stopped = [i32::from(exit::WENT_BACK), 75];
    assert!(code.is_some_and(|code| stopped.contains(&code)), "{code:?}: {}", zombie.process.log_tail());
    zombie.restart().await;
    load.fault("disaster", false);
    load.wait_acks(100).await;
    assert_topic(&cluster.stack.address(), CREATED_LATER).await;
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_metadata_store_is_rebuilt_with_topics_and_their_configs() {
    let mut cluster = Cluster::start("recover-empty").await;
    let load = cluster.load().await;
    cluster.create_topic_for_good(CREATED_LATER).await;
    load.wait_acks(100).await;
    load.fault("disaster", true);
    cluster.brokers().for_each(Broker::kill9);
    cluster.stack.etcd().restore(None, None).await;
    cluster.brokers().for_each(Broker::relaunch);
    cluster.assert_all_refuse().await;
    cluster.assert_recovers();
    // Again, as after an interruption: nothing changes but ids.
    cluster.assert_recovers();
    cluster.relaunch().await;
    load.fault("disaster", false);
    load.wait_acks(100).await;
    assert_topic(&cluster.stack.address(), CREATED_LATER).await;
    load.finish().await.assert_clean();
}

async fn goes_back_under_running_brokers(name: &str, bump: Option<u64>) {
    let mut cluster = Cluster::start(name).await;
    let load = cluster.load().await;
    commit(&cluster.addresses(), "kept").await;
    let backup = cluster.snapshot();
    load.wait_acks(200).await;
    load.fault("disaster", true);
    cluster.stack.etcd().restore(Some(&backup), bump).await;
    cluster.assert_all_refuse().await;
    cluster.brokers().for_each(Broker::relaunch);
    cluster.assert_all_refuse().await;
    cluster.assert_recovers();
    cluster.relaunch().await;
    load.fault("disaster", false);
    load.wait_acks(100).await;
    assert_eq!(committed(&cluster.addresses(), "kept").await, [7]);
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_stop_when_the_metadata_store_goes_back_under_them() {
    goes_back_under_running_brokers("recover-running", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_stop_although_the_restored_store_has_a_higher_revision() {
    goes_back_under_running_brokers("recover-bumped", Some(1_000_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_refuses_while_a_broker_lives() {
    let mut stack = Stack::start("recover-live", Backend::S3, &[]).await;
    Client::new(&stack.address()).ensure_topic("t", 1).await;
    let (proxy, dir) = (stack.proxy().address(), stack.dir.path().to_owned());
    let envs = s3_envs(stack.etcd(), &proxy);
    let mut refused = Broker::spawn_program(
        std::path::Path::new(env!("CARGO_BIN_EXE_kafscale")),
        &["recover", "--write"],
        &envs,
        &dir.join("recover.log"),
    );
    let status = refused.process.wait_exit(Duration::from_secs(120)).await;
    assert_eq!(status.code(), Some(exit::WENT_BACK.into()), "{}", refused.process.log_tail());
    assert!(refused.process.log_tail().contains("stop all brokers"));
    assert_eq!(Client::new(&stack.address()).produce_values("t", 0, &[b"goes on"]).await, 0);
}
