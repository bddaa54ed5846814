//! Ways to break a broker on purpose, one at a time, so that a test can watch its judge reject it
//! (`integration/sabotage.rs`).
//!
//! `KAFSCALE_TEST_SABOTAGE` names one. Builds without debug assertions have none of this: there the variable is as unknown
//! as any other, and [`is`] is false before the program runs. The functions below are called where the damage is done and
//! return what they were given unless their sabotage was chosen.

use crate::actors::partition::producers::Producers;
use crate::actors::partition::view::PartitionView;
use crate::actors::recovery::Seed;
use crate::config::Environment;
use crate::ids::{Offset, Seq, WriterId};
use crate::metadata::Txn;
use crate::protocol::batch::StoredBatch;
use std::sync::OnceLock;

/// The variable that names a [`Sabotage`].
pub const VARIABLE: &str = "KAFSCALE_TEST_SABOTAGE";
/// [`Sabotage::AckBeforeCommit`] commits one head of so many.
const HEADS_PER_COMMIT: u64 = 8;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Batches are acked when their object is durable, before the head covers it.
    AckBeforeCommit,
    /// A partition starts without knowing its idempotent producers.
    ForgetProducers,
    /// A partition starts with the offset of its last record to give away again.
    ReuseOffset,
    /// Recovery stops one slot before the head.
    RecoverShort,
    /// A fetch of three batches or more leaves out the second.
    HoleInFetch,
    /// A partition gives each batch to the writer twice.
    StoreTwice,
    /// Partitions are claimed before a checkpoint has what their former writers had.
    ClaimEarly,
    /// Partitions are claimed although their former writer's checkpoint is not the one they were read from.
    ClaimOutdated,
    /// What was given away is left out of the next checkpoint.
    LetGoEarly,
    /// Objects are deleted without a look at what other brokers refer to.
    CollectBlindly,
    /// The head is moved without a comparison.
    CommitUnfenced,
    /// Partitions are claimed without a comparison.
    ClaimUnfenced,
    /// What groups have committed is written without a comparison.
    WriteGroupsUnfenced,
    /// A segment counts as durable as soon as its upload begins.
    AckBeforePut,
    /// The slots of all writers have the same keys.
    ReuseKey,
    /// Readers and deletion get a new log start before the metadata store has it.
    TrimFirst,
    /// Readers see batches as soon as they are appended.
    ServeAboveHead,
    /// A partition is given away while batches are on their way.
    GiveAwayEarly,
    /// Nobody notices that the metadata store went back to a backup.
    OverlookRollback,
    /// Compaction drops the newest record of a key instead of the older ones.
    CompactNewest,
    /// Compaction drops tombstones without waiting for their delete horizon.
    DropTombstonesEarly,
    /// Compaction leaves what it has compacted before as it is: older values stay, and the tombstones above them go.
    CompactDirtyOnly,
}

static CHOSEN: OnceLock<Sabotage> = OnceLock::new();

fn named(name: &str) -> Option<Sabotage> {
    match name {
        "ack-before-commit" => Some(Sabotage::AckBeforeCommit),
        "forget-producers" => Some(Sabotage::ForgetProducers),
        "reuse-offset" => Some(Sabotage::ReuseOffset),
        "recover-short" => Some(Sabotage::RecoverShort),
        "hole-in-fetch" => Some(Sabotage::HoleInFetch),
        "store-twice" => Some(Sabotage::StoreTwice),
        "claim-early" => Some(Sabotage::ClaimEarly),
        "claim-outdated" => Some(Sabotage::ClaimOutdated),
        "let-go-early" => Some(Sabotage::LetGoEarly),
        "collect-blindly" => Some(Sabotage::CollectBlindly),
        "commit-unfenced" => Some(Sabotage::CommitUnfenced),
        "claim-unfenced" => Some(Sabotage::ClaimUnfenced),
        "write-groups-unfenced" => Some(Sabotage::WriteGroupsUnfenced),
        "ack-before-put" => Some(Sabotage::AckBeforePut),
        "reuse-key" => Some(Sabotage::ReuseKey),
        "trim-first" => Some(Sabotage::TrimFirst),
        "serve-above-head" => Some(Sabotage::ServeAboveHead),
        "give-away-early" => Some(Sabotage::GiveAwayEarly),
        "overlook-rollback" => Some(Sabotage::OverlookRollback),
        "compact-newest" => Some(Sabotage::CompactNewest),
        "drop-tombstones-early" => Some(Sabotage::DropTombstonesEarly),
        "compact-dirty-only" => Some(Sabotage::CompactDirtyOnly),
        _ => None,
    }
}

/// True if this build knows the variable and its value.
pub fn is_choice(name: &str, value: &str) -> bool {
    cfg!(debug_assertions) && name == VARIABLE && named(value).is_some()
}

/// Takes the choice from the environment, once per process.
pub fn choose(environment: &Environment) {
    let chosen = environment.iter().find(|(name, value)| is_choice(name, value)).and_then(|(_, value)| named(value));
    if let Some(sabotage) = chosen {
        eprintln!("this broker is broken on purpose: {sabotage:?}");
        CHOSEN.get_or_init(|| sabotage);
    }
}

/// True if `sabotage` was chosen.
pub fn is(sabotage: Sabotage) -> bool {
    cfg!(debug_assertions) && CHOSEN.get() == Some(&sabotage)
}

/// A transaction, whose comparisons are left out by `sabotage`.
pub fn fenced(sabotage: Sabotage, txn: Txn) -> Txn {
    if is(sabotage) { Txn { compares: Vec::new(), ..txn } } else { txn }
}

/// Whose slot a WAL key names.
pub fn slot_owner(writer: WriterId, nonce: u64) -> (WriterId, u64) {
    if is(Sabotage::ReuseKey) { (WriterId(1), 1) } else { (writer, nonce) }
}

/// True if the commit of `head` is only claimed.
pub fn skips_commit(head: Seq) -> bool {
    is(Sabotage::AckBeforeCommit) && !head.0.is_multiple_of(HEADS_PER_COMMIT)
}

/// The head up to which a writer's log is read.
pub fn recovered_head(head: Seq) -> Seq {
    if is(Sabotage::RecoverShort) { Seq(head.0.saturating_sub(1)) } else { head }
}

/// The high watermark that readers see.
pub fn shown(high_watermark: Offset, view: &PartitionView) -> Offset {
    if is(Sabotage::ServeAboveHead) { view.high_watermark() } else { high_watermark }
}

/// What a partition starts from.
pub fn started_from(mut seed: Seed) -> Seed {
    if is(Sabotage::ForgetProducers) {
        seed.producers = Producers::default();
    }
    if is(Sabotage::ReuseOffset) && seed.next_offset > seed.log_start {
        seed.next_offset = Offset(seed.next_offset.0 - 1);
    }
    seed
}

/// True if compaction drops a record at `offset`, of whose key the newest is at `newest`.
pub fn is_superseded(newest: Offset, offset: Offset) -> bool {
    if is(Sabotage::CompactNewest) { newest >= offset } else { newest > offset }
}

/// The batches of one partition in a fetch.
pub fn fetched(mut batches: Vec<StoredBatch>) -> Vec<StoredBatch> {
    if is(Sabotage::HoleInFetch) && batches.len() > 2 {
        batches.remove(1);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debug_builds_know_the_switch() {
        assert_eq!(is_choice(VARIABLE, "hole-in-fetch"), cfg!(debug_assertions));
        assert!(!is_choice(VARIABLE, "something-else") && !is_choice("KAFSCALE_SABOTAGE", "hole-in-fetch"));
        assert!(!is(Sabotage::HoleInFetch), "nothing is broken unless it is asked for");
    }
}
