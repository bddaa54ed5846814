//! The alert rules, as Prometheus' own tool reads and plays them.

use crate::chart::golden::case;
use crate::chart::helm::find;
use crate::chart::{read, repository};
use crate::harness::tool;
use serde_json::Value;
use std::process::Command;

const RULES: &str = "helm/kafscale/files/rules/operator.yaml";

fn promtool(args: &[&str]) -> String {
    let output =
        Command::new(tool("promtool")).args(args).current_dir(repository("")).output().expect("promtool starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read(RULES)).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[test]
fn prometheus_reads_the_rules() {
    assert!(promtool(&["check", "rules", RULES]).contains("3 rules found"));
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    assert!(promtool(&["test", "rules", "integration/chart/rules_test.yaml"]).contains("SUCCESS"));
}

#[test]
fn the_guides_alerts_are_there_with_a_runbook_each() {
    let names: Vec<_> = alerts().iter().map(|alert| alert["alert"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(names, ["KafscaleSnapshotAccessFailed", "KafscaleSnapshotStale", "KafscaleSnapshotNeverSucceeded"]);
    for alert in alerts() {
        let url = alert["annotations"]["runbook_url"].as_str().expect("a runbook");
        let page =
            url.strip_prefix("https://github.com/kafscale/kafscale/blob/main/").expect("a page of this repository");
        let name = alert["alert"].as_str().expect("a name");
        assert_eq!(page, format!("docs/runbooks/{name}.md"));
        assert!(read(page).starts_with(&format!("# {name}\n")), "{page}");
    }
}

#[test]
fn the_chart_hands_them_on_word_for_word() {
    let manifests = case("everything").manifests();
    let rule = find(&manifests, "PrometheusRule/kafscale-operator").expect("a rule");
    assert_eq!(rule["spec"]["groups"][0]["rules"], Value::Array(alerts()));
}
