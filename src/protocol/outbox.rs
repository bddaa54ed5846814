//! Replies on their way to the socket: small pieces are copied together, large ones are written from where they are.

use super::splice::COPY_LEN_MAX;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Slices per vectored write; the kernel takes 1,024.
const SLICES_MAX: usize = 64;
/// Capacity that the buffer of small pieces may keep while it is empty. Bytes.
const IDLE_CAPACITY_MAX: usize = 4 * COPY_LEN_MAX;

/// See the module's documentation. Order: `chunks`, then `tail` from `tail_pos`.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Bytes>,
    tail: Vec<u8>,
    tail_pos: usize,
    len: usize,
}

impl Outbox {
    /// Bytes not written yet.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if everything is written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues one response: length prefix, header (with an empty tagged section if `tagged_header`), body. Returns the
    /// bytes queued.
    pub fn push_response(&mut self, correlation_id: i32, tagged_header: bool, body: Vec<Bytes>) -> usize {
        let body_len: usize = body.iter().map(Bytes::len).sum();
        let header_len = 4 + usize::from(tagged_header);
        let frame_len = i32::try_from(header_len + body_len).expect("handlers bound replies far below 2 GiB");
        self.tail.extend_from_slice(&frame_len.to_be_bytes());
        self.tail.extend_from_slice(&correlation_id.to_be_bytes());
        if tagged_header {
            self.tail.push(0);
        }
        self.len += 4 + header_len;
        body.into_iter().for_each(|chunk| self.push(chunk));
        4 + header_len + body_len
    }

    fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() <= COPY_LEN_MAX {
            self.tail.extend_from_slice(&chunk);
            return;
        }
        if self.tail_pos < self.tail.len() {
            let mut before = Bytes::from(std::mem::take(&mut self.tail));
            before.advance(self.tail_pos);
            self.chunks.push_back(before);
        }
        self.tail.clear();
        self.tail_pos = 0;
        self.chunks.push_back(chunk);
    }

    /// Writes once; returns the bytes written, 0 if the peer takes no more.
    pub async fn write_some<W: AsyncWrite + Unpin>(&mut self, io: &mut W) -> io::Result<usize> {
        let written = if self.chunks.is_empty() {
            io.write(&self.tail[self.tail_pos..]).await?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let sources = self.chunks.iter().map(|c| &c[..]).chain([&self.tail[self.tail_pos..]]);
            let used = slices.iter_mut().zip(sources).map(|(slice, source)| *slice = IoSlice::new(source)).count();
            io.write_vectored(&slices[..used]).await?
        };
        self.advance(written);
        Ok(written)
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail_pos += written;
        if self.tail_pos < self.tail.len() {
            return;
        }
        self.tail_pos = 0;
        match self.tail.capacity() {
            0..=IDLE_CAPACITY_MAX => self.tail.clear(),
            _ => self.tail = Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// Takes up to `step` bytes per call.
    struct Slow {
        step: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = self.step.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut room = self.step;
            let mut taken = Vec::new();
            for slice in slices {
                taken.extend_from_slice(&slice[..room.min(slice.len())]);
                room -= room.min(slice.len());
            }
            self.poll_write(cx, &taken)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_was_queued(
            replies in prop::collection::vec(
                (any::<i32>(), any::<bool>(), prop::collection::vec(prop_oneof![0usize..9, 4090..4100usize], 0..4), any::<bool>()),
                1..6,
            ),
            step in prop_oneof![20usize..200, 4000..20_000usize],
        ) {
            let mut outbox = Outbox::default();
            let mut io = Slow { step, taken: Vec::new() };
            let mut expected = Vec::new();
            for (id, tagged, lens, write) in replies {
                let body: Vec<Bytes> = lens.iter().map(|l| Bytes::from(vec![id as u8; *l])).collect();
                let body_len: usize = lens.iter().sum();
                let header_len = if tagged { 5 } else { 4 };
                expected.extend_from_slice(&((header_len + body_len) as i32).to_be_bytes());
                expected.extend_from_slice(&id.to_be_bytes());
                expected.extend(tagged.then_some(0));
                expected.extend_from_slice(&body.concat());
                prop_assert_eq!(outbox.push_response(id, tagged, body), 4 + header_len + body_len);
                if write {
                    futures::executor::block_on(outbox.write_some(&mut io)).unwrap();
                }
            }
            while !outbox.is_empty() {
                futures::executor::block_on(outbox.write_some(&mut io)).unwrap();
            }
            prop_assert_eq!(io.taken, expected);
            prop_assert!(outbox.tail.is_empty() && outbox.chunks.is_empty());
        }
    }
}
