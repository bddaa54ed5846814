//! Changes of configs as clients ask for them: legacy replacement and KIP-339's incremental operations.
//!
//! Pure: from what is stored and what is asked for to what is to be stored, or why not. A change of a stored value is
//! decided again after a conflict, so every operation gives the same when it is applied twice.

use super::config_defaults::{self, Configs};
use super::group_config::{self, GroupBounds};
use super::topic_config::{self, ConfigDef, ConfigError, ConfigType};
use std::collections::BTreeSet;

/// Whose configs change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A topic.
    Topic,
    /// A broker, or all of them.
    Broker,
    /// A group, which may set what is within these bounds.
    Group(GroupBounds),
}

/// What to do with one config, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Operation {
    /// Set it.
    Set = 0,
    /// Forget it, so that the default counts.
    Delete = 1,
    /// Add words to a list.
    Append = 2,
    /// Take words from a list.
    Subtract = 3,
}

impl Operation {
    /// The operation of this number.
    pub fn from_number(number: i8) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Append, Self::Subtract].into_iter().find(|op| *op as i8 == number)
    }
}

/// One asked-for change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The config.
    pub name: String,
    /// What to do.
    pub operation: Operation,
    /// With what; `None` only makes sense to delete.
    pub value: Option<String>,
}

/// Why configs are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A config is named more than once.
    #[error("config {0} is named more than once")]
    Duplicate(String),
    /// A value is missing.
    #[error("config {0} has no value")]
    NoValue(String),
    /// Words can be added to and taken from lists only.
    #[error("config {0} is not a list: words can neither be added to nor taken from it")]
    NotAList(String),
    /// The broker config is fixed while the process runs, or not known.
    #[error("broker config {0} cannot be changed at run time")]
    NotDynamic(String),
    /// A broker config's value is not valid.
    #[error("{0}")]
    BrokerValue(ConfigError),
    /// A group has no such config.
    #[error("unknown group config {0}")]
    UnknownOfGroup(String),
    /// A topic config is not known, or a value not valid.
    #[error(transparent)]
    Topic(#[from] ConfigError),
}

impl Owner {
    fn definition(self, name: &str) -> Result<&'static ConfigDef, ChangeError> {
        match self {
            Self::Topic => topic_config::definition(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()).into()),
            Self::Broker => config_defaults::dynamic(name).ok_or_else(|| ChangeError::NotDynamic(name.to_owned())),
            Self::Group(_) => {
                group_config::definition(name).ok_or_else(|| ChangeError::UnknownOfGroup(name.to_owned()))
            }
        }
    }

    fn check(self, configs: &Configs) -> Result<(), ChangeError> {
        match self {
            Self::Topic => Ok(topic_config::check_all(configs)?),
            Self::Group(bounds) => Ok(bounds.check(configs)?),
            Self::Broker => configs.iter().try_for_each(|(name, value)| {
                self.definition(name)?.check(value).map_err(|message| {
                    let (name, value) = (name.clone(), value.clone());
                    ChangeError::BrokerValue(ConfigError::Value { name, value, message })
                })
            }),
        }
    }
}

/// Applies `changes` to `configs`. To forget what is not set is no error, whatever its name.
pub fn incremental(owner: Owner, configs: &Configs, changes: &[Change]) -> Result<Configs, ChangeError> {
    once_each(changes.iter().map(|c| c.name.as_str()))?;
    let mut after = configs.clone();
    for change in changes {
        let name = &change.name;
        if change.operation == Operation::Delete {
            after.remove(name);
            continue;
        }
        let value = change.value.as_deref().ok_or_else(|| ChangeError::NoValue(name.clone()))?.trim();
        let definition = owner.definition(name)?;
        if change.operation == Operation::Set {
            after.insert(name.clone(), value.to_owned());
            continue;
        }
        if definition.kind != ConfigType::List {
            return Err(ChangeError::NotAList(name.clone()));
        }
        // As in Kafka, a list that is not set starts from the built-in default.
        let present = after.get(name).map_or(definition.default, String::as_str);
        let mut words: Vec<&str> = topic_config::list(present).collect();
        for word in topic_config::list(value) {
            match change.operation {
                Operation::Append if !words.contains(&word) => words.push(word),
                Operation::Subtract => words.retain(|w| *w != word),
                _ => {}
            }
        }
        let joined = words.join(",");
        after.insert(name.clone(), joined);
    }
    owner.check(&after)?;
    Ok(after)
}

/// The configs after everything was replaced by `configs`.
pub fn replacement(owner: Owner, configs: &[(String, Option<String>)]) -> Result<Configs, ChangeError> {
    once_each(configs.iter().map(|(name, _)| name.as_str()))?;
    let mut after = Configs::new();
    for (name, value) in configs {
        let value = value.as_deref().ok_or_else(|| ChangeError::NoValue(name.clone()))?;
        owner.definition(name)?;
        after.insert(name.clone(), value.trim().to_owned());
    }
    owner.check(&after)?;
    Ok(after)
}

fn once_each<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), ChangeError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ChangeError::Duplicate(name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{Append, Delete, Set, Subtract};
    use proptest::prelude::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn change(name: &str, operation: Operation, value: &str) -> Change {
        Change { name: name.to_owned(), operation, value: Some(value.to_owned()) }
    }

    /// What `cleanup.policy` is after one operation on a stored value.
    fn policy(stored: Option<&str>, operation: Operation, value: &str) -> Result<Option<String>, ChangeError> {
        let before: Configs = stored.iter().map(|v| ("cleanup.policy".to_owned(), (*v).to_owned())).collect();
        let mut after = incremental(Owner::Topic, &before, &[change("cleanup.policy", operation, value)])?;
        Ok(after.remove("cleanup.policy"))
    }

    #[test]
    fn lists() {
        let table = [
            // A list that is not set starts from the default, which is `delete`.
            (None, Append, "compact", Some("delete,compact")),
            (None, Append, "delete", Some("delete")),
            (None, Append, "", Some("delete")),
            (None, Subtract, "compact", Some("delete")),
            (None, Subtract, "delete", Some("")),
            (Some("compact"), Append, "delete", Some("compact,delete")),
            (Some("compact"), Append, " compact , delete ", Some("compact,delete")),
            (Some("compact,delete"), Subtract, "delete", Some("compact")),
            (Some("compact,delete"), Subtract, "delete,compact", Some("")),
            (Some("compact,delete"), Delete, "", None),
            (Some("compact"), Set, "delete", Some("delete")),
        ];
        for (stored, operation, value, expected) in table {
            let after = policy(stored, operation, value).unwrap();
            assert_eq!(after.as_deref(), expected, "{stored:?} {operation:?} {value}");
        }
        assert!(matches!(policy(None, Append, "shred"), Err(ChangeError::Topic(ConfigError::Value { .. }))));
    }

    #[test]
    fn what_is_refused() {
        use ChangeError::{BrokerValue, Duplicate, NoValue, NotAList, NotDynamic, Topic};
        let none = Configs::new();
        let one = |owner, c: Change| incremental(owner, &none, &[c]).unwrap_err();
        assert!(matches!(one(Owner::Topic, change("retention.ms", Set, "soon")), Topic(ConfigError::Value { .. })));
        assert!(matches!(one(Owner::Topic, change("no.such", Set, "1")), Topic(ConfigError::Unknown(_))));
        assert!(matches!(one(Owner::Topic, change("retention.ms", Append, "1")), NotAList(_)));
        assert!(matches!(one(Owner::Topic, Change { value: None, ..change("retention.ms", Set, "") }), NoValue(_)));
        assert!(matches!(one(Owner::Broker, change("num.io.threads", Set, "1")), NotDynamic(_)));
        assert!(matches!(one(Owner::Broker, change("log.retention.ms", Set, "soon")), BrokerValue(_)));
        assert!(matches!(one(Owner::Broker, change("retention.ms", Set, "1")), NotDynamic(_)), "a topic's name");
        let twice = [change("retention.ms", Set, "1"), change("retention.ms", Delete, "")];
        assert_eq!(incremental(Owner::Topic, &none, &twice), Err(Duplicate("retention.ms".to_owned())));
        let lag = [change("min.compaction.lag.ms", Set, "9"), change("max.compaction.lag.ms", Set, "8")];
        assert!(incremental(Owner::Topic, &none, &lag).is_err(), "checked together");
        let missing = [("retention.ms".to_owned(), None)];
        assert!(matches!(replacement(Owner::Topic, &missing), Err(NoValue(_))));
    }

    #[test]
    fn to_forget_what_is_not_set_is_no_error() {
        for owner in [Owner::Topic, Owner::Broker] {
            let gone =
                incremental(owner, &Configs::new(), &[change("follower.replication.throttled.rate", Delete, "")]);
            assert_eq!(gone, Ok(Configs::new()));
        }
    }

    #[test]
    fn replacing_forgets_the_rest() {
        let wanted = [("retention.ms".to_owned(), Some(" 5 ".to_owned()))];
        assert_eq!(replacement(Owner::Topic, &wanted), Ok(configs(&[("retention.ms", "5")])));
        assert_eq!(replacement(Owner::Topic, &[]), Ok(Configs::new()));
    }

    #[test]
    fn operations_have_kafkas_numbers() {
        let found: Vec<_> = (-1..5).map(Operation::from_number).collect();
        assert_eq!(found, [None, Some(Set), Some(Delete), Some(Append), Some(Subtract), None]);
    }

    proptest! {
        /// A change whose answer was lost is decided again on its own result.
        #[test]
        fn twice_is_once(
            stored in prop::option::of(prop::sample::select(vec!["", "delete", "compact", "compact,delete"])),
            operation in prop::sample::select(vec![Set, Delete, Append, Subtract]),
            value in prop::sample::select(vec!["", "delete", "compact", "delete,compact"]),
        ) {
            let before: Configs = stored.iter().map(|v| ("cleanup.policy".to_owned(), (*v).to_owned())).collect();
            let changes = [change("cleanup.policy", operation, value)];
            let once = incremental(Owner::Topic, &before, &changes).unwrap();
            prop_assert_eq!(incremental(Owner::Topic, &once, &changes).unwrap(), once);
        }
    }
}
