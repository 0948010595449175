//! The database file: blobs, their epochs, and checkpoints.
//!
//! The file is the reference's, which has two traps. Digests are bound with SQLite's TEXT class
//! although they are raw bytes: a key of the BLOB class would never compare equal. And blobs of
//! 256 bytes and more are kept as one LZ4 block, without frame or length: the length is in `size`,
//! which is -1 for blobs kept as they are.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::content::{BlobList, GcInfo, GcMark, GcMarked, GcState, GcSweep, GcSwept};
use rpc::RpcError;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, ToSql, params};
use spec::{BlobRef, HashKind};
use types::Errno;

use super::packing::{Packer, unpack};

/// The most hashes in one mark request.
const MARK_MAX: usize = 16384;

/// After so many bytes an answer with many blobs leaves the rest out.
const LOAD_MANY_SIZE_MAX: usize = 4 << 20;

/// The most rows one sweep deletes.
const SWEEP_DELETE_MAX: i64 = 8192;

/// The most rows one sweep looks at.
const SWEEP_WINDOW_MAX: i64 = 524_288;

/// How the file is kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) hash: HashKind,
    pub(super) journal_mode: String,
    pub(super) synchronous: String,
    pub(super) max_checkpoints: i64,
    pub(super) truncate: bool,
}

/// A digest as the table's key.
struct Key<'a>(&'a [u8]);

impl ToSql for Key<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// The database.
pub(super) struct Database {
    connection: Connection,
    settings: Settings,
    epoch: i64,
    packer: Packer,
}

/// The number for an SQLite failure.
fn errno(error: &rusqlite::Error) -> Errno {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => Errno::EIO,
        Some(ErrorCode::OutOfMemory) => Errno::ENOMEM,
        Some(ErrorCode::OperationAborted | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Errno::EPERM
        }
        Some(ErrorCode::TooBig) => Errno::EFBIG,
        Some(ErrorCode::DiskFull) => Errno::ENOSPC,
        _ => Errno::EINVAL,
    }
}

/// A failure with SQLite's own words and its extended code.
fn explain(error: rusqlite::Error) -> RpcError {
    let text = match &error {
        rusqlite::Error::SqliteFailure(code, Some(text)) => {
            format!("{text} ({})", code.extended_code)
        }
        rusqlite::Error::SqliteFailure(code, None) => format!("{code} ({})", code.extended_code),
        other => other.to_string(),
    };
    RpcError::new(errno(&error), text)
}

fn plain(error: rusqlite::Error) -> RpcError {
    errno(&error).into()
}

impl Database {
    /// Opens the file, or makes it. Errors: it is not accessible or damaged.
    pub(super) fn open(settings: Settings) -> Result<Database, RpcError> {
        if settings.truncate {
            remove(&settings.path)?;
        }
        check_access(&settings.path)?;
        let connection = Connection::open(&settings.path).map_err(explain)?;
        let mut database = Database {
            connection,
            settings,
            epoch: 0,
            packer: Packer::default(),
        };
        database.prepare().map_err(|error| {
            let error = explain(error);
            let path = database.settings.path.display();
            RpcError::new(error.errno, format!("{path}: {error}"))
        })?;
        Ok(database)
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        let db = &self.connection;
        let text = |row: &Row<'_>| row.get::<_, String>(0);
        // Exclusive first: the write-ahead log then needs no shared memory.
        db.query_row("PRAGMA locking_mode=EXCLUSIVE", [], text)?;
        let pragma = format!("PRAGMA journal_mode={}", self.settings.journal_mode);
        db.query_row(&pragma, [], text)?;
        db.execute_batch(&format!("PRAGMA synchronous={}", self.settings.synchronous))?;
        let check = db.query_row("PRAGMA quick_check(1)", [], text)?;
        if check != "ok" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(check),
            ));
        }
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS objects(
               hash BLOB PRIMARY KEY, size INT, object BLOB, epoch INT DEFAULT 0);
             CREATE TABLE IF NOT EXISTS checkpt_v2(
               id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, value TEXT);",
        )?;
        let has_epoch = db
            .prepare("SELECT 1 FROM pragma_table_info('objects') WHERE name='epoch'")?
            .exists([])?;
        if !has_epoch {
            db.execute_batch("ALTER TABLE objects ADD COLUMN epoch INT DEFAULT 0")?;
        }
        let has_old = db
            .prepare("SELECT 1 FROM sqlite_master WHERE type='table' AND name='checkpt'")?
            .exists([])?;
        if has_old {
            db.execute_batch(
                "BEGIN;
                 INSERT INTO checkpt_v2(value)
                   SELECT value FROM checkpt WHERE key='kvs-primary';
                 DROP TABLE checkpt;
                 COMMIT;",
            )?;
        }
        self.epoch = self.newest_checkpoint()?;
        Ok(())
    }

    fn newest_checkpoint(&self) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached("SELECT coalesce(max(id), 0) FROM checkpt_v2")?
            .query_row([], |row| row.get(0))
    }

    /// Starts a transaction for a batch of requests.
    pub(super) fn begin(&mut self) -> Result<(), RpcError> {
        self.connection.execute_batch("BEGIN").map_err(plain)
    }

    /// Ends it. Returns false if SQLite gave the transaction up on its own.
    pub(super) fn commit(&mut self) -> Result<bool, RpcError> {
        if self.connection.is_autocommit() {
            return Ok(false);
        }
        let result = self.connection.execute_batch("COMMIT").map_err(plain);
        if result.is_err() && !self.connection.is_autocommit() {
            // Whether this succeeds changes nothing: the batch has failed.
            let _rolled_back = self.connection.execute_batch("ROLLBACK");
        }
        result.map(|()| true)
    }

    /// Stores a blob. One that is there only gets the current epoch.
    pub(super) fn store(&mut self, blob: &[u8]) -> Result<BlobRef, RpcError> {
        let blobref = BlobRef::hash(self.settings.hash, blob);
        self.store_as(&blobref, blob)?;
        Ok(blobref)
    }

    /// As [`Database::store`], for a blob whose address is known.
    pub(super) fn store_as(&mut self, blobref: &BlobRef, blob: &[u8]) -> Result<(), RpcError> {
        let (size, object) = self.packer.pack(blob);
        self.connection
            .prepare_cached(
                "INSERT INTO objects(hash, size, object, epoch) VALUES(?1, ?2, ?3, ?4)
                 ON CONFLICT(hash) DO UPDATE SET epoch=excluded.epoch",
            )
            .and_then(|mut statement| {
                statement.execute(params![Key(blobref.digest()), size, object, self.epoch])
            })
            .map(drop)
            .map_err(plain)
    }

    /// Reads a blob. Errors: `EPROTO`, `ENOENT`, `EIO` if it is damaged.
    pub(super) fn load(&mut self, digest: &[u8]) -> Result<Bytes, RpcError> {
        self.check_digest(digest)?;
        let found = self
            .connection
            .prepare_cached("SELECT object, size FROM objects WHERE hash=?1")
            .and_then(|mut statement| statement.query_row(params![Key(digest)], blob).optional())
            .map_err(plain)?;
        let Some(blob) = found else {
            return Err(Errno::ENOENT.into());
        };
        // Damage is never passed on: hashing costs this thread less than reading did.
        let is_sound = |blob: &Bytes| BlobRef::hash(self.settings.hash, blob).digest() == digest;
        blob.filter(is_sound).ok_or_else(|| self.damaged(digest))
    }

    /// The failure to read a blob that is not what was stored.
    fn damaged(&self, digest: &[u8]) -> RpcError {
        let path = self.settings.path.display();
        let name = BlobRef::from_digest(self.settings.hash, digest);
        let name = name.map_or_else(|error| error.to_string(), |name| name.to_string());
        RpcError::new(Errno::EIO, format!("{path}: {name} is damaged"))
    }

    /// Checks that a blob is there. Errors: `EPROTO`, `ENOENT`.
    pub(super) fn validate(&mut self, digest: &[u8]) -> Result<(), RpcError> {
        self.check_digest(digest)?;
        let exists = self
            .connection
            .prepare_cached("SELECT 1 FROM objects WHERE hash=?1")
            .and_then(|mut statement| statement.exists(params![Key(digest)]))
            .map_err(plain)?;
        if exists {
            Ok(())
        } else {
            Err(Errno::ENOENT.into())
        }
    }

    /// The digests that begin with this byte, ascending, each with the number of its row.
    pub(super) fn digests(&mut self, first: u8) -> Result<Bytes, RpcError> {
        let size = self.settings.hash.digest_len();
        let list = |db: &Connection| -> rusqlite::Result<Vec<u8>> {
            // The index has all that is asked for, in this order.
            let from = [first];
            let to = first.checked_add(1).map(|to| [to]);
            let range = match to {
                Some(_) => "hash >= ?1 AND hash < ?2",
                None => "hash >= ?1 AND ?2 IS NULL",
            };
            let sql = format!("SELECT hash, rowid FROM objects WHERE {range} ORDER BY hash");
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query(params![Key(&from), to.as_ref().map(|to| Key(to))])?;
            let mut digests = Vec::new();
            while let Some(row) = rows.next()? {
                // Whatever is not the instance's kind of digest is no blob of its tree.
                match row.get_ref(0)? {
                    ValueRef::Text(digest) if digest.len() == size => {
                        digests.extend_from_slice(digest);
                        digests.extend_from_slice(&row.get::<_, i64>(1)?.to_le_bytes());
                    }
                    _ => {}
                }
            }
            Ok(digests)
        };
        list(&self.connection).map(Bytes::from).map_err(plain)
    }

    /// Reads the blobs in these rows, as far as they are there and not too much for one answer.
    /// Rows that were written at about the same time are near each other in the file, and it takes
    /// no search of the index to find them.
    pub(super) fn load_many(&mut self, rows: impl Iterator<Item = i64>) -> Result<Bytes, RpcError> {
        let load = |db: &Connection| -> rusqlite::Result<Bytes> {
            let mut blobs = BlobList::default();
            let mut statement =
                db.prepare_cached("SELECT object, size FROM objects WHERE rowid=?1")?;
            for row in rows {
                let fits = blobs.size() < LOAD_MANY_SIZE_MAX;
                let mut found = statement.query([row])?;
                let blob = match found.next()?.filter(|_| fits) {
                    Some(row) => blob(row)?,
                    None => None,
                };
                blobs.push(blob.as_deref());
            }
            Ok(blobs.finish())
        };
        // Within one transaction the file is locked and looked at once. A batch that writes has one.
        let begins = self.connection.is_autocommit();
        if begins {
            self.begin()?;
        }
        let loaded = load(&self.connection).map_err(plain);
        if begins {
            self.commit()?;
        }
        loaded
    }

    fn check_digest(&self, digest: &[u8]) -> Result<(), RpcError> {
        if digest.len() == self.settings.hash.digest_len() {
            Ok(())
        } else {
            Err(Errno::EPROTO.into())
        }
    }

    /// The checkpoints with their numbers, newest first.
    pub(super) fn checkpoints(&mut self) -> Result<Vec<(i64, String)>, RpcError> {
        self.connection
            .prepare_cached("SELECT id, value FROM checkpt_v2 ORDER BY id DESC")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .map_err(explain)
    }

    /// Writes a checkpoint, and forgets the oldest ones.
    pub(super) fn put_checkpoint(&mut self, value: &str) -> Result<(), RpcError> {
        let put = |db: &Connection, keep: i64| -> rusqlite::Result<()> {
            db.prepare_cached("INSERT INTO checkpt_v2(value) VALUES(?1)")?
                .execute([value])?;
            db.prepare_cached(
                "DELETE FROM checkpt_v2 WHERE id NOT IN
                   (SELECT id FROM checkpt_v2 ORDER BY id DESC LIMIT ?1)",
            )?
            .execute([keep])?;
            Ok(())
        };
        put(&self.connection, self.settings.max_checkpoints).map_err(explain)?;
        self.epoch = self.newest_checkpoint().map_err(explain)?;
        Ok(())
    }

    /// Where a garbage collection stands.
    pub(super) fn gc_info(&mut self, info: &GcInfo) -> Result<GcState, RpcError> {
        let number = |sql: &str, params: &[&dyn ToSql]| -> Result<i64, RpcError> {
            self.connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.query_row(params, |row| row.get(0)))
                .map_err(explain)
        };
        let high_water = number("SELECT coalesce(max(rowid), 0) FROM objects", &[])?;
        let candidates = if info.get_count {
            let sql = "SELECT count(*) FROM objects WHERE epoch < ?1";
            Some(number(sql, &[&info.epoch])?)
        } else {
            None
        };
        Ok(GcState {
            current_epoch: self.epoch,
            high_water,
            candidates,
        })
    }

    /// Keeps blobs from being swept.
    pub(super) fn mark(&mut self, mark: &GcMark) -> Result<GcMarked, RpcError> {
        if mark.hashes.len() > MARK_MAX {
            let text = format!(
                "mark request of {} hashes exceeds limit of {MARK_MAX}",
                mark.hashes.len()
            );
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        let blobrefs: Result<Vec<BlobRef>, _> =
            mark.hashes.iter().map(|text| text.parse()).collect();
        let blobrefs = blobrefs.map_err(|_| Errno::EPROTO)?;
        if blobrefs
            .iter()
            .any(|blobref| blobref.kind() != self.settings.hash)
        {
            return Err(Errno::EPROTO.into());
        }
        let run = |db: &Connection| -> rusqlite::Result<i64> {
            let mut statement =
                db.prepare_cached("UPDATE objects SET epoch=max(epoch, ?1) WHERE hash=?2")?;
            let mut marked = 0;
            for blobref in &blobrefs {
                marked += statement.execute(params![mark.epoch, Key(blobref.digest())])? as i64;
            }
            Ok(marked)
        };
        let marked = run(&self.connection).map_err(explain)?;
        Ok(GcMarked { marked })
    }

    /// Deletes unmarked blobs.
    pub(super) fn sweep(&mut self, sweep: &GcSweep) -> Result<GcSwept, RpcError> {
        if sweep.cursor < 0 || sweep.high_water < 0 || sweep.delete_cap <= 0 || sweep.window <= 0 {
            return Err(Errno::EINVAL.into());
        }
        let cap = sweep.delete_cap.min(SWEEP_DELETE_MAX);
        let window = sweep.window.min(SWEEP_WINDOW_MAX);
        let end = sweep.cursor.saturating_add(window).min(sweep.high_water);
        let run = |db: &Connection| -> rusqlite::Result<Vec<i64>> {
            let rows: Vec<i64> = db
                .prepare_cached(
                    "SELECT rowid FROM objects
                     WHERE rowid > ?1 AND rowid <= ?2 AND epoch < ?3 ORDER BY rowid LIMIT ?4",
                )?
                .query_map(params![sweep.cursor, end, sweep.epoch, cap], |row| {
                    row.get(0)
                })?
                .collect::<rusqlite::Result<_>>()?;
            let mut statement = db.prepare_cached("DELETE FROM objects WHERE rowid=?1")?;
            for row in &rows {
                statement.execute([row])?;
            }
            Ok(rows)
        };
        let rows = run(&self.connection).map_err(explain)?;
        let deleted = rows.len() as i64;
        let cursor = match rows.last() {
            Some(last) if deleted == cap => *last,
            _ => end.max(sweep.cursor),
        };
        Ok(GcSwept { deleted, cursor })
    }

    /// The number of blobs.
    pub(super) fn object_count(&self) -> Result<i64, RpcError> {
        self.connection
            .query_row("SELECT count(*) FROM objects", [], |row| row.get(0))
            .map_err(explain)
    }

    /// The epoch that new blobs get.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The size of the file, and how much of it is unused, in bytes.
    pub(super) fn file_usage(&self) -> Result<(i64, i64), RpcError> {
        let number = |pragma: &str| -> Result<i64, RpcError> {
            self.connection
                .query_row(pragma, [], |row| row.get(0))
                .map_err(explain)
        };
        let page = number("PRAGMA page_size")?;
        let size = number("PRAGMA page_count")? * page;
        Ok((size, number("PRAGMA freelist_count")? * page))
    }
}

/// The blob in a row of its object and size; `None` if it is damaged.
fn blob(row: &Row<'_>) -> rusqlite::Result<Option<Bytes>> {
    let object = match row.get_ref(0)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes,
        _ => &[],
    };
    Ok(unpack(row.get(1)?, object))
}

/// Removes the file and what SQLite keeps beside it.
fn remove(path: &Path) -> Result<(), RpcError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RpcError::new(
                    Errno::from_io(&error),
                    format!("{}: {error}", path.display()),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a file that is there but not ours to read and write.
fn check_access(path: &Path) -> Result<(), RpcError> {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
    {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RpcError::new(
            Errno::from_io(&error),
            format!("{}: {error}", path.display()),
        )),
        _ => Ok(()),
    }
}
