//! `flux watch`: the output and end of jobs that were submitted before.

use client::Client;
use proto::job_list::{JobListId, ListId};
use rpc::Dest;
use serde_json::json;
use types::{Errno, JobId};

use super::jobs::{Filter, list};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::submit::{Sinks, Wanted, Watcher};
use crate::{datetime, err, output};

const PROG: &str = "flux-watch";

static PARSER: Parser = Parser {
    name: PROG,
    usage: "[-h] [-a] [-A] [-c N] [-f STATE|RESULT] [--since WHEN] [--progress] [--jps] [-l] [-v] [JOBID ...]",
    about: "",
    family: Family::P,
    opts: &[
        flag('a', "active", "Watch all active jobs of the user"),
        flag('A', "all", "Watch the jobs of the user in all states"),
        arg('c', "count", "N", "Watch at most N jobs"),
        arg(
            'f',
            "filter",
            "STATE|RESULT",
            "Watch jobs with this state or result",
        ),
        arg('\0', "since", "WHEN", "Watch jobs that ended after WHEN"),
        flag('\0', "progress", "Show progress on a terminal"),
        flag('\0', "jps", "With --progress, show jobs per second"),
        flag(
            'l',
            "label-io",
            "Put the job id and task rank in front of output lines",
        ),
        flag('v', "verbose", "Say more (multiple use OK)"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if let Some(since) = args.get("since")
        && since.parse::<f64>().is_err()
        && datetime::parse(since).is_none()
    {
        err!("{PROG}: ERROR: --since: invalid value '{since}'");
        return 2;
    }
    let chosen = ["active", "all", "filter", "since"]
        .iter()
        .any(|key| args.has(key));
    if !chosen && args.words.is_empty() {
        err!("{PROG}: ERROR: At least one job selection option is required");
        err!("Try 'flux watch --help' for more information.");
        return 1;
    }
    fail::run("flux-watch: ERROR", async {
        if args.has("progress") || args.has("jps") {
            err!("{PROG}: WARNING: progress is not implemented. Ignoring --progress option");
        }
        let client = fail::connect_p().await?;
        let ids = if args.words.is_empty() {
            selected(&client, &args).await?
        } else {
            named(&client, &args.words).await?
        };
        if ids.is_empty() {
            err!("{PROG}: INFO: No matching jobs");
            return Ok(0);
        }
        if args.has("verbose") {
            err!("{PROG}: INFO: Watching {} jobs", ids.len());
        }
        let wanted = Wanted {
            event: "clean".to_owned(),
            output: true,
            label: args.has("label-io"),
            verbose: args.count("verbose"),
        };
        let watcher = Watcher::open(&client, wanted).await?;
        let follow = |id: &JobId| watcher.follow(*id, Sinks::default());
        let following: Vec<_> = ids.iter().map(follow).collect();
        let mut status = 0;
        for task in following {
            let ended = task.await.map_err(|error| Fail::new(error.to_string()))??;
            status = status.max(ended);
        }
        output::flush();
        Ok(status)
    })
}

/// The jobs options choose.
async fn selected(client: &Client, args: &Args) -> Result<Vec<JobId>, Fail> {
    let mut filter = Filter::from_args(args)?;
    if args.has("all") && !args.has("filter") {
        let own = nix::unistd::getuid().as_raw();
        filter.constraint = json!({ "userid": [own] });
    }
    filter.count = args.int("count")?.unwrap_or(0);
    let mut jobs = list(client, &filter, Vec::new()).await?;
    if filter.count > 0 {
        jobs.truncate(usize::try_from(filter.count).unwrap_or_default());
    }
    Ok(jobs.iter().map(super::jobs::Job::id).collect())
}

/// The jobs whose ids are given, without those nobody knows.
async fn named(client: &Client, words: &[String]) -> Result<Vec<JobId>, Fail> {
    let mut ids = Vec::new();
    for word in words {
        let id: JobId = word.parse().map_err(|_| {
            PARSER.usage_error(&format!("argument JOBID: invalid JobID value: '{word}'"))
        })?;
        let request = ListId {
            id,
            attrs: Vec::new(),
            state: None,
        };
        match client.handle().call::<JobListId>(Dest::Any, &request).await {
            Ok(_) => ids.push(id),
            Err(error) if error.errno == Errno::ENOENT => {
                err!("{PROG}: ERROR: JobID {word} unknown");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ids)
}
