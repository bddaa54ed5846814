use super::super::{Component, Environment, Report, resolve};
use super::*;
use clap::ArgMatches;

fn report(envs: &[(&str, &str)]) -> Report {
    let flags = envs.iter().map(|(name, value)| {
        let command = Component::Dev.command();
        let arg = command.get_arguments().find(|arg| arg.get_env().is_some_and(|env| env == *name));
        format!("--{}={value}", arg.expect("a setting of dev").get_long().unwrap())
    });
    let matches: ArgMatches = Component::Dev.command().get_matches_from(std::iter::once("dev".to_owned()).chain(flags));
    resolve(Component::Dev, &matches, &Environment::new())
}

fn telemetry(envs: &[(&str, &str)]) -> TelemetryConfig {
    report(envs).outcome.unwrap().telemetry
}

fn export(envs: &[(&str, &str)]) -> ExportConfig {
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")];
    telemetry(&endpoint.iter().chain(envs).copied().collect::<Vec<_>>()).export.expect("an endpoint is set")
}

fn errors(envs: &[(&str, &str)]) -> Vec<String> {
    report(envs).outcome.unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_exported_unless_there_is_an_endpoint_that_may_be_used() {
    let nothing = TelemetryConfig { slow: Some(Duration::from_secs(1)), ..TelemetryConfig::default() };
    assert_eq!(telemetry(&[]), nothing);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    assert_eq!(telemetry(&[endpoint, ("OTEL_SDK_DISABLED", "true")]), nothing);
    assert_eq!(telemetry(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), nothing);
    assert_eq!(telemetry(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), nothing, "set to nothing is not set");
    assert_eq!(telemetry(&[("KAFSCALE_TRACE_SLOW_REQUEST_MS", "0")]).slow, None);
    let config = export(&[("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_SAMPLER", "")]);
    assert_eq!((config.endpoint.as_str(), config.protocol), ("http://collector:4317", Protocol::Grpc));
    assert_eq!((config.timeout, config.delay), (Duration::from_secs(10), Duration::from_secs(5)));
    assert_eq!((config.queue_max, config.batch_max, config.share), (2_048, 512, Share::ALL));
}

#[test]
fn what_is_for_traces_goes_before_what_is_for_everything() {
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let below = export(&[http, ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=1")]);
    assert_eq!((below.endpoint.as_str(), below.protocol), ("http://collector:4317/v1/traces", Protocol::Http));
    assert_eq!((below.timeout, below.headers.len()), (Duration::from_millis(7), 1));
    let own = export(&[
        http,
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/traces"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "8"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "Api-Key=x%20y%2C, b=2"),
    ]);
    assert_eq!((own.endpoint.as_str(), own.timeout), ("https://other/traces", Duration::from_millis(8)));
    let headers: Vec<_> = own.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("api-key", "x y,"), ("b", "2")]);
    let grpc = export(&[http, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")]);
    assert_eq!((grpc.endpoint.as_str(), grpc.protocol), ("http://collector:4317", Protocol::Grpc));
}

#[test]
fn samplers_are_those_of_the_specification() {
    let share = |sampler: &str, argument: &str| {
        export(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)]).share
    };
    for prefix in ["", "parentbased_"] {
        assert_eq!(share(&format!("{prefix}always_on"), ""), Share::ALL);
        assert_eq!(share(&format!("{prefix}always_off"), ""), Share::NONE);
        assert_eq!(share(&format!("{prefix}traceidratio"), ""), Share::ALL);
        assert_eq!(share(&format!("{prefix}traceidratio"), "1"), Share::ALL);
        assert_eq!(share(&format!("{prefix}traceidratio"), "0"), Share::NONE);
    }
    let quarter = share("traceidratio", "0.25");
    assert!(quarter.keeps(u64::MAX / 4 - 4_096) && !quarter.keeps(u64::MAX / 4 + 4_096));
    assert!(Share::ALL.keeps(u64::MAX) && !Share::NONE.keeps(0));
    let wrong = errors(&[("OTEL_TRACES_SAMPLER", "sometimes"), ("OTEL_TRACES_SAMPLER_ARG", "2")]);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    let warnings = report(&[("OTEL_TRACES_SAMPLER_ARG", "0.5")]).warnings;
    assert!(warnings.iter().any(|w| w.contains("OTEL_TRACES_SAMPLER_ARG has no effect")), "{warnings:?}");
}

#[test]
fn the_process_is_called_what_it_is_told_to_be() {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-list,k8s.pod.name=a%2Db");
    let listed = export(&[attributes]);
    assert_eq!(listed.service_name.as_deref(), Some("from-list"));
    assert_eq!(listed.resource, [("k8s.pod.name".to_owned(), "a-b".to_owned())]);
    assert_eq!(export(&[attributes, ("OTEL_SERVICE_NAME", "own")]).service_name.as_deref(), Some("own"));
    assert_eq!(export(&[]).service_name, None);
}

#[test]
fn every_error_is_reported_and_none_tells_a_secret() {
    let wrong = errors(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush1,hush2"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=%hush3"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_SDK_DISABLED", "maybe"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "11"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere"),
        ("KAFSCALE_TRACE_SLOW_REQUEST_MS", "-1"),
    ]);
    assert_eq!(wrong.len(), 12, "{wrong:#?}");
    assert!(!wrong.concat().contains("hush"), "{wrong:#?}");
    let shown = report(&[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush4")]).settings;
    assert!(!format!("{shown:?}").contains("hush"), "{shown:?}");
    let config = export(&[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush5")]);
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
}

#[test]
fn headers_that_cannot_be_sent_are_refused() {
    for list in ["a b=1", "key-bin=1", "a=%0Ab", "a=%C3%A4"] {
        assert_eq!(errors(&[("OTEL_EXPORTER_OTLP_HEADERS", list)]).len(), 1, "{list}");
    }
}
