//! `flux pgrep` and `flux pkill`: jobs by name or range of ids.

use proto::job_manager::{JobManagerRaise, Raise};
use regex_lite::Regex;
use rpc::Dest;
use types::JobId;

use super::jobs::{FORMATS, Filter, Job, attributes, heading, list};
use super::queue::print;
use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};
use crate::format::{self, Format, Named, NoFormat, Row};
use crate::options::{Args, Family, Opt, Parser, arg, flag};

const ALL: Opt = flag('a', "", "Jobs in all states");
const EVERYBODY: Opt = flag('A', "", "The jobs of all users");
const USER: Opt = arg('u', "user", "USERNAME|UID", "The jobs of this user, or all");
const FILTER: Opt = arg(
    'f',
    "filter",
    "STATE|RESULT",
    "Jobs with this state or result",
);
const QUEUE: Opt = arg(
    'q',
    "queue",
    "QUEUE,...",
    "Jobs of these queues (multiple use OK)",
);
const COUNT: Opt = arg('c', "count", "N", "At most N jobs");
const MAX: Opt = arg('\0', "max-entries", "N", "Search at most N jobs");

static PGREP: Parser = Parser {
    name: "flux-pgrep",
    usage: "[OPTIONS] EXPRESSION...",
    about: "",
    family: Family::P,
    opts: &[
        ALL,
        EVERYBODY,
        USER,
        FILTER,
        QUEUE,
        COUNT,
        MAX,
        flag('n', "no-header", "Leave out the header line"),
        arg(
            'o',
            "format",
            "FORMAT",
            "Output format: a name, or a Python format string",
        ),
    ],
};

static PKILL: Parser = Parser {
    name: "flux-pkill",
    opts: &[
        ALL,
        EVERYBODY,
        USER,
        FILTER,
        QUEUE,
        COUNT,
        MAX,
        flag('\0', "wait", "Wait until the jobs have ended"),
    ],
    ..PGREP
};

/// What jobs must match: a range of ids, and a name.
struct Expression {
    range: Option<(JobId, JobId)>,
    name: Option<Regex>,
}

impl Expression {
    fn parse(args: &Args) -> Result<Expression, Fail> {
        let mut expression = Expression {
            range: None,
            name: None,
        };
        let wrong = |text: &str| {
            let text = format!("expression error: {text}");
            Err(Fail::new(text).with_status(2))
        };
        if args.words.is_empty() {
            let missing = "the following arguments are required: EXPRESSION";
            return Err(args.parser().usage_error(missing).into());
        }
        for word in &args.words {
            let range = word
                .split_once("..")
                .and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
            if range.is_some() {
                if std::mem::replace(&mut expression.range, range).is_some() {
                    return wrong("Only one jobid range can be provided");
                }
                continue;
            }
            let name = word.strip_prefix("name:").unwrap_or(word);
            let name = match Regex::new(name) {
                Ok(name) => name,
                Err(error) => return wrong(&format!("'{name}': {error}")),
            };
            if expression.name.replace(name).is_some() {
                return wrong("Only one pattern can be provided");
            }
        }
        Ok(expression)
    }

    fn matches(&self, job: &Job) -> bool {
        let in_range = |(low, high): &(JobId, JobId)| (*low..=*high).contains(&job.id());
        let has_name = |pattern: &Regex| {
            let name = job.field("name").map(|value| value.plain());
            name.is_ok_and(|name| pattern.is_match(&name))
        };
        self.range.as_ref().is_none_or(in_range) && self.name.as_ref().is_none_or(has_name)
    }
}

async fn find(
    client: &client::Client,
    args: &Args,
    mut attrs: Vec<String>,
) -> Result<Vec<Job>, Fail> {
    let expression = Expression::parse(args)?;
    let mut filter = Filter::from_args(args)?;
    filter.count = args.int("max-entries")?.unwrap_or(1000);
    attrs.push("name".to_owned());
    let mut jobs = list(client, &filter, attrs).await?;
    jobs.retain(|job| expression.matches(job));
    let count = args.int("count")?.unwrap_or(99_999);
    jobs.truncate(usize::try_from(count).unwrap_or_default());
    Ok(jobs)
}

pub(crate) fn pgrep(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PGREP.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-pgrep: ERROR", async {
        let mut formats: Vec<Named> =
            vec![("default", "Default flux-pgrep format string", "{id.f58}")];
        for (name, description, format) in FORMATS {
            match *name {
                "default" => formats.push(("full", description, format)),
                "long" | "deps" => formats.push((name, description, format)),
                _ => {}
            }
        }
        let variable = "FLUX_PGREP_FORMAT_DEFAULT";
        let chosen = format::choose("flux-jobs", None, variable, &formats, args.get("format"));
        let chosen = chosen.map_err(|error| match error {
            NoFormat::Done(status) => Fail::silent(status),
            NoFormat::Error(text) => Fail::new(text),
        })?;
        let mut format = Format::parse(&chosen, heading)
            .map_err(|error| Fail::new(format!("Error in user format: {error}")))?;
        let client = fail::connect_p().await?;
        let mut jobs = find(&client, &args, attributes(format.names())).await?;
        if jobs.is_empty() {
            return Ok(1);
        }
        let header = !args.has("no-header") && chosen != "{id.f58}";
        print(&mut format, &mut jobs, header)
    })
}

pub(crate) fn pkill(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PKILL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-pkill: ERROR", async {
        let client = fail::connect_p().await?;
        let jobs = find(&client, &args, Vec::new()).await?;
        if jobs.is_empty() {
            return Ok(1);
        }
        let calls: Vec<_> = jobs
            .iter()
            .map(|job| {
                let request = Raise {
                    id: job.id(),
                    severity: 0,
                    kind: "cancel".to_owned(),
                    note: None,
                    wait_status: None,
                };
                client.handle().call::<JobManagerRaise>(Dest::Any, &request)
            })
            .collect();
        let mut status = 0;
        let mut canceled = 0;
        for (job, call) in jobs.iter().zip(calls) {
            match call.await {
                Ok(_) => canceled += 1,
                Err(error) => {
                    err!("flux-pkill: ERROR: {}: cancel: {error}", job.id());
                    status = 1;
                }
            }
        }
        if args.has("wait") {
            for job in &jobs {
                let mut events = crate::attach::watch(&client, job.id(), "eventlog", 0);
                while events.next().await?.is_some() {}
            }
        }
        let plural = if canceled == 1 { "" } else { "s" };
        err!("flux-pkill: INFO: Canceled {canceled} job{plural}");
        Ok(status)
    })
}
