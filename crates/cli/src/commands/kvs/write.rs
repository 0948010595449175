//! Changing: `put`, `unlink`, `link`, `mkdir`, `copy`, `move`, `sync`.

use std::io::Read;

use client::Client;
use client::kvs::{Txn, default_namespace, lookup};
use proto::kvs::{Committed, commit_flags, flags};
use spec::TreeObj;
use types::Errno;

use super::{NAMESPACE, PROG, dirref, named, namespace_of, treeobj};
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::outln;

const ROOT: Opt = flag('O', "treeobj-root", "Show the new root");
const BLOBREF: Opt = flag('b', "blobref", "Show the new root's blobref");
const SEQUENCE: Opt = flag('s', "sequence", "Show the new sequence number");

fn show(args: &Args, root: &Committed) {
    if args.has("treeobj-root") {
        outln!("{}", dirref(&root.rootref));
    } else if args.has("blobref") {
        outln!("{}", root.rootref);
    } else if args.has("sequence") {
        outln!("{}", root.rootseq);
    }
}

async fn commit(client: &Client, args: &Args, txn: Txn, bits: i32) -> Outcome {
    let root = txn
        .commit(client.handle(), &namespace_of(args), bits)
        .await
        .map_err(|error| Fail::of("flux_kvs_commit", error.errno))?;
    show(args, &root);
    Ok(0)
}

static PUT: Parser = Parser {
    name: "flux-kvs put",
    usage: "[-N ns] [-O|-b|-s] [-r|-t] [-n] [-A] [-S] key=value [key=value...]",
    about: "Store value under key",
    family: Family::G,
    opts: &[
        NAMESPACE,
        ROOT,
        BLOBREF,
        SEQUENCE,
        flag(
            'r',
            "raw",
            "Take the value from standard input where it is -",
        ),
        flag('t', "treeobj", "Values are tree objects"),
        flag('n', "no-merge", "Do not merge with other transactions"),
        flag('A', "append", "Add to the values"),
        flag('S', "sync", "Write a checkpoint before answering"),
    ],
};

fn stdin() -> Result<Vec<u8>, Fail> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
    Ok(bytes)
}

pub(super) fn put(words: &[String]) -> i32 {
    let args = match PUT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return PUT.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let mut txn = Txn::new();
        for word in &args.words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| Fail::new("put: you must specify a value as key=value"))?;
            if key.is_empty() {
                return Err(Fail::of(format!("'{word}'"), Errno::EINVAL));
            }
            let bytes = if value == "-" && (args.has("raw") || args.has("treeobj")) {
                stdin()?
            } else {
                value.as_bytes().to_vec()
            };
            if args.has("treeobj") {
                let object = treeobj(String::from_utf8_lossy(&bytes).trim())
                    .map_err(|_| Fail::of(key, Errno::EPROTO))?;
                txn.put_treeobj(key, &object);
            } else if args.has("append") {
                txn.append(key, &bytes);
            } else {
                txn.put(key, &bytes);
            }
        }
        let mut bits = 0;
        if args.has("no-merge") {
            bits |= commit_flags::NO_MERGE;
        }
        if args.has("sync") {
            bits |= commit_flags::SYNC;
        }
        commit(&client, &args, txn, bits).await
    })
}

static UNLINK: Parser = Parser {
    name: "flux-kvs unlink",
    usage: "[-N ns] [-O|-b|-s] [-R] [-f] key [key...]",
    about: "Remove key",
    family: Family::G,
    opts: &[
        NAMESPACE,
        ROOT,
        BLOBREF,
        SEQUENCE,
        flag('R', "recursive", "Remove directories with what is in them"),
        flag('f', "force", "Ignore keys that do not exist"),
    ],
};

pub(super) fn unlink(words: &[String]) -> i32 {
    let args = match UNLINK.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return UNLINK.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let namespace = namespace_of(&args);
        let mut txn = Txn::new();
        for key in &args.words {
            let check = may_unlink(&client, &args, &namespace, key).await;
            if check.map_err(|errno| Fail::of(format!("cannot unlink '{key}'"), errno))? {
                txn.unlink(key);
            }
        }
        commit(&client, &args, txn, 0).await
    })
}

/// Whether there is something to remove; an error if it must not be.
async fn may_unlink(
    client: &Client,
    args: &Args,
    namespace: &str,
    key: &str,
) -> Result<bool, Errno> {
    match lookup(client.handle(), namespace, named(key)?, flags::TREEOBJ).await {
        Ok(TreeObj::Dir(_) | TreeObj::DirRef(_)) if !args.has("recursive") => {
            let dir = lookup(client.handle(), namespace, key, flags::READDIR).await;
            match dir.map_err(|error| error.errno)? {
                TreeObj::Dir(entries) if entries.is_empty() => Ok(true),
                _ => Err(Errno::ENOTEMPTY),
            }
        }
        Ok(_) => Ok(true),
        Err(error) if error.errno == Errno::ENOENT && args.has("force") => Ok(false),
        Err(error) => Err(error.errno),
    }
}

static LINK: Parser = Parser {
    name: "flux-kvs link",
    usage: "[-N ns] [-T ns] [-O|-b|-s] target linkname",
    about: "Create a new name for target",
    family: Family::G,
    opts: &[
        NAMESPACE,
        arg('T', "target-namespace", "NS", "The target's namespace"),
        ROOT,
        BLOBREF,
        SEQUENCE,
    ],
};

pub(super) fn link(words: &[String]) -> i32 {
    let args = match LINK.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [target, name] = args.words.as_slice() else {
        return super::wrong_count("link: specify target and link_name");
    };
    fail::run(PROG, async {
        named(name).map_err(|errno| Fail::of(name, errno))?;
        let client = fail::connect().await?;
        let mut txn = Txn::new();
        txn.symlink(name, args.get("target-namespace"), target);
        commit(&client, &args, txn, 0).await
    })
}

static MKDIR: Parser = Parser {
    name: "flux-kvs mkdir",
    usage: "[-N ns] [-O|-b|-s] key [key...]",
    about: "Create a directory",
    family: Family::G,
    opts: &[NAMESPACE, ROOT, BLOBREF, SEQUENCE],
};

pub(super) fn mkdir(words: &[String]) -> i32 {
    let args = match MKDIR.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return MKDIR.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let mut txn = Txn::new();
        for key in &args.words {
            txn.mkdir(named(key).map_err(|errno| Fail::of(key, errno))?);
        }
        commit(&client, &args, txn, 0).await
    })
}

const SOURCE: Opt = arg('S', "src-namespace", "NS", "The source's namespace");
const DESTINATION: Opt = arg('D', "dst-namespace", "NS", "The destination's namespace");

static COPY: Parser = Parser {
    name: "flux-kvs copy",
    usage: "[-S src-ns] [-D dst-ns] source destination",
    about: "Copy source key to destination key",
    family: Family::G,
    opts: &[SOURCE, DESTINATION],
};

static MOVE: Parser = Parser {
    name: "flux-kvs move",
    about: "Move source key to destination key",
    ..COPY
};

async fn copy_key(args: &Args, source: &str, target: &str, remove: bool) -> Result<(), Errno> {
    let (source, target) = (named(source)?, named(target)?);
    let client = client::open(None).await.map_err(|error| error.errno)?;
    let namespace = |key| args.get(key).map_or_else(default_namespace, str::to_owned);
    let from = namespace("src-namespace");
    let object = lookup(client.handle(), &from, source, flags::TREEOBJ)
        .await
        .map_err(|error| error.errno)?;
    let mut txn = Txn::new();
    txn.put_treeobj(target, &object);
    let to = namespace("dst-namespace");
    let copied = txn.commit(client.handle(), &to, 0).await;
    copied.map_err(|error| error.errno)?;
    if remove {
        let mut txn = Txn::new();
        txn.unlink(source);
        let removed = txn.commit(client.handle(), &from, 0).await;
        removed.map_err(|error| error.errno)?;
    }
    Ok(())
}

fn copy_or_move(parser: &'static Parser, name: &str, remove: bool, words: &[String]) -> i32 {
    let args = match parser.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [source, target] = args.words.as_slice() else {
        return super::wrong_count(&format!("{name}: specify srckey dstkey"));
    };
    fail::run(PROG, async {
        copy_key(&args, source, target, remove)
            .await
            .map_err(|errno| Fail::of(format!("flux_kvs_{name}"), errno))?;
        Ok(0)
    })
}

pub(super) fn copy(words: &[String]) -> i32 {
    copy_or_move(&COPY, "copy", false, words)
}

pub(super) fn rename(words: &[String]) -> i32 {
    copy_or_move(&MOVE, "move", true, words)
}

static SYNC: Parser = Parser {
    name: "flux-kvs sync",
    usage: "[OPTIONS]...",
    about: "sync content and checkpoint to disk",
    family: Family::G,
    opts: &[],
};

pub(super) fn sync(words: &[String]) -> i32 {
    let args = match SYNC.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return SYNC.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        commit(&client, &args, Txn::new(), commit_flags::SYNC).await
    })
}
