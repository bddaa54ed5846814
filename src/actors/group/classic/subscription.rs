//! The topics of a consumer's subscription. Everything else in a member's metadata is opaque, and even this may be
//! malformed: some clients write versions that do not fit their fields.

use std::collections::BTreeSet;

/// Protocol type of consumers.
pub const CONSUMER: &str = "consumer";

/// Topics of the subscription in `metadata`: a version, then an array of strings. `None` if it is not one.
pub fn topics(metadata: &[u8]) -> Option<Vec<&str>> {
    let mut rest = metadata.get(2..)?;
    let count = i32::from_be_bytes(take(&mut rest, 4)?.try_into().ok()?);
    let count = usize::try_from(count).ok().filter(|count| *count <= rest.len() / 2)?;
    (0..count)
        .map(|_| {
            let len = i16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
            std::str::from_utf8(take(&mut rest, usize::try_from(len).ok()?)?).ok()
        })
        .collect()
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

/// Topics of all subscriptions; `None` as soon as one cannot be read.
pub fn union<'a>(metadata: impl Iterator<Item = &'a [u8]>) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for one in metadata {
        all.extend(topics(one)?.into_iter().map(str::to_owned));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_found_and_nonsense_is_not() {
        let good = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff";
        assert_eq!(topics(good), Some(vec!["a", "bc"]));
        for len in 0..13 {
            assert_eq!(topics(&good[..len]), None, "cut to {len}");
        }
        assert_eq!(topics(b"\0\0\x7f\xff\xff\xff"), None);
        assert_eq!(topics(b"\0\0\xff\xff\xff\xff"), None);
        assert_eq!(topics(b"\0\0\0\0\0\x01\xff\xff"), None);
        assert_eq!(union([&good[..], b"\0\0\0\0\0\0"].into_iter()).unwrap().len(), 2);
        assert_eq!(union([&good[..], b"x"].into_iter()), None);
    }
}
