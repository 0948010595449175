//! `flux admin`: administration of the instance.

mod system_scripts;

use std::io::Read;

use proto::broker::{RunAt, RunAtPush};
use rpc::Dest;
use types::Errno;

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};

const PREFIX: &str = "flux-admin: ERROR";

const SUBS: &[super::PlainSub] = &[
    ("cleanup-push", cleanup_push),
    ("system-scripts", system_scripts::run),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_argparse("flux-admin", SUBS, words)
}

static CLEANUP_PUSH: Parser = Parser {
    name: "flux-admin cleanup-push",
    usage: "[-h] [COMMAND...]",
    about: "Put commands in front of those that run when the instance ends",
    family: Family::Submit,
    opts: &[],
};

/// The command lines to push: the words as one, or else the lines of standard input, which run in
/// the order they are given.
fn commands(words: &[String]) -> Result<Vec<String>, Fail> {
    if !words.is_empty() {
        return Ok(vec![words.join(" ")]);
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|error| Fail::of("standard input", Errno::from_io(&error)))?;
    // The broker puts each in front of those before it.
    Ok(text.lines().rev().map(str::to_owned).collect())
}

fn cleanup_push(words: &[String]) -> i32 {
    let args = match CLEANUP_PUSH.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.has("help") {
        crate::outln!("{}", CLEANUP_PUSH.help_text());
        return 0;
    }
    fail::run(PREFIX, async {
        let push = RunAt {
            name: "cleanup".to_owned(),
            commands: commands(&args.words)?,
        };
        let client = fail::connect_p().await?;
        client
            .handle()
            .call::<RunAtPush>(Dest::Any, &push)
            .await
            .map_err(|error| Fail::new(error.to_string()))?;
        Ok(0)
    })
}
