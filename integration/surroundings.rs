//! What is around the broker: the command line, the configuration from the real environment, metrics and probes.

use crate::harness::http;
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
