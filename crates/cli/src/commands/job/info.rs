//! What is known of jobs: data, ids, counts, time left.

use proto::Empty;
use proto::job_info::{JobInfoLookup, Lookup, lookup_flags};
use proto::job_ingest::{JobIngestSubmit, Submit, flags};
use proto::job_list::{JobListId, JobListJobStats, ListId};
use proto::job_manager::{HistoryGet, JobManagerHistoryGet};
use rpc::Dest;
use serde_json::Value;
use types::fluid::Encoding;
use types::{Errno, JobId};

use super::{PROG, connect, parse_id};
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag};
use crate::{err, json, outln, submit, timefmt};
use jobs::State;

static INFO: Parser = Parser {
    name: "flux-job info",
    usage: "[OPTIONS] id key",
    about: "Display info for a job",
    family: Family::G,
    opts: &[
        flag('o', "original", "For jobspec, show what was submitted"),
        flag('b', "base", "Leave out updates"),
    ],
};

pub(super) fn info(words: &[String]) -> i32 {
    let args = match INFO.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [id, key] = args.words.as_slice() else {
        err!("Usage: flux job info id key");
        err!("some useful keys are:");
        for (key, about) in [
            ("J", "signed jobspec"),
            ("R", "allocated resources"),
            ("eventlog", "primary job eventlog"),
            ("jobspec", "job specification"),
            ("guest.exec.eventlog", "execution eventlog"),
            ("guest.input", "job input log"),
            ("guest.output", "job output log"),
        ] {
            err!("  {key:<20} - {about}");
        }
        err!("Use flux job info -h to list available options");
        return 1;
    };
    fail::run(PROG, async {
        let id = parse_id(id)?;
        let original = args.has("original") && key == "jobspec";
        let key = if original { "J" } else { key.as_str() };
        let updated = matches!(key, "R" | "jobspec") && !args.has("base");
        let request = Lookup {
            id,
            keys: vec![key.to_owned()],
            flags: if updated { lookup_flags::CURRENT } else { 0 },
        };
        let client = connect().await?;
        let call = client.handle().call::<JobInfoLookup>(Dest::Any, &request);
        let found = call.await.map_err(|error| match error.errno {
            Errno::EISDIR => Fail::of(key, error),
            _ => error.into(),
        })?;
        let text = match found.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => return Err(Fail::new(format!("{key}: key not found"))),
        };
        if original {
            outln!("{}", unwrap(&text)?);
        } else {
            outln!("{}", text.strip_suffix('\n').unwrap_or(&text));
        }
        Ok(0)
    })
}

/// The jobspec inside a signed one (RFC 15).
fn unwrap(signed: &str) -> Result<String, Fail> {
    use base64::Engine;
    let malformed = || Fail::new("could not unwrap jobspec");
    let payload = signed.split('.').nth(1).ok_or_else(malformed)?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(payload)
        .map_err(|_| malformed())?;
    String::from_utf8(bytes).map_err(|_| malformed())
}

static SUBMIT: Parser = Parser {
    name: "flux-job submit",
    usage: "[OPTIONS] [jobspec]",
    about: "Run job",
    family: Family::G,
    opts: &[
        arg(
            'u',
            "urgency",
            "N",
            "Urgency (0-31), hold=0, default=16, expedite=31",
        ),
        arg(
            'f',
            "flags",
            "FLAGS",
            "debug, waitable, signed or novalidate",
        ),
    ],
};

pub(super) fn submit(words: &[String]) -> i32 {
    let args = match SUBMIT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return SUBMIT.wrong_words();
    }
    fail::run(PROG, async {
        let urgency = submit::urgency(args.get("urgency"))?;
        let mut bits = 0;
        let mut signed = false;
        for flag in args.all("flags").flat_map(|list| list.split(',')) {
            match flag {
                "debug" => bits |= flags::DEBUG,
                "waitable" => bits |= flags::WAITABLE,
                "novalidate" => bits |= flags::NOVALIDATE,
                "signed" => signed = true,
                _ => return Err(Fail::new(format!("unknown flag: {flag}"))),
            }
        }
        let text = match args.words.first().map(String::as_str) {
            None | Some("-") => std::io::read_to_string(std::io::stdin())
                .map_err(|error| Fail::of("stdin", error))?,
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Fail::of(path, types::Errno::from_io(&error)))?,
        };
        if text.is_empty() {
            return Err(Fail::new("required jobspec is empty"));
        }
        let request = Submit {
            signed: if signed {
                text.trim_end().to_owned()
            } else {
                submit::sign(&text)
            },
            urgency,
            flags: bits,
        };
        let client = connect().await?;
        let call = client.handle().call::<JobIngestSubmit>(Dest::Any, &request);
        outln!("{}", call.await?.id);
        Ok(0)
    })
}

static ID: Parser = Parser {
    name: "flux-job id",
    usage: "[OPTIONS] [id ...]",
    about: "Convert jobid(s) to another form",
    family: Family::G,
    opts: &[arg(
        't',
        "to",
        "ENCODING",
        "dec, kvs, hex, dothex, words, f58, f58plain or emoji",
    )],
};

/// The ids on the command line, or else those on standard input.
fn ids(words: &[String]) -> Result<Vec<String>, Fail> {
    if !words.is_empty() {
        return Ok(words.to_vec());
    }
    let text =
        std::io::read_to_string(std::io::stdin()).map_err(|error| Fail::of("stdin", error))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

pub(super) fn id(words: &[String]) -> i32 {
    let args = match ID.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let result = (|| {
        let to = args.get("to").unwrap_or("dec");
        let encoding =
            Encoding::from_name(to).ok_or_else(|| Fail::new(format!("Unknown to={to}")))?;
        let ids = ids(&args.words)?;
        for text in &ids {
            let id: JobId = text.parse().map_err(|error| Fail::of(text, error))?;
            outln!("{}", id.encode(encoding));
        }
        Ok(i32::from(ids.is_empty()))
    })();
    fail::report(PROG, result)
}

static NAMESPACE: Parser = Parser {
    name: "flux-job namespace",
    usage: "[id ...]",
    about: "Convert job ids to job guest kvs namespace names",
    family: Family::G,
    opts: &[],
};

pub(super) fn namespace(words: &[String]) -> i32 {
    let args = match NAMESPACE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let result = (|| {
        for text in ids(&args.words)? {
            let id = parse_id(&text)?;
            outln!("job-{}", id.0);
        }
        Ok(0)
    })();
    fail::report(PROG, result)
}

static STATS: Parser = Parser {
    name: "flux-job stats",
    usage: "",
    about: "Get current job stats",
    family: Family::G,
    opts: &[],
};

pub(super) fn stats(words: &[String]) -> i32 {
    if let Err(status) = STATS.parse(words) {
        return status;
    }
    fail::run(PROG, async {
        let client = connect().await?;
        let topic = <JobListJobStats as proto::Rpc>::topic();
        let payload = proto::json_payload(&Empty {});
        let message = client
            .handle()
            .call_raw(topic.into(), Dest::Any, payload)
            .await?;
        outln!("{}", message.text().unwrap_or_default());
        Ok(0)
    })
}

static LAST: Parser = Parser {
    name: "flux-job last",
    usage: "[N | SLICE]",
    about: "List my most recently submitted job id(s)",
    family: Family::G,
    opts: &[],
};

pub(super) fn last(words: &[String]) -> i32 {
    let args = match LAST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let slice = match args.words.as_slice() {
        [] => "[:1]".to_owned(),
        [word] if word.starts_with('[') => word.clone(),
        [word] => format!("[:{word}]"),
        _ => return LAST.wrong_words(),
    };
    fail::run(PROG, async {
        let client = connect().await?;
        let request = HistoryGet { slice };
        let call = client
            .handle()
            .call::<JobManagerHistoryGet>(Dest::Any, &request);
        let jobs = call.await?.jobs;
        if jobs.is_empty() {
            return Err(Fail::new("job history is empty"));
        }
        for id in jobs {
            outln!("{id}");
        }
        Ok(0)
    })
}

static TIMELEFT: Parser = Parser {
    name: "flux-job timeleft",
    usage: "[JOBID]",
    about: "Find remaining runtime for job or enclosing instance",
    family: Family::G,
    opts: &[flag('H', "human", "Show it as a duration")],
};

pub(super) fn timeleft(words: &[String]) -> i32 {
    let args = match TIMELEFT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let mut client = connect().await?;
        let word = match args.words.as_slice() {
            [] => std::env::var("FLUX_JOB_ID").ok(),
            [word] => Some(word.clone()),
            _ => return Ok(TIMELEFT.wrong_words()),
        };
        let id = match word {
            Some(word) => Some(
                word.parse()
                    .map_err(|_| Fail::new(format!("failed to parse jobid {word}")))?,
            ),
            // This instance may itself be a job.
            None => match client.attr("jobid").await {
                Ok(id) => {
                    let uri = client.attr("parent-uri").await?;
                    client = client::open(Some(&uri))
                        .await
                        .map_err(|error| Fail::of("flux_open", error))?;
                    Some(parse_id(&id)?)
                }
                Err(_) => None,
            },
        };
        let left = match id {
            None => f64::INFINITY,
            Some(id) => time_left(&client, id).await?,
        };
        if args.has("human") {
            outln!("{}", types::fsd::format_compiled(left, 6));
        } else if left.is_infinite() {
            outln!("{}", u32::MAX);
        } else {
            outln!("{}", left.trunc());
        }
        Ok(0)
    })
}

async fn time_left(client: &client::Client, id: JobId) -> Result<f64, Fail> {
    let request = ListId {
        id,
        attrs: vec!["state".to_owned(), "expiration".to_owned()],
        state: None,
    };
    let call = client.handle().call::<JobListId>(Dest::Any, &request);
    let job = call.await.map_err(|error| match error.errno {
        Errno::ENOENT => Fail::new(format!("{id}: no such jobid")),
        _ => error.into(),
    })?;
    let number = |key: &str| job.job.get(key).and_then(Value::as_f64);
    let state = number("state").unwrap_or_default() as i64;
    if state == State::Inactive as i64 {
        return Ok(0.0);
    }
    if state < State::Run as i64 {
        return Err(Fail::new(format!("job {id} has not started")));
    }
    let expiration = number("expiration").unwrap_or_default();
    if expiration == 0.0 {
        return Ok(f64::INFINITY);
    }
    Ok((expiration - timefmt::now()).max(0.0))
}

static LIST_IDS: Parser = Parser {
    name: "flux-job list-ids",
    usage: "[OPTIONS] ID [ID ...]",
    about: "List job(s) by id",
    family: Family::G,
    opts: &[arg(
        'W',
        "wait-state",
        "STATE",
        "Wait until the job is in this state",
    )],
};

pub(super) fn list_ids(words: &[String]) -> i32 {
    let args = match LIST_IDS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if super::listing::is_for_people() {
        return 1;
    }
    if args.words.is_empty() {
        return LIST_IDS.wrong_words();
    }
    fail::run(PROG, async {
        let state = match args.get("wait-state").map(str::to_lowercase).as_deref() {
            None => None,
            Some("inactive") => Some(64),
            Some(name) => Some(
                super::control::states(name)
                    .map_err(|_| Fail::new(format!("invalid job state specified: {name}")))?,
            ),
        };
        let client = connect().await?;
        let mut calls = Vec::new();
        for word in &args.words {
            let request = ListId {
                id: parse_id(word)?,
                attrs: vec!["all".to_owned()],
                state,
            };
            calls.push(client.handle().call::<JobListId>(Dest::Any, &request));
        }
        for call in calls {
            let job = call
                .await
                .map_err(|error| Fail::of("job-list.list-id", error))?
                .job;
            outln!("{}", json::python(&job, true));
        }
        Ok(0)
    })
}
