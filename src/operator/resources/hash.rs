//! Fingerprints of what is wanted. Only what this operator writes is ever compared, never what is there: others may
//! change objects on their way (admission), which is not ours to fight.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Hexadecimal digits of a fingerprint.
const DIGITS: usize = 16;

/// Fingerprint of a value. Maps are in the order of their keys.
pub fn of(value: &Value) -> String {
    digest(&[value.to_string().as_bytes()])
}

/// Fingerprint of what secrets hold; `salt` keeps the same secret of two clusters from having one.
pub fn of_secrets(salt: &str, secrets: &BTreeMap<String, BTreeMap<String, Vec<u8>>>) -> String {
    let mut parts: Vec<&[u8]> = vec![salt.as_bytes()];
    for (name, data) in secrets {
        parts.push(name.as_bytes());
        for (key, value) in data {
            parts.extend([key.as_bytes(), value.as_slice()]);
        }
    }
    digest(&parts)
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_part_ends_matters_and_so_does_the_salt() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        let secrets = BTreeMap::from([("s3".to_owned(), BTreeMap::from([("k".to_owned(), b"v".to_vec())]))]);
        assert_ne!(of_secrets("one", &secrets), of_secrets("two", &secrets));
        assert_eq!(of_secrets("one", &secrets).len(), DIGITS);
    }
}
