//! Listening sockets, one per shard, and the life of their connections.
//!
//! The sockets share one address with `SO_REUSEPORT`, so the kernel spreads new connections over the shards and each
//! stays on its shard. The first socket is bound without that option: if another process listens on the address, the
//! bind fails instead of sharing the clients with it.

use super::close::CloseReason;
use super::connection::{self, Dispatch, Edge};
use super::handlers::fetch_session::SessionCache;
use super::handlers::{self, ConnectionContext, Reply, Request};
use super::limits::EdgeLimits;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::trace;
use futures::future::LocalBoxFuture;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Connections that may wait for `accept` on one socket.
const BACKLOG: i32 = 1024;
/// Pause after a failed `accept` (out of file descriptors or memory): doubles up to the greatest.
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something listens there.
    #[error("{0} is in use by another process; stop it or choose another address")]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {addr}: {error}")]
    Other {
        /// The address.
        addr: SocketAddr,
        /// The system's answer.
        error: io::Error,
    },
}

/// What the connections of a broker need.
#[derive(Debug)]
pub struct EdgeContext {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Host and port that clients are told to use.
    pub advertised: (String, u16),
    /// Incremental fetch sessions.
    pub sessions: Arc<SessionCache>,
    /// Bounds, permits and counters.
    pub edge: Edge,
}

impl EdgeContext {
    /// A context with fresh sessions, permits and counters.
    pub fn new(broker: Arc<Broker>, advertised: (String, u16), limits: EdgeLimits) -> Self {
        Self { broker, advertised, sessions: Arc::default(), edge: Edge::new(limits) }
    }
}

/// Listens on `addr` with one socket per shard; port 0 picks one port for all.
pub fn bind(addr: SocketAddr, shards: usize) -> Result<Vec<TcpListener>, BindError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(addr),
        _ => BindError::Other { addr, error },
    };
    let first = listener(addr, false).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let others = (1..shards).map(|_| listener(bound, true).map_err(failed));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn listener(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Not for sharing: lets a restarted broker bind while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if shared {
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
    } else {
        socket.bind(&addr.into())?;
        socket.set_reuse_port(true)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts and serves connections on this thread's runtime until `shutdown`; then stops accepting, lets the requests in
/// flight finish within the configured time, and returns when the connections are closed. Call it inside a `LocalSet`
/// (an arbiter has one).
pub async fn serve(listener: TcpListener, context: Arc<EdgeContext>, shutdown: CancellationToken) -> io::Result<()> {
    let shared = context.clone();
    let crowded: Rc<dyn Fn() -> bool> = Rc::new(move || shared.edge.is_crowded());
    let make = |peer| {
        HandlerDispatch(Rc::new(ConnectionContext {
            broker: context.broker.clone(),
            peer,
            advertised: context.advertised.clone(),
            sessions: context.sessions.clone(),
            crowded: crowded.clone(),
            sent_away: Default::default(),
        }))
    };
    serve_with(listener, EdgeRef(context.clone()), shutdown, make).await
}

/// Starts the real handlers.
struct HandlerDispatch(Rc<ConnectionContext>);

impl Dispatch for HandlerDispatch {
    fn dispatch(&self, mut request: Request) -> LocalBoxFuture<'static, Reply> {
        let span = trace::request(&mut request, self.0.peer, &self.0.broker.cluster_id);
        if span.is_disabled() {
            return handlers::dispatch(self.0.clone(), request);
        }
        let handler = handlers::dispatch(self.0.clone(), request);
        let told = span.clone();
        let traced = async move {
            let reply = handler.await;
            trace::replied(&told, &reply);
            reply
        };
        Box::pin(traced.instrument(span))
    }
}

/// The edge of a context.
#[derive(Clone)]
struct EdgeRef(Arc<EdgeContext>);

impl AsRef<Edge> for EdgeRef {
    fn as_ref(&self) -> &Edge {
        &self.0.edge
    }
}

/// [`serve`] with other handlers.
pub async fn serve_with<E, D>(
    listener: TcpListener,
    edge: E,
    shutdown: CancellationToken,
    make_dispatch: impl Fn(SocketAddr) -> D,
) -> io::Result<()>
where
    E: AsRef<Edge> + Clone + 'static,
    D: Dispatch + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    let mut backoff = ACCEPT_BACKOFF_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                let Some(open) = Open::admit(edge.clone(), peer) else { continue };
                connections.spawn_local(serve_connection(stream, make_dispatch(peer), open, shutdown.clone()));
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                edge.as_ref().stats.accept_errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "accepting a connection failed; pausing");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A connection that counts as open.
struct Open<E: AsRef<Edge>> {
    edge: E,
    peer: SocketAddr,
}

impl<E: AsRef<Edge>> Open<E> {
    /// Counts the connection, unless there are too many.
    fn admit(edge: E, peer: SocketAddr) -> Option<Self> {
        let (stats, max) = (&edge.as_ref().stats, edge.as_ref().limits.connections_max);
        if stats.connections_open.fetch_add(1, Ordering::Relaxed) >= max {
            stats.connections_open.fetch_sub(1, Ordering::Relaxed);
            stats.connections_refused.fetch_add(1, Ordering::Relaxed);
            if let Some(suppressed) = edge.as_ref().log.admit(Clock::system().wall_ms()) {
                tracing::warn!(%peer, max, suppressed, "too many connections; refused one");
            }
            return None;
        }
        stats.connections_accepted.fetch_add(1, Ordering::Relaxed);
        Some(Self { edge, peer })
    }

    fn log(&self, reason: &CloseReason) {
        let notable = reason.is_protocol_error() || reason.is_stall() || matches!(reason, CloseReason::Handler(_));
        if !notable {
            tracing::debug!(peer = %self.peer, %reason, "connection closed");
        } else if let Some(suppressed) = self.edge.as_ref().log.admit(Clock::system().wall_ms()) {
            tracing::warn!(peer = %self.peer, %reason, suppressed, "connection closed");
        }
    }
}

impl<E: AsRef<Edge>> Drop for Open<E> {
    fn drop(&mut self) {
        self.edge.as_ref().stats.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_connection<E, D>(mut stream: TcpStream, dispatch: D, open: Open<E>, shutdown: CancellationToken)
where
    E: AsRef<Edge>,
    D: Dispatch,
{
    // Failing to set an option is no reason to refuse a client; a dead socket shows at the first read.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_keepalive(true);
    let (reader, writer) = stream.split();
    let reason = connection::run(reader, writer, dispatch, open.edge.as_ref(), &shutdown).await;
    open.log(&reason);
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
