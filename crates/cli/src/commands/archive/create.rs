//! `flux archive create`.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use client::Client;
use client::kvs::Txn;
use proto::Raw;
use proto::content::ContentStore;
use rpc::{Call, Dest};
use serde_json::Value;
use spec::archive::{self, Content, File, Region};
use spec::{BlobRef, HashKind, TreeObj};
use types::Errno;

use super::{NAME, NO_PRIMARY, PROG, commit, decode, fetch, key, unavailable, unlink};
use crate::err;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag, maybe};

/// Blob size, and the size up to which data stays in the archive, unless options say otherwise.
const CHUNK_SIZE: u64 = 1 << 20;
const SMALL_FILE_MAX: u64 = 1 << 10;
/// Stores under way.
const STORES_MAX: usize = 64;

static CREATE: Parser = Parser {
    name: "flux archive create",
    usage: "[-n NAME] [-C DIR] [--preserve] PATH ...",
    about: "Create a KVS file archive",
    family: Family::G,
    opts: &[
        NAME,
        NO_PRIMARY,
        arg(
            'C',
            "directory",
            "DIR",
            "Change to DIR before reading files",
        ),
        maybe('v', "verbose", "LEVEL", "Increase output detail."),
        flag('\0', "overwrite", "Overwrite existing archive"),
        flag('\0', "append", "Append to existing archive"),
        flag('\0', "preserve", "Preserve data over Flux restart"),
        flag('\0', "mmap", "Use mmap(2) to map file content"),
        arg(
            '\0',
            "chunksize",
            "N",
            "Limit blob size to N bytes (default 1M)",
        )
        .hidden(),
        arg(
            '\0',
            "small-file-threshold",
            "N",
            "Keep data of up to N bytes in the archive (default 1K)",
        )
        .hidden(),
    ],
};

pub(super) fn run(words: &[String]) -> i32 {
    let args = match CREATE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return CREATE.wrong_words();
    }
    fail::run(PROG, async {
        if args.has("mmap") {
            return Err(Fail::new("--mmap is not implemented in this build"));
        }
        if args.has("overwrite") && args.has("append") {
            return Err(Fail::new(
                "--overwrite and --append cannot be used together",
            ));
        }
        let client = fail::connect_builtin().await?;
        create(&client, &args).await?;
        Ok(0)
    })
}

fn bytes_of(args: &Args, option: &str, default: u64) -> Result<u64, Fail> {
    match args.get(option) {
        None => Ok(default),
        Some(text) => crate::commands::storage::size(text)
            .ok_or_else(|| Fail::new(format!("invalid {option} '{text}'"))),
    }
}

async fn create(client: &Client, args: &Args) -> Result<(), Fail> {
    let mut array = match fetch(client, args, false).await {
        Ok(Value::Array(array)) if args.has("append") => array,
        Ok(_) if args.has("overwrite") => Vec::new(),
        Ok(_) if args.has("append") => return Err(Fail::of(key(args), Errno::EINVAL)),
        Ok(_) => return Err(Fail::new(format!("{}: key exists", key(args)))),
        Err(error) if error.errno == Errno::ENOENT => Vec::new(),
        Err(error) => return Err(unavailable(args, &error)),
    };
    if let Some(dir) = args.get("directory") {
        std::env::set_current_dir(dir).map_err(|error| Fail::of(dir, Errno::from_io(&error)))?;
    }
    let hash = client.attr("content.hash").await?;
    let mut pack = Pack {
        client,
        hash: HashKind::from_name(&hash).ok_or(Errno::EINVAL)?,
        chunk_size: match bytes_of(args, "chunksize", CHUNK_SIZE)? {
            0 => u64::MAX,
            size => size,
        },
        small_max: bytes_of(args, "small-file-threshold", SMALL_FILE_MAX)?,
        verbose: args.has("verbose"),
        stores: VecDeque::new(),
        files: Vec::new(),
    };
    for path in &args.words {
        pack.add(Path::new(path)).await?;
    }
    pack.settle(0).await?;
    array.extend(pack.files.iter().map(File::to_value));
    let array = Value::Array(array);
    let mut txn = Txn::new();
    if args.has("overwrite") {
        unlink(&mut txn, &key(args));
    }
    txn.put(&key(args), array.to_string().as_bytes());
    if args.has("preserve") {
        for (index, blobref) in archive::blobrefs(&decode(&array)?).into_iter().enumerate() {
            let name = format!("{}_blobs.{index}", key(args));
            txn.put_treeobj(&name, &TreeObj::ValRef(vec![blobref]));
        }
    }
    commit(client, args, txn).await
}

struct Pack<'a> {
    client: &'a Client,
    hash: HashKind,
    chunk_size: u64,
    small_max: u64,
    verbose: bool,
    stores: VecDeque<Call<Raw>>,
    files: Vec<File>,
}

impl Pack<'_> {
    /// Adds a file; of a directory what is in it first.
    async fn add(&mut self, path: &Path) -> Result<(), Fail> {
        let failed = |error: std::io::Error| Fail::of(path.display(), Errno::from_io(&error));
        let metadata = path.symlink_metadata().map_err(failed)?;
        let kind = metadata.file_type();
        if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            return Err(Fail::new(format!(
                "{}: unsupported file type",
                path.display()
            )));
        }
        let content = if kind.is_dir() {
            for entry in path.read_dir().map_err(failed)? {
                let entry = entry.map_err(failed)?;
                Box::pin(self.add(&entry.path())).await?;
            }
            Content::Directory
        } else if kind.is_symlink() {
            let target = path.read_link().map_err(failed)?;
            Content::Link(text(&target)?)
        } else {
            self.regular(path, &metadata).await?
        };
        let name = text(path)?;
        if self.verbose {
            err!("{name}");
        }
        self.files.push(File {
            path: name.trim_start_matches('/').to_owned(),
            mode: metadata.mode(),
            mtime: Some(metadata.mtime()),
            ctime: Some(metadata.ctime()),
            content,
        });
        Ok(())
    }

    async fn regular(&mut self, path: &Path, metadata: &Metadata) -> Result<Content, Fail> {
        let failed = |error: std::io::Error| Fail::of(path.display(), Errno::from_io(&error));
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let size = metadata.len();
        let mut regions = Vec::new();
        let mut bytes = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = extent(&file, at, size).map_err(failed)? {
            if size <= self.small_max {
                file.rewind().map_err(failed)?;
                file.read_to_end(&mut bytes).map_err(failed)?;
                return Ok(Content::Bytes(bytes));
            }
            let length = (end - start).min(self.chunk_size);
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
            bytes.clear();
            file.by_ref()
                .take(length)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            if bytes.len() as u64 != length {
                return Err(Fail::new(format!("{}: short read", path.display())));
            }
            regions.push(Region {
                offset: start,
                size: length,
                blobref: self.store(std::mem::take(&mut bytes)).await?,
            });
            at = start + length;
        }
        Ok(match regions.is_empty() {
            true => Content::Empty(size),
            false => Content::Blobs(size, regions),
        })
    }

    async fn store(&mut self, bytes: Vec<u8>) -> Result<BlobRef, Fail> {
        let blobref = BlobRef::hash(self.hash, &bytes);
        self.settle(STORES_MAX - 1).await?;
        let blob = Raw(bytes.into());
        let handle = self.client.handle();
        self.stores
            .push_back(handle.call::<ContentStore>(Dest::Any, &blob));
        self.client.drained().await;
        Ok(blobref)
    }

    async fn settle(&mut self, left: usize) -> Result<(), Fail> {
        while self.stores.len() > left
            && let Some(call) = self.stores.pop_front()
        {
            call.await
                .map_err(|error| Fail::of("error storing blob", error))?;
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<String, Fail> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Fail::new(format!("{}: name is not UTF-8", path.display())))
}

/// The first extent with data at or after `at`.
fn extent(file: &std::fs::File, at: u64, size: u64) -> std::io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let Some(start) = seek(file, at, libc::SEEK_DATA)? else {
        return Ok(None);
    };
    let end = seek(file, start, libc::SEEK_HOLE)?.unwrap_or(size);
    // The file may have grown since it was looked at.
    Ok((start < size).then_some((start, end.min(size))))
}

#[allow(unsafe_code, reason = "lseek(2) with SEEK_DATA")]
fn seek(file: &std::fs::File, at: u64, whence: i32) -> std::io::Result<Option<u64>> {
    let at = libc::off_t::try_from(at).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open, and the call touches no memory.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        _ => Err(error),
    }
}
