//! Where a reset leads: which offset each partition gets, and the same as a command.
//!
//! Pure: what brokers know comes in, offsets come out, and none of them is negative or beyond a partition's end.

use crate::web::command;
use crate::web::problem::Problem;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const DAY_MS: i64 = 86_400_000;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The first record.
    Earliest,
    /// The end.
    Latest,
    /// This offset, or the nearest one there is.
    Offset(i64),
    /// So many records on, or back.
    Shift(i64),
    /// The first record that is not older, Unix milliseconds.
    Time(i64),
    /// The first record that is not older than so many milliseconds before now.
    Ago(i64),
}

/// As in the request.
#[derive(Debug, Deserialize)]
pub struct Target {
    kind: String,
    #[serde(default)]
    value: Value,
}

impl Target {
    /// What is meant.
    pub fn aim(&self) -> Result<Aim, Problem> {
        let wrong = |what: &str| Problem::invalid(format!("the value of {:?} is {what}", self.kind));
        let text = match &self.value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let number = || text.strip_prefix('+').unwrap_or(&text).parse::<i64>().ok();
        let positive = || number().filter(|n| *n >= 0);
        match self.kind.as_str() {
            "earliest" => Ok(Aim::Earliest),
            "latest" => Ok(Aim::Latest),
            "offset" => positive().map(Aim::Offset).ok_or_else(|| wrong("an offset, in digits")),
            "shift" => number().map(Aim::Shift).ok_or_else(|| wrong("a number of records, negative to go back")),
            "time" => positive().map(Aim::Time).ok_or_else(|| wrong("a time in Unix milliseconds")),
            "duration" => {
                let ms = positive().or_else(|| duration_ms(&text));
                ms.map(Aim::Ago).ok_or_else(|| wrong("milliseconds, or a duration such as P1DT2H30M"))
            }
            _ => Err(Problem::invalid("the kind of target is earliest, latest, offset, shift, time or duration")),
        }
    }
}

/// What is known of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Committed offset, if any.
    pub committed: Option<i64>,
    /// First offset.
    pub start: i64,
    /// Offset behind the last record.
    pub end: i64,
    /// Offset found for a time; `None` if no record is so young.
    pub found: Option<i64>,
}

/// The new offset; `None` if there is nothing to shift from.
pub fn resolve(aim: Aim, known: Known) -> Option<i64> {
    let end = known.end.max(0);
    let start = known.start.clamp(0, end);
    let offset = match aim {
        Aim::Earliest => start,
        Aim::Latest => end,
        Aim::Offset(offset) => offset,
        Aim::Shift(by) => known.committed?.saturating_add(by),
        Aim::Time(_) | Aim::Ago(_) => known.found.unwrap_or(end),
    };
    Some(offset.clamp(start, end))
}

/// A duration of ISO 8601 as Kafka's tool takes it, in milliseconds: days, hours, minutes and seconds.
fn duration_ms(text: &str) -> Option<i64> {
    let rest = text.strip_prefix('P')?;
    let (days, time) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total_ms = 0i64;
    for (mut part, units) in
        [(days, &[('D', DAY_MS)][..]), (time, &[('H', 3_600_000), ('M', 60_000), ('S', 1_000)][..])]
    {
        for (unit, unit_ms) in units {
            if let Some((number, tail)) = part.split_once(*unit) {
                let ms = number.parse::<u32>().ok().and_then(|n| i64::from(n).checked_mul(*unit_ms))?;
                total_ms = total_ms.checked_add(ms)?;
                part = tail;
            }
        }
        if !part.is_empty() {
            return None;
        }
    }
    Some(total_ms)
}

/// A time as Kafka's tool takes it.
fn datetime(at_ms: i64) -> String {
    let (days, of_day) = (at_ms.div_euclid(DAY_MS), at_ms.rem_euclid(DAY_MS));
    // Civil date from days since 1970: years that begin in March, so that the leap day is their last.
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1_000)
}

/// The same with Kafka's tool; topics with the partitions that were chosen, or none for all of them.
pub fn command(bootstrap: &str, group: &str, topics: &BTreeMap<String, Option<Vec<i32>>>, aim: Aim) -> String {
    let mut words: Vec<String> = ["--group", group, "--reset-offsets"].map(str::to_owned).to_vec();
    for (topic, partitions) in topics {
        let numbers: Option<Vec<String>> =
            partitions.as_ref().map(|partitions| partitions.iter().map(i32::to_string).collect());
        words.push("--topic".to_owned());
        words.push(numbers.map_or_else(|| topic.clone(), |numbers| format!("{topic}:{}", numbers.join(","))));
    }
    match aim {
        Aim::Earliest => words.push("--to-earliest".to_owned()),
        Aim::Latest => words.push("--to-latest".to_owned()),
        Aim::Offset(offset) => words.extend(["--to-offset".to_owned(), offset.to_string()]),
        Aim::Shift(by) => words.extend(["--shift-by".to_owned(), by.to_string()]),
        Aim::Time(at_ms) => words.extend(["--to-datetime".to_owned(), datetime(at_ms)]),
        Aim::Ago(ms) => {
            let seconds = ms / 1_000;
            words.extend(["--by-duration".to_owned(), format!("PT{seconds}S")]);
        }
    }
    words.push("--execute".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    command::line("kafka-consumer-groups", bootstrap, &words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn aims() -> impl Strategy<Value = Aim> {
        prop_oneof![
            Just(Aim::Earliest),
            Just(Aim::Latest),
            any::<i64>().prop_map(Aim::Offset),
            any::<i64>().prop_map(Aim::Shift),
            any::<i64>().prop_map(Aim::Time),
            any::<i64>().prop_map(Aim::Ago),
        ]
    }

    proptest! {
        /// Whatever is known and wanted, what is committed is an offset of the partition: never -1, -2 or another special number.
        #[test]
        fn only_offsets_of_the_partition_come_out(
            aim in aims(),
            committed: Option<i64>,
            start: i64,
            end: i64,
            found: Option<i64>,
        ) {
            if let Some(offset) = resolve(aim, Known { committed, start, end, found }) {
                prop_assert!(offset >= 0 && offset <= end.max(0));
                prop_assert!(offset >= start.clamp(0, end.max(0)));
            } else {
                prop_assert!(matches!(aim, Aim::Shift(_)) && committed.is_none());
            }
        }

        #[test]
        fn earliest_and_latest_are_the_ends(start in 0..i64::MAX, length in 0..i64::MAX) {
            let known = Known { committed: None, start, end: start.saturating_add(length), found: None };
            prop_assert_eq!(resolve(Aim::Earliest, known), Some(start));
            prop_assert_eq!(resolve(Aim::Latest, known), Some(known.end));
        }
    }

    fn aim(kind: &str, value: Value) -> Result<Aim, Problem> {
        Target { kind: kind.to_owned(), value }.aim()
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        assert_eq!(aim("offset", json!("9007199254740993")), Ok(Aim::Offset(9_007_199_254_740_993)));
        assert_eq!(aim("offset", json!(i64::MAX)), Ok(Aim::Offset(i64::MAX)));
        assert_eq!(aim("shift", json!("+5")), Ok(Aim::Shift(5)));
        assert_eq!(aim("shift", json!("-5")), Ok(Aim::Shift(-5)));
        assert_eq!(aim("duration", json!("P1DT2H3M4S")), Ok(Aim::Ago(DAY_MS + 7_384_000)));
        for (kind, value) in [
            ("offset", json!("-1")),
            ("offset", json!(1.5)),
            ("offset", json!("9223372036854775808")),
            ("time", json!(-2)),
            ("duration", json!("P")),
            ("duration", json!("PT")),
            ("duration", json!("PT5X")),
            ("latests", json!(null)),
        ] {
            assert_eq!(aim(kind, value.clone()).unwrap_err().code, "invalid", "{kind} {value}");
        }
    }

    #[test]
    fn the_command_says_the_same() {
        let topics = BTreeMap::from([("a".to_owned(), None), ("b".to_owned(), Some(vec![0, 2]))]);
        let expected = "kafka-consumer-groups --bootstrap-server h:1 --group 'it'\\''s' --reset-offsets --topic a --topic \
                        b:0,2 --to-datetime 2024-02-29T23:59:59.007Z --execute";
        assert_eq!(command("h:1", "it's", &topics, Aim::Time(1_709_251_199_007)), expected);
        assert_eq!(datetime(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(datetime(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }
}
