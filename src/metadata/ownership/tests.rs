use super::*;
use crate::metadata::embedded::EmbeddedStore;

/// Whether it says that a slot is committed is all that a writer has to decide by whether it acks the slot.
#[tokio::test]
async fn a_sealed_head_tells_what_was_committed_and_one_that_recovery_wrote_does_not() {
    let (store, keys) = (Arc::new(EmbeddedStore::in_memory()), Keys::new("test"));
    let ownership = Ownership::new(store.clone(), keys.clone());
    let (writer, nonce) = (WriterId(4), 17);
    let live = LiveValue::sample(1);
    let registration = ownership.register(writer, nonce, &live, Duration::from_secs(60)).await.unwrap();
    let wanted = WriterValue { head: Seq(3), ..registration.value.clone() };
    let sealed = |state, head, nonce| WriterValue { state, head: Seq(head), nonce, ..wanted.clone() };
    let cases = [
        (sealed(WriterState::Fenced, 5, nonce), 5),
        (sealed(WriterState::Fenced, 2, nonce), 2),
        (sealed(WriterState::Closed, 5, nonce), 0),
        (sealed(WriterState::Fenced, 5, 99), 0),
    ];
    for (n, (value, expected)) in cases.into_iter().enumerate() {
        let put = Op::Put(keys.writer(writer), model::encode(&value), None);
        store.txn(Txn { compares: Vec::new(), ops: vec![put, Op::Delete(keys.fence(writer))] }).await.unwrap();
        let resolved = ownership.resolve_commit(&registration, &wanted).await;
        let Err(OwnershipError::Fenced { head, .. }) = resolved else { panic!("case {n}: {resolved:?}") };
        assert_eq!(head, Seq(expected), "case {n}");
        let Err(OwnershipError::Fenced { head, .. }) = ownership.check_fence(&registration).await else {
            panic!("case {n}: it is fenced");
        };
        assert_eq!(head, Seq(expected), "case {n}");
    }
}
