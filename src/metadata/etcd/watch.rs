//! Keeps one watch alive: snapshot at a revision, changes from the next revision on, and from the start again
//! whenever that chain may be broken (connection lost, member without leader, compaction, slow receiver).

use super::connection::{Connection, Connections, Failure, text};
use super::{KeyRange, MESSAGE_BYTES_MAX, entry};
use crate::metadata::{Revision, WatchEvent};
use crate::rng;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};

/// Events that wait for a receiver; one that falls behind further gets a snapshot instead.
pub(super) const EVENTS_MAX: usize = 1024;

/// After this long without a message the member is asked whether it still serves the watch.
const SILENCE_MAX: Duration = Duration::from_secs(60);

const BACKOFF_MS_MIN: u64 = 50;
const BACKOFF_MS_MAX: u64 = 5000;

/// Why a watch has to start again, or not.
enum End {
    /// Nobody listens any more.
    ReceiverGone,
    /// The receiver's queue is full; it needs a snapshot once it has room.
    Slow,
    /// The member or the connection failed, after a snapshot was delivered or before.
    Failed { message: String, delivered: bool },
}

/// Runs until the receiver is dropped.
pub(super) async fn run(connections: Arc<Connections>, keys: KeyRange, sender: mpsc::Sender<WatchEvent>) {
    let prefix = &keys.first;
    let mut backoff_ms = BACKOFF_MS_MIN;
    loop {
        let end = tokio::select! {
            end = watch_once(&connections, &keys, &sender) => end,
            () = sender.closed() => End::ReceiverGone,
        };
        match end {
            End::ReceiverGone => return,
            End::Slow => tracing::debug!(prefix, "a watcher fell behind; it gets a snapshot"),
            End::Failed { message, delivered } => {
                backoff_ms = if delivered { BACKOFF_MS_MIN } else { (backoff_ms * 2).min(BACKOFF_MS_MAX) };
                tracing::warn!(prefix, reason = message, "watch interrupted; starting again");
                tokio::select! {
                    () = sleep(Duration::from_millis(rng::jitter_ms(backoff_ms))) => {}
                    () = sender.closed() => return,
                }
            }
        }
    }
}

async fn watch_once(connections: &Connections, keys: &KeyRange, sender: &mpsc::Sender<WatchEvent>) -> End {
    // Room first: a snapshot that waited for a slow receiver would be old.
    let Ok(permit) = sender.reserve().await else { return End::ReceiverGone };
    let (entries, revision) = match connections.get_range(keys).await {
        Ok(found) => found,
        Err(error) => return End::Failed { message: error.to_string(), delivered: false },
    };
    permit.send(WatchEvent::Snapshot { entries, revision });
    let connection = match connections.connection().await {
        Ok(connection) => connection,
        Err(error) => return End::Failed { message: error.to_string(), delivered: false },
    };
    let limit = connections.request_timeout();
    let (message, delivered) = match timeout(limit, open(&connection, keys, revision + 1)).await {
        Ok(Ok(stream)) => match follow(stream, limit, sender).await {
            End::Failed { message, delivered } => (message, delivered),
            end => return end,
        },
        Ok(Err(message)) => (message, false),
        Err(_) => (format!("the watch was not accepted within {limit:?}"), false),
    };
    if Failure::from_words(message.clone()).reconnect {
        connection.fail();
    }
    End::Failed { message, delivered }
}

async fn open(connection: &Connection, keys: &KeyRange, from: Revision) -> Result<WatchStream, String> {
    let options = WatchOptions::new().with_range(keys.end.clone()).with_start_revision(from);
    let mut client = connection.client().watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
    client.watch(keys.start(), Some(options)).await.map_err(|e| text(&e))
}

async fn follow(mut stream: WatchStream, limit: Duration, sender: &mpsc::Sender<WatchEvent>) -> End {
    let mut delivered = false;
    loop {
        let message = match timeout(SILENCE_MAX, stream.message()).await {
            Ok(message) => message,
            Err(_) => {
                if let Err(error) = stream.request_progress().await {
                    return End::Failed { message: text(&error), delivered };
                }
                match timeout(limit, stream.message()).await {
                    Ok(message) => message,
                    Err(_) => return End::Failed { message: format!("no progress within {limit:?}"), delivered },
                }
            }
        };
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return End::Failed { message: "the member ended the watch".to_owned(), delivered },
            Err(error) => return End::Failed { message: text(&error), delivered },
        };
        if response.canceled() {
            let (reason, compacted) = (response.cancel_reason(), response.compact_revision());
            let message = format!("etcd canceled the watch (compacted up to {compacted}): {reason}");
            return End::Failed { message, delivered };
        }
        delivered = true;
        if let Err(end) = deliver(&response, sender) {
            return end;
        }
    }
}

fn deliver(response: &WatchResponse, sender: &mpsc::Sender<WatchEvent>) -> Result<(), End> {
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let entry = entry(kv.clone());
        let change = match event.event_type() {
            EventType::Put => WatchEvent::Put(entry),
            EventType::Delete => WatchEvent::Delete { key: entry.key, revision: entry.mod_revision },
        };
        sender.try_send(change).map_err(|error| match error {
            TrySendError::Full(_) => End::Slow,
            TrySendError::Closed(_) => End::ReceiverGone,
        })?;
    }
    Ok(())
}
