//! Cases 10-19 and 38: metadata, topics, configs, producer ids.

use super::{batch, create, dev, new_topic, produce_request, topic};
use crate::client::{Client, ClientError, Connection, text, topic_name};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{
    BrokerId, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest,
    FetchRequest, InitProducerIdRequest, ProduceRequest, TransactionalId,
};
use std::collections::BTreeSet;
use uuid::Uuid;

async fn codes(client: &mut Client, topics: Option<&[&str]>, auto_create: bool) -> Vec<(String, i16)> {
    let answer = client.metadata(topics, auto_create).await.unwrap();
    let name = |t: &kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
        t.name.as_ref().map_or_else(String::new, |n| n.to_string())
    };
    answer.topics.iter().map(|t| (name(t), t.error_code)).collect()
}

async fn id_of(client: &mut Client, topic: &str) -> Uuid {
    client.metadata(Some(&[topic]), false).await.unwrap().topics[0].topic_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata() {
    let stack = dev("metadata-cases", &[("KAFSCALE_AUTO_CREATE_PARTITIONS", "3")]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "known", 1, &[]).await;
    let row = |name: &str, code| (name.to_string(), code);

    // 10, 11. Empty is none, null is all; an unknown topic is an error of its own.
    assert_eq!(codes(&mut client, Some(&[]), false).await, []);
    assert_eq!(codes(&mut client, None, false).await, [row("known", 0)]);
    assert_eq!(codes(&mut client, Some(&["known", "unknown"]), false).await, [row("known", 0), row("unknown", 3)]);

    // 12. New topics, one and then twenty at once, can be produced to (in one request) after the usual retries.
    let names: Vec<String> = (0..21).map(|i| format!("auto-{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for new in [&names[..1], &names[1..]] {
        let rows = codes(&mut client, Some(new), true).await;
        assert!(rows.iter().all(|(_, code)| [0, 3, 5].contains(code)), "{rows:?}");
        let data = new.iter().flat_map(|name| produce_request(name, -1, &[(2, batch(&[b"first"]))]).topic_data);
        let request = produce_request("", -1, &[]).with_topic_data(data.collect());
        let answered = client.retry("produce to new topics", async |c| produce_to_all(c, &request).await).await;
        assert_eq!(answered, new.len());
    }

    // 13. Names that are no names are refused by Metadata, Produce and CreateTopics, and create nothing.
    let long = "x".repeat(250);
    for bad in ["a/b", ".", "..", "", long.as_str()] {
        assert_eq!(codes(&mut client, Some(&[bad]), true).await[0].1, 17, "{bad}");
        assert_eq!(client.produce(bad, 0, batch(&[b"x"])).await.unwrap().error_code, 17, "{bad}");
        assert_eq!(create(&mut client, vec![new_topic(bad, 1, &[])], false).await[0].error_code, 17, "{bad}");
    }
    assert_eq!(codes(&mut client, None, false).await.len(), 22);

    // The same by pages: three partitions each of `auto-…` in name order, then one of `known`.
    let topics =
        names.iter().chain(&["known", "unknown"]).map(|name| TopicRequest::default().with_name(topic_name(name)));
    let mut request =
        DescribeTopicPartitionsRequest::default().with_topics(topics.collect()).with_response_partition_limit(5);
    let mut rows = Vec::new();
    loop {
        let page = client.call(0, &request).await.unwrap();
        assert!(page.topics.iter().map(|t| t.partitions.len()).sum::<usize>() <= 5);
        for topic in page.topics {
            let name = topic.name.as_ref().unwrap().to_string();
            assert_eq!(topic.error_code, if name == "unknown" { 3 } else { 0 }, "{name}");
            rows.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition_index)));
        }
        let Some(next) = page.next_cursor else { break };
        let cursor = Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index);
        request.cursor = Some(cursor);
    }
    let of_auto = names.iter().flat_map(|name| (0..3).map(|p| (name.to_string(), p)));
    assert_eq!(rows, of_auto.chain([("known".to_owned(), 0)]).collect::<Vec<_>>());

    // The controller is a broker that Metadata lists, and DescribeCluster agrees.
    let answer = client.metadata(Some(&[]), false).await.unwrap();
    assert!(answer.brokers.iter().any(|b| b.node_id == answer.controller_id));
    let cluster = client.call(1, &DescribeClusterRequest::default().with_endpoint_type(1)).await.unwrap();
    assert_eq!((cluster.controller_id, Some(cluster.cluster_id)), (answer.controller_id, answer.cluster_id));
    assert_eq!(cluster.brokers.len(), answer.brokers.len());
}

/// Sends a request and counts the partitions that were answered, if none of them with an error.
async fn produce_to_all(client: &mut Client, request: &ProduceRequest) -> Result<usize, ClientError> {
    let answer = client.call(9, request).await?;
    let rows: Vec<i16> = answer.responses.iter().flat_map(|t| &t.partition_responses).map(|p| p.error_code).collect();
    assert!(rows.iter().all(|code| [0, 3, 5, 6].contains(code)), "not what clients retry: {rows:?}");
    rows.iter().find(|code| **code != 0).map_or(Ok(rows.len()), |code| Err(ClientError::Code(*code)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_created_where_that_is_switched_off() {
    let stack = dev("no-auto-create", &[("KAFSCALE_AUTO_CREATE_TOPICS", "false")]).await;
    let mut client = Client::new(&stack.address());
    assert_eq!(codes(&mut client, Some(&["t"]), true).await[0].1, 3);
    assert_eq!(client.produce("t", 0, batch(&[b"x"])).await.unwrap().error_code, 3);
    assert_eq!(codes(&mut client, None, false).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics() {
    let stack = dev("topic-cases", &[("KAFSCALE_AUTO_CREATE_PARTITIONS", "3")]).await;
    let mut client = Client::new(&stack.address());

    // 15. Defaults are filled in and reported, with every config.
    let created = create(&mut client, vec![new_topic("defaults", -1, &[("retention.ms", "86400000")])], false).await;
    let configs = created[0].configs.as_ref().unwrap();
    assert_eq!((created[0].error_code, created[0].num_partitions, created[0].replication_factor), (0, 3, 1));
    assert!(configs.len() > 25, "{}", configs.len());
    let retention = configs.iter().find(|c| c.name.as_str() == "retention.ms").unwrap();
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("86400000"), 1));
    let policy = configs.iter().find(|c| c.name.as_str() == "cleanup.policy").unwrap();
    assert_eq!((policy.value.as_deref(), policy.config_source), (Some("delete"), 5));
    let described = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("defaults"));
    let described = described.with_configuration_keys(None);
    let described = DescribeConfigsRequest::default().with_resources(vec![described]);
    let described = client.call(4, &described).await.unwrap().results.remove(0);
    let reported: BTreeSet<_> = configs.iter().map(|c| c.name.to_string()).collect();
    assert_eq!(reported, described.configs.iter().map(|c| c.name.to_string()).collect(), "every config there is");
    assert!(!created[0].topic_id.is_nil());
    let answer = client.metadata(Some(&["defaults"]), false).await.unwrap();
    assert_eq!((answer.topics[0].partitions.len(), answer.topics[0].topic_id), (3, created[0].topic_id));

    // 16. Only validated: nothing exists after it.
    assert_eq!(create(&mut client, vec![new_topic("dry", 1, &[])], true).await[0].error_code, 0);
    assert_eq!(codes(&mut client, Some(&["dry"]), false).await[0].1, 3);

    // 17. One bad config does not harm the others.
    let bad = new_topic("bad", 1, &[("max.message.bytes", "much")]);
    let created = create(&mut client, vec![new_topic("one", 1, &[]), bad, new_topic("two", 1, &[])], false).await;
    assert_eq!(created.iter().map(|t| t.error_code).collect::<Vec<_>>(), [0, 40, 0]);
    let rows = codes(&mut client, Some(&["one", "bad", "two"]), false).await;
    assert_eq!(rows.iter().map(|r| r.1).collect::<Vec<_>>(), [0, 3, 0]);
    assert_eq!(create(&mut client, vec![new_topic("one", 1, &[])], false).await[0].error_code, 36);

    // 14. A topic of the same name is another topic: its id is new, the old one is unknown, and its log is empty.
    let old = id_of(&mut client, "one").await;
    client.produce_values("one", 0, &[b"gone"]).await;
    let (by_name, by_id) =
        (DeleteTopicState::default().with_name(Some(topic_name("one"))), DeleteTopicState::default());
    let by_id = by_id.with_name(None).with_topic_id(old);
    let delete = DeleteTopicsRequest::default().with_topics(vec![by_id.clone(), by_name]).with_timeout_ms(30_000);
    let both_ways = client.call(6, &delete).await.unwrap().responses;
    assert_eq!(both_ways.iter().map(|r| (r.topic_id, r.error_code)).collect::<Vec<_>>(), [(old, 42)]);
    assert_eq!(codes(&mut client, Some(&["one"]), false).await[0].1, 0, "it stays");
    let delete = delete.with_topics(vec![by_id]);
    assert_eq!(client.call(6, &delete).await.unwrap().responses[0].error_code, 0);
    assert_eq!(codes(&mut client, Some(&["one"]), false).await[0].1, 3);
    topic(&mut client, "one", 1, &[]).await;
    let new = id_of(&mut client, "one").await;
    assert!(!new.is_nil() && new != old);
    assert_eq!(client.read_all("one", 0).await, []);
    for (id, code) in [(old, 100), (new, 0)] {
        let wanted = FetchPartition::default().with_current_leader_epoch(-1).with_partition_max_bytes(1 << 20);
        let wanted = FetchTopic::default().with_topic_id(id).with_partitions(vec![wanted]);
        let fetch = FetchRequest::default().with_session_epoch(-1).with_max_bytes(1 << 20).with_topics(vec![wanted]);
        let fetch = fetch.with_replica_id(BrokerId(-1));
        assert_eq!(client.call(13, &fetch).await.unwrap().responses[0].partitions[0].error_code, code);
        let mut produce = produce_request("one", -1, &[(0, batch(&[b"x"]))]);
        produce.topic_data[0] = produce.topic_data[0].clone().with_name(topic_name("")).with_topic_id(id);
        let answer = client.call(13, &produce).await.unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_and_producer_ids() {
    let stack = dev("config-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[("retention.ms", "1000000")]).await;

    // 19. Every config of topic and broker, with default, source, type and documentation.
    let node = client.metadata(Some(&[]), false).await.unwrap().controller_id.0.to_string();
    let resource = |kind, name: &str| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    };
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource(2, "t"), resource(4, &node)])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let answer = client.call(4, &request).await.unwrap();
    for result in &answer.results {
        assert_eq!(result.error_code, 0, "{:?}", result.error_message);
        assert!(result.configs.len() > 25);
        for config in &result.configs {
            assert!(config.documentation.is_some() && config.config_type > 0, "{}", config.name.as_str());
            assert!(config.is_sensitive || (config.value.is_some() && !config.synonyms.is_empty()));
        }
    }
    let find = |i: usize, name: &str| answer.results[i].configs.iter().find(|c| c.name.as_str() == name).unwrap();
    let retention = find(0, "retention.ms");
    assert_eq!((retention.value.as_deref(), retention.config_source, retention.config_type), (Some("1000000"), 1, 5));
    let policy = find(0, "cleanup.policy");
    assert_eq!((policy.value.as_deref(), policy.config_source, policy.config_type), (Some("delete"), 5, 7));
    assert!(find(1, "node.id").read_only);

    // 38. Transaction time-outs above 15 minutes; and ids that are never the same, not even after a restart.
    let transactional = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text("t"))))
        .with_transaction_timeout_ms(16 * 60_000);
    assert_eq!(client.call(4, &transactional).await.unwrap().error_code, 50);
    let mut ids = vec![client.init_producer_id().await.unwrap(), client.init_producer_id().await.unwrap()];
    let mut stack = stack;
    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    ids.push(client.init_producer_id().await.unwrap());
    assert!(ids.iter().all(|(id, epoch)| *id >= 0 && *epoch == 0));
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    drop(Connection::open(&stack.address()).await.unwrap());
}
