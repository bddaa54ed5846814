//! Groups through the console: what they have, how far behind they are, and resets that are shown before they are done.

use super::browser::{Browser, until};
use super::process::{ADMIN, beside};
use super::schema::Schemas;
use super::topics::{DEADLINE, change, changed, names, produce};
use crate::client::{Client, Connection};
use crate::cluster::{Cluster, find_coordinator};
use crate::group_client::{Member, commit_request, fetch_offsets};
use crate::harness::wait_until;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// An offset that a number of JavaScript would round.
const BEYOND_DOUBLES: i64 = (1 << 53) + 1;
/// Resets that are tried.
const RESETS: usize = 24;

/// Commits as somebody who is no member.
async fn commit(addresses: &[String], group: &str, topic: &str, offsets: &[(i32, i64)]) {
    wait_until("it is committed", DEADLINE, async || {
        let mut client = coordinator(addresses, group).await;
        let answer = client.call(8, &commit_request(&Member::none(group), topic, offsets)).await;
        answer.is_ok_and(|a| a.topics.iter().flat_map(|t| &t.partitions).all(|p| p.error_code == 0))
    })
    .await;
}

async fn coordinator(addresses: &[String], group: &str) -> Client {
    let mut found = None;
    wait_until("the group has a coordinator", DEADLINE, async || {
        found = find_coordinator(addresses, group).await;
        found.is_some()
    })
    .await;
    let node = found.expect("it was found") as usize;
    Client::new(&addresses[node - 1])
}

async fn committed(addresses: &[String], group: &str) -> Vec<(String, i32, i64)> {
    let mut rows = None;
    wait_until("offsets are told", DEADLINE, async || {
        let mut client = coordinator(addresses, group).await;
        rows = fetch_offsets(&mut client, group).await.ok();
        rows.is_some()
    })
    .await;
    rows.expect("they were told").into_iter().map(|(topic, partition, offset, _)| (topic, partition, offset)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_shown_to_the_last_digit_and_reset_as_shown() {
    let mut cluster = Cluster::start("console-groups", "50").await;
    let console = beside(&mut cluster, "console-of-groups").await;
    let (admin, viewer) = (console.admin().await, console.viewer().await);
    let addresses = cluster.addresses();
    Client::new(&addresses[0]).create_topic("orders", 2, &[]).await.expect("it is created");
    for partition in 0..2 {
        produce(&addresses, "orders", partition, &[b"a", b"b", b"c", b"d"]).await;
    }
    let schemas = Schemas::of(&admin).await;
    let strange = "a/b <img src=x onerror=alert(1)> 'q' \u{1F980}";
    commit(&addresses, "billing", "orders", &[(0, 1), (1, BEYOND_DOUBLES)]).await;
    commit(&addresses, strange, "orders", &[(0, 0)]).await;

    let list = until(&viewer, "both are listed", "/groups", |list| list["total"] == 2).await;
    schemas.check("/groups", "get", "200", &list);
    assert_eq!(names(&list, "group_id"), [strange, "billing"]);
    let billing = &list["items"][1];
    assert_eq!((&billing["lag"], &billing["members"], &billing["topics"]), (&json!("3"), &json!(0), &json!(1)));
    assert_eq!(names(&viewer.api("/groups?q=BILL&state=Empty&type=classic").await, "group_id"), ["billing"]);
    assert_eq!(viewer.api("/groups?state=Stable").await["total"], 0);
    let by_lag = |list: &Value| list["partial"] == json!([]) && names(list, "group_id")[0] == strange;
    until(&viewer, "all are measured", "/groups?sort=lag&order=desc", by_lag).await;
    let path = format!("/groups/{}", encoded(strange));
    assert_eq!(schemas.get(&viewer, &path, "/groups/{id}").await["group_id"], strange);
    let of_topic = schemas.get(&viewer, "/topics/orders/groups", "/topics/{name}/groups").await;
    assert_eq!(names(&of_topic, "group_id"), [strange, "billing"]);

    let group = schemas.get(&viewer, "/groups/billing", "/groups/{id}").await;
    let offset = &group["offsets"][1];
    assert_eq!(offset["committed"], BEYOND_DOUBLES.to_string(), "no digit is lost");
    assert_eq!((&offset["end_offset"], &offset["lag"]), (&json!("4"), &json!("0")));
    assert_eq!((&group["offsets"][0]["lag"], &group["lag_total"]), (&json!("3"), &json!("3")));
    assert_eq!(group["lag_history"][0][1], "3");
    assert_eq!(viewer.get("/api/v1/groups/nobody").await.code(), "GROUP_ID_NOT_FOUND");

    what_is_shown_is_done_once(&schemas, &admin, &viewer, &addresses).await;
    resets_stay_within_the_partition(&schemas, &admin, &addresses).await;
    members_block_a_reset(&admin, &addresses).await;

    // What it has committed of a topic goes, and then the group itself.
    let offsets = json!({ "topic": "orders", "confirm": "billing" });
    assert_eq!(change(&admin, "DELETE", "/groups/billing/offsets", &offsets).await.status, 204);
    assert_eq!(change(&admin, "DELETE", "/groups/billing/offsets", &offsets).await.status, 404);
    assert_eq!(committed(&addresses, "billing").await, []);
    assert_eq!(change(&admin, "DELETE", &path, &json!({ "confirm": "billing" })).await.code(), "confirm_mismatch");
    assert_eq!(change(&admin, "DELETE", &path, &json!({ "confirm": strange })).await.status, 204);
    until(&admin, "it is gone", "/groups", |list| !names(list, "group_id").contains(&strange.to_owned())).await;
    let audit = admin.api("/audit").await;
    let newest = &audit["items"][0];
    assert_eq!(
        (&newest["action"], &newest["outcome"], &newest["who"]),
        (&json!("group.delete"), &json!("ok"), &json!(ADMIN.0))
    );
    assert_eq!(newest["before"]["offsets"]["orders:0"], "0", "{newest}");
}

fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn preview_body(topics: &Value, kind: &str, value: &Value) -> Value {
    json!({ "partitions": null, "topics": topics, "target": { "kind": kind, "value": value } })
}

const PREVIEW: (&str, &str, &str) = ("POST", "/groups/billing/offsets/preview", "/groups/{id}/offsets/preview");
const APPLY: (&str, &str, &str) = ("POST", "/groups/billing/offsets", "/groups/{id}/offsets");

async fn what_is_shown_is_done_once(schemas: &Schemas, admin: &Browser, viewer: &Browser, addresses: &[String]) {
    let ask = preview_body(&Value::Null, "shift", &json!("-1"));
    assert_eq!(change(viewer, "POST", PREVIEW.1, &ask).await.code(), "forbidden");
    let preview = changed(schemas, admin, PREVIEW, &ask).await;
    // Beyond the end is brought back to the end.
    let expected = json!([
        { "topic": "orders", "partition": 0, "current": "1", "new": "0", "lag_before": "3", "lag_after": "4" },
        { "topic": "orders", "partition": 1, "current": BEYOND_DOUBLES.to_string(), "new": "4", "lag_before": "0", "lag_after": "0" },
    ]);
    assert_eq!(preview["changes"], expected);
    let command = preview["command"].as_str().unwrap();
    assert!(command.starts_with("kafka-consumer-groups --bootstrap-server "), "{command}");
    assert!(
        command.ends_with("--group billing --reset-offsets --topic orders:0,1 --shift-by -1 --execute"),
        "{command}"
    );
    let token = &preview["token"];
    assert_eq!(
        change(admin, "POST", APPLY.1, &json!({ "token": token, "confirm": "Billing" })).await.code(),
        "confirm_mismatch"
    );
    let done = changed(schemas, admin, APPLY, &json!({ "token": token, "confirm": "billing" })).await;
    assert_eq!(done["changes"], expected);
    assert_eq!(committed(addresses, "billing").await, [("orders".to_owned(), 0, 0), ("orders".to_owned(), 1, 4)]);
    assert_eq!(
        change(admin, "POST", APPLY.1, &json!({ "token": token, "confirm": "billing" })).await.code(),
        "conflict",
        "once"
    );
    // Somebody else is faster: what was shown is no longer true.
    let stale = changed(schemas, admin, PREVIEW, &ask).await;
    commit(addresses, "billing", "orders", &[(0, 3)]).await;
    let late = change(admin, "POST", APPLY.1, &json!({ "token": stale["token"], "confirm": "billing" })).await;
    assert_eq!((late.status, late.code().as_str()), (409, "conflict"));
    assert_eq!(committed(addresses, "billing").await[0].2, 3, "nothing was changed");
}

/// Whatever is asked for, what the broker has committed afterwards is an offset of the partition, and no special number.
async fn resets_stay_within_the_partition(schemas: &Schemas, admin: &Browser, addresses: &[String]) {
    let aims = prop_oneof![
        Just(("earliest", Value::Null)),
        Just(("latest", Value::Null)),
        (0..i64::MAX).prop_map(|n| ("offset", json!(n.to_string()))),
        any::<i64>().prop_map(|n| ("shift", json!(n.to_string()))),
        (0..i64::MAX).prop_map(|n| ("time", json!(n.to_string()))),
        (0..i64::MAX).prop_map(|n| ("duration", json!(n.to_string()))),
    ];
    let mut runner = TestRunner::deterministic();
    for _ in 0..RESETS {
        let (kind, value) = aims.new_tree(&mut runner).expect("a case").current();
        let topics = json!(["orders"]);
        let preview = changed(schemas, admin, PREVIEW, &preview_body(&topics, kind, &value)).await;
        let apply = json!({ "token": preview["token"], "confirm": "billing" });
        let done = changed(schemas, admin, APPLY, &apply).await;
        let rows = committed(addresses, "billing").await;
        assert_eq!(rows.len(), 2, "{kind} {value}");
        for (change, (_, partition, offset)) in done["changes"].as_array().unwrap().iter().zip(rows) {
            assert!((0..=4).contains(&offset), "{kind} {value} committed {offset} of {partition}");
            assert_eq!(change["new"], offset.to_string(), "{kind} {value}");
            match kind {
                "earliest" => assert_eq!(offset, 0),
                "latest" => assert_eq!(offset, 4),
                _ => {}
            }
        }
    }
    for (kind, value) in [
        ("offset", json!("-1")),
        ("offset", json!("-2")),
        ("time", json!(-1)),
        ("offset", json!(1.5)),
        ("end", json!(null)),
    ] {
        let refused = change(admin, "POST", PREVIEW.1, &preview_body(&Value::Null, kind, &value)).await;
        assert_eq!(refused.code(), "invalid", "{kind} {value}");
    }
}

async fn members_block_a_reset(admin: &Browser, addresses: &[String]) {
    let node = find_coordinator(addresses, "billing").await.expect("it has a coordinator") as usize;
    let address = &addresses[node - 1];
    let mut member = Member::join(address, "billing", None).await;
    let ask = preview_body(&Value::Null, "latest", &Value::Null);
    let blocked = change(admin, "POST", PREVIEW.1, &ask).await.json();
    assert!(blocked["blocked"].as_str().is_some_and(|text| text.contains("1 active member")), "{blocked}");
    assert!(blocked["token"].is_null() && blocked["changes"].as_array().is_some_and(|c| c.len() == 2), "{blocked}");
    let group = admin.api("/groups/billing").await;
    assert_eq!(
        (&group["state"], &group["members"][0]["client_id"]),
        (&json!("Stable"), &json!("kafscale-test")),
        "{group}"
    );
    let delete = change(admin, "DELETE", "/groups/billing", &json!({ "confirm": "billing" })).await;
    assert_eq!((delete.status, delete.code().as_str()), (409, "NON_EMPTY_GROUP"));
    let mut connection = Connection::open(address).await.expect("the broker accepts");
    member.leave(&mut connection).await;
}
