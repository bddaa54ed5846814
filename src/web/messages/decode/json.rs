//! JSON, indented. Nothing is parsed into numbers, so that what a producer wrote stays exact however many digits it has.

use super::DEPTH_MAX;
use super::out::Out;

/// Indents `bytes` if they are one JSON value.
pub(super) fn pretty(bytes: &[u8], max: usize) -> Result<(String, bool), String> {
    // Checks all of it without keeping it, and without recursion.
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| e.to_string())?;
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let mut out = Out::new(max);
    let (mut depth, mut rest) = (0_usize, text);
    while !out.is_full() {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let Some(first) = rest.chars().next() else { break };
        let token = match first {
            '"' => string(rest),
            '{' | '[' | '}' | ']' | ':' | ',' => &rest[..1],
            _ => &rest[..rest.find([',', '}', ']', ' ', '\t', '\n', '\r', ':']).unwrap_or(rest.len())],
        };
        rest = &rest[token.len()..];
        match first {
            '{' | '[' => {
                let inside = rest.trim_start_matches([' ', '\t', '\n', '\r']);
                out.push(token);
                if let Some(after) = inside.strip_prefix(['}', ']']) {
                    out.push(&inside[..1]);
                    rest = after;
                } else {
                    depth += 1;
                    out.line(depth.min(DEPTH_MAX));
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                out.line(depth.min(DEPTH_MAX));
                out.push(token);
            }
            ',' => {
                out.push(token);
                out.line(depth.min(DEPTH_MAX));
            }
            ':' => out.push(": "),
            _ => out.push(token),
        }
    }
    Ok(out.finish())
}

/// The string that `text` begins with, its quotes included.
fn string(text: &str) -> &str {
    let mut is_escaped = false;
    for (position, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return &text[..=position],
            _ => {}
        }
    }
    text
}
