//! Protocol buffers without their schema: what the wire format tells.
//!
//! Layout: <https://protobuf.dev/programming-guides/encoding/>. Runs of bytes may be text, a message or bytes; they are shown as text
//! if they are printable, else as a message if all of them are one, else as bytes. To find out costs a pass over the bytes per
//! level of nesting, and levels are bounded.

use super::is_printable;
use super::out::Out;

/// Levels of messages in messages that are looked into.
const LEVELS_MAX: usize = 16;

#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for position in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Field<'a>)> {
        let tag = u32::try_from(self.varint()?).ok()?;
        let number = Some(tag >> 3).filter(|number| *number > 0)?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            // Groups are of the first version and nobody writes them.
            _ => return None,
        };
        Some((number, field))
    }
}

fn is_message(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        if reader.field().is_none() {
            return false;
        }
    }
    !bytes.is_empty()
}

pub(super) fn text(bytes: &[u8], max: usize) -> Result<(String, bool), String> {
    if !is_message(bytes) {
        return Err("the bytes are no fields of the wire format".to_owned());
    }
    let mut out = Out::new(max);
    message(&mut out, bytes, 0);
    Ok(out.finish())
}

fn message(out: &mut Out, bytes: &[u8], depth: usize) {
    let mut reader = Reader(bytes);
    let mut is_first = true;
    while let Some((number, field)) = reader.field() {
        if out.is_full() {
            return;
        }
        if !(is_first && depth == 0) {
            out.line(depth);
        }
        is_first = false;
        out.push(&number.to_string());
        match field {
            Field::Varint(value) => {
                out.push(&format!(": {value}"));
                // Negative numbers of int32 and int64 look huge.
                if value > i64::MAX as u64 {
                    out.push(&format!(" (int {})", value as i64));
                }
            }
            Field::Fixed64(value) => out.push(&format!(": 0x{value:016x} (double {:?})", f64::from_bits(value))),
            Field::Fixed32(value) => out.push(&format!(": 0x{value:08x} (float {:?})", f32::from_bits(value))),
            Field::Bytes(bytes) => run(out, bytes, depth),
        }
    }
}

fn run(out: &mut Out, bytes: &[u8], depth: usize) {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_printable(bytes) => {
            out.push(": ");
            out.string(text);
        }
        _ if depth < LEVELS_MAX && is_message(bytes) => {
            out.push(" {");
            message(out, bytes, depth + 1);
            out.line(depth);
            out.push("}");
        }
        _ => {
            out.push(": ");
            out.bytes(bytes);
        }
    }
}
