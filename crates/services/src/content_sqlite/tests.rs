use std::path::PathBuf;

use proto::content::{GcInfo, GcMark, GcSweep};
use rusqlite::Connection;
use spec::{BlobRef, HashKind};
use types::Errno;

use super::database::{Database, Settings};

/// A directory that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("sqlite-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("scratch directory");
        Scratch(path)
    }

    fn settings(&self) -> Settings {
        Settings {
            path: self.0.join("content.sqlite"),
            hash: HashKind::Sha1,
            journal_mode: "WAL".to_owned(),
            synchronous: "NORMAL".to_owned(),
            max_checkpoints: 2,
            truncate: false,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("scratch directory is ours");
    }
}

#[test]
fn blobs_come_back_in_a_file_of_the_known_form() {
    let scratch = Scratch::new("form");
    let large = vec![b'x'; 1000];
    let blobs: [&[u8]; 4] = [b"", b"small\0with\0zeros", &large, &[7; 255]];
    {
        let mut database = Database::open(scratch.settings()).expect("new file");
        for blob in blobs {
            let blobref = database.store(blob).expect("stored");
            assert_eq!(blobref, BlobRef::hash(HashKind::Sha1, blob));
            assert_eq!(database.load(blobref.digest()).expect("there"), blob);
        }
        database.store(b"").expect("again");
        assert_eq!(database.object_count(), Ok(4));
        let missing = database.load(&[0; 20]).expect_err("unknown");
        assert_eq!(missing.errno, Errno::ENOENT);
        let short = database.validate(&[0; 19]).expect_err("too short");
        assert_eq!(short.errno, Errno::EPROTO);
    }
    let raw = Connection::open(scratch.settings().path).expect("closed cleanly");
    let rows: Vec<(String, i64, String)> = raw
        .prepare("SELECT typeof(hash), size, typeof(object) FROM objects ORDER BY rowid")
        .expect("known columns")
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("rows");
    let expect = [(-1, "null"), (-1, "blob"), (1000, "blob"), (-1, "blob")];
    for ((hash, size, object), (expect_size, expect_object)) in rows.iter().zip(expect) {
        assert_eq!(hash, "text");
        assert_eq!((*size, object.as_str()), (expect_size, expect_object));
    }
    assert_eq!(rows.len(), 4);
}

#[test]
fn checkpoints_are_kept_newest_first_and_set_the_epoch() {
    let scratch = Scratch::new("checkpoints");
    let mut database = Database::open(scratch.settings()).expect("new file");
    for value in [
        "{\"rootref\":\"a\"}",
        "{\"rootref\":\"b\"}",
        "{\"rootref\":\"c\"}",
    ] {
        database.put_checkpoint(value).expect("written");
    }
    let list = database.checkpoints().expect("read");
    assert_eq!(
        list,
        [
            (3, "{\"rootref\":\"c\"}".to_owned()),
            (2, "{\"rootref\":\"b\"}".to_owned())
        ]
    );
    assert_eq!(database.epoch(), 3);
}

#[test]
fn old_files_are_brought_up_to_date() {
    let scratch = Scratch::new("old");
    let raw = Connection::open(scratch.settings().path).expect("new file");
    raw.execute_batch(
        "CREATE TABLE objects(hash BLOB PRIMARY KEY, size INT, object BLOB);
         CREATE TABLE checkpt(key TEXT UNIQUE, value TEXT);
         INSERT INTO checkpt VALUES('kvs-primary', '{\"rootref\":\"old\"}');",
    )
    .expect("old tables");
    drop(raw);
    let mut database = Database::open(scratch.settings()).expect("old file");
    assert_eq!(
        database.checkpoints(),
        Ok(vec![(1, "{\"rootref\":\"old\"}".to_owned())])
    );
    database.store(b"new").expect("has an epoch");
}

#[test]
fn sweeping_spares_what_was_marked() {
    let scratch = Scratch::new("sweep");
    let mut database = Database::open(scratch.settings()).expect("new file");
    let keep = database.store(b"keep").expect("stored");
    let lose = database.store(b"lose").expect("stored");
    database.put_checkpoint("{}").expect("written");
    database.put_checkpoint("{}").expect("written");
    let info = GcInfo {
        epoch: 2,
        get_count: true,
    };
    let state = database.gc_info(&info).expect("read");
    assert_eq!(
        (state.current_epoch, state.high_water, state.candidates),
        (2, 2, Some(2))
    );
    let absent = BlobRef::hash(HashKind::Sha1, b"absent");
    let mark = GcMark {
        epoch: 2,
        hashes: vec![keep.to_string(), absent.to_string()],
    };
    assert_eq!(database.mark(&mark).expect("marked").marked, 1);
    let mut sweep = GcSweep {
        epoch: 2,
        cursor: 0,
        high_water: state.high_water,
        delete_cap: 10,
        window: 100,
    };
    let swept = database.sweep(&sweep).expect("swept");
    assert_eq!((swept.deleted, swept.cursor), (1, 2));
    assert!(database.validate(keep.digest()).is_ok());
    assert!(database.validate(lose.digest()).is_err());
    sweep.window = 0;
    assert_eq!(
        database.sweep(&sweep).expect_err("no window").errno,
        Errno::EINVAL
    );
}

#[test]
fn a_damaged_file_is_refused() {
    let scratch = Scratch::new("damaged");
    std::fs::write(scratch.settings().path, [b'x'; 8192]).expect("written");
    assert!(Database::open(scratch.settings()).is_err());
    let mut settings = scratch.settings();
    settings.truncate = true;
    assert!(Database::open(settings).is_ok());
}

#[test]
fn damaged_blobs_are_never_passed_on() {
    let scratch = Scratch::new("damage");
    let large = b"large ".repeat(200);
    let blobs: [&[u8]; 3] = [b"small", &large, b""];
    {
        let mut database = Database::open(scratch.settings()).expect("new file");
        for blob in blobs {
            database.store(blob).expect("stored");
        }
    }
    for change in [
        "object = x'00'",
        "object = substr(object, 1, length(object) - 1)",
        "object = NULL, size = -1",
        "size = size + 1",
        "size = 1 << 60",
        "size = -7",
    ] {
        let path = scratch.settings().path;
        let keep = path.with_extension("keep");
        std::fs::copy(&path, &keep).expect("copied");
        let raw = Connection::open(&path).expect("closed cleanly");
        let sql = format!("UPDATE objects SET {change}");
        raw.execute_batch(&sql).expect("known columns");
        drop(raw);
        let mut database = Database::open(scratch.settings()).expect("a sound file");
        for blob in blobs {
            let digest = BlobRef::hash(HashKind::Sha1, blob);
            match database.load(digest.digest()) {
                // Some changes do nothing to some blobs.
                Ok(loaded) => assert_eq!(loaded, blob, "{change}"),
                Err(error) => {
                    assert_eq!(error.errno, Errno::EIO, "{change}");
                    assert!(error.to_string().contains(&digest.to_string()), "{error}");
                }
            }
        }
        drop(database);
        std::fs::rename(&keep, &path).expect("restored");
    }
}

/// Whatever bytes of the file change, it is refused, or each blob is as it was or refused.
#[test]
fn damaged_files_lose_nothing_silently() {
    let scratch = Scratch::new("flips");
    let path = scratch.settings().path;
    let blobs: Vec<Vec<u8>> = (0..40_u8)
        .map(|n| vec![b'a' + n % 26; 20 * usize::from(n)])
        .collect();
    {
        let mut database = Database::open(scratch.settings()).expect("new file");
        for blob in &blobs {
            database.store(blob).expect("stored");
        }
        database.put_checkpoint("{}").expect("stored");
    }
    let sound = std::fs::read(&path).expect("closed cleanly");
    let (mut refused, mut lost, mut found) = (0, 0, 0);
    let mut seed = 1_u64;
    for round in 0..150 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (seed >> 33) as usize % sound.len();
        let mut bytes = sound.clone();
        match round % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (seed % 8),
            _ => bytes[at..]
                .iter_mut()
                .take(64)
                .for_each(|byte| *byte = 0xa5),
        }
        std::fs::write(&path, &bytes).expect("own file");
        for suffix in ["-wal", "-shm", "-journal"] {
            let mut file = path.clone().into_os_string();
            file.push(suffix);
            // Left by a round that was refused.
            let _absent = std::fs::remove_file(file);
        }
        let mut database = match Database::open(scratch.settings()) {
            Ok(database) => database,
            Err(error) => {
                assert!(error.to_string().contains("content.sqlite"), "{error}");
                refused += 1;
                continue;
            }
        };
        for blob in &blobs {
            match database.load(BlobRef::hash(HashKind::Sha1, blob).digest()) {
                Ok(loaded) => {
                    assert_eq!(loaded, *blob, "round {round}");
                    found += 1;
                }
                Err(_) => lost += 1,
            }
        }
    }
    assert!(refused > 20 && found > 100, "{refused} {lost} {found}");
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let scratch = Scratch::new("unusable");
    let path = scratch.settings().path;
    std::fs::create_dir(&path).expect("own directory");
    let error = Database::open(scratch.settings())
        .err()
        .expect("a directory");
    assert!(error.to_string().contains("content.sqlite"), "{error}");
    std::fs::remove_dir(&path).expect("own directory");
    std::fs::write(
        &path,
        "no database at all, but long enough to have a header".repeat(40),
    )
    .expect("own directory");
    let error = Database::open(scratch.settings())
        .err()
        .expect("no database");
    assert!(error.to_string().contains("content.sqlite"), "{error}");
    let mut permissions = std::fs::metadata(&path).expect("there").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).expect("own file");
    let error = Database::open(scratch.settings()).err().expect("read-only");
    assert!(error.to_string().contains("content.sqlite"), "{error}");
}
