//! Pages of long lists by the place where the last one ended, so that a list that changes in between neither skips nor
//! repeats what stays.

use super::problem::Problem;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::sync::Arc;

/// Longest cursor that is looked at, bytes.
const CURSOR_BYTES_MAX: usize = 4_096;

/// What an item is sorted by: a number first, then its name.
pub type Key = (i64, Arc<str>);

/// Which end of the list is first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The smallest.
    #[default]
    Asc,
    /// The largest.
    Desc,
}

/// The page of `keys` behind `cursor`, in order, and the cursor of the next one.
pub fn page(
    mut keys: Vec<Key>,
    order: Order,
    cursor: Option<&str>,
    limit: usize,
) -> Result<(Vec<Key>, Option<String>), Problem> {
    if let Some(cursor) = cursor {
        let last = parse(cursor)?;
        let last = (last.0, &*last.1);
        keys.retain(|(number, name)| match order {
            Order::Asc => (*number, &**name) > last,
            Order::Desc => (*number, &**name) < last,
        });
    }
    let compare = |a: &Key, b: &Key| match order {
        Order::Asc => a.cmp(b),
        Order::Desc => b.cmp(a),
    };
    let has_more = keys.len() > limit;
    if has_more {
        // Only the page itself is sorted.
        keys.select_nth_unstable_by(limit, compare);
        keys.truncate(limit);
    }
    keys.sort_unstable_by(compare);
    let next = keys.last().filter(|_| has_more).map(cursor_of);
    Ok((keys, next))
}

fn cursor_of((number, name): &Key) -> String {
    URL_SAFE_NO_PAD.encode(format!("{number}:{name}"))
}

fn parse(cursor: &str) -> Result<(i64, String), Problem> {
    let wrong = || Problem::invalid("this cursor is not of this list: begin without one");
    if cursor.len() > CURSOR_BYTES_MAX {
        return Err(wrong());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (number, name) = text.split_once(':').ok_or_else(wrong)?;
    Ok((number.parse().map_err(|_| wrong())?, name.to_owned()))
}

/// What is looked for, prepared once for many names.
#[derive(Debug)]
pub struct Needle(Vec<u8>);

impl Needle {
    /// Looks for this text, whatever the case of its ASCII letters.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_ascii_lowercase().into_bytes())
    }

    /// True if it is in `name`; what is empty is in every name.
    pub fn is_in(&self, name: &str) -> bool {
        let Some(first) = self.0.first() else { return true };
        let name = name.as_bytes();
        name.len() >= self.0.len()
            && name
                .windows(self.0.len())
                .any(|part| part[0].to_ascii_lowercase() == *first && part.eq_ignore_ascii_case(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Pages put together are the whole list in order, once.
        #[test]
        fn pages_are_the_list(
            items in proptest::collection::btree_set((-3i64..3, "[a-z:é]{0,3}"), 0..40),
            limit in 1usize..7,
            is_desc: bool,
        ) {
            let keys: Vec<Key> = items.iter().map(|(n, name)| (*n, name.as_str().into())).collect();
            let order = if is_desc { Order::Desc } else { Order::Asc };
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let (some, next) = page(keys.clone(), order, cursor.as_deref(), limit).unwrap();
                prop_assert!(some.len() <= limit);
                found.extend(some);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            let mut expected = keys;
            expected.sort();
            if is_desc {
                expected.reverse();
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn text_is_found_whatever_its_case() {
        let needle = Needle::new(" OrD ");
        assert!(needle.is_in("my-Orders") && !needle.is_in("or") && Needle::new("").is_in(""));
        assert!(Needle::new("é").is_in("café"));
    }

    #[test]
    fn a_strange_cursor_is_refused() {
        for cursor in ["", "%%", "YWJj", &"a".repeat(CURSOR_BYTES_MAX + 1)] {
            assert_eq!(page(Vec::new(), Order::Asc, Some(cursor), 1).unwrap_err().code, "invalid");
        }
    }
}
