use super::*;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;

const ORDER: &str = r#"{
    "type": "record", "name": "Order", "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {"name": "note", "type": ["null", "string"], "default": null},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "items", "type": {"type": "array", "items": {"type": "record", "name": "Item", "fields": [
            {"name": "sku", "type": "string"}, {"name": "was", "type": ["null", "State"]}
        ]}}},
        {"name": "tags", "type": {"type": "map", "values": "double"}},
        {"name": "raw", "type": {"type": "fixed", "name": "Raw", "size": 2}}
    ]
}"#;

/// A list in which each item holds the next.
const LIST: &str = r#"{"type": "record", "name": "List", "fields": [{"name": "next", "type": ["null", "List"]}]}"#;

/// As the crate's own writer writes it.
fn written(schema: &str, value: Value) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap()
}

fn order() -> Vec<u8> {
    let text = |text: &str| Value::String(text.into());
    let item = Value::Record(vec![
        ("sku".into(), text("a\"b")),
        ("was".into(), Value::Union(1, Box::new(Value::Enum(0, "NEW".into())))),
    ]);
    let value = Value::Record(vec![
        ("id".into(), Value::Long(i64::MIN)),
        ("state".into(), Value::Enum(1, "PAID".into())),
        ("note".into(), Value::Union(0, Box::new(Value::Null))),
        ("total".into(), Value::Decimal(vec![0xff, 0x85].into())),
        ("items".into(), Value::Array(vec![item])),
        ("tags".into(), Value::Map([("x".to_owned(), Value::Double(1.5))].into())),
        ("raw".into(), Value::Fixed(2, vec![1, 0xfe])),
    ]);
    written(ORDER, value)
}

#[test]
fn what_another_program_wrote_is_read() {
    let avro = Avro::parse(ORDER).unwrap();
    let (text, truncated, note) = avro.text(&order(), 10_000).unwrap();
    assert_eq!((truncated, note), (false, None));
    let expected = serde_json::json!({
        "id": i64::MIN, "state": "PAID", "note": null, "total": -1.23, "items": [{ "sku": "a\"b", "was": "NEW" }],
        "tags": { "x": 1.5 }, "raw": "hex:01fe",
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected, "{text}");
}

#[test]
fn frames_are_known() {
    let avro = Avro::parse(ORDER).unwrap();
    let plain = avro.text(&order(), 10_000).unwrap().0;
    let registry = [&[0, 0, 0, 1, 2][..], &order()].concat();
    let (text, _, note) = avro.text(&registry, 10_000).unwrap();
    assert!(text == plain && note.unwrap().contains("schema 258 of a registry"));
    let single = [&[0xc3, 1, 1, 2, 3, 4, 5, 6, 7, 8][..], &order()].concat();
    assert_eq!(avro.text(&single, 10_000).unwrap().0, plain);
}

#[test]
fn what_does_not_fit_says_where() {
    let avro = Avro::parse(ORDER).unwrap();
    let mut more = order();
    more.push(0);
    assert_eq!(avro.text(&more, 10_000).unwrap_err(), "1 bytes follow the value");
    let bytes = order();
    for len in 0..bytes.len() {
        assert!(avro.text(&bytes[..len], 10_000).is_err(), "{len}");
    }
    assert!(avro.text(&[0, 8], 100).unwrap_err().starts_with("field \"state\": a symbol"));
}

#[test]
fn depth_length_and_time_are_bounded() {
    let list = Avro::parse(LIST).unwrap();
    assert!(list.text(&vec![2; 100_000], 1 << 20).unwrap_err().contains("levels"));
    assert_eq!(list.text(&[2, 2, 0], 1_000).unwrap().0.matches("next").count(), 3);
    // 2^61 times nothing.
    let nulls = Avro::parse(r#"{"type": "array", "items": "null"}"#).unwrap();
    let many = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 0];
    let (text, truncated, _) = nulls.text(&many, 5_000).unwrap();
    assert_eq!((text.len(), truncated), (5_000, true));
    let nothing = Avro::parse(r#"{"type": "array", "items": {"type": "record", "name": "E", "fields": []}}"#).unwrap();
    assert!(nothing.text(&many, 5_000).unwrap().1);
    let text = Avro::parse(r#""string""#).unwrap();
    assert!(text.text(&[0xfe, 0xff, 0xff, 0xff, 0x0f, b'a'], 100).is_err(), "a length of gigabytes");
}

#[test]
fn schemas_that_are_none_are_refused() {
    let long = format!("\"{}\"", "a".repeat(SCHEMA_BYTES_MAX));
    let nested = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(500), "}".repeat(500));
    for schema in [
        "",
        "{}",
        "\"nobody\"",
        r#"["int", "int"]"#,
        r#"{"type": "record", "name": "a b", "fields": []}"#,
        &long,
        &nested,
    ] {
        assert!(Avro::parse(schema).is_err(), "{}", &schema[..schema.len().min(60)]);
    }
}

#[test]
fn decimals_are_exact() {
    let shown = |bytes: &[u8], scale| {
        let mut out = Out::new(100);
        decimal(&mut out, bytes, scale);
        out.finish().0
    };
    let cases: [(&[u8], usize, &str); 5] = [
        (&[5], 2, "0.05"),
        (&[0xfb], 0, "-5"),
        (&[0x80, 0], 1, "-3276.8"),
        (&[1; 17], 0, "\"hex:0101010101010101010101010101010101\""),
        (&[], 1, "\"hex:\""),
    ];
    for (bytes, scale, text) in cases {
        assert_eq!(shown(bytes, scale), text);
    }
}

proptest! {
    /// Whatever bytes come, reading ends with text of bounded length or a reason.
    #[test]
    fn hostile_bytes_come_to_an_end(mut bytes in prop::collection::vec(any::<u8>(), 0..300), keep in 0_usize..60, max in 0_usize..2_000) {
        let mut good = order();
        good.truncate(keep);
        good.append(&mut bytes);
        for schema in [ORDER, LIST] {
            if let Ok((text, ..)) = Avro::parse(schema).unwrap().text(&good, max) {
                prop_assert!(text.len() <= max);
            }
        }
    }

    /// Numbers and texts come out as they went in.
    #[test]
    fn values_come_out_as_they_went_in(number: i64, text in "\\PC{0,20}") {
        let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}, {"name": "t", "type": "string"}]}"#;
        let value = Value::Record(vec![("n".into(), Value::Long(number)), ("t".into(), Value::String(text.clone()))]);
        let bytes = written(schema, value);
        let shown = Avro::parse(schema).unwrap().text(&bytes, 1 << 20).unwrap().0;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        prop_assert_eq!(shown, serde_json::json!({ "n": number, "t": text }));
    }
}
