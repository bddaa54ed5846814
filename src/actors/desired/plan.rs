//! From the operator's document and the cluster image to what has to be done to topics, and what is to be answered. Pure.
//!
//! The answer is also the memory: whether a topic was made for its resource or was there before, and which configs were set
//! because the resource named them, so that they are reset when it does not any more. It is written *before* anything is done, with
//! the ids of topics that are about to be made. Whoever goes on after a crash finds there what was begun, and doing it twice is
//! doing it once.

use crate::ids::{BrokerId, TopicId};
use crate::metadata::admin::PARTITIONS_MAX;
use crate::metadata::image::{ClusterImage, Topic};
use crate::metadata::model::FORMAT;
use crate::metadata::model::desired::{AppliedState, AppliedTopic, DesiredStatusValue, DesiredTopic, DesiredValue};
use crate::metadata::model::desired::{ERROR_LEN_MAX, shortened};
use crate::metadata::placement;
use crate::protocol::config_change::{self, Change, Operation, Owner};
use crate::protocol::config_defaults::Configs;
use crate::protocol::{topic_config, topic_name};
use std::collections::{BTreeMap, BTreeSet};

/// Names that begin like this belong to the brokers.
const INTERNAL_PREFIX: &str = "__";

/// One thing to do to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operate {
    /// Make it.
    Create {
        /// Its id.
        id: TopicId,
        /// Number of partitions.
        partitions: i32,
        /// Its configs.
        configs: Configs,
        /// The brokers that should lead.
        placement: Vec<BrokerId>,
    },
    /// Raise the number of its partitions.
    Grow {
        /// Its id.
        id: TopicId,
        /// To so many.
        partitions: i32,
        /// The brokers that should lead the new ones.
        placement: Vec<BrokerId>,
    },
    /// Change its configs.
    Configure {
        /// Its id.
        id: TopicId,
        /// The changes.
        changes: Vec<Change>,
    },
    /// Delete it.
    Delete {
        /// Its id.
        id: TopicId,
    },
}

/// What follows from a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The answer. It is to be stored before anything is done.
    pub status: DesiredStatusValue,
    /// What to do, by topic. When there is nothing, the answer is final.
    pub operations: Vec<(String, Operate)>,
}

/// Decides. `before` is the answer that is stored, `used_up` are ids that no topic can get any more, `new_id` makes ids that
/// nobody has.
pub fn plan(
    desired: &DesiredValue,
    image: &ClusterImage,
    before: &DesiredStatusValue,
    used_up: &BTreeSet<TopicId>,
    mut new_id: impl FnMut() -> TopicId,
) -> Plan {
    let mut names = Names { image, folded: None };
    let mut topics = BTreeMap::new();
    let mut operations = Vec::new();
    for (name, want) in &desired.topics {
        let memory = before.topics.get(name).filter(|memory| memory.uid == want.uid);
        let (decided, todo) = match (want.deletion, image.topic(name)) {
            (Some(_), live) => delete(want, live.map(|topic| &**topic), memory),
            (None, Some(topic)) => follow(want, topic, memory),
            (None, None) => {
                let begun = memory.filter(|memory| memory.state == AppliedState::Pending).and_then(|memory| memory.id);
                let begun = begun.filter(|id| !used_up.contains(id));
                create(name, want, &mut names, || begun.unwrap_or_else(&mut new_id))
            }
        };
        operations.extend(todo.into_iter().map(|operation| (name.clone(), operation)));
        topics.insert(name.clone(), decided);
    }
    place(image, &mut operations);
    let status = DesiredStatusValue { v: FORMAT, generation: desired.generation, error: None, topics };
    Plan { status, operations }
}

fn answer(want: &DesiredTopic, state: AppliedState) -> AppliedTopic {
    AppliedTopic {
        uid: want.uid.clone(),
        resource: want.resource,
        state,
        id: None,
        partitions: 0,
        adopted: false,
        configs: BTreeSet::new(),
        error: None,
    }
}

fn refused(want: &DesiredTopic, error: String) -> AppliedTopic {
    AppliedTopic { error: Some(shortened(error, ERROR_LEN_MAX)), ..answer(want, AppliedState::Refused) }
}

/// Only the topic goes that the resource made or took over.
fn delete(want: &DesiredTopic, live: Option<&Topic>, memory: Option<&AppliedTopic>) -> (AppliedTopic, Vec<Operate>) {
    let own = memory.and_then(|memory| memory.id);
    match live.filter(|topic| own == Some(topic.value.id)) {
        Some(topic) => {
            let memory = memory.cloned().unwrap_or_else(|| answer(want, AppliedState::Pending));
            let pending = AppliedTopic { resource: want.resource, state: AppliedState::Pending, error: None, ..memory };
            (pending, vec![Operate::Delete { id: topic.value.id }])
        }
        None => (AppliedTopic { id: own, ..answer(want, AppliedState::Deleted) }, Vec::new()),
    }
}

fn create(
    name: &str,
    want: &DesiredTopic,
    names: &mut Names<'_>,
    id: impl FnOnce() -> TopicId,
) -> (AppliedTopic, Vec<Operate>) {
    if let Err(error) = check_name(name).and_then(|()| check_new(want)).and_then(|()| names.take(name)) {
        return (refused(want, error), Vec::new());
    }
    let id = id();
    let pending = AppliedTopic {
        id: Some(id),
        configs: want.configs.keys().cloned().collect(),
        ..answer(want, AppliedState::Pending)
    };
    let configs = want.configs.iter().map(|(name, value)| (name.clone(), value.trim().to_owned())).collect();
    (pending, vec![Operate::Create { id, partitions: want.partitions, configs, placement: Vec::new() }])
}

fn check_name(name: &str) -> Result<(), String> {
    topic_name::check(name)?;
    match name.starts_with(INTERNAL_PREFIX) {
        true => Err(format!(
            "names that begin with {INTERNAL_PREFIX} belong to the brokers; make a resource with another topicName"
        )),
        false => Ok(()),
    }
}

fn check_new(want: &DesiredTopic) -> Result<(), String> {
    check_partitions(want.partitions)?;
    topic_config::check_all(&want.configs).map_err(|error| format!("{error}; change the resource"))
}

fn check_partitions(partitions: i32) -> Result<(), String> {
    match partitions {
        1..=PARTITIONS_MAX => Ok(()),
        _ => Err(format!("a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}; change spec.partitions")),
    }
}

/// Makes a topic that is there what the resource says. What cannot be done is no reason to leave the rest.
fn follow(want: &DesiredTopic, topic: &Topic, memory: Option<&AppliedTopic>) -> (AppliedTopic, Vec<Operate>) {
    if let Err(error) = check_name(&topic.name) {
        return (refused(want, error), Vec::new());
    }
    let (id, has) = (topic.value.id, topic.value.partitions);
    let memory = memory.filter(|memory| memory.id == Some(id));
    let mut decided = AppliedTopic {
        id: Some(id),
        partitions: has,
        adopted: memory.is_none_or(|memory| memory.adopted),
        ..answer(want, AppliedState::Live)
    };
    let (mut todo, mut errors) = (Vec::new(), Vec::new());
    match check_partitions(want.partitions) {
        Err(error) => errors.push(error),
        Ok(()) if want.partitions > has => {
            todo.push(Operate::Grow { id, partitions: want.partitions, placement: Vec::new() });
        }
        Ok(()) if want.partitions < has => errors.push(format!(
            "the topic has {has} partitions and the resource says {}: partitions only grow; set spec.partitions to {has} or more",
            want.partitions
        )),
        Ok(()) => {}
    }
    let remembered = memory.map(|memory| memory.configs.clone()).unwrap_or_default();
    decided.configs = want.configs.keys().cloned().collect();
    match configure(want, &topic.value.configs, &remembered) {
        Ok(changes) if changes.is_empty() => {}
        Ok(changes) => {
            decided.configs.extend(remembered);
            todo.push(Operate::Configure { id, changes });
        }
        Err(error) => {
            decided.configs = remembered;
            errors.push(format!("{error}; change the resource"));
        }
    }
    if !errors.is_empty() {
        decided.error = Some(shortened(errors.join("; "), ERROR_LEN_MAX));
        decided.state = AppliedState::Refused;
    }
    if !todo.is_empty() {
        decided.state = AppliedState::Pending;
        decided.error = None;
    }
    (decided, todo)
}

/// What has to change, or why it cannot. Configs that the resource neither names nor named are not looked at.
fn configure(want: &DesiredTopic, stored: &Configs, remembered: &BTreeSet<String>) -> Result<Vec<Change>, String> {
    let set = want.configs.iter().filter(|(name, value)| stored.get(*name).map(String::as_str) != Some(value.trim()));
    let set = set.map(|(name, value)| Change {
        name: name.clone(),
        operation: Operation::Set,
        value: Some(value.trim().to_owned()),
    });
    let reset = remembered.iter().filter(|name| !want.configs.contains_key(*name) && stored.contains_key(*name));
    let reset = reset.map(|name| Change { name: name.clone(), operation: Operation::Delete, value: None });
    let changes: Vec<Change> = set.chain(reset).collect();
    if !changes.is_empty() {
        config_change::incremental(Owner::Topic, stored, &changes).map_err(|error| error.to_string())?;
    }
    Ok(changes)
}

/// Names that are taken. Folded once, and only if topics are made.
struct Names<'a> {
    image: &'a ClusterImage,
    folded: Option<BTreeMap<String, String>>,
}

impl Names<'_> {
    /// Takes a name, unless it cannot be told from another one.
    fn take(&mut self, name: &str) -> Result<(), String> {
        let fold = |name: &str| name.replace('.', "_");
        let taken = self.folded.get_or_insert_with(|| {
            self.image.topics().map(|topic| (fold(&topic.name), topic.name.to_string())).collect()
        });
        if let Some(other) = taken.get(&fold(name)).filter(|other| *other != name) {
            return Err(format!(
                "topic {name} collides with {other}: '.' and '_' count as the same; make a resource with another topicName"
            ));
        }
        taken.insert(fold(name), name.to_owned());
        Ok(())
    }
}

/// Spreads all new partitions together: each topic alone would go where there is least now.
fn place(image: &ClusterImage, operations: &mut [(String, Operate)]) {
    let new = |name: &str, operation: &Operate| match operation {
        Operate::Create { partitions, .. } => *partitions,
        Operate::Grow { partitions, .. } => partitions - image.topic(name).map_or(0, |topic| topic.value.partitions),
        Operate::Configure { .. } | Operate::Delete { .. } => 0,
    };
    let total = operations.iter().map(|(name, operation)| new(name, operation)).fold(0, i32::saturating_add);
    if total == 0 {
        return;
    }
    let mut nodes = placement::spread(image, total).into_iter();
    for (name, operation) in operations {
        let count = new(name, operation).max(0) as usize;
        if let Operate::Create { placement, .. } | Operate::Grow { placement, .. } = operation {
            *placement = nodes.by_ref().take(count).collect();
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
