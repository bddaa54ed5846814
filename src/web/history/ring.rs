//! A day of numbers in memory: one value per series and step, the oldest forgotten first.

use std::collections::{BTreeMap, VecDeque};

/// Length of a step, ms.
pub const STEP_MS: i64 = 10_000;
/// Steps that are kept: 24 hours.
pub const STEPS_MAX: usize = 8_640;
/// Series that are kept; each costs at most 34 KiB.
pub const SERIES_MAX: usize = 2_048;
/// Points of a series in an answer.
pub const POINTS_MAX: usize = 2_000;

/// Which series: the position of its metric in the catalogue, and the broker.
pub type SeriesKey = (usize, i32);

/// How several values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Their mean.
    Mean,
    /// The greatest.
    Max,
}

#[derive(Debug, Default)]
struct Series {
    /// Step of the first value.
    first: i64,
    /// Not a number where nothing is known.
    values: VecDeque<f32>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Ring {
    series: BTreeMap<SeriesKey, Series>,
    /// Values that did not fit, since there are too many series.
    refused: u64,
}

/// A series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which.
    pub key: SeriesKey,
    /// Unix milliseconds at the beginning of a step, and the value.
    pub points: Vec<(i64, Option<f32>)>,
}

impl Ring {
    /// Writes down a value at `at_ms`; of several in a step the last one counts. A clock that goes back is not followed.
    pub fn push(&mut self, key: SeriesKey, at_ms: i64, value: f32) {
        let step = at_ms.div_euclid(STEP_MS);
        if !self.series.contains_key(&key) && self.series.len() >= SERIES_MAX {
            let oldest = step - STEPS_MAX as i64;
            self.series.retain(|_, series| series.first + series.values.len() as i64 > oldest);
            if self.series.len() >= SERIES_MAX {
                self.refused += 1;
                return;
            }
        }
        let series = self.series.entry(key).or_default();
        let next = series.first + series.values.len() as i64;
        if series.values.is_empty() || step >= next + STEPS_MAX as i64 {
            *series = Series { first: step, values: VecDeque::from([value]) };
            return;
        }
        if step < next {
            if step == next - 1 {
                *series.values.back_mut().expect("it is not empty") = value;
            }
            return;
        }
        for _ in next..step {
            series.values.push_back(f32::NAN);
        }
        series.values.push_back(value);
        while series.values.len() > STEPS_MAX {
            series.values.pop_front();
            series.first += 1;
        }
    }

    /// The series of `metrics` between two times, in steps of at least `step_ms`; also returns the step that was taken.
    pub fn query(&self, metrics: &[(usize, Fold)], from_ms: i64, to_ms: i64, step_ms: i64) -> (Vec<Line>, i64) {
        let to_ms = to_ms.max(from_ms);
        let least = (to_ms - from_ms).div_euclid(POINTS_MAX as i64).max(STEP_MS);
        let per_point = step_ms.max(least).saturating_add(STEP_MS - 1).div_euclid(STEP_MS).max(1);
        let (from, to) = (from_ms.div_euclid(STEP_MS), to_ms.div_euclid(STEP_MS));
        let mut lines = Vec::new();
        for (metric, fold) in metrics {
            for (key, series) in self.series.range((*metric, i32::MIN)..=(*metric, i32::MAX)) {
                let (first, end) = (from.max(series.first), to.min(series.first + series.values.len() as i64 - 1));
                if first <= end {
                    lines.push(Line { key: *key, points: series.points(first, end, per_point, *fold) });
                }
            }
        }
        (lines, per_point * STEP_MS)
    }

    /// The sum of a metric's values of each broker between two times, and how many steps it is known for.
    pub fn sums(&self, metric: usize, from_ms: i64, to_ms: i64) -> Vec<(i32, f64, usize)> {
        let (from, to) = (from_ms.div_euclid(STEP_MS), to_ms.div_euclid(STEP_MS));
        let series = self.series.range((metric, i32::MIN)..=(metric, i32::MAX));
        let sum = |(key, series): (&SeriesKey, &Series)| {
            let within = series.first..series.first + series.values.len() as i64;
            let steps =
                within.zip(&series.values).filter(|(step, value)| (from..=to).contains(step) && !value.is_nan());
            let (sum, known) = steps.fold((0.0, 0), |(sum, known), (_, value)| (sum + f64::from(*value), known + 1));
            (known > 0).then_some((key.1, sum, known))
        };
        series.filter_map(sum).collect()
    }

    /// Values that did not fit.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Series {
    fn points(&self, first: i64, end: i64, per_point: i64, fold: Fold) -> Vec<(i64, Option<f32>)> {
        let mut points = Vec::new();
        let mut at = first.div_euclid(per_point) * per_point;
        while at <= end {
            let steps = at.max(first)..(at + per_point).min(end + 1);
            let known = steps.map(|step| self.values[(step - self.first) as usize]).filter(|value| !value.is_nan());
            points.push((at * STEP_MS, folded(known, fold)));
            at += per_point;
        }
        points
    }
}

fn folded(values: impl Iterator<Item = f32>, fold: Fold) -> Option<f32> {
    let (mut count, mut sum, mut max) = (0_u32, 0.0_f32, f32::NEG_INFINITY);
    for value in values {
        count += 1;
        sum += value;
        max = max.max(value);
    }
    match fold {
        _ if count == 0 => None,
        Fold::Mean => Some(sum / count as f32),
        Fold::Max => Some(max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SeriesKey = (3, 1);

    fn all(ring: &Ring, step_ms: i64, fold: Fold) -> (Vec<(i64, Option<f32>)>, i64) {
        let (lines, step_ms) = ring.query(&[(3, fold)], 0, 1_000_000_000, step_ms);
        (lines.into_iter().next().map(|line| line.points).unwrap_or_default(), step_ms)
    }

    #[test]
    fn sums_are_of_known_steps() {
        let mut ring = Ring::default();
        for (broker, at_ms, value) in [(1, 0, 1.0), (1, 10_000, 2.0), (1, 40_000, 4.0), (2, 20_000, 8.0)] {
            ring.push((3, broker), at_ms, value);
        }
        assert_eq!(ring.sums(3, 0, 50_000), [(1, 7.0, 3), (2, 8.0, 1)]);
        assert_eq!(ring.sums(3, 10_000, 19_999), [(1, 2.0, 1)]);
        assert_eq!(ring.sums(4, 0, 50_000), []);
    }

    #[test]
    fn what_was_not_measured_is_a_gap_and_not_a_zero() {
        let mut ring = Ring::default();
        for (at_ms, value) in [(0, 1.0), (9_000, 2.0), (10_000, 4.0), (40_000, 8.0), (20_000, 99.0)] {
            ring.push(KEY, at_ms, value);
        }
        let (lines, step_ms) = ring.query(&[(3, Fold::Mean)], 0, 50_000, 0);
        assert_eq!(step_ms, STEP_MS);
        let expected = [(0, Some(2.0)), (10_000, Some(4.0)), (20_000, None), (30_000, None), (40_000, Some(8.0))];
        assert_eq!(lines, [Line { key: KEY, points: expected.to_vec() }]);
        let (lines, step_ms) = ring.query(&[(3, Fold::Max), (4, Fold::Max)], 0, 50_000, 15_000);
        assert_eq!(step_ms, 20_000);
        assert_eq!(lines[0].points, [(0, Some(4.0)), (20_000, None), (40_000, Some(8.0))]);
        assert!(ring.query(&[(3, Fold::Max)], 50_000, 60_000, 0).0.is_empty());
    }

    #[test]
    fn it_is_bounded_in_time_series_and_points() {
        let mut ring = Ring::default();
        for step in 0..2 * STEPS_MAX as i64 {
            ring.push(KEY, step * STEP_MS, step as f32);
        }
        let series = &ring.series[&KEY];
        assert_eq!((series.first, series.values.len()), (STEPS_MAX as i64, STEPS_MAX));
        let (points, step_ms) = all(&ring, 0, Fold::Mean);
        assert!(points.len() <= POINTS_MAX && step_ms > STEP_MS, "{} {step_ms}", points.len());
        let late_ms = 3 * STEPS_MAX as i64 * STEP_MS;
        for broker in 0..2 * SERIES_MAX as i32 {
            ring.push((7, broker), late_ms, 1.0);
        }
        assert_eq!(ring.series.len(), SERIES_MAX);
        assert!(!ring.series.contains_key(&KEY), "what is older than a day makes room");
        assert_eq!(ring.refused(), SERIES_MAX as u64);
        ring.push((7, 0), late_ms * 10, 1.0);
        assert_eq!(ring.series[&(7, 0)].values.len(), 1, "a long pause costs no memory");
    }
}
