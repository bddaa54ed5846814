//! Kafka's own tools as people would type them, for those who would rather do it there, or write it down.

/// A word for a POSIX shell, whatever is in it.
pub fn word(text: &str) -> String {
    let is_plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b',' | b':' | b'/' | b'=' | b'@');
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    // What would move the cursor or end the line is spelled out, so that the text that is shown is what is run.
    if text.chars().any(char::is_control) {
        let mut quoted = String::from("$'");
        for c in text.chars() {
            match c {
                '\'' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    c.encode_utf8(&mut bytes).bytes().for_each(|b| quoted.push_str(&format!("\\x{b:02x}")));
                }
                c => quoted.push(c),
            }
        }
        quoted.push('\'');
        return quoted;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A command of these words.
pub fn line(tool: &str, bootstrap: &str, words: &[&str]) -> String {
    let bootstrap = if bootstrap.is_empty() { "BROKER:9092" } else { bootstrap };
    let mut line = format!("{tool} --bootstrap-server {}", word(bootstrap));
    for text in words {
        line.push(' ');
        line.push_str(&word(text));
    }
    line
}

/// A value in the list of `--add-config`, which is split at commas outside brackets.
pub fn config(name: &str, value: &str) -> String {
    if value.contains(',') { format!("{name}=[{value}]") } else { format!("{name}={value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_word() {
        assert_eq!(word("orders.v1"), "orders.v1");
        assert_eq!(word(""), "''");
        assert_eq!(word("a b; rm -rf '$x'"), r"'a b; rm -rf '\''$x'\'''");
        assert_eq!(word("a\n'b\\"), r"$'a\x0a\'b\\'");
        assert_eq!(
            line("kafka-topics", "h:1", &["--delete", "--topic", "$(x)"]),
            "kafka-topics --bootstrap-server h:1 --delete --topic '$(x)'"
        );
        assert_eq!(config("cleanup.policy", "compact,delete"), "cleanup.policy=[compact,delete]");
    }
}
