//! What a topic config is when the topic does not set it, and where that comes from.
//!
//! Kafka's order: the broker's dynamic config, the cluster's dynamic default, the broker's environment, the built-in
//! default. Dynamic configs are stored in the metadata store and follow it at once; only those can be dynamic whose
//! change does something ([`dynamic`]). The cluster image holds one [`Defaults`] and parses topics' configs with it.

use super::topic_config::{ConfigDef, Effect, TOPIC_CONFIGS};
use crate::ids::BrokerId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Config names and values.
pub type Configs = BTreeMap<String, String>;

/// Where a value comes from, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Changed at run time for one broker.
    DynamicBroker = 2,
    /// Changed at run time for all brokers.
    DynamicDefault = 3,
    /// From the broker's environment.
    StaticBroker = 4,
    /// Not set anywhere.
    Default = 5,
    /// Set for the group.
    Group = 8,
}

/// One place that gives a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer<'a> {
    /// The name it is set under.
    pub name: &'a str,
    /// As set.
    pub value: &'a str,
    /// The place.
    pub source: Source,
}

/// A default from the broker's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticDefault {
    /// The topic config.
    pub config: &'static str,
    /// The broker config; not always the usual one: `log.retention.hours` is a default of `retention.ms`.
    pub broker_name: &'static str,
    /// As set.
    pub raw: String,
    /// In the topic config's unit.
    pub value: String,
}

/// What topics fall back to in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    node: BrokerId,
    /// The first one for a config wins.
    statics: Arc<[StaticDefault]>,
    of_broker: Configs,
    of_cluster: Configs,
}

/// The topic config whose default the broker config `name` is, if that can be changed at run time.
pub fn dynamic(name: &str) -> Option<&'static ConfigDef> {
    TOPIC_CONFIGS.iter().find(|def| def.broker_name == name && def.effect == Effect::Implemented)
}

impl Defaults {
    /// The defaults of broker `node` as its environment has them.
    pub fn new(node: BrokerId, statics: Vec<StaticDefault>) -> Self {
        Self { node, statics: statics.into(), ..Self::default() }
    }

    /// The same without anything dynamic.
    pub fn without_dynamic(&self) -> Self {
        Self { node: self.node, statics: self.statics.clone(), ..Self::default() }
    }

    /// Takes over the dynamic configs of a broker, or with `None` those of the cluster. Those of other brokers have no
    /// effect here; what cannot be dynamic, or has a value of a later version, is left out.
    pub fn set_dynamic(&mut self, node: Option<BrokerId>, configs: &Configs) {
        let usable = |(name, value): &(&String, &String)| dynamic(name).is_some_and(|d| d.check(value).is_ok());
        let usable = configs.iter().filter(usable).map(|(name, value)| (name.clone(), value.clone())).collect();
        match node {
            None => self.of_cluster = usable,
            Some(node) if node == self.node => self.of_broker = usable,
            Some(_) => {}
        }
    }

    /// The dynamic configs of this broker, or with `None` those of the cluster. Nothing is known of other brokers.
    pub fn dynamic_of(&self, node: Option<BrokerId>) -> Option<&Configs> {
        match node {
            None => Some(&self.of_cluster),
            Some(node) => (node == self.node).then_some(&self.of_broker),
        }
    }

    /// Everything that gives `def` a value, what counts first.
    pub fn layers(&self, def: &'static ConfigDef) -> Vec<Layer<'_>> {
        let mut layers = Vec::with_capacity(2);
        let dynamics = [(&self.of_broker, Source::DynamicBroker), (&self.of_cluster, Source::DynamicDefault)];
        for (configs, source) in dynamics {
            layers.extend(configs.get(def.broker_name).map(|value| Layer { name: def.broker_name, value, source }));
        }
        let statics = self.statics.iter().filter(|s| s.config == def.name);
        layers.extend(statics.map(|s| Layer { name: s.broker_name, value: &s.raw, source: Source::StaticBroker }));
        layers.push(Layer { name: def.broker_name, value: def.default, source: Source::Default });
        layers
    }

    /// What a topic gets that does not set `def`, in the topic config's unit, and where that comes from.
    pub fn value(&self, def: &'static ConfigDef) -> (&str, Source) {
        if let Some(value) = self.of_broker.get(def.broker_name) {
            return (value, Source::DynamicBroker);
        }
        if let Some(value) = self.of_cluster.get(def.broker_name) {
            return (value, Source::DynamicDefault);
        }
        match self.statics.iter().find(|s| s.config == def.name) {
            Some(set) => (&set.value, Source::StaticBroker),
            None => (def.default, Source::Default),
        }
    }

    /// What the environment sets.
    pub fn statics(&self) -> &[StaticDefault] {
        &self.statics
    }

    /// True if nothing is dynamic.
    pub fn is_static(&self) -> bool {
        self.of_cluster.is_empty() && self.of_broker.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::topic_config::definition;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_nearest_place_wins() {
        let retention = definition("retention.ms").unwrap();
        let hours = StaticDefault {
            config: "retention.ms",
            broker_name: "log.retention.hours",
            raw: "2".into(),
            value: "7200000".into(),
        };
        let mut defaults = Defaults::new(BrokerId(3), vec![hours]);
        let seen = |d: &Defaults| (d.value(retention).0.to_owned(), d.value(retention).1, d.layers(retention).len());
        assert_eq!(seen(&Defaults::default()), ("604800000".to_owned(), Source::Default, 1));
        assert_eq!(seen(&defaults), ("7200000".to_owned(), Source::StaticBroker, 2));
        assert_eq!(defaults.layers(retention)[0].value, "2", "as it was set");
        defaults.set_dynamic(None, &configs(&[("log.retention.ms", "5")]));
        assert_eq!(seen(&defaults), ("5".to_owned(), Source::DynamicDefault, 3));
        defaults.set_dynamic(Some(BrokerId(4)), &configs(&[("log.retention.ms", "6")]));
        assert_eq!(seen(&defaults), ("5".to_owned(), Source::DynamicDefault, 3));
        defaults.set_dynamic(Some(BrokerId(3)), &configs(&[("log.retention.ms", "7")]));
        assert_eq!(seen(&defaults), ("7".to_owned(), Source::DynamicBroker, 4));
        defaults.set_dynamic(Some(BrokerId(3)), &configs(&[("log.retention.ms", "soon"), ("num.partitions", "1")]));
        assert_eq!(seen(&defaults), ("5".to_owned(), Source::DynamicDefault, 3), "what cannot be used is left out");
        assert_eq!(seen(&defaults.without_dynamic()), ("7200000".to_owned(), Source::StaticBroker, 2));
    }

    #[test]
    fn what_does_something_can_be_dynamic() {
        assert!(dynamic("message.max.bytes").is_some() && dynamic("log.cleanup.policy").is_some());
        for fixed in ["retention.ms", "log.flush.interval.ms", "num.partitions", "log.retention.hours", ""] {
            assert!(dynamic(fixed).is_none(), "{fixed}");
        }
    }
}
