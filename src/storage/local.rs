//! Objects as files below a directory, for `kafscale dev`.
//!
//! An object becomes visible whole or not at all, and only once: its bytes go to a temporary file, which is synced and
//! then linked to its name (`link(2)` fails if the name exists), and the directory is synced. A file ends with a
//! trailer that holds what S3 keeps as metadata (`docs/storage-format.md`). Deletes are not synced: an object that
//! comes back after a power cut is an orphan and is collected again.
//!
//! One process at a time: the data folder's lock is the caller's duty. File I/O runs on tokio's blocking threads.

use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError, crc32c, range_inside};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Length of the trailer behind an object's bytes.
const TRAILER_LEN: usize = 32;
const TRAILER_MAGIC: [u8; 8] = *b"KFSLOCAL";
/// Folder of unfinished files, below the root; its name cannot be a part of a key.
const UNFINISHED_FOLDER: &str = ".unfinished";
/// Keys per LIST, as on S3.
const LIST_LEN_MAX: usize = 1_000;
/// Times a create starts over because its folder was removed as empty meanwhile.
const FOLDER_ATTEMPTS_MAX: u32 = 8;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct LocalStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    unfinished_count: AtomicU64,
    /// Folders that exist and whose entries in their parents are synced.
    synced_folders: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Opens the store in `root`, creating it if need be, and removes what an earlier process left unfinished.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let open = || -> io::Result<()> {
            fs::create_dir_all(&root)?;
            let unfinished = root.join(UNFINISHED_FOLDER);
            match fs::remove_dir_all(&unfinished) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            fs::create_dir(&unfinished)?;
            sync_folder(&root)?;
            root.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_folder)
        };
        open().map_err(|e| failed("open", &root, &e))?;
        let synced_folders = Mutex::new(HashSet::from([root.clone()]));
        Ok(Self(Arc::new(Inner { root, unfinished_count: AtomicU64::new(0), synced_folders })))
    }

    /// Runs `f` on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.0.clone();
        match tokio::task::spawn_blocking(move || f(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(StoreError::Unavailable { message: format!("file I/O was interrupted: {e}") }),
        }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> StoreError {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::Unsupported => {
            StoreError::Refused { message: format!("{message}; check the owner and mode of the data folder") }
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::Unavailable { message: format!("{message}; free some space") }
        }
        _ => StoreError::Unavailable { message },
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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

fn encode_trailer(payload: &Payload) -> [u8; TRAILER_LEN] {
    let mut out = [0u8; TRAILER_LEN];
    let mut buf = &mut out[..];
    buf.put_u64(payload.len);
    buf.put_u64(payload.nonce);
    buf.put_u32(payload.crc32c);
    let crc = crc32c(&out[..20]);
    out[20..24].copy_from_slice(&crc.to_be_bytes());
    out[24..].copy_from_slice(&TRAILER_MAGIC);
    out
}

/// Length, nonce and checksum.
fn decode_trailer(trailer: &[u8; TRAILER_LEN], body_len: u64) -> Result<(u64, u64, u32), String> {
    let mut buf = &trailer[..];
    let (len, nonce, crc, trailer_crc) = (buf.get_u64(), buf.get_u64(), buf.get_u32(), buf.get_u32());
    if buf != TRAILER_MAGIC || trailer_crc != crc32c(&trailer[..20]) || len != body_len {
        return Err("the file does not end with an object's trailer; it was cut or changed".to_owned());
    }
    Ok((len, nonce, crc))
}

/// An object's file and the length of the object in it.
struct OpenObject {
    file: File,
    len: u64,
    modified_ms: i64,
}

impl Inner {
    fn path(&self, key: &ObjectKey) -> Result<PathBuf, StoreError> {
        let part_ok = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
        if key.as_str().split('/').all(part_ok) {
            return Ok(self.root.join(key.as_str()));
        }
        Err(StoreError::Refused { message: format!("{key} cannot be the name of a file") })
    }

    fn synced_folders(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.synced_folders.lock().expect("no panic under the lock")
    }

    /// Creates `folder` and its parents if need be, and syncs the entries of those that are new to this process.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        if self.synced_folders().contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().expect("the root is in the set and above every folder");
        self.ensure_folder(parent)?;
        match fs::create_dir(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => sync_folder(parent)?,
        }
        self.synced_folders().insert(folder.to_owned());
        Ok(())
    }

    fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let number = self.unfinished_count.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.root.join(UNFINISHED_FOLDER).join(format!("{number:016x}"));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&unfinished)?;
            write_all_vectored(&mut file, &payload.chunks, &encode_trailer(payload))?;
            file.sync_data()
        })();
        let published = written.and_then(|()| self.publish(&unfinished, &path));
        let _ = fs::remove_file(&unfinished); // if it stays, the next process removes it
        match published {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(StoreError::AlreadyExists { key: key.clone() }),
            Err(e) => Err(failed("create", &path, &e)),
        }
    }

    fn publish(&self, unfinished: &Path, path: &Path) -> io::Result<()> {
        let folder = path.parent().expect("a key has a part below the root");
        let mut attempt = 1;
        loop {
            let linked = self.ensure_folder(folder).and_then(|()| fs::hard_link(unfinished, path));
            match linked {
                // A delete may have removed the folder as empty.
                Err(e) if e.kind() == ErrorKind::NotFound && attempt < FOLDER_ATTEMPTS_MAX => attempt += 1,
                Err(e) => return Err(e),
                Ok(()) => return sync_folder(folder),
            }
        }
    }

    fn open(&self, key: &ObjectKey) -> Result<Option<OpenObject>, StoreError> {
        let path = self.path(key)?;
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(failed("open", &path, &e)),
        };
        if metadata.is_dir() {
            return Ok(None);
        }
        let len = metadata.len().checked_sub(TRAILER_LEN as u64).ok_or_else(|| StoreError::Corrupt {
            key: key.clone(),
            message: format!("the file has {} bytes, fewer than its trailer", metadata.len()),
        })?;
        Ok(Some(OpenObject { file, len, modified_ms: modified_ms(&metadata) }))
    }

    fn read(&self, key: &ObjectKey, range: impl FnOnce(u64) -> Range<u64>) -> Result<(Bytes, u64), StoreError> {
        let Some(object) = self.open(key)? else { return Err(StoreError::NotFound { key: key.clone() }) };
        let range = range(object.len);
        range_inside(key, &range, object.len)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match object.file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok((bytes.into(), object.len)),
            Err(e) => Err(failed("read", &self.root.join(key.as_str()), &e)),
        }
    }

    fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let Some(object) = self.open(key)? else { return Ok(None) };
        let mut trailer = [0; TRAILER_LEN];
        if let Err(e) = object.file.read_exact_at(&mut trailer, object.len) {
            return Err(failed("read", &self.root.join(key.as_str()), &e));
        }
        let (len, nonce, crc) = decode_trailer(&trailer, object.len)
            .map_err(|message| StoreError::Corrupt { key: key.clone(), message })?;
        Ok(Some(ObjectHead { len, crc32c: Some(crc), nonce: Some(nonce), last_modified_ms: object.modified_ms }))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("delete", &path, &e)),
            _ => {}
        }
        let folder = path.parent().expect("a key has a part below the root");
        let mut synced = self.synced_folders();
        // Fails if the folder is not empty, which is as good.
        if folder != self.root && fs::remove_dir(folder).is_ok() {
            synced.remove(folder);
        }
        Ok(())
    }

    /// Adds the objects of the folder that keys with `below` (ending with a slash, or empty) are in.
    fn list(&self, below: &str, filter: &Filter<'_>, out: &mut Vec<Listed>) -> io::Result<()> {
        let mut entries = Vec::new();
        let folder = match fs::read_dir(self.root.join(below)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            folder => folder?,
        };
        for entry in folder {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with('.') {
                let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
                entries.push((format!("{below}{name}{slash}"), entry));
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0)); // with the slash, folders sort where their keys do
        for (name, entry) in entries {
            if out.len() == LIST_LEN_MAX {
                break;
            }
            if name.ends_with('/') {
                if filter.folder_matters(&name) {
                    self.list(&name, filter, out)?;
                }
            } else if filter.key_matches(&name) {
                let Ok(metadata) = entry.metadata() else { continue }; // deleted meanwhile
                let len = metadata.len().saturating_sub(TRAILER_LEN as u64);
                out.push(Listed { key: ObjectKey::new(name), len, last_modified_ms: modified_ms(&metadata) });
            }
        }
        Ok(())
    }
}

/// What a LIST asks for.
struct Filter<'a> {
    prefix: &'a str,
    start_after: &'a str,
}

impl Filter<'_> {
    fn key_matches(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && key > self.start_after
    }

    /// False if no key below `folder` (ending with a slash) can match.
    fn folder_matters(&self, folder: &str) -> bool {
        let prefixed = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        prefixed && (folder > self.start_after || self.start_after.starts_with(folder))
    }
}

fn modified_ms(metadata: &fs::Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |d| d.as_millis() as i64)
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let (key, payload) = (key.clone(), payload.clone());
        self.run(move |inner| inner.create(&key, &payload)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.run(move |inner| inner.read(&key, |_| range)).await.map(|(bytes, _)| bytes)
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        let key = key.clone();
        self.run(move |inner| inner.read(&key, |object_len| object_len.saturating_sub(len)..object_len)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let key = key.clone();
        self.run(move |inner| inner.head(&key)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let keys = keys.to_vec();
        self.run(move |inner| keys.iter().try_for_each(|key| inner.delete(key))).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        let prefix = prefix.to_owned();
        let start_after = start_after.map_or_else(String::new, |key| key.as_str().to_owned());
        self.run(move |inner| {
            let mut out = Vec::new();
            let filter = Filter { prefix: &prefix, start_after: &start_after };
            inner.list("", &filter, &mut out).map_err(|e| failed("list", &inner.root, &e))?;
            Ok(out)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{conformance, testkit::key};

    #[tokio::test]
    async fn behaves_like_an_object_store() {
        let folder = tempfile::tempdir().unwrap();
        conformance::run(&LocalStore::open(folder.path()).unwrap()).await;
        let left = fs::read_dir(folder.path().join(UNFINISHED_FOLDER)).unwrap().count();
        assert_eq!(left, 0, "temporary files are removed");
    }

    #[tokio::test]
    async fn objects_survive_a_new_process_and_unfinished_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let payload = Payload::new(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")], 9);
        store.create(&key("a/b/c"), &payload).await.unwrap();
        let leftover = folder.path().join(UNFINISHED_FOLDER).join("00ff");
        fs::write(&leftover, b"half").unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        assert!(!leftover.exists());
        assert_eq!(store.get_range(&key("a/b/c"), 2..5).await.unwrap(), &b"cde"[..]);
        assert_eq!(store.head(&key("a/b/c")).await.unwrap().unwrap().nonce, Some(9));
    }

    #[tokio::test]
    async fn a_damaged_trailer_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let payload = Payload::new(vec![Bytes::from_static(b"abc")], 9);
        store.create(&key("a"), &payload).await.unwrap();
        let good = fs::read(folder.path().join("a")).unwrap();
        for position in 3..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            fs::write(folder.path().join("a"), &bad).unwrap();
            let result = store.head(&key("a")).await;
            assert!(matches!(result, Err(StoreError::Corrupt { .. })), "byte {position}: {result:?}");
        }
        for len in 0..good.len() {
            fs::write(folder.path().join("a"), &good[..len]).unwrap();
            let result = store.head(&key("a")).await;
            assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{len} bytes: {result:?}");
        }
    }

    #[tokio::test]
    async fn keys_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("root")).unwrap();
        for name in ["../x", "a/../../x", "/etc/x", "a//b", ".unfinished/x", ""] {
            let result = store.create(&key(name), &Payload::new(vec![], 1)).await;
            assert!(matches!(result, Err(StoreError::Refused { .. })), "{name}: {result:?}");
        }
    }

    #[tokio::test]
    async fn empty_folders_go_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        for _ in 0..3 {
            store.create(&key("wal/1/a"), &Payload::new(vec![], 1)).await.unwrap();
            store.delete(&[key("wal/1/a")]).await.unwrap();
            assert!(!folder.path().join("wal/1").exists());
        }
    }
}
