//! The live feed: the state of the cluster every 2 s, made once for all pages that are open.
//!
//! A page gets the newest state whenever it is ready for one. One that does not read misses states and is told how many;
//! nothing is kept for it but what the socket holds.

use super::auth::SignedIn;
use super::auth::actor::Check;
use super::problem::Problem;
use super::state::ConsoleState;
use super::{brokers, overview};
use crate::clock::Clock;
use actix::{Actor, AsyncContext, Context, Handler, Message};
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use futures::{Stream, stream};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How often there is a new state.
pub const EVERY: Duration = Duration::from_secs(2);
/// A state that is not older is sent at once to a page that is opened, ms.
const FRESH_MS: i64 = 4_000;
/// The longest silence.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a stream looks whether its session is over, in states.
const CHECK_EVERY: u64 = 5;
/// Browsers come back by themselves after this, ms.
const RETRY_MS: u64 = 3_000;

/// A state.
#[derive(Debug, Default)]
pub struct Tick {
    /// Grows by one; 0 before the first.
    pub id: u64,
    /// When it was made, Unix milliseconds.
    at_ms: i64,
    /// The fields of the event but `dropped`: `"at_ms":…,"overview":…}`.
    rest: Bytes,
}

/// Makes states while somebody looks.
pub struct LiveFeed {
    clock: Clock,
    // The state holds the receiver: holding it strongly would keep it alive for ever.
    state: Weak<ConsoleState>,
    ticks: watch::Sender<Arc<Tick>>,
}

impl LiveFeed {
    /// Publishes into `ticks`.
    pub fn new(clock: Clock, state: Weak<ConsoleState>, ticks: watch::Sender<Arc<Tick>>) -> Self {
        Self { clock, state, ticks }
    }

    fn publish(&self, state: &ConsoleState) {
        let at_ms = self.clock.wall_ms();
        let body = json!({
            "at_ms": at_ms,
            "overview": overview::now(state),
            "brokers": brokers::live(state),
        });
        let text = body.to_string();
        let id = self.ticks.borrow().id + 1;
        // `{` is written with the number of dropped states in front of the rest.
        let rest = Bytes::from(format!("{}\n\n", &text[1..]));
        self.ticks.send_replace(Arc::new(Tick { id, at_ms, rest }));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Next;

impl Actor for LiveFeed {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.notify(Next);
    }
}

impl Handler<Next> for LiveFeed {
    type Result = ();

    fn handle(&mut self, _: Next, context: &mut Context<Self>) {
        if let Some(state) = self.state.upgrade() {
            let pages = state.stats.live_pages.load(Ordering::Relaxed);
            if pages > 0 {
                state.scraped.want(self.clock.wall_ms());
                self.publish(&state);
            }
        }
        context.notify_later(Next, EVERY);
    }
}

/// Counts a page while it is open.
struct Page(web::Data<ConsoleState>);

impl Page {
    fn open(state: web::Data<ConsoleState>) -> Self {
        state.stats.live_pages.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.0.stats.live_pages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far a page is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// The last state that was sent, or that there was before.
    last_id: u64,
    /// States that were not sent.
    dropped: u64,
    /// States that were.
    sent: u64,
}

impl Progress {
    /// State `id` is sent; how many in between were not.
    fn advance(&mut self, id: u64) -> u64 {
        // What there was before the first state of a page was not missed by it.
        let missed = if self.sent == 0 { 0 } else { id - self.last_id - 1 };
        *self = Self { last_id: id, dropped: self.dropped + missed, sent: self.sent + 1 };
        missed
    }
}

struct Following {
    page: Page,
    ticks: watch::Receiver<Arc<Tick>>,
    signed_in: SignedIn,
    progress: Progress,
    ready: VecDeque<Bytes>,
    over: bool,
}

/// GET `/live`.
pub async fn live(state: web::Data<ConsoleState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let signed_in = request.extensions().get::<SignedIn>().cloned().ok_or_else(super::gate::unauthenticated)?;
    let ticks = state.live.clone();
    // What is there may be from when somebody looked last: then the next one counts. A page that comes back has missed what was in
    // between; an id from before a restart of the console says nothing.
    let newest = ticks.borrow().clone();
    let last_id = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let is_fresh = newest.id > 0 && (state.clock.wall_ms() - newest.at_ms).abs() < FRESH_MS;
    let before_id = newest.id - u64::from(is_fresh && last_id != Some(newest.id));
    let dropped = last_id.map_or(0, |last_id| before_id.saturating_sub(last_id));
    let following = Following {
        page: Page::open(state),
        ticks,
        signed_in,
        progress: Progress { last_id: before_id, dropped, sent: 0 },
        ready: VecDeque::from([Bytes::from(format!("retry: {RETRY_MS}\n\n"))]),
        over: false,
    };
    let mut response = HttpResponse::Ok();
    // Proxies that gather answers before they pass them on are asked not to.
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header(("X-Accel-Buffering", "no"));
    Ok(response.content_type("text/event-stream").streaming(events(following)))
}

fn events(following: Following) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    stream::unfold(following, |mut following| async move {
        let bytes = following.next().await?;
        Some((Ok(bytes), following))
    })
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.over {
                return None;
            }
            let shutdown = self.page.0.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => self.end("shutting down"),
                changed = self.newer() => match changed {
                    Some(tick) => self.tick(&tick).await,
                    None => self.end("shutting down"),
                },
                () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(b": ping\n\n")),
            }
        }
    }

    /// The newest state that the browser does not have.
    async fn newer(&mut self) -> Option<Arc<Tick>> {
        loop {
            let tick = self.ticks.borrow_and_update().clone();
            if tick.id > self.progress.last_id {
                return Some(tick);
            }
            self.ticks.changed().await.ok()?;
        }
    }

    async fn tick(&mut self, tick: &Tick) {
        if self.progress.sent.is_multiple_of(CHECK_EVERY) && !self.is_signed_in().await {
            return self.end("session expired");
        }
        let missed = self.progress.advance(tick.id);
        self.page.0.stats.dropped_ticks.fetch_add(missed, Ordering::Relaxed);
        self.ready.push_back(Bytes::from(format!(
            "id: {}\nevent: tick\ndata: {{\"dropped\":{},",
            tick.id, self.progress.dropped
        )));
        self.ready.push_back(tick.rest.clone());
    }

    async fn is_signed_in(&self) -> bool {
        let check = Check { token: self.signed_in.token, counts: false };
        // An actor that is being restarted is asked again with the next state.
        self.page.0.ask_sessions(check).await.map_or(true, |session| session.is_some())
    }

    fn end(&mut self, reason: &str) {
        self.over = true;
        self.ready.push_back(Bytes::from(format!("event: end\ndata: {}\n\n", json!({ "reason": reason }))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_that_is_slow_gets_the_newest_state_and_the_number_of_those_it_missed() {
        let (ticks, mut seen) = watch::channel(Arc::new(Tick::default()));
        let mut progress = Progress::default();
        let mut read = || progress.advance(seen.borrow_and_update().id);
        let publish = |id| drop(ticks.send_replace(Arc::new(Tick { id, at_ms: 0, rest: Bytes::new() })));
        publish(7);
        assert_eq!(read(), 0, "what there was before is not missed");
        (8..=20).for_each(publish);
        assert_eq!(read(), 12);
        publish(21);
        assert_eq!(read(), 0);
        assert_eq!(progress, Progress { last_id: 21, dropped: 12, sent: 3 });
    }
}
