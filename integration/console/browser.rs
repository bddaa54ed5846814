//! What of a browser the tests need: HTTP/1.1 with a cookie, headers that browsers send, and server-sent events.

use crate::harness::wait_until;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(30);
/// How long what is waited for may take.
const UNTIL: Duration = Duration::from_secs(90);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers by small name; of several the last, but all of `set-cookie`.
    pub headers: BTreeMap<String, String>,
    /// Cookies that it sets.
    pub cookies: Vec<String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The code of a problem.
    pub fn code(&self) -> String {
        assert_eq!(self.headers.get("content-type").map(String::as_str), Some("application/problem+json"), "{self:?}");
        self.json()["code"].as_str().expect("a code").to_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// One who uses the console.
#[derive(Debug, Clone)]
pub struct Browser {
    /// host:port
    pub address: String,
    /// What it calls the console; the address unless said otherwise.
    pub host: String,
    /// The session's cookie, as sent back.
    pub cookie: Option<String>,
    /// The token for writing.
    pub csrf: Option<String>,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
}

impl Browser {
    /// Nobody is signed in.
    pub fn new(address: &str) -> Self {
        Self { address: address.into(), host: address.into(), cookie: None, csrf: None, headers: Vec::new() }
    }

    /// The same with a header on every request.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n", self.host);
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(cookie) = &self.cookie {
            head.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        head
    }

    /// One exchange with these headers and this body.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            let head = self.head(method, path, headers, body.len());
            stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await?;
            std::io::Result::Ok(bytes)
        };
        let bytes = tokio::time::timeout(WITHIN, exchange).await.expect("an answer in time");
        parse(&bytes.unwrap_or_else(|e| panic!("{method} {path}: {e}")))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// GET of the API that works.
    pub async fn api(&self, path: &str) -> Value {
        let answer = self.get(&format!("/api/v1{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// POST as a page of the console does it.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(self.csrf.iter().map(|token| ("X-CSRF-Token", token.as_str())));
        self.send("POST", &format!("/api/v1{path}"), &headers, &body.to_string()).await
    }

    /// Tries to sign in; keeps cookie and token if it works.
    pub async fn login(&mut self, username: &str, password: &str) -> Answer {
        let answer = self.post("/auth/login", &json!({ "username": username, "password": password })).await;
        if answer.status == 200 {
            let cookie = answer.cookies.last().expect("a session's cookie");
            self.cookie = cookie.split(';').next().map(str::to_owned);
            self.csrf = answer.json()["csrf_token"].as_str().map(str::to_owned);
        }
        answer
    }

    /// Asks for something on an open connection and reads nothing.
    pub async fn begin(&self, stream: &mut TcpStream, path: &str) {
        let head = self.head("GET", path, &[], 0);
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("it can be written");
    }

    /// Opens a stream of events.
    pub async fn events(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let mut stream = TcpStream::connect(&self.address).await.expect("the console listens");
        let head = self.head("GET", path, headers, 0);
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("it can be written");
        Events { reader: BufReader::new(stream), data: Vec::new() }
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no head in {bytes:?}"));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (mut headers, mut cookies) = (BTreeMap::new(), Vec::new());
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(':').expect("a header");
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "set-cookie" {
            cookies.push(value.clone());
        }
        headers.insert(name, value);
    }
    let body = &bytes[end + 4..];
    let chunked = headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked");
    let body = if chunked { unchunked(body) } else { body.to_vec() };
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, headers, cookies, body }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let length = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..end]), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        all.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
    all
}

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id.
    pub id: Option<u64>,
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// A stream of events.
pub struct Events {
    reader: BufReader<TcpStream>,
    data: Vec<String>,
}

impl Events {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(WITHIN, self.read()).await.expect("an event in time")
    }

    async fn read(&mut self) -> Option<Event> {
        let (mut id, mut name) = (None, None);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).await.unwrap_or(0) == 0 {
                return None;
            }
            let line = line.trim_end();
            if line == "0" {
                return None; // the last chunk
            }
            // Heads and lengths of chunks, comments and `retry` are passed over.
            match line.split_once(": ") {
                Some(("id", text)) => id = text.parse().ok(),
                Some(("event", text)) => name = Some(text.to_owned()),
                Some(("data", text)) => self.data.push(text.to_owned()),
                // Data that goes on in the next chunk begins with its first field.
                _ if !self.data.is_empty() && line.starts_with('"') => self.data.push(line.to_owned()),
                _ => {}
            }
            if let Some(name) = &name
                && !self.data.is_empty()
                && let Ok(data) = serde_json::from_str(&self.data.concat())
            {
                self.data.clear();
                return Some(Event { id, name: name.clone(), data });
            }
        }
    }
}

/// Asks until it holds.
pub async fn until(browser: &Browser, what: &str, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until(what, UNTIL, async || {
        let answer = browser.get(&format!("/api/v1{path}")).await;
        last = answer.json();
        answer.status == 200 && holds(&last)
    })
    .await;
    last
}
