//! AlterConfigs, IncrementalAlterConfigs, ListConfigResources, and what DescribeConfigs and topics make of them.

use super::*;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::{
    AlterConfigsRequest, CreateTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest, alter_configs_request, incremental_alter_configs_request,
};

mod of_groups;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

type Resource = incremental_alter_configs_request::AlterConfigsResource;

fn resource(kind: i8, of: &str, changes: &[(&str, i8, Option<&str>)]) -> Resource {
    let configs = changes.iter().map(|(name, operation, value)| {
        incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    Resource::default().with_resource_type(kind).with_resource_name(text(of)).with_configs(configs.collect())
}

/// Code and message of each resource.
async fn alter(bed: &Bed, resources: Vec<Resource>) -> Vec<(i16, String)> {
    let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
    let response = bed.call(1, &request).await;
    let message = |m: &Option<StrBytes>| m.as_ref().map_or_else(String::new, |m| m.to_string());
    response.responses.iter().map(|r| (r.error_code, message(&r.error_message))).collect()
}

async fn set(bed: &Bed, kind: i8, of: &str, name: &str, value: &str) {
    let rows = alter(bed, vec![resource(kind, of, &[(name, SET, Some(value))])]).await;
    assert_eq!(rows, [(0, String::new())], "{of} {name}={value}");
}

async fn describe(bed: &Bed, kind: i8, of: &str) -> Vec<DescribeConfigsResourceResult> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    bed.call(4, &request).await.results.remove(0).configs
}

/// Value, source, and the synonyms as `name=value source`.
async fn seen(bed: &Bed, kind: i8, of: &str, name: &str) -> (String, i8, String) {
    let configs = describe(bed, kind, of).await;
    let config = configs.iter().find(|c| c.name.as_str() == name).unwrap();
    let value = |v: &Option<StrBytes>| v.as_ref().map_or_else(String::new, |v| v.to_string());
    let synonyms = config.synonyms.iter().map(|s| format!("{}={} {}", &*s.name, value(&s.value), s.source));
    (value(&config.value), config.config_source, synonyms.collect::<Vec<_>>().join(", "))
}

#[test]
fn topics_are_altered_step_by_step() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let policy = async || {
            let (value, source, _) = seen(&bed, TOPIC, "t", "cleanup.policy").await;
            (value, source)
        };
        // Case 20: a list that is not set starts from its default.
        let append = vec![resource(TOPIC, "t", &[("cleanup.policy", APPEND, Some("compact"))])];
        assert_eq!(alter(&bed, append).await[0].0, 0);
        assert_eq!(policy().await, ("delete,compact".to_owned(), 1));
        let config = bed.image().topic("t").unwrap().config;
        assert!(config.compact && config.delete, "it takes effect before the answer");
        let subtract = [("cleanup.policy", SUBTRACT, Some("delete")), ("retention.ms", SET, Some("1000"))];
        assert_eq!(alter(&bed, vec![resource(TOPIC, "t", &subtract)]).await[0].0, 0);
        assert_eq!(policy().await, ("compact".to_owned(), 1));
        assert_eq!(bed.image().topic("t").unwrap().config.retention_ms, 1000);
        let forget = [("cleanup.policy", DELETE, None), ("retention.ms", DELETE, Some("ignored"))];
        assert_eq!(alter(&bed, vec![resource(TOPIC, "t", &forget)]).await[0].0, 0);
        assert_eq!(policy().await, ("delete".to_owned(), 5));
        assert!(bed.image().topic("t").unwrap().value.configs.is_empty());

        let dry = IncrementalAlterConfigsRequest::default().with_validate_only(true).with_resources(vec![resource(
            TOPIC,
            "t",
            &[("retention.ms", SET, Some("7"))],
        )]);
        assert_eq!(bed.call(0, &dry).await.responses[0].error_code, 0);
        assert!(bed.image().topic("t").unwrap().value.configs.is_empty());
    });
}

#[test]
fn each_resource_succeeds_or_fails_alone() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("good", 1, &[]).await;
        bed.topic("bad", 1, &[]).await;
        let one = |kind, of: &str, name: &str, operation, value| resource(kind, of, &[(name, operation, value)]);
        let table = [
            (one(TOPIC, "good", "retention.ms", SET, Some("5")), 0, ""),
            (one(TOPIC, "bad", "retention.ms", SET, Some("soon")), 40, "retention.ms"),
            (one(TOPIC, "bad", "no.such", SET, Some("1")), 40, "no.such"),
            (one(TOPIC, "bad", "retention.ms", APPEND, Some("1")), 40, "not a list"),
            (one(TOPIC, "bad", "retention.ms", SET, None), 42, "no value"),
            (one(TOPIC, "bad", "retention.ms", 9, Some("1")), 42, "operation 9"),
            (one(TOPIC, "none", "retention.ms", SET, Some("1")), 3, "none"),
            (one(TOPIC, "a/b", "retention.ms", SET, Some("1")), 17, "a/b"),
            (one(TOPIC, "", "retention.ms", SET, Some("1")), 42, "name one"),
            (one(BROKER, "1", "num.io.threads", SET, Some("1")), 42, "cannot be changed at run time"),
            (one(BROKER, "1", "log.retention.ms", SET, Some("x")), 42, "log.retention.ms"),
            (one(BROKER, "7", "log.retention.ms", SET, Some("1")), 42, "broker 7"),
            (one(BROKER, "x", "log.retention.ms", SET, Some("1")), 42, "no number"),
            (one(8, "1", "root", SET, Some("INFO")), 42, "resource type 8"),
        ];
        for (resource, code, part) in table {
            let rows = alter(&bed, vec![resource.clone()]).await;
            assert!(rows[0].0 == code && rows[0].1.contains(part), "{resource:?}: {rows:?}");
        }
        let both = vec![
            one(TOPIC, "bad", "retention.ms", SET, Some("soon")),
            one(TOPIC, "good", "retention.ms", SET, Some("6")),
        ];
        assert_eq!(alter(&bed, both).await.iter().map(|r| r.0).collect::<Vec<_>>(), [40, 0]);
        assert_eq!(bed.image().topic("good").unwrap().config.retention_ms, 6);
        let twice = vec![
            one(TOPIC, "good", "retention.ms", SET, Some("7")),
            one(TOPIC, "good", "retention.ms", SET, Some("8")),
            resource(TOPIC, "bad", &[("retention.ms", SET, Some("7")), ("retention.ms", SET, Some("8"))]),
        ];
        assert_eq!(alter(&bed, twice).await.iter().map(|r| r.0).collect::<Vec<_>>(), [42, 42]);
        assert_eq!(bed.image().topic("good").unwrap().config.retention_ms, 6, "neither counts");
        assert_eq!(alter(&bed, vec![]).await, []);
        assert_eq!(alter(&bed, vec![resource(TOPIC, "good", &[])]).await[0].0, 0);
    });
}

#[test]
fn what_the_cluster_sets_reaches_its_topics() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        bed.topic("own", 1, &[("max.message.bytes", "99")]).await;
        set(&bed, BROKER, "", "message.max.bytes", "60").await;
        assert_eq!(bed.image().topic("t").unwrap().config.max_message_bytes, 60);
        assert_eq!(bed.produce("t", 0, batch_of(b"x")).await, (10, -1), "the default counts for produce");
        assert_eq!(bed.produce("own", 0, batch_of(b"x")).await.0, 0, "the topic's own value comes first");
        let default = "message.max.bytes=1048588 5";
        let cluster = format!("message.max.bytes=60 3, {default}");
        let row = |value: &str, source, synonyms: &str| (value.to_owned(), source, synonyms.to_owned());
        assert_eq!(seen(&bed, TOPIC, "t", "max.message.bytes").await, row("60", 3, &cluster));
        let own = format!("max.message.bytes=99 1, {cluster}");
        assert_eq!(seen(&bed, TOPIC, "own", "max.message.bytes").await, row("99", 1, &own));
        assert_eq!(seen(&bed, BROKER, "", "message.max.bytes").await, row("60", 3, &cluster));
        assert_eq!(describe(&bed, BROKER, "").await.len(), 1, "nothing else is set for all brokers");

        set(&bed, BROKER, "1", "message.max.bytes", "1000").await;
        let broker = format!("message.max.bytes=1000 2, {cluster}");
        assert_eq!(seen(&bed, TOPIC, "t", "max.message.bytes").await, row("1000", 2, &broker));
        assert_eq!(seen(&bed, BROKER, "1", "message.max.bytes").await, row("1000", 2, &broker));
        assert_eq!(seen(&bed, BROKER, "", "message.max.bytes").await, row("60", 3, &cluster));
        assert_eq!(bed.produce("t", 0, batch_of(b"x")).await.0, 0);
        let topic = CreatableTopic::default().with_name(name("new")).with_num_partitions(1).with_replication_factor(1);
        let created =
            bed.call(7, &CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(9_000)).await;
        let configs = created.topics[0].configs.as_ref().unwrap();
        let found = configs.iter().find(|c| c.name.as_str() == "max.message.bytes").unwrap();
        assert_eq!((found.value.as_deref(), found.config_source), (Some("1000"), 2));

        for of in ["1", ""] {
            let forget = resource(BROKER, of, &[("message.max.bytes", DELETE, None), ("no.such", DELETE, None)]);
            assert_eq!(alter(&bed, vec![forget]).await[0].0, 0);
        }
        assert_eq!(seen(&bed, TOPIC, "t", "max.message.bytes").await, row("1048588", 5, default));
        assert!(describe(&bed, BROKER, "").await.is_empty());
    });
}

fn replacing(kind: i8, of: &str, configs: &[(&str, Option<&str>)]) -> alter_configs_request::AlterConfigsResource {
    let configs = configs.iter().map(|(name, value)| {
        alter_configs_request::AlterableConfig::default().with_name(text(name)).with_value(value.map(text))
    });
    alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configs(configs.collect())
}

#[test]
fn the_legacy_request_replaces_everything() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[("retention.bytes", "9"), ("cleanup.policy", "compact")]).await;
        for version in 0..=2 {
            let value = format!("{}", 100 + version);
            let resources = vec![
                replacing(TOPIC, "t", &[("retention.ms", Some(&value))]),
                replacing(TOPIC, "none", &[]),
                replacing(BROKER, "", &[("log.retention.bytes", Some(&value))]),
                replacing(BROKER, "1", &[("num.partitions", Some("4"))]),
            ];
            let request = AlterConfigsRequest::default().with_resources(resources);
            let codes: Vec<_> = bed.call(version, &request).await.responses.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 3, 0, 42], "version {version}");
            let topic = bed.image().topic("t").unwrap().clone();
            assert_eq!(topic.value.configs.len(), 1);
            assert_eq!(topic.config.retention_ms, 100 + i64::from(version));
            assert_eq!((topic.config.retention_bytes, topic.config.compact), (100 + i64::from(version), false));
        }
        let request = AlterConfigsRequest::default()
            .with_resources(vec![replacing(TOPIC, "t", &[("retention.ms", None)]), replacing(BROKER, "", &[])]);
        let codes: Vec<_> = bed.call(2, &request).await.responses.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [42, 0]);
        assert_eq!(bed.image().topic("t").unwrap().config.retention_bytes, -1);
    });
}

#[test]
fn what_can_be_described_is_listed() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[]).await;
        let list = async |version, types: &[i8]| {
            let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
            let response = bed.call(version, &request).await;
            let row = |r: &kafka_protocol::messages::list_config_resources_response::ConfigResource| {
                (r.resource_type, r.resource_name.to_string())
            };
            (response.error_code, response.config_resources.iter().map(row).collect::<Vec<_>>())
        };
        let (topic, broker) = ((TOPIC, "t".to_owned()), (BROKER, "1".to_owned()));
        assert_eq!(list(0, &[]).await, (0, vec![]), "client metrics, of which there are none");
        assert_eq!(list(1, &[]).await, (0, vec![topic.clone(), broker.clone()]));
        assert_eq!(list(1, &[BROKER]).await, (0, vec![broker]));
        assert_eq!(list(1, &[TOPIC, 16]).await, (0, vec![topic]));
        assert_eq!(list(1, &[TOPIC, 99]).await, (35, vec![]));
    });
}
