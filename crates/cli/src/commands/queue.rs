//! `flux queue`: queues for jobs.

use std::collections::HashMap;
use std::time::Duration;

use client::Client;
use proto::Empty;
use proto::config::ConfigGet;
use proto::job_manager::{
    JobManagerAllocQuery, JobManagerDrain, JobManagerIdle, JobManagerQueueEnable,
    JobManagerQueueList, JobManagerQueueStart, JobManagerQueueStatus, Queue, QueueEnable,
    QueueStart, QueueStatus,
};
use proto::resource::ResourceSchedStatus;
use rpc::Dest;
use serde_json::Value as Json;
use spec::constraint::Constraint;
use spec::r::ResourceSet;
use types::Rank;

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::format::{self, Format, Named, NoFormat, Row, Value};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::outln;

const PREFIX: &str = "flux-queue: ERROR";

const SUBS: &[super::PlainSub] = &[
    ("list", list),
    ("status", status),
    ("enable", enable),
    ("disable", disable),
    ("start", start),
    ("stop", stop),
    ("drain", drain),
    ("idle", idle),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_argparse("flux-queue", SUBS, words)
}

/// The queues an instance has; one without name if there are no named ones.
async fn names(client: &Client) -> Result<Vec<Option<String>>, Fail> {
    let call = client
        .handle()
        .call::<JobManagerQueueList>(Dest::Any, &Empty {});
    let queues = call.await?.queues;
    Ok(if queues.is_empty() {
        vec![None]
    } else {
        queues.into_iter().map(Some).collect()
    })
}

async fn query(client: &Client, name: Option<String>) -> Result<QueueStatus, Fail> {
    let call = client
        .handle()
        .call::<JobManagerQueueStatus>(Dest::Any, &Queue { name });
    call.await.map_err(|error| Fail::of("status", error))
}

fn submission_line(prefix: &str, queue: &QueueStatus) -> String {
    if queue.enable {
        format!("{prefix}Job submission is enabled")
    } else {
        let reason = queue.disable_reason.as_deref().unwrap_or_default();
        format!("{prefix}Job submission is disabled: {reason}")
    }
}

fn scheduling_line(prefix: &str, queue: &QueueStatus) -> String {
    match (&queue.stop_reason, queue.start) {
        (_, true) => format!("{prefix}Scheduling is started"),
        (Some(reason), false) => format!("{prefix}Scheduling is stopped: {reason}"),
        (None, false) => format!("{prefix}Scheduling is stopped"),
    }
}

fn prefix(name: &Option<String>) -> String {
    name.as_ref()
        .map(|name| format!("{name}: "))
        .unwrap_or_default()
}

async fn counters(client: &Client) -> Result<(), Fail> {
    let call = client
        .handle()
        .call::<JobManagerAllocQuery>(Dest::Any, &Empty {});
    let counts = call.await?;
    outln!("{} alloc requests queued", counts.queue_length);
    outln!(
        "{} alloc requests pending to scheduler",
        counts.alloc_pending
    );
    outln!("{} running jobs", counts.running);
    Ok(())
}

const VERBOSE: Opt = flag('v', "verbose", "Show more");
const QUEUE: Opt = arg('q', "queue", "NAME", "").hidden();
const ALL: Opt = flag('a', "all", "Every queue");
const QUIET: Opt = flag('\0', "quiet", "Show nothing");
const MESSAGE: Opt = arg('m', "message", "REASON", "Why");
const NOCHECKPOINT: Opt = flag('\0', "nocheckpoint", "Do not remember it over a restart");

/// The queue named on the command line.
fn named(args: &Args) -> Option<String> {
    let word = args.words.first().map(String::as_str);
    word.or(args.get("queue")).map(str::to_owned)
}

/// Parses the words of a command that takes so many beside options.
fn parse(parser: &'static Parser, words: &[String], most: usize) -> Result<Args, i32> {
    let args = parser.parse(words)?;
    match args.words.get(most..) {
        None | Some([]) => Ok(args),
        Some(more) => Err(parser.unrecognized(more)),
    }
}

static STATUS: Parser = Parser {
    name: "flux-queue status",
    usage: "[-h] [-v] [queue]",
    about: "",
    family: Family::P,
    opts: &[VERBOSE, QUEUE],
};

fn status(words: &[String]) -> i32 {
    let args = match parse(&STATUS, words, 1) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let client = fail::connect_p().await?;
        let queues = match named(&args) {
            Some(name) => vec![Some(name)],
            None => names(&client).await?,
        };
        for name in queues {
            let prefix = prefix(&name);
            let queue = query(&client, name).await?;
            outln!("{}", submission_line(&prefix, &queue));
            outln!("{}", scheduling_line(&prefix, &queue));
        }
        if args.has("verbose") {
            counters(&client).await?;
        }
        Ok(0)
    })
}

static CHANGE: Parser = Parser {
    name: "flux-queue",
    usage: "{enable,disable,start,stop} [-h] [-v] [--quiet] [-a] [queue]",
    about: "",
    family: Family::P,
    opts: &[VERBOSE, QUEUE, ALL, QUIET],
};

static CHANGE_WITH_REASON: Parser = Parser {
    opts: &[VERBOSE, QUEUE, ALL, QUIET, MESSAGE, NOCHECKPOINT],
    ..CHANGE
};

/// What is done to a queue.
#[derive(Clone, Copy)]
enum Change {
    Enable(bool),
    Start(bool),
}

fn change(parser: &'static Parser, change: Change, words: &[String]) -> i32 {
    let args = match parse(parser, words, 1) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let client = fail::connect_p().await?;
        let name = named(&args);
        let mut all = args.has("all");
        if name.is_none() && !all {
            if names(&client).await? == [None] {
                all = true;
            } else if matches!(change, Change::Start(_)) {
                return Err(Fail::new(
                    "Named queues are defined. Specify queues or use --all.",
                ));
            }
        }
        let message = args.get("message").map(str::to_owned);
        match change {
            Change::Enable(enable) => {
                let reason = message.unwrap_or_else(|| "disabled by administrator".to_owned());
                let request = QueueEnable {
                    name: name.clone(),
                    enable,
                    reason: (!enable).then_some(reason),
                    all,
                };
                let call = client
                    .handle()
                    .call::<JobManagerQueueEnable>(Dest::Any, &request);
                call.await.map_err(|error| Fail::of("enable", error))?;
            }
            Change::Start(start) => {
                let request = QueueStart {
                    name: name.clone(),
                    start,
                    reason: message,
                    all,
                    nocheckpoint: args.has("nocheckpoint"),
                };
                let call = client
                    .handle()
                    .call::<JobManagerQueueStart>(Dest::Any, &request);
                call.await.map_err(|error| Fail::of("start", error))?;
            }
        }
        if !args.has("quiet") {
            // With --verbose those that were left alone are shown too.
            let queues = match name {
                Some(name) if !args.has("verbose") => vec![Some(name)],
                _ => names(&client).await?,
            };
            for name in queues {
                let prefix = prefix(&name);
                let queue = query(&client, name).await?;
                match change {
                    Change::Enable(_) => outln!("{}", submission_line(&prefix, &queue)),
                    Change::Start(_) => outln!("{}", scheduling_line(&prefix, &queue)),
                }
            }
        }
        if args.has("verbose") && matches!(change, Change::Start(_)) {
            counters(&client).await?;
        }
        Ok(0)
    })
}

fn enable(words: &[String]) -> i32 {
    change(&CHANGE, Change::Enable(true), words)
}

fn disable(words: &[String]) -> i32 {
    change(&CHANGE_WITH_REASON, Change::Enable(false), words)
}

fn start(words: &[String]) -> i32 {
    change(&CHANGE, Change::Start(true), words)
}

fn stop(words: &[String]) -> i32 {
    change(&CHANGE_WITH_REASON, Change::Start(false), words)
}

static WAIT: Parser = Parser {
    name: "flux-queue",
    usage: "{drain,idle} [-h] [-t FSD]",
    about: "",
    family: Family::P,
    opts: &[arg('t', "timeout", "FSD", "Give up after this time"), QUIET],
};

/// The options of a wait, which takes no other words.
fn wait_args(words: &[String]) -> Result<Args, i32> {
    parse(&WAIT, words, 0)
}

/// Waits for an answer, at most as long as the command line says.
async fn within<T>(
    args: &Args,
    what: &str,
    answer: impl Future<Output = Result<T, rpc::RpcError>>,
) -> Result<T, Fail> {
    match args.duration("timeout")?.filter(|time| time.is_finite()) {
        None => Ok(answer.await?),
        Some(seconds) => match tokio::time::timeout(Duration::from_secs_f64(seconds), answer).await
        {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Fail::new(format!("{what}: timeout"))),
        },
    }
}

fn drain(words: &[String]) -> i32 {
    let args = match wait_args(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let client = fail::connect_p().await?;
        let call = client
            .handle()
            .call::<JobManagerDrain>(Dest::Any, &Empty {});
        within(&args, "drain", call).await?;
        Ok(0)
    })
}

fn idle(words: &[String]) -> i32 {
    let args = match wait_args(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let client = fail::connect_p().await?;
        let call = client.handle().call::<JobManagerIdle>(Dest::Any, &Empty {});
        let pending = within(&args, "idle", call).await?.pending;
        if !args.has("quiet") {
            outln!("{pending} jobs");
        }
        Ok(0)
    })
}

static LIST: Parser = Parser {
    name: "flux-queue list",
    usage: "[-h] [-q QUEUE,...] [-o FORMAT] [-n]",
    about: "",
    family: Family::P,
    opts: &[
        arg('q', "queue", "QUEUE,...", "Only these queues"),
        arg(
            'o',
            "format",
            "FORMAT",
            "Output format: a name, or a Python format string",
        ),
        flag('n', "no-header", "Leave out the header line"),
    ],
};

macro_rules! queue_format {
    ($rest:literal) => {
        concat!(
            "?:{queuem:<8.8} ?:{parent:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} {defaults.timelimit!F:>8} {limits.timelimit!F:>8} ",
            $rest
        )
    };
}

static FORMATS: &[Named] = &[
    (
        "default",
        "Default flux-queue list format string",
        queue_format!(
            "{limits.range.effective.nnodes:>10} {limits.range.effective.ncores:>10} {limits.range.effective.ngpus:>10}"
        ),
    ),
    (
        "policy",
        "Show configured limits",
        queue_format!(
            "{limits.range.nnodes:>10} {limits.range.ncores:>10} {limits.range.ngpus:>10}"
        ),
    ),
    (
        "nodes",
        "Show the nodes of each queue",
        "?:{queuem:<8.8} ?:{parent:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} {resources.all.nnodes:>6} {resources.up.nnodes:>10} {resources.down.nnodes:>10} {resources.allocated.nnodes:>11} {resources.free.nnodes:>10}",
    ),
];

fn heading(name: &str) -> Option<String> {
    let fixed = match name {
        "queue" | "queuem" => "QUEUE",
        "parent" => "PARENT",
        "submission" => "SUBMIT",
        "scheduling" => "SCHED",
        "enabled" | "enabled.ascii" => "EN",
        "started" | "started.ascii" => "ST",
        "color_enabled" | "color_started" | "color_off" => "",
        "defaults.timelimit" => "TDEFAULT",
        "limits.timelimit" => "TLIMIT",
        _ => {
            let (place, kind) = name.rsplit_once('.')?;
            let kind = match kind {
                "nnodes" => "NODES",
                "ncores" => "CORES",
                "ngpus" => "GPUS",
                _ => return None,
            };
            return Some(match place {
                "limits.range" | "limits.range.effective" => format!("N{kind}"),
                "limits.min" => format!("MIN{kind}"),
                "limits.max" => format!("MAX{kind}"),
                "resources.all" => kind.to_owned(),
                "resources.up" => format!("{kind}:UP"),
                "resources.down" => format!("{kind}:DOWN"),
                "resources.allocated" => format!("{kind}:ALLOC"),
                "resources.free" => format!("{kind}:FREE"),
                _ => return None,
            });
        }
    };
    Some(fixed.to_owned())
}

/// A queue as a row.
struct QueueRow {
    name: Option<String>,
    default: bool,
    status: QueueStatus,
    /// Policy tables: the queue's own, its parent's, everybody's.
    policies: Vec<Json>,
    resources: HashMap<&'static str, ResourceSet>,
}

impl QueueRow {
    /// A virtual queue that is started, held up by its parent.
    fn paused(&self) -> bool {
        self.status.blocked.as_deref() == Some("parent")
    }

    /// The first policy that sets a key.
    fn policy(&self, path: &str) -> Option<&Json> {
        self.policies.iter().find_map(|policy| policy.pointer(path))
    }

    fn limit(&self, bound: &str, kind: &str) -> f64 {
        let unset = if bound == "max" { f64::INFINITY } else { 0.0 };
        let path = format!("/limits/job-size/{bound}/{kind}");
        match self.policy(&path).and_then(Json::as_f64) {
            Some(limit) if limit < 0.0 => f64::INFINITY,
            Some(limit) => limit,
            None => unset,
        }
    }

    fn count(&self, set: &str, kind: &str) -> usize {
        let Some(set) = self.resources.get(set) else {
            return 0;
        };
        match kind {
            "nnodes" => set.nnodes(),
            "ncores" => set.count("core"),
            _ => set.count("gpu"),
        }
    }
}

fn number(value: f64) -> Value {
    if value.is_infinite() {
        "inf".into()
    } else {
        Value::Int(value as i64)
    }
}

fn range(min: f64, max: f64) -> Value {
    Value::Str(format!("{}-{}", number(min).plain(), number(max).plain()))
}

fn glyph(on: bool, ascii: bool) -> Value {
    match (on, ascii) {
        (true, false) => " ✔".into(),
        (false, false) => " ✗".into(),
        (true, true) => "y".into(),
        (false, true) => "n".into(),
    }
}

impl Row for QueueRow {
    fn field(&self, name: &str) -> Result<Value, String> {
        let plain = self.name.clone().unwrap_or_default();
        let color = |on: bool| -> Value { if on { "\x1b[01;32m" } else { "\x1b[01;31m" }.into() };
        Ok(match name {
            "queue" => plain.into(),
            "queuem" if self.default => format!("{plain}*").into(),
            "queuem" => plain.into(),
            "parent" => self.status.parent.clone().unwrap_or_default().into(),
            "submission" if self.status.enable => "enabled".into(),
            "submission" => "disabled".into(),
            "scheduling" if self.status.start => "started".into(),
            "scheduling" if self.paused() => "stopped (parent)".into(),
            "scheduling" => "stopped".into(),
            "enabled" | "enabled.ascii" => glyph(self.status.enable, name.ends_with("ascii")),
            "started" if self.paused() => " ⏸".into(),
            "started.ascii" if self.paused() => "p".into(),
            "started" | "started.ascii" => glyph(self.status.start, name.ends_with("ascii")),
            "color_enabled" => color(self.status.enable),
            "color_started" if self.paused() => "\x1b[01;33m".into(),
            "color_started" => color(self.status.start),
            "color_off" => "\x1b[0;0m".into(),
            "defaults.timelimit" => timelimit(self.policy("/jobspec/defaults/system/duration")),
            "limits.timelimit" => timelimit(self.policy("/limits/duration")),
            _ => {
                let (place, kind) = name.rsplit_once('.').unwrap_or((name, ""));
                match place {
                    "limits.min" => number(self.limit("min", kind)),
                    "limits.max" => number(self.limit("max", kind)),
                    "limits.range" => range(self.limit("min", kind), self.limit("max", kind)),
                    "limits.range.effective" => {
                        let all = self.count("all", kind) as f64;
                        range(self.limit("min", kind), self.limit("max", kind).min(all))
                    }
                    _ => {
                        let set = place.strip_prefix("resources.").unwrap_or_default();
                        self.count(set, kind).into()
                    }
                }
            }
        })
    }
}

fn timelimit(value: Option<&Json>) -> Value {
    let seconds = match value {
        Some(Json::String(text)) => types::fsd::parse(text).unwrap_or(0.0),
        Some(other) => other.as_f64().unwrap_or(0.0),
        None => 0.0,
    };
    // No limit is shown as such.
    Value::Float(if seconds == 0.0 {
        f64::INFINITY
    } else {
        seconds
    })
}

fn list(words: &[String]) -> i32 {
    let args = match parse(&LIST, words, 0) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let chosen = format::choose(
            "flux-queue",
            Some("list"),
            "FLUX_QUEUE_LIST_FORMAT_DEFAULT",
            FORMATS,
            args.get("format"),
        );
        let chosen = chosen.map_err(|error| match error {
            NoFormat::Done(status) => Fail::silent(status),
            NoFormat::Error(text) => Fail::new(text),
        })?;
        let mut format = Format::parse(&chosen, heading).map_err(Fail::new)?;
        let client = fail::connect_p().await?;
        let mut rows = rows(&client, &args).await?;
        print(&mut format, &mut rows, !args.has("no-header"))
    })
}

async fn rows(client: &Client, args: &Args) -> Result<Vec<QueueRow>, Fail> {
    let handle = client.handle();
    let config = handle.call::<ConfigGet>(Dest::Any, &Empty {});
    let resources = handle.call::<ResourceSchedStatus>(Dest::Rank(Rank::LEADER), &Empty {});
    let config = Json::Object(config.await?);
    let resources = resources.await?;
    let set = |value: &Json| ResourceSet::from_value(value).unwrap_or_default();
    let (all, down, allocated) = (
        set(&resources.all),
        set(&resources.down),
        set(&resources.allocated),
    );
    let known: Vec<Option<String>> = match config["queues"].as_object() {
        Some(queues) => queues.keys().cloned().map(Some).collect(),
        None => vec![None],
    };
    let wanted: Vec<&str> = args.all("queue").flat_map(|list| list.split(',')).collect();
    for name in &wanted {
        if !known.iter().any(|known| known.as_deref() == Some(*name)) {
            return Err(Fail::new(format!("No such queue: {name}")));
        }
    }
    let default = config
        .pointer("/policy/jobspec/defaults/system/queue")
        .and_then(Json::as_str);
    let mut rows = Vec::new();
    for name in known {
        if let Some(name) = &name
            && !wanted.is_empty()
            && !wanted.contains(&name.as_str())
        {
            continue;
        }
        let status = query(client, name.clone()).await?;
        let table = |queue: &Option<String>| match queue {
            Some(queue) => config["queues"][queue].clone(),
            None => Json::Null,
        };
        let own = table(&name);
        let parent = table(&status.parent);
        // A virtual queue uses what its parent's does.
        let requires = if own["requires"].is_null() {
            &parent["requires"]
        } else {
            &own["requires"]
        };
        let part = |set: &ResourceSet| match requires {
            Json::Array(properties) => {
                let names = properties.iter().filter_map(Json::as_str);
                match Constraint::from_properties(names) {
                    Ok(constraint) => set.copy_constraint(&constraint),
                    Err(_) => set.clone(),
                }
            }
            _ => set.clone(),
        };
        let up = all.difference(&down);
        let sets = [
            ("all", part(&all)),
            ("down", part(&down)),
            ("allocated", part(&allocated)),
            ("free", part(&up.difference(&allocated))),
            ("up", part(&up)),
        ];
        rows.push(QueueRow {
            default: name.is_some() && name.as_deref() == default,
            name,
            status,
            policies: vec![
                own["policy"].clone(),
                parent["policy"].clone(),
                config["policy"].clone(),
            ],
            resources: sets.into_iter().collect(),
        });
    }
    Ok(rows)
}

/// Prints rows below their header.
pub(crate) fn print<R: Row>(format: &mut Format, rows: &mut [R], header: bool) -> Outcome {
    format.sort(rows).map_err(Fail::new)?;
    format.fit(rows, header).map_err(Fail::new)?;
    if header {
        outln!("{}", format.header());
    }
    for row in rows.iter() {
        let line = format.row(row).map_err(Fail::new)?;
        if !line.trim().is_empty() {
            outln!("{line}");
        }
    }
    Ok(0)
}
