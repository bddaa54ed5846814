//! Which partitions are followed, who reads them, and the bounds: pure, but for the views' own locks.

use crate::actors::partition::view::PartitionView;
use crate::actors::standing::Standing;
use crate::ids::{LeaderEpoch, PartitionKey, WriterId};
use crate::metadata::image::ClusterImage;
use crate::metadata::model::PartitionValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bounds of what is followed.
#[derive(Debug, Clone, Copy)]
pub struct FollowerLimits {
    /// Partitions followed at once.
    pub views_max: usize,
    /// Extents in all views together.
    pub extents_max: usize,
    /// A view that nobody has read for as long is dropped.
    pub idle: Duration,
    /// A writer whose partitions were read this long ago is looked at as if they were being read.
    pub linger: Duration,
}

impl Default for FollowerLimits {
    fn default() -> Self {
        let (idle, linger) = (Duration::from_secs(60), Duration::from_secs(1));
        Self { views_max: 4_096, extents_max: 500_000, idle, linger }
    }
}

/// What a writer's task and those who read its partitions share.
#[derive(Debug)]
pub struct Pulse {
    /// When the writer's key was read last.
    pub standing: Standing,
    /// Somebody has come to read.
    pub wake: Notify,
}

#[derive(Debug)]
enum State {
    /// Somebody waits for it.
    Wanted,
    /// It is served.
    Served(Arc<PartitionView>),
    /// It cannot be served now: too much, or not to be rebuilt.
    Refused,
}

#[derive(Debug)]
struct Place {
    epoch: LeaderEpoch,
    state: State,
    readers: usize,
    used: Instant,
    extents: usize,
}

#[derive(Debug)]
struct Followed {
    pulse: Arc<Pulse>,
    places: BTreeMap<PartitionKey, Place>,
    /// Views are to be made anew.
    load: bool,
}

/// What is known of a partition that somebody wants to read.
#[derive(Debug)]
pub enum Look {
    /// It is served.
    Ready(Arc<PartitionView>),
    /// It will be soon.
    Pending,
    /// It is not.
    Refused,
}

/// A partition as its writer's task sees it.
#[derive(Debug)]
pub struct Work {
    /// The partition.
    pub key: PartitionKey,
    /// Its ownership.
    pub value: Arc<PartitionValue>,
    /// Its view, if it is served already.
    pub view: Option<Arc<PartitionView>>,
}

/// Whether a writer is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Somebody reads.
    Read,
    /// Nobody reads now.
    Idle,
    /// Nothing of it is followed any more.
    Over,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Table {
    limits: FollowerLimits,
    writers: BTreeMap<WriterId, Followed>,
    views: usize,
    extents: usize,
}

impl Table {
    /// Nothing is followed.
    pub fn new(limits: FollowerLimits) -> Self {
        Self { limits, writers: BTreeMap::new(), views: 0, extents: 0 }
    }

    /// Partitions followed, and extents in their views.
    pub fn size(&self) -> (usize, usize) {
        (self.views, self.extents)
    }

    /// Somebody reads a partition of `writer`, claimed under `epoch`. Returns the writer's pulse, and whether it is a new one
    /// that needs a task; `None` if the partition is not served.
    pub fn enter(
        &mut self,
        writer: WriterId,
        key: PartitionKey,
        epoch: LeaderEpoch,
        now: Instant,
        pulse: impl FnOnce() -> Pulse,
    ) -> Option<(Arc<Pulse>, bool)> {
        let is_known = |f: &Followed| f.places.get(&key).is_some_and(|p| p.epoch == epoch);
        if !self.writers.get(&writer).is_some_and(is_known) {
            self.remove(writer, &key);
            if self.views >= self.limits.views_max {
                return None;
            }
        }
        let is_new = !self.writers.contains_key(&writer);
        let followed = self.writers.entry(writer).or_insert_with(|| Followed {
            pulse: Arc::new(pulse()),
            places: BTreeMap::new(),
            load: false,
        });
        let views = &mut self.views;
        let place = followed.places.entry(key).or_insert_with(|| {
            *views += 1;
            Place { epoch, state: State::Wanted, readers: 0, used: now, extents: 0 }
        });
        if matches!(place.state, State::Refused) {
            return None;
        }
        place.readers += 1;
        place.used = now;
        Some((followed.pulse.clone(), is_new))
    }

    /// A reader of [`Self::enter`] is done.
    pub fn leave(&mut self, writer: WriterId, key: &PartitionKey, epoch: LeaderEpoch, now: Instant) {
        if let Some(place) = self.place(writer, key, epoch) {
            place.readers = place.readers.saturating_sub(1);
            place.used = now;
        }
    }

    fn place(&mut self, writer: WriterId, key: &PartitionKey, epoch: LeaderEpoch) -> Option<&mut Place> {
        self.writers.get_mut(&writer)?.places.get_mut(key).filter(|p| p.epoch == epoch)
    }

    /// What is known of a partition; one that is not followed any more is refused.
    pub fn look(&mut self, writer: WriterId, key: &PartitionKey, epoch: LeaderEpoch) -> Look {
        match self.place(writer, key, epoch).map(|p| &p.state) {
            Some(State::Wanted) => Look::Pending,
            Some(State::Served(view)) => Look::Ready(view.clone()),
            Some(State::Refused) | None => Look::Refused,
        }
    }

    /// The writer's views are to be made anew.
    pub fn reload(&mut self, writer: WriterId) {
        if let Some(followed) = self.writers.get_mut(&writer) {
            followed.load = true;
        }
    }

    /// The partitions to look after, and whether views are to be made. Those that the image says are another's, or were
    /// claimed again, are closed.
    pub fn work(&mut self, writer: WriterId, image: &ClusterImage) -> (Vec<Work>, bool) {
        let Some(followed) = self.writers.get_mut(&writer) else { return (Vec::new(), false) };
        let mut load = std::mem::take(&mut followed.load);
        let (mut work, mut moved) = (Vec::new(), Vec::new());
        for (key, place) in &followed.places {
            let value = image.partition(key).filter(|v| v.owner == Some(writer) && v.epoch == place.epoch);
            let view = match (&place.state, value) {
                (_, None) => {
                    moved.push(*key);
                    continue;
                }
                (State::Refused, _) => continue,
                (State::Wanted, _) => None,
                (State::Served(view), _) => Some(view.clone()),
            };
            load |= view.is_none();
            work.extend(value.map(|value| Work { key: *key, value: value.clone(), view }));
        }
        moved.iter().for_each(|key| self.remove(writer, key));
        (work, load)
    }

    /// A partition's view is there, or has now so many extents. What is too much is not served.
    pub fn serve(&mut self, writer: WriterId, view: &Arc<PartitionView>) {
        let extents = view.with_log(|log| log.extents.len());
        let (total, max) = (self.extents, self.limits.extents_max);
        let Some(place) = self.place(writer, &view.key, view.leader_epoch) else { return view.close() };
        let total = total - place.extents + extents;
        if total > max {
            view.close();
            return self.refuse(writer, &view.key, view.leader_epoch);
        }
        place.extents = extents;
        place.state = State::Served(view.clone());
        self.extents = total;
    }

    /// A partition is not served until nobody has asked for it for a while.
    pub fn refuse(&mut self, writer: WriterId, key: &PartitionKey, epoch: LeaderEpoch) {
        let Some(place) = self.place(writer, key, epoch) else { return };
        let extents = std::mem::take(&mut place.extents);
        if let State::Served(view) = std::mem::replace(&mut place.state, State::Refused) {
            view.close();
        }
        self.extents -= extents;
    }

    /// Forgets a partition.
    pub fn remove(&mut self, writer: WriterId, key: &PartitionKey) {
        let Some(place) = self.writers.get_mut(&writer).and_then(|f| f.places.remove(key)) else { return };
        self.forget(place);
    }

    fn forget(&mut self, place: Place) {
        self.views -= 1;
        self.extents -= place.extents;
        if let State::Served(view) = place.state {
            view.close();
        }
    }

    /// Forgets what nobody reads any more, and says how it is with the writer.
    pub fn rest(&mut self, writer: WriterId, now: Instant) -> Rest {
        let FollowerLimits { idle, linger, .. } = self.limits;
        let Some(followed) = self.writers.get_mut(&writer) else { return Rest::Over };
        let places = &followed.places;
        let is_idle = |p: &Place| p.readers == 0 && now.saturating_duration_since(p.used) >= idle;
        let unread: Vec<_> = places.iter().filter(|(_, p)| is_idle(p)).map(|(key, _)| *key).collect();
        let is_read = |p: &Place| {
            let read = p.readers > 0 || now.saturating_duration_since(p.used) < linger;
            read && !matches!(p.state, State::Refused)
        };
        let read = places.values().any(is_read);
        let over = unread.len() == places.len();
        unread.iter().for_each(|key| self.remove(writer, key));
        match (over, read) {
            (true, _) => {
                self.writers.remove(&writer);
                Rest::Over
            }
            (_, true) => Rest::Read,
            _ => Rest::Idle,
        }
    }

    /// Forgets everything of a writer, if it is the one with this pulse.
    pub fn end(&mut self, writer: WriterId, pulse: &Arc<Pulse>) {
        if !self.writers.get(&writer).is_some_and(|f| Arc::ptr_eq(&f.pulse, pulse)) {
            return;
        }
        for place in self.writers.remove(&writer).into_iter().flat_map(|f| f.places.into_values()) {
            self.forget(place);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
