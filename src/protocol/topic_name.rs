//! Which topic names are valid, as Kafka decides it.

/// Longest name, bytes.
pub const NAME_LEN_MAX: usize = 249;

/// Says what is wrong with a topic name, if anything.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("topic name is empty".to_owned());
    }
    if name == "." || name == ".." {
        return Err("topic name must not be \".\" or \"..\"".to_owned());
    }
    if name.len() > NAME_LEN_MAX {
        return Err(format!("topic name has {} characters, the limit is {NAME_LEN_MAX}", name.len()));
    }
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if !name.bytes().all(legal) {
        return Err(format!("topic name {name:?} has characters other than ASCII letters, digits, '.', '_' and '-'"));
    }
    Ok(())
}

/// True if the names differ at most in '.' against '_': tools that make metric names of topics cannot tell them apart.
pub fn collide(a: &str, b: &str) -> bool {
    let fold = |c: u8| if c == b'.' { b'_' } else { c };
    a.len() == b.len() && a.bytes().map(fold).eq(b.bytes().map(fold))
}

/// True if a name can collide with another one at all.
pub fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "x".repeat(249);
        for good in ["a", "a.b_c-D9", "...", "__consumer_offsets", longest.as_str()] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(250);
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", too_long.as_str()] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(collide("a.b", "a_b") && collide("a.b", "a.b") && !collide("a.b", "a-b") && !collide("a", "a."));
    }
}
