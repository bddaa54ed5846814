//! Bodies: out as the chunks they are made of, in as one piece.

use crate::storage::{ObjectKey, Payload, StoreError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A payload as a request body; nothing is copied.
pub struct ChunkBody {
    chunks: Arc<[Bytes]>,
    next: usize,
    left: u64,
}

impl ChunkBody {
    /// The body of one attempt.
    pub fn new(payload: &Payload) -> Self {
        Self { chunks: payload.chunks.clone(), next: 0, left: payload.len }
    }
}

impl Body for ChunkBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while let Some(chunk) = self.chunks.get(self.next).cloned() {
            self.next += 1;
            if !chunk.is_empty() {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads a body that must have `expected` bytes; holds no more than that, whatever comes.
pub async fn collect(
    key: &ObjectKey,
    mut body: ByteStream,
    content_length: Option<i64>,
    expected: u64,
) -> Result<Bytes, StoreError> {
    let wrong = |came: u64| {
        let message = format!("{expected} bytes were asked for, the store sent {came}");
        StoreError::Corrupt { key: key.clone(), message }
    };
    if let Some(len) = content_length.filter(|len| *len as u64 != expected) {
        return Err(wrong(len.max(0) as u64));
    }
    let mut parts = BytesMut::new();
    let mut whole = Bytes::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|e| StoreError::Unavailable { message: format!("reading {key} was cut off: {e}") })?;
        let came = whole.len() as u64 + parts.len() as u64 + part.len() as u64;
        if came > expected {
            return Err(wrong(came));
        }
        if came == expected && whole.is_empty() && parts.is_empty() {
            whole = part; // the only part: no copy
            continue;
        }
        if parts.is_empty() {
            parts.reserve(expected as usize);
        }
        parts.extend_from_slice(&part);
    }
    if whole.is_empty() {
        whole = parts.freeze();
    }
    // The transport reports a cut body; this is a server that counts wrongly.
    if whole.len() as u64 == expected { Ok(whole) } else { Err(wrong(whole.len() as u64)) }
}
