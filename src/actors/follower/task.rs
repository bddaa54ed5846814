//! Follows one writer: reads its key while somebody reads its partitions, and brings their views up to where its head is.

use super::Followers;
use super::plan::{Step, next_step};
use super::table::{Pulse, Rest, Work};
use crate::actors::partition::view::{LogState, PartitionView};
use crate::actors::recovery::{RecoveryError, Seed, append, replay};
use crate::ids::WriterId;
use crate::metadata::MetadataError;
use crate::metadata::model::WriterValue;
use crate::metadata::ownership::OwnershipError;
use crate::storage::StoreError;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause between two reads of a writer's key.
const REFRESH: Duration = Duration::from_millis(150);
/// The pause doubles with each failure in a row, up to so many.
const FAILURES_COUNTED_MAX: u32 = 3;
/// How often views that nobody reads are looked at, to be dropped.
const IDLE_LOOK: Duration = Duration::from_secs(5);

/// Why a writer could not be followed for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// Its key could not be read.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// What it has committed could not be read.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The metadata store says less than it did, or was recovered.
    #[error(
        "the metadata store has an older head than {seen} of the writer, or one that recovery wrote: it is not the one it was"
    )]
    WentBack {
        /// The head it had.
        seen: u64,
    },
}

/// Ends everything of the writer, however the task ends.
struct End {
    followers: Arc<Followers>,
    writer: WriterId,
    pulse: Arc<Pulse>,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(mut table) = self.followers.table.lock() {
            table.end(self.writer, &self.pulse);
        }
        self.followers.tick();
    }
}

/// Runs until nobody has read the writer's partitions for a while, the writer is gone, or this broker drains.
pub(super) async fn run(followers: Arc<Followers>, writer: WriterId, pulse: Arc<Pulse>) {
    let _end = End { followers: followers.clone(), writer, pulse: pulse.clone() };
    let mut seen = None;
    let mut failures = 0;
    loop {
        crate::failpoint::hit("follower.refresh");
        match followers.refresh(writer, &pulse, &mut seen).await {
            Ok(true) => failures = 0,
            Ok(false) => return,
            Err(error) => {
                followers.stats.failures.fetch_add(1, Ordering::Relaxed);
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%writer, %error, "a writer cannot be followed; its consumers are sent to the leader");
                }
                if matches!(error, FollowError::WentBack { .. }) {
                    return;
                }
            }
        }
        followers.tick();
        tokio::time::sleep(REFRESH * (1 << failures.min(FAILURES_COUNTED_MAX))).await;
        loop {
            let rest = followers.table().rest(writer, followers.clock.monotonic());
            match rest {
                Rest::Read => break,
                Rest::Over => return,
                Rest::Idle if tokio::time::timeout(IDLE_LOOK, pulse.wake.notified()).await.is_ok() => break,
                Rest::Idle => {}
            }
        }
    }
}

impl Followers {
    /// Brings the writer's views up to its head. Returns false if nothing of the writer is to be followed any more.
    async fn refresh(
        &self,
        writer: WriterId,
        pulse: &Pulse,
        seen: &mut Option<WriterValue>,
    ) -> Result<bool, FollowError> {
        // The image first: what it says of claims is then not newer than what the writer's key says of a checkpoint.
        let image = self.image.load_full();
        if image.drains(self.me) {
            return Ok(false);
        }
        let asked = self.clock.monotonic();
        let Some((value, revision)) = self.sources.ownership.writer(writer).await? else { return Ok(false) };
        let (work, load) = self.table().work(writer, &image);
        let before = seen.take();
        match next_step(before.as_ref(), &value, load) {
            Step::Nothing => {}
            Step::Slots(slots) => self.go_on(writer, &value, revision, slots, &work).await?,
            Step::Load => self.load(writer, &value, &work).await?,
            Step::WentBack => return Err(FollowError::WentBack { seen: before.map_or(0, |b| b.head.0) }),
        }
        for (work, view) in work.iter().filter_map(|w| Some((w, w.view.as_ref()?))) {
            let (end, log_start) = (view.high_watermark(), work.value.log_start);
            if log_start > view.log_start() && log_start <= end {
                view.update(end, log_start, |log| log.trim(log_start));
            }
        }
        *seen = Some(value);
        self.stats.refreshes.fetch_add(1, Ordering::Relaxed);
        pulse.standing.renewed(asked);
        Ok(true)
    }

    /// Puts newly committed slots behind what views have.
    async fn go_on(
        &self,
        writer: WriterId,
        value: &WriterValue,
        revision: i64,
        slots: RangeInclusive<u64>,
        work: &[Work],
    ) -> Result<(), FollowError> {
        let (copy, primary) = (&self.sources.copy, &self.sources.primary);
        let tails = match copy.tails(writer, value.nonce, slots.clone(), revision).await {
            Err(error) if is_damage(&error) => primary.tails(writer, value.nonce, slots, revision).await,
            tails => tails,
        }?;
        for view in work.iter().filter_map(|w| w.view.as_ref()) {
            let (mut end, mut extents) = (view.high_watermark(), VecDeque::new());
            let mut epochs = view.with_log(|log| log.epochs.clone());
            for (object, index) in &tails {
                if let Ok(position) = index.extents.binary_search_by(|e| e.key.cmp(&view.key)) {
                    end = append(view.key, end, &mut epochs, &mut extents, object, &index.extents[position])?;
                }
            }
            if !extents.is_empty() {
                view.update(end, view.log_start(), |log| {
                    log.extents.extend(extents);
                    log.epochs = epochs;
                });
                self.table().serve(writer, view);
            }
        }
        Ok(())
    }

    /// Makes all views from the writer's checkpoint and the slots behind it, as a successor would.
    async fn load(&self, writer: WriterId, value: &WriterValue, work: &[Work]) -> Result<(), FollowError> {
        let _permit = self.loads.acquire().await.expect("it is never closed");
        self.stats.loads.fetch_add(1, Ordering::Relaxed);
        let (_, revision) = self.sources.metadata.get_prefix(&self.sources.keys.cluster()).await?;
        let log = match self.sources.copy.load(writer, value, revision).await {
            Err(error) if is_damage(&error) => self.sources.primary.load(writer, value, revision).await,
            log => log,
        };
        let logs = BTreeMap::from([(writer, log?)]);
        for Work { key, value, view } in work {
            match replay(*key, Some(value), value.epoch, &logs, self.clock.settled_ms()) {
                Ok(seed) => self.publish(writer, view.as_ref(), seed),
                Err(error) => {
                    tracing::warn!(%key, %error, "the partition cannot be served to consumers of this rack");
                    self.table().refuse(writer, key, value.epoch);
                }
            }
        }
        Ok(())
    }

    fn publish(&self, writer: WriterId, view: Option<&Arc<PartitionView>>, seed: Seed) {
        let Seed { key, leader_epoch, log_start, next_offset, epochs, extents, .. } = seed;
        match view {
            // The writer has given it away: its checkpoint has not what its readers have seen.
            Some(view) if next_offset < view.high_watermark() => self.table().remove(writer, &key),
            Some(view) => {
                view.update(next_offset, log_start.max(view.log_start()), |log| {
                    (log.extents, log.epochs) = (extents, epochs);
                });
                self.table().serve(writer, view);
            }
            None => {
                let log = LogState { extents, tail: VecDeque::new(), epochs };
                let view = PartitionView::new(key, leader_epoch, log_start, next_offset, log);
                self.table().serve(writer, &Arc::new(view));
            }
        }
    }
}

/// True if what the copy delivered may be in order where it was written.
fn is_damage(error: &RecoveryError) -> bool {
    matches!(error, RecoveryError::Store(StoreError::Corrupt { .. }))
}
