//! `flux startlog`: when the instance ran, from the eventlog it keeps of its starts.

use client::kvs::{self, Txn};
use proto::kvs::{PRIMARY, commit_flags};
use serde_json::{Map, json};
use spec::Entry;
use types::{Errno, fsd};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{outln, timefmt};

/// Where the eventlog is.
const KEY: &str = "admin.eventlog";
/// The form of its events; others are ignored.
const VERSION: i64 = 1;

static PARSER: Parser = Parser {
    name: "flux startlog",
    usage: "[OPTIONS]",
    about: "List Flux instance startlog",
    family: Family::G,
    opts: &[
        flag('\0', "check", "Check if instance was properly shut down"),
        flag('\0', "quiet", "Suppress listing, useful with --check"),
        flag('v', "show-version", "Show the version that was started"),
        flag('\0', "post-start-event", "").hidden(),
        flag('\0', "post-finish-event", "").hidden(),
        arg('\0', "test-startlog-key", "PATH", "").hidden(),
        arg('\0', "test-startlog-version", "N", "").hidden(),
    ],
};

/// A time the instance ran, or runs.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    start: f64,
    /// When it was shut down; `None` if it was not.
    finish: Option<f64>,
    version: String,
}

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux", async {
        let key = args.get("test-startlog-key").unwrap_or(KEY);
        let client = fail::connect_builtin().await?;
        if args.has("post-start-event") || args.has("post-finish-event") {
            return post(&client, &args, key).await;
        }
        let log = match kvs::get(client.handle(), PRIMARY, key).await {
            Ok(log) => log,
            Err(error) if error.errno == Errno::ENOENT => Vec::new(),
            Err(error) => return Err(Fail::of("Error fetching eventlog", error)),
        };
        let entries = spec::eventlog::decode(&log).map_err(|error| Fail::of("startlog", error))?;
        let runs = runs(&entries);
        if !args.has("quiet") {
            let now = timefmt::now();
            for (index, run) in runs.iter().enumerate() {
                let line = line(run, index + 1 == runs.len(), now);
                if args.has("show-version") {
                    outln!("{:>25}  {line}", run.version);
                } else {
                    outln!("{line}");
                }
            }
        }
        Ok(i32::from(args.has("check") && crashed(&runs)))
    })
}

async fn post(client: &client::Client, args: &Args, key: &str) -> Result<i32, Fail> {
    let version = args.int("test-startlog-version")?.unwrap_or(VERSION);
    let mut context = Map::new();
    context.insert("version".to_owned(), json!(version));
    // The start must survive a crash right after it. The end is flushed with all else.
    let (name, flags) = if args.has("post-start-event") {
        context.insert("core_version".to_owned(), json!(proto::VERSION));
        ("start", commit_flags::SYNC)
    } else {
        ("finish", 0)
    };
    let entry = Entry::with_context(timefmt::now(), name, context);
    let mut txn = Txn::new();
    txn.append(key, entry.encode().as_bytes());
    txn.commit(client.handle(), PRIMARY, flags)
        .await
        .map_err(|error| Fail::of(key, error))?;
    Ok(0)
}

/// The runs in an eventlog.
fn runs(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        if entry.get_i64("version") != Some(VERSION) {
            continue;
        }
        match entry.name.as_str() {
            "start" => runs.push(Run {
                start: entry.timestamp,
                finish: None,
                version: entry.get_str("core_version").unwrap_or_default().to_owned(),
            }),
            "finish" => {
                if let Some(run) = runs.last_mut() {
                    run.finish.get_or_insert(entry.timestamp);
                }
            }
            _ => {}
        }
    }
    runs
}

/// Whether the run before the current one was not shut down.
fn crashed(runs: &[Run]) -> bool {
    match runs {
        [.., previous, _] => previous.finish.is_none(),
        _ => false,
    }
}

fn line(run: &Run, last: bool, now: f64) -> String {
    let time = |seconds| timefmt::strftime("%Y-%m-%d %H:%M", seconds);
    let start = time(run.start);
    match run.finish {
        Some(finish) => {
            let duration = fsd::format_compiled(finish - run.start, 2);
            format!("{start} - {} ({duration})", time(finish))
        }
        None if last => {
            let duration = fsd::format_compiled((now - run.start).max(0.0), 2);
            format!("{start} - running ({duration})")
        }
        None => format!("{start} - crashed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_end_crashed() {
        let check = |log: &str, count: usize, expect: bool| {
            let entries = spec::eventlog::decode(log.as_bytes()).expect("eventlog");
            let runs = runs(&entries);
            assert_eq!((runs.len(), crashed(&runs)), (count, expect), "{log}");
        };
        let event = |time: i32, name: &str, version: i32| {
            format!(
                "{{\"timestamp\":{time},\"name\":\"{name}\",\"context\":{{\"version\":{version}}}}}\n"
            )
        };
        let start = event(1, "start", 1);
        let finish = event(61, "finish", 1);
        check("", 0, false);
        check(&start, 1, false);
        check(&format!("{start}{finish}{start}"), 2, false);
        check(&format!("{start}{start}"), 2, true);
        // Events of a form to come are not ours to judge.
        check(&format!("{start}{}", event(2, "start", 9)), 1, false);
    }

    #[test]
    fn lines_say_how_a_run_ended() {
        let mut run = Run {
            start: 0.0,
            finish: Some(90.0),
            version: String::new(),
        };
        assert!(line(&run, false, 0.0).ends_with("(1.5m)"));
        run.finish = None;
        assert!(line(&run, false, 0.0).ends_with(" - crashed"));
        assert!(line(&run, true, 23.0).ends_with(" - running (23s)"));
    }
}
