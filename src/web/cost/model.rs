//! What the object store charges for what was measured, and for what could be. Pure: rates in, dollars and the calculation out.
//!
//! A month has 30 days, a GB 10^9 bytes. Requests are those that the brokers counted, every attempt. Of the PUTs those of flushes
//! depend on time (one per interval while something is written, more only if segments become full), those of merging,
//! compaction and checkpoints on how much is written: an estimate scales the two apart.

use serde::{Deserialize, Serialize};

/// Seconds of a month.
pub const MONTH_SEC: f64 = 30.0 * 86_400.0;
const GB: f64 = 1e9;
const PER: f64 = 1_000.0;
/// Prices beyond this are mistyped.
const PRICE_MAX: f64 = 1e6;

/// Dollars; those that are missing in a request are the defaults (S3 Standard in us-east-1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Per 1,000 PUTs.
    pub put_per_1000: f64,
    /// Per 1,000 GETs and HEADs.
    pub get_per_1000: f64,
    /// Per 1,000 LISTs.
    pub list_per_1000: f64,
    /// Per GB and month.
    pub storage_gb_month: f64,
    /// Per GB that brokers send to clients; nothing inside of an availability zone.
    pub egress_gb: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            put_per_1000: 0.005,
            get_per_1000: 0.0004,
            list_per_1000: 0.005,
            storage_gb_month: 0.023,
            egress_gb: 0.0,
        }
    }
}

impl Prices {
    /// True if each is a price.
    pub fn are_valid(&self) -> bool {
        let all = [self.put_per_1000, self.get_per_1000, self.list_per_1000, self.storage_gb_month, self.egress_gb];
        all.iter().all(|price| price.is_finite() && (0.0..=PRICE_MAX).contains(price))
    }
}

/// What was measured, of all brokers together: per second, but for what is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Brokers that were measured.
    pub brokers: usize,
    /// Seconds.
    pub window_sec: f64,
    /// PUTs.
    pub puts: f64,
    /// Of these, flushes.
    pub flushes: f64,
    /// GETs and HEADs.
    pub gets: f64,
    /// LISTs.
    pub lists: f64,
    /// Bytes that became durable.
    pub bytes_in: f64,
    /// Bytes sent to clients.
    pub bytes_out: f64,
    /// Bytes stored now, if all brokers have told.
    pub bytes_stored: Option<f64>,
}

/// Requests and dollars of a month.
#[derive(Debug, Clone, PartialEq)]
pub struct Month {
    /// PUTs.
    pub puts: f64,
    /// GETs and HEADs.
    pub gets: f64,
    /// LISTs.
    pub lists: f64,
    /// Dollars for requests.
    pub requests: f64,
    /// Dollars for what is stored, if that is known.
    pub storage: Option<f64>,
    /// Dollars for what is sent to clients.
    pub egress: f64,
    /// How that comes about.
    pub calculation: Vec<String>,
}

impl Month {
    /// All of it, dollars; without a part of it there is no sum.
    pub fn total(&self) -> Option<f64> {
        Some(self.requests + self.storage? + self.egress)
    }
}

/// The month that follows from `rates`.
pub fn month(rates: &Measured, prices: &Prices) -> Month {
    let per_month = |rate: f64| rate * MONTH_SEC;
    let (puts, gets, lists) = (per_month(rates.puts), per_month(rates.gets), per_month(rates.lists));
    let classes = [
        ("PUT", rates.puts, puts, prices.put_per_1000),
        ("GET and HEAD", rates.gets, gets, prices.get_per_1000),
        ("LIST", rates.lists, lists, prices.list_per_1000),
    ];
    let mut calculation = Vec::new();
    let mut requests = 0.0;
    for (name, rate, count, price) in classes {
        let dollars = count / PER * price;
        requests += dollars;
        calculation.push(format!(
            "{name}: {rate:.4} per s × {MONTH_SEC:.0} s = {count:.0} per month × ${price} / 1,000 = ${dollars:.2}"
        ));
    }
    let storage = rates.bytes_stored.map(|bytes| bytes / GB * prices.storage_gb_month);
    calculation.push(match rates.bytes_stored.zip(storage) {
        Some((bytes, dollars)) => {
            format!("storage: {:.3} GB × ${} = ${dollars:.2} per month", bytes / GB, prices.storage_gb_month)
        }
        None => "storage: not known, since not all brokers have told what is stored".to_owned(),
    });
    let sent_gb = per_month(rates.bytes_out) / GB;
    let egress = sent_gb * prices.egress_gb;
    calculation.push(format!("sent to clients: {sent_gb:.3} GB per month × ${} = ${egress:.2}", prices.egress_gb));
    calculation.push(match storage {
        Some(storage) => format!("together: ${:.2} per month", requests + storage + egress),
        None => format!("without storage: ${:.2} per month", requests + egress),
    });
    Month { puts, gets, lists, requests, storage, egress, calculation }
}

/// What could be otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhatIf {
    /// Milliseconds between flushes.
    pub flush_interval_ms: Option<f64>,
    /// How long records are kept, ms.
    pub retention_ms: Option<f64>,
    /// 10^6 bytes written a day, by all clients together.
    pub mb_per_day: Option<f64>,
}

impl WhatIf {
    /// True if something is.
    pub fn is_something(&self) -> bool {
        self.flush_interval_ms.is_some() || self.retention_ms.is_some() || self.mb_per_day.is_some()
    }

    /// True if it makes sense.
    pub fn is_valid(&self) -> bool {
        let fits = |value: Option<f64>, max: f64| value.is_none_or(|v| v.is_finite() && v > 0.0 && v <= max);
        fits(self.flush_interval_ms, 3.6e6) && fits(self.retention_ms, 3.2e12) && fits(self.mb_per_day, 1e12)
    }
}

/// What brokers are configured with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flushing {
    /// Milliseconds.
    pub interval_ms: f64,
    /// Bytes at which a segment is full.
    pub segment_bytes: f64,
}

/// The rates that are expected if `what_if`, and in words why.
pub fn estimate(measured: &Measured, flushing: Flushing, what_if: &WhatIf) -> (Measured, Vec<String>) {
    let mut lines = Vec::new();
    let mut rates = *measured;
    let brokers = measured.brokers.max(1) as f64;
    if let Some(mb) = what_if.mb_per_day {
        rates.bytes_in = mb * 1e6 / 86_400.0;
        lines.push(format!("written: {mb} MB a day = {:.0} bytes per s", rates.bytes_in));
    }
    // How much more is written than while it was measured.
    let growth = (measured.bytes_in > 0.0).then(|| rates.bytes_in / measured.bytes_in);
    let interval_ms = what_if.flush_interval_ms.unwrap_or(flushing.interval_ms);
    let by_time = match what_if.mb_per_day {
        // A steady stream: each broker flushes whenever the interval is over.
        Some(_) => brokers * 1_000.0 / interval_ms,
        None => measured.flushes * flushing.interval_ms / interval_ms,
    };
    let by_bytes = rates.bytes_in / flushing.segment_bytes.max(1.0);
    rates.flushes = by_time.max(by_bytes);
    lines.push(format!(
        "flushes: the greater of {by_time:.4} per s (every {interval_ms} ms, {brokers:.0} brokers) and {by_bytes:.4} per s (segments of {:.0} bytes)",
        flushing.segment_bytes
    ));
    let upkeep = (measured.puts - measured.flushes).max(0.0);
    rates.puts = rates.flushes + upkeep * growth.unwrap_or(1.0);
    rates.gets = measured.gets * growth.unwrap_or(1.0);
    rates.bytes_out = measured.bytes_out * growth.unwrap_or(1.0);
    match growth {
        Some(growth) => lines.push(format!(
            "merging, compaction, reads: as measured × {growth:.3}, since that much is written of what was; {:.4} PUT per s beside flushes",
            upkeep * growth
        )),
        None => lines.push("nothing was written while it was measured: what merging and reads cost is not known".to_owned()),
    }
    if let Some(retention_ms) = what_if.retention_ms {
        let stored = rates.bytes_in * retention_ms / 1e3;
        rates.bytes_stored = Some(stored);
        lines.push(format!(
            "stored: {:.0} bytes per s kept for {:.2} days = {:.3} GB",
            rates.bytes_in,
            retention_ms / 86_400_000.0,
            stored / GB
        ));
    } else if let Some(growth) = growth.filter(|_| what_if.mb_per_day.is_some()) {
        rates.bytes_stored = measured.bytes_stored.map(|bytes| bytes * growth);
        if let Some(stored) = rates.bytes_stored {
            lines.push(format!("stored: as now × {growth:.3} = {:.3} GB", stored / GB));
        }
    }
    (rates, lines)
}

/// Bytes of a topic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopicBytes {
    /// Name.
    pub topic: String,
    /// Stored.
    pub stored: f64,
    /// Of these, written a short time ago.
    pub recent: f64,
}

/// A topic's share of what is written: of the last hour if something was, else of what is stored.
pub fn shares(topics: &[TopicBytes]) -> (Vec<f64>, &'static str) {
    let recent: f64 = topics.iter().map(|topic| topic.recent).sum();
    let stored: f64 = topics.iter().map(|topic| topic.stored).sum();
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    if recent > 0.0 {
        let of = topics.iter().map(|topic| share(topic.recent, recent)).collect();
        return (of, "bytes written in the last hour");
    }
    (
        topics.iter().map(|topic| share(topic.stored, stored)).collect(),
        "bytes stored, since nothing was written in the last hour",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
    }

    /// Three brokers that were measured at the guide's 100 GB a day.
    fn measured() -> Measured {
        Measured {
            brokers: 3,
            window_sec: 3_600.0,
            puts: 6.3,
            flushes: 6.0,
            gets: 1.5,
            lists: 0.01,
            bytes_in: 100e9 / 86_400.0,
            bytes_out: 100e9 / 86_400.0,
            bytes_stored: Some(700e9),
        }
    }

    #[test]
    fn a_month_is_what_was_counted_times_what_it_costs() {
        let month = month(&measured(), &Prices::default());
        assert!(close(month.puts, 6.3 * 2_592_000.0));
        assert!(close(month.storage.unwrap(), 700.0 * 0.023));
        let requests = 6.3 * 2_592.0 * 0.005 + 1.5 * 2_592.0 * 0.0004 + 0.01 * 2_592.0 * 0.005;
        assert!(close(month.requests, requests));
        assert!(close(month.total().unwrap(), requests + 16.1));
        assert!(month.calculation.iter().any(|line| line == "storage: 700.000 GB × $0.023 = $16.10 per month"));
    }

    #[test]
    fn the_guides_example_follows_from_a_smaller_measurement() {
        let flushing = Flushing { interval_ms: 500.0, segment_bytes: 4e6 };
        // A tenth of the data, flushed as often: so many PUTs depend on time.
        let small = Measured {
            puts: 6.03,
            gets: 0.15,
            bytes_in: 10e9 / 86_400.0,
            bytes_out: 10e9 / 86_400.0,
            bytes_stored: Some(70e9),
            ..measured()
        };
        let what_if =
            WhatIf { mb_per_day: Some(100_000.0), retention_ms: Some(7.0 * 86_400_000.0), flush_interval_ms: None };
        let (rates, _) = estimate(&small, flushing, &what_if);
        let (expected, found) = (month(&measured(), &Prices::default()), month(&rates, &Prices::default()));
        assert!(close(expected.total().unwrap(), found.total().unwrap()), "{expected:?} {found:?}");
        let rare = WhatIf { flush_interval_ms: Some(5_000.0), ..what_if };
        let (rates, _) = estimate(&small, flushing, &rare);
        assert!(close(rates.flushes, 0.6), "{rates:?}");
    }

    #[test]
    fn nothing_measured_is_said() {
        let flushing = Flushing { interval_ms: 500.0, segment_bytes: 4e6 };
        let what_if = WhatIf { mb_per_day: Some(1.0), ..WhatIf::default() };
        let (rates, lines) = estimate(&Measured::default(), flushing, &what_if);
        assert!(rates.flushes > 0.0 && lines.iter().any(|line| line.contains("not known")));
    }

    proptest! {
        /// Shares add up to all of it, or to nothing if there is nothing.
        #[test]
        fn shares_add_up(bytes in prop::collection::vec((0_u32..1_000, 0_u32..1_000), 0..20)) {
            let topic = |(stored, recent): (u32, u32)| TopicBytes { topic: String::new(), stored: stored.into(), recent: recent.into() };
            let topics: Vec<_> = bytes.into_iter().map(topic).collect();
            let (shares, _) = shares(&topics);
            let sum: f64 = shares.iter().sum();
            prop_assert!(close(sum, 1.0) || sum == 0.0);
        }

        /// However it is asked, dollars are numbers and not negative.
        #[test]
        fn dollars_are_numbers(rates in prop::array::uniform6(0.0_f64..1e9), flush in 0.1_f64..3.6e6, keep in 1.0_f64..3.2e12, mb in 0.1_f64..1e9) {
            let [puts, flushes, gets, lists, bytes_in, bytes_stored] = rates;
            let measured = Measured { brokers: 1, window_sec: 10.0, puts, flushes, gets, lists, bytes_in, bytes_out: 1.0, bytes_stored: Some(bytes_stored) };
            let what_if = WhatIf { flush_interval_ms: Some(flush), retention_ms: Some(keep), mb_per_day: Some(mb) };
            prop_assert!(what_if.is_valid());
            let (rates, _) = estimate(&measured, Flushing { interval_ms: 500.0, segment_bytes: 4e6 }, &what_if);
            let total = month(&rates, &Prices::default()).total().unwrap();
            prop_assert!(total.is_finite() && total >= 0.0);
        }
    }
}
