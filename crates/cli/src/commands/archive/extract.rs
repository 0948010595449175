//! `flux archive extract`.

use std::path::Path;
use std::time::Duration;

use client::archive as files;

use super::{
    Form, NAME_READ, NO_PRIMARY, PROG, TAGS, change_directory, choose, decode, fetch, key,
    unavailable,
};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag, level, maybe};
use crate::{err, outln};

static EXTRACT: Parser = Parser {
    name: "flux archive extract",
    usage: "[-n NAME] [--overwrite] [-C DIR] [PATTERN]",
    about: "Extract KVS file archive contents",
    family: Family::G,
    opts: &[
        NAME_READ,
        TAGS,
        level("Show filenames on stderr"),
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

pub(super) fn run(words: &[String], form: Form) -> i32 {
    let args = match form.parse(&EXTRACT, words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return EXTRACT.wrong_words();
    }
    fail::run(PROG, async {
        let timeout = timeout(&args)?;
        let client = fail::connect_builtin().await?;
        let found = fetch(&client, &args, args.has("waitcreate"));
        let found = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, found).await.map_err(|_| {
                let key = key(&args);
                Fail::new(format!("{key}: key was not created within timeout window"))
            })?,
            None => found.await,
        };
        let value = found.map_err(|error| unavailable(&args, &error))?;
        let chosen = choose(decode(&value)?, args.words.first());
        change_directory(&args)?;
        let verbose = args.verbosity()? > 0;
        if args.has("list-only") {
            for file in chosen {
                if verbose {
                    outln!("{file}");
                } else {
                    outln!("{}", file.path);
                }
            }
            return Ok(0);
        }
        let tell = |file: &spec::archive::File| {
            if verbose {
                err!("{}", file.path);
            }
        };
        let here = Path::new("");
        files::extract(client.handle(), &chosen, here, args.has("overwrite"), tell)
            .await
            .map_err(|error| Fail::new(error.to_string()))?;
        Ok(0)
    })
}

/// How long to wait for the archive, if not for ever.
fn timeout(args: &Args) -> Result<Option<Duration>, Fail> {
    let Some(text) = args.get("waitcreate") else {
        return Ok(None);
    };
    types::fsd::parse_duration(text).map_err(|_| {
        let errno = types::Errno::EINVAL;
        Fail::new(format!("could not parse --waitcreate timeout: {errno}"))
    })
}
