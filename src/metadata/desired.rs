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

/// Who writes the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A leadership that has not written this document yet, with its token in the election. Elections forget (another place for them, a
    /// Lease that was deleted, an etcd that was replaced), so a token of theirs may be lower than what is stored: the
    /// first write takes a greater one than that.
    Beginning(FencingToken),
    /// One that has, with the token of its first write.
    Writing(FencingToken),
}

/// What became of an attempt to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is written.
    Written {
        /// What the document has now.
        generation: u64,
        /// The token of this leadership from now on.
        token: FencingToken,
    },
    /// It said so already.
    Unchanged(u64),
    /// Another operator has written with this token.
    Superseded(FencingToken),
    /// This operator leads no more.
    NotLeading,
}

/// What is to be stored, given what is.
fn decide(before: Option<&DesiredValue>, writer: Writer, topics: &DesiredTopics) -> Result<DesiredValue, Published> {
    let token = match (writer, before) {
        // A new leader writes in any case: its token is what stops the former one.
        (Writer::Beginning(token), Some(before)) => {
            let next = before.token.0.checked_add(1).ok_or(Published::Superseded(before.token))?;
            FencingToken(token.0.max(next))
        }
        (Writer::Beginning(token), None) | (Writer::Writing(token), None) => token,
        (Writer::Writing(token), Some(before)) if before.token > token => {
            return Err(Published::Superseded(before.token));
        }
        (Writer::Writing(token), Some(before)) if before.token == token && before.topics == *topics => {
            return Err(Published::Unchanged(before.generation));
        }
        (Writer::Writing(token), Some(_)) => token,
    };
    let generation = before.map_or(0, |before| before.generation) + 1;
    Ok(DesiredValue { v: FORMAT, token, generation, topics: topics.clone() })
}

/// Writes the document unless it says so already or belongs to another leader. `leads` is asked between the read and the write: who
/// has been replaced then wrote nothing that the successor has not read, or fails because the successor has written.
/// After [`MetadataError::Unavailable`] it may have been written; to publish again is harmless.
pub async fn publish(
    store: &dyn MetadataStore,
    keys: &Keys,
    writer: Writer,
    topics: &DesiredTopics,
    leads: impl Fn() -> bool,
) -> Result<Published, MetadataError> {
    let key = keys.desired();
    for _ in 0..CONFLICT_ATTEMPTS_MAX {
        let (before, revision) = match store.get(&key).await? {
            Some(entry) => (Some(desired::unpack::<DesiredValue>(&entry)?), entry.mod_revision),
            None => (None, 0),
        };
        let value = match decide(before.as_ref(), writer, topics) {
            Ok(value) => value,
            Err(nothing_written) => return Ok(nothing_written),
        };
        let packed = desired::pack(&value);
        if packed.len() > DESIRED_BYTES_MAX {
            let message =
                format!("the document of topics has {} bytes, the limit is {DESIRED_BYTES_MAX}", packed.len());
            return Err(MetadataError::Refused { message });
        }
        if !leads() {
            return Ok(Published::NotLeading);
        }
        let compares = vec![Compare::ModRevision(key.clone(), revision)];
        match store.txn(Txn { compares, ops: vec![Op::Put(key.clone(), packed, None)] }).await? {
            TxnOutcome::Committed(_) => {
                return Ok(Published::Written { generation: value.generation, token: value.token });
            }
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

    fn written(generation: u64, token: FencingToken) -> Published {
        Published::Written { generation, token }
    }

    #[tokio::test]
    async fn a_former_leader_overwrites_nothing_and_the_same_is_not_written_twice() {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let publish =
            async |writer, partitions| publish(&store, &keys, writer, &topics(partitions), || true).await.unwrap();
        assert_eq!(publish(Writer::Beginning(OLD), 1).await, written(1, OLD));
        assert_eq!(publish(Writer::Writing(OLD), 1).await, Published::Unchanged(1));
        assert_eq!(publish(Writer::Writing(OLD), 2).await, written(2, OLD));
        // The new leader has nothing to change, and says that it leads nevertheless.
        assert_eq!(publish(Writer::Beginning(NEW), 2).await, written(3, NEW));
        assert_eq!(publish(Writer::Writing(OLD), 3).await, Published::Superseded(NEW));
        assert_eq!(publish(Writer::Writing(OLD), 2).await, Published::Superseded(NEW), "not even what is there");
        let (value, _) = read(&store, &keys).await.unwrap().unwrap();
        assert_eq!((value.token, value.generation, value.topics), (NEW, 3, topics(2)));
    }

    #[test]
    fn who_begins_takes_a_greater_token_than_any_that_was_written() {
        let stored = |token| DesiredValue { v: FORMAT, token: FencingToken(token), generation: 4, topics: topics(1) };
        let table = [
            ("the first document", None, 7, Some(7)),
            ("the next leader of the same election", Some(6), 7, Some(7)),
            ("a greater gap", Some(6), 900, Some(900)),
            ("an election that has forgotten", Some(900), 1, Some(901)),
            ("two elections that count alike", Some(7), 7, Some(8)),
            ("nothing is greater", Some(u64::MAX), 7, None),
        ];
        for (name, before, own, expected) in table {
            let before = before.map(stored);
            let decided = decide(before.as_ref(), Writer::Beginning(FencingToken(own)), &topics(1));
            let token = decided.as_ref().ok().map(|value| value.token.0);
            assert_eq!(token, expected, "{name}");
            // What it took counts against everybody who has written before.
            if let (Ok(value), Some(before)) = (&decided, &before) {
                assert_eq!(value.generation, 5, "{name}");
                let former = decide(Some(value), Writer::Writing(before.token), &topics(2));
                assert_eq!(former, Err(Published::Superseded(value.token)), "{name}");
            }
        }
    }

    /// A leader that sleeps between any two of its steps while another one begins: whoever has begun last has the document.
    #[tokio::test]
    async fn who_was_replaced_before_its_first_write_writes_nothing() {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let first = publish(&store, &keys, Writer::Beginning(NEW), &topics(1), || true).await.unwrap();
        assert_eq!(first, written(1, NEW));
        let late = publish(&store, &keys, Writer::Beginning(OLD), &topics(9), || false).await.unwrap();
        assert_eq!(late, Published::NotLeading);
        // It was asked and said yes, and then another one wrote before it could.
        let successor = std::sync::Mutex::new(Some(()));
        let leads = || {
            let Some(()) = successor.lock().unwrap().take() else { return false };
            let theirs = topics(2);
            let next = publish(&store, &keys, Writer::Beginning(OLD), &theirs, || true);
            assert_eq!(futures::executor::block_on(next).unwrap(), written(2, FencingToken(3)));
            true
        };
        let late = publish(&store, &keys, Writer::Beginning(OLD), &topics(9), leads).await.unwrap();
        assert_eq!(late, Published::NotLeading);
        let (value, _) = read(&store, &keys).await.unwrap().unwrap();
        assert_eq!((value.token, value.topics), (FencingToken(3), topics(2)));
    }

    #[tokio::test]
    async fn what_an_operator_of_a_later_version_wrote_is_left_alone() {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let put = Op::Put(keys.desired(), br#"{"v":2}"#[..].into(), None);
        store.txn(Txn { compares: vec![], ops: vec![put] }).await.unwrap();
        let refused = publish(&store, &keys, Writer::Beginning(NEW), &topics(1), || true).await.unwrap_err();
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
