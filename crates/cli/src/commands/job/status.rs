//! Waiting for jobs to end: `status` and `wait`.

use proto::job_manager::{JOBID_ANY, JobManagerWait, Wait};
use rpc::Dest;
use serde_json::{Map, Value, json};
use types::{Errno, JobId};

use super::{PROG, connect, parse_id};
use crate::attach::watch;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag};
use crate::{err, json as text, outln, signal};

static STATUS: Parser = Parser {
    name: "flux-job status",
    usage: "id [id...]",
    about: "Wait for job(s) to complete and exit with largest exit code",
    family: Family::G,
    opts: &[
        flag('v', "verbose", "Say more"),
        flag('j', "json", "Show each result as JSON"),
        arg(
            'e',
            "exception-exit-code",
            "N",
            "Exit code of jobs that ended by an exception alone [default=1]",
        ),
    ],
};

/// What a job's events say of its end.
struct Ended {
    id: JobId,
    result: Map<String, Value>,
    status: Option<i32>,
    exception: Option<String>,
}

async fn follow(client: &client::Client, id: JobId, word: &str) -> Result<Ended, Fail> {
    let mut ended = Ended {
        id,
        result: Map::new(),
        status: None,
        exception: None,
    };
    ended.result.insert("id".into(), json!(id.0));
    ended
        .result
        .insert("exception_occurred".into(), json!(false));
    let mut fatal = false;
    let mut stream = watch(client, id, "eventlog", 0);
    loop {
        let entry = match stream.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) if error.errno == Errno::ENOENT => {
                return Err(Fail::new(format!("{word}: No such job")));
            }
            Err(error) => return Err(Fail::of(word, error)),
        };
        let result = &mut ended.result;
        match entry.name.as_str() {
            "submit" => drop(result.insert("t_submit".into(), json!(entry.timestamp))),
            "alloc" => drop(result.insert("t_run".into(), json!(entry.timestamp))),
            "finish" => {
                result.insert("t_cleanup".into(), json!(entry.timestamp));
                let status = entry.get_i64("status").unwrap_or_default();
                result.insert("waitstatus".into(), json!(status));
                ended.status = Some(status as i32);
            }
            "exception" => {
                let severity = entry.get_i64("severity").unwrap_or_default();
                if severity == 0 && !fatal {
                    fatal = true;
                    let kind = entry.get_str("type").unwrap_or_default();
                    result.insert("exception_occurred".into(), json!(true));
                    result.insert("exception_type".into(), json!(kind));
                    result.insert("exception_severity".into(), json!(severity));
                    let note = entry.get_str("note").unwrap_or_default();
                    result.insert("exception_note".into(), json!(note));
                    result
                        .entry("t_cleanup")
                        .or_insert_with(|| json!(entry.timestamp));
                    ended.exception = Some(kind.to_owned());
                }
            }
            _ => {}
        }
    }
    let code = match (ended.exception.as_deref(), ended.status) {
        (Some("cancel"), _) => 4,
        (Some("timeout"), _) => 8,
        (None, Some(0)) => 1,
        _ => 2,
    };
    ended.result.insert("result".into(), json!(code));
    Ok(ended)
}

pub(super) fn status(words: &[String]) -> i32 {
    let args = match STATUS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return STATUS.wrong_words();
    }
    fail::run(PROG, async {
        let exception_code = args.int("exception-exit-code")?.unwrap_or(1);
        let ids = args
            .words
            .iter()
            .map(|word| Ok((word.clone(), parse_id(word)?)))
            .collect::<Result<Vec<_>, Fail>>()?;
        let client = connect().await?;
        let verbose = args.count("verbose");
        let many = ids.len() > 1;
        if many && verbose > 0 {
            err!("{PROG}: fetching status for {} jobs", ids.len());
        }
        let mut tasks = Vec::new();
        for (word, id) in ids {
            let client = client.clone();
            tasks.push(tokio::task::spawn_local(async move {
                follow(&client, id, &word).await
            }));
        }
        let mut all = Vec::new();
        for task in tasks {
            all.push(task.await.map_err(|error| Fail::new(error.to_string()))??);
        }
        if many && verbose > 0 {
            err!("{PROG}: all done.");
        }
        let mut highest = 0;
        for ended in all {
            let id = ended.id;
            let mut code = i64::from(ended.status.map_or(0, signal::exit_code));
            if ended.status.is_none() && ended.exception.is_some() {
                code = exception_code;
            }
            if args.has("json") {
                outln!("{}", text::compact(&Value::Object(ended.result)));
            }
            let signum = ended.status.map_or(0, |status| status & 0x7f);
            if let Some(kind) = ended.exception {
                // A job that never ran is spoken of by its exit code, unless more is asked for.
                if verbose > 1 || (verbose > 0 && ended.status.is_some()) {
                    err!("{PROG}: {id}: exception type={kind}");
                }
            } else if signum != 0 {
                let text = signal::describe(signum);
                if verbose > 0 {
                    err!("{PROG}: {id}: job shell died by signal: {text}");
                }
            } else if verbose > 1 || (verbose > 0 && code > 0) {
                err!("{PROG}: {id}: exited with exit code {code}");
            }
            highest = highest.max(code);
        }
        Ok(highest as i32)
    })
}

static WAIT: Parser = Parser {
    name: "flux-job wait",
    usage: "[--all] [id]",
    about: "Wait for job(s) to complete.",
    family: Family::G,
    opts: &[
        flag('a', "all", "Wait for all waitable jobs"),
        flag('v', "verbose", "Show jobs that ended well too"),
    ],
};

pub(super) fn wait(words: &[String]) -> i32 {
    let args = match WAIT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 || (args.has("all") && !args.words.is_empty()) {
        return WAIT.wrong_words();
    }
    fail::run(PROG, async {
        let word = args.words.first();
        let id = match word {
            // An id travels as a signed number here.
            Some(word) => parse_id(word)?.0 as i64,
            None => JOBID_ANY,
        };
        let client = connect().await?;
        let all = args.has("all");
        let mut status = 0;
        loop {
            let request = Wait { id };
            let call = client.handle().call::<JobManagerWait>(Dest::Any, &request);
            let ended = match call.await {
                Ok(ended) => ended,
                Err(error) if error.errno == Errno::ECHILD && all => return Ok(status),
                Err(error) if error.errno == Errno::ECHILD => {
                    return Err(Fail::from(error).with_status(2));
                }
                Err(error) => return Err(error.into()),
            };
            if all {
                if !ended.success {
                    err!("{}: {}", ended.id, ended.errstr);
                    status = 1;
                } else if args.has("verbose") {
                    err!("{}: job completed successfully", ended.id);
                }
                continue;
            }
            if word.is_none() {
                outln!("{}", ended.id);
            }
            if !ended.success {
                return Err(Fail::new(ended.errstr));
            }
            return Ok(0);
        }
    })
}
