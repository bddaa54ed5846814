//! Text that stops growing.

use std::fmt::Write;

/// Text of at most so many bytes.
#[derive(Debug)]
pub(super) struct Out {
    text: String,
    max: usize,
    is_full: bool,
}

impl Out {
    pub(super) fn new(max: usize) -> Self {
        Self { text: String::new(), max, is_full: false }
    }

    /// Nothing more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn push(&mut self, text: &str) {
        if self.is_full {
            return;
        }
        let room = self.max - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return;
        }
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        self.is_full = true;
    }

    /// A line break and two spaces per level.
    pub(super) fn line(&mut self, depth: usize) {
        self.push("\n");
        for _ in 0..depth {
            self.push("  ");
        }
    }

    /// A string as JSON writes it.
    pub(super) fn string(&mut self, text: &str) {
        self.push("\"");
        let is_special = |c: &char| *c < ' ' || matches!(c, '"' | '\\' | '\u{7f}');
        for run in text.split_inclusive(|c: char| is_special(&c)) {
            if self.is_full {
                return;
            }
            let Some(last) = run.chars().next_back().filter(is_special) else {
                self.push(run);
                continue;
            };
            self.push(&run[..run.len() - last.len_utf8()]);
            match last {
                '"' => self.push("\\\""),
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '\t' => self.push("\\t"),
                other => {
                    let mut escape = String::new();
                    let _infallible = write!(escape, "\\u{:04x}", u32::from(other));
                    self.push(&escape);
                }
            }
        }
        self.push("\"");
    }

    /// Bytes as a string of hexadecimal digits, with a word in front.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.push("\"hex:");
        for byte in bytes {
            if self.is_full {
                return;
            }
            self.push(&format!("{byte:02x}"));
        }
        self.push("\"");
    }

    /// The text, and whether something is missing.
    pub(super) fn finish(self) -> (String, bool) {
        (self.text, self.is_full)
    }
}
