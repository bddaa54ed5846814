//! MessagePack and CBOR, shown as JSON: integers exact, bytes in hexadecimal, keys that are no strings as they would be written.

use super::out::Out;
use super::{DEPTH_MAX, TREE_BYTES_MAX};
use ciborium::Value as Cbor;
use rmpv::ValueRef as Pack;

/// True if MessagePack would be a map or a list.
pub(super) fn begins_msgpack(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x80..=0x9f | 0xdc..=0xdf))
}

/// True if CBOR would be a map, a list, or say of itself that it is CBOR.
pub(super) fn begins_cbor(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x80..=0xbf)) || bytes.starts_with(&[0xd9, 0xd9, 0xf7])
}

fn check_len(bytes: &[u8]) -> Result<(), String> {
    match bytes.len() {
        len if len > TREE_BYTES_MAX => Err(format!("{len} bytes are more than the {TREE_BYTES_MAX} that are decoded")),
        _ => Ok(()),
    }
}

pub(super) fn msgpack(bytes: &[u8], max: usize) -> Result<(String, bool), String> {
    check_len(bytes)?;
    let mut rest = bytes;
    let value = rmpv::decode::read_value_ref_with_max_depth(&mut rest, DEPTH_MAX).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the value", rest.len()));
    }
    let mut out = Out::new(max);
    pack(&mut out, &value, 0);
    Ok(out.finish())
}

fn pack(out: &mut Out, value: &Pack<'_>, depth: usize) {
    if out.is_full() {
        return;
    }
    match value {
        Pack::Nil => out.push("null"),
        Pack::Boolean(value) => out.push(if *value { "true" } else { "false" }),
        Pack::Integer(value) => out.push(&value.to_string()),
        Pack::F32(value) => out.push(&number(f64::from(*value))),
        Pack::F64(value) => out.push(&number(*value)),
        Pack::String(text) => match text.as_str() {
            Some(text) => out.string(text),
            None => out.bytes(text.as_bytes()),
        },
        Pack::Binary(bytes) => out.bytes(bytes),
        Pack::Ext(kind, bytes) => {
            out.push(&format!("{{\"ext\": {kind}, \"bytes\": "));
            out.bytes(bytes);
            out.push("}");
        }
        Pack::Array(items) => list(out, items, depth, pack),
        Pack::Map(fields) => map(out, fields, depth, pack, |key| matches!(key, Pack::String(text) if text.is_str())),
    }
}

pub(super) fn cbor(bytes: &[u8], max: usize) -> Result<(String, bool), String> {
    check_len(bytes)?;
    let mut rest = bytes;
    let value: Cbor =
        ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the value", rest.len()));
    }
    let mut out = Out::new(max);
    concise(&mut out, &value, 0);
    Ok(out.finish())
}

fn concise(out: &mut Out, value: &Cbor, depth: usize) {
    if out.is_full() {
        return;
    }
    match value {
        Cbor::Null => out.push("null"),
        Cbor::Bool(value) => out.push(if *value { "true" } else { "false" }),
        Cbor::Integer(value) => out.push(&i128::from(*value).to_string()),
        Cbor::Float(value) => out.push(&number(*value)),
        Cbor::Text(text) => out.string(text),
        Cbor::Bytes(bytes) => out.bytes(bytes),
        Cbor::Tag(tag, value) => {
            out.push(&format!("{{\"tag\": {tag}, \"value\": "));
            concise(out, value, depth);
            out.push("}");
        }
        Cbor::Array(items) => list(out, items, depth, concise),
        Cbor::Map(fields) => map(out, fields, depth, concise, |key| matches!(key, Cbor::Text(_))),
        _ => out.push("\"unknown\""),
    }
}

/// JSON has no infinity: numbers that it does not have are strings.
pub(super) fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:?}") } else { format!("\"{value}\"") }
}

fn list<T>(out: &mut Out, items: &[T], depth: usize, write: impl Fn(&mut Out, &T, usize)) {
    if items.is_empty() {
        return out.push("[]");
    }
    out.push("[");
    for (position, item) in items.iter().enumerate() {
        if out.is_full() {
            return;
        }
        out.push(if position == 0 { "" } else { "," });
        out.line(depth + 1);
        write(out, item, depth + 1);
    }
    out.line(depth);
    out.push("]");
}

fn map<T>(
    out: &mut Out,
    fields: &[(T, T)],
    depth: usize,
    write: impl Fn(&mut Out, &T, usize),
    is_text: impl Fn(&T) -> bool,
) {
    if fields.is_empty() {
        return out.push("{}");
    }
    out.push("{");
    for (position, (key, value)) in fields.iter().enumerate() {
        if out.is_full() {
            return;
        }
        out.push(if position == 0 { "" } else { "," });
        out.line(depth + 1);
        if is_text(key) {
            write(out, key, depth + 1);
        } else {
            let mut inner = Out::new(KEY_BYTES_MAX);
            write(&mut inner, key, 0);
            out.string(&inner.finish().0);
        }
        out.push(": ");
        write(out, value, depth + 1);
    }
    out.line(depth);
    out.push("}");
}

/// Longest text of a key that is no string, bytes.
const KEY_BYTES_MAX: usize = 256;
