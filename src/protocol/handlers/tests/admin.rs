//! Metadata, topics, configs, producer ids.

use super::*;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    InitProducerIdRequest, MetadataRequest, MetadataResponse,
};

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn asking(topics: &[&str], may_create: bool) -> MetadataRequest {
    let topics = topics.iter().map(|t| MetadataRequestTopic::default().with_name(Some(name(t)))).collect();
    MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(may_create)
}

fn topics(response: &MetadataResponse) -> Vec<(String, i16, usize)> {
    let row = |t: &kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
        (t.name.as_ref().map_or(String::new(), |n| n.to_string()), t.error_code, t.partitions.len())
    };
    response.topics.iter().map(row).collect()
}

#[test]
fn all_none_some() {
    run(|| async {
        let bed = Bed::new(true).await;
        let id = bed.topic("a", 1, &[]).await;
        bed.topic("b", 3, &[]).await;
        let row = |n: &str, code, partitions| (n.to_owned(), code, partitions);
        let everything = [row("a", 0, 1), row("b", 0, 3)];
        let null = MetadataRequest::default().with_topics(None);
        assert_eq!(topics(&bed.call(12, &null).await), everything);
        assert_eq!(topics(&bed.call(0, &asking(&[], true)).await), everything, "empty is all in version 0");
        assert_eq!(topics(&bed.call(1, &asking(&[], true)).await), []);
        let response = bed.call(12, &asking(&["b", "c", "x/y"], false)).await;
        assert_eq!(topics(&response), [row("b", 0, 3), row("c", 3, 0), row("x/y", 17, 0)]);
        assert_eq!(response.brokers.len(), 1);
        let broker = &response.brokers[0];
        assert_eq!((broker.node_id.0, broker.host.as_str(), broker.port), (1, "broker-1", 9092));
        assert_eq!((response.controller_id.0, response.cluster_id.as_deref()), (1, Some("test-cluster")));
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.error_code), (1, EPOCH, 0));
        assert_eq!((partition.replica_nodes.len(), partition.isr_nodes.len()), (1, 1));
        let by_id = |id| {
            let topic = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
            MetadataRequest::default().with_topics(Some(vec![topic]))
        };
        assert_eq!(topics(&bed.call(12, &by_id(id)).await), [row("a", 0, 1)]);
        assert_eq!(topics(&bed.call(12, &by_id(Uuid::from_u128(5))).await), [row("", 100, 0)]);
        assert_eq!(
            topics(
                &bed.call(
                    10,
                    &by_id(id).with_topics(Some(vec![
                        MetadataRequestTopic::default().with_name(Some(name("a"))).with_topic_id(id)
                    ]))
                )
                .await
            ),
            [row("a", 42, 0)]
        );
    });
}

#[test]
fn topics_are_created_when_both_sides_allow_it() {
    run(|| async {
        let bed = Bed::new(true).await;
        assert_eq!(topics(&bed.call(12, &asking(&["n"], false)).await)[0].1, 3);
        assert_eq!(topics(&bed.call(12, &asking(&["n"], true)).await), [("n".to_owned(), 0, 2)]);
        let names: Vec<String> = (0..20).map(|i| format!("many{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(topics(&bed.call(3, &asking(&names, true)).await).iter().all(|t| (t.1, t.2) == (0, 2)));
        bed.topic("with.dot", 1, &[]).await;
        assert_eq!(topics(&bed.call(12, &asking(&["with_dot", ".."], true)).await)[0].1, 17);
        assert!(bed.image().topic("with_dot").is_none());
        let closed = Bed::new(false).await;
        assert_eq!(topics(&closed.call(12, &asking(&["n"], true)).await)[0].1, 3);
    });
}

#[test]
fn a_partition_that_is_not_served_has_no_leader() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
        bed.partition("t", 1).view.close();
        let response = bed.call(12, &asking(&["t"], false)).await;
        let leaders: Vec<_> = response.topics[0].partitions.iter().map(|p| (p.error_code, p.leader_id.0)).collect();
        assert_eq!(leaders, [(0, 1), (5, -1)]);
    });
}

/// Name, partitions, configs.
type NewTopic<'a> = (&'a str, i32, &'a [(&'a str, &'a str)]);

fn creating(topics: &[NewTopic<'_>]) -> CreateTopicsRequest {
    let topics = topics.iter().map(|(topic, partitions, configs)| {
        let configs =
            configs.iter().map(|(k, v)| CreatableTopicConfig::default().with_name(text(k)).with_value(Some(text(v))));
        CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(*partitions)
            .with_replication_factor(-1)
            .with_configs(configs.collect())
    });
    CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(5_000)
}

#[test]
fn creating_topics() {
    run(|| async {
        let bed = Bed::new(false).await;
        let dry = creating(&[("dry", 1, &[])]).with_validate_only(true);
        let response = bed.call(7, &dry).await;
        assert_eq!((response.topics[0].error_code, response.topics[0].topic_id), (0, Uuid::nil()));
        let bad: &[(&str, &str)] = &[("retention.ms", "soon")];
        let request = creating(&[("one", -1, &[("retention.ms", "5")]), ("two", 3, bad), ("three", 4, &[])]);
        let response = bed.call(7, &request).await;
        let codes: Vec<_> = response.topics.iter().map(|t| (t.error_code, t.num_partitions)).collect();
        assert_eq!(codes, [(0, 2), (40, -1), (0, 4)]);
        assert!(response.topics[1].error_message.as_ref().is_some_and(|m| m.contains("retention.ms")));
        let one = &response.topics[0];
        assert_eq!((one.replication_factor, one.error_message.as_ref()), (1, None));
        let configs = one.configs.as_ref().unwrap();
        assert!(configs.len() > 30);
        let retention = configs.iter().find(|c| c.name.as_str() == "retention.ms").unwrap();
        assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5"), 1));
        assert!(bed.image().topic("dry").is_none() && bed.image().topic("two").is_none());
        assert_eq!(bed.produce("one", 1, batch_of(b"x")).await, (0, 0), "led when the answer comes");
        let again = bed.call(7, &creating(&[("one", 1, &[]), ("x", 1, &[]), ("x", 1, &[])])).await;
        assert_eq!(again.topics.iter().map(|t| t.error_code).collect::<Vec<_>>(), [36, 42]);
        assert_eq!(bed.call(2, &creating(&[("old", 1, &[])])).await.topics[0].error_code, 0);
    });
}

#[test]
fn deleting_topics() {
    run(|| async {
        let bed = Bed::new(false).await;
        let id = bed.topic("a", 1, &[]).await;
        bed.topic("b", 1, &[]).await;
        let request = DeleteTopicsRequest::default().with_timeout_ms(5_000).with_topics(vec![
            DeleteTopicState::default().with_name(None).with_topic_id(id),
            DeleteTopicState::default().with_name(Some(name("none"))),
            DeleteTopicState::default().with_name(None).with_topic_id(Uuid::from_u128(9)),
        ]);
        let response = bed.call(6, &request).await;
        let rows: Vec<_> =
            response.responses.iter().map(|r| (r.name.as_ref().map(|n| n.to_string()), r.error_code)).collect();
        assert_eq!(rows, [(Some("a".to_owned()), 0), (Some("none".to_owned()), 3), (None, 100)]);
        assert!(bed.image().topic("a").is_none(), "gone when the answer comes");
        let by_name =
            DeleteTopicsRequest::default().with_timeout_ms(5_000).with_topic_names(vec![name("b"), name("b")]);
        let response = bed.call(1, &by_name).await;
        assert_eq!(response.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), [42]);
        // By its name and by its id: one row, and it stays.
        let b = bed.image().topic("b").expect("it stays").value.id.0;
        let by_name = || DeleteTopicState::default().with_name(Some(name("b")));
        let by_id = || DeleteTopicState::default().with_name(None).with_topic_id(b);
        let confused = || by_name().with_topic_id(b);
        for (states, rows) in [
            (vec![by_id(), by_name()], vec![(Some("b"), b)]),
            (vec![by_name(), by_id()], vec![(Some("b"), b)]),
            (vec![by_id(), by_name(), by_id()], vec![(None, b), (Some("b"), b)]),
            (vec![confused(), by_name(), by_id()], vec![(Some("b"), b), (Some("b"), b)]),
        ] {
            let request = DeleteTopicsRequest::default().with_timeout_ms(5_000).with_topics(states);
            let response = bed.call(6, &request).await;
            let named = |r: &DeletableTopicResult| (r.name.as_ref().map(|n| n.to_string()), r.topic_id);
            let found: Vec<_> = response.responses.iter().map(named).collect();
            assert_eq!(found, rows.into_iter().map(|(n, id)| (n.map(str::to_owned), id)).collect::<Vec<_>>());
            assert!(response.responses.iter().all(|r| r.error_code == 42 && r.error_message.is_some()));
            assert!(bed.image().topic("b").is_some());
        }
        assert_ne!(bed.topic("a", 1, &[]).await, id);
    });
}

#[test]
fn describing_configs() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 1, &[("retention.ms", "5")]).await;
        let resource = |kind: i8, of: &str, keys: Option<Vec<StrBytes>>| {
            DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(of))
                .with_configuration_keys(keys)
        };
        let request = DescribeConfigsRequest::default()
            .with_include_synonyms(true)
            .with_include_documentation(true)
            .with_resources(vec![
                resource(2, "t", None),
                resource(2, "t", Some(vec![text("retention.ms"), text("nothing")])),
                resource(4, "1", None),
                resource(4, "", None),
                resource(4, "2", None),
                resource(2, "u", None),
                resource(2, "a/b", None),
                resource(8, "1", None),
            ]);
        let results = bed.call(4, &request).await.results;
        let summary: Vec<_> = results.iter().map(|r| (r.error_code, r.configs.len())).collect();
        let (topic_count, broker_count) = (summary[0].1, summary[2].1);
        assert_eq!(summary[1], (0, 1));
        assert_eq!(summary[3..], [(0, 0), (42, 0), (3, 0), (17, 0), (42, 0)]);
        assert!(topic_count > 30 && broker_count > 40, "{topic_count} {broker_count}");
        let set = &results[1].configs[0];
        assert_eq!((set.value.as_deref(), set.config_source, set.config_type), (Some("5"), 1, 5));
        let synonyms: Vec<_> = set.synonyms.iter().map(|s| (s.name.as_str(), s.value.as_deref(), s.source)).collect();
        assert_eq!(synonyms, [("retention.ms", Some("5"), 1), ("log.retention.ms", Some("604800000"), 5)]);
        assert!(results[0].configs.iter().all(|c| c.documentation.is_some() && !c.read_only));
        assert!(results[2].configs.iter().all(|c| c.documentation.is_some()));
        let changeable = results[2].configs.iter().filter(|c| !c.read_only).map(|c| c.name.as_str());
        assert_eq!(
            changeable.collect::<Vec<_>>(),
            [
                "compression.type",
                "log.cleaner.delete.retention.ms",
                "log.cleaner.max.compaction.lag.ms",
                "log.cleaner.min.cleanable.ratio",
                "log.cleaner.min.compaction.lag.ms",
                "log.cleanup.policy",
                "log.message.timestamp.after.max.ms",
                "log.message.timestamp.before.max.ms",
                "log.message.timestamp.type",
                "log.retention.bytes",
                "log.retention.ms",
                "log.roll.ms",
                "message.max.bytes",
            ]
        );
        let plain = DescribeConfigsRequest::default().with_resources(vec![resource(2, "t", Some(vec![]))]);
        let configs = &bed.call(1, &plain).await.results[0].configs;
        assert_eq!(configs.len(), topic_count, "no keys are all keys");
        assert!(configs.iter().all(|c| c.synonyms.is_empty()));
    });
}

#[test]
fn producer_ids_are_new_each_time() {
    run(|| async {
        let bed = Bed::new(false).await;
        let first = bed.call(4, &InitProducerIdRequest::default().with_transactional_id(None)).await;
        let known = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_producer_id(first.producer_id)
            .with_producer_epoch(0);
        let second = bed.call(4, &known).await;
        assert_eq!((first.error_code, first.producer_epoch, second.error_code), (0, 0, 0));
        assert_eq!(second.producer_epoch, 0);
        assert_ne!(first.producer_id, second.producer_id);
        let transactional = InitProducerIdRequest::default()
            .with_transactional_id(Some(kafka_protocol::messages::TransactionalId(text("t"))))
            .with_transaction_timeout_ms(960_000);
        assert_eq!(bed.call(4, &transactional).await.error_code, 50);
    });
}

#[test]
fn versions_and_cluster() {
    run(|| async {
        let bed = Bed::new(false).await;
        let named = |n: &str| {
            ApiVersionsRequest::default().with_client_software_name(text(n)).with_client_software_version(text("1"))
        };
        let response = bed.call(3, &named("client")).await;
        assert_eq!(response.error_code, 0);
        let produce = &response.api_keys[0];
        assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 13));
        assert_eq!(bed.call(3, &named("bad name")).await.error_code, 42);
        assert_eq!(bed.call(0, &ApiVersionsRequest::default()).await.error_code, 0);
        let cluster = bed.call(1, &DescribeClusterRequest::default().with_endpoint_type(1)).await;
        assert_eq!((cluster.error_code, cluster.brokers.len(), cluster.controller_id.0), (0, 1, 1));
        assert_eq!(cluster.cluster_id.as_str(), "test-cluster");
        assert_eq!(bed.call(1, &DescribeClusterRequest::default().with_endpoint_type(2)).await.error_code, 114);
        assert_eq!(bed.call(1, &DescribeClusterRequest::default().with_endpoint_type(9)).await.error_code, 115);
    });
}
