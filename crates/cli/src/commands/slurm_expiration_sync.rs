//! `flux slurm-expiration-sync`: an instance ends with the Slurm job it is in.

use std::time::Duration;

use client::slurm::{Expiration, POLL_INTERVAL, SlurmError};
use tokio::signal::unix::{SignalKind, signal};

use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag};

const PREFIX: &str = "slurm-expiration-sync: ERROR";

static PARSER: Parser = Parser {
    name: "slurm-expiration-sync",
    usage: "[-h] [--poll-interval SECONDS] [-j JOBID] [-v]",
    about: "Keep the expiration of this instance that of a Slurm job",
    family: Family::P,
    opts: &[
        arg(
            '\0',
            "poll-interval",
            "SECONDS",
            "Ask Slurm so often (default: 60)",
        ),
        arg('j', "jobid", "JOBID", "The Slurm job"),
        flag('v', "verbose", "Tell of each change"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return PARSER.wrong_words();
    }
    fail::run(PREFIX, async {
        let jobid = args.get("jobid").and_then(|text| text.parse().ok());
        let jobid = jobid.ok_or_else(|| Fail::new("Invalid or missing --jobid"))?;
        let interval = match args.get("poll-interval") {
            None => POLL_INTERVAL,
            Some(text) => text
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|interval| !interval.is_zero())
                .ok_or_else(|| Fail::new(format!("Invalid --poll-interval '{text}'")))?,
        };
        let client = fail::connect_p().await?;
        let open = |kind| signal(kind).map_err(|error| Fail::new(error.to_string()));
        let (mut interrupt, mut terminate) = (
            open(SignalKind::interrupt())?,
            open(SignalKind::terminate())?,
        );
        let show = |end: f64| {
            if args.has("verbose") {
                err!("expiration updated to {end:.2}");
            }
        };
        let handle = client.handle();
        let mut expiration = Expiration::new(jobid);
        let failed = |error: SlurmError| Fail::new(error.to_string());
        let first = expiration.sync(handle).await.map_err(failed)?;
        first.into_iter().for_each(show);
        tokio::select! {
            error = expiration.follow(handle, interval, show) => Err(failed(error)),
            _ = interrupt.recv() => Ok(0),
            _ = terminate.recv() => Ok(0),
        }
    })
}
