//! Files from the key-value store (RFC 37): finding archives and extracting them.

mod blobs;
mod shared;
mod target;

use std::fs;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::sendfile::sendfile;
use proto::kvs::{KvsLookup, KvsWatchLookup, Lookup, flags};
use rpc::{Dest, Handle, RpcError};
use serde_json::Value;
use spec::TreeObj;
use spec::archive::{Content, File, Region};
use types::{Errno, glob};

use crate::kvs;
use blobs::{Blob, Blobs};
use target::Target;

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
/// What could not be loaded or written, or would be written elsewhere. Nothing that is incomplete is left under a file's name.
pub async fn extract(
    handle: &Handle,
    files: &[File],
    directory: &Path,
    overwrite: bool,
    mut on_file: impl FnMut(&File),
) -> Result<(), ExtractError> {
    let regions = files.iter().flat_map(File::regions).collect();
    let mut blobs = Blobs::new(handle, regions).await;
    let mut target = Target::new(directory, overwrite);
    for file in files {
        on_file(file);
        one(file, &mut target, &mut blobs).await?;
    }
    blobs.finish().await;
    Ok(())
}

async fn one(
    file: &File,
    target: &mut Target<'_>,
    blobs: &mut Blobs<'_>,
) -> Result<(), ExtractError> {
    let name = &file.path;
    let path = &target.place(name)?;
    match &file.content {
        Content::Directory => return target.put_directory(name, path, file.permissions()),
        Content::Link(to) => return target.put_link(name, path, to),
        _ => {}
    }
    let out = target.create(name, path)?;
    let permissions = target.permitted(file.permissions());
    let filled = fill(file, &out, blobs).await;
    let done = filled.and_then(|()| {
        let set = out.set_permissions(permissions);
        set.map_err(|error| failed(name, &error))
    });
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
