//! `flux cancel`.

use proto::job_manager::{JobManagerRaise, JobManagerRaiseAll, Raise, RaiseAll};
use rpc::Dest;
use types::JobId;

use super::job::{states, user};
use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag};

static PARSER: Parser = Parser {
    name: "flux-cancel",
    usage: "[OPTIONS] [JOBID...]",
    about: "",
    family: Family::P,
    opts: &[
        flag('\0', "all", "Cancel all of the user's jobs"),
        flag('n', "dry-run", "Only count the jobs"),
        flag('\0', "dry", "").hidden(),
        flag('q', "quiet", "Do not show how many jobs there were"),
        arg('u', "user", "USER", "Cancel the jobs of this user, or all"),
        arg('S', "states", "STATES", "Cancel jobs in these states"),
        arg('\0', "state", "STATES", "").hidden(),
        arg('m', "message", "NOTE", "What to say about it"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let mut ids = Vec::new();
    for word in &args.words {
        match word.parse::<JobId>() {
            Ok(id) => ids.push(id),
            Err(_) => {
                let text = format!("argument JOBID...: invalid JobID value: '{word}'");
                return PARSER.usage_error(&text);
            }
        }
    }
    fail::run("flux-cancel: ERROR", async {
        let many = ["all", "user", "states", "state"]
            .iter()
            .any(|key| args.has(key));
        if many {
            if !ids.is_empty() {
                return Err(Fail::new(
                    "Do not specify a list of jobids with --all,--user,--state",
                ));
            }
            return cancel_many(&args).await;
        }
        if ids.is_empty() {
            return Err(Fail::new("No target jobs were provided"));
        }
        if args.has("dry-run") || args.has("dry") {
            err!("flux-cancel: Would cancel {} jobs", ids.len());
            return Ok(0);
        }
        cancel(&args, &ids).await
    })
}

async fn cancel(args: &Args, ids: &[JobId]) -> Outcome {
    let client = fail::connect_p().await?;
    let mut calls = Vec::new();
    for id in ids {
        let request = Raise {
            id: *id,
            severity: 0,
            kind: "cancel".to_owned(),
            note: args.get("message").map(str::to_owned),
            wait_status: None,
        };
        calls.push(client.handle().call::<JobManagerRaise>(Dest::Any, &request));
        client.drained().await;
    }
    let mut status = 0;
    for (id, call) in ids.iter().zip(calls) {
        if let Err(error) = call.await {
            err!("flux-cancel: ERROR: {id}: {error}");
            status = 1;
        }
    }
    Ok(status)
}

async fn cancel_many(args: &Args) -> Outcome {
    let mut bits = 0;
    for list in args.all("states").chain(args.all("state")) {
        bits |= states(list).map_err(|_| Fail::new(format!("Invalid state {list} specified")))?;
    }
    let request = RaiseAll {
        dry_run: args.has("dry-run") || args.has("dry"),
        userid: user(args.get("user"))?,
        states: if bits == 0 { 62 } else { bits },
        severity: 0,
        kind: "cancel".to_owned(),
        note: args.get("message").map(str::to_owned),
    };
    let client = fail::connect_p().await?;
    let call = client
        .handle()
        .call::<JobManagerRaiseAll>(Dest::Any, &request);
    let counts = call.await?;
    let plural = |count: i64| if count == 1 { "" } else { "s" };
    if !args.has("quiet") {
        let (count, errors) = (counts.count, counts.errors);
        if count == 0 {
            err!("flux-cancel: Matched 0 jobs");
        } else if request.dry_run {
            err!("flux-cancel: Would cancel {count} job{}", plural(count));
        } else {
            err!(
                "flux-cancel: Canceled {count} job{} ({errors} error{})",
                plural(count),
                plural(errors)
            );
        }
    }
    Ok(i32::from(counts.errors > 0))
}
