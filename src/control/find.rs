//! Where the control plane of a broker is: `live/{writer}` says so.

use crate::ids::{BrokerId, WriterId};
use crate::metadata::keys::{Keys, ParsedKey};
use crate::metadata::model::{self, LiveValue};
use crate::metadata::{MetadataError, MetadataStore};
use std::collections::BTreeMap;

/// Why a broker's control plane was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// There is no such broker.
    #[error("no broker {wanted} is live in the cluster {namespace:?} (KAFSCALE_S3_NAMESPACE); live brokers: {}", list(.live))]
    NotLive {
        /// Whom was asked for.
        wanted: BrokerId,
        /// Where was looked.
        namespace: String,
        /// Who is there.
        live: Vec<BrokerId>,
    },
    /// It listens to nobody.
    #[error(
        "broker {0} has no control plane (KAFSCALE_CONTROL_ADDR is off, or its version has none); stop it with SIGTERM, which drains it too"
    )]
    NoControl(BrokerId),
}

fn list(brokers: &[BrokerId]) -> String {
    match brokers {
        [] => "none".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// What the live brokers of the cluster `namespace` say of themselves.
pub async fn live_brokers(
    store: &dyn MetadataStore,
    namespace: &str,
) -> Result<BTreeMap<BrokerId, LiveValue>, MetadataError> {
    let keys = Keys::new(namespace);
    let (entries, _) = store.get_prefix(&keys.lives()).await?;
    let mut lives: BTreeMap<WriterId, LiveValue> = BTreeMap::new();
    for entry in &entries {
        if let Some(ParsedKey::Live(writer)) = keys.parse(&entry.key) {
            lives.insert(writer, model::decode(entry)?);
        }
    }
    // Two processes of one broker can overlap: the newer one is in charge.
    Ok(lives.into_values().map(|live| (live.node, live)).collect())
}

/// host:port of the control plane of broker `wanted` in the cluster `namespace`.
pub async fn control_address(
    store: &dyn MetadataStore,
    namespace: &str,
    wanted: BrokerId,
) -> Result<String, FindError> {
    let brokers = live_brokers(store, namespace).await?;
    let Some(live) = brokers.get(&wanted) else {
        let (namespace, live) = (namespace.to_owned(), brokers.into_keys().collect());
        return Err(FindError::NotLive { wanted, namespace, live });
    };
    live.control.clone().ok_or(FindError::NoControl(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::embedded::EmbeddedStore;
    use crate::metadata::{Op, Txn};

    async fn store(lives: &[(u64, i32, Option<&str>)]) -> EmbeddedStore {
        let (store, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        for (writer, node, control) in lives {
            let live = LiveValue { control: control.map(str::to_owned), ..LiveValue::sample(*node) };
            let put = Op::Put(keys.live(WriterId(*writer)), model::encode(&live), None);
            store.txn(Txn { compares: Vec::new(), ops: vec![put] }).await.unwrap();
        }
        store
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_process_of_the_broker_is_asked() {
        let store = store(&[(7, 1, Some("a:1")), (9, 1, Some("b:1")), (8, 2, None)]).await;
        assert_eq!(control_address(&store, "test", BrokerId(1)).await.unwrap(), "b:1");
        let error = control_address(&store, "test", BrokerId(2)).await.unwrap_err();
        assert!(matches!(error, FindError::NoControl(BrokerId(2))), "{error}");
        let error = control_address(&store, "test", BrokerId(3)).await.unwrap_err();
        assert!(error.to_string().contains("live brokers: 1, 2"), "{error}");
        let error = control_address(&store, "other", BrokerId(1)).await.unwrap_err();
        assert!(error.to_string().contains("\"other\"") && error.to_string().ends_with("none"), "{error}");
    }
}
