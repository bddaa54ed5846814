//! Checks the shape of a request before the codec decodes it.
//!
//! The codec reserves memory for as many array elements as the bytes claim, before it looks whether they are there: a
//! request of four bytes can ask for gigabytes. The guard walks a request by a table of its fields and refuses every
//! count and length that the remaining bytes cannot hold. It also estimates what the decoded request takes in memory
//! ([`Walk::decoded_bytes`]), because an element of two bytes on the wire can be a hundred in memory; the connection
//! bounds that sum for the process.
//!
//! The walk follows the codec byte by byte: what it accepts, the codec either decodes from the same bytes or rejects
//! without harm. It does not judge values. The tests compare both, on encoded and on mutated requests. Adding an API is
//! one entry in [`SCHEMAS`]; the fields are those of Kafka's message definitions.

use Kind::{Array, Blob, Fixed, Optional, Str, Struct};
use kafka_protocol::messages::ApiKey;

/// Longest string, as in Kafka (`Short.MAX_VALUE`), also where the wire format allows more. Bytes.
const STRING_LEN_MAX: usize = i16::MAX as usize;
/// Upper bound for one decoded array element of a structure type, without what it points to. Bytes.
const STRUCT_BYTES: usize = 128;
/// A decoded string without its characters, which share the frame. Bytes.
const STRING_BYTES: usize = 32;
/// The first unknown tagged field of a structure allocates a tree node; then bytes per further field.
const FIRST_TAG_BYTES: usize = 640;
const NEXT_TAG_BYTES: usize = 64;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The body ends inside a field.
    #[error("request ends early: {needed} more bytes needed, {available} left")]
    Truncated {
        /// Bytes of the field.
        needed: usize,
        /// Bytes left.
        available: usize,
    },
    /// An array claims more elements than the rest of the body can hold.
    #[error("array of {count} elements does not fit the {available} bytes left")]
    ArrayTooLong {
        /// Claimed elements.
        count: usize,
        /// Bytes left.
        available: usize,
    },
    /// A string is longer than Kafka allows.
    #[error("string of {0} bytes; the longest allowed is {STRING_LEN_MAX}")]
    StringTooLong(usize),
    /// A length below -1.
    #[error("negative length {0}")]
    NegativeLength(i64),
    /// A varint of more than 32 bits.
    #[error("varint does not fit 32 bits")]
    Varint,
    /// A tagged field whose content is shorter or longer than its size says.
    #[error("tagged field {tag} says {size} bytes but has {used}")]
    TagSize {
        /// Tag number.
        tag: u32,
        /// Size on the wire.
        size: usize,
        /// Bytes of its content.
        used: usize,
    },
    /// The request has no schema here.
    #[error("api key {key} version {version} has no schema")]
    Unknown {
        /// API key.
        key: i16,
        /// Version.
        version: i16,
    },
}

/// What an accepted request looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// Bytes of the body that the schema describes; what follows is ignored, as in Kafka.
    pub consumed: usize,
    /// Estimate of the memory that decoding allocates, besides the frame.
    pub decoded_bytes: usize,
}

/// Type of a field.
enum Kind {
    /// So many bytes: integers, booleans, UUIDs.
    Fixed(usize),
    /// A string, nullable or not.
    Str,
    /// Record bytes, nullable or not.
    Blob,
    /// An array, nullable or not.
    Array(&'static Kind),
    /// A structure; in flexible versions it ends with tagged fields.
    Struct(&'static [Field]),
    /// A structure after a byte that says whether it is there.
    Optional(&'static [Field]),
}

/// A field and the versions that have it.
struct Field {
    min: i16,
    max: i16,
    /// Set for a field in the tagged section.
    tag: Option<u32>,
    kind: Kind,
}

const I8: Kind = Fixed(1);
const BOOL: Kind = Fixed(1);
const I16: Kind = Fixed(2);
const I32: Kind = Fixed(4);
const I64: Kind = Fixed(8);
const UUID: Kind = Fixed(16);

/// A topic's name and some of its partitions.
const PARTITIONS_OF_TOPIC: Kind = Struct(&[always(Str), always(Array(&I32))]);

const fn between(min: i16, max: i16, kind: Kind) -> Field {
    Field { min, max, tag: None, kind }
}
const fn always(kind: Kind) -> Field {
    between(0, i16::MAX, kind)
}
const fn since(min: i16, kind: Kind) -> Field {
    between(min, i16::MAX, kind)
}
const fn until(max: i16, kind: Kind) -> Field {
    between(0, max, kind)
}
const fn tagged(tag: u32, min: i16, kind: Kind) -> Field {
    Field { min, max: i16::MAX, tag: Some(tag), kind }
}

/// The fields of one request.
struct Schema {
    key: ApiKey,
    /// First version with compact lengths and tagged fields.
    flexible: i16,
    body: &'static [Field],
}

const SCHEMAS: &[Schema] = &[
    Schema {
        key: ApiKey::Produce,
        flexible: 9,
        body: &[
            always(Str),
            always(I16),
            always(I32),
            always(Array(&Struct(&[
                until(12, Str),
                since(13, UUID),
                always(Array(&Struct(&[always(I32), always(Blob)]))),
            ]))),
        ],
    },
    Schema {
        key: ApiKey::Fetch,
        flexible: 12,
        body: &[
            until(14, I32),
            always(I32),
            always(I32),
            always(I32),
            always(I8),
            since(7, I32),
            since(7, I32),
            always(Array(&Struct(&[
                until(12, Str),
                since(13, UUID),
                always(Array(&Struct(&[
                    always(I32),
                    since(9, I32),
                    always(I64),
                    since(12, I32),
                    since(5, I64),
                    always(I32),
                    tagged(0, 17, UUID),
                    tagged(1, 18, I64),
                ]))),
            ]))),
            since(7, Array(&Struct(&[until(12, Str), since(13, UUID), always(Array(&I32))]))),
            since(11, Str),
            tagged(0, 12, Str),
            tagged(1, 15, Struct(&[always(I32), always(I64)])),
        ],
    },
    Schema {
        key: ApiKey::ListOffsets,
        flexible: 6,
        body: &[
            always(I32),
            since(2, I8),
            always(Array(&Struct(&[always(Str), always(Array(&Struct(&[always(I32), since(4, I32), always(I64)])))]))),
            since(10, I32),
        ],
    },
    Schema {
        key: ApiKey::Metadata,
        flexible: 9,
        body: &[
            always(Array(&Struct(&[since(10, UUID), always(Str)]))),
            since(4, BOOL),
            between(8, 10, BOOL),
            since(8, BOOL),
        ],
    },
    Schema {
        key: ApiKey::OffsetCommit,
        flexible: 8,
        body: &[
            always(Str),
            always(I32),
            always(Str),
            since(7, Str),
            between(2, 4, I64),
            always(Array(&Struct(&[
                until(9, Str),
                since(10, UUID),
                always(Array(&Struct(&[always(I32), always(I64), since(6, I32), always(Str)]))),
            ]))),
        ],
    },
    Schema {
        key: ApiKey::OffsetFetch,
        flexible: 6,
        body: &[
            until(7, Str),
            until(7, Array(&Struct(&[always(Str), always(Array(&I32))]))),
            since(
                8,
                Array(&Struct(&[
                    always(Str),
                    since(9, Str),
                    since(9, I32),
                    always(Array(&Struct(&[until(9, Str), since(10, UUID), always(Array(&I32))]))),
                ])),
            ),
            since(7, BOOL),
        ],
    },
    Schema {
        key: ApiKey::JoinGroup,
        flexible: 6,
        body: &[
            always(Str),
            always(I32),
            since(1, I32),
            always(Str),
            since(5, Str),
            always(Str),
            always(Array(&Struct(&[always(Str), always(Blob)]))),
            since(8, Str),
        ],
    },
    Schema { key: ApiKey::Heartbeat, flexible: 4, body: &[always(Str), always(I32), always(Str), since(3, Str)] },
    Schema {
        key: ApiKey::LeaveGroup,
        flexible: 4,
        body: &[always(Str), until(2, Str), since(3, Array(&Struct(&[always(Str), always(Str), since(5, Str)])))],
    },
    Schema {
        key: ApiKey::SyncGroup,
        flexible: 4,
        body: &[
            always(Str),
            always(I32),
            always(Str),
            since(3, Str),
            since(5, Str),
            since(5, Str),
            always(Array(&Struct(&[always(Str), always(Blob)]))),
        ],
    },
    Schema { key: ApiKey::DescribeGroups, flexible: 5, body: &[always(Array(&Str)), since(3, BOOL)] },
    Schema { key: ApiKey::ListGroups, flexible: 3, body: &[since(4, Array(&Str)), since(5, Array(&Str))] },
    Schema { key: ApiKey::DeleteGroups, flexible: 2, body: &[always(Array(&Str))] },
    Schema {
        key: ApiKey::ConsumerGroupHeartbeat,
        flexible: 0,
        body: &[
            always(Str),
            always(Str),
            always(I32),
            always(Str),
            always(Str),
            always(I32),
            always(Array(&Str)),
            since(1, Str),
            always(Str),
            always(Array(&Struct(&[always(UUID), always(Array(&I32))]))),
        ],
    },
    Schema { key: ApiKey::ConsumerGroupDescribe, flexible: 0, body: &[always(Array(&Str)), always(BOOL)] },
    Schema {
        key: ApiKey::OffsetDelete,
        flexible: i16::MAX,
        body: &[always(Str), always(Array(&Struct(&[always(Str), always(Array(&Struct(&[always(I32)])))])))],
    },
    Schema { key: ApiKey::FindCoordinator, flexible: 3, body: &[until(3, Str), since(1, I8), since(4, Array(&Str))] },
    Schema { key: ApiKey::ApiVersions, flexible: 3, body: &[since(3, Str), since(3, Str)] },
    Schema {
        key: ApiKey::CreateTopics,
        flexible: 5,
        body: &[
            always(Array(&Struct(&[
                always(Str),
                always(I32),
                always(I16),
                always(Array(&Struct(&[always(I32), always(Array(&I32))]))),
                always(Array(&Struct(&[always(Str), always(Str)]))),
            ]))),
            always(I32),
            always(BOOL),
        ],
    },
    Schema {
        key: ApiKey::DeleteTopics,
        flexible: 4,
        body: &[since(6, Array(&Struct(&[always(Str), always(UUID)]))), until(5, Array(&Str)), always(I32)],
    },
    Schema {
        key: ApiKey::DeleteRecords,
        flexible: 2,
        body: &[
            always(Array(&Struct(&[always(Str), always(Array(&Struct(&[always(I32), always(I64)])))]))),
            always(I32),
        ],
    },
    Schema {
        key: ApiKey::InitProducerId,
        flexible: 2,
        body: &[always(Str), always(I32), since(3, I64), since(3, I16)],
    },
    Schema {
        key: ApiKey::OffsetForLeaderEpoch,
        flexible: 4,
        body: &[
            since(3, I32),
            always(Array(&Struct(&[always(Str), always(Array(&Struct(&[always(I32), always(I32), always(I32)])))]))),
        ],
    },
    Schema {
        key: ApiKey::DescribeConfigs,
        flexible: 4,
        body: &[always(Array(&Struct(&[always(I8), always(Str), always(Array(&Str))]))), always(BOOL), since(3, BOOL)],
    },
    Schema {
        key: ApiKey::AlterConfigs,
        flexible: 2,
        body: &[
            always(Array(&Struct(&[always(I8), always(Str), always(Array(&Struct(&[always(Str), always(Str)])))]))),
            always(BOOL),
        ],
    },
    Schema {
        key: ApiKey::AlterReplicaLogDirs,
        flexible: 2,
        body: &[always(Array(&Struct(&[always(Str), always(Array(&PARTITIONS_OF_TOPIC))])))],
    },
    Schema { key: ApiKey::DescribeLogDirs, flexible: 2, body: &[always(Array(&PARTITIONS_OF_TOPIC))] },
    Schema {
        key: ApiKey::CreatePartitions,
        flexible: 2,
        body: &[
            always(Array(&Struct(&[always(Str), always(I32), always(Array(&Struct(&[always(Array(&I32))])))]))),
            always(I32),
            always(BOOL),
        ],
    },
    Schema {
        key: ApiKey::ElectLeaders,
        flexible: 2,
        body: &[since(1, I8), always(Array(&PARTITIONS_OF_TOPIC)), always(I32)],
    },
    Schema {
        key: ApiKey::IncrementalAlterConfigs,
        flexible: 1,
        body: &[
            always(Array(&Struct(&[
                always(I8),
                always(Str),
                always(Array(&Struct(&[always(Str), always(I8), always(Str)]))),
            ]))),
            always(BOOL),
        ],
    },
    Schema {
        key: ApiKey::AlterPartitionReassignments,
        flexible: 0,
        body: &[
            always(I32),
            since(1, BOOL),
            always(Array(&Struct(&[always(Str), always(Array(&Struct(&[always(I32), always(Array(&I32))])))]))),
        ],
    },
    Schema {
        key: ApiKey::ListPartitionReassignments,
        flexible: 0,
        body: &[always(I32), always(Array(&PARTITIONS_OF_TOPIC))],
    },
    Schema {
        key: ApiKey::UpdateFeatures,
        flexible: 0,
        body: &[
            always(I32),
            always(Array(&Struct(&[always(Str), always(I16), until(0, BOOL), since(1, I8)]))),
            since(1, BOOL),
        ],
    },
    Schema { key: ApiKey::DescribeCluster, flexible: 0, body: &[always(BOOL), since(1, I8), since(2, BOOL)] },
    Schema { key: ApiKey::DescribeProducers, flexible: 0, body: &[always(Array(&PARTITIONS_OF_TOPIC))] },
    Schema { key: ApiKey::ListConfigResources, flexible: 0, body: &[since(1, Array(&I8))] },
    Schema {
        key: ApiKey::DescribeTopicPartitions,
        flexible: 0,
        body: &[always(Array(&Struct(&[always(Str)]))), always(I32), always(Optional(&[always(Str), always(I32)]))],
    },
];

/// Walks `body`, which follows the header of a request with this key and version.
pub fn check(api_key: i16, version: i16, body: &[u8]) -> Result<Walk, GuardError> {
    let schema = SCHEMAS.iter().find(|s| s.key as i16 == api_key);
    let schema = schema.ok_or(GuardError::Unknown { key: api_key, version })?;
    let mut walker = Walker { rest: body, version, flexible: version >= schema.flexible, decoded_bytes: 0 };
    walker.structure(schema.body)?;
    Ok(Walk { consumed: body.len() - walker.rest.len(), decoded_bytes: walker.decoded_bytes })
}

/// Skips the tagged fields of a request header (version 2) at the start of `bytes`; returns their length.
pub fn skip_header_tags(bytes: &[u8]) -> Result<usize, GuardError> {
    let mut walker = Walker { rest: bytes, version: 2, flexible: true, decoded_bytes: 0 };
    walker.tags(&[])?;
    Ok(bytes.len() - walker.rest.len())
}

impl Field {
    fn is_in(&self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }
}

impl Kind {
    /// Fewest bytes a value takes on the wire.
    fn len_min(&self, version: i16, flexible: bool) -> usize {
        match self {
            Fixed(len) => *len,
            Str => 2 - usize::from(flexible),
            Blob | Array(_) => 4 - 3 * usize::from(flexible),
            Optional(_) => 1,
            Struct(fields) => {
                let untagged = fields.iter().filter(|f| f.tag.is_none() && f.is_in(version));
                untagged.map(|f| f.kind.len_min(version, flexible)).sum::<usize>() + usize::from(flexible)
            }
        }
    }

    /// Memory of one decoded element beyond its bytes on the wire.
    fn decoded_len(&self) -> usize {
        match self {
            Fixed(_) => 0,
            Str | Blob => STRING_BYTES,
            Array(_) | Struct(_) | Optional(_) => STRUCT_BYTES,
        }
    }
}

/// A position in a request body.
struct Walker<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    decoded_bytes: usize,
}

impl<'a> Walker<'a> {
    fn structure(&mut self, fields: &[Field]) -> Result<(), GuardError> {
        let version = self.version;
        for field in fields.iter().filter(|f| f.tag.is_none() && f.is_in(version)) {
            self.value(&field.kind)?;
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn value(&mut self, kind: &Kind) -> Result<(), GuardError> {
        match kind {
            Fixed(len) => self.take(*len).map(drop),
            Str => self.string(),
            Blob => match self.length()? {
                Some(len) => self.take(len).map(drop),
                None => Ok(()),
            },
            Array(element) => self.array(element),
            Struct(fields) => self.structure(fields),
            // The codec takes everything but 1 for "absent".
            Optional(fields) if self.take(1)?[0] == 1 => self.structure(fields),
            Optional(_) => Ok(()),
        }
    }

    fn array(&mut self, element: &Kind) -> Result<(), GuardError> {
        let Some(count) = self.length()? else { return Ok(()) };
        let len_min = element.len_min(self.version, self.flexible).max(1);
        let available = self.rest.len();
        if count > available / len_min {
            return Err(GuardError::ArrayTooLong { count, available });
        }
        self.decoded_bytes += count * element.decoded_len();
        if let Fixed(len) = element {
            return self.take(count * len).map(drop);
        }
        (0..count).try_for_each(|_| self.value(element))
    }

    fn string(&mut self) -> Result<(), GuardError> {
        let len = if self.flexible {
            self.length()?
        } else {
            let len = i16::from_be_bytes(self.take(2)?.try_into().expect("two bytes"));
            non_negative(i64::from(len))?
        };
        match len {
            Some(len) if len > STRING_LEN_MAX => Err(GuardError::StringTooLong(len)),
            Some(len) => self.take(len).map(drop),
            None => Ok(()),
        }
    }

    /// Length of record bytes, an array, or a compact string; `None` for null.
    fn length(&mut self) -> Result<Option<usize>, GuardError> {
        if self.flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        let len = i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes"));
        non_negative(i64::from(len))
    }

    fn tags(&mut self, fields: &[Field]) -> Result<(), GuardError> {
        let count = self.varint()? as usize;
        if count > self.rest.len() / 2 {
            return Err(GuardError::ArrayTooLong { count, available: self.rest.len() });
        }
        let mut unknown_bytes = FIRST_TAG_BYTES;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            let known = fields.iter().find(|f| f.tag == Some(tag) && f.is_in(self.version));
            let Some(field) = known else {
                self.take(size)?;
                self.decoded_bytes += unknown_bytes;
                unknown_bytes = NEXT_TAG_BYTES;
                continue;
            };
            // The codec decodes known tags in place and ignores their size; they must agree.
            let before = self.rest.len();
            self.value(&field.kind)?;
            let used = before - self.rest.len();
            if used != size {
                return Err(GuardError::TagSize { tag, size, used });
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u32, GuardError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            if shift == 28 && byte > 0x0f {
                return Err(GuardError::Varint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], GuardError> {
        let available = self.rest.len();
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(GuardError::Truncated { needed: len, available })?;
        self.rest = rest;
        Ok(taken)
    }
}

fn non_negative(len: i64) -> Result<Option<usize>, GuardError> {
    match len {
        -1 => Ok(None),
        len => usize::try_from(len).map(Some).map_err(|_| GuardError::NegativeLength(len)),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
pub(crate) mod tests;
