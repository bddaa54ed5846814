//! What the protocol edge allows, what it counts, and how often it complains.

use crate::clock::WallMs;
use kafka_protocol::messages::ApiKey;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Bounds of connections and requests. Each is per process unless it says otherwise.
#[derive(Debug, Clone)]
pub struct EdgeLimits {
    /// Longest request, bytes (Kafka's `socket.request.max.bytes`). A longer one closes its connection.
    pub request_bytes_max: usize,
    /// Request bytes that are being read or whose reply is not written yet, for requests longer than 32 KiB. Reads
    /// wait beyond it.
    pub inflight_bytes_max: usize,
    /// The same for requests up to 32 KiB and for the first 32 KiB of longer ones, so that small requests pass while
    /// producers fill the other pool.
    pub inflight_small_bytes_max: usize,
    /// Estimated memory of decoded requests, beyond their bytes, that are large in this respect (many array elements).
    pub decoded_bytes_max: usize,
    /// Reply bytes that wait for slow peers. Beyond it, a peer that stops reading is closed after
    /// [`Self::contended_stall`] instead of [`Self::write_stall`].
    pub reply_bytes_max: usize,
    /// Reply bytes that may wait on one connection before its further requests wait. One reply may exceed it.
    pub connection_reply_bytes_max: usize,
    /// Requests that one connection may have in flight; later ones stay in its socket.
    pub connection_inflight_max: usize,
    /// Open connections. Further ones are closed at once.
    pub connections_max: usize,
    /// How long a new connection may take to its first request.
    pub first_request: Duration,
    /// How long a connection may be idle (Kafka's `connections.max.idle.ms`).
    pub idle: Duration,
    /// How long a peer may pause inside a request.
    pub frame_stall: Duration,
    /// How long a peer may take no byte of a reply that is ready.
    pub write_stall: Duration,
    /// Replaces the two stalls while other connections wait for the memory that the stalled one holds.
    pub contended_stall: Duration,
    /// Slowest allowed transfer of a request or a reply, bytes per second, after the allowed stall.
    pub rate_min: u64,
    /// How long requests in flight may take after the peer closed its side, or after shutdown began.
    pub drain: Duration,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            request_bytes_max: 100 << 20,
            inflight_bytes_max: 192 << 20,
            inflight_small_bytes_max: 64 << 20,
            decoded_bytes_max: 128 << 20,
            reply_bytes_max: 256 << 20,
            connection_reply_bytes_max: 16 << 20,
            connection_inflight_max: 64,
            connections_max: 5_000,
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            frame_stall: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            contended_stall: Duration::from_secs(3),
            rate_min: 32 << 10,
            drain: Duration::from_secs(5),
        }
    }
}

/// API keys below this have a counter of their own.
const KEYS: usize = 128;

/// Counters of the protocol edge, for metrics.
#[derive(Debug)]
pub struct EdgeStats {
    /// Open connections now.
    pub connections_open: AtomicUsize,
    /// Connections accepted since start.
    pub connections_accepted: AtomicU64,
    /// Connections closed at once because there were too many.
    pub connections_refused: AtomicU64,
    /// Connections closed because the peer stalled inside a request or did not read its replies.
    pub connections_stalled: AtomicU64,
    /// Failed `accept` calls.
    pub accept_errors: AtomicU64,
    /// Bytes of complete requests read, with their length prefix.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Reply bytes that are ready but not written, now.
    pub reply_bytes: AtomicUsize,
    /// Connections closed because of bytes that are not a request this broker serves.
    pub protocol_errors: AtomicU64,
    /// Panics of handlers; each closed its connection.
    pub handler_panics: AtomicU64,
    /// Replies that asked the client to wait.
    pub throttles: AtomicU64,
    /// For how long, ms.
    pub throttle_ms: AtomicU64,
    requests: [AtomicU64; KEYS],
}

impl Default for EdgeStats {
    fn default() -> Self {
        Self {
            connections_open: AtomicUsize::default(),
            connections_accepted: AtomicU64::default(),
            connections_refused: AtomicU64::default(),
            connections_stalled: AtomicU64::default(),
            accept_errors: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            reply_bytes: AtomicUsize::default(),
            protocol_errors: AtomicU64::default(),
            handler_panics: AtomicU64::default(),
            throttles: AtomicU64::default(),
            throttle_ms: AtomicU64::default(),
            requests: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl EdgeStats {
    /// Counts a request that goes to its handler.
    pub(crate) fn count_request(&self, api_key: i16) {
        if let Some(counter) = usize::try_from(api_key).ok().and_then(|key| self.requests.get(key)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests since start, by API key; only keys that were used.
    pub fn requests(&self) -> Vec<(ApiKey, u64)> {
        let counted = self.requests.iter().enumerate().map(|(key, n)| (key as i16, n.load(Ordering::Relaxed)));
        counted.filter(|(_, n)| *n > 0).filter_map(|(key, n)| Some((ApiKey::try_from(key).ok()?, n))).collect()
    }
}

/// Lets a few log lines per time through and counts the rest, so that a hostile peer cannot fill the disk.
#[derive(Debug)]
pub struct LogGate {
    lines_max: u64,
    per_ms: i64,
    window: AtomicI64,
    lines: AtomicU64,
    suppressed: AtomicU64,
}

impl Default for LogGate {
    fn default() -> Self {
        Self::new(5, 1_000)
    }
}

impl LogGate {
    /// So many lines in so many milliseconds.
    pub const fn new(lines_max: u64, per_ms: i64) -> Self {
        let (window, lines, suppressed) = (AtomicI64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { lines_max, per_ms, window, lines, suppressed }
    }

    /// Whether to log now; then with the number of lines suppressed since the last one.
    pub fn admit(&self, now_ms: WallMs) -> Option<u64> {
        let window = now_ms / self.per_ms;
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < self.lines_max {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_counts_what_it_suppresses() {
        let gate = LogGate::default();
        let admitted = (0..12).filter(|_| gate.admit(1_500).is_some()).count();
        assert_eq!(admitted, 5);
        assert_eq!(gate.admit(2_000), Some(7));
        assert_eq!(gate.admit(2_001), Some(0));
        let rare = LogGate::new(1, 10_000);
        let admitted = [9_999, 10_000, 19_999, 20_000].map(|now_ms| rare.admit(now_ms));
        assert_eq!(admitted, [Some(0), Some(0), None, Some(1)]);
    }

    #[test]
    fn requests_are_counted_by_key() {
        let stats = EdgeStats::default();
        [0, 0, 18, -1, 999].into_iter().for_each(|key| stats.count_request(key));
        assert_eq!(stats.requests(), [(ApiKey::Produce, 2), (ApiKey::ApiVersions, 1)]);
    }
}
