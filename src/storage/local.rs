//! Objects as files below a directory, for `kafscale dev`.
//!
//! An object becomes visible whole or not at all, and only once: its bytes go to a temporary file, which is synced and
//! then renamed unless the name exists, and the folder is synced. A file ends with a trailer that holds what S3 keeps
//! as metadata (`docs/storage-format.md`). Deletes are not synced: an object that comes back after a power cut is an
//! orphan and is collected again.
//!
//! The first two parts of a key are folders and the rest is the file's name, with `+` for `/`. So there are few
//! folders, none is ever removed, and creates that end together share one sync of their folder.
//!
//! One process at a time: the data folder's lock is the caller's duty. File I/O runs on tokio's blocking threads.

mod sync;
mod write;

use self::sync::FolderSync;
use self::write::Writer;
use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError, crc32c, range_inside};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Length of the trailer behind an object's bytes.
const TRAILER_LEN: usize = 32;
const TRAILER_MAGIC: [u8; 8] = *b"KFSLOCAL";
/// How the names of unfinished files begin; parts of keys cannot.
const UNFINISHED_PREFIX: char = '.';
/// Parts of a key that are folders.
const FOLDERS_MAX: usize = 2;
/// Stands for a slash in the name of a file; keys cannot have it.
const SLASH: char = '+';
/// Keys per LIST, as on S3.
const LIST_LEN_MAX: usize = 1_000;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct LocalStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    unfinished_count: AtomicU64,
    writer: Writer,
    /// Folders that exist and whose entries in their parents are synced.
    folders: Mutex<HashMap<PathBuf, Arc<FolderSync>>>,
}

impl LocalStore {
    /// Opens the store in `root`, creating it if need be, and removes what an earlier process left unfinished.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let open = || -> io::Result<()> {
            fs::create_dir_all(&root)?;
            remove_unfinished(&root, FOLDERS_MAX)?;
            root.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_folder)
        };
        open().map_err(|e| failed("open", &root, &e))?;
        let folders = Mutex::new(HashMap::from([(root.clone(), Arc::default())]));
        let (unfinished_count, writer) = (AtomicU64::new(0), Writer::default());
        Ok(Self(Arc::new(Inner { root, unfinished_count, writer, folders })))
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

/// Removes what an earlier process left, in `folder` and `depth` levels below.
fn remove_unfinished(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                remove_unfinished(&entry.path(), depth - 1)?;
            }
        } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Gives the file its name unless something has it already.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems cannot; a link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        renamed => Ok(renamed?),
    }
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
        let part_ok = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\0', SLASH]);
        if !key.as_str().split('/').all(part_ok) {
            return Err(StoreError::Refused { message: format!("{key} cannot be the name of a file") });
        }
        let mut parts = key.as_str().splitn(FOLDERS_MAX + 1, '/');
        let mut path = self.root.clone();
        path.extend(parts.by_ref().take(FOLDERS_MAX));
        path.extend(parts.next().map(|rest| rest.replace('/', SLASH.encode_utf8(&mut [0; 4]))));
        Ok(path)
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<FolderSync>>> {
        self.folders.lock().expect("no panic under the lock")
    }

    /// Creates `folder` and its parents if need be, and syncs the entries of those that are new to this process.
    fn folder(&self, folder: &Path) -> io::Result<Arc<FolderSync>> {
        if let Some(known) = self.folders().get(folder) {
            return Ok(known.clone());
        }
        let parent = folder.parent().expect("the root is known and above every folder");
        let parent_sync = self.folder(parent)?;
        match fs::create_dir(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => parent_sync.sync(parent)?,
        }
        Ok(self.folders().entry(folder.to_owned()).or_default().clone())
    }

    fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let folder = path.parent().expect("a key has a part below the root");
        let number = self.unfinished_count.fetch_add(1, Ordering::Relaxed);
        let unfinished = folder.join(format!("{UNFINISHED_PREFIX}{number:016x}"));
        let create = || {
            let folder_sync = self.folder(folder)?;
            let written = self.writer.write(&unfinished, &payload.chunks, &encode_trailer(payload));
            if let Err(e) = written.and_then(|()| rename_to_new(&unfinished, &path)) {
                let _ = fs::remove_file(&unfinished); // if it stays, the next process removes it
                return Err(e);
            }
            folder_sync.sync(folder)
        };
        match create() {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(StoreError::AlreadyExists { key: key.clone() }),
            Err(e) => Err(failed("create", &path, &e)),
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
        Ok(())
    }

    /// Adds the objects of `folder`, `depth` levels below the root, whose keys match.
    fn list(&self, folder: &Path, depth: usize, filter: &Filter<'_>, out: &mut Vec<Listed>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let Some(name) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else { continue };
            if entry.file_type()?.is_dir() {
                if depth < FOLDERS_MAX && filter.folder_matters(&format!("{name}/")) {
                    self.list(&path, depth + 1, filter, out)?;
                }
                continue;
            }
            let key = name.replace(SLASH, "/");
            let unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX);
            if unfinished || !filter.key_matches(&key) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue }; // deleted meanwhile
            let len = metadata.len().saturating_sub(TRAILER_LEN as u64);
            out.push(Listed { key: ObjectKey::new(key), len, last_modified_ms: modified_ms(&metadata) });
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
            inner.list(&inner.root, 0, &filter, &mut out).map_err(|e| failed("list", &inner.root, &e))?;
            out.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            out.truncate(LIST_LEN_MAX);
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
        for part in ["n", "race"] {
            let left = fs::read_dir(folder.path().join(part)).unwrap();
            let left: Vec<_> =
                left.map(|e| e.unwrap().file_name()).filter(|n| n.to_str().unwrap().starts_with('.')).collect();
            assert!(left.is_empty(), "temporary files are removed: {left:?}");
        }
    }

    #[tokio::test]
    async fn objects_survive_a_new_process_and_unfinished_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let payload = Payload::new(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")], 9);
        store.create(&key("a/b/c"), &payload).await.unwrap();
        let leftover = folder.path().join("a/b/.00ff");
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
        for name in ["../x", "a/../../x", "/etc/x", "a//b", ".x", "a/b/.x", "a/b/c+d", ""] {
            let result = store.create(&key(name), &Payload::new(vec![], 1)).await;
            assert!(matches!(result, Err(StoreError::Refused { .. })), "{name}: {result:?}");
        }
    }

    #[tokio::test]
    async fn a_deep_key_is_one_file_in_its_second_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        store.create(&key("ns/wal/0a/1-2/3.kfs"), &Payload::new(vec![], 1)).await.unwrap();
        assert!(folder.path().join("ns/wal/0a+1-2+3.kfs").is_file());
        let listed = store.list("ns/wal/0a/", None).await.unwrap();
        assert_eq!(listed[0].key, key("ns/wal/0a/1-2/3.kfs"));
    }
}
