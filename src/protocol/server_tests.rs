//! Listening, connection limits and shutdown on loopback sockets.

use super::*;
use bytes::Bytes;
use futures::FutureExt;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Metadata v1 for no topics, correlation id 5.
const REQUEST: &[u8] = &[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 5, 0xff, 0xff, 0, 0, 0, 0];
const RESPONSE: &[u8] = &[0, 0, 0, 6, 0, 0, 0, 5, b'o', b'k'];

struct Ok2;

impl Dispatch for Ok2 {
    fn dispatch(&self, _: Request) -> LocalBoxFuture<'static, Reply> {
        std::future::ready(Reply::Body(vec![Bytes::from_static(b"ok")])).boxed_local()
    }
}

#[derive(Clone)]
struct Shared(Arc<Edge>);

impl AsRef<Edge> for Shared {
    fn as_ref(&self) -> &Edge {
        &self.0
    }
}

async fn ask(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    stream.write_all(REQUEST).await?;
    let mut response = vec![0; RESPONSE.len()];
    stream.read_exact(&mut response).await?;
    Ok(response)
}

#[test]
fn an_address_in_use_is_refused_and_shards_share_one() {
    let listeners = bind(LOOPBACK, 3).unwrap();
    let addrs: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    assert!(addrs.len() == 3 && addrs.iter().all(|a| *a == addrs[0] && a.port() != 0));
    let error = bind(addrs[0], 2).unwrap_err();
    assert!(matches!(error, BindError::InUse(addr) if addr == addrs[0]), "{error}");
    drop(listeners);
    bind(addrs[0], 1).expect("free again");
}

#[tokio::test]
async fn connections_are_served_limited_and_shut_down() {
    let edge = Shared(Arc::new(Edge::new(EdgeLimits { connections_max: 2, ..EdgeLimits::default() })));
    let stats = edge.clone();
    let count = move |f: fn(&Edge) -> u64| f(&stats.0);
    let mut listeners = bind(LOOPBACK, 2).unwrap();
    let addr = listeners[0].local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let local = LocalSet::new();
    let serving: Vec<_> = listeners
        .drain(..)
        .map(|listener| local.spawn_local(serve_with(listener, edge.clone(), shutdown.clone(), |_| Ok2)))
        .collect();
    let script = async {
        let mut one = TcpStream::connect(addr).await.unwrap();
        let mut two = TcpStream::connect(addr).await.unwrap();
        assert_eq!(ask(&mut one).await.unwrap(), RESPONSE);
        assert_eq!(ask(&mut two).await.unwrap(), RESPONSE);
        let mut three = TcpStream::connect(addr).await.unwrap();
        assert!(ask(&mut three).await.is_err(), "one too many");
        assert_eq!(count(|e| e.stats.connections_refused.load(Ordering::Relaxed)), 1);
        assert_eq!(count(|e| e.stats.connections_accepted.load(Ordering::Relaxed)), 2);
        drop(two);
        while count(|e| e.stats.connections_open.load(Ordering::Relaxed) as u64) > 1 {
            tokio::task::yield_now().await;
        }
        let mut four = TcpStream::connect(addr).await.unwrap();
        assert_eq!(ask(&mut four).await.unwrap(), RESPONSE);

        shutdown.cancel();
        assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0);
        for served in serving {
            served.await.unwrap().unwrap();
        }
        assert!(TcpStream::connect(addr).await.is_err());
        assert_eq!(count(|e| e.stats.connections_open.load(Ordering::Relaxed) as u64), 0);
        let bytes_out = count(|e| e.stats.bytes_out.load(Ordering::Relaxed));
        assert_eq!(bytes_out, 3 * RESPONSE.len() as u64);
        assert_eq!(count(|e| e.stats.bytes_in.load(Ordering::Relaxed)), 3 * REQUEST.len() as u64);
    };
    local.run_until(script).await;
}
