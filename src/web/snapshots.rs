//! Snapshots of etcd, as the operator tells of them in its metrics: the console does not talk to Kubernetes.
//!
//! One of several operators leads, and only that one knows. Behind a Service any of them may answer, so that they are asked until
//! one has something to tell; what was told last stays for a while, with its time.

use super::exposition::{label, line};
use super::fetch;
use super::state::Missing;
use crate::clock::Clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Mutex;

/// Begins the names of the metrics that are read.
const PREFIX: &str = "kafscale_operator_etcd_snapshot_";
/// How long an operator may take.
const WITHIN: Duration = Duration::from_millis(700);
/// How often it is asked for an answer with something in it.
const ATTEMPTS: usize = 4;
/// Longest answer, bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Clusters that are shown.
const CLUSTERS_MAX: usize = 100;
/// What was told is shown without asking again for so long, and without an answer for so long, ms.
const FRESH_MS: i64 = 5_000;
const KEPT_MS: i64 = 600_000;

/// What is known.
#[derive(Debug, Default)]
struct Known {
    told: Value,
    at_ms: i64,
    /// Since when nobody has told.
    silent_ms: Option<i64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Snapshots {
    url: Option<String>,
    known: Mutex<Known>,
}

impl Snapshots {
    /// Asks here, if anywhere.
    pub fn new(url: Option<String>) -> Self {
        Self { url, known: Mutex::default() }
    }

    /// Snapshots of every cluster that the operator looks after; null if it is not known.
    pub async fn now(&self, clock: Clock) -> (Value, Option<Missing>) {
        let Some(url) = &self.url else { return (Value::Null, None) };
        let mut known = self.known.lock().await;
        let now_ms = clock.wall_ms();
        if !known.told.is_null() && known.silent_ms.is_none() && (now_ms - known.at_ms).abs() < FRESH_MS {
            return (known.told.clone(), None);
        }
        match ask(url).await {
            Ok(clusters) => {
                known.told = json!({ "source": "operator", "as_of_ms": now_ms, "clusters": clusters });
                (known.at_ms, known.silent_ms) = (now_ms, None);
                (known.told.clone(), None)
            }
            Err(reason) => {
                let since_ms = *known.silent_ms.get_or_insert(now_ms);
                if now_ms - known.at_ms > KEPT_MS {
                    known.told = Value::Null;
                }
                let missing = Missing { source: "operator".to_owned(), reason, since_ms: Some(since_ms) };
                (known.told.clone(), Some(missing))
            }
        }
    }
}

async fn ask(url: &str) -> Result<Vec<Value>, String> {
    let mut last = Err("the operator takes no snapshots of etcd, or the one that leads has not answered".to_owned());
    for _ in 0..ATTEMPTS {
        let page = fetch::get(url, WITHIN, PAGE_BYTES_MAX).await;
        match page.map(|page| clusters(&String::from_utf8_lossy(&page))) {
            Ok(clusters) if !clusters.is_empty() => return Ok(clusters),
            Ok(_) => {}
            Err(reason) => last = Err(reason),
        }
    }
    last
}

/// Clusters that a text tells of.
fn clusters(text: &str) -> Vec<Value> {
    let mut found: BTreeMap<(String, String), BTreeMap<String, f64>> = BTreeMap::new();
    for line in text.lines().filter_map(line) {
        let Some(name) = line.name.strip_prefix(PREFIX) else { continue };
        let (Some(namespace), Some(cluster)) = (label(line.labels, "namespace"), label(line.labels, "cluster")) else {
            continue;
        };
        let key = (namespace.to_owned(), cluster.to_owned());
        if found.len() < CLUSTERS_MAX || found.contains_key(&key) {
            found.entry(key).or_default().insert(name.to_owned(), line.value);
        }
    }
    let one = |((namespace, cluster), numbers): ((String, String), BTreeMap<String, f64>)| {
        let number = |name: &str| numbers.get(name).copied();
        let ms = |name: &str| number(name).map(|sec| (sec * 1e3) as i64);
        let truth = |name: &str| number(name).map(|value| value > 0.5);
        json!({
            "namespace": namespace,
            "cluster": cluster,
            "last_success_ms": ms("last_success_timestamp_seconds"),
            "last_begun_ms": ms("last_schedule_timestamp_seconds"),
            "succeeded": truth("success"),
            "stale": truth("stale"),
            "writable": truth("access_ok"),
        })
    };
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::operator::snapshot::metrics::{Numbers, SnapshotMetrics};
    use crate::operator::snapshot::state::{Access, History};

    #[test]
    fn what_an_operator_says_is_understood() {
        let (metrics, clock) = (Metrics::new(), Clock::system());
        let told = SnapshotMetrics::register(&metrics, clock);
        assert_eq!(clusters(&metrics.render().unwrap()), Vec::<Value>::new());
        let history = History { last_success_ms: Some(1_000), last_schedule_ms: Some(clock.wall_ms()) };
        let of = |access, history| Numbers { access, history, stale_after: Duration::from_secs(60) };
        told.set(&("ns".into(), "a".into()), of(Access::Fine, history));
        let failing = Access::Failing { reason: "Denied", message: String::new() };
        told.set(&("ns".into(), "b".into()), of(failing, History::default()));
        let shown = clusters(&metrics.render().unwrap());
        assert_eq!(shown.len(), 2);
        assert_eq!((&shown[0]["cluster"], &shown[0]["last_success_ms"]), (&json!("a"), &json!(1_000)));
        assert_eq!((&shown[0]["stale"], &shown[0]["writable"]), (&json!(true), &json!(true)));
        assert_eq!((&shown[1]["last_success_ms"], &shown[1]["writable"]), (&Value::Null, &json!(false)));
        assert_eq!(shown[1]["succeeded"], json!(false));
    }
}
