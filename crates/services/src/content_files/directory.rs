//! The directory of blobs: a file for each, named by its blobref.
//!
//! A file is written under another name first, so that whoever reads sees all of it or nothing. A
//! checkpoint is written when what came before it is on the disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::unistd::syncfs;
use rpc::RpcError;
use spec::{BlobRef, HashKind};
use types::Errno;

/// The file of the checkpoint.
const CHECKPOINT: &str = "kvs-primary";
/// The file that becomes a blob or the checkpoint.
const UNFINISHED: &str = "unfinished.new";

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    path: PathBuf,
    hash: HashKind,
}

fn failed(path: &Path, error: &io::Error) -> RpcError {
    let errno = Errno::from_io(error);
    RpcError::new(errno, format!("{}: {errno}", path.display()))
}

impl Directory {
    /// Opens the directory, or makes it; with `truncate` what was in it is removed.
    pub(super) fn open(path: PathBuf, hash: HashKind, truncate: bool) -> Result<Self, RpcError> {
        let present = match fs::symlink_metadata(&path) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(failed(&path, &error)),
        };
        if present && truncate {
            fs::remove_dir_all(&path).map_err(|error| failed(&path, &error))?;
        }
        if !present || truncate {
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(|error| failed(&path, &error))?;
        }
        let directory = Directory { path, hash };
        match fs::remove_file(directory.path.join(UNFINISHED)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed(&directory.path, &error))
            }
            _ => Ok(directory),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn file_of(&self, digest: &[u8]) -> Result<PathBuf, RpcError> {
        let blobref = BlobRef::from_digest(self.hash, digest).map_err(|_| Errno::EPROTO)?;
        Ok(self.path.join(blobref.to_string()))
    }

    /// Reads a blob. Errors: `EPROTO` digest length, `ENOENT`.
    pub(super) fn load(&self, digest: &[u8]) -> Result<Bytes, RpcError> {
        let bytes = fs::read(self.file_of(digest)?).map_err(|error| Errno::from_io(&error))?;
        Ok(bytes.into())
    }

    /// Checks that a blob is there. Errors: as [`Directory::load`].
    pub(super) fn validate(&self, digest: &[u8]) -> Result<(), RpcError> {
        fs::metadata(self.file_of(digest)?).map_err(|error| Errno::from_io(&error))?;
        Ok(())
    }

    /// Writes a blob.
    pub(super) fn store(&self, blob: &[u8]) -> Result<BlobRef, RpcError> {
        let blobref = BlobRef::hash(self.hash, blob);
        self.write(&blobref.to_string(), blob)
            .map_err(|error| Errno::from_io(&error))?;
        Ok(blobref)
    }

    /// Reads the checkpoint. Errors: `ENOENT` there is none, `EINVAL` it is no JSON.
    pub(super) fn checkpoint(&self) -> Result<serde_json::Value, RpcError> {
        let path = self.path.join(CHECKPOINT);
        let bytes = fs::read(&path).map_err(|error| Errno::from_io(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| RpcError::new(Errno::EINVAL, format!("{}: {error}", path.display())))
    }

    /// Writes the checkpoint, once everything before it is on the disk.
    pub(super) fn put_checkpoint(&self, value: &serde_json::Value) -> Result<(), RpcError> {
        let put = || -> io::Result<()> {
            let directory = File::open(&self.path)?;
            syncfs(&directory)?;
            self.write(CHECKPOINT, value.to_string().as_bytes())?;
            Ok(syncfs(&directory)?)
        };
        put().map_err(|error| failed(&self.path.join(CHECKPOINT), &error))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(UNFINISHED);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&unfinished, self.path.join(name)));
        if written.is_err() {
            // On a full disk the beginning of a blob would be in the way of others. It is
            // overwritten if it cannot be removed.
            let _kept = fs::remove_file(&unfinished);
        }
        written
    }

    /// How many files there are, the checkpoint included.
    pub(super) fn count(&self) -> Result<i64, RpcError> {
        let count = || -> io::Result<i64> {
            let mut count = 0;
            for entry in fs::read_dir(&self.path)? {
                count += i64::from(entry?.file_type()?.is_file());
            }
            Ok(count)
        };
        count().map_err(|error| failed(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn blobs_and_the_checkpoint_are_files() {
        let name = format!("flux-content-files-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let open = |truncate| Directory::open(path.clone(), HashKind::Sha1, truncate);
        let directory = open(false).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let blobref = directory.store(b"hello").expect("stored");
        assert_eq!(directory.store(b"hello"), Ok(blobref), "again");
        let empty = directory.store(b"").expect("stored");
        assert_eq!(
            fs::read(path.join("sha1-aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d")).ok(),
            Some(b"hello".to_vec())
        );
        assert_eq!(directory.checkpoint(), Err(Errno::ENOENT.into()));
        let checkpoint = json!({"version": 1, "rootref": "bar"});
        directory.put_checkpoint(&checkpoint).expect("written");
        let directory = open(false).expect("reopened");
        assert_eq!(directory.checkpoint(), Ok(checkpoint));
        let load = |digest: &[u8]| directory.load(digest);
        assert_eq!(load(blobref.digest()).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(load(empty.digest()).as_deref(), Ok(&b""[..]));
        assert_eq!(load(&[1; 20]), Err(Errno::ENOENT.into()));
        assert_eq!(load(&[1; 19]), Err(Errno::EPROTO.into()));
        assert_eq!(directory.validate(empty.digest()), Ok(()));
        assert_eq!(directory.validate(&[]), Err(Errno::EPROTO.into()));
        assert_eq!(directory.count(), Ok(3));
        let directory = open(true).expect("emptied");
        assert_eq!(directory.count(), Ok(0));
        fs::remove_dir_all(&path).expect("own directory");
    }
}
