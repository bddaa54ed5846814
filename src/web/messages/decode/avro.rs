//! Avro with the schema that it was written with, shown as JSON.
//!
//! Schemas are parsed by the `apache-avro` crate. Values are not: its decoder builds a tree without bounds of depth and size, and
//! values are written by anybody who may produce. Here they are read straight into text that stops growing.
//!
//! Encoding: <https://avro.apache.org/docs/1.12.0/specification/#binary-encoding>.

use super::binary::number;
use super::out::Out;
use super::{DEPTH_MAX, REGISTRY_HEADER_LEN, REGISTRY_MAGIC};
use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, UuidSchema};
use std::collections::HashMap;

/// Longest schema, bytes.
pub const SCHEMA_BYTES_MAX: usize = 16 << 10;
/// Types in a schema.
const NODES_MAX: usize = 8_192;
/// What begins a single object: a mark, and a fingerprint of its schema.
const SINGLE_OBJECT_MARK: [u8; 2] = [0xc3, 0x01];
const SINGLE_OBJECT_HEADER_LEN: usize = 10;
/// Longest decimal number that is shown as one, bytes.
const DECIMAL_BYTES_MAX: usize = 16;

#[derive(Debug)]
enum Node {
    /// A name whose type is still being read.
    Open,
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<(String, usize)>),
    Enum(Vec<String>),
    Fixed(usize),
    Uuid,
    Decimal {
        scale: usize,
        fixed: Option<usize>,
    },
}

/// A schema, ready to read with.
#[derive(Debug)]
pub struct Avro {
    nodes: Vec<Node>,
}

impl Avro {
    /// From its JSON.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(format!("the schema has more than {SCHEMA_BYTES_MAX} bytes"));
        }
        let schema = Schema::parse_str(text).map_err(|e| e.to_string())?;
        let mut names = HashMap::new();
        let mut avro = Self { nodes: Vec::new() };
        avro.add(&schema, None, &mut names)?;
        Ok(avro)
    }

    /// Adds a type, and everything in it; its place.
    fn add(
        &mut self,
        schema: &Schema,
        namespace: Option<&str>,
        names: &mut HashMap<String, usize>,
    ) -> Result<usize, String> {
        if let Schema::Ref { name } = schema {
            let known = names.get(&name.fullname(None)).or_else(|| names.get(&name.fullname(namespace)));
            return known.copied().ok_or_else(|| format!("there is no type {}", name.fullname(namespace)));
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(format!("the schema has more than {NODES_MAX} types"));
        }
        let place = self.nodes.len();
        self.nodes.push(Node::Open);
        if let Some(name) = schema.name() {
            names.insert(name.fullname(namespace), place);
        }
        let inner = schema.name().and_then(|name| name.namespace()).or(namespace);
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Node::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Node::Long,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Node::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Node::Text,
            Schema::Array(array) => Node::Array(self.add(&array.items, inner, names)?),
            Schema::Map(map) => Node::Map(self.add(&map.types, inner, names)?),
            Schema::Union(union) => {
                let variants = union.variants().iter().map(|variant| self.add(variant, inner, names));
                Node::Union(variants.collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => {
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    fields.push((field.name.clone(), self.add(&field.schema, inner, names)?));
                }
                Node::Record(fields)
            }
            Schema::Enum(symbols) => Node::Enum(symbols.symbols.clone()),
            Schema::Uuid(UuidSchema::Fixed(_)) => Node::Uuid,
            Schema::Fixed(fixed) | Schema::Duration(fixed) => Node::Fixed(fixed.size),
            Schema::Decimal(decimal) => {
                let fixed = match &decimal.inner {
                    InnerDecimalSchema::Fixed(fixed) => Some(fixed.size),
                    InnerDecimalSchema::Bytes => None,
                };
                Node::Decimal { scale: decimal.scale, fixed }
            }
            Schema::Ref { .. } => unreachable!("handled above"),
        };
        self.nodes[place] = node;
        Ok(place)
    }

    /// The value as text, whether that is cut, and what its frame says. A value may be framed as a registry's serializers do it, be
    /// a single object, or be the value alone.
    pub(super) fn text(&self, bytes: &[u8], max: usize) -> Result<(String, bool, Option<String>), String> {
        if bytes.first() == Some(&REGISTRY_MAGIC)
            && let Some((header, rest)) = bytes.split_at_checked(REGISTRY_HEADER_LEN)
            && let Ok((text, truncated)) = self.all(rest, max)
        {
            let id = u32::from_be_bytes(header[1..].try_into().map_err(|_| "no header".to_owned())?);
            let note =
                format!("it names schema {id} of a registry, and was decoded with the schema that was given here");
            return Ok((text, truncated, Some(note)));
        }
        if bytes.starts_with(&SINGLE_OBJECT_MARK)
            && let Some(rest) = bytes.get(SINGLE_OBJECT_HEADER_LEN..)
            && let Ok((text, truncated)) = self.all(rest, max)
        {
            return Ok((text, truncated, None));
        }
        self.all(bytes, max).map(|(text, truncated)| (text, truncated, None))
    }

    fn all(&self, bytes: &[u8], max: usize) -> Result<(String, bool), String> {
        let (mut reader, mut out) = (Reader(bytes), Out::new(max));
        self.value(0, &mut reader, &mut out, 0, 0)?;
        if !out.is_full() && !reader.0.is_empty() {
            return Err(format!("{} bytes follow the value", reader.0.len()));
        }
        Ok(out.finish())
    }

    fn value(
        &self,
        node: usize,
        reader: &mut Reader<'_>,
        out: &mut Out,
        indent: usize,
        depth: usize,
    ) -> Result<(), String> {
        if out.is_full() {
            return Ok(());
        }
        if depth > DEPTH_MAX {
            return Err(format!("values in values beyond {DEPTH_MAX} levels"));
        }
        match &self.nodes[node] {
            Node::Open => return Err("the schema has a type that is not described".to_owned()),
            Node::Null => out.push("null"),
            Node::Boolean => match reader.take(1)? {
                [0] => out.push("false"),
                [1] => out.push("true"),
                _ => return Err("a boolean that is neither 0 nor 1".to_owned()),
            },
            Node::Int => {
                let value = i32::try_from(reader.long()?).map_err(|_| "an int of more than 32 bits".to_owned())?;
                out.push(&value.to_string());
            }
            Node::Long => out.push(&reader.long()?.to_string()),
            Node::Float => out.push(&number(f64::from(f32::from_le_bytes(reader.array()?)))),
            Node::Double => out.push(&number(f64::from_le_bytes(reader.array()?))),
            Node::Bytes => out.bytes(reader.bytes()?),
            Node::Text => out.string(reader.text()?),
            Node::Fixed(len) => out.bytes(reader.take(*len)?),
            Node::Uuid => out.string(&uuid::Uuid::from_bytes(reader.array()?).to_string()),
            Node::Decimal { scale, fixed } => {
                let bytes = match fixed {
                    Some(len) => reader.take(*len)?,
                    None => reader.bytes()?,
                };
                decimal(out, bytes, *scale);
            }
            Node::Enum(symbols) => {
                let index = usize::try_from(reader.long()?).ok();
                let symbol = index.and_then(|index| symbols.get(index));
                out.string(symbol.ok_or_else(|| "a symbol that the enum does not have".to_owned())?);
            }
            Node::Union(variants) => {
                let index = usize::try_from(reader.long()?).ok();
                let variant = index.and_then(|index| variants.get(index)).copied();
                let variant = variant.ok_or_else(|| "a branch that the union does not have".to_owned())?;
                self.value(variant, reader, out, indent, depth + 1)?;
            }
            Node::Record(fields) => self.record(fields, reader, out, indent, depth)?,
            Node::Array(items) => self.blocks("[]", *items, reader, out, indent, depth)?,
            Node::Map(values) => self.blocks("{}", *values, reader, out, indent, depth)?,
        }
        Ok(())
    }

    fn record(
        &self,
        fields: &[(String, usize)],
        reader: &mut Reader<'_>,
        out: &mut Out,
        indent: usize,
        depth: usize,
    ) -> Result<(), String> {
        if fields.is_empty() {
            out.push("{}");
            return Ok(());
        }
        out.push("{");
        for (position, (name, node)) in fields.iter().enumerate() {
            out.push(if position == 0 { "" } else { "," });
            out.line(indent + 1);
            out.string(name);
            out.push(": ");
            self.value(*node, reader, out, indent + 1, depth + 1).map_err(|why| within(name, why))?;
        }
        out.line(indent);
        out.push("}");
        Ok(())
    }

    /// An array or a map: blocks of items, each with their number in front; a negative one is followed by the block's length.
    fn blocks(
        &self,
        brackets: &str,
        node: usize,
        reader: &mut Reader<'_>,
        out: &mut Out,
        indent: usize,
        depth: usize,
    ) -> Result<(), String> {
        let (is_map, mut is_first) = (brackets == "{}", true);
        out.push(&brackets[..1]);
        loop {
            let mut count = reader.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                reader.long()?;
                count = count.checked_neg().ok_or_else(|| "a block of too many items".to_owned())?;
            }
            // Each item writes something, so that text that is full ends this, however many there are said to be.
            for _ in 0..count {
                if out.is_full() {
                    return Ok(());
                }
                out.push(if is_first { "" } else { "," });
                is_first = false;
                out.line(indent + 1);
                if is_map {
                    out.string(reader.text()?);
                    out.push(": ");
                }
                self.value(node, reader, out, indent + 1, depth + 1)?;
            }
        }
        if !is_first {
            out.line(indent);
        }
        out.push(&brackets[1..]);
        Ok(())
    }
}

/// Where it went wrong, without growing by each level.
fn within(field: &str, why: String) -> String {
    if why.starts_with("field ") { why } else { format!("field {field:?}: {why}") }
}

/// A number of any scale; of more bytes than anybody counts with as bytes.
fn decimal(out: &mut Out, bytes: &[u8], scale: usize) {
    if bytes.is_empty() || bytes.len() > DECIMAL_BYTES_MAX || scale > 38 {
        return out.bytes(bytes);
    }
    let fill = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = [fill; DECIMAL_BYTES_MAX];
    wide[DECIMAL_BYTES_MAX - bytes.len()..].copy_from_slice(bytes);
    let value = i128::from_be_bytes(wide);
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    let point = if scale == 0 { "" } else { "." };
    out.push(&format!("{sign}{whole}{point}{fraction}"));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let split = self.0.split_at_checked(len);
        let (taken, rest) = split.ok_or_else(|| "the value ends before the schema does".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], String> {
        self.take(LEN)?.try_into().map_err(|_| "the value ends before the schema does".to_owned())
    }

    /// Zigzag in groups of seven bits, the least first.
    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0_u64;
        for position in 0..10 {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number of more than 64 bits".to_owned())
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = usize::try_from(self.long()?).map_err(|_| "a length below 0".to_owned())?;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a string that is no UTF-8".to_owned())
    }
}

#[cfg(test)]
#[path = "avro_tests.rs"]
mod tests;
