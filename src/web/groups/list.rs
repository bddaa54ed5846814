//! The list of groups, and the groups of a topic.

use super::describe::{self, Commits};
use super::index::{AllMeasured, Groups, Row};
use super::measure::{self, Known, Measured};
use crate::web::kafka::{Offsets, PartitionOf, Place, within};
use crate::web::keyset::{self, Key, Needle, Order};
use crate::web::list::{LIMIT_MAX, PageQuery, list};
use crate::web::problem::Problem;
use crate::web::state::{ConsoleState, Missing};
use crate::web::topics::{distinct, legal_name};
use actix_web::{HttpResponse, web};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long members and lag of the page may take.
const PAGE_WITHIN: Duration = Duration::from_millis(1_500);
/// How long looking for the groups of a topic may take.
const TOPIC_WITHIN: Duration = Duration::from_millis(1_800);
/// Offsets that one request asks for.
const OFFSETS_MAX: usize = 20_000;
/// Groups that one request asks about.
const GROUPS_MAX: usize = 500;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sort {
    #[default]
    Id,
    Lag,
    Members,
    State,
}

#[derive(Debug, Deserialize)]
pub(super) struct Query {
    cursor: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    q: String,
    #[serde(default)]
    state: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    sort: Sort,
    #[serde(default)]
    order: Order,
}

/// GET `/groups`.
pub(super) async fn groups(state: web::Data<ConsoleState>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    let Query { cursor, limit, q, state: wanted, kind, sort, order } = query.into_inner();
    let limit = PageQuery { cursor: None, limit, q: String::new() }.limit()?;
    let listed = state.data.groups.groups().await;
    let mut missing = listed.missing.clone();
    never_listed(&listed, &mut missing);
    let all = matches!(sort, Sort::Lag | Sort::Members).then(|| state.data.groups.measured());
    if let Some(all) = &all {
        missing.extend(unmeasured(&listed, all));
    }
    let needle = Needle::new(&q);
    let fits = |row: &&Row| {
        let is_of = |wanted: &str, word: &str| wanted.is_empty() || wanted.eq_ignore_ascii_case(word);
        is_of(&wanted, &row.state) && is_of(&kind, &row.kind) && needle.is_in(&row.id)
    };
    let number = |row: &Row| match sort {
        Sort::Id => 0,
        Sort::State => state_number(&row.state),
        Sort::Lag => all.as_ref().and_then(|all| all.groups.get(&row.id)?.lag).unwrap_or(-1),
        Sort::Members => {
            all.as_ref().and_then(|all| all.groups.get(&row.id)?.members).map_or(-1, |members| members as i64)
        }
    };
    let keys: Vec<Key> = listed.rows.iter().filter(fits).map(|row| (number(row), row.id.clone())).collect();
    let total = (listed.as_of_ms > 0).then_some(keys.len());
    let (keys, next) = keyset::page(keys, order, cursor.as_deref(), limit)?;
    let shown: Vec<&Row> = keys.iter().filter_map(|(_, id)| listed.get(id)).collect();
    let known: Vec<Known> = shown.iter().map(|row| row.known()).collect();
    let (measured, unanswered) = measure::measure(&state.kafka, &known, within(PAGE_WITHIN)).await;
    missing.extend(unanswered);
    let items: Vec<Value> = shown.iter().map(|row| item(row, measured.get(&*row.id))).collect();
    Ok(HttpResponse::Ok().json(list(items, next, total, listed.as_of_ms, distinct(missing))))
}

fn never_listed(listed: &Groups, missing: &mut Vec<Missing>) {
    if listed.as_of_ms == 0 && missing.is_empty() {
        let reason = "brokers have not listed their groups yet: try again".to_owned();
        missing.push(Missing { source: "groups".to_owned(), reason, since_ms: None });
    }
}

/// What a list sorted by lag or members is without.
fn unmeasured(listed: &Groups, all: &AllMeasured) -> Option<Missing> {
    let unknown = listed.rows.iter().filter(|row| !all.groups.contains_key(&row.id)).count();
    let reason = match (all.as_of_ms, unknown) {
        (0, _) => "lag and members of all groups are being asked for: the order is not right yet".to_owned(),
        (_, 0) => return None,
        (_, n) => format!("{n} groups are new since lag and members were asked for"),
    };
    Some(Missing { source: "order".to_owned(), reason, since_ms: Some(all.as_of_ms).filter(|at_ms| *at_ms > 0) })
}

/// What wants looking at comes last in ascending order.
fn state_number(state: &str) -> i64 {
    match state {
        "Stable" => 0,
        "Empty" => 1,
        "Assigning" | "Reconciling" => 2,
        "PreparingRebalance" => 3,
        "CompletingRebalance" => 4,
        "Dead" => 5,
        _ => 6,
    }
}

fn item(row: &Row, measured: Option<&Measured>) -> Value {
    let measured = measured.cloned().unwrap_or_default();
    json!({
        "group_id": &*row.id,
        "state": &*row.state,
        "type": &*row.kind,
        "members": measured.members,
        "lag": measured.lag.map(|lag| lag.to_string()),
        "topics": measured.topics,
    })
}

/// GET `/topics/{name}/groups`: who has committed offsets of the topic. Every group is asked about this topic alone.
pub(super) async fn of_topic(state: web::Data<ConsoleState>, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let (name, deadline) = (path.into_inner(), within(TOPIC_WITHIN));
    legal_name(&name)?;
    let topic = state.kafka.topic(&name, deadline).await?;
    let listed = state.data.groups.groups().await;
    let mut missing = listed.missing.clone();
    never_listed(&listed, &mut missing);
    let partitions: Vec<i32> = topic.partitions.iter().map(|p| p.partition).collect();
    let at: Vec<PartitionOf> = partitions.iter().map(|p| (name.clone(), *p)).collect();
    let ends = state.kafka.offsets(&at, Place::Latest, deadline).await;
    let mut by_node: BTreeMap<i32, Vec<&Row>> = BTreeMap::new();
    listed.rows.iter().for_each(|row| by_node.entry(row.node).or_default().push(row));
    let portion = (OFFSETS_MAX / partitions.len().max(1)).clamp(1, GROUPS_MAX);
    let asked = by_node.into_iter().map(|(node, rows)| {
        let kafka = &state.kafka;
        let (name, partitions): (&str, &[i32]) = (&name, &partitions);
        async move {
            let (mut found, mut errors) = (Vec::new(), Vec::new());
            for rows in rows.chunks(portion) {
                let ids: Vec<&str> = rows.iter().map(|row| &*row.id).collect();
                let mut commits = describe::commits(kafka, node, &ids, Some((name, partitions)), deadline).await;
                for row in rows {
                    match commits.remove(&*row.id) {
                        Some(Ok(commits)) if !commits.is_empty() => found.push((*row, commits)),
                        Some(Err(error)) => errors.push(error.to_string()),
                        _ => {}
                    }
                }
            }
            (found, errors)
        }
    });
    let mut found: Vec<(&Row, Commits)> = Vec::new();
    for (some, errors) in join_all(asked).await {
        found.extend(some);
        let of = |reason| Missing { source: "groups".to_owned(), reason, since_ms: None };
        missing.extend(distinct(errors.into_iter().map(of)));
    }
    found.sort_unstable_by(|a, b| a.0.id.cmp(&b.0.id));
    let total = found.len();
    found.truncate(LIMIT_MAX);
    let items: Vec<Value> = found.iter().map(|(row, commits)| topic_item(row, commits, &ends)).collect();
    Ok(HttpResponse::Ok().json(list(items, None, Some(total), listed.as_of_ms, distinct(missing))))
}

fn topic_item(row: &Row, commits: &Commits, ends: &Offsets) -> Value {
    let lag = measure::lag(commits, ends);
    json!({ "group_id": &*row.id, "state": &*row.state, "lag": lag.map(|lag| lag.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_order_that_is_not_known_yet_is_said() {
        let row = Row { id: "a".into(), state: "Stable".into(), kind: "classic".into(), node: 0 };
        let listed = Groups { rows: vec![row], as_of_ms: 1, missing: Vec::new() };
        let mut all = AllMeasured::default();
        assert!(unmeasured(&listed, &all).unwrap().reason.contains("not right yet"));
        all.as_of_ms = 5;
        assert_eq!(unmeasured(&listed, &all).unwrap().since_ms, Some(5));
        all.groups.insert(Arc::from("a"), Measured::default());
        assert_eq!(unmeasured(&listed, &all), None);
    }
}
