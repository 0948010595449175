//! `flux archive`: files carried through the key-value store (RFC 37).
//!
//! Mapped files are not built: `--mmap` is refused.

mod create;
mod extract;

use client::Client;
use client::kvs::{Txn, default_namespace};
use proto::kvs::{KvsLookup, KvsWatchLookup, Lookup, PRIMARY, flags};
use rpc::{Dest, RpcError};
use serde_json::Value;
use spec::TreeObj;
use spec::archive::{self, Content, File};
use types::Errno;

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::{err, glob, out, outln};

const PROG: &str = "flux-archive";

const NAME: Opt = arg('n', "name", "NAME", "Use archive NAME (default main)");
const NO_PRIMARY: Opt = flag(
    '\0',
    "no-force-primary",
    "Do not force archive to be in the primary KVS namespace",
);

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux archive",
        "Flux KVS file archive utility",
        &[
            (
                "create",
                "[-n NAME] [-C DIR] [--preserve] PATH ...",
                create::run,
            ),
            ("remove", "[-n NAME] [-f]", remove),
            (
                "extract",
                "[-n NAME] [--overwrite] [-C DIR] [PATTERN]",
                extract::run,
            ),
            ("list", "[-n NAME] [PATTERN]", list),
        ],
        words,
    )
}

/// The key of the archive the options name.
fn key(args: &Args) -> String {
    format!("archive.{}", args.get("name").unwrap_or("main"))
}

fn namespace(args: &Args) -> String {
    if args.has("no-force-primary") {
        default_namespace()
    } else {
        PRIMARY.to_owned()
    }
}

async fn fetch(client: &Client, args: &Args, wait: bool) -> Result<Value, RpcError> {
    let request = Lookup {
        key: key(args),
        flags: if wait { flags::WAITCREATE } else { 0 },
        namespace: Some(namespace(args)),
        rootdir: None,
        rootseq: None,
    };
    let handle = client.handle();
    let found = if wait {
        handle.call::<KvsWatchLookup>(Dest::Any, &request).await?
    } else {
        handle.call::<KvsLookup>(Dest::Any, &request).await?
    };
    match client::kvs::treeobj(&found.val)? {
        TreeObj::Val(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string())),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn unavailable(args: &Args, error: &RpcError) -> Fail {
    Fail::of(format!("KVS lookup {}", key(args)), error)
}

fn decode(value: &Value) -> Result<Vec<File>, Fail> {
    archive::decode(value).map_err(|error| Fail::new(error.to_string()))
}

/// The files a pattern chooses. Complains if there are none.
fn choose(files: Vec<File>, pattern: Option<&String>) -> Vec<File> {
    let Some(pattern) = pattern else {
        return files;
    };
    let chosen = files.into_iter();
    let chosen: Vec<File> = chosen
        .filter(|file| glob::matches(pattern, &file.path))
        .collect();
    if chosen.is_empty() {
        err!("{PROG}: No files matched pattern '{pattern}'");
    }
    chosen
}

static LIST: Parser = Parser {
    name: "flux archive list",
    usage: "[-n NAME] [PATTERN]",
    about: "List KVS file archive contents",
    family: Family::G,
    opts: &[
        NAME,
        NO_PRIMARY,
        flag('l', "long", "Show file type, mode, size"),
        flag(
            '\0',
            "raw",
            "Show raw RFC 37 file system object without decoding",
        ),
    ],
};

fn list(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return LIST.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let value = fetch(&client, &args, false)
            .await
            .map_err(|error| unavailable(&args, &error))?;
        for file in choose(decode(&value)?, args.words.first()) {
            if args.has("raw") {
                out!("{}", file.to_value());
            } else if args.has("long") {
                outln!("{}", long(&file));
            } else {
                outln!("{}", file.path);
            }
        }
        Ok(0)
    })
}

fn long(file: &File) -> String {
    let kind = match file.content {
        Content::Directory => 'd',
        Content::Link(_) => 'l',
        _ => 'f',
    };
    let (mode, size) = (file.permissions(), file.size());
    format!("{kind} 0{mode:o} {size:>8} {}", file.path)
}

static REMOVE: Parser = Parser {
    name: "flux archive remove",
    usage: "[-n NAME] [-f]",
    about: "Remove a KVS file archive",
    family: Family::G,
    opts: &[
        NAME,
        NO_PRIMARY,
        flag('f', "force", "Ignore a nonexistent archive"),
    ],
};

fn remove(words: &[String]) -> i32 {
    let args = match REMOVE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return REMOVE.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        match fetch(&client, &args, false).await {
            Err(error) if error.errno == Errno::ENOENT => {
                if args.has("force") {
                    return Ok(0);
                }
                return Err(Fail::new(format!("{} does not exist", key(&args))));
            }
            // What cannot be read can be removed all the same.
            _ => {}
        }
        let mut txn = Txn::new();
        unlink(&mut txn, &key(&args));
        commit(&client, &args, txn).await?;
        Ok(0)
    })
}

/// Removes an archive and what preserves its blobs.
fn unlink(txn: &mut Txn, key: &str) {
    txn.unlink(key);
    txn.unlink(&format!("{key}_blobs"));
}

async fn commit(client: &Client, args: &Args, txn: Txn) -> Result<(), Fail> {
    let done = txn.commit(client.handle(), &namespace(args), 0).await;
    done.map_err(|error| Fail::of("KVS commit", error))?;
    Ok(())
}
