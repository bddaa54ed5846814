//! Topic configs: the table of everything Kafka 4.1 knows, and the parsed values that this broker acts on.
//!
//! Every name that Kafka accepts is accepted, checked as Kafka checks it, stored and shown, so that tools which set it
//! work. [`Effect`] says whether it does anything here: a broker whose segments live in an object store has no use for,
//! say, `preallocate`. Values are checked when a topic is created or altered; [`TopicConfig`] is computed once per
//! change of a topic or of the defaults (by the cluster image), never per request.

use super::config_defaults::{Configs, Defaults};
use std::collections::BTreeMap;

/// Kafka's config types, with their numbers in DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    /// true or false.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32-bit number.
    Int = 3,
    /// 64-bit number.
    Long = 5,
    /// Floating-point number.
    Double = 6,
    /// Comma-separated list.
    List = 7,
}

/// Which values are valid beyond what the type says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Check {
    /// All.
    Any,
    /// Numbers from this one on.
    AtLeast(i64),
    /// Numbers in this range, both ends included.
    Between(i64, i64),
    /// Fractions from 0 to 1.
    Ratio,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any number of these words.
    ListOf(&'static [&'static str]),
    /// Kafka accepts all of `known`, this broker only `built` so far.
    OnlyBuilt {
        /// The words Kafka knows.
        known: &'static [&'static str],
        /// The one that works.
        built: &'static str,
    },
    /// -1 or a number in this range.
    MinusOneOrBetween(i64, i64),
}

/// Whether setting a config changes what this broker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Implemented,
    /// It is stored and shown, and nothing else.
    StoredOnly,
}

/// One topic config.
#[derive(Debug, Clone, Copy)]
pub struct ConfigDef {
    /// Kafka's name.
    pub name: &'static str,
    /// Its type.
    pub kind: ConfigType,
    /// Value when not set.
    pub default: &'static str,
    /// Valid values.
    pub check: Check,
    /// The broker config that has the default in Kafka.
    pub broker_name: &'static str,
    /// Whether it does anything.
    pub effect: Effect,
    /// What it means, for people.
    pub doc: &'static str,
}

/// Why a config was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such config.
    #[error("unknown topic config {0}")]
    Unknown(String),
    /// The value is not valid.
    #[error("invalid value {value} for configuration {name}: {message}")]
    Value {
        /// The config.
        name: String,
        /// As sent.
        value: String,
        /// What would be valid.
        message: String,
    },
}

const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
const HOUR_MS: i64 = 3_600_000;
const WEEK_MS: i64 = 168 * HOUR_MS;
/// A share of one, in millionths.
pub const RATIO_PPM: u32 = 1_000_000;
const MAX_LONG: &str = "9223372036854775807";

macro_rules! configs {
    ($($name:literal $kind:ident $default:expr, $check:expr, $broker:literal, $effect:ident, $doc:literal;)*) => {
        /// Every topic config of Kafka 4.1, by name.
        pub const TOPIC_CONFIGS: &[ConfigDef] = &[$(ConfigDef {
            name: $name,
            kind: ConfigType::$kind,
            default: $default,
            check: $check,
            broker_name: $broker,
            effect: Effect::$effect,
            doc: $doc,
        }),*];
    };
}

configs! {
    "cleanup.policy" List "delete", Check::ListOf(&["compact", "delete"]), "log.cleanup.policy", Implemented,
        "What happens to old records: delete removes them by age and size; compact keeps the newest record per key.";
    "compression.gzip.level" Int "-1", Check::MinusOneOrBetween(1, 9), "compression.gzip.level", StoredOnly,
        "Level for compression.type=gzip. No effect: batches are stored as the producer sent them.";
    "compression.lz4.level" Int "9", Check::Between(1, 17), "compression.lz4.level", StoredOnly,
        "Level for compression.type=lz4. No effect: batches are stored as the producer sent them.";
    "compression.type" String "producer", Check::OnlyBuilt { known: CODECS, built: "producer" }, "compression.type",
        Implemented, "Codec of stored batches. Only producer is supported: batches keep the codec they were sent with.";
    "compression.zstd.level" Int "3", Check::Between(-131_072, 22), "compression.zstd.level", StoredOnly,
        "Level for compression.type=zstd. No effect: batches are stored as the producer sent them.";
    "delete.retention.ms" Long "86400000", Check::AtLeast(0), "log.cleaner.delete.retention.ms", Implemented,
        "How long delete markers of compacted topics are kept after everything older of their keys is gone, ms.";
    "file.delete.delay.ms" Long "60000", Check::AtLeast(0), "log.segment.delete.delay.ms", StoredOnly,
        "Delay before files are deleted, ms. No effect: objects are deleted when nothing refers to them.";
    "flush.messages" Long MAX_LONG, Check::AtLeast(1), "log.flush.interval.messages", StoredOnly,
        "Records between two fsyncs. No effect: every acknowledged record is in the object store.";
    "flush.ms" Long MAX_LONG, Check::AtLeast(0), "log.flush.interval.ms", StoredOnly,
        "Time between two fsyncs, ms. No effect: every acknowledged record is in the object store.";
    "follower.replication.throttled.replicas" List "", Check::Any, "follower.replication.throttled.replicas",
        StoredOnly, "Followers whose replication is throttled. No effect: there is no replication between brokers.";
    "index.interval.bytes" Int "4096", Check::AtLeast(0), "log.index.interval.bytes", StoredOnly,
        "Bytes between two entries of the offset index. No effect: segments have their own index.";
    "leader.replication.throttled.replicas" List "", Check::Any, "leader.replication.throttled.replicas", StoredOnly,
        "Leaders whose replication is throttled. No effect: there is no replication between brokers.";
    "local.retention.bytes" Long "-2", Check::AtLeast(-2), "log.local.retention.bytes", StoredOnly,
        "Bytes kept on local disks with tiered storage. No effect: brokers keep nothing on disk.";
    "local.retention.ms" Long "-2", Check::AtLeast(-2), "log.local.retention.ms", StoredOnly,
        "Time records stay on local disks with tiered storage, ms. No effect: brokers keep nothing on disk.";
    "max.compaction.lag.ms" Long MAX_LONG, Check::AtLeast(1), "log.cleaner.max.compaction.lag.ms",
        Implemented, "Longest time a record stays uncompacted, ms.";
    "max.message.bytes" Int "1048588", Check::AtLeast(0), "message.max.bytes", Implemented,
        "Largest record batch that is accepted, bytes, judged as sent (compressed).";
    "message.timestamp.after.max.ms" Long "3600000", Check::AtLeast(0), "log.message.timestamp.after.max.ms",
        Implemented, "How far in the future a producer's timestamp may lie, ms.";
    "message.timestamp.before.max.ms" Long MAX_LONG, Check::AtLeast(0), "log.message.timestamp.before.max.ms",
        Implemented, "How far in the past a producer's timestamp may lie, ms.";
    "message.timestamp.type" String "CreateTime", Check::OneOf(&["CreateTime", "LogAppendTime"]),
        "log.message.timestamp.type", Implemented, "Whose time records carry: the producer's or the broker's.";
    "min.cleanable.dirty.ratio" Double "0.5", Check::Ratio, "log.cleaner.min.cleanable.ratio", Implemented,
        "Share of uncompacted data above which a partition is compacted.";
    "min.compaction.lag.ms" Long "0", Check::AtLeast(0), "log.cleaner.min.compaction.lag.ms", Implemented,
        "Shortest time a record stays uncompacted, ms, by its own timestamp.";
    "min.insync.replicas" Int "1", Check::AtLeast(1), "min.insync.replicas", StoredOnly,
        "Replicas that must have a record before acks=all is answered. No effect: every acknowledged record is in the \
         object store, whose copies count.";
    "preallocate" Boolean "false", Check::Any, "log.preallocate", StoredOnly,
        "Preallocate segment files. No effect: there are no files.";
    "remote.log.copy.disable" Boolean "false", Check::Any, "remote.log.copy.disable", StoredOnly,
        "Stop copying to tiered storage. No effect: the object store is the only storage.";
    "remote.log.delete.on.disable" Boolean "false", Check::Any, "remote.log.delete.on.disable", StoredOnly,
        "Delete tiered data when tiering is switched off. No effect: the object store is the only storage.";
    "remote.storage.enable" Boolean "false",
        Check::OnlyBuilt { known: &["true", "false"], built: "false" }, "remote.storage.enable", StoredOnly,
        "Kafka's tiered storage. Always off: all data is in the object store without it.";
    "retention.bytes" Long "-1", Check::Any, "log.retention.bytes", Implemented,
        "Size of a partition above which its oldest records are deleted, bytes; -1 for no limit.";
    "retention.ms" Long "604800000", Check::AtLeast(-1), "log.retention.ms", Implemented,
        "Age at which records are deleted, ms; -1 for never.";
    "segment.bytes" Int "1073741824", Check::AtLeast(1_048_576), "log.segment.bytes", StoredOnly,
        "Size of a segment file, bytes. No effect: KAFSCALE_SEGMENT_BYTES bounds objects, merging makes larger ones.";
    "segment.index.bytes" Int "10485760", Check::AtLeast(4), "log.index.size.max.bytes", StoredOnly,
        "Size of a segment's index, bytes. No effect: segments have their own index.";
    "segment.jitter.ms" Long "0", Check::AtLeast(0), "log.roll.jitter.ms", StoredOnly,
        "Random delay when segments roll, ms. No effect: nothing rolls at the same moment.";
    "segment.ms" Long "604800000", Check::AtLeast(1), "log.roll.ms", Implemented,
        "Age from which less than 1 MiB of uncompacted data is compacted, ms. Only for cleanup.policy=compact: \
         KAFSCALE_FLUSH_INTERVAL_MS bounds the age of an open segment.";
    "unclean.leader.election.enable" Boolean "false", Check::Any, "unclean.leader.election.enable", StoredOnly,
        "Elect leaders that miss records. No effect: any broker can lead without loss.";
}

/// The config of this name.
pub fn definition(name: &str) -> Option<&'static ConfigDef> {
    TOPIC_CONFIGS.binary_search_by(|d| d.name.cmp(name)).ok().map(|i| &TOPIC_CONFIGS[i])
}

/// Checks one value.
pub fn check(name: &str, value: &str) -> Result<(), ConfigError> {
    let def = definition(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
    def.check(value).map_err(|message| ConfigError::Value { name: name.to_owned(), value: value.to_owned(), message })
}

/// Checks all configs of a topic, each alone and then together.
pub fn check_all(configs: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in configs {
        check(name, value)?;
    }
    let long = |name: &str| -> i64 { effective(configs, name).trim().parse().unwrap_or_default() };
    let (min_lag, max_lag) = (long("min.compaction.lag.ms"), long("max.compaction.lag.ms"));
    if min_lag > max_lag {
        return Err(ConfigError::Value {
            name: "min.compaction.lag.ms".to_owned(),
            value: min_lag.to_string(),
            message: format!("must not be above max.compaction.lag.ms, which is {max_lag}"),
        });
    }
    Ok(())
}

/// The value that counts: the override, else the default. `name` is in the table.
fn effective<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    configs.get(name).map_or_else(|| definition(name).map_or("", |d| d.default), String::as_str)
}

impl ConfigDef {
    /// Says what is wrong with a value, if anything.
    pub fn check(&self, value: &str) -> Result<(), String> {
        self.check_value(value.trim())
    }

    fn check_value(&self, value: &str) -> Result<(), String> {
        let number = match self.kind {
            ConfigType::Int => value.parse::<i32>().map(i64::from).map_err(|_| "not a 32-bit number")?,
            ConfigType::Long => value.parse::<i64>().map_err(|_| "not a 64-bit number")?,
            ConfigType::Double => {
                let ratio: f64 = value.parse().map_err(|_| "not a number")?;
                return if (0.0..=1.0).contains(&ratio) { Ok(()) } else { Err("must be from 0 to 1".to_owned()) };
            }
            ConfigType::Boolean if !["true", "false"].iter().any(|b| b.eq_ignore_ascii_case(value)) => {
                return Err("must be true or false".to_owned());
            }
            ConfigType::Boolean | ConfigType::String | ConfigType::List => return self.check_words(value),
        };
        match self.check {
            Check::AtLeast(min) if number < min => Err(format!("must be at least {min}")),
            Check::Between(min, max) if !(min..=max).contains(&number) => Err(format!("must be from {min} to {max}")),
            Check::MinusOneOrBetween(min, max) if number != -1 && !(min..=max).contains(&number) => {
                Err(format!("must be -1 or from {min} to {max}"))
            }
            _ => Ok(()),
        }
    }

    fn check_words(&self, value: &str) -> Result<(), String> {
        match self.check {
            Check::OneOf(words) if !words.contains(&value) => Err(format!("must be one of {}", words.join(", "))),
            Check::ListOf(words) => match list(value).find(|w| !words.contains(w)) {
                Some(word) => Err(format!("{word} is not one of {}", words.join(", "))),
                None => Ok(()),
            },
            Check::OnlyBuilt { known, built } => {
                let lower = value.to_ascii_lowercase();
                if lower == built {
                    Ok(())
                } else if known.contains(&lower.as_str()) {
                    Err(format!("{value} is not supported by this version; use {built}"))
                } else {
                    Err(format!("must be {built}"))
                }
            }
            _ => Ok(()),
        }
    }
}

/// The words of a list value.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|w| !w.is_empty())
}

/// The parsed values that produce, fetch and retention act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Largest batch, bytes (`max.message.bytes`).
    pub max_message_bytes: i32,
    /// The broker stamps its time on batches (`message.timestamp.type=LogAppendTime`).
    pub log_append_time: bool,
    /// How far in the past a timestamp may lie, ms (`message.timestamp.before.max.ms`).
    pub timestamp_before_max_ms: i64,
    /// How far in the future a timestamp may lie, ms (`message.timestamp.after.max.ms`).
    pub timestamp_after_max_ms: i64,
    /// Age at which records go, ms; -1 for never (`retention.ms`). Only with [`TopicConfig::delete`].
    pub retention_ms: i64,
    /// Size above which the oldest records go, bytes; -1 for never (`retention.bytes`). Only with
    /// [`TopicConfig::delete`].
    pub retention_bytes: i64,
    /// `cleanup.policy` has delete: retention applies.
    pub delete: bool,
    /// `cleanup.policy` has compact: records must have keys, and only the newest of each is kept.
    pub compact: bool,
    /// How that is done. Only with [`TopicConfig::compact`].
    pub compaction: CompactionConfig,
}

/// When and how a topic is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionConfig {
    /// Share of uncompacted bytes above which a partition is compacted, in millionths (`min.cleanable.dirty.ratio`).
    pub dirty_ratio_min_ppm: u32,
    /// Records younger than this are left alone, ms (`min.compaction.lag.ms`).
    pub lag_ms_min: i64,
    /// Uncompacted records older than this are compacted whatever their share, ms (`max.compaction.lag.ms`).
    pub lag_ms_max: i64,
    /// Tombstones are kept for this long, ms (`delete.retention.ms`).
    pub delete_retention_ms: i64,
    /// Age from which little data is enough, ms (`segment.ms`).
    pub segment_ms: i64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            log_append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: HOUR_MS,
            retention_ms: WEEK_MS,
            retention_bytes: -1,
            delete: true,
            compact: false,
            compaction: CompactionConfig {
                dirty_ratio_min_ppm: RATIO_PPM / 2,
                lag_ms_min: 0,
                lag_ms_max: i64::MAX,
                delete_retention_ms: 24 * HOUR_MS,
                segment_ms: WEEK_MS,
            },
        }
    }
}

impl TopicConfig {
    /// The values of a topic with these configs. One that is not valid (written by a later version) counts as not set.
    pub fn new(configs: &Configs, defaults: &Defaults) -> Self {
        let builtin = Self::default();
        let text = |name: &str| {
            let def = definition(name).expect("every name here is in the table");
            let own = configs.get(name).filter(|value| def.check(value).is_ok());
            own.map_or_else(|| defaults.value(def).0, String::as_str).trim()
        };
        let long = |name: &str, default: i64| text(name).parse().unwrap_or(default);
        let policy = text("cleanup.policy");
        let compaction = CompactionConfig {
            dirty_ratio_min_ppm: text("min.cleanable.dirty.ratio")
                .parse::<f64>()
                .map_or(builtin.compaction.dirty_ratio_min_ppm, |ratio| (ratio * f64::from(RATIO_PPM)).round() as u32),
            lag_ms_min: long("min.compaction.lag.ms", builtin.compaction.lag_ms_min),
            lag_ms_max: long("max.compaction.lag.ms", builtin.compaction.lag_ms_max),
            delete_retention_ms: long("delete.retention.ms", builtin.compaction.delete_retention_ms),
            segment_ms: long("segment.ms", builtin.compaction.segment_ms),
        };
        Self {
            max_message_bytes: text("max.message.bytes").parse().unwrap_or(builtin.max_message_bytes),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: long("message.timestamp.before.max.ms", builtin.timestamp_before_max_ms),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms", builtin.timestamp_after_max_ms),
            retention_ms: long("retention.ms", builtin.retention_ms),
            retention_bytes: long("retention.bytes", builtin.retention_bytes),
            delete: list(policy).any(|w| w == "delete"),
            compact: list(policy).any(|w| w == "compact"),
            compaction,
        }
    }
}

impl From<&Configs> for TopicConfig {
    fn from(configs: &Configs) -> Self {
        Self::new(configs, &Defaults::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_valid() {
        assert!(TOPIC_CONFIGS.windows(2).all(|w| w[0].name < w[1].name));
        for def in TOPIC_CONFIGS {
            assert_eq!(check(def.name, def.default), Ok(()), "{}", def.name);
            assert!(def.doc.len() > 20, "{}", def.name);
            let says_no_effect = def.doc.contains("No effect") || def.doc.contains("Always off");
            assert_eq!(says_no_effect, def.effect == Effect::StoredOnly, "{}", def.name);
        }
    }

    #[test]
    fn the_documentation_has_every_config_and_api() {
        let page = include_str!("../../docs/kafka-protocol.md");
        for def in TOPIC_CONFIGS {
            let default = if def.default.is_empty() { "empty".to_owned() } else { format!("`{}`", def.default) };
            let row = format!("| `{}` | {default} | {} |", def.name, def.doc);
            assert!(page.contains(&row), "docs/kafka-protocol.md lacks: {row}");
        }
        assert_eq!(page.lines().filter(|l| l.starts_with("| `")).count(), TOPIC_CONFIGS.len());
        for api in crate::protocol::api::APIS {
            let versions = if api.min == api.max { api.min.to_string() } else { format!("{}-{}", api.min, api.max) };
            let row = format!("| {:?} | {versions} |", api.key);
            assert!(page.contains(&row), "docs/kafka-protocol.md lacks: {row}");
        }
    }

    #[test]
    fn no_overrides_are_the_defaults_of_the_table() {
        assert_eq!(TopicConfig::from(&BTreeMap::new()), TopicConfig::default());
        let all: BTreeMap<_, _> = TOPIC_CONFIGS.iter().map(|d| (d.name.to_owned(), d.default.to_owned())).collect();
        assert_eq!(TopicConfig::from(&all), TopicConfig::default());
    }

    #[test]
    fn values() {
        let ok = [
            ("retention.ms", "-1"),
            ("retention.ms", " 1000 "),
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact, delete"),
            ("compression.type", "producer"),
            ("min.insync.replicas", "2"),
            ("preallocate", "TRUE"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("message.timestamp.type", "LogAppendTime"),
            ("compression.gzip.level", "-1"),
            ("segment.bytes", "1048576"),
        ];
        for (name, value) in ok {
            assert_eq!(check(name, value), Ok(()), "{name}={value}");
        }
        let bad = [
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("cleanup.policy", "shred"),
            ("compression.type", "zstd"),
            ("compression.type", "brotli"),
            ("min.insync.replicas", "0"),
            ("preallocate", "yes"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("message.timestamp.type", "logappendtime"),
            ("compression.gzip.level", "0"),
            ("max.message.bytes", "2147483648"),
            ("segment.bytes", "14"),
            ("remote.storage.enable", "true"),
            ("no.such.config", "1"),
        ];
        for (name, value) in bad {
            assert!(check(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn configs_are_checked_together() {
        assert!(check_all(&map(&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "5")])).is_ok());
        assert!(check_all(&map(&[("min.compaction.lag.ms", "6"), ("max.compaction.lag.ms", "5")])).is_err());
    }

    #[test]
    fn parsed_values() {
        let parsed = TopicConfig::from(&map(&[
            ("max.message.bytes", "51200"),
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.ms", "-1"),
            ("retention.bytes", "1000"),
            ("cleanup.policy", "compact"),
            ("message.timestamp.after.max.ms", "garbage"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("segment.ms", "100"),
        ]));
        let expected = TopicConfig {
            max_message_bytes: 51_200,
            log_append_time: true,
            retention_ms: -1,
            retention_bytes: 1000,
            delete: false,
            compact: true,
            compaction: CompactionConfig {
                dirty_ratio_min_ppm: 10_000,
                segment_ms: 100,
                ..TopicConfig::default().compaction
            },
            ..TopicConfig::default()
        };
        assert_eq!(parsed, expected);
    }
}
