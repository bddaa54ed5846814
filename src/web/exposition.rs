//! Reads the text of a metrics listener, as far as the console is interested in it.
//!
//! The text comes from a broker, or from whatever else listens where one was: lines that are not understood are left out.

use crate::metrics::HistogramSample;
use std::collections::BTreeMap;

/// Where a number comes from. Labels are pairs that must be there; series that fit are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// Name as in the text, with `_total`; of histograms without `_bucket`.
    pub name: &'static str,
    /// Labels that it must have.
    pub labels: &'static [(&'static str, &'static str)],
    /// Labels that it must not have.
    pub without: &'static [(&'static str, &'static str)],
}

/// A line taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) labels: &'a str,
    pub(super) value: f64,
}

pub(super) fn line(text: &str) -> Option<Line<'_>> {
    if text.starts_with('#') {
        return None;
    }
    let (series, rest) = match text.split_once('{') {
        // Label values of brokers hold no `}`; a line of another kind is left out by what follows.
        Some((name, rest)) => {
            let (labels, rest) = rest.split_once('}')?;
            ((name, labels), rest)
        }
        None => {
            let (name, rest) = text.split_once(' ')?;
            ((name, ""), rest)
        }
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Line { name: series.0, labels: series.1, value })
}

pub(super) fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

fn fits(series: &Series, labels: &str) -> bool {
    let has = |(name, value): &(&str, &str)| label(labels, name) == Some(*value);
    series.labels.iter().all(has) && !series.without.iter().any(has)
}

/// What a text says of the series that were asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers {
    /// Sums; missing if no line fits.
    pub scalars: BTreeMap<&'static str, f64>,
    /// Histograms: bounds with the observations of each bucket alone.
    pub histograms: BTreeMap<&'static str, HistogramSample>,
}

/// Reads `text`: `scalars` and `histograms` name what is wanted.
pub fn read(text: &str, scalars: &[(&'static str, Series)], histograms: &[(&'static str, Series)]) -> Numbers {
    let mut numbers = Numbers::default();
    // Cumulative counts by bound, in the order of the text, which is that of the bounds.
    let mut buckets: BTreeMap<&'static str, Vec<(f64, f64)>> = BTreeMap::new();
    for Line { name, labels, value } in text.lines().filter_map(line) {
        for (key, _) in scalars.iter().filter(|(_, series)| series.name == name && fits(series, labels)) {
            *numbers.scalars.entry(key).or_default() += value;
        }
        let Some(base) = name.strip_suffix("_bucket") else { continue };
        for (key, _) in histograms.iter().filter(|(_, series)| series.name == base && fits(series, labels)) {
            let Some(bound) = label(labels, "le").and_then(bound) else { continue };
            let of = buckets.entry(key).or_default();
            match of.iter_mut().find(|(other, _)| *other == bound) {
                Some((_, count)) => *count += value,
                None => of.push((bound, value)),
            }
        }
    }
    for (key, mut cumulative) in buckets {
        cumulative.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut below = 0.0;
        let buckets = cumulative.into_iter().map(|(bound, count)| {
            let alone = (count - below).max(0.0);
            below = count;
            (bound, alone as u64)
        });
        numbers.histograms.insert(key, HistogramSample { sum: 0.0, buckets: buckets.collect() });
    }
    numbers
}

fn bound(text: &str) -> Option<f64> {
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

/// What was observed between two readings; `None` if the process began anew in between.
pub fn observed(before: &HistogramSample, now: &HistogramSample) -> Option<HistogramSample> {
    if before.buckets.len() != now.buckets.len() {
        return None;
    }
    let pairs = before.buckets.iter().zip(&now.buckets);
    let buckets: Option<Vec<_>> = pairs.map(|((_, b), (bound, n))| Some((*bound, n.checked_sub(*b)?))).collect();
    Some(HistogramSample { sum: 0.0, buckets: buckets? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    const REQUESTS: Series = Series { name: "t_requests_total", labels: &[], without: &[] };
    const FETCH: Series = Series { name: "t_requests_total", labels: &[("api", "Fetch")], without: &[] };
    const OTHERS: Series = Series { name: "t_requests_total", labels: &[], without: &[("api", "Fetch")] };
    const WAIT: Series = Series { name: "t_wait_seconds", labels: &[], without: &[("source", "nothing")] };

    #[test]
    fn reads_what_brokers_write() {
        let metrics = Metrics::new();
        metrics.register("t", |families| {
            let counts: [(Labels, u64); 2] = [(&[("api", "Fetch")], 3), (&[("api", "Produce")], 4)];
            families.counters("t_requests", "Requests", counts)?;
            let of = |source, counts: [u64; 3]| {
                let bounds = [0.1, 1.0, f64::INFINITY];
                let labels: Labels = source;
                (labels, HistogramSample { sum: 1.0, buckets: bounds.into_iter().zip(counts).collect() })
            };
            let waits = [
                of(&[("source", "memory")], [1, 2, 0]),
                of(&[("source", "store")], [1, 0, 1]),
                of(&[("source", "nothing")], [9, 9, 9]),
            ];
            families.histograms("t_wait_seconds", "Wait", waits)
        });
        let text = metrics.render().unwrap();
        let scalars =
            [("all", REQUESTS), ("fetch", FETCH), ("others", OTHERS), ("none", Series { name: "x", ..REQUESTS })];
        let numbers = read(&text, &scalars, &[("wait", WAIT)]);
        assert_eq!(numbers.scalars, BTreeMap::from([("all", 7.0), ("fetch", 3.0), ("others", 4.0)]));
        let buckets = &numbers.histograms["wait"].buckets;
        assert_eq!(*buckets, [(0.1, 2), (1.0, 2), (f64::INFINITY, 1)]);
        let later = HistogramSample { sum: 0.0, buckets: vec![(0.1, 2), (1.0, 5), (f64::INFINITY, 1)] };
        let between = observed(&numbers.histograms["wait"], &later).unwrap();
        assert_eq!(between.buckets, [(0.1, 0), (1.0, 3), (f64::INFINITY, 0)]);
        assert_eq!(observed(&later, &numbers.histograms["wait"]), None, "it began anew");
    }

    #[test]
    fn leaves_out_what_it_does_not_understand() {
        let text =
            "<html>\nt_requests_total\nt_requests_total{api=\"x\" 3\nt_requests_total abc\n# t_requests_total 9\n\n";
        assert_eq!(read(text, &[("all", REQUESTS)], &[("wait", WAIT)]), Numbers::default());
    }
}
