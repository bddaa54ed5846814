//! The only place that formats an object key or takes one apart.
//!
//! | key | what |
//! | --- | --- |
//! | `{ns}/cluster` | identity of the cluster that owns the prefix |
//! | `{ns}/wal/{h}/{writer:016x}-{nonce:016x}/{seq:016x}.kfs` | L0: one flush, many partitions |
//! | `{ns}/merged/{h}/{writer:016x}/{from:016x}-{to:016x}-{ulid}.kfs` | L1: a range of L0 merged, sorted by partition |
//! | `{ns}/topics/{topic_id}/{partition}/{base:020}-{next:020}-{ulid}.kfs` | L2: one partition |
//! | `{ns}/checkpoints/{writer:016x}-{nonce:016x}/{seq:016x}-{ulid}.ckpt` | a writer's checkpoint |
//! | `{ns}/writers/{writer:016x}` | says that the writer id was given away, [`super::registered`] |
//! | `{ns}/probe/{ulid}` | start-up probe, deleted at once |
//!
//! `{h}` is two hex digits that spread prefixes over the store's partitions.

use super::ObjectKey;
use crate::ids::{Offset, PartitionIndex, PartitionKey, Seq, TopicId, WriterId};
use ulid::Ulid;

/// A key taken apart by [`Layout::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedKey {
    /// The cluster's identity.
    Cluster,
    /// A WAL object.
    Wal {
        /// Who wrote it.
        writer: WriterId,
        /// The writer's nonce.
        nonce: u64,
        /// Its slot.
        seq: Seq,
    },
    /// A merged object.
    Merged {
        /// Who wrote it.
        writer: WriterId,
        /// First slot that may be in it.
        from: Seq,
        /// Last slot that may be in it.
        to: Seq,
        /// Makes the key unique.
        ulid: Ulid,
    },
    /// A partition's own segment. The key does not say who wrote it.
    Segment {
        /// The partition.
        key: PartitionKey,
        /// First offset.
        base: Offset,
        /// First offset after it.
        next: Offset,
        /// Makes the key unique.
        ulid: Ulid,
    },
    /// A checkpoint.
    Checkpoint {
        /// Who wrote it.
        writer: WriterId,
        /// The writer's nonce.
        nonce: u64,
        /// Last slot that it covers.
        seq: Seq,
        /// Makes the key unique.
        ulid: Ulid,
    },
    /// A writer's registration.
    Registered(WriterId),
    /// A start-up probe.
    Probe(Ulid),
}

/// Formats keys below one namespace (`KAFSCALE_S3_NAMESPACE`).
#[derive(Debug, Clone)]
pub struct Layout {
    namespace: String,
}

impl Layout {
    /// Keys below `namespace`, which must be a valid key part (checked by the configuration).
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into() }
    }

    /// Prefix of everything that belongs to the cluster, with the trailing slash.
    pub fn root(&self) -> String {
        format!("{}/", self.namespace)
    }

    /// The cluster's identity object.
    pub fn cluster(&self) -> ObjectKey {
        ObjectKey::new(format!("{}/cluster", self.namespace))
    }

    /// A WAL object.
    pub fn wal(&self, writer: WriterId, nonce: u64, seq: Seq) -> ObjectKey {
        let ns = &self.namespace;
        let (writer, nonce) = crate::sabotage::slot_owner(writer, nonce);
        let h = spread(writer.0 ^ seq.0.rotate_left(17));
        ObjectKey::new(format!("{ns}/wal/{h:02x}/{:016x}-{nonce:016x}/{:016x}.kfs", writer.0, seq.0))
    }

    /// A merged (L1) object that replaces the WAL range `from..=to` of `writer`.
    pub fn merged(&self, writer: WriterId, from: Seq, to: Seq, ulid: Ulid) -> ObjectKey {
        let ns = &self.namespace;
        let h = spread(writer.0 ^ to.0.rotate_left(17));
        ObjectKey::new(format!("{ns}/merged/{h:02x}/{:016x}/{:016x}-{:016x}-{ulid}.kfs", writer.0, from.0, to.0))
    }

    /// A partition's own (L2) segment with offsets `base..next`.
    pub fn segment(&self, key: &PartitionKey, base: Offset, next: Offset, ulid: Ulid) -> ObjectKey {
        let ns = &self.namespace;
        ObjectKey::new(format!("{ns}/topics/{}/{}/{:020}-{:020}-{ulid}.kfs", key.topic, key.partition, base.0, next.0))
    }

    /// A writer's checkpoint that covers the WAL up to `seq`.
    pub fn checkpoint(&self, writer: WriterId, nonce: u64, seq: Seq, ulid: Ulid) -> ObjectKey {
        let ns = &self.namespace;
        ObjectKey::new(format!("{ns}/checkpoints/{:016x}-{nonce:016x}/{:016x}-{ulid}.ckpt", writer.0, seq.0))
    }

    /// Prefix of all checkpoints.
    pub fn checkpoints(&self) -> String {
        format!("{}/checkpoints/", self.namespace)
    }

    /// A writer's registration: written before the writer exists, so that its id is never given away twice.
    pub fn registered(&self, writer: WriterId) -> ObjectKey {
        ObjectKey::new(format!("{}/writers/{:016x}", self.namespace, writer.0))
    }

    /// Prefix of all registrations.
    pub fn all_registered(&self) -> String {
        format!("{}/writers/", self.namespace)
    }

    /// A start-up probe object.
    pub fn probe(&self, ulid: Ulid) -> ObjectKey {
        ObjectKey::new(format!("{}/probe/{ulid}", self.namespace))
    }

    /// What `key` is, or `None` if it is not *exactly* what one of the functions above formats: a key that differs in
    /// anything is not ours.
    pub fn parse(&self, key: &ObjectKey) -> Option<ParsedKey> {
        let parsed = self.take_apart(key.as_str())?;
        (self.format(&parsed) == *key).then_some(parsed)
    }

    fn format(&self, parsed: &ParsedKey) -> ObjectKey {
        match parsed {
            ParsedKey::Cluster => self.cluster(),
            ParsedKey::Wal { writer, nonce, seq } => self.wal(*writer, *nonce, *seq),
            ParsedKey::Merged { writer, from, to, ulid } => self.merged(*writer, *from, *to, *ulid),
            ParsedKey::Segment { key, base, next, ulid } => self.segment(key, *base, *next, *ulid),
            ParsedKey::Checkpoint { writer, nonce, seq, ulid } => self.checkpoint(*writer, *nonce, *seq, *ulid),
            ParsedKey::Registered(writer) => self.registered(*writer),
            ParsedKey::Probe(ulid) => self.probe(*ulid),
        }
    }

    /// As [`Self::parse`], but lenient about spelling.
    fn take_apart(&self, key: &str) -> Option<ParsedKey> {
        let rest = key.strip_prefix(&self.namespace)?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            ["cluster"] => Some(ParsedKey::Cluster),
            ["probe", ulid] => Some(ParsedKey::Probe(Ulid::from_string(ulid).ok()?)),
            ["writers", writer] => Some(ParsedKey::Registered(WriterId(hex(writer)?))),
            ["wal", _, writer, slot] => {
                let (writer, nonce) = writer.split_once('-')?;
                let seq = Seq(hex(slot.strip_suffix(".kfs")?)?);
                Some(ParsedKey::Wal { writer: WriterId(hex(writer)?), nonce: hex(nonce)?, seq })
            }
            ["merged", _, writer, name] => {
                let [from, to, ulid] = three(name.strip_suffix(".kfs")?)?;
                let (from, to) = (Seq(hex(from)?), Seq(hex(to)?));
                let ulid = Ulid::from_string(ulid).ok()?;
                Some(ParsedKey::Merged { writer: WriterId(hex(writer)?), from, to, ulid })
            }
            ["topics", topic, partition, name] => {
                let [base, next, ulid] = three(name.strip_suffix(".kfs")?)?;
                let topic = TopicId(topic.parse().ok()?);
                let key = PartitionKey { topic, partition: PartitionIndex(partition.parse().ok()?) };
                let (base, next) = (Offset(base.parse().ok()?), Offset(next.parse().ok()?));
                Some(ParsedKey::Segment { key, base, next, ulid: Ulid::from_string(ulid).ok()? })
            }
            ["checkpoints", writer, name] => {
                let (writer, nonce) = writer.split_once('-')?;
                let (seq, ulid) = name.strip_suffix(".ckpt")?.split_once('-')?;
                let ulid = Ulid::from_string(ulid).ok()?;
                Some(ParsedKey::Checkpoint {
                    writer: WriterId(hex(writer)?),
                    nonce: hex(nonce)?,
                    seq: Seq(hex(seq)?),
                    ulid,
                })
            }
            _ => None,
        }
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn three(name: &str) -> Option<[&str; 3]> {
    let parts: Vec<&str> = name.split('-').collect();
    parts.try_into().ok()
}

fn spread(value: u64) -> u8 {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed() -> impl Strategy<Value = ParsedKey> {
        let writer = || any::<u64>().prop_map(WriterId);
        let seq = || any::<u64>().prop_map(Seq);
        let ulid = || any::<u128>().prop_map(Ulid::from);
        let offset = || (0..=i64::MAX).prop_map(Offset);
        prop_oneof![
            Just(ParsedKey::Cluster),
            ulid().prop_map(ParsedKey::Probe),
            writer().prop_map(ParsedKey::Registered),
            (writer(), any::<u64>(), seq()).prop_map(|(writer, nonce, seq)| ParsedKey::Wal { writer, nonce, seq }),
            (writer(), seq(), seq(), ulid()).prop_map(|(writer, from, to, ulid)| ParsedKey::Merged {
                writer,
                from,
                to,
                ulid
            }),
            (writer(), any::<u64>(), seq(), ulid()).prop_map(|(writer, nonce, seq, ulid)| ParsedKey::Checkpoint {
                writer,
                nonce,
                seq,
                ulid
            }),
            (any::<u128>(), 0..=i32::MAX, offset(), offset(), ulid()).prop_map(
                |(topic, partition, base, next, ulid)| {
                    let topic = TopicId(uuid::Uuid::from_u128(topic));
                    let key = PartitionKey { topic, partition: PartitionIndex(partition) };
                    ParsedKey::Segment { key, base, next, ulid }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn keys_survive_a_round_trip(parsed in parsed(), cut in any::<prop::sample::Index>(), byte in any::<char>()) {
            let layout = Layout::new("some.space");
            let key = layout.format(&parsed);
            prop_assert_eq!(layout.parse(&key), Some(parsed.clone()));
            prop_assert_eq!(Layout::new("some").parse(&key), None);
            // Whatever is changed, the key means something else or nothing.
            let mut text = key.as_str().to_owned();
            let at = cut.index(text.len());
            text.replace_range(at..=at, byte.encode_utf8(&mut [0; 4]));
            if text != key.as_str() {
                prop_assert_ne!(layout.parse(&ObjectKey::new(text)), Some(parsed));
            }
            prop_assert_ne!(layout.parse(&ObjectKey::new(&key.as_str()[..at])), layout.parse(&key));
        }
    }

    #[test]
    fn what_is_not_exactly_ours_is_nothing() {
        let layout = Layout::new("ns");
        let wal = layout.wal(WriterId(7), 0xab, Seq(1));
        assert_eq!(layout.parse(&wal), Some(ParsedKey::Wal { writer: WriterId(7), nonce: 0xab, seq: Seq(1) }));
        let (upper, other_spread) = (wal.as_str().to_uppercase(), wal.as_str().replacen("wal/", "wal/f", 1));
        let short = "ns/wal/00/7-ab/1.kfs";
        for foreign in [
            "",
            "ns",
            "ns/",
            "ns/README.md",
            "ns/cluster/",
            "ns/cluster.bak",
            "other/cluster",
            "ns/probe/not-a-ulid",
            "ns/topics/a/0/1-2-3.kfs",
            "ns/merged/00/7/1-2.kfs",
            "ns/backup/wal/00/x.kfs",
            &upper,
            &other_spread,
            short,
        ] {
            assert_eq!(layout.parse(&ObjectKey::new(foreign)), None, "{foreign}");
        }
    }
}
