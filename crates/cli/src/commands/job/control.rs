//! What changes jobs: urgency, exceptions, signals, memos, purge.

use proto::job_manager::{
    JobManagerKill, JobManagerKillAll, JobManagerMemo, JobManagerPurge, JobManagerPurgeId,
    JobManagerRaise, JobManagerRaiseAll, JobManagerUrgency, Kill, KillAll, Memo, Purge, PurgeId,
    Raise, RaiseAll, Urgency,
};
use rpc::Dest;
use serde_json::{Map, Value, json};
use types::JobId;

use super::{PROG, connect, parse_id};
use crate::commands::jobs::userid;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, outln, signal, submit};

static URGENCY: Parser = Parser {
    name: "flux-job urgency",
    usage: "[OPTIONS] id urgency",
    about: "Set job urgency (0-31, HOLD, EXPEDITE, DEFAULT)",
    family: Family::G,
    opts: &[flag('v', "verbose", "Show the old urgency")],
};

pub(super) fn urgency(words: &[String]) -> i32 {
    let args = match URGENCY.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [id_text, text] = args.words.as_slice() else {
        return URGENCY.wrong_words();
    };
    fail::run(PROG, async {
        let id = parse_id(id_text)?;
        let urgency = submit::urgency(Some(text))
            .map_err(|_| Fail::new(format!("error parsing urgency: \"{text}\"")))?;
        let client = connect().await?;
        let request = Urgency { id, urgency };
        let call = client
            .handle()
            .call::<JobManagerUrgency>(Dest::Any, &request);
        let old = call
            .await
            .map_err(|error| Fail::of(id_text, error))?
            .old_urgency;
        if args.has("verbose") {
            match old {
                0 => err!("old urgency: held"),
                31 => err!("old urgency: expedited"),
                old => err!("old urgency: {old}"),
            }
        }
        Ok(0)
    })
}

static RAISE: Parser = Parser {
    name: "flux-job raise",
    usage: "[OPTIONS] ids... [--] [message ...]",
    about: "Raise exception on one or more jobs",
    family: Family::G,
    opts: &[
        arg('s', "severity", "N", "Severity 0-7, 0 is fatal (default)"),
        arg(
            't',
            "type",
            "TYPE",
            "Type of the exception (default: cancel)",
        ),
        arg('m', "message", "NOTE", "What to say about it"),
    ],
};

/// Ids as they were written and as they are.
type Ids<'a> = Vec<(&'a str, JobId)>;

/// The ids at the start of the words, and the note after them.
fn ids_and_note(args: &Args) -> Result<(Ids<'_>, Option<String>), Fail> {
    let mut ids = Vec::new();
    let mut rest = args.words.as_slice();
    while let Some((word, more)) = rest.split_first() {
        match word.parse() {
            Ok(id) => ids.push((word.as_str(), id)),
            Err(_) if ids.is_empty() => parse_id(word).map(|_| ())?,
            Err(_) => break,
        }
        rest = more;
    }
    if rest.first().is_some_and(|word| word == "--") {
        rest = &rest[1..];
    }
    let note = match (rest.is_empty(), args.get("message")) {
        (true, message) => message.map(str::to_owned),
        (false, None) => Some(rest.join(" ")),
        (false, Some(_)) => {
            return Err(Fail::new(
                "Do not set note on command line and with --message",
            ));
        }
    };
    Ok((ids, note))
}

pub(super) fn raise(words: &[String]) -> i32 {
    let args = match RAISE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return RAISE.wrong_words();
    }
    fail::run(PROG, async {
        let severity = args.int("severity")?.unwrap_or(0);
        let (ids, note) = ids_and_note(&args)?;
        let client = connect().await?;
        let mut calls = Vec::new();
        for (word, id) in ids {
            let request = Raise {
                id,
                severity: i32::try_from(severity).unwrap_or(-1),
                kind: args.get("type").unwrap_or("cancel").to_owned(),
                note: note.clone(),
                wait_status: None,
            };
            let call = client.handle().call::<JobManagerRaise>(Dest::Any, &request);
            calls.push((word, call));
        }
        let mut status = 0;
        for (word, call) in calls {
            if let Err(error) = call.await {
                err!("{PROG}: raise {word}: {error}");
                status = 1;
            }
        }
        Ok(status)
    })
}

/// State bits of a list of names.
pub(crate) fn states(list: &str) -> Result<i32, Fail> {
    let mut bits = 0;
    for name in list.split(',') {
        bits |= match name.to_lowercase().as_str() {
            "depend" => 2,
            "priority" => 4,
            "sched" => 8,
            "run" => 16,
            "cleanup" => 32,
            "pending" => 14,
            "running" => 48,
            "active" => 62,
            _ => {
                return Err(Fail::new(format!(
                    "error parsing --states: {name} is unknown"
                )));
            }
        };
    }
    Ok(bits)
}

/// A user as these requests name it: -1 for all.
pub(crate) fn user(text: Option<&str>) -> Result<i64, Fail> {
    match text {
        None => Ok(i64::from(nix::unistd::getuid().as_raw())),
        Some(text) => match userid(text) {
            Ok(user) => Ok(user.map_or(-1, i64::from)),
            Err(_) => Err(Fail::new(format!("unknown user {text}"))),
        },
    }
}

static RAISE_ALL: Parser = Parser {
    name: "flux-job raiseall",
    usage: "OPTIONS type [message ...]",
    about: "Raise an exception on multiple jobs.",
    family: Family::G,
    opts: &[
        arg('s', "severity", "N", "Severity 0-7 (default 7)"),
        arg('u', "user", "USER", "Jobs of this user, or all"),
        arg(
            'S',
            "states",
            "STATES",
            "Jobs in these states (default: all active)",
        ),
        flag('f', "force", "Do it, do not only count"),
    ],
};

pub(super) fn raise_all(words: &[String]) -> i32 {
    let args = match RAISE_ALL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let Some((kind, note)) = args.words.split_first() else {
        return RAISE_ALL.wrong_words();
    };
    fail::run(PROG, async {
        let request = RaiseAll {
            dry_run: !args.has("force"),
            userid: user(args.get("user"))?,
            states: states(args.get("states").unwrap_or("active"))?,
            severity: i32::try_from(args.int("severity")?.unwrap_or(7)).unwrap_or(-1),
            kind: kind.clone(),
            note: (!note.is_empty()).then(|| note.join(" ")),
        };
        let client = connect().await?;
        let call = client
            .handle()
            .call::<JobManagerRaiseAll>(Dest::Any, &request);
        let counts = call.await.map_err(|error| Fail::of("raiseall", error))?;
        let (count, errors) = (counts.count, counts.errors);
        match count {
            0 => err!("{PROG}: Command matched 0 jobs"),
            count if request.dry_run => {
                err!("{PROG}: Command matched {count} jobs (-f to confirm)");
            }
            count => err!("{PROG}: Raised exception on {count} jobs ({errors} errors)"),
        }
        Ok(i32::from(errors > 0))
    })
}

static KILL: Parser = Parser {
    name: "flux-job kill",
    usage: "[OPTIONS] ids...",
    about: "Send signal to one or more running jobs",
    family: Family::G,
    opts: &[arg('s', "signal", "SIG", "The signal (default: SIGTERM)")],
};

fn signum(args: &Args) -> Result<i32, Fail> {
    let text = args.get("signal").unwrap_or("SIGTERM");
    signal::parse(text).ok_or_else(|| Fail::new(format!("kill: Invalid signal {text}")))
}

pub(super) fn kill(words: &[String]) -> i32 {
    let args = match KILL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return KILL.wrong_words();
    }
    fail::run(PROG, async {
        let signum = signum(&args)?;
        let ids = args
            .words
            .iter()
            .map(|word| Ok((word, parse_id(word)?)))
            .collect::<Result<Vec<_>, Fail>>()?;
        let client = connect().await?;
        let mut calls = Vec::new();
        for (word, id) in ids {
            let request = Kill { id, signum };
            let call = client.handle().call::<JobManagerKill>(Dest::Any, &request);
            calls.push((word, call));
        }
        let mut status = 0;
        for (word, call) in calls {
            if let Err(error) = call.await {
                err!("{PROG}: kill {word}: {error}");
                status = 1;
            }
        }
        Ok(status)
    })
}

static KILL_ALL: Parser = Parser {
    name: "flux-job killall",
    usage: "[OPTIONS]",
    about: "Send signal to multiple running jobs",
    family: Family::G,
    opts: &[
        arg('s', "signal", "SIG", "The signal (default: SIGTERM)"),
        arg('u', "user", "USER", "Jobs of this user, or all"),
        flag('f', "force", "Do it, do not only count"),
    ],
};

pub(super) fn kill_all(words: &[String]) -> i32 {
    let args = match KILL_ALL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return KILL_ALL.wrong_words();
    }
    fail::run(PROG, async {
        let request = KillAll {
            dry_run: !args.has("force"),
            userid: user(args.get("user"))?,
            signum: signum(&args)?,
        };
        let client = connect().await?;
        let call = client
            .handle()
            .call::<JobManagerKillAll>(Dest::Any, &request);
        let counts = call.await.map_err(|error| Fail::of("killall", error))?;
        let (count, errors) = (counts.count, counts.errors);
        match count {
            0 => err!("{PROG}: Command matched 0 jobs"),
            count if request.dry_run => {
                err!("{PROG}: Command matched {count} jobs (-f to confirm)");
            }
            count => err!(
                "{PROG}: {} {count} jobs ({errors} errors)",
                signal::describe(request.signum)
            ),
        }
        Ok(i32::from(errors > 0))
    })
}

static MEMO: Parser = Parser {
    name: "flux-job memo",
    usage: "[OPTIONS] id key=value [key=value...]",
    about: "Post an RFC 21 memo to a job",
    family: Family::G,
    opts: &[flag('\0', "volatile", "Keep it in memory only")],
};

pub(super) fn memo(words: &[String]) -> i32 {
    let args = match MEMO.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let Some((id, pairs)) = args
        .words
        .split_first()
        .filter(|(_, pairs)| !pairs.is_empty())
    else {
        return MEMO.wrong_words();
    };
    fail::run(PROG, async {
        let id = parse_id(id)?;
        let mut memo = Map::new();
        for pair in pairs {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Fail::new(format!("memo: no value for key={pair}")))?;
            let text = if value == "-" {
                let text = std::io::read_to_string(std::io::stdin())
                    .map_err(|error| Fail::of("stdin", error))?;
                text.trim_end_matches('\n').to_owned()
            } else {
                value.to_owned()
            };
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
            spec::jobspec::set_path(&mut memo, key, value)
                .map_err(|error| Fail::of(format!("memo: {pair}"), error))?;
        }
        let request = Memo {
            id,
            is_volatile: args.has("volatile"),
            memo,
        };
        let client = connect().await?;
        let call = client.handle().call::<JobManagerMemo>(Dest::Any, &request);
        call.await.map_err(|error| Fail::of("memo", error))?;
        Ok(0)
    })
}

static PURGE: Parser = Parser {
    name: "flux-job purge",
    usage: "[--age-limit=FSD] [--num-limit=N] [JOBID...]",
    about: "Purge the oldest inactive jobs",
    family: Family::G,
    opts: &[
        arg('\0', "age-limit", "FSD", "Jobs that ended this long ago"),
        arg('\0', "num-limit", "COUNT", "All but the last COUNT jobs"),
        flag('f', "force", "Do it, do not only count"),
        arg(
            '\0',
            "batch",
            "COUNT",
            "At most COUNT jobs at once (default 50)",
        ),
    ],
};

pub(super) fn purge(words: &[String]) -> i32 {
    let args = match PURGE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let force = args.has("force");
        let age_limit = args.duration("age-limit")?.unwrap_or(-1.0);
        let num_limit = args.int("num-limit")?.unwrap_or(-1);
        let batch = args.int("batch")?.unwrap_or(50);
        let client = connect().await?;
        let mut purged = 0;
        if args.words.is_empty() {
            let request = Purge {
                age_limit,
                num_limit,
                batch,
                force,
            };
            loop {
                let call = client.handle().call::<JobManagerPurge>(Dest::Any, &request);
                let count = call.await.map_err(|error| Fail::of("purge", error))?.count;
                purged += count;
                if count != batch || !force {
                    break;
                }
            }
        } else {
            for word in &args.words {
                let id = parse_id(word)?;
                let request = PurgeId { id, force };
                let call = client
                    .handle()
                    .call::<JobManagerPurgeId>(Dest::Any, &request);
                purged += call
                    .await
                    .map_err(|error| Fail::of(format!("purge {word}"), error))?
                    .count;
            }
        }
        let call = client
            .handle()
            .call::<proto::job_manager::JobManagerStats>(Dest::Any, &proto::Empty {});
        let stats = call.await?;
        let inactive = stats
            .get("inactive_jobs")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        if force {
            outln!("purged {purged} inactive jobs, {inactive} remaining");
        } else {
            outln!("use --force to purge {purged} of {inactive} inactive jobs");
        }
        Ok(0)
    })
}
