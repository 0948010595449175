//! Files from the key-value store (RFC 37): finding archives and extracting them.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use bytes::Bytes;
use nix::sys::stat::{Mode, umask};
use proto::Raw;
use proto::content::ContentLoad;
use proto::kvs::{KvsLookup, KvsWatchLookup, Lookup, flags};
use rpc::{Call, Dest, Handle, RpcError};
use serde_json::Value;
use spec::TreeObj;
use spec::archive::{Content, File, Region};
use types::{Errno, glob};

use crate::kvs;

/// Loads under way: so many bytes, and so many blobs. Together they keep every hop busy without
/// holding much more than a socket does.
const AHEAD_BYTES_MAX: u64 = 8 << 20;
const AHEAD_BLOBS_MAX: usize = 64;

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
    let mut ahead = Ahead {
        handle,
        todo: files.iter().flat_map(File::regions),
        calls: VecDeque::new(),
        bytes: 0,
    };
    // There is no other way to read it, and nobody else creates files meanwhile.
    let mask = umask(Mode::empty());
    umask(mask);
    for file in files {
        on_file(file);
        let mode = file.permissions() & !mask.bits();
        one(file, directory, overwrite, mode, &mut ahead).await?;
    }
    Ok(())
}

/// Loads of blobs, ahead of their use.
struct Ahead<'a, I> {
    handle: &'a Handle,
    todo: I,
    calls: VecDeque<(u64, Call<Raw>)>,
    bytes: u64,
}

impl<'a, I: Iterator<Item = &'a Region>> Ahead<'a, I> {
    /// The next blob.
    async fn next(&mut self) -> Result<Bytes, RpcError> {
        while self.calls.is_empty()
            || (self.bytes < AHEAD_BYTES_MAX && self.calls.len() < AHEAD_BLOBS_MAX)
        {
            let Some(region) = self.todo.next() else {
                break;
            };
            let digest = Raw(Bytes::copy_from_slice(region.blobref.digest()));
            let call = self.handle.call::<ContentLoad>(Dest::Any, &digest);
            self.bytes += region.size;
            self.calls.push_back((region.size, call));
        }
        let Some((size, call)) = self.calls.pop_front() else {
            return Err(Errno::ENOENT.into());
        };
        self.bytes -= size;
        let Raw(blob) = call.await?;
        if blob.len() as u64 == size {
            Ok(blob)
        } else {
            Err(RpcError::new(Errno::EINVAL, "blob has the wrong size"))
        }
    }
}

/// Archives come from others too: nothing is written outside of the directory.
fn is_inside(path: &Path) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    path.components().all(plain) && path.file_name().is_some()
}

async fn one<'a>(
    file: &File,
    directory: &Path,
    overwrite: bool,
    mode: u32,
    ahead: &mut Ahead<'a, impl Iterator<Item = &'a Region>>,
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
    let filled = fill(file, &out, ahead).await;
    let done = filled.and_then(|()| out.set_permissions(permissions).map_err(failed));
    if done.is_err() {
        // The failure itself is what is told of.
        let _kept = fs::remove_file(path);
    }
    done
}

/// Writes a regular file's data.
async fn fill<'a>(
    file: &File,
    mut out: &fs::File,
    ahead: &mut Ahead<'a, impl Iterator<Item = &'a Region>>,
) -> Result<(), ExtractError> {
    let failed = |error: io::Error| failed(&file.path, &error);
    match &file.content {
        Content::Directory | Content::Link(_) => Ok(()),
        Content::Empty(size) => out.set_len(*size).map_err(failed),
        Content::Bytes(bytes) => out.write_all(bytes).map_err(failed),
        Content::Json(value) => out.write_all(value.to_string().as_bytes()).map_err(failed),
        Content::Blobs(size, regions) => {
            out.set_len(*size).map_err(failed)?;
            for region in regions {
                let blob = ahead.next().await.map_err(|error| {
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
                out.write_all_at(&blob, region.offset).map_err(failed)?;
            }
            Ok(())
        }
    }
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
