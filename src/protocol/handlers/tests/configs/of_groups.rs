//! Configs of groups: resource type 32.

use super::*;

const GROUP: i8 = 32;
const SESSION: &str = "consumer.session.timeout.ms";
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";

async fn groups(bed: &Bed) -> Vec<String> {
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![GROUP]);
    let rows = bed.call(1, &request).await.config_resources;
    assert!(rows.iter().all(|row| row.resource_type == GROUP));
    rows.iter().map(|row| row.resource_name.to_string()).collect()
}

#[test]
fn groups_are_configured_before_they_exist_and_forgotten() {
    run(|| async {
        let bed = Bed::new(false).await;
        let default = "group.consumer.session.timeout.ms=45000 5";
        let row = |value: &str, source, synonyms: &str| (value.to_owned(), source, synonyms.to_owned());
        assert_eq!(seen(&bed, GROUP, "g", SESSION).await, row("45000", 5, default));
        let names: Vec<String> = describe(&bed, GROUP, "g").await.iter().map(|c| c.name.to_string()).collect();
        assert_eq!((names, groups(&bed).await), (vec![HEARTBEAT.to_owned(), SESSION.to_owned()], vec![]));

        set(&bed, GROUP, "g", SESSION, " 50000 ").await;
        set(&bed, GROUP, "a/b ü", HEARTBEAT, "6000").await;
        assert_eq!(seen(&bed, GROUP, "g", SESSION).await, row("50000", 8, &format!("{SESSION}=50000 8, {default}")));
        assert_eq!(groups(&bed).await, ["a/b ü", "g"]);
        let overrides = |group: &str| bed.image().group_overrides(group);
        assert_eq!((overrides("g").session_timeout_ms, overrides("g").heartbeat_interval_ms), (Some(50_000), None));
        assert_eq!(overrides("a/b ü").heartbeat_interval_ms, Some(6_000));

        // The legacy request replaces; without anything left the group is not listed any more.
        for version in 0..=2 {
            let resources =
                vec![replacing(GROUP, "g", &[(HEARTBEAT, Some("7000"))]), replacing(GROUP, "g2", &[("x", Some("1"))])];
            let request = AlterConfigsRequest::default().with_resources(resources);
            let codes: Vec<_> = bed.call(version, &request).await.responses.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 40], "version {version}");
            assert_eq!((overrides("g").session_timeout_ms, overrides("g").heartbeat_interval_ms), (None, Some(7_000)));
        }
        let forget = resource(GROUP, "g", &[(HEARTBEAT, DELETE, None), ("no.such", DELETE, None)]);
        assert_eq!(alter(&bed, vec![forget]).await[0].0, 0);
        assert_eq!(groups(&bed).await, ["a/b ü"]);
        assert_eq!(seen(&bed, GROUP, "g", HEARTBEAT).await.1, 5);
        assert!(bed.image().group_configs("g").is_none());
    });
}

#[test]
fn what_groups_cannot_be_set_to() {
    run(|| async {
        let bed = Bed::new(false).await;
        let one = |of: &str, name: &str, operation, value| resource(GROUP, of, &[(name, operation, value)]);
        let long = "g".repeat(1_025);
        let table = [
            (one("g", SESSION, SET, Some("44999")), 40, "group.consumer.min.session.timeout.ms"),
            (one("g", HEARTBEAT, SET, Some("15001")), 40, "group.consumer.max.heartbeat.interval.ms"),
            (one("g", SESSION, SET, Some("soon")), 40, "32-bit number"),
            (one("g", SESSION, SET, Some("")), 40, "32-bit number"),
            (one("g", SESSION, SET, None), 42, "no value"),
            (one("g", SESSION, APPEND, Some("1")), 40, "not a list"),
            (one("g", SESSION, 7, Some("1")), 42, "operation 7"),
            (one("g", "retention.ms", SET, Some("1")), 40, "unknown group config retention.ms"),
            (one("", SESSION, SET, Some("50000")), 42, "name one"),
            (one(&long, SESSION, SET, Some("50000")), 42, "1024 bytes"),
            (resource(GROUP, "g", &[(SESSION, SET, Some("1")), (SESSION, SET, Some("2"))]), 42, "more than once"),
        ];
        for (resource, code, part) in table {
            let rows = alter(&bed, vec![resource.clone()]).await;
            assert!(rows[0].0 == code && rows[0].1.contains(part), "{resource:?}: {rows:?}");
        }
        let dry = IncrementalAlterConfigsRequest::default().with_validate_only(true).with_resources(vec![one(
            "g",
            SESSION,
            SET,
            Some("50000"),
        )]);
        assert_eq!(bed.call(0, &dry).await.responses[0].error_code, 0);
        assert_eq!(groups(&bed).await, [] as [&str; 0], "nothing was stored");
        let nameless = DescribeConfigsResource::default().with_resource_type(GROUP).with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![nameless]);
        assert_eq!(bed.call(4, &request).await.results[0].error_code, 42);
        // The brokers' settings that groups fall back to are fixed at start, as in Kafka.
        for name in ["group.consumer.session.timeout.ms", "group.max.session.timeout.ms", "group.max.size"] {
            let rows = alter(&bed, vec![resource(BROKER, "1", &[(name, SET, Some("50000"))])]).await;
            assert!(rows[0].0 == 42 && rows[0].1.contains("cannot be changed at run time"), "{name}: {rows:?}");
        }
    });
}
