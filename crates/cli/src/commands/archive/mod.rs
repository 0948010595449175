//! `flux archive`: files carried through the key-value store (RFC 37); and its deprecated name,
//! `flux filemap`.

mod create;
mod extract;

use client::Client;
use client::archive as files;
use client::kvs::{Txn, default_namespace};
use proto::content::{ContentMmapRemove, Tag};
use proto::kvs::PRIMARY;
use rpc::{Dest, RpcError};
use serde_json::Value;
use spec::archive::{self, File};
use types::{Errno, Rank};

use super::Sub;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::{err, out, outln};

const PROG: &str = "flux-archive";
const LEADER: Dest = Dest::Rank(Rank::LEADER);

const NAME_READ: Opt = arg('n', "name", "NAME", "Read from archive NAME (default main)");
/// What the deprecated command calls the name.
const TAGS: Opt = arg('T', "tags", "NAME", "Use archive NAME").hidden();
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
                |words| create::run(words, Form::Archive),
            ),
            ("remove", "[-n NAME] [-f]", |words| {
                remove(words, Form::Archive)
            }),
            (
                "extract",
                "[-n NAME] [--overwrite] [-C DIR] [PATTERN]",
                |words| extract::run(words, Form::Archive),
            ),
            ("list", "[-n NAME] [PATTERN]", |words| {
                list(words, Form::Archive)
            }),
        ],
        words,
    )
}

/// `flux filemap`.
pub(crate) fn filemap(_: &Invocation<'_>, words: &[String]) -> i32 {
    const SUBS: &[Sub] = &[
        ("map", "[OPTIONS]...", |words| {
            create::run(words, Form::Filemap)
        }),
        ("unmap", "[OPTIONS]...", |words| {
            remove(words, Form::Filemap)
        }),
        ("list", "[OPTIONS]...", |words| list(words, Form::Filemap)),
        ("get", "[OPTIONS]...", |words| {
            extract::run(words, Form::Filemap)
        }),
    ];
    err!("⚠️This command is deprecated.⚠️   Use flux-archive(1) instead.");
    super::dispatch_forms("flux filemap", "", SUBS, words)
}

/// The name under which a subcommand runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `flux archive`.
    Archive,
    /// `flux filemap`, which has options of its own.
    Filemap,
}

impl Form {
    /// Parses a subcommand's words.
    fn parse(self, parser: &'static Parser, words: &[String]) -> Result<Args, i32> {
        let args = parser.parse(words)?;
        for option in ["tags", "disable-mmap"] {
            if self == Form::Archive && args.has(option) {
                return Err(parser.usage_error(&format!("unrecognized option '--{option}'")));
            }
        }
        Ok(args)
    }
}

/// The name of the archive the options mean.
fn name(args: &Args) -> &str {
    let name = args.get("name").or_else(|| args.get("tags"));
    name.unwrap_or("main")
}

/// The key of that archive.
fn key(args: &Args) -> String {
    files::key(name(args))
}

fn namespace(args: &Args) -> String {
    if args.has("no-force-primary") {
        default_namespace()
    } else {
        PRIMARY.to_owned()
    }
}

async fn fetch(client: &Client, args: &Args, wait: bool) -> Result<Value, RpcError> {
    files::lookup(client.handle(), &namespace(args), name(args), wait).await
}

fn unavailable(args: &Args, error: &RpcError) -> Fail {
    Fail::of(format!("KVS lookup {}", key(args)), error)
}

fn decode(value: &Value) -> Result<Vec<File>, Fail> {
    archive::decode(value).map_err(|error| Fail::new(error.to_string()))
}

/// The files a pattern chooses. Complains if there are none.
fn choose(files: Vec<File>, pattern: Option<&String>) -> Vec<File> {
    let chosen = files::choose(files, pattern.map(String::as_str));
    if let Some(pattern) = pattern
        && chosen.is_empty()
    {
        err!("{PROG}: No files matched pattern '{pattern}'");
    }
    chosen
}

/// Unmaps the files of an archive. Only those in the primary namespace have any.
async fn unmap(client: &Client, args: &Args) -> Result<(), Fail> {
    if args.has("no-force-primary") {
        return Ok(());
    }
    let tag = Tag {
        tag: name(args).to_owned(),
    };
    let call = client.handle().call::<ContentMmapRemove>(LEADER, &tag);
    call.await.map_err(|error| Fail::of("unmap", error))?;
    Ok(())
}

fn change_directory(args: &Args) -> Result<(), Fail> {
    let Some(dir) = args.get("directory") else {
        return Ok(());
    };
    std::env::set_current_dir(dir)
        .map_err(|error| Fail::of(format!("chdir {dir}"), Errno::from_io(&error)))
}

static LIST: Parser = Parser {
    name: "flux archive list",
    usage: "[-n NAME] [PATTERN]",
    about: "List KVS file archive contents",
    family: Family::G,
    opts: &[
        NAME_READ,
        TAGS,
        NO_PRIMARY,
        flag('l', "long", "Show file type, mode, size"),
        flag(
            '\0',
            "raw",
            "Show raw RFC 37 file system object without decoding",
        ),
    ],
};

fn list(words: &[String], form: Form) -> i32 {
    let args = match form.parse(&LIST, words) {
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
                outln!("{file}");
            } else {
                outln!("{}", file.path);
            }
        }
        Ok(0)
    })
}

static REMOVE: Parser = Parser {
    name: "flux archive remove",
    usage: "[-n NAME] [-f]",
    about: "Remove a KVS file archive",
    family: Family::G,
    opts: &[
        arg('n', "name", "NAME", "Remove archive NAME (default main)"),
        TAGS,
        NO_PRIMARY,
        flag('f', "force", "Ignore a nonexistent archive"),
    ],
};

fn remove(words: &[String], form: Form) -> i32 {
    let args = match form.parse(&REMOVE, words) {
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
        unmap(&client, &args).await?;
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
