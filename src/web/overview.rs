//! The first page: is the cluster well, and if not, why and since when.

use super::cluster::{EtcdLevel, EtcdView};
use super::scrape::{Reading, Readings};
use super::state::ConsoleState;
use crate::ids::{PartitionIndex, PartitionKey};
use crate::metadata::image::ClusterImage;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/overview", web::get().to(overview));
}

/// GET `/overview`.
pub async fn overview(state: web::Data<ConsoleState>) -> HttpResponse {
    state.scraped.want(state.clock.wall_ms());
    HttpResponse::Ok().json(now(&state))
}

/// The overview as it is now.
pub fn now(state: &ConsoleState) -> Value {
    let now_ms = state.clock.wall_ms();
    let (image, etcd, readings) = (state.cluster.image(), state.cluster.etcd(), state.scraped.readings.load_full());
    let counts = image.as_ref().map(|image| state.tally.counts(image));
    let reasons = reasons(counts.as_deref(), &etcd, &readings);
    let reasons = state.tally.since(reasons, now_ms);
    let missing = state.partial();
    let level = level(&reasons, counts.is_some());
    let rate = |name: &str| readings.sum(name);
    json!({
        "cluster_id": state.cluster.cluster_id().as_deref(),
        "version": env!("CARGO_PKG_VERSION"),
        "controller_id": image.as_ref().and_then(|image| controller(image)),
        "brokers": {
            "total": counts.as_ref().map(|counts| counts.brokers),
            "live": counts.as_ref().map(|counts| counts.brokers),
            "draining": counts.as_ref().map(|counts| counts.draining),
        },
        "topics": counts.as_ref().map(|counts| counts.topics),
        "partitions": counts.as_ref().map(|counts| counts.partitions),
        "leaderless_partitions": counts.as_ref().map(|counts| counts.leaderless),
        // The sum of a part of the brokers would look like a loss of groups.
        "groups": if missing.is_empty() { rate("groups").map(|n| n as u64) } else { None },
        "health": { "level": level, "reasons": reasons },
        "rates": {
            "bytes_in_per_sec": rate("bytes_in_per_sec"),
            "bytes_out_per_sec": rate("bytes_out_per_sec"),
            "records_in_per_sec": rate("records_in_per_sec"),
            "produce_p50_ms": readings.quantile_ms("produce", 0.5),
            "produce_p99_ms": readings.quantile_ms("produce", 0.99),
            "fetch_p99_ms": readings.quantile_ms("fetch", 0.99),
            "requests_per_sec": rate("requests_per_sec"),
            "s3_puts_per_sec": rate("s3_put_per_sec"),
            "s3_gets_per_sec": rate("s3_get_per_sec"),
        },
        "s3": s3(&readings),
        "etcd": { "state": etcd.level.name(), "since_ms": etcd.since_ms, "reasons": etcd.reasons },
        "as_of_ms": now_ms,
        "partial": missing,
    })
}

fn controller(image: &ClusterImage) -> Option<i32> {
    let controller = image.controller()?;
    image.lives().find(|(writer, _)| *writer == controller).map(|(_, live)| live.node.0)
}

/// The object store as the worst-off broker sees it.
fn s3(readings: &Readings) -> Value {
    let known =
        readings.brokers.iter().filter_map(|(broker, reading)| Some((broker, reading, reading.get("s3_state")?)));
    let worst = known.max_by(|a, b| a.2.total_cmp(&b.2));
    let Some((_, worst, state)) = worst else {
        return json!({ "state": "unknown", "since_ms": null, "reasons": [] });
    };
    let said = |(broker, reading): (&i32, &Reading)| {
        let broker = *broker;
        reading.s3_reasons.iter().map(move |reason| format!("broker {broker}: {reason}")).collect::<Vec<_>>()
    };
    let reasons: Vec<String> = if state > 0.0 { readings.brokers.iter().flat_map(said).collect() } else { Vec::new() };
    json!({ "state": worst.s3_state(), "since_ms": worst.s3_since_ms, "reasons": reasons })
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `warn` or `critical`.
    pub level: &'static str,
    /// What, for people.
    pub text: String,
    /// Since when the console has seen it, Unix milliseconds.
    pub since_ms: i64,
    /// The page that says more.
    pub link: &'static str,
    /// What stays the same while the words change.
    #[serde(skip)]
    key: String,
}

fn reason(level: &'static str, key: impl Into<String>, text: impl Into<String>, link: &'static str) -> Reason {
    Reason { level, text: text.into(), since_ms: 0, link, key: key.into() }
}

fn reasons(counts: Option<&Counts>, etcd: &EtcdView, readings: &Readings) -> Vec<Reason> {
    let mut reasons = Vec::new();
    match etcd.level {
        EtcdLevel::Unavailable => {
            let why = etcd.reasons.join("; ");
            reasons.push(reason("critical", "etcd", format!("etcd does not answer: {why}"), "/etcd"));
        }
        EtcdLevel::Degraded => {
            reasons.push(reason("warn", "etcd", format!("etcd is degraded: {}", etcd.reasons.join("; ")), "/etcd"));
        }
        EtcdLevel::Healthy | EtcdLevel::Embedded | EtcdLevel::Unknown => {}
    }
    if let Some(counts) = counts {
        if counts.brokers == 0 {
            reasons.push(reason("critical", "brokers", "no broker is live", "/brokers"));
        }
        if counts.leaderless > 0 {
            let what = match counts.leaderless {
                1 => "1 partition has no leader: its clients wait".to_owned(),
                n => format!("{n} partitions have no leader: their clients wait"),
            };
            let level = if counts.leaderless == counts.partitions { "critical" } else { "warn" };
            reasons.push(reason(level, "leaderless", what, "/topics"));
        }
    }
    for (broker, reading) in &readings.brokers {
        let name = if *broker < 0 { "the broker".to_owned() } else { format!("broker {broker}") };
        if let Some(error) = &reading.error {
            let text = format!("the metrics of {name} cannot be read: {error}");
            reasons.push(reason("warn", format!("metrics {broker}"), text, "/brokers"));
        }
        let why = reading.s3_reasons.join("; ");
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        match reading.s3_state() {
            "degraded" => {
                let text = format!("the object store is degraded for {name}{why}");
                reasons.push(reason("warn", format!("s3 {broker}"), text, "/storage"));
            }
            "unavailable" => {
                let text = format!("the object store is unavailable for {name}, new batches are refused{why}");
                reasons.push(reason("critical", format!("s3 {broker}"), text, "/storage"));
            }
            _ => {}
        }
    }
    reasons
}

fn level(reasons: &[Reason], is_known: bool) -> &'static str {
    if reasons.iter().any(|reason| reason.level == "critical") {
        "critical"
    } else if !is_known {
        "unknown"
    } else if reasons.is_empty() {
        "ok"
    } else {
        "warn"
    }
}

/// What there is in an image.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Live brokers.
    pub brokers: usize,
    /// Of these, draining ones.
    pub draining: usize,
    /// Topics.
    pub topics: usize,
    /// Partitions.
    pub partitions: usize,
    /// Partitions without a live owner.
    pub leaderless: usize,
    /// Partitions by the broker that leads them.
    pub led: BTreeMap<i32, usize>,
}

impl Counts {
    fn of(image: &ClusterImage) -> Self {
        let brokers = image.brokers();
        let draining = brokers.values().filter(|live| live.draining).count();
        let mut counts = Self { brokers: brokers.len(), draining, ..Self::default() };
        for topic in image.topics() {
            counts.topics += 1;
            for partition in 0..topic.value.partitions {
                counts.partitions += 1;
                let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(partition) };
                match image.leader(&key) {
                    Some(leader) => *counts.led.entry(leader.0).or_default() += 1,
                    None => counts.leaderless += 1,
                }
            }
        }
        counts
    }
}

/// Counts an image once, and remembers since when something is wrong.
#[derive(Debug, Default)]
pub struct Tally {
    last: Mutex<Option<(Arc<ClusterImage>, Arc<Counts>)>>,
    since: Mutex<BTreeMap<String, i64>>,
}

impl Tally {
    /// What there is in `image`.
    pub fn counts(&self, image: &Arc<ClusterImage>) -> Arc<Counts> {
        let mut last = self.last.lock().expect("no panic under the lock");
        if let Some((counted, counts)) = &*last
            && Arc::ptr_eq(counted, image)
        {
            return counts.clone();
        }
        let counts = Arc::new(Counts::of(image));
        *last = Some((image.clone(), counts.clone()));
        counts
    }

    fn since(&self, mut reasons: Vec<Reason>, now_ms: i64) -> Vec<Reason> {
        let mut since = self.since.lock().expect("no panic under the lock");
        since.retain(|key, _| reasons.iter().any(|reason| reason.key == *key));
        for reason in &mut reasons {
            reason.since_ms = *since.entry(reason.key.clone()).or_insert(now_ms);
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(level: EtcdLevel) -> EtcdView {
        EtcdView { level, since_ms: 0, reasons: vec!["a".to_owned()], members: Vec::new(), as_of_ms: 0 }
    }

    fn reading(s3_state: f64) -> Reading {
        Reading {
            derived: BTreeMap::from([("s3_state", s3_state)]),
            s3_reasons: vec!["slow".to_owned()],
            ..Reading::default()
        }
    }

    fn levels(reasons: &[Reason]) -> Vec<(&str, &str)> {
        reasons.iter().map(|reason| (reason.level, reason.link)).collect()
    }

    #[test]
    fn nothing_wrong_is_ok_and_nothing_known_is_not() {
        let counts = Counts { brokers: 1, topics: 1, partitions: 1, ..Counts::default() };
        let found = reasons(Some(&counts), &etcd(EtcdLevel::Healthy), &Readings::default());
        assert_eq!((levels(&found), level(&found, true)), (vec![], "ok"));
        let found = reasons(None, &etcd(EtcdLevel::Unknown), &Readings::default());
        assert_eq!((levels(&found), level(&found, false)), (vec![], "unknown"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_page_that_says_more() {
        let counts = Counts { partitions: 3, leaderless: 1, ..Counts::default() };
        let silent = Reading { error: Some("refused".to_owned()), ..Reading::default() };
        let brokers = BTreeMap::from([(1, reading(1.0)), (2, reading(2.0)), (3, silent)]);
        let readings = Readings { at_ms: 1, brokers };
        let found = reasons(Some(&counts), &etcd(EtcdLevel::Degraded), &readings);
        let expected = [
            ("warn", "/etcd"),
            ("critical", "/brokers"),
            ("warn", "/topics"),
            ("warn", "/storage"),
            ("critical", "/storage"),
            ("warn", "/brokers"),
        ];
        assert_eq!(levels(&found), expected);
        assert_eq!(level(&found, true), "critical");
        assert_eq!(level(&found, false), "critical");
        let s3 = s3(&readings);
        assert_eq!((&s3["state"], s3["reasons"].as_array().map(Vec::len)), (&json!("unavailable"), Some(2)));
    }

    #[test]
    fn a_reason_keeps_its_time_while_its_words_change() {
        let tally = Tally::default();
        let at = |text: &str, now_ms| tally.since(vec![reason("warn", "k", text, "/")], now_ms)[0].since_ms;
        assert_eq!((at("a", 5), at("b", 7)), (5, 5));
        tally.since(Vec::new(), 8);
        assert_eq!(at("a", 9), 9);
    }
}
