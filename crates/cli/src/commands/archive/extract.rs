//! `flux archive extract`.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};
use std::time::Duration;

use client::Client;
use proto::Raw;
use proto::content::ContentLoad;
use rpc::Dest;
use spec::archive::{Content, File, Region};
use types::Errno;

use super::{NAME, NO_PRIMARY, PROG, choose, decode, fetch, unavailable};
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag, maybe};
use crate::{err, outln};

static EXTRACT: Parser = Parser {
    name: "flux archive extract",
    usage: "[-n NAME] [--overwrite] [-C DIR] [PATTERN]",
    about: "Extract KVS file archive contents",
    family: Family::G,
    opts: &[
        NAME,
        maybe('v', "verbose", "LEVEL", "Show filenames on stderr"),
        arg('C', "directory", "DIR", "Change to DIR before extracting"),
        flag(
            '\0',
            "overwrite",
            "Overwrite existing files when extracting",
        ),
        maybe(
            '\0',
            "waitcreate",
            "FSD",
            "Wait for KVS archive key to appear (timeout optional)",
        ),
        NO_PRIMARY,
        flag(
            't',
            "list-only",
            "List table of contents without extracting",
        ),
    ],
};

pub(super) fn run(words: &[String]) -> i32 {
    let args = match EXTRACT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return EXTRACT.wrong_words();
    }
    let timeout = match args.duration("waitcreate") {
        Ok(timeout) => timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let found = fetch(&client, &args, args.has("waitcreate"));
        let found = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, found)
                .await
                .unwrap_or(Err(Errno::ETIMEDOUT.into())),
            None => found.await,
        };
        let value = found.map_err(|error| unavailable(&args, &error))?;
        let files = choose(decode(&value)?, args.words.first());
        if let Some(dir) = args.get("directory") {
            std::env::set_current_dir(dir)
                .map_err(|error| Fail::of(dir, Errno::from_io(&error)))?;
        }
        for file in files {
            if args.has("list-only") {
                outln!("{}", file.path);
                continue;
            }
            if args.has("verbose") {
                err!("{}", file.path);
            }
            extract(&client, &file, args.has("overwrite")).await?;
        }
        Ok(0)
    })
}

/// Archives come from others too: nothing is written outside of the directory.
fn is_inside(path: &Path) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    path.components().all(plain) && path.file_name().is_some()
}

fn umask() -> u32 {
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(old);
    old.bits()
}

async fn extract(client: &Client, file: &File, overwrite: bool) -> Result<(), Fail> {
    let path = Path::new(&file.path);
    if !is_inside(path) {
        return Err(Fail::new(format!("{}: unsafe path", file.path)));
    }
    let failed = |error: std::io::Error| Fail::of(&file.path, Errno::from_io(&error));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let permissions = Permissions::from_mode(file.permissions() & !umask());
    if file.content == Content::Directory {
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            done => done.map_err(failed)?,
        }
        return fs::set_permissions(path, permissions).map_err(failed);
    }
    if path.symlink_metadata().is_ok() {
        if !overwrite {
            let text = "write: Attempt to overwrite existing file";
            return Err(Fail::of(&file.path, text));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    if let Content::Link(target) = &file.content {
        return std::os::unix::fs::symlink(target, path).map_err(failed);
    }
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match &file.content {
        Content::Directory | Content::Link(_) => {}
        Content::Empty(size) => out.set_len(*size).map_err(failed)?,
        Content::Bytes(bytes) => out.write_all(bytes).map_err(failed)?,
        Content::Json(value) => out
            .write_all(value.to_string().as_bytes())
            .map_err(failed)?,
        Content::Blobs(size, regions) => {
            out.set_len(*size).map_err(failed)?;
            for region in regions {
                let blob = load(client, &file.path, region).await?;
                out.write_all_at(&blob, region.offset).map_err(failed)?;
            }
        }
    }
    out.set_permissions(permissions).map_err(failed)
}

async fn load(client: &Client, path: &str, region: &Region) -> Result<bytes::Bytes, Fail> {
    let what = || {
        format!(
            "{path}: error loading offset={} size={} from {}",
            region.offset, region.size, region.blobref
        )
    };
    let digest = Raw(region.blobref.digest().to_vec().into());
    let call = client.handle().call::<ContentLoad>(Dest::Any, &digest);
    let Raw(blob) = call.await.map_err(|error| Fail::of(what(), error))?;
    if blob.len() as u64 != region.size {
        return Err(Fail::of(what(), "wrong size"));
    }
    Ok(blob)
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
