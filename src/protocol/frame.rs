//! Reads length-prefixed requests from a stream, and the header of a request from its frame.
//!
//! Memory follows what arrived, not what was announced. Bytes are first read into a buffer that all connections of a
//! thread share, so an idle connection holds none; what is read is copied once, into a buffer of its size. A request
//! longer than [`SMALL_LEN_MAX`] gets a buffer of its own when its first bytes are there, and the rest of it is read
//! straight into that buffer. Permits are taken before each of the two steps ([`super::budget`]).

use super::api::{self, Api};
use super::budget::{Permit, RequestBudget, SMALL_LEN_MAX};
use super::guard::{self, GuardError};
use crate::clock;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Instant;

/// Length of the length prefix, bytes.
const PREFIX_LEN: usize = 4;
/// Shortest request: API key, version, correlation id and a null client id. Bytes.
const REQUEST_LEN_MIN: usize = 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SMALL_LEN_MAX]);
}

/// Why no request could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix is out of range.
    #[error("request length {len} is not between {REQUEST_LEN_MIN} and {max} bytes")]
    Length {
        /// As announced.
        len: i32,
        /// The limit.
        max: usize,
    },
    /// The peer closed the stream inside a request.
    #[error("the peer closed the connection inside a request")]
    Truncated,
    /// The socket failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// A request as read.
#[derive(Debug)]
pub struct Frame {
    /// Header and body.
    pub bytes: Bytes,
    /// Accounts for the bytes.
    pub permit: Permit,
    /// When it was complete.
    pub received: Instant,
}

/// What a reader is doing, for whoever judges its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// Inside a request: the peer owes bytes.
    InFrame,
    /// The broker does not want bytes now.
    Waiting,
}

/// Progress of a reader.
#[derive(Debug)]
pub struct ReadProgress {
    /// What it does.
    pub phase: Cell<Phase>,
    /// When it last got bytes or last changed what it does.
    pub since: Cell<Instant>,
    /// When the current request began.
    pub frame_started: Cell<Instant>,
    /// Announced length of the current request; 0 before it is known.
    pub frame_len: Cell<usize>,
}

impl ReadProgress {
    /// Idle as of now.
    pub fn new() -> Self {
        let now = clock::monotonic();
        Self {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            frame_started: Cell::new(now),
            frame_len: Cell::new(0),
        }
    }

    /// Enters `phase` now.
    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(clock::monotonic());
    }

    /// Awaits permits or room, during which the peer owes nothing.
    async fn waiting<T>(&self, future: impl Future<Output = T>) -> T {
        self.phase.set(Phase::Waiting);
        let output = future.await;
        self.enter(Phase::InFrame);
        output
    }
}

impl Default for ReadProgress {
    fn default() -> Self {
        Self::new()
    }
}

/// Splits a stream into requests.
#[derive(Debug)]
pub struct FrameReader<R> {
    io: R,
    /// Bytes read but not returned; at most two small requests long.
    carry: BytesMut,
    request_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads requests of up to `request_bytes_max` from `io`.
    pub fn new(io: R, request_bytes_max: usize) -> Self {
        Self { io, carry: BytesMut::new(), request_bytes_max }
    }

    /// The next request; `None` if the peer closed the stream between two.
    pub async fn next(&mut self, budget: &RequestBudget, progress: &ReadProgress) -> Result<Option<Frame>, FrameError> {
        progress.frame_len.set(0);
        progress.enter(if self.carry.is_empty() { Phase::Idle } else { Phase::InFrame });
        progress.frame_started.set(progress.since.get());
        while self.carry.len() < PREFIX_LEN {
            let started = !self.carry.is_empty();
            match self.fill(progress).await? {
                0 if started => return Err(FrameError::Truncated),
                0 => return Ok(None),
                _ if !started => progress.frame_started.set(progress.since.get()),
                _ => {}
            }
        }
        let announced = i32::from_be_bytes(self.carry[..PREFIX_LEN].try_into().expect("four bytes"));
        let len = usize::try_from(announced).unwrap_or(0);
        if !(REQUEST_LEN_MIN..=self.request_bytes_max).contains(&len) {
            return Err(FrameError::Length { len: announced, max: self.request_bytes_max });
        }
        progress.frame_len.set(len);
        let (bytes, permit) = if len <= SMALL_LEN_MAX {
            let permit = progress.waiting(budget.small(len)).await;
            self.fill_to(PREFIX_LEN + len, progress).await?;
            (self.take_small(len), permit)
        } else {
            let head = progress.waiting(budget.head()).await;
            self.fill_to(PREFIX_LEN + SMALL_LEN_MAX, progress).await?;
            let permit = progress.waiting(budget.large(len)).await;
            drop(head);
            (self.read_large(len, progress).await?, permit)
        };
        Ok(Some(Frame { bytes, permit, received: progress.since.get() }))
    }

    /// Reads until at least `len` bytes are carried.
    async fn fill_to(&mut self, len: usize, progress: &ReadProgress) -> Result<(), FrameError> {
        while self.carry.len() < len {
            if self.fill(progress).await? == 0 {
                return Err(FrameError::Truncated);
            }
        }
        Ok(())
    }

    /// Reads once, what there is, up to the size of the shared buffer.
    async fn fill(&mut self, progress: &ReadProgress) -> io::Result<usize> {
        let count = poll_fn(|cx| self.poll_fill(cx)).await?;
        progress.enter(Phase::InFrame);
        Ok(count)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.carry.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Takes a request of `len` bytes that is carried completely.
    fn take_small(&mut self, len: usize) -> Bytes {
        self.carry.advance(PREFIX_LEN);
        if self.carry.len() == len {
            // Leaves no capacity behind: an idle connection holds no buffer.
            return std::mem::take(&mut self.carry).freeze();
        }
        self.carry.split_to(len).freeze()
    }

    /// Moves the carried part of a request of `len` bytes to a buffer of its own and reads the rest into it.
    async fn read_large(&mut self, len: usize, progress: &ReadProgress) -> Result<Bytes, FrameError> {
        self.carry.advance(PREFIX_LEN);
        let mut frame = BytesMut::with_capacity(len);
        let carried = len.min(self.carry.len());
        frame.put_slice(&self.carry[..carried]);
        self.carry.advance(carried);
        if self.carry.is_empty() {
            self.carry = BytesMut::new();
        }
        while frame.len() < len {
            let missing = len - frame.len();
            if self.io.read_buf(&mut (&mut frame).limit(missing)).await? == 0 {
                return Err(FrameError::Truncated);
            }
            progress.since.set(clock::monotonic());
        }
        Ok(frame.freeze())
    }
}

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub api: &'static Api,
    /// In which version; served.
    pub version: i16,
    /// Goes into the reply.
    pub correlation_id: i32,
    /// Client id.
    pub client_id: Option<String>,
    /// Where the body begins.
    pub len: usize,
}

/// Why a request is not served; its connection is closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// ApiVersions in a version this broker does not know: answered, not refused.
    #[error("ApiVersions version {version} is unknown")]
    ApiVersions {
        /// As sent.
        version: i16,
        /// Goes into the reply.
        correlation_id: i32,
    },
    /// The key or the version is not served.
    #[error("api key {key} version {version} is not served")]
    NotServed {
        /// API key.
        key: i16,
        /// Version.
        version: i16,
    },
    /// Shorter than any header.
    #[error("a request of {0} bytes has no complete header")]
    Short(usize),
    /// The client id is not text or longer than the request.
    #[error("the client id is malformed")]
    ClientId,
    /// The tagged fields of the header are malformed.
    #[error("the header's tagged fields are malformed: {0}")]
    Tags(#[from] GuardError),
}

/// Reads the header at the start of a frame.
pub fn read_header(frame: &[u8]) -> Result<Header, HeaderError> {
    if frame.len() < REQUEST_LEN_MIN {
        return Err(HeaderError::Short(frame.len()));
    }
    let i16_at = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
    let (key, version) = (i16_at(0), i16_at(2));
    let correlation_id = i32::from_be_bytes(frame[4..8].try_into().expect("four bytes"));
    let api = api::find(key).ok_or(HeaderError::NotServed { key, version })?;
    if !api.serves(version) {
        return Err(match api.key {
            ApiKey::ApiVersions if version > api.max => HeaderError::ApiVersions { version, correlation_id },
            _ => HeaderError::NotServed { key, version },
        });
    }
    let mut len = REQUEST_LEN_MIN;
    let client_id = match i16_at(8) {
        -1 => None,
        id_len => {
            let end = usize::try_from(id_len).map(|l| len + l).map_err(|_| HeaderError::ClientId)?;
            let id = frame.get(len..end).ok_or(HeaderError::ClientId)?;
            len = end;
            Some(std::str::from_utf8(id).map_err(|_| HeaderError::ClientId)?.to_owned())
        }
    };
    if api.request_header_version(version) >= 2 {
        len += guard::skip_header_tags(&frame[len..])?;
    }
    Ok(Header { api, version, correlation_id, client_id, len })
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
