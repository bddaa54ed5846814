//! Reading and writing the operator's document of topics and the brokers' answer, each by compare-and-swap.

use super::keys::Keys;
use super::model::FORMAT;
use super::model::desired::{self, DESIRED_BYTES_MAX, DesiredStatusValue, DesiredTopic, DesiredValue};
use super::{Compare, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome};
use crate::ids::FencingToken;
use std::collections::BTreeMap;

/// Attempts of one write that somebody else's write prevented.
const CONFLICT_ATTEMPTS_MAX: u32 = 20;

/// Topics by name, as the operator wants them.
pub type DesiredTopics = BTreeMap<String, DesiredTopic>;

/// What became of an attempt to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The document has this generation now.
    Written(u64),
    /// It said so already.
    Unchanged(u64),
    /// An operator that leads now has written with this token: whoever hears this leads no more.
    Superseded(FencingToken),
}

/// What is to be stored, given what is.
fn decide(
    before: Option<&DesiredValue>,
    token: FencingToken,
    topics: &DesiredTopics,
) -> Result<DesiredValue, Published> {
    match before {
        Some(before) if before.token > token => return Err(Published::Superseded(before.token)),
        // A new leader writes in any case: its token is what stops the former one.
        Some(before) if before.token == token && before.topics == *topics => {
            return Err(Published::Unchanged(before.generation));
        }
        _ => {}
    }
    let generation = before.map_or(0, |before| before.generation) + 1;
    Ok(DesiredValue { v: FORMAT, token, generation, topics: topics.clone() })
}

/// Writes the document unless it says so already or belongs to a later leader. After [`MetadataError::Unavailable`] it may have
/// been written; to publish again is harmless.
pub async fn publish(
    store: &dyn MetadataStore,
    keys: &Keys,
    token: FencingToken,
    topics: &DesiredTopics,
) -> Result<Published, MetadataError> {
    let key = keys.desired();
    for _ in 0..CONFLICT_ATTEMPTS_MAX {
        let (before, revision) = match store.get(&key).await? {
            Some(entry) => (Some(desired::unpack::<DesiredValue>(&entry)?), entry.mod_revision),
            None => (None, 0),
        };
        let value = match decide(before.as_ref(), token, topics) {
            Ok(value) => value,
            Err(nothing_written) => return Ok(nothing_written),
        };
        let packed = desired::pack(&value);
        if packed.len() > DESIRED_BYTES_MAX {
            let message =
                format!("the document of topics has {} bytes, the limit is {DESIRED_BYTES_MAX}", packed.len());
            return Err(MetadataError::Refused { message });
        }
        let compares = vec![Compare::ModRevision(key.clone(), revision)];
        match store.txn(Txn { compares, ops: vec![Op::Put(key.clone(), packed, None)] }).await? {
            TxnOutcome::Committed(_) => return Ok(Published::Written(value.generation)),
            TxnOutcome::Rejected(_) => {}
        }
    }
    let message = format!("key {key} changed {CONFLICT_ATTEMPTS_MAX} times while it was being written");
    Err(MetadataError::Unavailable { message })
}

/// The document and the revision that has it.
pub async fn read(store: &dyn MetadataStore, keys: &Keys) -> Result<Option<(DesiredValue, Revision)>, MetadataError> {
    let Some(entry) = store.get(&keys.desired()).await? else { return Ok(None) };
    Ok(Some((desired::unpack(&entry)?, entry.mod_revision)))
}

/// The answer and the revision that has it; nothing and 0 if there is none yet.
pub async fn read_status(
    store: &dyn MetadataStore,
    keys: &Keys,
) -> Result<(DesiredStatusValue, Revision), MetadataError> {
    let Some(entry) = store.get(&keys.desired_status()).await? else { return Ok(Default::default()) };
    Ok((desired::unpack(&entry)?, entry.mod_revision))
}

/// Writes the answer if `revision` still has the former one. Returns the revision that has it, or `None` if it changed.
pub async fn write_status(
    store: &dyn MetadataStore,
    keys: &Keys,
    status: &DesiredStatusValue,
    revision: Revision,
) -> Result<Option<Revision>, MetadataError> {
    let key = keys.desired_status();
    let Some(packed) = desired::pack_status(status) else {
        let limit = desired::DESIRED_STATUS_BYTES_MAX;
        let message =
            format!("what became of the topics takes more than {limit} bytes; describe fewer topics by resources");
        return Err(MetadataError::Refused { message });
    };
    let compares = vec![Compare::ModRevision(key.clone(), revision)];
    Ok(match store.txn(Txn { compares, ops: vec![Op::Put(key, packed, None)] }).await? {
        TxnOutcome::Committed(revision) => Some(revision),
        TxnOutcome::Rejected(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::embedded::EmbeddedStore;

    const OLD: FencingToken = FencingToken(1);
    const NEW: FencingToken = FencingToken(2);

    fn topics(partitions: i32) -> DesiredTopics {
        let topic = DesiredTopic { uid: "u".into(), resource: 1, partitions, configs: BTreeMap::new(), deletion: None };
        [("a".to_owned(), topic)].into()
    }

    #[tokio::test]
    async fn a_former_leader_overwrites_nothing_and_the_same_is_not_written_twice() {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let publish = async |token, partitions| publish(&store, &keys, token, &topics(partitions)).await.unwrap();
        assert_eq!(publish(OLD, 1).await, Published::Written(1));
        assert_eq!(publish(OLD, 1).await, Published::Unchanged(1));
        assert_eq!(publish(OLD, 2).await, Published::Written(2));
        // The new leader has nothing to change, and says that it leads nevertheless.
        assert_eq!(publish(NEW, 2).await, Published::Written(3));
        assert_eq!(publish(OLD, 3).await, Published::Superseded(NEW));
        assert_eq!(publish(OLD, 2).await, Published::Superseded(NEW), "not even what is there");
        let (value, _) = read(&store, &keys).await.unwrap().unwrap();
        assert_eq!((value.token, value.generation, value.topics), (NEW, 3, topics(2)));
    }

    #[tokio::test]
    async fn what_an_operator_of_a_later_version_wrote_is_left_alone() {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let put = Op::Put(keys.desired(), br#"{"v":2}"#[..].into(), None);
        store.txn(Txn { compares: vec![], ops: vec![put] }).await.unwrap();
        let refused = publish(&store, &keys, NEW, &topics(1)).await.unwrap_err();
        assert!(
            matches!(&refused, MetadataError::Malformed { message, .. } if message.contains("upgrade")),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn of_two_answers_to_the_same_one_is_written() {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let (status, revision) = read_status(&store, &keys).await.unwrap();
        assert_eq!(revision, 0);
        let first = DesiredStatusValue { generation: 5, ..status.clone() };
        let written = write_status(&store, &keys, &first, revision).await.unwrap().expect("nobody else wrote");
        assert_eq!(write_status(&store, &keys, &status, revision).await.unwrap(), None);
        assert_eq!(read_status(&store, &keys).await.unwrap(), (first, written));
    }
}
