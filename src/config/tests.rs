use super::*;
use crate::actors::s3_health::state::HealthLimits;

/// Resolves `flags` as if nothing but `environment` were set.
fn report(component: Component, flags: &[&str], environment: &[(&str, &str)]) -> Report {
    let command = component.command().mut_args(|arg| arg.env(None::<&str>));
    let argv = [component.name()].into_iter().chain(flags.iter().copied());
    let matches = command.try_get_matches_from(argv).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    resolve(component, &matches, &environment)
}

fn node(report: Report) -> NodeConfig {
    report.outcome.unwrap_or_else(|errors| panic!("{errors:#?}")).node
}

fn errors(report: Report) -> Vec<String> {
    report.outcome.expect_err("the configuration is wrong").iter().map(ToString::to_string).collect()
}

const BROKER: [&str; 6] =
    ["--etcd-endpoints", "http://127.0.0.1:2379", "--s3-bucket", "segments", "--s3-region", "us-east-1"];

fn broker_with<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    BROKER.iter().chain(flags).copied().collect()
}

#[test]
fn dev_needs_nothing() {
    let node = node(report(Component::Dev, &[], &[]));
    assert_eq!(node.listen.to_string(), "127.0.0.1:9092");
    assert_eq!(node.metrics_addr.to_string(), "127.0.0.1:9093");
    assert_eq!((node.advertised_host.as_str(), node.advertised_port), ("127.0.0.1", 9092));
    assert_eq!(node.storage, StorageConfig::Local { dir: "./.kafscale/objects".into() });
    assert_eq!(node.metadata, MetadataConfig::Embedded { path: "./.kafscale/metadata.redb".into() });
    assert_eq!((node.segment_bytes, node.flush_interval), (4 << 20, Duration::from_millis(500)));
    assert!(node.auto_create_topics);
    assert_eq!(node.auto_create_partitions, 1);
    assert_eq!(node.log_dir(), "./.kafscale/objects/default");
}

#[test]
fn broker_names_everything_that_is_missing() {
    let errors = errors(report(Component::Broker, &[], &[]));
    for name in ["KAFSCALE_ETCD_ENDPOINTS", "KAFSCALE_S3_BUCKET", "KAFSCALE_S3_REGION"] {
        assert!(errors.iter().any(|e| e.starts_with(&format!("{name} is required"))), "{name}: {errors:#?}");
    }
    assert_eq!(errors.len(), 3);
}

#[test]
fn all_errors_are_reported_at_once() {
    let flags = [
        "--broker-addr=nowhere",
        "--segment-bytes=4MB",
        "--flush-interval-ms=0",
        "--auto-create-topics=maybe",
        "--s3-namespace=a/b",
        "--log-level=loud",
        "--s3-access-key=AKIA",
        "--etcd-username=root",
        "--s3-region=",
    ];
    let environment = [("KAFSCALE_S3_BUKET", "x"), ("KAFSCALE_DATA_DIR", "/x")];
    let errors = errors(report(Component::Broker, &flags, &environment));
    for part in [
        "KAFSCALE_BROKER_ADDR=\"nowhere\"",
        "KAFSCALE_SEGMENT_BYTES=\"4MB\" cannot be used: expected a whole number from 1024 to 536870912",
        "KAFSCALE_FLUSH_INTERVAL_MS=\"0\"",
        "KAFSCALE_AUTO_CREATE_TOPICS=\"maybe\"",
        "KAFSCALE_S3_NAMESPACE=\"a/b\"",
        "KAFSCALE_LOG_LEVEL=\"loud\"",
        "KAFSCALE_S3_ACCESS_KEY is set without KAFSCALE_S3_SECRET_KEY",
        "KAFSCALE_ETCD_USERNAME is set without KAFSCALE_ETCD_PASSWORD",
        "KAFSCALE_S3_REGION is set but empty",
        "KAFSCALE_S3_BUKET is not a known variable: did you mean KAFSCALE_S3_BUCKET?",
        "KAFSCALE_DATA_DIR belongs to `kafscale dev`",
        "KAFSCALE_ETCD_ENDPOINTS is required",
        "KAFSCALE_S3_BUCKET is required",
    ] {
        assert!(errors.iter().any(|e| e.contains(part)), "{part} is missing in {errors:#?}");
    }
    assert_eq!(errors.len(), 13, "{errors:#?}");
}

#[test]
fn the_log_directory_is_the_bucket_and_the_prefix() {
    let node = node(report(Component::Broker, &broker_with(&["--s3-namespace=team-a"]), &[]));
    assert_eq!(node.log_dir(), "s3://segments/team-a");
}

#[test]
fn secrets_are_never_shown() {
    let secrets = ["--s3-access-key=AKIAHUSH", "--s3-secret-key=hush1", "--s3-session-token=hush2"];
    let etcd = ["--etcd-username=root", "--etcd-password=hush3"];
    let flags = broker_with(&[&secrets[..], &etcd[..]].concat());
    let report = report(Component::Broker, &flags, &[]);
    let text = format!("{report:?}").to_lowercase();
    assert!(!text.contains("hush"), "{text}");
    let password = report.settings.iter().find(|s| s.name == "KAFSCALE_ETCD_PASSWORD").unwrap();
    assert_eq!((password.value.as_deref(), password.source.as_str()), (Some(REDACTED), "flag"));
    let node = node(report);
    let MetadataConfig::Etcd { password: Some(password), .. } = &node.metadata else { panic!("{:?}", node.metadata) };
    assert_eq!(password.expose(), "hush3");
    assert!(!format!("{password}").contains("hush"));
}

#[test]
fn a_secret_is_hidden_from_help_and_named_as_one() {
    for component in Component::ALL {
        for arg in component.command().get_arguments() {
            let Some(name) = arg.get_env().map(|n| n.to_string_lossy().into_owned()) else { continue };
            let is_secret =
                ["PASSWORD", "PASSWORD_HASH", "ACCESS_KEY", "SECRET_KEY", "TOKEN", "OTLP_HEADERS", "TRACES_HEADERS"]
                    .iter()
                    .any(|part| name.ends_with(part));
            assert_eq!(arg.is_hide_env_values_set(), is_secret, "{name}");
            assert_eq!(
                format!("KAFSCALE_{}", arg.get_id().as_str().to_uppercase()),
                name.replace("OTEL_EXPORTER_OTLP", "KAFSCALE_OTLP").replace("OTEL_", "KAFSCALE_OTEL_")
            );
        }
    }
}

#[test]
fn the_broker_id_comes_from_the_setting_the_pod_or_zero() {
    let pod = |name| [("POD_NAME", name)];
    assert_eq!(node(report(Component::Broker, &BROKER, &[])).broker_id, BrokerId(0));
    assert_eq!(node(report(Component::Broker, &BROKER, &pod("kafscale-broker-2"))).broker_id, BrokerId(2));
    let set = broker_with(&["--broker-id=7"]);
    assert_eq!(node(report(Component::Broker, &set, &pod("kafscale-broker-2"))).broker_id, BrokerId(7));
    let wrong = errors(report(Component::Broker, &BROKER, &pod("kafscale-broker-x7f2k")));
    assert!(wrong[0].contains("set KAFSCALE_BROKER_ID"), "{wrong:?}");
    assert_eq!(node(report(Component::Dev, &[], &pod("anything"))).broker_id, BrokerId(0));
}

#[test]
fn the_advertised_address_follows_the_listener() {
    let advertised = |flags: &[&str]| {
        let node = node(report(Component::Dev, flags, &[]));
        (node.advertised_host, node.advertised_port)
    };
    assert_eq!(advertised(&["--broker-addr=127.0.0.9:19092"]), ("127.0.0.9".to_owned(), 19092));
    assert_eq!(advertised(&["--broker-addr=[::1]:9092"]), ("::1".to_owned(), 9092));
    let machine = values::machine_name().unwrap();
    assert_eq!(advertised(&["--broker-addr=:9092"]), (machine.clone(), 9092));
    assert_eq!(advertised(&["--broker-addr=0.0.0.0:0"]), (machine, 0));
    let set = ["--broker-addr=0.0.0.0:9092", "--broker-host=kafka.example.com", "--broker-port=443"];
    assert_eq!(advertised(&set), ("kafka.example.com".to_owned(), 443));
    let numbered = broker_with(&["--broker-host=broker-{ordinal}.example.com"]);
    let pod = node(report(Component::Broker, &numbered, &[("POD_NAME", "a-broker-2")]));
    assert_eq!(pod.advertised_host, "broker-2.example.com");
}

#[test]
fn memory_replaces_the_bucket_and_says_so() {
    let flags = ["--etcd-endpoints=a:2379,https://b:2379", "--use-memory-s3=yes"];
    let report = report(Component::Broker, &flags, &[]);
    assert!(report.warnings.iter().any(|w| w.contains("everything is lost")), "{:?}", report.warnings);
    let node = node(report);
    assert_eq!(node.storage, StorageConfig::Memory);
    let MetadataConfig::Etcd { endpoints, .. } = node.metadata else { panic!("a broker uses etcd") };
    assert_eq!(endpoints, ["http://a:2379", "https://b:2379"]);
}

#[test]
fn variables_of_later_versions_are_known_and_reported() {
    let environment = [("KAFSCALE_TRACE_KAFKA", "true"), ("KAFSCALE_THROUGHPUT_WINDOW_SEC", "5"), ("HOME", "/root")];
    let report = report(Component::Broker, &BROKER, &environment);
    assert_eq!(
        report.warnings,
        [
            "KAFSCALE_TRACE_KAFKA is not implemented yet and has no effect",
            "KAFSCALE_THROUGHPUT_WINDOW_SEC is not implemented yet and has no effect"
        ]
    );
    node(report);
}

#[test]
fn service_links_of_kubernetes_are_not_settings() {
    let links = [
        ("KAFSCALE_ETCD_SERVICE_HOST", "10.0.0.7"),
        ("KAFSCALE_ETCD_SERVICE_PORT", "2379"),
        ("KAFSCALE_ETCD_SERVICE_PORT_CLIENT", "2379"),
        ("KAFSCALE_ETCD_PORT", "tcp://10.0.0.7:2379"),
        ("KAFSCALE_ETCD_PORT_2379_TCP", "tcp://10.0.0.7:2379"),
        ("KAFSCALE_ETCD_PORT_2379_TCP_ADDR", "10.0.0.7"),
    ];
    node(report(Component::Broker, &BROKER, &links));
    let flags = broker_with(&["--broker-port=tcp://10.0.0.7:9092"]);
    let errors = errors(report(Component::Broker, &flags, &[]));
    assert!(errors[0].contains("enableServiceLinks"), "{errors:?}");
}

#[test]
fn nothing_like_a_known_name_gets_no_suggestion() {
    let errors = errors(report(Component::Dev, &[], &[("KAFSCALE_FROBNICATE_EVERYTHING", "1")]));
    assert_eq!(errors, ["KAFSCALE_FROBNICATE_EVERYTHING is not a known variable"]);
}

#[test]
fn topics_get_their_defaults_from_kafkas_names() {
    let environment = [
        ("KAFSCALE_MESSAGE_MAX_BYTES", "5000"),
        ("KAFSCALE_LOG_RETENTION_HOURS", "2"),
        ("KAFSCALE_LOG_RETENTION_MINUTES", "-1"),
        ("KAFSCALE_LOG_CLEANUP_POLICY", "compact,delete"),
    ];
    let flags: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("--{}={value}", name[9..].to_lowercase().replace('_', "-")))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = node(report(Component::Dev, &flags, &[]));
    let found: Vec<_> =
        node.topic_defaults.iter().map(|d| (d.config, d.broker_name, d.raw.as_str(), d.value.as_str())).collect();
    let expected = [
        ("max.message.bytes", "message.max.bytes", "5000", "5000"),
        ("retention.ms", "log.retention.minutes", "-1", "-1"),
        ("retention.ms", "log.retention.hours", "2", "7200000"),
        ("cleanup.policy", "log.cleanup.policy", "compact,delete", "compact,delete"),
    ];
    assert_eq!(found, expected);
    assert!(node.shown.iter().all(|(name, _)| !name.contains("log.retention") && !name.contains("message.max")));

    let bad = [
        "--message-max-bytes=-1",
        "--log-retention-ms=-2",
        "--log-retention-hours=9999999999999999",
        "--log-retention-minutes=soon",
        "--log-cleanup-policy=shred",
        "--log-message-timestamp-type=mine",
    ];
    assert_eq!(errors(report(Component::Dev, &bad, &[])).len(), bad.len());
}

#[test]
fn stores_are_not_set_for_dev() {
    let errors = errors(report(Component::Dev, &[], &[("KAFSCALE_S3_BUCKET", "prod")]));
    assert!(errors[0].contains("belongs to `kafscale broker`"), "{errors:?}");
}

#[test]
fn values_are_checked() {
    let bad: &[(&str, &[&str])] = &[
        ("--s3-endpoint", &["minio:9000", "ftp://minio", "http://", "http://user:pw@minio:9000", "http://minio/?a=b"]),
        (
            "--etcd-endpoints",
            &["etcd", "http://etcd", "etcd:2379,", "http://u:p@etcd:2379", "http://etcd:2379/v3", "etcd:x"],
        ),
        ("--s3-bucket", &["s3://b", "b/c", "ab", "a b c"]),
        ("--s3-kms-arn", &["key/1234", "arn:aws:kms"]),
        ("--s3-namespace", &["..", "a b", "ä", "a/b"]),
        ("--broker-port", &["0", "65536", "-1"]),
        ("--broker-id", &["-1", "2147483648"]),
        ("--cache-bytes", &["0", "256MiB"]),
        ("--otlp-endpoint", &["collector:4317", "http://user:pass@collector:4317"]),
        ("--metrics-addr", &["9093", "0.0.0.0:9092", "host:port"]),
    ];
    for (flag, values) in bad {
        for value in *values {
            let base = BROKER.chunks(2).filter(|pair| pair[0] != *flag).flatten().copied();
            let argument = format!("{flag}={value}");
            let flags: Vec<&str> = base.chain([argument.as_str()]).collect();
            let errors = errors(report(Component::Broker, &flags, &[]));
            assert_eq!(errors.len(), 1, "{argument}: {errors:?}");
        }
    }
}

#[test]
fn files_for_tls_to_etcd_are_checked_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| {
        std::fs::write(path(name), text).unwrap();
        path(name)
    };
    let make = || rcgen::generate_simple_self_signed(["etcd".to_owned()]).unwrap();
    let (mine, other) = (make(), make());
    let (cert, key) = (write("cert.pem", &mine.cert.pem()), write("key.pem", &mine.signing_key.serialize_pem()));
    let other_key = write("other.pem", &other.signing_key.serialize_pem());
    let garbage = write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (empty, folder_path) = (write("empty.pem", ""), folder.path().display().to_string());
    let resolve = |endpoint: &str, files: &[(&str, &str)]| {
        let mut flags = vec!["--s3-bucket=segments".to_owned(), "--s3-region=us-east-1".to_owned()];
        flags.push(format!("--etcd-endpoints={endpoint}"));
        flags.extend(files.iter().map(|(name, path)| format!("--etcd-{name}-file={path}")));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        report(Component::Broker, &flags, &[])
    };
    let right = node(resolve("https://etcd:2379", &[("ca", &cert), ("cert", &cert), ("key", &key)]));
    let shown = format!("{right:?}");
    let MetadataConfig::Etcd { tls, .. } = right.metadata else { panic!("{shown}") };
    assert_eq!(tls.ca_pem, Some(mine.cert.pem()));
    assert_eq!(tls.identity, Some((mine.cert.pem(), Secret::new(mine.signing_key.serialize_pem()))));
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");

    let missing = path("missing.pem");
    let wrong: [(&[(&str, &str)], &str); 10] = [
        (&[("ca", &missing)], "KAFSCALE_ETCD_CA_FILE=\""),
        (&[("ca", &missing)], "cannot be read: No such file"),
        (&[("ca", &folder_path)], "expected a file"),
        (&[("ca", &empty)], "no certificate in PEM format"),
        (&[("ca", &key)], "no certificate in PEM format"),
        (&[("ca", &garbage)], "cannot be trusted"),
        (&[("cert", &cert)], "KAFSCALE_ETCD_CERT_FILE is set without KAFSCALE_ETCD_KEY_FILE"),
        (&[("cert", &cert), ("key", &cert)], "no private key in PEM format"),
        (&[("cert", &cert), ("key", &other_key)], "the key is not that of the (first) certificate"),
        (&[("cert", &garbage), ("key", &key)], "do not belong together"),
    ];
    for (files, expected) in wrong {
        let errors = errors(resolve("https://etcd:2379", files));
        assert!(errors.len() == 1 && errors[0].contains(expected), "{expected} is not in {errors:?}");
    }
    let errors = errors(resolve("http://etcd:2379", &[("ca", &cert)]));
    assert!(errors[0].contains("no endpoint in KAFSCALE_ETCD_ENDPOINTS is https://"), "{errors:?}");
}

#[test]
fn what_is_shown_to_clients_has_kafkas_names_and_no_secret() {
    let flags = broker_with(&["--s3-access-key=hush", "--s3-secret-key=hush", "--broker-id=3"]);
    let node = node(report(Component::Broker, &flags, &[]));
    let value = |name: &str| node.shown.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(value("broker.id"), Some("3"));
    assert_eq!(value("num.partitions"), Some("1"));
    assert_eq!(value("kafscale.segment.bytes"), Some("4194304"));
    assert_eq!(value("kafscale.s3.secret.key"), None);
}

#[test]
fn the_reference_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("docs/configuration.md exists");
    assert!(page == docs::render(), "docs/configuration.md is not what the structs say: run `make docs`");
}

#[test]
fn every_variable_of_the_guide_is_known() {
    let read = Component::ALL.map(|c| c.command());
    let read = read.iter().flat_map(|c| c.get_arguments()).filter_map(|a| a.get_env()?.to_str());
    let known: Vec<&str> = read.chain(args::PLANNED.iter().map(|p| p.0)).collect();
    for name in "BROKER_ADDR BROKER_HOST BROKER_PORT BROKER_ID METRICS_ADDR CONTROL_ADDR ETCD_ENDPOINTS ETCD_USERNAME ETCD_PASSWORD \
        S3_BUCKET S3_REGION S3_ENDPOINT S3_READ_BUCKET S3_READ_REGION S3_READ_ENDPOINT S3_PATH_STYLE S3_KMS_ARN S3_ACCESS_KEY \
        S3_SECRET_KEY S3_SESSION_TOKEN S3_NAMESPACE SEGMENT_BYTES FLUSH_INTERVAL_MS CACHE_BYTES READAHEAD_SEGMENTS \
        AUTO_CREATE_TOPICS AUTO_CREATE_PARTITIONS USE_MEMORY_S3 LOG_LEVEL TRACE_KAFKA THROUGHPUT_WINDOW_SEC S3_HEALTH_WINDOW_SEC \
        S3_LATENCY_WARN_MS S3_LATENCY_CRIT_MS S3_ERROR_RATE_WARN S3_ERROR_RATE_CRIT STARTUP_TIMEOUT_SEC CONSOLE_HTTP_ADDR \
        CONSOLE_ETCD_ENDPOINTS CONSOLE_ETCD_USERNAME CONSOLE_ETCD_PASSWORD CONSOLE_BROKER_METRICS_URL UI_USERNAME UI_PASSWORD"
        .split_whitespace()
    {
        assert!(known.contains(&format!("KAFSCALE_{name}").as_str()), "{name}");
    }
}

#[test]
fn group_settings_are_those_of_kafka_and_shown_where_they_differ() {
    let defaults = node(report(Component::Dev, &[], &[]));
    assert_eq!(defaults.groups, CoordinatorLimits::default());
    assert!(!defaults.shown.iter().any(|(name, _)| name.starts_with("group.")));
    let flags = [
        "--group-min-session-timeout-ms=1000",
        "--group-initial-rebalance-delay-ms=0",
        "--group-max-size=7",
        "--offsets-retention-minutes=60",
        "--offset-metadata-max-bytes=10",
    ];
    let set = node(report(Component::Dev, &flags, &[]));
    assert_eq!(
        (set.groups.groups.session_timeout_ms_min, set.groups.groups.session_timeout_ms_max),
        (1_000, 1_800_000)
    );
    assert_eq!((set.groups.groups.initial_rebalance_delay_ms, set.groups.groups.members_max), (0, 7));
    assert_eq!((set.groups.retention.retention_ms, set.groups.offset_metadata_bytes_max), (3_600_000, 10));
    let shown: Vec<_> = set.shown.iter().map(|(name, value)| format!("{name}={value}")).collect();
    for part in ["group.min.session.timeout.ms=1000", "group.max.size=7", "offsets.retention.minutes=60"] {
        assert!(shown.iter().any(|s| s == part), "{part} is missing in {shown:?}");
    }
    let errors = errors(report(Component::Dev, &["--group-min-session-timeout-ms=2000000"], &[]));
    assert!(errors[0].contains("greater than KAFSCALE_GROUP_MAX_SESSION_TIMEOUT_MS"), "{errors:#?}");
}

#[test]
fn the_read_replica_takes_from_the_primary_what_it_is_not_given() {
    let replica = |flags: &[&str]| {
        let report = report(Component::Broker, &broker_with(flags), &[]);
        let shown = |name: &str| {
            let setting = report.settings.iter().find(|s| s.name == name).unwrap();
            (setting.value.clone(), setting.source.clone())
        };
        let shown = (shown("KAFSCALE_S3_READ_REGION"), shown("KAFSCALE_S3_READ_ENDPOINT"));
        let warnings = report.warnings.clone();
        let StorageConfig::S3 { read, .. } = node(report).storage else { panic!("a broker uses S3") };
        (read.map(|r| (r.bucket, r.region, r.endpoint)), shown, warnings)
    };
    let text = |s: &str| Some(s.to_owned());
    let (given, from) = (|s: &str| (text(s), "flag".to_owned()), |s: &str, of: &str| (text(s), of.to_owned()));
    let none = (None, "default".to_owned());
    assert_eq!(replica(&[]), (None, (none.clone(), none.clone()), vec![]));
    let (read, shown, _) = replica(&["--s3-read-bucket=copy"]);
    assert_eq!(read, Some(("copy".to_owned(), "us-east-1".to_owned(), None)));
    assert_eq!(shown, (from("us-east-1", "KAFSCALE_S3_REGION"), none));
    let flags = ["--s3-read-bucket=copy", "--s3-read-region=eu-west-1", "--s3-endpoint=http://a:1"];
    let (read, shown, _) = replica(&flags);
    assert_eq!(read, Some(("copy".to_owned(), "eu-west-1".to_owned(), text("http://a:1"))));
    assert_eq!(shown, (given("eu-west-1"), from("http://a:1", "KAFSCALE_S3_ENDPOINT")));
    // The same name elsewhere is a copy, the same bucket is not.
    let (read, ..) = replica(&["--s3-read-bucket=segments", "--s3-read-endpoint=http://b:1"]);
    assert_eq!(read, Some(("segments".to_owned(), "us-east-1".to_owned(), text("http://b:1"))));
    let (read, _, warnings) = replica(&["--s3-read-bucket=segments"]);
    assert!(read.is_none() && warnings[0].contains("is the primary bucket itself"), "{warnings:?}");

    let flags = broker_with(&["--s3-read-region=eu-west-1", "--s3-read-endpoint=http://b:1"]);
    let errors = errors(report(Component::Broker, &flags, &[]));
    for name in ["KAFSCALE_S3_READ_REGION", "KAFSCALE_S3_READ_ENDPOINT"] {
        let told = format!("{name} is set without KAFSCALE_S3_READ_BUCKET: name the bucket that holds the copy");
        assert!(errors.iter().any(|e| e.starts_with(&told)), "{errors:#?}");
    }
}

#[test]
fn thresholds_of_the_object_store_are_in_order() {
    let set = node(report(Component::Broker, &BROKER, &[])).s3_health;
    assert_eq!(set, HealthLimits::default());
    assert_eq!(node(report(Component::Dev, &[], &[])).s3_health, HealthLimits::local());
    let flags =
        ["--s3-health-window-sec=60", "--s3-latency-warn-ms=0", "--s3-error-rate-warn=0.25", "--s3-error-rate-crit=1"];
    let set = node(report(Component::Broker, &broker_with(&flags), &[])).s3_health;
    assert_eq!((set.window_ms, set.latency_ms.warn, set.latency_ms.crit), (60_000, f64::INFINITY, 5_000.0));
    assert_eq!((set.error_rate.warn, set.error_rate.crit), (0.25, 1.0));
    let wrong = [
        (
            "--s3-latency-warn-ms=5000",
            "KAFSCALE_S3_LATENCY_WARN_MS=5000 is not less than KAFSCALE_S3_LATENCY_CRIT_MS=5000",
        ),
        (
            "--s3-error-rate-warn=0.6",
            "KAFSCALE_S3_ERROR_RATE_WARN=0.6 is not less than KAFSCALE_S3_ERROR_RATE_CRIT=0.5",
        ),
        ("--s3-error-rate-crit=20", "KAFSCALE_S3_ERROR_RATE_CRIT=\"20\" cannot be used: expected a number from 0 to 1"),
        ("--s3-error-rate-warn=NaN", "KAFSCALE_S3_ERROR_RATE_WARN=\"NaN\" cannot be used"),
        (
            "--s3-health-window-sec=1",
            "KAFSCALE_S3_HEALTH_WINDOW_SEC=\"1\" cannot be used: expected a whole number from 5 to 3600",
        ),
    ];
    for (flag, told) in wrong {
        let errors = errors(report(Component::Broker, &broker_with(&[flag]), &[]));
        assert!(errors.len() == 1 && errors[0].starts_with(told), "{flag}: {errors:#?}");
    }
}
