//! Making entries: `flux cron interval`, `event`, `tab` and `at`.

use std::io::Read;
use std::process::{Command, Stdio};

use client::Client;
use proto::cron::{
    Create, CronCreate, Datetime, Entry, FieldText, Interval, Topic, TypeData, kind,
};
use rpc::Dest;
use serde::Serialize;
use serde_json::{Map, Value};
use spec::crontab::{Field, Line};
use types::Errno;

use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::{outln, timefmt};

const COUNT: Opt = arg('c', "count", "N", "Stop after N runs");
const NAME: Opt = arg('N', "name", "S", "Call the entry S");
const OPTIONS: Opt = arg(
    'o',
    "options",
    "OPTS",
    "Comma separated KEY=VALUE: timeout, rank, task-history-count, stop-on-failure",
);
const PRESERVE: Opt = flag('E', "preserve-env", "Run in this environment");
const DIRECTORY: Opt = arg('d', "working-dir", "DIR", "Run in this directory");

static INTERVAL: Parser = Parser {
    name: "flux-cron interval",
    usage: "INTERVAL COMMAND",
    about: "Run COMMAND every INTERVAL",
    family: Family::G,
    opts: &[
        COUNT,
        NAME,
        arg(
            'a',
            "after",
            "INTERVAL",
            "Run for the first time after that",
        ),
        OPTIONS,
        PRESERVE,
        DIRECTORY,
    ],
};

static EVENT: Parser = Parser {
    name: "flux-cron event",
    usage: "TOPIC COMMAND",
    about: "Run COMMAND with every event TOPIC",
    opts: &[
        arg('n', "nth", "N", "Only with every Nth event"),
        arg(
            'a',
            "after",
            "N",
            "Run for the first time with the Nth event",
        ),
        arg('i', "min-interval", "T", "Wait that long between two runs"),
        COUNT,
        OPTIONS,
        NAME,
        PRESERVE,
        DIRECTORY,
    ],
    ..INTERVAL
};

static TAB: Parser = Parser {
    name: "flux-cron tab",
    usage: "[FILE]",
    about: "Run commands as the lines of FILE or the standard input say, see crontab(5)",
    opts: &[OPTIONS, PRESERVE, DIRECTORY],
    ..INTERVAL
};

static AT: Parser = Parser {
    name: "flux-cron at",
    usage: "TIME COMMAND",
    about: "Run COMMAND once, at a time as date(1) understands it",
    ..TAB
};

/// Seconds of a duration.
fn seconds(text: &str) -> Result<f64, Fail> {
    match types::fsd::parse(&text.to_lowercase()) {
        Ok(seconds) if seconds.is_finite() => Ok(seconds),
        _ => Err(Fail::new(format!("Invalid duration '{text}'"))),
    }
}

/// An option's argument as a number.
fn number(args: &Args, key: &str) -> Result<Option<u32>, Fail> {
    let Some(number) = args.int(key)? else {
        return Ok(None);
    };
    match u32::try_from(number) {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Fail::new(format!("invalid value for --{key}: {number}"))),
    }
}

/// A request but for what is the type's own.
fn request(
    args: &Args,
    kind: &str,
    when: &impl Serialize,
    command: String,
) -> Result<Create, Fail> {
    let Ok(Value::Object(when)) = serde_json::to_value(when) else {
        return Err(Fail::new("internal error: arguments are no object"));
    };
    let first = command.split_whitespace().next().unwrap_or_default();
    let name = args.get("name").unwrap_or(first).to_owned();
    let environ = args.has("preserve-env").then(environment);
    let mut request = Create {
        kind: kind.to_owned(),
        name,
        command,
        args: when,
        environ,
        cwd: args.get("working-dir").map(str::to_owned),
        repeat: None,
        rank: None,
        task_history_count: None,
        stop_on_failure: None,
        timeout: None,
    };
    for list in args.all("options") {
        for option in list.split(',') {
            set(&mut request, option)?;
        }
    }
    Ok(request)
}

fn environment() -> Map<String, Value> {
    types::environ::text_vars()
        .map(|(name, value)| (name, value.into()))
        .collect()
}

/// Sets what one of the further options says.
fn set(request: &mut Create, option: &str) -> Result<(), Fail> {
    let wrong = || Fail::new(format!("invalid option '{option}'"));
    let (key, value) = option.split_once('=').ok_or_else(wrong)?;
    let number = || value.parse::<u32>().map(Some).map_err(|_| wrong());
    match key {
        "timeout" => request.timeout = Some(seconds(value)?),
        "rank" => request.rank = number()?,
        "task-history-count" => request.task_history_count = number()?,
        "stop-on-failure" => request.stop_on_failure = number()?,
        _ => return Err(Fail::new(format!("unknown option '{option}'"))),
    }
    Ok(())
}

async fn create(client: &Client, request: &Create) -> Result<Entry, Fail> {
    let call = client.handle().call::<CronCreate>(Dest::Any, request);
    Ok(call.await?)
}

pub(super) fn interval(words: &[String]) -> i32 {
    let args = match INTERVAL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(INTERVAL.name, async {
        let [every, command @ ..] = args.words.as_slice() else {
            return Err(Fail::new("INTERVAL and COMMAND required"));
        };
        if command.is_empty() {
            return Err(Fail::new("INTERVAL and COMMAND required"));
        }
        let when = Interval {
            interval: seconds(every)?,
            after: args.get("after").map(seconds).transpose()?,
        };
        let mut request = request(&args, kind::INTERVAL, &when, command.join(" "))?;
        request.repeat = args.int("count")?;
        let entry = create(&fail::connect().await?, &request).await?;
        outln!("interval: cron-{} created", entry.id);
        Ok(0)
    })
}

pub(super) fn event(words: &[String]) -> i32 {
    let args = match EVENT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(EVENT.name, async {
        let (topic, command) = match args.words.as_slice() {
            [topic, command @ ..] if !command.is_empty() => (topic, command),
            _ => return Err(Fail::new("TOPIC and COMMAND args are required")),
        };
        let when = Topic {
            topic: topic.clone(),
            nth: number(&args, "nth")?,
            after: number(&args, "after")?,
            min_interval: args.get("min-interval").map(seconds).transpose()?,
        };
        let mut request = request(&args, kind::EVENT, &when, command.join(" "))?;
        request.repeat = args.int("count")?;
        let entry = create(&fail::connect().await?, &request).await?;
        outln!("event: cron-{} created", entry.id);
        Ok(0)
    })
}

pub(super) fn tab(words: &[String]) -> i32 {
    let args = match TAB.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(TAB.name, async {
        let text = match args.words.as_slice() {
            [] => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
                text
            }
            [path] => std::fs::read_to_string(path)
                .map_err(|error| Fail::of(path, Errno::from_io(&error)))?,
            _ => return Err(TAB.wrong_words().into()),
        };
        let client = fail::connect().await?;
        for text in text.lines() {
            let bad = |_| Fail::new(format!("Failed to process crontab line: {text}"));
            let Some(line) = Line::parse(text).map_err(bad)? else {
                continue;
            };
            let when = fields(
                line.fields
                    .iter()
                    .map(|(field, text)| (*field, FieldText::Text((*text).to_owned()))),
            );
            let request = request(&args, kind::DATETIME, &when, line.command.to_owned())?;
            scheduled("tab", &create(&client, &request).await?)?;
        }
        Ok(0)
    })
}

fn fields(given: impl Iterator<Item = (Field, FieldText)>) -> Datetime<FieldText> {
    let mut fields = Datetime {
        // Lines know no seconds.
        second: Some(FieldText::Number(0)),
        minute: None,
        hour: None,
        mday: None,
        month: None,
        year: None,
        weekday: None,
    };
    for (field, text) in given {
        let field = match field {
            Field::Second => &mut fields.second,
            Field::Minute => &mut fields.minute,
            Field::Hour => &mut fields.hour,
            Field::MonthDay => &mut fields.mday,
            Field::Month => &mut fields.month,
            Field::Year => &mut fields.year,
            Field::Weekday => &mut fields.weekday,
        };
        *field = Some(text);
    }
    fields
}

/// Tells when an entry runs for the first time.
fn scheduled(command: &str, entry: &Entry) -> Outcome {
    let id = entry.id;
    match entry.typedata {
        TypeData::Datetime { next_wakeup, .. } if !entry.stopped => {
            let wait = next_wakeup - timefmt::now();
            let when = timefmt::strftime("%a %b %e %H:%M:%S %Y", next_wakeup);
            outln!("{command}: cron-{id} created: scheduled in {wait:.3}s at {when}");
            Ok(0)
        }
        _ => Err(Fail::new(format!(
            "cron-{id} created and stopped: its time never comes"
        ))),
    }
}

/// Seconds since the epoch of a time as date(1) understands it.
fn date(text: &str) -> Result<f64, Fail> {
    let output = Command::new("date")
        .arg("+%s")
        .arg(format!("--date={text}"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Fail::of("date", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .map_err(|_| Fail::new("Failed to parse datetime arg"))
}

pub(super) fn at(words: &[String]) -> i32 {
    let args = match AT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(AT.name, async {
        let (time, command) = match args.words.as_slice() {
            [time, command @ ..] if !command.is_empty() => (time, command),
            _ => return Err(Fail::new("TIME and COMMAND args are required")),
        };
        let time =
            timefmt::local(date(time)?).ok_or_else(|| Fail::new("Failed to parse datetime arg"))?;
        let when = fields(
            [
                (Field::Second, i64::from(time.second())),
                (Field::Minute, i64::from(time.minute())),
                (Field::Hour, i64::from(time.hour())),
                (Field::MonthDay, i64::from(time.day())),
                (Field::Month, i64::from(time.month()) - 1),
                (Field::Year, i64::from(time.year()) - 1900),
            ]
            .into_iter()
            .map(|(field, number)| (field, FieldText::Number(number))),
        );
        let mut request = request(&args, kind::DATETIME, &when, command.join(" "))?;
        request.repeat = Some(1);
        let entry = create(&fail::connect().await?, &request).await?;
        scheduled("at", &entry)
    })
}
