//! `flux job-exec-override`: starts and finishes mock jobs by hand.

use proto::job_exec::{JobExecOverride, Override};
use rpc::Dest;
use types::JobId;

use super::dispatch_argparse;
use crate::driver::Invocation;
use crate::fail;
use crate::options::{Family, Parser};

static START: Parser = Parser {
    name: "flux-job-exec-override start",
    usage: "[-h] JOBID",
    about: "",
    family: Family::P,
    opts: &[],
};

static FINISH: Parser = Parser {
    name: "flux-job-exec-override finish",
    usage: "[-h] JOBID STATUS",
    ..START
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_argparse(
        "flux-job-exec-override",
        &[("start", start), ("finish", finish)],
        words,
    )
}

fn start(words: &[String]) -> i32 {
    let args = match START.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    match args.words.as_slice() {
        [] => START.usage_error("the following arguments are required: JOBID"),
        [id] => send(&START, "start", id, None),
        _ => START.wrong_words(),
    }
}

fn finish(words: &[String]) -> i32 {
    let args = match FINISH.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [id, text] = args.words.as_slice() else {
        return FINISH.usage_error("the following arguments are required: JOBID, STATUS");
    };
    match text.parse() {
        Ok(status) => send(&FINISH, "finish", id, Some(status)),
        Err(_) => FINISH.usage_error(&format!("argument STATUS: invalid int value: '{text}'")),
    }
}

fn send(parser: &'static Parser, event: &str, id: &str, status: Option<i32>) -> i32 {
    let Ok(jobid) = id.parse::<JobId>() else {
        return parser.usage_error(&format!("argument JOBID: invalid JobID value: '{id}'"));
    };
    fail::run("flux-job-exec-override: ERROR", async {
        let client = fail::connect_p().await?;
        let request = Override {
            event: event.to_owned(),
            jobid,
            status,
        };
        let call = client.handle().call::<JobExecOverride>(Dest::Any, &request);
        call.await?;
        Ok(0)
    })
}
