//! What bytes of a record look like to people.
//!
//! Everything here is written by producers, so that it is data and may be hostile: no decoder recurses deeper than
//! [`DEPTH_MAX`], none writes more text than it is asked for, and what does not decode is shown as something that always does.

mod avro;
mod binary;
mod json;
mod out;
mod protobuf;

pub use avro::{Avro, SCHEMA_BYTES_MAX};

use out::Out;
use serde::Serialize;

/// Values that contain values: beyond this depth they are not decoded.
pub const DEPTH_MAX: usize = 64;
/// Longest text of a value in a list, bytes.
pub const LIST_TEXT_BYTES_MAX: usize = 64 << 10;
/// Longest text of a single record's value, bytes.
pub const SINGLE_TEXT_BYTES_MAX: usize = 1 << 20;
/// Values longer than this are not decoded as MessagePack or CBOR, bytes: decoded they need many times the memory.
const TREE_BYTES_MAX: usize = 1 << 20;
/// Marks values of Confluent's serializers; the id of a schema follows in four bytes.
const REGISTRY_MAGIC: u8 = 0;
const REGISTRY_HEADER_LEN: usize = 5;

/// How bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decoder {
    /// The first that fits.
    #[default]
    Auto,
    /// UTF-8.
    Text,
    /// JSON, with its numbers as they were written.
    Json,
    /// Bytes.
    Hex,
    /// MessagePack.
    Msgpack,
    /// CBOR.
    Cbor,
    /// Protocol buffers without their schema: field numbers and wire types.
    Protobuf,
    /// Avro, with a schema that is given.
    Avro,
}

/// Names with what they are for.
pub const DECODERS: [(&str, Decoder, &str); 8] = [
    ("auto", Decoder::Auto, "JSON, text, MessagePack, CBOR or Protobuf, whichever fits; else hex"),
    ("text", Decoder::Text, "UTF-8 text"),
    ("json", Decoder::Json, "JSON, indented; numbers stay as they were written"),
    ("hex", Decoder::Hex, "bytes in hexadecimal, with the characters beside them"),
    ("msgpack", Decoder::Msgpack, "MessagePack, shown as JSON"),
    ("cbor", Decoder::Cbor, "CBOR, shown as JSON"),
    ("protobuf", Decoder::Protobuf, "Protobuf without a schema: field numbers and wire types"),
    ("avro", Decoder::Avro, "Avro with the schema that is given (value_schema, key_schema), shown as JSON"),
];

impl Decoder {
    /// The decoder of this name.
    pub fn named(name: &str) -> Option<Self> {
        DECODERS.iter().find(|(known, ..)| *known == name).map(|(_, decoder, _)| *decoder)
    }
}

/// Bytes as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decoded {
    /// Which decoder it was.
    pub decoder: &'static str,
    /// What is shown. Data, whatever it looks like.
    pub text: String,
    /// Bytes there are.
    #[serde(serialize_with = "as_text")]
    pub size_bytes: u64,
    /// There is more than is shown.
    pub truncated: bool,
    /// Why it was another decoder than the one that was wanted, or what is known besides.
    pub note: Option<String>,
}

fn as_text<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Decodes `bytes` into at most `text_bytes_max` bytes of text; `schema` is what Avro is read with.
pub fn decode(bytes: &[u8], wanted: Decoder, schema: Option<&Avro>, text_bytes_max: usize) -> Decoded {
    let shown = |decoder, (text, truncated): (String, bool), note| Decoded {
        decoder,
        text,
        size_bytes: bytes.len() as u64,
        truncated,
        note,
    };
    if bytes.is_empty() {
        return shown("empty", (String::new(), false), None);
    }
    let max = text_bytes_max;
    if wanted == Decoder::Auto {
        return match automatic(bytes, max) {
            Some((decoder, text)) => shown(decoder, text, None),
            None => shown("hex", hex(bytes, max), registry_note(bytes)),
        };
    }
    let decoded = match wanted {
        Decoder::Avro => match schema.map(|schema| schema.text(bytes, max)) {
            Some(Ok((text, truncated, note))) => return shown("avro", (text, truncated), note),
            Some(Err(why)) => Err(format!("not of this Avro schema: {why}")),
            None => Err(registry_note(bytes)
                .unwrap_or_else(|| "Avro can only be read with the schema that it was written with".to_owned())),
        },
        Decoder::Json => json::pretty(bytes, max).map(|text| ("json", text)).map_err(|e| format!("no JSON: {e}")),
        Decoder::Msgpack => {
            binary::msgpack(bytes, max).map(|text| ("msgpack", text)).map_err(|e| format!("no MessagePack: {e}"))
        }
        Decoder::Cbor => binary::cbor(bytes, max).map(|text| ("cbor", text)).map_err(|e| format!("no CBOR: {e}")),
        Decoder::Protobuf => {
            protobuf::text(bytes, max).map(|text| ("protobuf", text)).map_err(|e| format!("no Protobuf: {e}"))
        }
        Decoder::Text => text(bytes, max).map(|text| ("text", text)).ok_or_else(|| "no UTF-8".to_owned()),
        Decoder::Hex | Decoder::Auto => return shown("hex", hex(bytes, max), None),
    };
    match decoded {
        Ok((decoder, text)) => shown(decoder, text, None),
        Err(why) => match text(bytes, max).filter(|_| wanted != Decoder::Text && is_printable(bytes)) {
            Some(text) => shown("text", text, Some(why)),
            None => shown("hex", hex(bytes, max), Some(why)),
        },
    }
}

fn automatic(bytes: &[u8], max: usize) -> Option<(&'static str, (String, bool))> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first.is_some_and(|b| matches!(b, b'{' | b'['))
        && let Ok(text) = json::pretty(bytes, max)
    {
        return Some(("json", text));
    }
    if is_printable(bytes)
        && let Some(text) = text(bytes, max)
    {
        return Some(("text", text));
    }
    // Numbers of MessagePack and CBOR are single bytes, and any bytes begin with one: only maps and lists are taken for them.
    if binary::begins_msgpack(bytes)
        && let Ok(text) = binary::msgpack(bytes, max)
    {
        return Some(("msgpack", text));
    }
    if binary::begins_cbor(bytes)
        && let Ok(text) = binary::cbor(bytes, max)
    {
        return Some(("cbor", text));
    }
    if registry_note(bytes).is_none()
        && let Ok(text) = protobuf::text(bytes, max)
    {
        return Some(("protobuf", text));
    }
    None
}

/// What the frame of a schema registry's serializers says.
fn registry_note(bytes: &[u8]) -> Option<String> {
    let header = bytes.get(..REGISTRY_HEADER_LEN).filter(|header| header[0] == REGISTRY_MAGIC)?;
    let id = u32::from_be_bytes(header[1..].try_into().ok()?);
    (bytes.len() > REGISTRY_HEADER_LEN && id != 0).then(|| {
        format!("it looks like a value with schema {id} of a registry; without the schema it cannot be decoded")
    })
}

/// UTF-8 without control characters other than those of text.
fn is_printable(bytes: &[u8]) -> bool {
    let is_control = |b: &u8| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r') || *b == 0x7f;
    !bytes.iter().any(is_control)
}

fn text(bytes: &[u8], max: usize) -> Option<(String, bool)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let end = text.floor_char_boundary(max);
    Some((text[..end].to_owned(), end < text.len()))
}

/// Sixteen bytes a line: position, bytes, characters.
fn hex(bytes: &[u8], max: usize) -> (String, bool) {
    const LINE: usize = 16;
    let mut out = Out::new(max);
    for (line, bytes) in bytes.chunks(LINE).enumerate() {
        if out.is_full() {
            break;
        }
        let numbers: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let character = |b: &u8| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' };
        let characters: String = bytes.iter().map(character).collect();
        let end = if line == 0 { "" } else { "\n" };
        out.push(&format!("{end}{:08x}  {:<47}  {characters}", line * LINE, numbers.join(" ")));
    }
    out.finish()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
