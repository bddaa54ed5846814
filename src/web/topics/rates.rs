//! How busy topics are: each broker tells of the partitions that it leads, busy topics only.

use crate::web::segments::ask;
use crate::web::state::Missing;
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Rates may be so old: they are means of half a minute anyway.
const AGE_MAX: Duration = Duration::from_secs(5);
/// How long a broker may take.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// Brokers that are asked at a time.
const AT_A_TIME_MAX: usize = 16;

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Bytes that became durable.
    pub bytes_in: f64,
    /// Bytes that leaders sent to consumers.
    pub bytes_out: f64,
    /// Records that became durable.
    pub records_in: f64,
}

/// What brokers have told.
#[derive(Debug, Default)]
pub struct Rates {
    /// By topic; none of topics that are still.
    pub topics: HashMap<Arc<str>, Rate>,
    /// Brokers that did not answer, or have more busy topics than they tell.
    pub missing: Vec<Missing>,
}

impl Rates {
    /// Of a topic; `None` if a broker that may know of it has not told.
    pub fn of(&self, topic: &str) -> Option<Rate> {
        self.missing.is_empty().then(|| self.topics.get(topic).copied().unwrap_or_default())
    }
}

/// The last answers, for a while. Who comes while brokers are asked waits for the same answers.
#[derive(Default)]
pub struct RateIndex(Mutex<Option<(Instant, Arc<Rates>)>>);

impl RateIndex {
    /// Rates that are not too old, from the brokers at these addresses of metrics.
    pub async fn get(&self, urls: Vec<(i32, String)>) -> Arc<Rates> {
        let mut known = self.0.lock().await;
        if let Some((at, rates)) = &*known
            && at.elapsed() < AGE_MAX
            && rates.missing.is_empty()
        {
            return rates.clone();
        }
        let asked =
            urls.into_iter().map(|(broker, url)| async move { (broker, ask(&url, "/v1/rates", ASK_WITHIN).await) });
        let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_A_TIME_MAX).collect().await;
        let mut rates = Rates::default();
        for (broker, answer) in answers {
            let missing =
                |reason: String| Missing { source: format!("rates of broker {broker}"), reason, since_ms: None };
            let page = match answer {
                Ok(page) => page,
                Err(reason) => {
                    rates.missing.push(missing(reason));
                    continue;
                }
            };
            if let Some(left_out) = page["left_out"].as_u64().filter(|left_out| *left_out > 0) {
                rates.missing.push(missing(format!("it has {left_out} busy topics more than it tells")));
            }
            for item in page["items"].as_array().into_iter().flatten() {
                let Some(name) = item["topic"].as_str() else { continue };
                let number = |field: &str| item[field].as_f64().unwrap_or(0.0);
                let sum = rates.topics.entry(name.into()).or_default();
                sum.bytes_in += number("bytes_in_per_sec");
                sum.bytes_out += number("bytes_out_per_sec");
                sum.records_in += number("records_in_per_sec");
            }
        }
        let rates = Arc::new(rates);
        *known = Some((crate::clock::monotonic(), rates.clone()));
        rates
    }
}
