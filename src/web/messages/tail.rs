//! New records as they come, as server-sent events.
//!
//! Records are read when the browser is ready for more, and not before: for one that does not read nothing is kept. One that falls
//! behind by more than [`BEHIND_MAX`] records of a partition is taken to the end and told how many it has missed.

use super::query::Query;
use super::record::Shown;
use super::scan::{From, Scan};
use crate::clock::monotonic;
use crate::web::auth::SignedIn;
use crate::web::auth::actor::Check;
use crate::web::kafka::within;
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use futures::stream;
use serde_json::json;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked for records, and said how many there were.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes of the records of an event; one that is larger comes alone.
const EVENT_BYTES_MAX: usize = 12 << 10;
/// Text of an event, bytes: what remains of its records is left out of the event and counted as missed.
const EVENT_TEXT_BYTES_MAX: usize = 32 << 10;
/// Text of a value, bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// How far behind a reader may be, records of a partition.
const BEHIND_MAX: i64 = 5_000;
/// How often it is looked whether the session is over.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long brokers are waited for.
const READ_WITHIN: Duration = Duration::from_secs(3);

struct Tailing {
    state: web::Data<ConsoleState>,
    signed_in: SignedIn,
    scan: Scan,
    shown: Shown,
    ready: VecDeque<Bytes>,
    dropped: u64,
    counted: (Instant, u64),
    checked: Instant,
    is_over: bool,
}

/// GET `/topics/{name}/tail`.
pub async fn tail(
    state: web::Data<ConsoleState>,
    path: web::Path<String>,
    query: web::Query<Query>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let signed_in = request.extensions().get::<SignedIn>().cloned().ok_or_else(crate::web::gate::unauthenticated)?;
    let shown = Shown { text_bytes_max: TEXT_BYTES_MAX, ..query.shown()? };
    let plan = query.plan(&path, From::Now, 1)?;
    let scan = Scan::open(state.kafka.clone(), plan, within(READ_WITHIN)).await?;
    let now = monotonic();
    let tailing = Tailing {
        state,
        signed_in,
        scan,
        shown,
        ready: VecDeque::from([Bytes::from_static(b"retry: 3000\n\n")]),
        dropped: 0,
        counted: (now, 0),
        checked: now,
        is_over: false,
    };
    let body = stream::unfold(tailing, |mut tailing| async move {
        let bytes = tailing.next().await?;
        Some((Ok::<_, actix_web::Error>(bytes), tailing))
    });
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .content_type("text/event-stream")
        .streaming(body))
}

impl Tailing {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.is_over {
                return None;
            }
            let shutdown = self.state.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => self.end("shutting down"),
                () = self.look() => {}
            }
        }
    }

    async fn look(&mut self) {
        let now = monotonic();
        if now.duration_since(self.checked) >= CHECK_EVERY {
            self.checked = now;
            let check = Check { token: self.signed_in.token, counts: false };
            if self.state.ask_sessions(check).await.is_ok_and(|session| session.is_none()) {
                return self.end("session expired");
            }
        }
        let waited = now.duration_since(self.counted.0);
        if waited >= EVERY {
            self.count(now, waited);
            match self.scan.follow(BEHIND_MAX, within(READ_WITHIN)).await {
                Ok(skipped) => self.dropped += skipped,
                Err(error) => {
                    let partial = json!([{ "source": "brokers", "reason": error.to_string(), "since_ms": null }]);
                    return self.event("partial", &json!({ "partial": partial }));
                }
            }
        }
        let records = self.scan.some(EVENT_BYTES_MAX, within(READ_WITHIN)).await;
        if records.is_empty() {
            tokio::time::sleep_until(self.counted.0 + EVERY).await;
            return;
        }
        let shown = self.shown.clone();
        let texts =
            web::block(move || records.iter().map(|record| record.item(&shown).to_string()).collect::<Vec<_>>());
        let Ok(texts) = texts.await else { return };
        let (mut bytes, mut some) = (0, Vec::with_capacity(texts.len()));
        for text in texts {
            bytes += text.len();
            match bytes <= EVENT_TEXT_BYTES_MAX || some.is_empty() {
                true => some.push(text),
                false => self.dropped += 1,
            }
        }
        let data = format!("event: messages\ndata: {{\"items\":[{}]}}\n\n", some.join(","));
        self.ready.push_back(Bytes::from(data));
    }

    fn count(&mut self, now: Instant, waited: Duration) {
        let scanned = self.scan.scanned_records;
        let per_sec = (scanned - self.counted.1) as f64 / waited.as_secs_f64();
        self.counted = (now, scanned);
        let partial = self.scan.partial();
        let stats = json!({
            "per_sec": per_sec,
            "scanned": scanned.to_string(),
            "dropped": self.dropped.to_string(),
            "partial": partial,
        });
        self.event("stats", &stats);
    }

    fn event(&mut self, name: &str, data: &serde_json::Value) {
        self.ready.push_back(Bytes::from(format!("event: {name}\ndata: {data}\n\n")));
    }

    fn end(&mut self, reason: &str) {
        self.is_over = true;
        self.event("end", &json!({ "reason": reason }));
    }
}
