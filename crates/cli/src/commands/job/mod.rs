//! `flux job`: one job or a few, closely.

mod control;
mod hostpids;
mod info;
mod listing;
mod log;
mod status;
mod tasks;

use std::time::Duration;

pub(crate) use control::{states, user};
use types::JobId;

use crate::attach;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag, maybe};
use crate::output;

use super::{Sub, dispatch_listed};

const PROG: &str = "flux-job";

static SUBS: &[Sub] = &[
    ("urgency", "Change a job's urgency", control::urgency),
    ("raise", "Raise an exception on jobs", control::raise),
    (
        "raiseall",
        "Raise an exception on many jobs",
        control::raise_all,
    ),
    ("kill", "Signal running jobs", control::kill),
    ("killall", "Signal many running jobs", control::kill_all),
    ("attach", "Follow a job", attach_command),
    (
        "status",
        "Wait for jobs and exit as the worst of them",
        status::status,
    ),
    ("submit", "Submit a jobspec", info::submit),
    ("id", "Show job ids in another form", info::id),
    ("eventlog", "Show a job's eventlog", log::eventlog),
    ("wait-event", "Wait for an event of a job", log::wait_event),
    ("info", "Show a job's data", info::info),
    ("stats", "Show job counts", info::stats),
    (
        "namespace",
        "Show the KVS namespaces of jobs",
        info::namespace,
    ),
    ("wait", "Wait for waitable jobs", status::wait),
    ("memo", "Note something on a job", control::memo),
    ("taskmap", "Show where tasks are", tasks::taskmap),
    (
        "timeleft",
        "Show how long a job may still run",
        info::timeleft,
    ),
    (
        "hostpids",
        "Show host and process id of tasks",
        hostpids::hostpids,
    ),
    ("last", "Show one's last jobs", info::last),
    ("purge", "Forget inactive jobs", control::purge),
    ("list", "", listing::list),
    ("list-inactive", "", listing::list_inactive),
    ("list-ids", "", info::list_ids),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_listed(PROG, "Common commands from flux-job:", SUBS, words)
}

/// Parses a job id as this command's errors have it.
fn parse_id(text: &str) -> Result<JobId, Fail> {
    text.parse()
        .map_err(|_| Fail::new(format!("error parsing jobid: \"{text}\"")))
}

static ATTACH: Parser = Parser {
    name: "flux-job attach",
    usage: "[OPTIONS] id",
    about: "Interactively attach to job",
    family: Family::G,
    opts: &[
        flag('E', "show-events", "Show the events of the job"),
        flag('X', "show-exec", "Show the events of its execution"),
        flag('\0', "show-status", "Show what the job waits for"),
        arg('w', "wait-event", "NAME", "Leave after this event"),
        flag(
            'l',
            "label-io",
            "Put the task rank in front of output lines",
        ),
        flag('v', "verbose", "Say more"),
        flag('q', "quiet", "Say less"),
        flag('r', "read-only", "Leave standard input and signals alone"),
        flag('u', "unbuffered", "Do not buffer standard input"),
        arg(
            'i',
            "stdin-ranks",
            "RANKS",
            "The tasks that get standard input",
        ),
        maybe('\0', "tail", "NUM", "Show only the last lines of output"),
        flag('\0', "debug", "").hidden(),
        flag('\0', "debug-emulate", "").hidden(),
        arg('\0', "queue-check-interval", "S", "").hidden(),
    ],
};

fn attach_command(words: &[String]) -> i32 {
    let args = match ATTACH.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [id] = args.words.as_slice() else {
        return ATTACH.wrong_words();
    };
    fail::run(PROG, async {
        if args.has("debug") {
            return Err(Fail::new("--debug is not implemented"));
        }
        let tail = match args.int("tail")? {
            Some(lines) => {
                let lines = u64::try_from(lines).map_err(|_| Fail::new("invalid tail argument"))?;
                Some(lines)
            }
            None => args.has("tail").then_some(10),
        };
        let stdin_ranks = match args.get("stdin-ranks") {
            Some(_) if args.has("read-only") => {
                return Err(Fail::new("Do not use --stdin-ranks with --read-only"));
            }
            None | Some("all") => None,
            Some(text) => Some(text.parse().map_err(|error| {
                Fail::of(format!("Invalid value '{text}' for --stdin-ranks"), error)
            })?),
        };
        let options = attach::Options {
            events: args.has("show-events"),
            exec: args.has("show-exec"),
            status: args.has("show-status"),
            queue_check: args
                .duration("queue-check-interval")?
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            label: args.has("label-io"),
            verbose: args.has("verbose"),
            quiet: args.has("quiet"),
            read_only: args.has("read-only"),
            stdin_ranks,
            wait_event: args.get("wait-event").map(str::to_owned),
            tail,
        };
        let id = parse_id(id)?;
        let client = connect().await?;
        let outcome = attach::attach(&client, id, &options).await;
        output::flush();
        outcome
    })
}

/// Connects; this program says why it cannot in more words than others.
async fn connect() -> Result<client::Client, Fail> {
    client::open(None)
        .await
        .map_err(|error| Fail::of("flux_open", error))
}
