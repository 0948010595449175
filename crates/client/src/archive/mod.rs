//! Files from the key-value store (RFC 37): finding archives and extracting them.

mod blobs;
mod shared;

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use nix::sys::sendfile::sendfile;
use nix::sys::stat::{Mode, umask};
use proto::kvs::{KvsLookup, KvsWatchLookup, Lookup, flags};
use rpc::{Dest, Handle, RpcError};
use serde_json::Value;
use spec::TreeObj;
use spec::archive::{Content, File, Region};
use types::{Errno, glob};

use crate::kvs;
use blobs::{Blob, Blobs};

/// The key of an archive.
pub fn key(name: &str) -> String {
    format!("archive.{name}")
}

/// Reads an archive's JSON; with `wait` once there is one.
///
/// # Errors
///
/// Those of [`KvsLookup`]; `EINVAL` if the key holds something else.
pub async fn lookup(
    handle: &Handle,
    namespace: &str,
    name: &str,
    wait: bool,
) -> Result<Value, RpcError> {
    let request = Lookup {
        key: key(name),
        flags: if wait { flags::WAITCREATE } else { 0 },
        namespace: Some(namespace.to_owned()),
        rootdir: None,
        rootseq: None,
    };
    let found = if wait {
        handle.call::<KvsWatchLookup>(Dest::Any, &request).await?
    } else {
        handle.call::<KvsLookup>(Dest::Any, &request).await?
    };
    match kvs::treeobj(&found.val)? {
        TreeObj::Val(bytes) => serde_json::from_slice(&bytes).map_err(|_| Errno::EINVAL.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The files whose whole path matches a shell pattern; without one, all.
pub fn choose(files: Vec<File>, pattern: Option<&str>) -> Vec<File> {
    let matches = |file: &File| pattern.is_none_or(|pattern| glob::matches(pattern, &file.path));
    files.into_iter().filter(matches).collect()
}

/// Why a file could not be extracted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExtractError(String);

fn failed(path: &str, error: &io::Error) -> ExtractError {
    ExtractError(format!("{path}: {}", Errno::from_io(error)))
}

/// Extracts files into a directory. Files already there are replaced if `overwrite`, and in the way
/// otherwise. Blobs are asked for ahead of their use. `on_file` is told of each file in turn.
///
/// # Errors
///
/// What could not be loaded or written. Nothing that is incomplete is left under a file's name.
pub async fn extract(
    handle: &Handle,
    files: &[File],
    directory: &Path,
    overwrite: bool,
    mut on_file: impl FnMut(&File),
) -> Result<(), ExtractError> {
    let regions = files.iter().flat_map(File::regions).collect();
    let mut blobs = Blobs::new(handle, regions).await;
    // There is no other way to read it, and nobody else creates files meanwhile.
    let mask = umask(Mode::empty());
    umask(mask);
    for file in files {
        on_file(file);
        let mode = file.permissions() & !mask.bits();
        one(file, directory, overwrite, mode, &mut blobs).await?;
    }
    blobs.finish().await;
    Ok(())
}

/// Archives come from others too: nothing is written outside of the directory.
fn is_inside(path: &Path) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    path.components().all(plain) && path.file_name().is_some()
}

async fn one(
    file: &File,
    directory: &Path,
    overwrite: bool,
    mode: u32,
    blobs: &mut Blobs<'_>,
) -> Result<(), ExtractError> {
    let name = &file.path;
    if !is_inside(Path::new(name)) {
        return Err(ExtractError(format!("{name}: unsafe path")));
    }
    let path = &directory.join(name);
    let failed = |error: io::Error| failed(name, &error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let permissions = Permissions::from_mode(mode);
    if file.content == Content::Directory {
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            done => done.map_err(failed)?,
        }
        return fs::set_permissions(path, permissions).map_err(failed);
    }
    if path.symlink_metadata().is_ok() {
        if !overwrite {
            let text = format!("{name}: write: Attempt to overwrite existing file");
            return Err(ExtractError(text));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    if let Content::Link(target) = &file.content {
        return std::os::unix::fs::symlink(target, path).map_err(failed);
    }
    let out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let filled = fill(file, &out, blobs).await;
    let done = filled.and_then(|()| out.set_permissions(permissions).map_err(failed));
    if done.is_err() {
        // The failure itself is what is told of.
        let _kept = fs::remove_file(path);
    }
    done
}

/// Writes a regular file's data.
async fn fill(file: &File, mut out: &fs::File, blobs: &mut Blobs<'_>) -> Result<(), ExtractError> {
    let failed = |error: io::Error| failed(&file.path, &error);
    match &file.content {
        Content::Directory | Content::Link(_) => Ok(()),
        Content::Empty(size) => out.set_len(*size).map_err(failed),
        Content::Bytes(bytes) => out.write_all(bytes).map_err(failed),
        Content::Json(value) => out.write_all(value.to_string().as_bytes()).map_err(failed),
        Content::Blobs(size, regions) => {
            out.set_len(*size).map_err(failed)?;
            for region in regions {
                let blob = blobs.next().await.map_err(|error| {
                    let Region {
                        offset,
                        size,
                        blobref,
                    } = region;
                    let path = &file.path;
                    ExtractError(format!(
                        "{path}: error loading offset={offset} size={size} from {blobref}: {error}"
                    ))
                })?;
                write(out, region.offset, &blob).map_err(failed)?;
            }
            Ok(())
        }
    }
}

/// Writes a blob at an offset.
fn write(mut out: &fs::File, offset: u64, blob: &Blob) -> io::Result<()> {
    let piece = match blob {
        Blob::Loaded(bytes) => return out.write_all_at(bytes, offset),
        Blob::Shared(piece) => piece,
    };
    out.seek(SeekFrom::Start(offset))?;
    let mut from = i64::try_from(piece.offset).map_err(io::Error::other)?;
    let mut left = usize::try_from(piece.size).map_err(io::Error::other)?;
    while left > 0 {
        match sendfile(out, &*piece.memory, Some(&mut from), left)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for (path, inside) in [
            ("a", true),
            ("./a/b", true),
            ("../a", false),
            ("a/../../b", false),
            ("/a", false),
            ("", false),
            (".", false),
        ] {
            assert_eq!(is_inside(Path::new(path)), inside, "{path}");
        }
    }
}
