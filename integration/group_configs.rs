//! Configs of groups through Kafka's own tool, and after the broker was killed.

use crate::client::Client;
use crate::group_client::{Member, commit_request};
use crate::harness::{Backend, Stack};
use crate::tools::Tools;

const CONFIGS: &str = "kafka.admin.ConfigCommand";

async fn configs_of_groups(backend: Backend) {
    let mut stack = Stack::start("group-configs", backend, &[]).await;
    let mut tools = Tools::start(&stack.address());
    let group = ["--entity-type", "groups", "--entity-name", "readers"];
    let with = |more: &[&'static str]| [&group[..], more].concat();
    let nothing = "The group 'readers' doesn't exist and doesn't have dynamic config.";
    tools.says(CONFIGS, &with(&["--describe"]), &[nothing]).await;
    // A group that exists and has no configs of its own.
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 1).await;
    client.call(9, &commit_request(&Member::none("idle"), "t", &[(0, 1)])).await.unwrap();
    let default = "DEFAULT_CONFIG:group.consumer.session.timeout.ms=45000";
    let parts = [
        "All configs for group idle are:",
        "  consumer.heartbeat.interval.ms=5000 sensitive=false",
        &format!("  consumer.session.timeout.ms=45000 sensitive=false synonyms={{{default}}}"),
    ];
    let idle = ["--entity-type", "groups", "--entity-name", "idle", "--describe", "--all"];
    tools.says(CONFIGS, &idle, &parts).await;

    let change =
        with(&["--alter", "--add-config", "consumer.session.timeout.ms=50000,consumer.heartbeat.interval.ms=9000"]);
    tools.says(CONFIGS, &change, &["Completed updating config for group readers."]).await;
    let own = "DYNAMIC_GROUP_CONFIG:consumer.session.timeout.ms=50000";
    let set = format!("consumer.session.timeout.ms=50000 sensitive=false synonyms={{{own}, {default}}}");
    tools.says(CONFIGS, &with(&["--describe"]), &[&set, "consumer.heartbeat.interval.ms=9000"]).await;
    let add = |config: &'static str| with(&["--alter", "--add-config", config]);
    tools.fails(CONFIGS, &add("consumer.session.timeout.ms=1000"), "from 45000 to 60000").await;
    tools.fails(CONFIGS, &add("consumer.session.timeout.ms=x"), "InvalidConfigurationException").await;
    tools.fails(CONFIGS, &add("retention.ms=1"), "unknown group config retention.ms").await;
    tools.fails(CONFIGS, &with(&["--alter", "--delete-config", "retention.ms"]), "retention.ms").await;

    stack.broker.restart().await; // SIGKILL
    let mut tools = Tools::start(&stack.address());
    // Without a name: every group there is, or that has configs.
    let all = ["--entity-type", "groups", "--describe"];
    tools.says(CONFIGS, &all, &["Dynamic configs for group readers are:", &set]).await;
    let change = with(&["--alter", "--delete-config", "consumer.session.timeout.ms,consumer.heartbeat.interval.ms"]);
    tools.says(CONFIGS, &change, &["Completed updating config for group readers."]).await;
    tools.says(CONFIGS, &with(&["--describe"]), &[nothing]).await;
    assert!(!tools.ok(CONFIGS, &all).await.contains("readers"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_of_groups_with_embedded_stores() {
    configs_of_groups(Backend::Dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_of_groups_in_etcd() {
    configs_of_groups(Backend::S3).await;
}
