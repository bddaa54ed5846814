//! The network between two processes: a TCP proxy whose directions can be cut one by one, slowed down, or torn.
//!
//! A cut direction delivers nothing and says nothing, as a network that drops packets: bytes on their way are kept and
//! arrive when the direction heals (TCP would send them again), and a new connection is accepted by nobody who answers.
//! Whoever shall notice has to have a time-out. [`Wire::tear`] resets what is connected, as a network that comes back
//! after the endpoints' patience has run out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// How often a connection is tried behind the proxy while nobody listens there.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
/// How long nobody may listen there before the caller is refused.
const DIAL_DEADLINE: Duration = Duration::from_millis(100);

/// What the network does. The caller is who connects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing gets from the caller to the server.
    pub requests_cut: bool,
    /// Nothing gets from the server to the caller.
    pub answers_cut: bool,
    /// Each chunk is held up so long, per direction.
    pub delay: Duration,
    /// Connections of before this number are reset.
    torn: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    weather: Arc<watch::Sender<Weather>>,
    carried: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// A wire to `server` (host:port), which need not listen yet.
    pub async fn to(server: &str) -> Self {
        Self::on(crate::process::free_port(), server).await
    }

    /// The same on a port of the caller's choice.
    pub async fn on(port: u16, server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let carried = Arc::new(AtomicU64::new(0));
        let (server, seen, count) = (server.to_owned(), weather.clone(), carried.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                connections.spawn(carry(caller, server.clone(), seen.subscribe(), count.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, weather, carried, accepting }
    }

    /// Where callers connect to, host:port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of [`Self::address`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes delivered so far, both directions.
    pub fn carried_bytes(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Changes the weather; what is torn stays torn.
    pub fn set(&self, requests_cut: bool, answers_cut: bool, delay: Duration) {
        self.weather.send_modify(|w| *w = Weather { requests_cut, answers_cut, delay, torn: w.torn });
    }

    /// Nothing passes in either direction.
    pub fn cut(&self) {
        self.set(true, true, Duration::ZERO);
    }

    /// Everything passes.
    pub fn heal(&self) {
        self.set(false, false, Duration::ZERO);
    }

    /// Resets all connections there are.
    pub fn tear(&self) {
        self.weather.send_modify(|w| w.torn += 1);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, from its beginning to its end.
async fn carry(mut caller: TcpStream, server: String, mut weather: watch::Receiver<Weather>, carried: Arc<AtomicU64>) {
    let born = weather.borrow_and_update().torn;
    let mut torn = weather.clone();
    let connect = async {
        weather.wait_for(|w| !w.requests_cut && !w.answers_cut).await.ok()?;
        dial(&server).await
    };
    let connected = tokio::select! {
        connected = connect => connected,
        _ = torn.wait_for(|w| w.torn > born) => None,
    };
    let Some(mut server) = connected else {
        let _ = caller.set_zero_linger();
        return;
    };
    let _ = (caller.set_nodelay(true), server.set_nodelay(true));
    let ((from_caller, to_caller), (from_server, to_server)) = (caller.split(), server.split());
    let is_torn = tokio::select! {
        () = pump(from_caller, to_server, weather.clone(), |w| w.requests_cut, &carried) => false,
        () = pump(from_server, to_caller, weather.clone(), |w| w.answers_cut, &carried) => false,
        _ = torn.wait_for(|w| w.torn > born) => true,
    };
    if is_torn {
        // Closing them is a reset then.
        let _ = (caller.set_zero_linger(), server.set_zero_linger());
    }
}

/// Connects to a server that may be starting.
async fn dial(server: &str) -> Option<TcpStream> {
    let give_up = kafscale::clock::monotonic() + DIAL_DEADLINE;
    loop {
        match TcpStream::connect(server).await {
            Ok(stream) => return Some(stream),
            Err(_) if kafscale::clock::monotonic() < give_up => tokio::time::sleep(DIAL_PAUSE).await,
            Err(_) => return None,
        }
    }
}

/// Carries one direction until it ends or fails. When it ends in order, what it carried has been delivered; the other
/// direction ends with it, which is all that protocols of requests and answers need.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    is_cut: fn(&Weather) -> bool,
    carried: &AtomicU64,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        // An end of the connection does not get through either.
        let read = from.read(&mut chunk).await.unwrap_or(0);
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if weather.wait_for(|w| !is_cut(w)).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
        carried.fetch_add(read as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);

    /// Echoes each byte.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn exchange(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte]).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn each_direction_is_cut_by_itself_and_heals() {
        let wire = Wire::to(&echo().await).await;
        let mut stream = TcpStream::connect(wire.address()).await.unwrap();
        assert_eq!(exchange(&mut stream, 1).await.unwrap(), 1);
        assert_eq!(wire.carried_bytes(), 2);
        for (requests_cut, answers_cut, delivered) in [(true, false, 0), (false, true, 1), (true, true, 0)] {
            wire.set(requests_cut, answers_cut, Duration::ZERO);
            let before = wire.carried_bytes();
            stream.write_all(&[2]).await.unwrap();
            while wire.carried_bytes() < before + delivered {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
            assert_eq!(wire.carried_bytes(), before + delivered);
            wire.heal();
            assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), 2);
        }
    }

    #[tokio::test]
    async fn torn_connections_end_and_new_ones_work() {
        let wire = Wire::to(&echo().await).await;
        let mut old = TcpStream::connect(wire.address()).await.unwrap();
        assert_eq!(exchange(&mut old, 1).await.unwrap(), 1);
        wire.cut();
        let mut waiting = TcpStream::connect(wire.address()).await.unwrap();
        waiting.write_all(&[3]).await.unwrap();
        wire.heal();
        assert_eq!(timeout(SOON, waiting.read_u8()).await.unwrap().unwrap(), 3);
        wire.tear();
        assert!(timeout(SOON, old.read_u8()).await.unwrap().is_err());
        let mut new = TcpStream::connect(wire.address()).await.unwrap();
        assert_eq!(exchange(&mut new, 4).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn nobody_behind_is_a_closed_connection() {
        let port = crate::process::free_port();
        let wire = Wire::to(&format!("127.0.0.1:{port}")).await;
        let mut stream = TcpStream::connect(wire.address()).await.unwrap();
        assert!(timeout(SOON, stream.read_u8()).await.unwrap().is_err());
    }
}
