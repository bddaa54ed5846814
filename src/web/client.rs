//! Who asks: the address of the browser, also behind proxies that are believed, and whether it came over https.

use super::audit::Actor;
use crate::config::console::Network;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::http::header::HeaderMap;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};

/// Hops of X-Forwarded-For that are looked at.
const HOPS_MAX: usize = 16;

/// See the module's documentation. The gate puts it into each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The browser's address, as far as it can be believed.
    pub address: IpAddr,
    /// The browser uses https: said by the proxy in between. A lie makes only the liar's own cookie stricter.
    pub is_https: bool,
}

impl Client {
    /// Of a request that went through the gate.
    pub fn of(request: &HttpRequest) -> Self {
        let unknown = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), is_https: false };
        request.extensions().get::<Self>().copied().unwrap_or(unknown)
    }

    /// Finds out.
    pub fn find(request: &ServiceRequest, trusted: &[Network]) -> Self {
        let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let address = address(peer, request.headers(), trusted);
        let proto = request.headers().get("x-forwarded-proto").and_then(|value| value.to_str().ok());
        Self { address, is_https: proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https")) }
    }
}

/// Goes back from the peer through the proxies that are believed; the first that is none is the client.
fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let believed = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").filter_map(|value| value.to_str().ok()).collect();
    let hops = lines.iter().flat_map(|line| line.split(',')).map(str::trim).collect::<Vec<_>>();
    for hop in hops.into_iter().rev().take(HOPS_MAX) {
        if !believed(address) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(hop) => address = hop.to_canonical(),
            Err(_) => break,
        }
    }
    address
}

/// True if the browser calls this machine its own.
pub fn is_loopback_host(request: &HttpRequest) -> bool {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (name, _) = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).unwrap_or((host, ""));
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromRequest for Actor {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let actor = request.extensions().get::<Self>().cloned();
        ready(actor.ok_or_else(|| super::gate::unauthenticated().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn network(address: &str) -> Network {
        Network::parse(address).unwrap()
    }

    #[test]
    fn proxies_are_believed_only_if_they_are_trusted() {
        let trusted = [network("10.0.0.0/8")];
        let table = [
            ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ];
        for (peer, forwarded, expected) in table {
            let request = TestRequest::get().insert_header(("X-Forwarded-For", forwarded)).to_http_request();
            let found = address(peer.parse().unwrap(), request.headers(), &trusted);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded}");
        }
    }

    #[test]
    fn loopback_is_what_the_browser_calls_so() {
        let table = [
            ("localhost:8080", true),
            ("LOCALHOST", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("localhost.example.com", false),
            ("10.0.0.1:8080", false),
            ("", false),
        ];
        for (host, expected) in table {
            let request = TestRequest::get().insert_header(("Host", host)).to_http_request();
            assert_eq!(is_loopback_host(&request), expected, "{host}");
        }
    }
}
