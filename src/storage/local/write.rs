//! Writes a file durably with as little CPU as possible.
//!
//! Large files go past the page cache (`O_DIRECT`): copying into fresh page-cache pages costs 0.3 to 2 ms of CPU per MB,
//! depending on whether the machine has to find the pages first, while a direct write from a warm buffer costs 0.15,
//! its copy included. Nobody reads these pages soon: the newest batches are in the broker's memory. A file system that
//! cannot do this is noticed at the first attempt and written to in the ordinary way.

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files from this length on are written directly.
const DIRECT_LEN_MIN: usize = 128 * 1024;
/// Direct writes begin, in memory and in the file, at multiples of this; no disk has larger blocks.
const ALIGNMENT: usize = 4096;
/// Most that one system call writes directly.
const BUFFER_LEN_MAX: usize = 8 * 1024 * 1024;
/// Buffers from this length on are worth huge pages.
const HUGE_LEN_MIN: usize = 2 * 1024 * 1024;
/// Buffers kept for the next write; as many as uploads are in flight usually.
const BUFFERS_MAX: usize = 4;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Writer {
    direct_unsupported: AtomicBool,
    buffers: Mutex<Vec<Buffer>>,
}

/// Memory whose used part begins at a multiple of [`ALIGNMENT`].
#[derive(Debug, Default)]
struct Buffer {
    memory: Vec<u8>,
}

impl Buffer {
    /// `len` bytes of whatever was there.
    fn aligned(&mut self, len: usize) -> &mut [u8] {
        if self.memory.len() < len + ALIGNMENT {
            self.memory = fresh(len.next_power_of_two() + ALIGNMENT);
        }
        let start = self.memory.as_ptr().align_offset(ALIGNMENT);
        &mut self.memory[start..start + len]
    }
}

/// Memory for a buffer. Large ones get huge pages even where the process does without (`kafscale dev`): a request to the disk
/// consists of a limited number of pages, and at full speed small ones cost a tenth of the throughput and more.
fn fresh(len: usize) -> Vec<u8> {
    if len < HUGE_LEN_MIN {
        return vec![0; len];
    }
    let without = transparent_huge_pages_are_disabled().unwrap_or(false);
    if without {
        // Should this or the other one fail, then pages are not of the size that suits best, and nothing else.
        let _ = disable_transparent_huge_pages(false);
    }
    let mut memory = vec![0; len];
    memory.iter_mut().step_by(ALIGNMENT).for_each(|byte| *byte = 1); // now, while it matters
    if without {
        let _ = disable_transparent_huge_pages(true);
    }
    memory
}

impl Writer {
    /// The smallest buffer that `len` bytes fit into, or else the largest, which will grow. So large buffers serve large
    /// files: each that grows is memory that the system has to clear first.
    fn take_buffer(&self, len: usize) -> Buffer {
        let mut buffers = self.buffers.lock().expect("no panic under the lock");
        let wanted = len.min(BUFFER_LEN_MAX);
        let rank = |i: &usize| {
            let len = buffers[*i].memory.len();
            if len >= wanted + ALIGNMENT { (0, len) } else { (1, usize::MAX - len) }
        };
        let best = (0..buffers.len()).min_by_key(rank);
        best.map(|i| buffers.swap_remove(i)).unwrap_or_default()
    }

    /// Creates the file at `path` with `chunks` and `trailer` in it; they are on disk when this returns.
    pub fn write(&self, path: &Path, chunks: &[Bytes], trailer: &[u8]) -> io::Result<()> {
        let len = chunks.iter().map(Bytes::len).sum::<usize>() + trailer.len();
        if len >= DIRECT_LEN_MIN && !self.direct_unsupported.load(Ordering::Relaxed) {
            let mut buffer = self.take_buffer(len);
            let written = write_direct(path, chunks, trailer, len, &mut buffer);
            let mut buffers = self.buffers.lock().expect("no panic under the lock");
            if buffers.len() < BUFFERS_MAX {
                buffers.push(buffer);
            }
            drop(buffers);
            match written {
                Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                    self.direct_unsupported.store(true, Ordering::Relaxed);
                    match fs::remove_file(path) {
                        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
                written => return written,
            }
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        write_all_vectored(&mut file, chunks, trailer)?;
        file.sync_data()
    }
}

/// Writes whole blocks directly and the rest, less than a block, in the ordinary way.
fn write_direct(path: &Path, chunks: &[Bytes], trailer: &[u8], len: usize, buffer: &mut Buffer) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)?;
    let capacity = len.next_multiple_of(ALIGNMENT).min(BUFFER_LEN_MAX);
    let buffer = buffer.aligned(capacity);
    let (mut filled, mut position) = (0, 0);
    for chunk in chunks.iter().map(|c| &c[..]).chain([trailer]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(capacity - filled));
            buffer[filled..filled + now.len()].copy_from_slice(now);
            filled += now.len();
            rest = later;
            if filled == capacity && position + capacity as u64 <= len as u64 {
                file.write_all_at(buffer, position)?;
                position += capacity as u64;
                filled = 0;
            }
        }
    }
    let blocks = filled - filled % ALIGNMENT;
    if blocks > 0 {
        file.write_all_at(&buffer[..blocks], position)?;
    }
    if blocks < filled {
        fcntl_setfl(&file, OFlags::empty())?; // no longer directly
        file.write_all_at(&buffer[blocks..filled], position + blocks as u64)?;
    }
    file.sync_data()
}

/// Writes all slices; one system call unless the kernel stops early or the slices are very many.
fn write_all_vectored(file: &mut File, chunks: &[Bytes], trailer: &[u8]) -> io::Result<()> {
    let all = chunks.iter().map(|c| &c[..]).chain([trailer]);
    let mut slices: Vec<IoSlice<'_>> = all.filter(|s| !s.is_empty()).map(IoSlice::new).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_way_writes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let ordinary = Writer { direct_unsupported: AtomicBool::new(true), ..Writer::default() };
        let direct = Writer::default();
        let block = ALIGNMENT;
        let (min, max) = (DIRECT_LEN_MIN, BUFFER_LEN_MAX);
        let lens = [0, 1, 100, min - 1, min, min + 1, min + block - 1, 40 * block, 50 * block - 32, max - 32, max - 31];
        let lens = lens.into_iter().chain([max, max + block - 32, 2 * max - 32, 2 * max + 77]);
        for (i, len) in lens.enumerate() {
            let body: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
            let body = Bytes::from(body);
            let cut = len / 3;
            let chunks = [body.slice(..cut), Bytes::new(), body.slice(cut..cut + cut / 2), body.slice(cut + cut / 2..)];
            let expected = [&body[..], &[9; 32]].concat();
            for (name, writer) in [("direct", &direct), ("ordinary", &ordinary)] {
                let path = folder.path().join(format!("{name}-{i}"));
                writer.write(&path, &chunks, &[9; 32]).unwrap();
                assert!(fs::read(&path).unwrap() == expected, "{name}, {len} bytes");
                let again = writer.write(&path, &chunks, &[9; 32]).unwrap_err();
                assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{name}, {len} bytes");
            }
        }
        assert!(direct.buffers.lock().unwrap().len() <= BUFFERS_MAX);
    }

    #[test]
    fn large_buffers_serve_large_files() {
        let writer = Writer::default();
        let take = |len: usize| {
            let mut buffer = writer.take_buffer(len);
            let grown_from = buffer.memory.len();
            buffer.aligned(len.min(BUFFER_LEN_MAX));
            (grown_from, buffer)
        };
        let give = |buffer| writer.buffers.lock().unwrap().push(buffer);
        let (small, large) = (300_000, 2 * BUFFER_LEN_MAX);
        let buffers = [take(large).1, take(small).1];
        buffers.into_iter().for_each(give);
        for len in [small, large, small + 1, BUFFER_LEN_MAX, large] {
            let (before, buffer) = take(len);
            assert_eq!(before, buffer.memory.len(), "a buffer for {len} bytes did not grow");
            assert_eq!(before > BUFFER_LEN_MAX, len >= BUFFER_LEN_MAX, "{len}");
            give(buffer);
        }
        assert_eq!(writer.buffers.lock().unwrap().len(), 2);
    }
}
