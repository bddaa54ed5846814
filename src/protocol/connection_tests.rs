//! A connection over an in-memory pipe, with handlers that the test scripts and a clock that is paused.

use super::*;
use futures::FutureExt;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::oneshot;

/// Handlers given by a closure.
struct Handlers<F>(F);

impl<F: Fn(Request) -> LocalBoxFuture<'static, Reply>> Dispatch for Handlers<F> {
    fn dispatch(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        (self.0)(request)
    }
}

fn body(bytes: &'static [u8]) -> Reply {
    Reply::Body(vec![Bytes::from_static(bytes)])
}

fn at_once(reply: Reply) -> LocalBoxFuture<'static, Reply> {
    std::future::ready(reply).boxed_local()
}

struct Client(DuplexStream);

impl Client {
    async fn send(&mut self, key: i16, version: i16, correlation_id: i32, body: &[u8]) {
        let null_client_id = [0xff, 0xff];
        let header = [&key.to_be_bytes()[..], &version.to_be_bytes(), &correlation_id.to_be_bytes(), &null_client_id];
        self.send_frame(&[&header.concat(), body].concat()).await;
    }

    async fn send_frame(&mut self, frame: &[u8]) {
        self.0.write_all(&(frame.len() as i32).to_be_bytes()).await.unwrap();
        self.0.write_all(frame).await.unwrap();
    }

    /// Metadata v1 for no topics; any handler will do.
    async fn ask(&mut self, correlation_id: i32) {
        self.send(3, 1, correlation_id, &[0, 0, 0, 0]).await;
    }

    /// Correlation id and the rest of the next response.
    async fn receive(&mut self) -> (i32, Vec<u8>) {
        let mut frame = vec![0; self.0.read_i32().await.unwrap() as usize];
        self.0.read_exact(&mut frame).await.unwrap();
        (i32::from_be_bytes(frame[..4].try_into().unwrap()), frame.split_off(4))
    }

    async fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0; 1]).await.unwrap(), 0, "no further byte");
    }
}

const PIPE_LEN: usize = 64 * 1024;

/// A client and the connection that serves it.
fn connect<F>(edge: &Edge, handlers: F, shutdown: &CancellationToken) -> (Client, impl Future<Output = CloseReason>)
where
    F: Fn(Request) -> LocalBoxFuture<'static, Reply>,
{
    let (client, server) = tokio::io::duplex(PIPE_LEN);
    let (reader, writer) = tokio::io::split(server);
    (Client(client), async move { run(reader, writer, Handlers(handlers), edge, shutdown).await })
}

/// Runs a connection beside `script`; afterwards all that it held must be given back.
async fn drive<F, S, T>(edge: &Edge, handlers: F, shutdown: &CancellationToken, script: S) -> (CloseReason, T)
where
    F: Fn(Request) -> LocalBoxFuture<'static, Reply>,
    S: AsyncFnOnce(Client) -> T,
{
    let (client, serve) = connect(edge, handlers, shutdown);
    let ended = tokio::join!(serve, script(client));
    assert_eq!(edge.budget.used_bytes(), 0, "permits are returned");
    assert_eq!(edge.stats.reply_bytes.load(Ordering::Relaxed), 0, "reply bytes are given back");
    ended
}

async fn simply<S: AsyncFnOnce(Client)>(handlers: impl Fn(Request) -> LocalBoxFuture<'static, Reply>, script: S) {
    let edge = Edge::new(EdgeLimits::default());
    let (reason, ()) = drive(&edge, handlers, &CancellationToken::new(), script).await;
    assert!(matches!(reason, CloseReason::Eof), "{reason}");
}

fn limits() -> EdgeLimits {
    EdgeLimits::default()
}

#[tokio::test(start_paused = true)]
async fn replies_keep_request_order_while_handlers_overlap() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let (release, released) = oneshot::channel::<()>();
    let released = Cell::new(Some(released));
    let handlers = {
        let log = log.clone();
        move |request: Request| {
            let id = request.correlation_id;
            log.borrow_mut().push(format!("created {id}"));
            let (log, wait) = (log.clone(), if id == 1 { released.take() } else { None });
            async move {
                log.borrow_mut().push(format!("polled {id}"));
                if let Some(wait) = wait {
                    wait.await.unwrap();
                }
                log.borrow_mut().push(format!("done {id}"));
                body(b"reply")
            }
            .boxed_local()
        }
    };
    let seen = log.clone();
    simply(handlers, async move |mut client| {
        for id in 1..=3 {
            client.ask(id).await;
        }
        let early = tokio::time::timeout(Duration::from_secs(2), client.0.read_u8()).await;
        assert!(early.is_err(), "nothing overtakes the long poll");
        let before = ["created 1", "polled 1", "created 2", "polled 2", "done 2", "created 3", "polled 3", "done 3"];
        assert_eq!(*seen.borrow(), before);
        release.send(()).unwrap();
        for id in 1..=3 {
            assert_eq!(client.receive().await, (id, b"reply".to_vec()));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_waits_for_what_was_produced_before() {
    let started = Rc::new(RefCell::new(Vec::new()));
    let (release, released) = oneshot::channel::<()>();
    let released = Cell::new(Some(released));
    let log = started.clone();
    let handlers = move |request: Request| {
        log.borrow_mut().push(request.correlation_id);
        let wait = if request.correlation_id == 2 { released.take() } else { None };
        async move {
            if let Some(wait) = wait {
                wait.await.unwrap();
            }
            body(b"reply")
        }
        .boxed_local()
    };
    let seen = started.clone();
    simply(handlers, async move |mut client| {
        let produce = [0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
        for id in 1..=3 {
            client.send(0, 3, id, &produce).await;
        }
        client.send(1, 4, 4, &[0; 21]).await;
        client.send(0, 3, 5, &produce).await;
        assert_eq!(client.receive().await.0, 1);
        let early = tokio::time::timeout(Duration::from_secs(2), client.0.read_u8()).await;
        assert!(early.is_err(), "replies keep their order");
        assert_eq!(*seen.borrow(), [1, 2, 3], "produces overlap, the fetch has not begun");
        release.send(()).unwrap();
        for id in 2..=5 {
            assert_eq!(client.receive().await.0, id);
        }
        assert_eq!(*seen.borrow(), [1, 2, 3, 4, 5]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded() {
    let started = Rc::new(Cell::new(0));
    let counter = started.clone();
    let handlers = move |_| {
        counter.set(counter.get() + 1);
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            body(b"")
        }
        .boxed_local()
    };
    simply(handlers, async move |mut client| {
        for id in 0..200 {
            client.ask(id).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(started.get(), 64);
        for id in 0..200 {
            assert_eq!(client.receive().await.0, id);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn permits_are_held_until_the_reply_is_written() {
    let edge = Edge::new(limits());
    let handlers = |_| {
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Reply::Body(vec![Bytes::from(vec![1; 100_000])])
        }
        .boxed_local()
    };
    let observed = &edge;
    drive(&edge, handlers, &CancellationToken::new(), async move |mut client| {
        let records = [&[0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0][..], &[0; 50_000]].concat();
        client.send(0, 3, 1, &records).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!((50_000..60_000).contains(&observed.budget.used_bytes()), "while the handler runs");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(observed.budget.used_bytes() >= 50_000, "while the peer does not read");
        assert_eq!(observed.stats.reply_bytes.load(Ordering::Relaxed), 100_000);
        assert_eq!(client.receive().await.1.len(), 100_000);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn acks_0_has_no_response() {
    let handlers = |request: Request| at_once(if request.api_key == 0 { Reply::None } else { body(b"metadata") });
    simply(handlers, async |mut client| {
        for _ in 0..100 {
            client.send(0, 3, 1, &[0xff, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await;
        }
        client.ask(2).await;
        assert_eq!(client.receive().await, (2, b"metadata".to_vec()));
    })
    .await;
}

/// KIP-219: the reply comes at once, and what the client sends all the same is not looked at in time.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_asked_to_wait_is_not_read() {
    let throttle = Duration::from_millis(700);
    for with_body in [true, false] {
        let started = Rc::new(RefCell::new(Vec::new()));
        let handlers = {
            let (started, origin) = (started.clone(), clock::monotonic());
            move |request: Request| {
                started.borrow_mut().push((request.correlation_id, (request.received - origin).as_millis()));
                at_once(match request.correlation_id {
                    1 => Reply::Throttled(with_body.then(|| vec![Bytes::from_static(b"slow")]), throttle),
                    _ => body(b"reply"),
                })
            }
        };
        let edge = Edge::new(limits());
        drive(&edge, handlers, &CancellationToken::new(), async |mut client| {
            let begun = clock::monotonic();
            client.ask(1).await;
            if with_body {
                assert_eq!(client.receive().await, (1, b"slow".to_vec()));
                assert!(begun.elapsed() < throttle / 10, "{:?}", begun.elapsed());
            } else {
                tokio::time::sleep(throttle / 10).await; // what is sent with it would be served with it
            }
            client.ask(2).await;
            client.ask(3).await;
            assert_eq!(client.receive().await.0, 2);
            assert!((throttle..throttle * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
            assert_eq!(client.receive().await.0, 3);
        })
        .await;
        // A request counts as received when it is looked at: what it may wait for begins then.
        let started = started.borrow();
        assert!(started[1].0 == 2 && started[1].1 >= throttle.as_millis(), "{started:?}");
        let counted = [&edge.stats.throttles, &edge.stats.throttle_ms].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(counted, [1, 700]);
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_api_versions_are_answered_in_order_and_the_connection_stays() {
    simply(
        |_| at_once(body(b"ok")),
        async |mut client| {
            client.ask(1).await;
            client.send(18, 99, 2, b"whatever this version has").await;
            client.ask(3).await;
            assert_eq!(client.receive().await.0, 1);
            assert_eq!(client.receive().await, (2, vec![0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]));
            assert_eq!(client.receive().await.0, 3);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn flexible_responses_have_a_tagged_header_except_api_versions() {
    simply(
        |request| at_once(Reply::Body(vec![request.body])),
        async |mut client| {
            client.send(3, 9, 1, &[0 /* header tags */, 1, 0, 0, 0, 0]).await;
            assert_eq!(client.receive().await, (1, vec![0, 1, 0, 0, 0, 0]));
            client.send(18, 3, 2, &[0 /* header tags */, 2, b'a', 2, b'b', 0]).await;
            assert_eq!(client.receive().await, (2, vec![2, b'a', 2, b'b', 0]));
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn hostile_requests_close_the_connection_before_any_handler() {
    let huge_metadata = [0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff];
    let huge_produce = [0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff];
    let old_produce = [0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff, 0, 0];
    let unknown_key = [0, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0, 0];
    let framed = |frame: &[u8]| [&(frame.len() as i32).to_be_bytes()[..], frame].concat();
    let inputs = [
        framed(&huge_metadata),
        framed(&huge_produce),
        framed(&old_produce),
        framed(&unknown_key),
        vec![0x7f, 0xff, 0xff, 0xff],
        vec![0xff, 0xff, 0xff, 0xff],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for input in inputs {
        let edge = Edge::new(limits());
        let handlers = |request: Request| {
            assert_eq!(request.correlation_id, 77);
            at_once(body(b"earlier"))
        };
        let bytes = input.clone();
        let (reason, ()) = drive(&edge, handlers, &CancellationToken::new(), async move |mut client| {
            client.ask(77).await;
            client.0.write_all(&bytes).await.unwrap();
            assert_eq!(client.receive().await.0, 77, "earlier requests are answered");
            client.ends().await;
        })
        .await;
        assert!(reason.is_protocol_error(), "{input:?}: {reason}");
        assert_eq!(edge.stats.protocol_errors.load(Ordering::Relaxed), 1);
        assert_eq!(edge.stats.requests(), [(ApiKey::Metadata, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_would_be_large_decoded_is_refused() {
    let edge = Edge::new(EdgeLimits { decoded_bytes_max: 1 << 20, ..limits() });
    let topics = |count: u32| [&count.to_be_bytes()[..], &vec![0; count as usize * 2]].concat();
    let (reason, ()) = drive(
        &edge,
        |_| at_once(body(b"")),
        &CancellationToken::new(),
        async |mut client| {
            client.send(3, 1, 1, &topics(8_000)).await;
            client.receive().await;
            client.send(3, 1, 2, &topics(9_000)).await;
            client.ends().await;
        },
    )
    .await;
    assert!(matches!(reason, CloseReason::TooManyElements { bytes: 1_152_000, .. }), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_closes_its_connection_after_the_earlier_replies() {
    for moment in ["dispatch", "first poll", "later poll"] {
        let edge = Edge::new(limits());
        let handlers = move |request: Request| {
            if request.correlation_id == 1 {
                return at_once(body(b"fine"));
            }
            assert!(request.correlation_id == 2, "nothing after the panic is served");
            assert!(moment != "dispatch", "planted");
            async move {
                assert!(moment != "first poll", "planted");
                tokio::time::sleep(Duration::from_secs(1)).await;
                panic!("planted");
            }
            .boxed_local()
        };
        let (reason, ()) = drive(&edge, handlers, &CancellationToken::new(), async move |mut client| {
            for id in 1..=if moment == "later poll" { 2 } else { 3 } {
                client.ask(id).await;
            }
            assert_eq!(client.receive().await, (1, b"fine".to_vec()));
            client.ends().await;
        })
        .await;
        assert!(matches!(reason, CloseReason::Handler(_)), "{reason}");
        assert_eq!(edge.stats.handler_panics.load(Ordering::Relaxed), 1, "{moment}");
    }
}

/// What the connection ends with when the client does `script` and then nothing, and after how long.
async fn stalled(edge: &Edge, script: impl AsyncFnOnce(&mut Client)) -> (CloseReason, Duration) {
    let started = clock::monotonic();
    let handlers = |_| at_once(Reply::Body(vec![Bytes::from(vec![0; 1 << 20])]));
    let (reason, client) = drive(edge, handlers, &CancellationToken::new(), async |mut client| {
        script(&mut client).await;
        client
    })
    .await;
    drop(client);
    (reason, clock::monotonic() - started)
}

#[tokio::test(start_paused = true)]
async fn peers_that_owe_something_are_closed_in_time() {
    let edge = Edge::new(limits());
    let within = |took: Duration, secs: u64| (secs..=secs + 6).contains(&took.as_secs());

    let (reason, took) = stalled(&edge, async |_| {}).await;
    assert!(matches!(reason, CloseReason::Idle(_)) && within(took, 10), "silent from the start: {took:?}");

    let (reason, took) = stalled(&edge, async |client| client.0.write_all(&[0, 0]).await.unwrap()).await;
    assert!(matches!(reason, CloseReason::Idle(_)) && within(took, 10), "half a length: {took:?}");

    let (reason, took) = stalled(&edge, async |client| {
        client.0.write_all(&[0, 16, 0, 0, 1, 1]).await.unwrap();
    })
    .await;
    assert!(matches!(reason, CloseReason::FrameStalled(0x10_0000)) && within(took, 30), "half a frame: {took:?}");

    let (reason, took) = stalled(&edge, async |client| {
        client.ask(1).await;
        client.receive().await;
    })
    .await;
    assert!(matches!(reason, CloseReason::Idle(_)) && within(took, 600), "idle: {took:?}");

    let (reason, took) = stalled(&edge, async |client| client.ask(1).await).await;
    assert!(matches!(reason, CloseReason::WriteStalled(_)) && within(took, 30), "reads nothing: {took:?}");
    assert_eq!(edge.stats.connections_stalled.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_idle_minutes_count_from_the_last_reply() {
    // A request that takes 20 minutes keeps its connection; ten minutes after its reply the connection is closed.
    let edge = Edge::new(limits());
    let slow = |_| {
        async {
            tokio::time::sleep(Duration::from_secs(1_200)).await;
            body(b"late")
        }
        .boxed_local()
    };
    let (reason, idle) = drive(&edge, slow, &CancellationToken::new(), async |mut client| {
        client.ask(1).await;
        assert_eq!(client.receive().await, (1, b"late".to_vec()));
        let answered = clock::monotonic();
        client.ends().await;
        clock::monotonic() - answered
    })
    .await;
    assert!(matches!(reason, CloseReason::Idle(limit) if limit.as_secs() == 600), "{reason}");
    assert!((600..=606).contains(&idle.as_secs()), "{idle:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_trickles_is_closed() {
    let edge = Edge::new(limits());
    let (reason, took) = stalled(&edge, async |client| {
        client.0.write_all(&100_000i32.to_be_bytes()).await.unwrap();
        while client.0.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    })
    .await;
    assert!(matches!(reason, CloseReason::FrameStalled(_)) && took.as_secs() <= 45, "{reason} {took:?}");
}

#[tokio::test(start_paused = true)]
async fn stalled_peers_make_way_when_others_wait() {
    let edge = Edge::new(EdgeLimits { inflight_bytes_max: 1 << 20, ..limits() });
    let shutdown = CancellationToken::new();
    let (mut client, half) = connect(&edge, |_| at_once(Reply::None), &shutdown);
    client.0.write_all(&(1i32 << 20).to_be_bytes()).await.unwrap();
    client.0.write_all(&[0; 40_000]).await.unwrap();
    let other = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let waited = clock::monotonic();
        drop(edge.budget.large(1 << 20).await);
        clock::monotonic() - waited
    };
    let (reason, waited) = tokio::join!(half, other);
    assert!(matches!(reason, CloseReason::FrameStalled(_)) && waited.as_secs() <= 5, "{reason} {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn replies_that_wait_for_the_peer_are_bounded() {
    let edge = Edge::new(EdgeLimits { connection_reply_bytes_max: 4 << 20, ..limits() });
    let (reason, _) = stalled(&edge, async |client| {
        for id in 0..60 {
            client.ask(id).await;
        }
    })
    .await;
    // Four replies reach the bound, the fifth exceeds it, and reading stops.
    assert!(matches!(reason, CloseReason::WriteStalled(bytes) if bytes == 5 << 20), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_requests_in_flight_finish_but_not_for_ever() {
    for (takes_secs, answered) in [(2, true), (60, false)] {
        let edge = Edge::new(limits());
        let shutdown = CancellationToken::new();
        let handlers = move |_| {
            async move {
                tokio::time::sleep(Duration::from_secs(takes_secs)).await;
                body(b"late")
            }
            .boxed_local()
        };
        let stop = shutdown.clone();
        let started = clock::monotonic();
        let (reason, ()) = drive(&edge, handlers, &shutdown, async move |mut client| {
            client.ask(1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            stop.cancel();
            if answered {
                assert_eq!(client.receive().await, (1, b"late".to_vec()));
            }
            client.ends().await;
        })
        .await;
        assert!(matches!(reason, CloseReason::Shutdown), "{reason}");
        assert!((clock::monotonic() - started).as_secs() <= 6);
    }
}

#[tokio::test(start_paused = true)]
async fn fetches_wait_while_other_peers_do_not_read() {
    let edge = Edge::new(EdgeLimits { reply_bytes_max: 100_000, ..limits() });
    let (started, observed, shutdown) = (clock::monotonic(), &edge, CancellationToken::new());
    let (mut deaf, unread) = connect(&edge, |_| at_once(Reply::Body(vec![vec![0; 1 << 20].into()])), &shutdown);
    let (mut client, fetching) = connect(&edge, |_| at_once(body(b"ok")), &shutdown);
    deaf.ask(1).await;
    let script = async move {
        while observed.stats.reply_bytes.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.ask(1).await;
        assert_eq!(client.receive().await.0, 1);
        assert!((clock::monotonic() - started).as_secs() < 1, "other requests do not wait");
        client.send(1, 4, 2, &[0; 21]).await;
        assert_eq!(client.receive().await.0, 2);
        clock::monotonic() - started
    };
    let (reason, _, took) = tokio::join!(unread, fetching, script);
    assert!(matches!(reason, CloseReason::WriteStalled(_)), "{reason}");
    // The deaf peer is closed after the contended stall, not after the ordinary one.
    assert!((3..10).contains(&took.as_secs()), "{took:?}");
}

proptest::proptest! {
    /// Whatever arrives: no panic, and everything is given back (`drive` asserts it).
    #[test]
    fn any_bytes_are_survived(
        frames in proptest::collection::vec(
            (-1i16..80, 0i16..14, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), 0usize..3),
            0..6,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let edge = Edge::new(limits());
            let handlers = |request: Request| at_once(Reply::Body(vec![request.body]));
            drive(&edge, handlers, &CancellationToken::new(), async move |mut client| {
                for (key, version, rest, lie) in frames {
                    let header = [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0; 4], &rest];
                    let frame = header.concat();
                    let len = (frame.len() + lie) as i32;
                    // The connection may have closed already.
                    let _ = client.0.write_all(&[&len.to_be_bytes()[..], &frame].concat()).await;
                }
            })
            .await;
        });
    }
}
