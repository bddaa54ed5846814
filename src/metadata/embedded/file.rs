//! The redb file of the embedded store.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `entries` | the key | create revision, mod revision, lease (0: none), value |
//! | `meta` | `format` | 2 |
//! | `meta` | `revision` | the store's revision, unless an entry has a greater one |
//!
//! The last commit's revision is that of one of its entries, unless it only deleted. So a writer's head, which moves with
//! every flush, is one table's change. Format 1 had every revision in `meta`, too.

use super::unavailable;
use crate::metadata::MetadataError;
use crate::metadata::tree::{Staged, Stored, Tree};
use bytes::Bytes;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ENTRIES: TableDefinition<&str, (i64, i64, i64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
const FORMAT: i64 = 2;
/// What this version turns into [`FORMAT`] as it opens it.
const FORMAT_BEFORE: i64 = 1;

/// Reads come from the tree in memory, so redb needs little.
const CACHE_BYTES: usize = 8 << 20;

/// An open metadata file, which no other process can open meanwhile.
#[derive(Debug)]
pub(super) struct MetadataFile {
    path: PathBuf,
    /// `None` after a failed attempt to open it again.
    database: Option<Database>,
}

impl MetadataFile {
    /// Opens or creates the file and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Tree), MetadataError> {
        let mut file = Self { path: path.to_owned(), database: None };
        let tree = file.reopen()?;
        Ok((file, tree))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file if it is open, opens it and reads all of it.
    pub(super) fn reopen(&mut self) -> Result<Tree, MetadataError> {
        self.database = None;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&self.path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => MetadataError::Refused {
                message: format!(
                    "file {} is in use: another kafscale uses this data folder; stop it or set KAFSCALE_DATA_DIR",
                    self.path.display()
                ),
            },
            other => unavailable(&self.path, &other.to_string()),
        })?;
        sync_folder(&self.path).map_err(|e| unavailable(&self.path, &e.to_string()))?;
        let (format, tree) = load(&database).map_err(|e| unavailable(&self.path, &e.to_string()))?;
        if format != FORMAT {
            let path = self.path.display();
            let message = format!("file {path} has format {format}, this version reads {FORMAT}; upgrade kafscale");
            return Err(MetadataError::Refused { message });
        }
        self.database = Some(database);
        Ok(tree)
    }

    /// Makes commits fail until the file is opened again.
    #[cfg(test)]
    pub(super) fn close(&mut self) {
        self.database = None;
    }

    /// Makes staged changes durable. After an error the outcome is unknown.
    pub(super) fn commit(&self, staged: &Staged) -> Result<(), String> {
        let database = self.database.as_ref().ok_or("it is not open")?;
        commit(database, staged).map_err(|e| e.to_string())
    }
}

fn commit(database: &Database, staged: &Staged) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate).map_err(|e| redb::Error::Io(std::io::Error::other(e.to_string())))?;
    {
        let mut entries = write.open_table(ENTRIES)?;
        for (key, change) in staged.changes() {
            match change {
                Some(s) => entries.insert(key, (s.create_revision, s.mod_revision, s.lease, s.value.as_ref()))?,
                None => entries.remove(key)?,
            };
        }
        let revision = staged.revision();
        let is_in_entry = staged.changes().any(|(_, change)| change.is_some_and(|s| s.mod_revision == revision));
        if !is_in_entry {
            write.open_table(META)?.insert("revision", revision)?;
        }
    }
    write.commit()?;
    Ok(())
}

fn load(database: &Database) -> Result<(i64, Tree), redb::Error> {
    let read = database.begin_read()?;
    let Some((mut format, mut revision)) = load_meta(&read)? else {
        let write = database.begin_write()?;
        {
            write.open_table(ENTRIES)?;
            let mut meta = write.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("revision", 1)?;
        }
        write.commit()?;
        return Ok((FORMAT, Tree::new(BTreeMap::new(), 1)));
    };
    if format == FORMAT_BEFORE {
        let write = database.begin_write()?;
        write.open_table(META)?.insert("format", FORMAT)?;
        write.commit()?;
        format = FORMAT;
    }
    let mut entries = BTreeMap::new();
    if format == FORMAT {
        for item in read.open_table(ENTRIES)?.iter()? {
            let (key, value) = item?;
            let (create_revision, mod_revision, lease, value) = value.value();
            let value = Bytes::copy_from_slice(value);
            revision = revision.max(mod_revision);
            entries.insert(key.value().to_owned(), Stored { value, create_revision, mod_revision, lease });
        }
    }
    Ok((format, Tree::new(entries, revision)))
}

/// Format and revision, or `None` for a new file.
fn load_meta(read: &redb::ReadTransaction) -> Result<Option<(i64, i64)>, redb::Error> {
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let number = |name| -> Result<i64, redb::Error> { Ok(meta.get(name)?.map_or(0, |value| value.value())) };
    Ok(Some((number("format")?, number("revision")?)))
}

/// A file whose folder entry is not durable does not survive a power cut.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}
