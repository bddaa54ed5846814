//! What a follower has to read when it has looked at a writer's key: pure.

use crate::metadata::model::{WriterState, WriterValue};
use std::ops::RangeInclusive;

/// What there is to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: views have all that is committed.
    Nothing,
    /// The indexes of these slots.
    Slots(RangeInclusive<u64>),
    /// The checkpoint, and the indexes of the slots behind it.
    Load,
    /// The store says less than it did, or was recovered: it is another one, or was restored.
    WentBack,
}

/// `seen` is what views were made from, `now` what the store says; `load` asks for a new beginning.
pub fn next_step(seen: Option<&WriterValue>, now: &WriterValue, load: bool) -> Step {
    // Recovery wrote that head, whatever was committed; leaders have what it made of the log.
    if now.state == WriterState::Closed {
        return Step::WentBack;
    }
    let Some(seen) = seen else { return Step::Load };
    if now.head < seen.head || now.nonce != seen.nonce {
        return Step::WentBack;
    }
    // The new checkpoint may not name objects that views refer to any more.
    if load || now.checkpoint != seen.checkpoint {
        return Step::Load;
    }
    match now.head > seen.head {
        true => Step::Slots(seen.head.0 + 1..=now.head.0),
        false => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BrokerId, Seq};
    use crate::metadata::model::CheckpointRef;

    fn value(head: u64, checkpoint: Option<u64>) -> WriterValue {
        let checkpoint = checkpoint.map(|seq| CheckpointRef { seq: Seq(seq), key: format!("c/{seq}") });
        WriterValue { v: 1, node: BrokerId(1), state: WriterState::Active, head: Seq(head), nonce: 9, checkpoint }
    }

    fn closed(head: u64) -> WriterValue {
        WriterValue { state: WriterState::Closed, ..value(head, Some(2)) }
    }

    #[test]
    fn what_is_read() {
        let cases = [
            (None, value(4, Some(2)), false, Step::Load),
            (Some(value(4, Some(2))), value(4, Some(2)), false, Step::Nothing),
            (Some(value(4, Some(2))), value(7, Some(2)), false, Step::Slots(5..=7)),
            (Some(value(4, None)), value(5, None), false, Step::Slots(5..=5)),
            (Some(value(4, Some(2))), value(7, Some(6)), false, Step::Load),
            (Some(value(4, None)), value(4, Some(4)), false, Step::Load),
            (Some(value(4, Some(2))), value(4, Some(2)), true, Step::Load),
            (Some(value(4, Some(2))), value(3, Some(2)), false, Step::WentBack),
            (Some(value(4, Some(2))), WriterValue { nonce: 8, ..value(4, Some(2)) }, true, Step::WentBack),
            (Some(value(4, Some(2))), closed(5), false, Step::WentBack),
            (None, closed(5), true, Step::WentBack),
            // A sealed head is final; what it covers is served.
            (
                Some(value(4, Some(2))),
                WriterValue { state: WriterState::Fenced, ..value(5, Some(2)) },
                false,
                Step::Slots(5..=5),
            ),
        ];
        for (n, (seen, now, load, expected)) in cases.into_iter().enumerate() {
            assert_eq!(next_step(seen.as_ref(), &now, load), expected, "case {n}");
        }
    }
}
