//! Resets that were shown and not done yet. What is done is what was shown, or nothing.

use crate::clock::Clock;
use std::collections::VecDeque;
use std::sync::Mutex;

/// A preview is good for this long, ms.
const AGE_MS: i64 = 600_000;
/// Previews that are remembered.
const PREVIEWS_MAX: usize = 64;
/// Partitions of all of them together.
const PARTITIONS_MAX: usize = 200_000;

/// One partition's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Committed now.
    pub current: Option<i64>,
    /// To be committed; never negative.
    pub new: i64,
    /// End of the partition when it was looked at.
    pub end: i64,
}

/// A reset as it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The group.
    pub group: String,
    /// Who saw it.
    pub who: String,
    /// What it does.
    pub changes: Vec<Change>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Previews {
    clock: Clock,
    kept: Mutex<VecDeque<(String, i64, Preview)>>,
}

impl Previews {
    /// None.
    pub fn new(clock: Clock) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    /// Remembers a preview; the token asks for it.
    pub fn keep(&self, preview: Preview) -> String {
        let token = format!("{:016x}{:016x}", crate::rng::u64(), crate::rng::u64());
        let mut kept = self.kept.lock().expect("no panic under the lock");
        kept.push_back((token.clone(), self.clock.wall_ms(), preview));
        let partitions = |kept: &VecDeque<(String, i64, Preview)>| -> usize {
            kept.iter().map(|(_, _, preview)| preview.changes.len()).sum()
        };
        while kept.len() > 1 && (kept.len() > PREVIEWS_MAX || partitions(&kept) > PARTITIONS_MAX) {
            kept.pop_front();
        }
        token
    }

    /// The preview that this user was shown with the token, for this group; only once.
    pub fn take(&self, token: &str, group: &str, who: &str) -> Option<Preview> {
        let now_ms = self.clock.wall_ms();
        let mut kept = self.kept.lock().expect("no panic under the lock");
        kept.retain(|(_, at_ms, _)| now_ms - at_ms < AGE_MS);
        let is_it = |(t, _, p): &(String, i64, Preview)| t == token && p.group == group && p.who == who;
        let at = kept.iter().position(is_it)?;
        kept.remove(at).map(|(_, _, preview)| preview)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_for_whom_it_was_shown_to_and_once() {
        let previews = Previews::new(Clock::system());
        let preview = Preview { group: "g".into(), who: "ann".into(), changes: Vec::new() };
        let token = previews.keep(preview.clone());
        assert_eq!(previews.take(&token, "g", "bob"), None);
        assert_eq!(previews.take(&token, "h", "ann"), None);
        assert_eq!(previews.take("", "g", "ann"), None);
        assert_eq!(previews.take(&token, "g", "ann"), Some(preview.clone()));
        assert_eq!(previews.take(&token, "g", "ann"), None);
        let first = previews.keep(preview.clone());
        (0..PREVIEWS_MAX).for_each(|_| drop(previews.keep(preview.clone())));
        assert_eq!(previews.take(&first, "g", "ann"), None);
    }
}
