//! Group configs: what administrators set for one consumer group, under Kafka's names and with Kafka's rules.
//!
//! They are for groups of the consumer protocol, whose session timeout and heartbeat interval are the broker's to say. A
//! value must lie in the range that the broker's settings allow ([`GroupBounds`]). It is checked when it is set; ranges
//! may have changed when it is used, so that whoever uses [`GroupOverrides`] brings them into the range of that time.

use super::config_defaults::Configs;
use super::topic_config::{Check, ConfigDef, ConfigError, ConfigType, Effect};

/// Every group config, by name.
pub const GROUP_CONFIGS: &[ConfigDef] = &[HEARTBEAT_INTERVAL, SESSION_TIMEOUT];

const HEARTBEAT_INTERVAL: ConfigDef = ConfigDef {
    name: "consumer.heartbeat.interval.ms",
    kind: ConfigType::Int,
    default: "5000",
    check: Check::AtLeast(1),
    broker_name: "group.consumer.heartbeat.interval.ms",
    effect: Effect::Implemented,
    doc: "How often members of the group send a heartbeat, ms.",
};

const SESSION_TIMEOUT: ConfigDef = ConfigDef {
    name: "consumer.session.timeout.ms",
    kind: ConfigType::Int,
    default: "45000",
    check: Check::AtLeast(1),
    broker_name: "group.consumer.session.timeout.ms",
    effect: Effect::Implemented,
    doc: "How long a member of the group may be silent before it is removed, ms.",
};

/// A setting of all groups: its value and what groups may set instead. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Where the group sets nothing.
    pub default_ms: i32,
    /// Least value.
    pub min_ms: i32,
    /// Greatest value.
    pub max_ms: i32,
}

/// What the broker says of groups of the consumer protocol: `group.consumer.*`, Kafka's defaults unless set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBounds {
    /// `group.consumer.{,min.,max.}heartbeat.interval.ms`
    pub heartbeat_interval: Bound,
    /// `group.consumer.{,min.,max.}session.timeout.ms`
    pub session_timeout: Bound,
}

impl Default for GroupBounds {
    fn default() -> Self {
        Self {
            heartbeat_interval: Bound { default_ms: 5_000, min_ms: 5_000, max_ms: 15_000 },
            session_timeout: Bound { default_ms: 45_000, min_ms: 45_000, max_ms: 60_000 },
        }
    }
}

/// What a group sets itself. A value that is not valid (written by a later version) counts as not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupOverrides {
    /// `consumer.heartbeat.interval.ms`
    pub heartbeat_interval_ms: Option<i32>,
    /// `consumer.session.timeout.ms`
    pub session_timeout_ms: Option<i32>,
}

impl From<&Configs> for GroupOverrides {
    fn from(configs: &Configs) -> Self {
        Self {
            heartbeat_interval_ms: set(configs, &HEARTBEAT_INTERVAL),
            session_timeout_ms: set(configs, &SESSION_TIMEOUT),
        }
    }
}

fn set(configs: &Configs, def: &ConfigDef) -> Option<i32> {
    let value = configs.get(def.name).filter(|value| def.check(value).is_ok())?;
    value.trim().parse().ok()
}

/// The config of this name.
pub fn definition(name: &str) -> Option<&'static ConfigDef> {
    GROUP_CONFIGS.iter().find(|def| def.name == name)
}

impl Bound {
    /// The same with what a group sets, if it does, brought into the range of now.
    fn with(self, own_ms: Option<i32>) -> Self {
        Self { default_ms: own_ms.map_or(self.default_ms, |ms| ms.clamp(self.min_ms, self.max_ms)), ..self }
    }
}

impl GroupBounds {
    /// What counts for a group that sets this.
    pub fn with(self, overrides: GroupOverrides) -> Self {
        Self {
            heartbeat_interval: self.heartbeat_interval.with(overrides.heartbeat_interval_ms),
            session_timeout: self.session_timeout.with(overrides.session_timeout_ms),
        }
    }

    /// The setting that a group's config takes the place of.
    pub fn of(&self, def: &ConfigDef) -> Bound {
        if def.name == SESSION_TIMEOUT.name { self.session_timeout } else { self.heartbeat_interval }
    }

    /// Checks a group's configs, names included elsewhere: each value, its range, and what must hold of both together.
    pub fn check(&self, configs: &Configs) -> Result<(), ConfigError> {
        let refuse = |name: &str, message: String| {
            let value = configs.get(name).cloned().unwrap_or_default();
            Err(ConfigError::Value { name: name.to_owned(), value, message })
        };
        for def in GROUP_CONFIGS {
            let Some(value) = configs.get(def.name) else { continue };
            if let Err(message) = def.check(value) {
                return refuse(def.name, message);
            }
            let Bound { min_ms, max_ms, .. } = self.of(def);
            let range = min_ms..=max_ms;
            if set(configs, def).is_none_or(|ms| !range.contains(&ms)) {
                let parts = |bound: &str| def.broker_name.replace("consumer.", &format!("consumer.{bound}."));
                let message = format!("must be from {min_ms} to {max_ms} ({}, {})", parts("min"), parts("max"));
                return refuse(def.name, message);
            }
        }
        let overrides = GroupOverrides::from(configs);
        let session_ms = overrides.session_timeout_ms.unwrap_or(self.session_timeout.default_ms);
        let heartbeat_ms = overrides.heartbeat_interval_ms.unwrap_or(self.heartbeat_interval.default_ms);
        if configs.is_empty() || session_ms > heartbeat_ms {
            return Ok(());
        }
        let changed = if overrides.session_timeout_ms.is_some() { &SESSION_TIMEOUT } else { &HEARTBEAT_INTERVAL };
        let message =
            format!("the session timeout, {session_ms}, must be greater than the heartbeat interval, {heartbeat_ms}");
        refuse(changed.name, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn kafkas_ranges() {
        let (session, heartbeat) = ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms");
        let table = [
            (session, "45000", ""),
            (session, " 60000 ", ""),
            (session, "44999", "group.consumer.min.session.timeout.ms"),
            (session, "60001", "group.consumer.max.session.timeout.ms"),
            (session, "soon", "32-bit"),
            (session, "0", "at least 1"),
            (heartbeat, "5000", ""),
            (heartbeat, "15000", ""),
            (heartbeat, "4999", "group.consumer.min.heartbeat.interval.ms"),
            (heartbeat, "15001", "from 5000 to 15000"),
        ];
        for (name, value, part) in table {
            match GroupBounds::default().check(&configs(&[(name, value)])) {
                Ok(()) => assert_eq!(part, "", "{name}={value}"),
                Err(error) => assert!(!part.is_empty() && error.to_string().contains(part), "{name}={value}: {error}"),
            }
        }
    }

    #[test]
    fn a_session_is_longer_than_a_heartbeat() {
        let wide = Bound { default_ms: 5_000, min_ms: 1, max_ms: 90_000 };
        let bounds = GroupBounds { heartbeat_interval: wide, session_timeout: Bound { default_ms: 45_000, ..wide } };
        let check = |pairs: &[(&str, &str)]| bounds.check(&configs(pairs)).is_ok();
        assert!(check(&[]) && check(&[("consumer.session.timeout.ms", "5001")]));
        assert!(!check(&[("consumer.session.timeout.ms", "5000")]), "not longer than the broker's heartbeat");
        assert!(!check(&[("consumer.heartbeat.interval.ms", "45000")]));
        assert!(check(&[("consumer.session.timeout.ms", "9"), ("consumer.heartbeat.interval.ms", "8")]));
    }

    #[test]
    fn what_a_group_has_set_is_brought_into_the_range_of_now() {
        let defaults = GroupBounds::default();
        assert_eq!(defaults.with(GroupOverrides::default()), defaults);
        for (set_ms, used_ms) in [(50_000, 50_000), (1, 45_000), (90_000, 60_000)] {
            let set = GroupOverrides { session_timeout_ms: Some(set_ms), ..GroupOverrides::default() };
            let session_timeout = Bound { default_ms: used_ms, ..defaults.session_timeout };
            assert_eq!(defaults.with(set), GroupBounds { session_timeout, ..defaults });
        }
    }

    #[test]
    fn what_cannot_be_used_counts_as_not_set() {
        let overrides = GroupOverrides::from(&configs(&[
            ("consumer.session.timeout.ms", " 50000 "),
            ("consumer.heartbeat.interval.ms", "soon"),
        ]));
        assert_eq!(overrides, GroupOverrides { heartbeat_interval_ms: None, session_timeout_ms: Some(50_000) });
        for def in GROUP_CONFIGS {
            assert_eq!(GroupBounds::default().of(def).default_ms.to_string(), def.default, "{}", def.name);
        }
    }
}
