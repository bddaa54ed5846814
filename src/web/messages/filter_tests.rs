//! Filters: what they see, and what they refuse.

use super::*;
use crate::web::kafka::within;
use proptest::prelude::*;
use std::time::Duration;

const HEADERS: &[(&[u8], Option<&[u8]>)] = &[(b"trace", Some(b"abc")), (b"none", None)];

fn subject(value: &'static [u8]) -> Subject<'static> {
    Subject {
        partition: 3,
        offset: 42,
        timestamp_ms: 1_700_000_000_000,
        key: Some(b"user-7"),
        value: Some(value),
        headers: HEADERS,
        size: 100,
    }
}

fn judge(source: &str, value: &'static [u8]) -> Verdict {
    let filter = Filter::compile(source).unwrap_or_else(|e| panic!("{source}: {e}"));
    filter.judge(&subject(value), within(Duration::from_secs(60)))
}

#[test]
fn expressions_see_the_record() {
    const ORDER: &[u8] =
        br#"{"id":9007199254740993,"items":[{"sku":"a","n":2},{"sku":"b","n":0}],"total":1.5,"who":null}"#;
    let shown = [
        "value.id == 9007199254740993",
        "value.items.exists(i, i.sku == 'b' && i.n == 0)",
        "!value.items.all(i, i.n > 0)",
        "has(value.total) && value.total < 2.0 && !has(value.gone)",
        "value.who == null",
        "key == 'user-7' && key.startsWith('user-') && key.matches('^user-[0-9]+$')",
        "headers.trace == 'abc' && headers['none'] == null && 'trace' in headers",
        "offset == 42 && partition == 3 && timestamp_ms > 1600000000000 && size >= 100",
        "size(value.items) == 2",
    ];
    for source in shown {
        assert_eq!(judge(source, ORDER), Verdict::Shown, "{source}");
    }
    assert_eq!(judge("value.id == 9007199254740992", ORDER), Verdict::Hidden, "numbers stay exact");
    assert_eq!(judge("value.contains('plain')", b"plain text"), Verdict::Shown);
    assert!(matches!(judge("value.id == 1", b"plain"), Verdict::Failed(_)));
    assert!(matches!(judge("value.gone == 1", ORDER), Verdict::Failed(why) if why.contains("gone")));
    assert!(matches!(judge("offset", ORDER), Verdict::Failed(why) if why.contains("bool")));
}

#[test]
fn what_could_be_expensive_is_refused() {
    let long = format!("offset == 1 {}", "|| offset == 2 ".repeat(100));
    let cases = [
        ("value.map(x, x)".to_owned(), "map and filter"),
        ("value.filter(x, x > 1) == []".to_owned(), "map and filter"),
        ("value.exists(x, value.exists(y, x == y))".to_owned(), "in each other"),
        // Brackets of one expression are counted without recursion; lists in lists are not.
        (format!("{}1{}", "[".repeat(100), "]".repeat(100)), "recursion"),
        // Takes gigabytes elsewhere.
        ("!(((!!(((!(((!((((".repeat(6) + "1", ""),
        (format!("{}true", "!//\n".repeat(100)), "at most"),
        ("true ? ".repeat(100), "at most"),
        ("[1].exists(key, key == 1)".to_owned(), "already"),
        (format!("key == 'a'{}", " + 'a'".repeat(20)), "additions"),
        (format!("1{}", "*1".repeat(400)), "operations"),
        (long, "bytes"),
        ("valu == 1".to_owned(), "no variable"),
        ("offset ==".to_owned(), ""),
        (String::new(), ""),
    ];
    for (source, why) in cases {
        let error = Filter::compile(&source).expect_err(&source);
        assert!(error.contains(why), "{source}: {error}");
        assert!(error.len() <= ERROR_BYTES_MAX, "{error}");
    }
}

#[test]
fn no_variable_outlives_the_time_of_a_search() {
    let filter = Filter::compile("offset == 42").unwrap();
    assert!(matches!(filter.judge(&subject(b""), monotonic()), Verdict::Failed(_)));
}

#[test]
fn long_values_are_not_seen() {
    let bytes: &'static [u8] = vec![b'a'; VALUE_BYTES_MAX + 1].leak();
    assert!(matches!(judge("value == ''", bytes), Verdict::Failed(why) if why.contains("longer")));
    assert_eq!(judge("offset == 42", bytes), Verdict::Shown, "what is not named is not looked at");
}

#[test]
fn text_is_found_whatever_its_case() {
    let record = subject(b"The \xff VALUE");
    for (text, found) in [("value", true), ("USER", true), ("Trace", true), ("ABC", true), (".*", false)] {
        assert_eq!(record.contains(&memmem::Needle::new(text).unwrap()), found, "{text}");
    }
    assert!(memmem::Needle::new("").is_none());
}

proptest! {
    /// Whatever is typed, there is an answer.
    #[test]
    fn hostile_expressions_do_no_harm(source in "[a-z0-9()\\[\\]{}!?:.,'\"\\\\ +*<>=&|-]{0,120}") {
        if let Ok(filter) = Filter::compile(&source) {
            filter.judge(&subject(b"{\"a\":[1,2,3]}"), within(Duration::from_secs(5)));
        }
    }
}
