//! `flux update`: changes to the jobspec of a job that is not yet done.

use client::Client;
use proto::job_list::{JobListId, ListId};
use proto::job_manager::{JobManagerUpdate, Update};
use rpc::Dest;
use serde_json::{Map, Value, json};
use types::{Errno, JobId};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, flag};
use crate::{attach, err, json as text, outln};

static PARSER: Parser = Parser {
    name: "flux-update",
    usage: "[-h] [-n] [-v] [--wait] JOBID KEY=VALUE [KEY=VALUE ...]",
    about: "",
    family: Family::P,
    opts: &[
        flag('n', "dry-run", "Show the update and do not make it"),
        flag('v', "verbose", "Say what was updated"),
        flag('\0', "wait", "Wait until the update is in the eventlog"),
    ],
};

const DURATION: &str = "attributes.system.duration";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [id, pairs @ ..] = args.words.as_slice() else {
        return PARSER.usage_error("the following arguments are required: JOBID, KEY=VALUE");
    };
    if pairs.is_empty() {
        return PARSER.usage_error("the following arguments are required: KEY=VALUE");
    }
    let Ok(id) = id.parse::<JobId>() else {
        return PARSER.usage_error(&format!("argument JOBID: invalid JobID value: '{id}'"));
    };
    fail::run("flux-update: ERROR", async {
        update(&args, id, pairs).await
    })
}

async fn update(args: &Args, id: JobId, pairs: &[String]) -> Result<i32, Fail> {
    let mut client: Option<Client> = None;
    let mut updates = Map::new();
    for pair in pairs {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = full_key(key);
        let value = if key == DURATION {
            let (relative, seconds) = duration(value)?;
            let base = if relative {
                current_duration(connected(&mut client).await?, id).await?
            } else {
                0.0
            };
            json!(base + seconds)
        } else {
            serde_json::from_str(value).unwrap_or_else(|_| value.into())
        };
        updates.insert(key, value);
    }
    if args.has("dry-run") {
        outln!("{}", text::python(&updates, true));
        return Ok(0);
    }
    let client = connected(&mut client).await?;
    let mut events = attach::watch(client, id, "eventlog", 0);
    let request = Update {
        id,
        updates: updates.clone(),
    };
    client
        .handle()
        .call::<JobManagerUpdate>(Dest::Any, &request)
        .await?;
    if args.has("wait") {
        while let Some(entry) = events.next().await? {
            let done = |(key, value): (&String, &Value)| entry.get(key) == Some(value);
            if entry.name == "jobspec-update" && updates.iter().all(done) {
                break;
            }
        }
    }
    if args.has("verbose") {
        for (key, value) in &updates {
            let value = match value {
                Value::String(text) => text.clone(),
                other => text::python(other, false),
            };
            err!("flux-update: INFO: updated {key} to {value}");
        }
    }
    Ok(0)
}

async fn connected(client: &mut Option<Client>) -> Result<&Client, Fail> {
    if client.is_none() {
        *client = Some(fail::connect_p().await?);
    }
    client.as_ref().ok_or_else(|| Fail::new("not connected"))
}

/// The whole of a key that may be short.
fn full_key(key: &str) -> String {
    match key {
        "name" => "attributes.system.job.name".to_owned(),
        _ if key.starts_with("attributes.") => key.to_owned(),
        _ => format!("attributes.system.{key}"),
    }
}

/// Seconds, and whether they are to be added to what the job has. No limit is 0 seconds.
fn duration(text: &str) -> Result<(bool, f64), Fail> {
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'+') => (1.0, &text[1..]),
        Some(b'-') => (-1.0, &text[1..]),
        _ => (0.0, text),
    };
    let seconds = fail::duration(rest)?;
    Ok(if sign != 0.0 {
        (true, sign * seconds)
    } else if seconds.is_infinite() {
        (false, 0.0)
    } else {
        (false, seconds)
    })
}

/// The job's duration. The listing knows of earlier updates before the store does.
async fn current_duration(client: &Client, id: JobId) -> Result<f64, Fail> {
    let request = ListId {
        id,
        attrs: vec!["duration".to_owned()],
        state: None,
    };
    let found = client
        .handle()
        .call::<JobListId>(Dest::Any, &request)
        .await
        .map_err(|error| match error.errno {
            Errno::ENOENT => Fail::new("unknown job id"),
            _ => error.into(),
        })?;
    let duration = found.job.get("duration").and_then(Value::as_f64);
    match duration {
        Some(duration) if duration > 0.0 => Ok(duration),
        _ => Err(Fail::new("job duration is unlimited, cannot adjust it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_be_short() {
        for (key, expect) in [
            ("duration", DURATION),
            ("name", "attributes.system.job.name"),
            ("user.y", "attributes.system.user.y"),
            ("attributes.user.y", "attributes.user.y"),
        ] {
            assert_eq!(full_key(key), expect);
        }
    }

    #[test]
    fn durations_may_be_relative() {
        for (text, expect) in [
            ("1h", Ok((false, 3600.0))),
            ("60", Ok((false, 60.0))),
            ("+5m", Ok((true, 300.0))),
            ("-1m", Ok((true, -60.0))),
            ("inf", Ok((false, 0.0))),
            (
                "foo",
                Err("invalid Flux standard duration 'foo'".to_owned()),
            ),
        ] {
            assert_eq!(duration(text).map_err(|failure| failure.text), expect);
        }
    }
}
