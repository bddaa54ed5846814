//! A writer's registration: a small object that says to whom a writer id was given.
//!
//! Ids come from a counter in the metadata store. One that was restored from a backup would give ids away again; the
//! conditional create of this object is what notices. It is written once, before the writer is registered, and a LIST that
//! begins at the counter finds those that the metadata store has forgotten.

use super::{ObjectKey, Payload, StoreError};
use crate::ids::{BrokerId, WriterId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The format this version writes and the newest it reads.
const FORMAT: u32 = 1;
/// More bytes than a registration has.
pub const REGISTERED_LEN_MAX: u64 = 1_024;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Format number.
    v: u32,
    /// The cluster.
    pub cluster_id: String,
    /// Who got the id.
    pub node: BrokerId,
    /// The id.
    pub writer: WriterId,
    /// The writer's nonce, 16 hex digits.
    nonce: String,
}

impl Registered {
    /// A registration of `writer`.
    pub fn new(cluster_id: &str, node: BrokerId, writer: WriterId, nonce: u64) -> Self {
        let (cluster_id, nonce) = (cluster_id.to_owned(), format!("{nonce:016x}"));
        Self { v: FORMAT, cluster_id, node, writer, nonce }
    }

    /// The writer's nonce.
    pub fn nonce(&self) -> Option<u64> {
        u64::from_str_radix(&self.nonce, 16).ok()
    }

    /// The object's payload.
    pub fn encode(&self) -> Payload {
        let bytes = serde_json::to_vec(self).expect("a registration always serializes");
        Payload::new(vec![Bytes::from(bytes)], self.nonce().unwrap_or_default())
    }

    /// Reads the object `key`.
    pub fn decode(key: &ObjectKey, bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |message: String| StoreError::Corrupt { key: key.clone(), message };
        let registered: Self = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
        if registered.v == 0 || registered.v > FORMAT || registered.nonce().is_none() {
            return Err(corrupt("a newer release wrote it".to_owned()));
        }
        Ok(registered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_it_was() {
        let registered = Registered::new("AAAA", BrokerId(3), WriterId(7), 0xab);
        let bytes = registered.encode().chunks[0].clone();
        let golden = r#"{"v":1,"cluster_id":"AAAA","node":3,"writer":7,"nonce":"00000000000000ab"}"#;
        assert_eq!(bytes, golden);
        let key = ObjectKey::new("ns/writers/7");
        assert_eq!(Registered::decode(&key, &bytes).unwrap(), registered);
        assert_eq!(registered.nonce(), Some(0xab));
        for foreign in ["", "{}", &golden.replace(r#""v":1"#, r#""v":2"#), &golden.replace("00ab", "00xx")] {
            assert!(Registered::decode(&key, foreign.as_bytes()).is_err(), "{foreign}");
        }
    }
}
