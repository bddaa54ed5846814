//! Where to go on: the position of each partition, as text that fits into an address.

use super::lane::Direction;
use std::collections::BTreeMap;

/// Partitions of a cursor.
pub const PARTITIONS_MAX: usize = 256;

/// Writes a cursor.
pub fn encode(direction: Direction, positions: impl Iterator<Item = (i32, i64)>) -> String {
    let mut text = String::from(if direction == Direction::Up { "u" } else { "d" });
    for (partition, position) in positions {
        text.push_str(&format!("{partition}.{position}_"));
    }
    text
}

/// Reads one; `None` if it is none.
pub fn decode(text: &str) -> Option<(Direction, BTreeMap<i32, i64>)> {
    let direction = match text.as_bytes().first()? {
        b'u' => Direction::Up,
        b'd' => Direction::Down,
        _ => return None,
    };
    let mut positions = BTreeMap::new();
    for part in text[1..].split_terminator('_') {
        let (partition, position) = part.split_once('.')?;
        let (partition, position): (i32, i64) = (partition.parse().ok()?, position.parse().ok()?);
        if partition < 0 || position < 0 || positions.len() >= PARTITIONS_MAX {
            return None;
        }
        positions.insert(partition, position);
    }
    Some((direction, positions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_come_back(up: bool, positions in prop::collection::btree_map(0..i32::MAX, 0..i64::MAX, 0..20)) {
            let direction = if up { Direction::Up } else { Direction::Down };
            let text = encode(direction, positions.iter().map(|(p, o)| (*p, *o)));
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b)));
            prop_assert_eq!(decode(&text), Some((direction, positions)));
        }

        #[test]
        fn hostile_cursors_are_refused(text in "[ud]?[0-9._-]{0,40}|\\PC{0,20}") {
            decode(&text);
        }
    }
}
