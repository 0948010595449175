//! `flux resource eventlog`.

use std::time::Duration;

use client::Client;
use proto::Empty;
use proto::resource::{JournalEvents, ResourceJournal};
use serde_json::Value as Json;
use spec::Entry;
use types::{Errno, Hostlist, IdSet};

use super::{COLOR, INCLUDE, LEADER, PREFIX};
use crate::color;
use crate::commands::targets::{hosts, targets};
use crate::events::EventFormat;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::timefmt::TimeFormat;
use crate::{outln, output};

static EVENTLOG: Parser = Parser {
    name: "flux-resource eventlog",
    usage: "[-h] [-f FORMAT] [-T FORMAT] [-H] [-L [WHEN]] [-F] [-t TIME] [-w EVENT] [-m KEY=VAL] [-i TARGETS]",
    about: "",
    family: Family::P,
    opts: &[
        arg('f', "format", "FORMAT", "Output format: text or json"),
        arg(
            'T',
            "time-format",
            "FORMAT",
            "Times: raw, iso, offset or human",
        ),
        flag('H', "human", "Show times for people"),
        COLOR,
        flag('F', "follow", "Go on with new events"),
        arg(
            't',
            "timeout",
            "TIME",
            "Give up following or waiting after this time",
        ),
        arg('w', "wait", "EVENT", "Leave after this event"),
        arg(
            'm',
            "match-context",
            "KEY=VAL",
            "Wait for an event with this in its context (multiple use OK)",
        ),
        INCLUDE,
    ],
};

pub(super) fn run(words: &[String]) -> i32 {
    let args = match EVENTLOG.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return EVENTLOG.unrecognized(&args.words);
    }
    let time = match args.get("time-format").map(TimeFormat::from_name) {
        Some(Some(time)) => time,
        Some(None) => return args.not_among("time-format", TimeFormat::NAMES),
        None if args.has("human") => TimeFormat::Human,
        None => TimeFormat::Raw,
    };
    let json = match args.get("format") {
        None | Some("text") => false,
        Some("json") => true,
        Some(_) => return args.not_among("format", &["text", "json"]),
    };
    fail::run(PREFIX, async {
        let timeout = timeout(&args)?;
        let wait = Wait::new(&args)?;
        let format = EventFormat::new(time, json, color::wanted_p(&args)?).padded();
        let client = fail::connect_p().await?;
        let include = match args.get("include") {
            Some(text) => Some(include(text, &hosts(&client).await?)?),
            None => None,
        };
        let following = args.has("follow") || wait.is_some();
        let shown = Shown {
            include,
            wait,
            following,
        };
        let showing = shown.run(&client, format);
        match timeout {
            Some(timeout) if following => tokio::time::timeout(timeout, showing)
                .await
                .unwrap_or_else(|_| Err(Fail::new(format!("ETIMEDOUT: {}", Errno::ETIMEDOUT)))),
            _ => showing.await,
        }
    })
}

/// How long to follow or wait, if not for ever.
fn timeout(args: &Args) -> Result<Option<Duration>, Fail> {
    let Some(text) = args.get("timeout") else {
        return Ok(None);
    };
    let seconds = types::fsd::parse(text)
        .map_err(|_| Fail::new(format!("invalid Flux standard duration '{text}'")))?;
    // What is no duration is one without an end.
    Ok(Duration::try_from_secs_f64(seconds).ok())
}

/// The ranks that targets on the command line mean, all of which are to be there.
fn include(text: &str, hosts: &Hostlist) -> Result<IdSet, Fail> {
    let ranks = targets(text, hosts)?;
    if ranks
        .last()
        .is_some_and(|last| last as usize >= hosts.len())
    {
        return Err(Fail::new(format!("'{text}': Hostlist index out of range")));
    }
    Ok(ranks)
}

/// The event after which to leave.
struct Wait {
    name: String,
    /// Keys of its context, and what is to be there: `null` matches where there is nothing.
    context: Vec<(String, Json)>,
}

impl Wait {
    fn new(args: &Args) -> Result<Option<Wait>, Fail> {
        let context = args.all("match-context").map(condition);
        let context = context.collect::<Result<_, _>>()?;
        let name = args.get("wait").map(str::to_owned);
        Ok(name.map(|name| Wait { name, context }))
    }

    fn is_met(&self, entry: &Entry) -> bool {
        let matches = |(key, expect): &(String, Json)| {
            let value = entry.get(key).unwrap_or(&Json::Null);
            let tolerance = match value.is_f64() && expect.is_f64() {
                true => TOLERANCE,
                false => 0.0,
            };
            match (value.as_f64(), expect.as_f64()) {
                (Some(value), Some(expect)) => (value - expect).abs() <= tolerance,
                _ => value == expect,
            }
        };
        entry.name == self.name && self.context.iter().all(matches)
    }
}

/// Fractions that differ by no more are the same.
const TOLERANCE: f64 = 1e-5;

/// A condition on the context. What is not JSON is text.
fn condition(text: &str) -> Result<(String, Json), Fail> {
    let bad = |why| Fail::new(format!("invalid KEY=VAL argument: '{text}' ({why})"));
    match text.split_once('=') {
        None => Err(bad("missing '='")),
        Some(("", _)) => Err(bad("empty key")),
        Some((key, value)) => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((key.to_owned(), value))
        }
    }
}

/// What is shown, and until when.
struct Shown {
    /// Only events about these ranks.
    include: Option<IdSet>,
    wait: Option<Wait>,
    following: bool,
}

impl Shown {
    async fn run(&self, client: &Client, mut format: EventFormat) -> Outcome {
        let mut journal = client.handle().stream::<ResourceJournal>(LEADER, &Empty {});
        while let Some(JournalEvents { events, .. }) = journal.next().await? {
            if events.is_empty() && !self.following {
                break;
            }
            for event in &events {
                let entry =
                    Entry::from_value(event).map_err(|error| Fail::of("eventlog", error))?;
                if !self.is_included(&entry) {
                    format.skip(&entry);
                    continue;
                }
                outln!("{}", format.line(&entry));
                if self.wait.as_ref().is_some_and(|wait| wait.is_met(&entry)) {
                    return Ok(0);
                }
            }
            output::flush();
        }
        Ok(0)
    }

    fn is_included(&self, entry: &Entry) -> bool {
        let Some(include) = &self.include else {
            return true;
        };
        // Only the first event calls them ranks.
        let ranks = entry.get("idset").or_else(|| entry.get("ranks"));
        let ranks = ranks.and_then(Json::as_str).map(str::parse::<IdSet>);
        ranks.is_some_and(|ranks| ranks.is_ok_and(|ranks| ranks.intersects(include)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(conditions: &[&str]) -> Wait {
        let context = conditions.iter().map(|text| condition(text).unwrap());
        Wait {
            name: "drain".to_owned(),
            context: context.collect(),
        }
    }

    #[test]
    fn conditions_are_json_or_text_and_all_are_to_be_met() {
        let event = serde_json::json!({"timestamp": 1.0, "name": "drain", "context":
            {"time": 1.5, "idset": "2", "reason": "bar baz", "overwrite": 0}});
        let entry = Entry::from_value(&event).unwrap();
        for (conditions, expect) in [
            (&[][..], true),
            (&["reason=bar baz"], true),
            (&["reason=\"bar baz\""], true),
            (&["reason=bar"], false),
            (&["idset=2"], false),
            (&["idset=\"2\""], true),
            (&["overwrite=0.000001"], false),
            (&["overwrite=0.0"], true),
            (&["time=1.500001"], true),
            (&["time=1.6"], false),
            (&["other=null", "overwrite=0"], true),
            (&["reason=bar baz", "overwrite=1"], false),
        ] {
            assert_eq!(wait(conditions).is_met(&entry), expect, "{conditions:?}");
        }
    }

    #[test]
    fn conditions_without_key_or_value_are_named() {
        for (text, expect) in [
            ("foo", "invalid KEY=VAL argument: 'foo' (missing '=')"),
            ("=x", "invalid KEY=VAL argument: '=x' (empty key)"),
        ] {
            assert_eq!(condition(text).unwrap_err().text, expect);
        }
    }

    #[test]
    fn ranks_nobody_has_are_named() {
        let hosts: Hostlist = "h[0-3]".parse().unwrap();
        assert_eq!(include("h1,h3", &hosts).unwrap().to_string(), "1,3");
        assert!(include("", &hosts).unwrap().is_empty());
        assert!(include("4", &hosts).is_err());
        assert!(include("h4", &hosts).is_err());
    }
}
