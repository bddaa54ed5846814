//! Record batches by hand: what a [`super::Client`] sends, and what it makes of what it fetches.

use super::{Result, malformed};
use bytes::Bytes;

/// A record to be sent.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Key, if any.
    pub key: Option<Bytes>,
    /// Value, if any.
    pub value: Option<Bytes>,
    /// Milliseconds after the batch's base timestamp.
    pub timestamp_delta_ms: i64,
}

/// A v2 batch to be sent, uncompressed unless [`Batch::attributes`] and the payload say otherwise.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Codec, timestamp type, transactional, control.
    pub attributes: i16,
    /// Timestamp of the first record, ms.
    pub base_timestamp_ms: i64,
    /// -1 without idempotence.
    pub producer_id: i64,
    /// -1 without idempotence.
    pub producer_epoch: i16,
    /// -1 without idempotence.
    pub base_sequence: i32,
    /// The records.
    pub records: Vec<Record>,
}

/// First byte covered by a batch's CRC.
pub const CRC_START: usize = 21;

impl Batch {
    /// A batch of `values` without keys and without idempotence, with the current time.
    pub fn of(values: &[&[u8]]) -> Self {
        let record = |v: &&[u8]| Record { value: Some(Bytes::copy_from_slice(v)), ..Record::default() };
        Self {
            attributes: 0,
            base_timestamp_ms: kafscale::clock::Clock::system().wall_ms(),
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records: values.iter().map(record).collect(),
        }
    }

    /// The same with producer id, epoch and first sequence.
    pub fn idempotent(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (producer_id, producer_epoch, base_sequence);
        self
    }

    /// The bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = Vec::new();
        for (delta, record) in self.records.iter().enumerate() {
            let mut one = vec![0u8]; // attributes
            put_varint(&mut one, record.timestamp_delta_ms);
            put_varint(&mut one, delta as i64);
            for field in [&record.key, &record.value] {
                match field {
                    None => put_varint(&mut one, -1),
                    Some(bytes) => {
                        put_varint(&mut one, bytes.len() as i64);
                        one.extend_from_slice(bytes);
                    }
                }
            }
            put_varint(&mut one, 0); // headers
            put_varint(&mut body, one.len() as i64);
            body.extend_from_slice(&one);
        }
        self.encode_with(&body)
    }

    /// The bytes with `body` (e.g. compressed records) in place of the records.
    pub fn encode_with(&self, body: &[u8]) -> Bytes {
        let count = self.records.len() as i32;
        let latest = self.records.iter().map(|r| r.timestamp_delta_ms).max().unwrap_or(0);
        let mut batch = Vec::with_capacity(61 + body.len());
        batch.extend_from_slice(&0i64.to_be_bytes());
        batch.extend_from_slice(&((49 + body.len()) as i32).to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.push(2);
        batch.extend_from_slice(&[0; 4]); // CRC, below
        batch.extend_from_slice(&self.attributes.to_be_bytes());
        batch.extend_from_slice(&(count - 1).to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        batch.extend_from_slice(&(self.base_timestamp_ms + latest).to_be_bytes());
        batch.extend_from_slice(&self.producer_id.to_be_bytes());
        batch.extend_from_slice(&self.producer_epoch.to_be_bytes());
        batch.extend_from_slice(&self.base_sequence.to_be_bytes());
        batch.extend_from_slice(&count.to_be_bytes());
        batch.extend_from_slice(body);
        fix_crc(&mut batch);
        Bytes::from(batch)
    }
}

/// CRC-32C.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Makes the CRC of a batch right again after its bytes were changed.
pub fn fix_crc(batch: &mut [u8]) {
    let crc = crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Appends a zigzag varint.
pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn get_varint(bytes: &[u8], at: &mut usize) -> Result<i64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = *bytes.get(*at).ok_or_else(|| malformed("varint is cut"))?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
        shift += 7;
        if shift > 63 {
            return Err(malformed("varint is too long"));
        }
    }
}

/// A record as fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, ms.
    pub timestamp_ms: i64,
    /// Its key, if any.
    pub key: Option<Bytes>,
    /// Its value, if any.
    pub value: Option<Bytes>,
}

/// The records of the whole batches in `records`, whose CRCs are checked; a batch cut at the end is left out, as Kafka
/// allows. Compressed batches are an error: this client does not send any.
pub fn read_records(records: &Bytes) -> Result<Vec<FetchedRecord>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while records.len() - at >= 12 {
        let length = i32::from_be_bytes(records[at + 8..at + 12].try_into().expect("four bytes"));
        let end = at + 12 + usize::try_from(length).map_err(|_| malformed("negative batch length"))?;
        if end > records.len() {
            break;
        }
        read_batch(&records.slice(at..end), &mut out)?;
        at = end;
    }
    Ok(out)
}

fn read_batch(batch: &Bytes, out: &mut Vec<FetchedRecord>) -> Result<()> {
    let header = kafscale::protocol::batch::BatchHeader::parse(batch).map_err(malformed)?;
    if header.crc != crc32c(&batch[CRC_START..]) {
        return Err(malformed(format!("CRC of the batch at {}", header.base_offset.0)));
    }
    if header.codec() != 0 {
        return Err(malformed("compressed batch"));
    }
    let mut at = kafscale::protocol::batch::HEADER_LEN;
    for _ in 0..header.record_count {
        let length = get_varint(batch, &mut at)?;
        let end = at + usize::try_from(length).map_err(|_| malformed("negative record length"))?;
        at += 1; // attributes
        let timestamp_ms = header.base_timestamp + get_varint(batch, &mut at)?;
        let offset = header.base_offset.0 + get_varint(batch, &mut at)?;
        let mut field = || -> Result<Option<Bytes>> {
            let length = get_varint(batch, &mut at)?;
            let Ok(length) = usize::try_from(length) else { return Ok(None) };
            let bytes = batch.get(at..at + length).ok_or_else(|| malformed("record field is cut"))?;
            at += length;
            Ok(Some(batch.slice_ref(bytes)))
        };
        let (key, value) = (field()?, field()?);
        out.push(FetchedRecord { offset, timestamp_ms, key, value });
        at = end;
    }
    Ok(())
}

#[test]
fn batches_by_hand_read_back() {
    let batch = Batch::of(&[b"one", &[7; 300]]).idempotent(5, 1, 9).encode();
    let header = kafscale::protocol::batch::BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.producer_id.0, header.producer_epoch.0, header.base_sequence), (5, 1, 9));
    assert_eq!((header.record_count, header.last_offset_delta), (2, 1));
    let records = read_records(&batch).unwrap();
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(records[1].value.as_deref(), Some(&[7; 300][..]));
    let mut flipped = batch.to_vec();
    flipped[80] ^= 1;
    assert!(read_records(&Bytes::from(flipped)).is_err(), "a flipped bit is seen");
}
