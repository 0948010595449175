//! `flux shutdown`.
//!
//! Stored data that nothing refers to any more is dropped by writing an archive at the end and
//! starting from that: the attribute `content.dump` asks for it, and is changed here.

use std::io::{BufRead, IsTerminal};

use client::Client;
use proto::Empty;
use proto::attr::{AttrRemove, AttrSet, Name, Set};
use proto::broker::{Shutdown, ShutdownStart};
use proto::config::ConfigGet;
use proto::kvs::{KvsGetroot, Namespace, PRIMARY};
use rpc::Dest;
use types::{Errno, Rank};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag, level};
use crate::resolve::{Options, nearest, resolve};
use crate::{err, output};

const PROG: &str = "flux-shutdown";
const LEADER: Dest = Dest::Rank(Rank::LEADER);
/// The attribute that asks for an archive.
const DUMP: &str = "content.dump";

static PARSER: Parser = Parser {
    name: "flux shutdown",
    usage: "[OPTIONS] [TARGET]",
    about: "Shut down an instance of Flux",
    family: Family::G,
    opts: &[
        flag(
            '\0',
            "skip-gc",
            "Skip KVS garbage collection this time, if already enabled",
        ),
        flag('\0', "gc", "Garbage collect KVS (short for --dump=auto)"),
        arg('\0', "dump", "PATH", "Archive stored data to this file"),
        flag('\0', "background", "Do not wait"),
        flag('\0', "quiet", "Show only errors"),
        level("Show more of the log"),
        flag('y', "yes", "Answer yes to questions"),
        flag('n', "no", "Answer no to questions"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return PARSER.wrong_words();
    }
    let verbosity = match args.verbosity() {
        Ok(verbosity) => verbosity,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        if args.has("gc") && (args.has("skip-gc") || args.has("dump")) {
            return Err(Fail::new("--gc is incompatible with --skip-gc or --dump"));
        }
        let client = connect(args.words.first()).await?;
        let handle = client.handle();
        set_dump(&client, &args).await?;
        let loglevel = match verbosity {
            0 if args.has("quiet") => 3,
            level => i32::try_from(level).unwrap_or(7).saturating_add(6),
        };
        let request = Shutdown {
            loglevel: Some(loglevel.min(7)),
        };
        if args.has("background") {
            handle.call::<ShutdownStart>(LEADER, &request).await?;
            return Ok(0);
        }
        let mut log = handle.stream::<ShutdownStart>(LEADER, &request);
        while let Some(line) = log.next().await? {
            let text = line.log.trim_end_matches('\n');
            if !text.is_empty() {
                err!("{text}");
            }
        }
        Ok(0)
    })
}

/// Connects to the instance that is named, or to the one around.
async fn connect(target: Option<&String>) -> Result<Client, Fail> {
    let uri = match target {
        None => None,
        Some(target) => {
            let uri = resolve(target, Options::from_env()).await.map_err(|fail| {
                err!("flux-uri: ERROR: {}", fail.text);
                Fail::new(format!("failed to resolve target {target} to a Flux URI"))
            })?;
            Some(nearest(&uri)?)
        }
    };
    client::open(uri.as_deref())
        .await
        .map_err(|error| Fail::of("error connecting to Flux", error))
}

/// Has an archive written, or not, as the options say or the user answers.
async fn set_dump(client: &Client, args: &Args) -> Result<(), Fail> {
    let failed = |error| Fail::of(DUMP, error);
    let handle = client.handle();
    let path = match args.get("dump") {
        Some(path) => path,
        None if args.has("gc") => "auto",
        None if args.has("skip-gc") => {
            let request = Name {
                name: DUMP.to_owned(),
            };
            let call = handle.call::<AttrRemove>(LEADER, &request);
            return match call.await {
                Err(error) if error.errno != Errno::ENOENT => Err(failed(error)),
                _ => Ok(()),
            };
        }
        None if is_due(client).await? && wants_it(args)? => "auto",
        None => return Ok(()),
    };
    let request = Set {
        name: DUMP.to_owned(),
        value: path.to_owned(),
        force: false,
    };
    handle
        .call::<AttrSet>(LEADER, &request)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Whether so much was committed that the configuration suggests to drop what is unused, and
/// nobody has asked for that yet.
async fn is_due(client: &Client) -> Result<bool, Fail> {
    let handle = client.handle();
    let config = handle.call::<ConfigGet>(Dest::Any, &Empty {}).await?;
    let threshold = match config.get("kvs").and_then(|kvs| kvs.get("gc-threshold")) {
        None => return Ok(false),
        Some(value) => value
            .as_i64()
            .ok_or_else(|| Fail::new(format!("kvs.gc-threshold: {value} is no integer")))?,
    };
    if threshold <= 0 || client.attr(DUMP).await.is_ok_and(|dump| !dump.is_empty()) {
        return Ok(false);
    }
    let request = Namespace {
        namespace: PRIMARY.to_owned(),
    };
    let root = handle.call::<KvsGetroot>(LEADER, &request).await;
    let root = root.map_err(|error| Fail::of("error fetching KVS version", error))?;
    Ok(root.rootseq > threshold)
}

/// Asks the user, unless the answer was given on the command line.
fn wants_it(args: &Args) -> Result<bool, Fail> {
    if args.has("yes") || args.has("no") {
        return Ok(args.has("yes"));
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Fail::new("gc threshold exceeded, specify -y or -n"));
    }
    loop {
        output::error_bytes(b"gc threshold exceeded, garbage collect stored data? [Y/n] ");
        let mut line = String::new();
        let count = stdin
            .lock()
            .read_line(&mut line)
            .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
        match line.trim() {
            "" if count == 0 => return Err(Fail::new("gc threshold exceeded, specify -y or -n")),
            "" | "y" | "Y" | "yes" => return Ok(true),
            "n" | "N" | "no" => return Ok(false),
            _ => {}
        }
    }
}
