//! What is around the broker: the command line, the configuration from the real environment, metrics and probes.

use crate::client::Client;
use crate::harness::{Backend, Broker, Stack, http};
use kafscale::cli::exit;
use kafscale::http::{HttpError, HttpState, Readiness, spawn};
use std::process::{Command, Output};
use std::sync::Arc;

fn kafscale(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale"));
    command.args(args).env_clear().envs(environment.iter().copied());
    command.output().expect("the program can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn check_config_shows_sources_and_hides_secrets() {
    let environment = [
        ("KAFSCALE_ETCD_ENDPOINTS", "http://etcd:2379"),
        ("KAFSCALE_S3_BUCKET", "from-environment"),
        ("KAFSCALE_S3_REGION", "us-east-1"),
        ("KAFSCALE_S3_ACCESS_KEY", "hush-access"),
        ("KAFSCALE_S3_SECRET_KEY", "hush-secret"),
        ("POD_NAME", "kafscale-broker-3"),
        ("KAFSCALE_TRACE_KAFKA", "true"),
    ];
    let output = kafscale(&["check-config", "--component", "broker", "--s3-region", "eu-west-1"], &environment);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let line = |name: &str| -> Vec<String> {
        let found = out.lines().find(|l| l.split_whitespace().next() == Some(name));
        found.unwrap_or_else(|| panic!("{name} is missing in\n{out}")).split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(line("KAFSCALE_S3_BUCKET")[1..], ["from-environment", "environment"]);
    assert_eq!(line("KAFSCALE_S3_REGION")[1..], ["eu-west-1", "flag"]);
    assert_eq!(line("KAFSCALE_SEGMENT_BYTES")[1..], ["4194304", "default"]);
    assert_eq!(line("KAFSCALE_BROKER_ID")[1..], ["3", "POD_NAME"]);
    assert_eq!(line("KAFSCALE_S3_SECRET_KEY")[1..], ["(redacted)", "environment"]);
    assert!(!out.contains("hush") && !err.contains("hush"), "{out}{err}");
    assert!(err.contains("KAFSCALE_TRACE_KAFKA is not implemented yet"), "{err}");
}

#[test]
fn check_config_fails_with_every_error() {
    let environment = [("KAFSCALE_S3_BUKET", "x"), ("KAFSCALE_FLUSH_INTERVAL_MS", "fast")];
    let output = kafscale(&["check-config"], &environment);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::CONFIG.into()), "{err}");
    for part in [
        "did you mean KAFSCALE_S3_BUCKET?",
        "KAFSCALE_FLUSH_INTERVAL_MS=\"fast\"",
        "KAFSCALE_ETCD_ENDPOINTS is required",
    ] {
        assert!(err.contains(part), "{part} is missing in\n{err}");
    }
}

#[test]
fn a_wrong_start_is_refused_before_anything_happens() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("temporary folders have plain names");
    let wrong = kafscale(&["dev", "--data-dir", data], &[("KAFSCALE_CACHE_BYTES", "lots")]);
    assert_eq!(wrong.status.code(), Some(exit::CONFIG.into()), "{}", text(&wrong.stderr));
    assert!(!std::path::Path::new(data).exists(), "nothing is made before the configuration is right");
    let usage = kafscale(&["dev", "--no-such-flag"], &[]);
    assert_eq!(usage.status.code(), Some(exit::USAGE.into()), "{}", text(&usage.stderr));
}

#[test]
fn help_does_not_show_secrets() {
    let output =
        kafscale(&["broker", "--help"], &[("KAFSCALE_S3_SECRET_KEY", "hush"), ("KAFSCALE_ETCD_PASSWORD", "hush")]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("KAFSCALE_S3_SECRET_KEY"));
    assert!(!text(&output.stdout).contains("hush"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_metrics_are_served_until_stopped() {
    let state = Arc::new(HttpState { readiness: Readiness::new(["storage"]), ..HttpState::default() });
    let server = spawn("127.0.0.1:0".parse().expect("an address"), state.clone()).expect("a free port");
    let address = server.addr().to_string();
    assert_eq!(http("GET", &address, "/livez", "").await.expect("alive"), "ok\n");
    let starting = http("GET", &address, "/readyz", "").await.expect_err("not ready");
    assert!(starting.contains("503") && starting.contains("\"storage\":\"starting\""), "{starting}");
    state.readiness.pass("storage");
    assert!(http("GET", &address, "/readyz", "").await.expect("ready").contains("\"ready\":true"));
    let metrics = http("GET", &address, "/metrics", "").await.expect("metrics");
    assert!(metrics.contains("\nprocess_cpu_seconds_total ") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(http("GET", &address, "/", "").await.expect_err("nothing there").contains("404"));

    let taken = spawn(server.addr(), state).expect_err("the address is taken");
    assert!(matches!(taken, HttpError::Bind { .. }) && taken.to_string().contains(&address), "{taken}");
    tokio::task::spawn_blocking(move || server.stop()).await.expect("the server stops");
    assert!(tokio::net::TcpStream::connect(&address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_latency_is_there_from_the_start_and_counts_a_produce_and_a_fetch() {
    let mut stack = Stack::start("metrics", Backend::Dev, &[]).await;
    let count = async |broker: &Broker, series: &str| -> Option<f64> {
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| (name, labels));
        let wanted = format!("{name}_count{}{labels}", if labels.is_empty() { "" } else { "{" });
        broker.metrics().await.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    // Series, and what one acked batch and two reads (from memory; from the store after a restart) add to them.
    let series = [
        ("kafscale_produce_ack_duration_seconds", 1.0),
        ("kafscale_append_durable_duration_seconds", 1.0),
        ("kafscale_flush_size_bytes", 1.0),
        ("kafscale_flush_age_seconds", 1.0),
        ("kafscale_fetch_duration_seconds{source=\"memory\"}", 1.0),
        ("kafscale_fetch_duration_seconds{source=\"store\"}", 0.0),
        ("kafscale_fetch_duration_seconds{source=\"nothing\"}", 0.0),
        ("kafscale_s3_request_duration_seconds{operation=\"get_range\",outcome=\"failure\"}", 0.0),
    ];
    for (series, _) in series {
        assert_eq!(count(&stack.broker, series).await, Some(0.0), "{series}");
    }
    let commits = "kafscale_metadata_commit_duration_seconds";
    let puts = "kafscale_s3_request_duration_seconds{operation=\"create\",outcome=\"success\"}";
    let before = (count(&stack.broker, commits).await.unwrap(), count(&stack.broker, puts).await.unwrap());
    let mut client = Client::new(&stack.address());
    client.ensure_topic("measured", 1).await;
    client.produce_values("measured", 0, &[b"value"]).await;
    client.fetch("measured", 0, 0, 10_000, 1 << 20).await.unwrap();
    for (series, expected) in series {
        assert_eq!(count(&stack.broker, series).await, Some(expected), "{series}");
    }
    assert!(count(&stack.broker, commits).await.unwrap() > before.0);
    assert!(count(&stack.broker, puts).await.unwrap() > before.1);
    assert_eq!(stack.broker.metric_sum("kafscale_oldest_batch_wait_seconds").await, Some(0.0));

    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    client.fetch("measured", 0, 0, 10_000, 1 << 20).await.unwrap();
    assert!(count(&stack.broker, "kafscale_fetch_duration_seconds{source=\"store\"}").await >= Some(1.0));
    assert!(stack.broker.metric_sum("kafscale_cache_reads").await >= Some(1.0));
}
