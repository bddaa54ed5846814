//! The scrub: a slow LIST over everything of the cluster that finds objects no checkpoint ever named.
//!
//! One page per look, one pass at a time, and a long pause between passes: it costs a few requests per minute and is
//! never in anybody's way. It deletes nothing. What [`orphans`](super::orphans) finds, and the object's own first bytes
//! confirm, goes on the garbage list with the next checkpoint, where it ages and is looked at again like all garbage.

use super::orphans::{Facts, Origin};
use super::{Maintenance, MaintenanceError};
use crate::actors::context::NodeContext;
use crate::ids::Seq;
use crate::metadata::MetadataError;
use crate::storage::checkpoint::{Checkpoint, GarbageRecord};
use crate::storage::layout::ParsedKey;
use crate::storage::registered::{REGISTERED_LEN_MAX, Registered};
use crate::storage::segment::{self, HEADER_LEN};
use crate::storage::{Listed, ObjectKey, StoreError};
use futures::{StreamExt, TryStreamExt};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Objects whose first bytes are read at the same time.
const ORIGINS_IN_FLIGHT_MAX: usize = 4;
/// Nominations that wait for the end of the pass before a checkpoint takes them.
const NOMINATED_MAX: usize = 5_000;

/// Where the scrub is.
#[derive(Debug)]
pub struct Scrub {
    /// Last key that was looked at, while a pass is under way.
    cursor: Option<ObjectKey>,
    running: bool,
    /// When the last pass ended, or the writer started.
    ended_at: Instant,
    /// To be put on the garbage list by the next checkpoint.
    pub(super) nominated: Vec<GarbageRecord>,
}

impl Scrub {
    /// The first pass begins as long after `now` as every other after the one before.
    pub fn new(now: Instant) -> Self {
        Self { cursor: None, running: false, ended_at: now, nominated: Vec::new() }
    }
}

impl Maintenance {
    /// Looks at the next page if a pass is due or under way.
    pub async fn scrub_if_due(&mut self) -> Result<(), MaintenanceError> {
        let now = self.context.clock.monotonic();
        if self.scrub.running || now - self.scrub.ended_at >= self.limits.scrub_every {
            self.scrub_page().await?;
        }
        Ok(())
    }

    /// Looks at the next page, or at the first if no pass is under way. True if that ended the pass. After a failure the
    /// same page comes again.
    pub async fn scrub_page(&mut self) -> Result<bool, MaintenanceError> {
        let context = self.context.clone();
        self.scrub.running = true;
        let page = context.store.list(&context.layout.root(), self.scrub.cursor.as_ref()).await?;
        let last = page.last().map(|object| object.key.clone());
        context.stats.scrub_listed_objects.fetch_add(page.len() as u64, Ordering::Relaxed);
        let orphans = self.orphans(page).await?;
        if let Some(first) = orphans.first() {
            let (objects, bytes) = (orphans.len(), orphans.iter().map(|o| o.len).sum::<u64>());
            tracing::info!(objects, bytes, first = %first.key, "objects that nothing ever referred to are garbage");
            context.stats.scrub_orphaned_objects.fetch_add(objects as u64, Ordering::Relaxed);
            context.stats.scrub_orphaned_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let since_ms = context.clock.settled_ms();
        let record = |object: Listed| GarbageRecord { key: object.key.as_str().to_owned(), since_ms };
        self.scrub.nominated.extend(orphans.into_iter().map(record));
        let ended = last.is_none();
        self.scrub.cursor = last;
        if ended {
            self.scrub.running = false;
            self.scrub.ended_at = context.clock.monotonic();
        }
        if self.scrub.nominated.len() >= NOMINATED_MAX || (ended && !self.scrub.nominated.is_empty()) {
            self.checkpoint().await?;
        }
        Ok(ended)
    }

    /// Those objects of a page that are orphans. Whatever they are judged by is read after the page was.
    async fn orphans(&self, page: Vec<Listed>) -> Result<Vec<Listed>, MaintenanceError> {
        let context = &self.context;
        let old_ms = context.clock.settled_ms() - self.limits.scrub_age_ms;
        let parsed = page.into_iter().filter(|object| object.last_modified_ms <= old_ms);
        let parsed = parsed.filter_map(|object| Some((context.layout.parse(&object.key)?, object)));
        let parsed: Vec<(ParsedKey, Listed)> = parsed.collect();
        if parsed.is_empty() {
            return Ok(Vec::new());
        }
        let registration = &context.registration;
        let unavailable = |e: &dyn std::fmt::Display| MetadataError::Unavailable { message: e.to_string() };
        let writers = context.ownership.writers().await.map_err(|e| unavailable(&e))?;
        let partitions = context.ownership.partitions().await.map_err(|e| unavailable(&e))?;
        let writers = writers.into_iter().map(|(id, (value, _))| (id, value)).collect();
        let partitions = partitions.into_iter().map(|(key, (value, _))| (key, value)).collect();
        let facts = Facts::new(registration.writer, registration.nonce, writers, &partitions);
        let referenced = self.references_now();
        let garbage = self.garbage.iter().chain(&self.scrub.nominated).map(|g| ObjectKey::new(g.key.as_str()));
        let garbage: HashSet<ObjectKey> = garbage.collect();
        let judged = parsed
            .into_iter()
            .filter(|(kind, object)| facts.judge(object, Some(kind), &referenced, &garbage, old_ms).is_ok());
        let judged: Vec<_> = judged.collect();
        if judged.is_empty() {
            return Ok(Vec::new());
        }
        let revision = self.still_mine().await?;
        let reads: Vec<_> =
            judged.iter().map(|(kind, object)| read_origin(context.clone(), kind.clone(), object.clone())).collect();
        let origins: Vec<Option<Origin>> =
            futures::stream::iter(reads).buffered(ORIGINS_IN_FLIGHT_MAX).try_collect().await?;
        let confirms = |kind: &ParsedKey, origin: &Option<Origin>| match (kind, origin) {
            (ParsedKey::Probe(_), _) => true, // its content says nothing
            (kind, Some(origin)) => facts.confirms(kind, origin, &context.cluster_id, revision),
            (_, None) => false,
        };
        let (orphans, odd): (Vec<_>, Vec<_>) =
            judged.into_iter().zip(origins).partition(|((kind, _), origin)| confirms(kind, origin));
        if let Some(((_, first), _)) = odd.first() {
            let objects = odd.len();
            let message = "nothing refers to these objects, but they are not what their keys say; they are kept";
            tracing::warn!(objects, first = %first.key, "{message}");
        }
        Ok(orphans.into_iter().map(|((_, object), _)| object).collect())
    }
}

/// What the object's first bytes say, if they say anything.
async fn read_origin(context: Arc<NodeContext>, kind: ParsedKey, object: Listed) -> Result<Option<Origin>, StoreError> {
    let len_max = match kind {
        ParsedKey::Registered(_) => REGISTERED_LEN_MAX,
        _ => Checkpoint::ORIGIN_LEN_MAX.max(HEADER_LEN as u64),
    };
    let len = object.len.min(len_max);
    match context.store.get_range(&object.key, 0..len).await {
        Ok(bytes) => Ok(origin(&kind, &object.key, &bytes)),
        Err(error) if error.is_retriable() => Err(error),
        Err(_gone_or_unreadable) => Ok(None),
    }
}

fn origin(kind: &ParsedKey, key: &ObjectKey, bytes: &[u8]) -> Option<Origin> {
    if matches!(kind, ParsedKey::Checkpoint { .. }) {
        let (cluster_id, writer, nonce, seq, revision_seen) = Checkpoint::origin(bytes)?;
        return Some(Origin { cluster_id, writer, nonce, seq, revision_seen });
    }
    if matches!(kind, ParsedKey::Registered(_)) {
        let found = Registered::decode(key, bytes).ok()?;
        let (writer, nonce) = (found.writer, found.nonce()?);
        return Some(Origin { cluster_id: found.cluster_id, writer, nonce, seq: Seq(0), revision_seen: 0 });
    }
    let header = segment::parse_header(key, bytes).ok()?;
    let (writer, nonce, seq) = (header.writer, header.nonce, header.seq);
    Some(Origin { cluster_id: header.cluster_id, writer, nonce, seq, revision_seen: header.revision_seen })
}
