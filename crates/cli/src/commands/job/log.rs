//! Eventlogs: `eventlog` and `wait-event`.

use std::time::Duration;

use client::Client;
use proto::job_info::{JobInfoLookup, Lookup, watch_flags};
use rpc::Dest;
use serde_json::Value;
use spec::Entry;
use types::Errno;

use super::{PROG, connect, parse_id};
use crate::attach::watch;
use crate::color;
use crate::events::EventFormat;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Opt, Parser, arg, flag, maybe};
use crate::timefmt::TimeFormat;
use crate::{outln, output};

const FORMAT: Opt = arg('f', "format", "FORMAT", "Output format: text or json");
const TIME: Opt = arg(
    'T',
    "time-format",
    "FORMAT",
    "Times: raw, iso, offset or human",
);
const HUMAN: Opt = flag('H', "human", "Show times for people");
const COLOR: Opt = maybe('L', "color", "WHEN", "Use colour: never, always or auto");
const PATH: Opt = arg(
    'p',
    "path",
    "PATH",
    "Another eventlog, for example exec or output",
);

static EVENTLOG: Parser = Parser {
    name: "flux-job eventlog",
    usage: "[-f text|json] [-T raw|iso|offset] [-p path] id",
    about: "Display eventlog for a job",
    family: Family::G,
    opts: &[
        FORMAT,
        TIME,
        HUMAN,
        COLOR,
        flag('F', "follow", "Go on with new events"),
        PATH,
    ],
};

fn format(args: &Args) -> Result<EventFormat, Fail> {
    let json = match args.get("format") {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => return Err(Fail::new(format!("invalid format type '{other}'"))),
    };
    let time = match args.get("time-format") {
        Some(name) => TimeFormat::from_name(name)
            .ok_or_else(|| Fail::new(format!("invalid time-format type '{name}'")))?,
        None if args.has("human") => TimeFormat::Human,
        None => TimeFormat::Raw,
    };
    Ok(EventFormat::new(time, json, color::wanted_g(args)?))
}

/// The key of an eventlog that has a short name.
fn path(args: &Args) -> String {
    match args.get("path") {
        None => "eventlog".to_owned(),
        Some("exec") => "guest.exec.eventlog".to_owned(),
        Some(name @ ("output" | "input")) => format!("guest.{name}"),
        Some(path) => path.to_owned(),
    }
}

fn missing(args: &Args, id: &str) -> Fail {
    match args.get("path") {
        Some(path) => Fail::new(format!("eventlog path {path} not found")),
        None => Fail::new(format!("job {id} not found")),
    }
}

/// The event that ends an eventlog. No other log has one, so none of them is known to be whole.
fn last_event(key: &str) -> Option<&'static str> {
    match key {
        "eventlog" => Some("clean"),
        "guest.exec.eventlog" => Some("done"),
        _ => None,
    }
}

fn never(event: &str) -> Fail {
    Fail::new(format!("event '{event}' never received"))
}

pub(super) fn eventlog(words: &[String]) -> i32 {
    let args = match EVENTLOG.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [word] = args.words.as_slice() else {
        return EVENTLOG.wrong_words();
    };
    fail::run(PROG, async {
        let mut format = format(&args)?;
        let id = parse_id(word)?;
        let key = path(&args);
        let client = connect().await?;
        if args.has("follow") {
            // Only the job's own log is there from the beginning.
            let own = key == "eventlog";
            let flags = if own { 0 } else { watch_flags::WAITCREATE };
            let mut stream = watch(&client, id, &key, flags);
            let last = last_event(&key);
            let mut whole = false;
            loop {
                match stream.next().await {
                    Ok(Some(entry)) => {
                        outln!("{}", format.line(&entry));
                        whole |= last.is_some_and(|last| last == entry.name);
                    }
                    Ok(None) if whole => return Ok(0),
                    Ok(None) => {
                        return Err(match last {
                            Some(last) => never(last),
                            None => Fail::new(format!("eventlog path {key} has no last event")),
                        });
                    }
                    Err(error) if error.errno == Errno::ENOENT => return Err(missing(&args, word)),
                    Err(error) => return Err(error.into()),
                }
                output::flush();
            }
        }
        let request = Lookup {
            id,
            keys: vec![key.clone()],
            flags: 0,
        };
        let call = client.handle().call::<JobInfoLookup>(Dest::Any, &request);
        let found = match call.await {
            Ok(found) => found,
            Err(error) if error.errno == Errno::ENOENT => return Err(missing(&args, word)),
            Err(error) => return Err(error.into()),
        };
        let text = found.get(&key).and_then(Value::as_str).unwrap_or_default();
        let entries =
            spec::eventlog::decode(text.as_bytes()).map_err(|error| Fail::of("eventlog", error))?;
        for entry in &entries {
            outln!("{}", format.line(entry));
        }
        Ok(0)
    })
}

static WAIT: Parser = Parser {
    name: "flux-job wait-event",
    usage: "[OPTIONS] id event",
    about: "Wait for an event ",
    family: Family::G,
    opts: &[
        FORMAT,
        TIME,
        HUMAN,
        arg('t', "timeout", "DURATION", "Give up after this time"),
        arg(
            'm',
            "match-context",
            "KEY=VAL",
            "Only an event with this in its context",
        ),
        arg('c', "count", "COUNT", "Wait for so many events (default 1)"),
        flag('q', "quiet", "Show nothing"),
        flag('v', "verbose", "Show the events before it too"),
        COLOR,
        PATH,
        flag('W', "waitcreate", "Wait until the eventlog exists"),
    ],
};

pub(super) fn wait_event(words: &[String]) -> i32 {
    let args = match WAIT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [id, name] = args.words.as_slice() else {
        return WAIT.wrong_words();
    };
    fail::run(PROG, async {
        let timeout = args.duration("timeout")?.filter(|time| time.is_finite());
        let count = args.int("count")?.unwrap_or(1);
        if count <= 0 {
            return Err(Fail::new("count must be > 0"));
        }
        let context = match args.get("match-context") {
            Some(text) => Some(
                text.split_once('=')
                    .ok_or_else(|| Fail::new("must specify a context test as key=value"))?,
            ),
            None => None,
        };
        let wait = Wait {
            args: &args,
            word: id,
            name,
            count,
            context,
        };
        let client = connect().await?;
        let waiting = wait.run(&client);
        match timeout {
            None => waiting.await,
            Some(seconds) => tokio::time::timeout(Duration::from_secs_f64(seconds), waiting)
                .await
                .unwrap_or_else(|_| {
                    Err(Fail::new(format!("wait-event timeout on event '{name}'")))
                }),
        }
    })
}

struct Wait<'a> {
    args: &'a Args,
    word: &'a str,
    name: &'a str,
    count: i64,
    context: Option<(&'a str, &'a str)>,
}

impl Wait<'_> {
    async fn run(&self, client: &Client) -> Outcome {
        let mut format = format(self.args)?;
        let id = parse_id(self.word)?;
        let flags = if self.args.has("waitcreate") {
            watch_flags::WAITCREATE
        } else {
            0
        };
        let mut stream = watch(client, id, &path(self.args), flags);
        let mut seen = 0;
        loop {
            let entry = match stream.next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    return Err(never(self.name));
                }
                Err(error) if error.errno == Errno::ENOENT => {
                    return Err(missing(self.args, self.word));
                }
                Err(error) => return Err(error.into()),
            };
            let matched = self.matches(&entry);
            seen += i64::from(matched);
            let last = matched && seen == self.count;
            if !self.args.has("quiet") && (last || self.args.has("verbose")) {
                outln!("{}", format.line(&entry));
                output::flush();
            } else {
                format.skip(&entry);
            }
            if last {
                return Ok(0);
            }
        }
    }

    fn matches(&self, entry: &Entry) -> bool {
        if entry.name != self.name {
            return false;
        }
        let Some((key, expect)) = self.context else {
            return true;
        };
        entry.get(key).is_some_and(|value| {
            let json = value.to_string();
            json == expect || value.as_str() == Some(expect)
        })
    }
}
