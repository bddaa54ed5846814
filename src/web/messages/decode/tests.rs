//! Decoders: what they show of good bytes, and that bad ones cost no more than good ones.

use super::*;
use proptest::prelude::*;

fn shown(bytes: &[u8], wanted: Decoder) -> (&'static str, String) {
    let decoded = decode(bytes, wanted, None, LIST_TEXT_BYTES_MAX);
    assert!(!decoded.truncated, "{decoded:?}");
    (decoded.decoder, decoded.text)
}

#[test]
fn numbers_of_json_stay_as_they_were_written() {
    let text = r#"{"id":9223372036854775807,"big":123456789012345678901234567890,"f":1.10,"e":1E400,"a":[],"o":{}, "s":"a\"}{"}"#;
    let (decoder, pretty) = shown(text.as_bytes(), Decoder::Auto);
    assert_eq!(decoder, "json");
    let lines: Vec<&str> = pretty.lines().collect();
    let expected = [
        "{",
        "  \"id\": 9223372036854775807,",
        "  \"big\": 123456789012345678901234567890,",
        "  \"f\": 1.10,",
        "  \"e\": 1E400,",
        "  \"a\": [],",
        "  \"o\": {},",
        "  \"s\": \"a\\\"}{\"",
        "}",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn bytes_are_recognised() {
    let cases: [(&[u8], &str, &str); 8] = [
        (b"", "empty", ""),
        (b"plain <b>text</b>", "text", "plain <b>text</b>"),
        (b"{not json", "text", "{not json"),
        // {"a": 18446744073709551615}
        (b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "msgpack", "{\n  \"a\": 18446744073709551615\n}"),
        // {"a": -18446744073709551616}
        (b"\xa1\x61a\x3b\xff\xff\xff\xff\xff\xff\xff\xff", "cbor", "{\n  \"a\": -18446744073709551616\n}"),
        (b"\x08\x96\x01", "protobuf", "1: 150"),
        (b"\x0a\x02\x08\x01", "protobuf", "1 {\n  1: 1\n}"),
        (b"\xff\xfe", "hex", "00000000  ff fe                                            .."),
    ];
    for (bytes, decoder, text) in cases {
        assert_eq!(shown(bytes, Decoder::Auto), (decoder, text.to_owned()), "{bytes:?}");
    }
}

#[test]
fn what_does_not_decode_says_why() {
    let decoded = decode(b"plain", Decoder::Json, None, 100);
    assert_eq!((decoded.decoder, decoded.text.as_str()), ("text", "plain"));
    assert!(decoded.note.unwrap().starts_with("no JSON: "));
    let decoded = decode(b"\0\0\0\0\x07abc", Decoder::Auto, None, 100);
    assert_eq!(decoded.decoder, "hex");
    assert!(decoded.note.unwrap().contains("schema 7"));
}

#[test]
fn long_values_are_cut_at_characters() {
    let decoded = decode("é".repeat(100).as_bytes(), Decoder::Auto, None, 33);
    assert_eq!((decoded.text.len(), decoded.truncated, decoded.size_bytes), (32, true, 200));
    let list = format!("[{}1]", "1,".repeat(100_000));
    let decoded = decode(list.as_bytes(), Decoder::Auto, None, LIST_TEXT_BYTES_MAX);
    assert!(decoded.truncated && decoded.text.len() <= LIST_TEXT_BYTES_MAX && decoded.decoder == "json");
}

#[test]
fn depth_is_bounded() {
    let (json, pack, cbor) = ("[".repeat(100_000), vec![0x91; 100_000], vec![0x81; 100_000]);
    let tags = vec![0xc1; 100_000];
    let mut nested = vec![0x08, 0x01];
    while nested.len() < 4_000 {
        let mut outer = vec![0x0a];
        let mut len = nested.len();
        while len >= 0x80 {
            outer.push(len as u8 | 0x80);
            len >>= 7;
        }
        outer.push(len as u8);
        outer.extend(nested);
        nested = outer;
    }
    for bytes in [json.as_bytes(), &pack, &cbor, &tags, &nested] {
        for (_, decoder, _) in DECODERS {
            assert!(decode(bytes, decoder, None, LIST_TEXT_BYTES_MAX).text.len() <= LIST_TEXT_BYTES_MAX);
        }
    }
}

proptest! {
    /// Whatever the bytes are, every decoder shows something of bounded length.
    #[test]
    fn hostile_bytes_are_shown(bytes in prop::collection::vec(any::<u8>(), 0..600), max in 0_usize..2_000) {
        for (_, decoder, _) in DECODERS {
            let decoded = decode(&bytes, decoder, None, max);
            prop_assert!(decoded.text.len() <= max);
            prop_assert_eq!(decoded.size_bytes, bytes.len() as u64);
        }
    }

    /// Indenting changes nothing but the space between tokens.
    #[test]
    fn indented_json_is_the_same_json(text in "\\[(\"[a-z\\\\\\\\n\"]{0,3}\"|-?[1-9]{1,25}|\\{\"k\": ?\\[true, null\\]\\})(,(1|\"é\"))*\\]") {
        if let Ok(before) = serde_json::from_str::<serde_json::Value>(&text) {
            let (pretty, _) = json::pretty(text.as_bytes(), 1 << 20).unwrap();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), before);
        }
    }

    /// MessagePack and CBOR come out as JSON.
    #[test]
    fn binary_maps_come_out_as_json(key in "\\PC{0,8}", number: i64, bytes in prop::collection::vec(any::<u8>(), 0..9)) {
        let value = ciborium::Value::Map(vec![
            (ciborium::Value::Text(key.clone()), ciborium::Value::Integer(number.into())),
            (ciborium::Value::Integer(1.into()), ciborium::Value::Bytes(bytes)),
        ]);
        let mut encoded = Vec::new();
        ciborium::into_writer(&value, &mut encoded).unwrap();
        let decoded = decode(&encoded, Decoder::Cbor, None, 1 << 20);
        prop_assert_eq!(decoded.decoder, "cbor");
        let parsed: serde_json::Value = serde_json::from_str(&decoded.text).unwrap();
        if key != "1" {
            prop_assert_eq!(parsed[&key].as_i64(), Some(number));
        }
    }
}
