//! `flux archive create`.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use client::Client;
use client::kvs::Txn;
use proto::content::{ContentMmapAdd, ContentStore, MmapAdd};
use proto::{Empty, Raw};
use rpc::{Call, Dest};
use serde_json::Value;
use spec::archive::{self, Content, File, Region};
use spec::{BlobRef, HashKind, TreeObj};
use types::extent::Extents;
use types::{Errno, Rank};

use super::{
    Form, LEADER, NO_PRIMARY, PROG, TAGS, change_directory, commit, decode, fetch, key, name,
    unavailable, unlink, unmap,
};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag, level};
use crate::outln;

/// Blob size, and the size up to which data stays in the archive, unless options say otherwise.
const CHUNK_SIZE: u64 = 1 << 20;
const SMALL_FILE_MAX: u64 = 1 << 10;
/// Sizes are below this, so that a blob fits a message.
const SIZE_END: (u64, &str) = (1 << 31, "2G");
/// Stores under way: so many bytes, and so many blobs.
const STORES_BYTES_MAX: u64 = 8 << 20;
const STORES_MAX: usize = 64;

static CREATE: Parser = Parser {
    name: "flux archive create",
    usage: "[-n NAME] [-C DIR] [--preserve] PATH ...",
    about: "Create a KVS file archive",
    family: Family::G,
    opts: &[
        arg('n', "name", "NAME", "Write to archive NAME (default main)"),
        TAGS,
        NO_PRIMARY,
        arg(
            'C',
            "directory",
            "DIR",
            "Change to DIR before reading files",
        ),
        level("Increase output detail."),
        flag('\0', "overwrite", "Overwrite existing archive"),
        flag('\0', "append", "Append to existing archive"),
        flag('\0', "preserve", "Preserve data over Flux restart"),
        flag('\0', "mmap", "Use mmap(2) to map file content"),
        flag('\0', "disable-mmap", "Copy file content").hidden(),
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

pub(super) fn run(words: &[String], form: Form) -> i32 {
    let args = match form.parse(&CREATE, words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return CREATE.wrong_words();
    }
    let mmap = args.has("mmap") || form == Form::Filemap && !args.has("disable-mmap");
    fail::run(PROG, async {
        let limits = Limits {
            chunk_size: args
                .size("chunksize", Some(SIZE_END))?
                .unwrap_or(CHUNK_SIZE),
            small_max: args
                .size("small-file-threshold", Some(SIZE_END))?
                .unwrap_or(SMALL_FILE_MAX),
        };
        for (first, second, cannot) in [
            (
                "overwrite",
                args.has("append"),
                "--overwrite and --append cannot be used together",
            ),
            ("preserve", mmap, "--mmap cannot work with --preserve"),
            (
                "no-force-primary",
                mmap,
                "--mmap cannot work with --no-force-primary",
            ),
        ] {
            if args.has(first) && second {
                return Err(Fail::new(cannot));
            }
        }
        let client = fail::connect_builtin().await?;
        if mmap && client.attr("rank").await? != Rank::LEADER.to_string() {
            return Err(Fail::new("--mmap only works on the rank 0 broker"));
        }
        create(&client, &args, limits, mmap).await?;
        Ok(0)
    })
}

/// How files are cut into blobs.
#[derive(Clone, Copy)]
struct Limits {
    /// The most bytes in a blob; 0 for any number.
    chunk_size: u64,
    /// Up to so many bytes stay in the archive.
    small_max: u64,
}

async fn create(client: &Client, args: &Args, limits: Limits, mmap: bool) -> Result<(), Fail> {
    change_directory(args)?;
    let mut array = match fetch(client, args, false).await {
        Ok(Value::Array(array)) if args.has("append") => array,
        // What cannot be read can be overwritten all the same.
        Err(error) if error.errno != Errno::ENOENT && args.has("overwrite") => Vec::new(),
        Ok(_) if args.has("overwrite") => Vec::new(),
        Ok(_) if args.has("append") => return Err(Fail::of(key(args), Errno::EINVAL)),
        Ok(_) => return Err(Fail::new(format!("{}: key exists", key(args)))),
        Err(error) if error.errno == Errno::ENOENT => Vec::new(),
        Err(error) => return Err(unavailable(args, &error)),
    };
    if args.has("overwrite") {
        unmap(client, args).await?;
    }
    let hash = client.attr("content.hash").await?;
    let mut pack = Pack {
        client,
        hash: HashKind::from_name(&hash).ok_or(Errno::EINVAL)?,
        limits,
        tag: mmap.then(|| name(args)),
        verbose: args.verbosity()? > 0,
        stores: VecDeque::new(),
        stores_bytes: 0,
        stored: Vec::new(),
        files: Vec::new(),
    };
    let packed = pack.all(&args.words).await;
    if let Err(fail) = packed {
        // Files of an archive that never came to be must not stay mapped.
        if mmap && array.is_empty() {
            unmap(client, args).await?;
        }
        return Err(fail);
    }
    array.extend(pack.files.iter().map(File::to_value));
    let array = Value::Array(array);
    let mut txn = Txn::new();
    if args.has("overwrite") {
        unlink(&mut txn, &key(args));
    }
    txn.put(&key(args), array.to_string().as_bytes());
    if args.has("preserve") {
        for (index, blobref) in archive::blobrefs(&decode(&array)?).enumerate() {
            let name = format!("{}_blobs.{index}", key(args));
            txn.put_treeobj(&name, &TreeObj::ValRef(vec![blobref]));
        }
    }
    commit(client, args, txn).await
}

/// A blob on its way to the store, and the region it belongs to.
struct Store {
    call: Call<Raw>,
    file: usize,
    region: usize,
    size: u64,
}

struct Pack<'a> {
    client: &'a Client,
    hash: HashKind,
    limits: Limits,
    /// Maps files under this tag, instead of storing their data.
    tag: Option<&'a str>,
    verbose: bool,
    stores: VecDeque<Store>,
    stores_bytes: u64,
    /// Blobrefs by file and region, as they came.
    stored: Vec<(usize, usize, BlobRef)>,
    files: Vec<File>,
}

impl Pack<'_> {
    async fn all(&mut self, paths: &[String]) -> Result<(), Fail> {
        for path in paths {
            self.add(Path::new(path)).await?;
        }
        self.settle(0, 0).await?;
        for (file, region, blobref) in self.stored.drain(..) {
            if let Content::Blobs(_, regions) = &mut self.files[file].content {
                regions[region].blobref = blobref;
            }
        }
        Ok(())
    }

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
        let name = text(path)?;
        let content = if kind.is_dir() {
            for entry in path.read_dir().map_err(failed)? {
                let entry = entry.map_err(failed)?;
                Box::pin(self.add(&entry.path())).await?;
            }
            // It is where things are extracted to, whatever that is like.
            if name == "." {
                return Ok(());
            }
            Content::Directory
        } else if kind.is_symlink() {
            let target = path.read_link().map_err(failed)?;
            Content::Link(text(&target)?)
        } else {
            self.regular(path, &metadata).await?
        };
        if self.verbose {
            outln!("{name}");
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
        let file = std::fs::File::open(path).map_err(failed)?;
        let size = metadata.len();
        if Extents::new(&file, size, size).next().is_none() {
            return Ok(Content::Empty(size));
        }
        let read = |offset: u64, length: u64| {
            let length = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).map_err(failed)?;
            Ok::<_, Fail>(bytes)
        };
        if size <= self.limits.small_max {
            return Ok(Content::Bytes(read(0, size)?));
        }
        // The broker reads and hashes the file while it is done here.
        let mapping = match self.tag {
            Some(tag) => Some(self.map(path, tag)?),
            None => None,
        };
        let chunk_size = match self.limits.chunk_size {
            0 => u64::MAX,
            chunk_size => chunk_size,
        };
        let mut regions = Vec::new();
        for piece in Extents::new(&file, size, chunk_size) {
            let (offset, length) = piece.map_err(failed)?;
            let bytes = read(offset, length)?;
            let blobref = match self.tag {
                Some(_) => BlobRef::hash(self.hash, &bytes),
                // The answer tells.
                None => self.store(bytes, regions.len()).await?,
            };
            regions.push(Region {
                offset,
                size: length,
                blobref,
            });
        }
        if let Some(mapping) = mapping {
            mapping.await.map_err(|error| Fail::of("mmap", error))?;
        }
        Ok(Content::Blobs(size, regions))
    }

    /// Makes the data of a file loadable from where it is.
    fn map(&self, path: &Path, tag: &str) -> Result<Call<Empty>, Fail> {
        let resolved = path
            .canonicalize()
            .map_err(|error| Fail::of(path.display(), Errno::from_io(&error)))?;
        let request = MmapAdd {
            path: text(&resolved)?,
            chunksize: i64::try_from(self.limits.chunk_size).map_err(|_| Errno::EINVAL)?,
            tag: tag.to_owned(),
        };
        let handle = self.client.handle();
        Ok(handle.call::<ContentMmapAdd>(LEADER, &request))
    }

    /// Starts to store the data of a region of the file that is being added. Returns what stands
    /// for its blobref until the answer comes.
    async fn store(&mut self, bytes: Vec<u8>, region: usize) -> Result<BlobRef, Fail> {
        let size = bytes.len() as u64;
        let bytes_left = STORES_BYTES_MAX.saturating_sub(size);
        self.settle(STORES_MAX - 1, bytes_left).await?;
        let handle = self.client.handle();
        self.stores.push_back(Store {
            call: handle.call::<ContentStore>(Dest::Any, &Raw(bytes.into())),
            file: self.files.len(),
            region,
            size,
        });
        self.stores_bytes += size;
        BlobRef::from_digest(self.hash, &vec![0; self.hash.digest_len()])
            .map_err(|error| Fail::new(error.to_string()))
    }

    /// Waits until no more than so many stores, and bytes in them, are under way.
    async fn settle(&mut self, count: usize, bytes: u64) -> Result<(), Fail> {
        while (self.stores.len() > count || self.stores_bytes > bytes)
            && let Some(store) = self.stores.pop_front()
        {
            self.stores_bytes -= store.size;
            let failed = |error: &dyn std::fmt::Display| Fail::of("error storing blob", error);
            let Raw(digest) = store.call.await.map_err(|error| failed(&error))?;
            let blobref =
                BlobRef::from_digest(self.hash, &digest).map_err(|error| failed(&error))?;
            self.stored.push((store.file, store.region, blobref));
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<String, Fail> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Fail::new(format!("{}: name is not UTF-8", path.display())))
}
