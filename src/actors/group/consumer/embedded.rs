//! What consumers of the classic protocol write into their metadata and assignments, and what they expect there.
//!
//! Some clients write versions that do not fit their fields: everything after the topics may be missing.

use super::types::Topics;
use super::value::Assignment;
use crate::ids::PartitionIndex;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeSet;

/// The highest version that assignments are written in.
const VERSION_MAX: i16 = 3;

/// A consumer's subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Version of its format.
    pub version: i16,
    /// Topics.
    pub topics: BTreeSet<String>,
    /// Partitions it says that it owns: names of topics with partitions.
    pub owned: Vec<(String, Vec<i32>)>,
    /// The generation in which it got them, if it says so.
    pub generation: Option<i32>,
    /// Rack.
    pub rack: Option<String>,
}

/// Reads the metadata of a protocol of a consumer; `None` if it has no topics.
pub fn subscription(metadata: &[u8]) -> Option<Subscription> {
    let mut rest = metadata;
    let version = number16(&mut rest)?;
    let count = counted(&mut rest, 2)?;
    let topics = (0..count).map(|_| text(&mut rest)).collect::<Option<BTreeSet<String>>>()?;
    let mut subscription = Subscription { version, topics, ..Subscription::default() };
    if blob(&mut rest).is_none() || version < 1 {
        return Some(subscription);
    }
    if let Some(owned) = partitions_by_topic(&mut rest) {
        subscription.owned = owned;
        // Version 2 has a generation, version 3 a rack.
        subscription.generation = if version >= 2 { number32(&mut rest) } else { None };
        if version >= 3 && subscription.generation.is_some() {
            subscription.rack = text(&mut rest);
        }
    }
    Some(subscription)
}

/// Reads an assignment; `None` if it is malformed. Nothing at all is an empty one.
pub fn assignment(bytes: &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = bytes;
    number16(&mut rest)?;
    partitions_by_topic(&mut rest)
}

/// Writes an assignment for a member whose subscription has this version. Topics that do not exist any more are left out.
pub fn encode_assignment(version: i16, assignment: &Assignment, topics: &dyn Topics) -> Bytes {
    let named: Vec<_> = assignment.iter().filter_map(|(id, p)| Some((topics.by_id(*id)?.0, p))).collect();
    let mut bytes = BytesMut::new();
    bytes.put_i16(version.clamp(0, VERSION_MAX));
    bytes.put_i32(named.len() as i32);
    for (name, partitions) in named {
        bytes.put_i16(name.len() as i16);
        bytes.put_slice(name.as_bytes());
        bytes.put_i32(partitions.len() as i32);
        partitions.iter().for_each(|p| bytes.put_i32(p.0));
    }
    bytes.put_i32(-1); // no user data
    bytes.freeze()
}

/// Partitions of topics that exist, by their ids.
pub fn by_id(named: &[(String, Vec<i32>)], topics: &dyn Topics) -> Assignment {
    let mut assignment = Assignment::new();
    for (name, partitions) in named {
        let Some((id, count)) = topics.find(name) else { continue };
        let existing = partitions.iter().filter(|p| (0..count).contains(*p)).map(|p| PartitionIndex(*p));
        let existing: BTreeSet<PartitionIndex> = existing.collect();
        if !existing.is_empty() {
            assignment.entry(id).or_default().extend(existing);
        }
    }
    assignment
}

fn partitions_by_topic(rest: &mut &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    let topics = counted(rest, 6)?;
    let one = |_| {
        let name = text(rest)?;
        let count = counted(rest, 4)?;
        let partitions = (0..count).map(|_| number32(rest)).collect::<Option<Vec<i32>>>()?;
        Some((name, partitions))
    };
    (0..topics).map(one).collect()
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

fn number16(rest: &mut &[u8]) -> Option<i16> {
    Some(i16::from_be_bytes(take(rest, 2)?.try_into().ok()?))
}

fn number32(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

/// Number of elements, each of which has at least `len_min` bytes.
fn counted(rest: &mut &[u8], len_min: usize) -> Option<usize> {
    let count = usize::try_from(number32(rest)?).ok()?;
    (count <= rest.len() / len_min).then_some(count)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(number16(rest)?).ok()?;
    std::str::from_utf8(take(rest, len)?).ok().map(str::to_owned)
}

/// Bytes that may be null.
fn blob<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    match number32(rest)? {
        -1 => Some(&[]),
        len => take(rest, usize::try_from(len).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &[u8] =
        b"\0\x03\0\0\0\x02\0\x01a\0\x01b\0\0\0\x01x\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\0\0\x07\0\x02r1";

    #[test]
    fn a_subscription_is_read_as_far_as_it_is_there() {
        let full = subscription(FULL).unwrap();
        assert_eq!(full.topics, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!((full.version, full.generation, full.rack.as_deref()), (3, Some(7), Some("r1")));
        assert_eq!(full.owned, [("a".to_owned(), vec![1, 2])]);
        for len in 0..FULL.len() {
            match subscription(&FULL[..len]) {
                None => assert!(len < 12, "cut to {len}"),
                Some(cut) => assert!(len >= 12 && cut.topics.len() == 2 && cut.rack.is_none(), "cut to {len}"),
            }
        }
        // Version 0 has no owned partitions, whatever follows.
        let old = [b"\0\0", &FULL[2..]].concat();
        assert_eq!(subscription(&old).unwrap().owned, []);
        assert_eq!(subscription(b"\0\x01\x7f\xff\xff\xff"), None, "a count that does not fit");
    }

    #[test]
    fn assignments_are_read() {
        assert_eq!(assignment(b""), Some(vec![]));
        let bytes = b"\0\x01\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\x03\0\0\0\x04\xff\xff\xff\xff";
        assert_eq!(assignment(bytes), Some(vec![("a".to_owned(), vec![3, 4])]));
        for len in 1..20 {
            assert_eq!(assignment(&bytes[..len]), None, "cut to {len}");
        }
    }
}
