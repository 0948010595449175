//! Looking after entries: `flux cron list`, `dump`, `delete`, `stop`, `start` and `sync`.

use client::Client;
use proto::Empty;
use proto::cron::{
    CronDelete, CronList, CronStart, CronStop, CronSync, Delete, Entry, Id, Sync, SyncState, Task,
    task_state,
};
use rpc::Dest;
use serde_json::Value;
use types::fsd;

use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{outln, timefmt};

/// Digits of a number in a dump.
const PRECISION: usize = 14;

static LIST: Parser = Parser {
    name: "flux-cron list",
    usage: "",
    about: "List entries",
    family: Family::G,
    opts: &[],
};

static DUMP: Parser = Parser {
    name: "flux-cron dump",
    usage: "ID",
    about: "Show all of an entry",
    opts: &[arg('k', "key", "KEY", "Only the value of KEY")],
    ..LIST
};

static DELETE: Parser = Parser {
    name: "flux-cron delete",
    usage: "IDs",
    about: "Remove entries",
    opts: &[flag('k', "kill", "Terminate their commands if these run")],
    ..LIST
};

static STOP: Parser = Parser {
    name: "flux-cron stop",
    usage: "IDs",
    about: "Stop entries; what they run goes on",
    ..LIST
};

static START: Parser = Parser {
    name: "flux-cron start",
    usage: "IDs",
    about: "Start stopped entries",
    ..LIST
};

static SYNC: Parser = Parser {
    name: "flux-cron sync",
    usage: "[TOPIC]",
    about: "Show the event that commands wait for, or make it TOPIC",
    opts: &[
        flag('d', "disable", "Wait for none"),
        arg(
            'e',
            "epsilon",
            "TIME",
            "How long after the event commands need not wait for the next",
        ),
    ],
    ..LIST
};

async fn entries(client: &Client) -> Result<Vec<Entry>, Fail> {
    let call = client.handle().call::<CronList>(Dest::Any, &Empty {});
    Ok(call.await?.entries)
}

pub(super) fn list(words: &[String]) -> i32 {
    if let Err(status) = LIST.parse(words) {
        return status;
    }
    fail::run(LIST.name, async {
        let row = |id: &str, name: &str, state: &str, runs: &str, last: &str, status: &str| {
            outln!("{id:>6} {name:<15} {state:<8} {runs:>9} {last:>18}  {status:<18}");
        };
        let entries = entries(&fail::connect().await?).await?;
        let now = timefmt::now();
        row("ID", "CMD/NAME", "STATE", "#RUNS", "LASTRUN", "STATUS");
        for entry in entries {
            let count = entry.stats.count;
            let runs = match entry.repeat {
                ..=0 => count.to_string(),
                repeat => format!("{count}/{repeat}"),
            };
            // The run before the one that waits was the last.
            let last = entry.tasks.iter().take(2).find_map(|task| task.start_time);
            row(
                &entry.id.to_string(),
                &entry.name,
                if entry.stopped { "Stopped" } else { "Active" },
                &runs,
                &last.map_or("None".to_owned(), |last| ago(now - last)),
                &entry.tasks.first().map_or("None".to_owned(), status),
            );
        }
        Ok(0)
    })
}

fn status(task: &Task) -> String {
    match (task.state.as_str(), task.code) {
        (task_state::EXITED, _) => "Success".to_owned(),
        (task_state::FAILED, Some(127)) => "Exec-Error".to_owned(),
        (task_state::FAILED, Some(code)) => format!("Failed:rc={code}"),
        (state, _) => state.to_owned(),
    }
}

/// How long ago something was, in words.
fn ago(seconds: f64) -> String {
    let (minutes, hours, days) = (seconds / 60.0, seconds / 3600.0, seconds / 86_400.0);
    let whole_days = days.floor();
    if seconds < 2.0 {
        "a second ago".to_owned()
    } else if seconds < 90.0 {
        format!("{} seconds ago", (seconds + 0.5).floor())
    } else if minutes < 2.0 {
        "a minute ago".to_owned()
    } else if minutes < 90.0 {
        format!("{} minutes ago", (minutes + 0.5).floor())
    } else if hours < 36.0 {
        format!("{hours:.1} hours ago")
    } else if days < 14.0 {
        format!("{days:.1} days ago")
    } else if whole_days < 70.0 {
        format!("{} weeks ago", ((whole_days + 3.0) / 7.0).floor())
    } else if whole_days < 365.0 {
        format!("{} months ago", ((whole_days + 15.0) / 30.0).floor())
    } else {
        format!("{:.1} years ago", days / 365.0)
    }
}

/// How long something took.
fn duration(seconds: f64) -> String {
    let large = [(86_400.0, 'd'), (3600.0, 'h'), (60.0, 'm'), (1.0, 's')];
    match large.iter().find(|(unit, _)| seconds > *unit) {
        Some((unit, letter)) => format!("{:.3}{letter}", seconds / unit),
        None => format!("{:.2}ms", seconds * 1e3),
    }
}

/// The values of an entry by dotted keys; runs are `task.N`, from 1.
fn flatten(entry: &Entry) -> Result<Vec<(String, Value)>, Fail> {
    fn add(rows: &mut Vec<(String, Value)>, key: &str, value: Value) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let key = match (key, name.as_str()) {
                        ("", "tasks") => "task".to_owned(),
                        ("", name) => name.to_owned(),
                        (key, name) => format!("{key}.{name}"),
                    };
                    add(rows, &key, value);
                }
            }
            Value::Array(array) => {
                for (index, value) in array.into_iter().enumerate() {
                    add(rows, &format!("{key}.{}", index + 1), value);
                }
            }
            value => rows.push((key.to_owned(), value)),
        }
    }
    let value = serde_json::to_value(entry).map_err(|error| Fail::new(error.to_string()))?;
    let mut rows = Vec::new();
    add(&mut rows, "", value);
    Ok(rows)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(number) => fsd::format_g(number, PRECISION),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

pub(super) fn dump(words: &[String]) -> i32 {
    let args = match DUMP.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(DUMP.name, async {
        let id = args.words.first().and_then(|id| id.parse::<u64>().ok());
        let id = id.ok_or_else(|| Fail::new("ID argument required"))?;
        let entries = entries(&fail::connect().await?).await?;
        let entry = entries.into_iter().find(|entry| entry.id == id);
        let entry =
            entry.ok_or_else(|| Fail::new(format!("cron-{id}: No such cron entry found")))?;
        let rows = flatten(&entry)?;
        match args.get("key") {
            Some(key) => {
                if let Some((_, value)) = rows.iter().find(|(name, _)| name == key) {
                    outln!("{}", plain(value));
                }
            }
            None => {
                for (key, value) in &rows {
                    match value {
                        Value::String(text) => outln!("{key} = \"{text}\""),
                        value => outln!("{key} = {}", plain(value)),
                    }
                }
            }
        }
        Ok(0)
    })
}

/// The entries a command names: one at least.
fn ids(args: &Args) -> Result<Vec<u64>, Fail> {
    if args.words.is_empty() {
        return Err(args.parser().wrong_words().into());
    }
    let id = |word: &String| {
        let bad = |_| Fail::new(format!("'{word}' is not the ID of an entry"));
        word.parse::<u64>().map_err(bad)
    };
    args.words.iter().map(id).collect()
}

pub(super) fn delete(words: &[String]) -> i32 {
    let args = match DELETE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(DELETE.name, async {
        let ids = ids(&args)?;
        let client = fail::connect().await?;
        let kill = args.has("kill");
        for id in ids {
            let request = Delete { id, kill };
            let call = client.handle().call::<CronDelete>(Dest::Any, &request);
            let entry = call.await?;
            let last = entry.tasks.first().map_or(String::new(), last_run);
            outln!("Removed cron-{id}: {}{last}", entry.name);
        }
        Ok(0)
    })
}

/// What became of a run, as a removal tells it.
fn last_run(task: &Task) -> String {
    let now = timefmt::now();
    match (task.start_time, task.end_time) {
        (Some(start), Some(end)) => {
            format!(" last ran {} for {}", ago(now - end), duration(end - start))
        }
        (Some(start), None) => format!(" still running. Started {}", ago(now - start)),
        (None, _) => String::new(),
    }
}

pub(super) fn stop(words: &[String]) -> i32 {
    let args = match STOP.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(STOP.name, async {
        let ids = ids(&args)?;
        let client = fail::connect().await?;
        for id in ids {
            client
                .handle()
                .call::<CronStop>(Dest::Any, &Id { id })
                .await?;
            outln!("Stopped cron-{id}");
        }
        Ok(0)
    })
}

pub(super) fn start(words: &[String]) -> i32 {
    let args = match START.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(START.name, async {
        let ids = ids(&args)?;
        let client = fail::connect().await?;
        for id in ids {
            client
                .handle()
                .call::<CronStart>(Dest::Any, &Id { id })
                .await?;
            outln!("Started cron-{id}");
        }
        Ok(0)
    })
}

pub(super) fn sync(words: &[String]) -> i32 {
    let args = match SYNC.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let epsilon = match args.duration("epsilon") {
        Ok(epsilon) => epsilon,
        Err(status) => return status,
    };
    fail::run(SYNC.name, async {
        if args.words.len() > 1 {
            return Err(SYNC.wrong_words().into());
        }
        let request = Sync {
            topic: args.words.first().cloned(),
            disable: args.has("disable"),
            sync_epsilon: epsilon,
        };
        let client = fail::connect().await?;
        match client
            .handle()
            .call::<CronSync>(Dest::Any, &request)
            .await?
        {
            SyncState::Event {
                sync_event,
                sync_epsilon,
            } => outln!("sync: sync to event \"{sync_event}\" epsilon={sync_epsilon:.3}s."),
            SyncState::Disabled { .. } => outln!("sync: sync disabled."),
        }
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago() {
        for (seconds, expect) in [
            (-3.0, "a second ago"),
            (1.9, "a second ago"),
            (2.4, "2 seconds ago"),
            (89.6, "90 seconds ago"),
            (100.0, "a minute ago"),
            (150.0, "3 minutes ago"),
            (5400.0, "1.5 hours ago"),
            (129_600.0, "1.5 days ago"),
            (14.0 * 86_400.0, "2 weeks ago"),
            (80.0 * 86_400.0, "3 months ago"),
            (730.0 * 86_400.0, "2.0 years ago"),
        ] {
            assert_eq!(ago(seconds), expect);
        }
    }

    #[test]
    fn how_long() {
        for (seconds, expect) in [
            (0.01234, "12.34ms"),
            (1.0, "1000.00ms"),
            (30.0, "30.000s"),
            (90.0, "1.500m"),
            (5400.0, "1.500h"),
            (129_600.0, "1.500d"),
        ] {
            assert_eq!(duration(seconds), expect);
        }
    }
}
