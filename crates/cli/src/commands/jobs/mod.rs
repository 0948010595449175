//! `flux jobs`: listing jobs.

mod fields;
mod filter;
mod job;

use client::Client;
use proto::Empty;
use proto::job_list::{Counts, JobListId, JobListJobStats, JobListList, JobStats, List, ListId};
use rpc::Dest;
use serde_json::{Value as Json, json};
use types::JobId;

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::format::{self, Format, Named, NoFormat};
use crate::options::{Args, Family, Parser, arg, flag, maybe};
use crate::{color, err, json as text, out, outln, output, terminal};

pub(crate) use fields::{attributes, heading};
pub(crate) use filter::{Filter, is_state, userid};
pub(crate) use job::{Job, username};

static PARSER: Parser = Parser {
    name: "flux-jobs",
    usage: "[OPTIONS] [JOBID ...]",
    about: "",
    family: Family::P,
    opts: &[
        flag('a', "", "List jobs in all states"),
        flag('A', "", "List the jobs of all users"),
        arg('c', "count", "N", "List at most N jobs (default 1000)"),
        arg(
            'f',
            "filter",
            "STATE|RESULT",
            "List jobs with this state or result",
        ),
        arg('\0', "since", "WHEN", "Include jobs that ended after WHEN"),
        flag('n', "no-header", "Leave out the header line"),
        flag('\0', "suppress-header", "").hidden(),
        arg(
            'u',
            "user",
            "USERNAME|UID",
            "List the jobs of this user, or all",
        ),
        arg('\0', "name", "JOB-NAME", "List jobs with this name"),
        arg('q', "queue", "QUEUE,...", "List jobs of these queues"),
        arg(
            'i',
            "include",
            "HOSTS|RANKS",
            "List jobs that had one of these hosts or ranks",
        ),
        arg(
            'o',
            "format",
            "FORMAT",
            "Output format: a name, or a Python format string",
        ),
        arg('\0', "sort", "KEY,...", "Sort by these fields"),
        maybe('w', "width", "N", "Cut lines at width N"),
        flag('\0', "json", "Show jobs as JSON"),
        maybe('\0', "color", "WHEN", "Use colour: never, always or auto"),
        flag(
            'R',
            "recursive",
            "List the jobs of instances among the jobs too",
        ),
        arg(
            'L',
            "level",
            "N",
            "With --recursive, go down at most N levels",
        ),
        flag(
            '\0',
            "recurse-all",
            "With --recursive, into the instances of all users",
        ),
        arg('\0', "threads", "N", "Accepted and ignored"),
        flag('\0', "stats", "Show job counts before the jobs"),
        flag('\0', "stats-only", "Show job counts only"),
        flag('\0', "from-stdin", "").hidden(),
    ],
};

/// The formats with names.
pub(crate) static FORMATS: &[Named] = &[
    (
        "default",
        "Default flux-jobs format string",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_abbrev:>2.2} {ntasks:>6} {nnodes:>6h} {contextual_time!F:>8h} {contextual_info}",
    ),
    (
        "cute",
        "Cute flux-jobs format string (default with emojis)",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_emoji:>5.5} {ntasks:>6} {nnodes:>6h} {contextual_time!F:>8h} {contextual_info}",
    ),
    (
        "long",
        "Extended flux-jobs format string",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status:>9.9} {ntasks:>6} {nnodes:>6h} {t_submit!d:%b%d %R::>12} {t_remaining!F:>12h} {contextual_time!F:>8h} {contextual_info}",
    ),
    (
        "deps",
        "Show job urgency, priority, and dependencies",
        "{id.f58:>12} ?:{queue:<8.8} {name:<10.10+} {urgency:<3} {priority:<12} {state:<8.8} {dependencies}",
    ),
    (
        "endreason",
        "Show why each job ended",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_abbrev:>2.2} {t_inactive!d:%b%d %R::>12h} {inactive_reason}",
    ),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let prefix = "flux-jobs: ERROR";
    let counts = args.has("stats") || args.has("stats-only");
    if counts && args.has("json") {
        let text = "--json incompatible with --stats or --stats-only";
        return fail::report(prefix, Err(Fail::new(text)));
    }
    let (filter, mut format) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(failure) => return fail::report(prefix, Err(failure)),
    };
    let colors = match color::wanted_p(&args) {
        Ok(colors) => colors,
        Err(status) => return status,
    };
    if args.has("from-stdin") {
        return fail::report(prefix, from_stdin(&args, &mut format, colors));
    }
    fail::run(prefix, async {
        let client = fail::connect_p().await?;
        if counts {
            let stats = wanted_counts(&args, stats(&client).await?)?;
            outln!("{}", stats_line(&stats, true));
            if args.has("stats-only") {
                let states = &stats.job_states;
                return Ok(i32::from(states.total == states.inactive));
            }
        }
        let mut attrs = if args.has("json") {
            vec!["all".to_owned()]
        } else {
            attributes(format.names())
        };
        if colors {
            attrs.extend(["result".to_owned(), "annotations".to_owned()]);
        }
        if args.has("recursive") {
            attrs.extend(["annotations", "userid", "state"].map(str::to_owned));
        }
        let (mut jobs, status) = fetch(&client, &args, &filter, attrs.clone()).await?;
        let count = usize::try_from(filter.count).unwrap_or_default();
        let more = args.words.is_empty() && count > 0 && jobs.len() > count;
        if more {
            jobs.truncate(count);
        }
        if status != 0 {
            return Ok(status);
        }
        let view = View {
            args: &args,
            filter: &filter,
            attrs,
            colors,
            width: width(&args)?,
        };
        if args.has("json") {
            let levels = view.levels()?;
            print_json(&args, view.objects(&jobs, levels).await?);
            return Ok(0);
        }
        view.print(&mut format, jobs).await?;
        if more && !no_header(&args) {
            err!("warning: output truncated at {count} jobs.");
            err!("Use --count to increase returned results or use filters to alter results.");
        }
        Ok(status)
    })
}

fn prepare(args: &Args) -> Result<(Filter, Format), Fail> {
    if args.has("a") && args.has("filter") {
        err!("flux-jobs: WARNING: Both -a and --filter specified, ignoring -a");
    }
    let filter = Filter::from_args(args)?;
    let chosen = format::choose(
        "flux-jobs",
        None,
        "FLUX_JOBS_FORMAT_DEFAULT",
        FORMATS,
        args.get("format"),
    );
    let chosen = chosen.map_err(|error| match error {
        NoFormat::Done(status) => Fail::silent(status),
        NoFormat::Error(text) => Fail::new(text),
    })?;
    let mut format = Format::parse(&chosen, heading)
        .map_err(|error| Fail::new(format!("Error in user format: {error}")))?;
    if let Some(keys) = args.get("sort") {
        format.sort = keys.split(',').map(str::to_owned).collect();
        for key in &format.sort {
            let name = key.trim_start_matches('-');
            if heading(name).is_none() {
                return Err(Fail::new(format!("Invalid sort key: {name}")));
            }
        }
    }
    Ok((filter, format))
}

fn width(args: &Args) -> Result<Option<usize>, Fail> {
    match args.int("width")? {
        Some(0) => Ok(terminal::tty_width()),
        Some(width) => Ok(usize::try_from(width).ok()),
        None if args.has("width") => Ok(terminal::tty_width()),
        None => Ok(None),
    }
}

/// Reads job counts.
pub(crate) async fn stats(client: &Client) -> Result<JobStats, Fail> {
    let call = client
        .handle()
        .call::<JobListJobStats>(Dest::Any, &Empty {});
    Ok(call.await?)
}

/// The counts of the queue a command line names, or of all.
fn wanted_counts(args: &Args, stats: JobStats) -> Result<Counts, Fail> {
    let Some(queue) = args.get("queue") else {
        return Ok(stats.all);
    };
    let mut queues = stats.queues.into_iter();
    let found = queues.find(|counts| counts.name.as_deref() == Some(queue));
    found.ok_or_else(|| {
        Fail::new(format!(
            "error retrieving job stats: no stats available for queue {queue}"
        ))
    })
}

/// Job counts as a line.
fn stats_line(counts: &Counts, purged: bool) -> String {
    let states = &counts.job_states;
    let mut line = format!(
        "{} running, {} completed, {} failed, {} pending",
        states.run + states.cleanup,
        counts.successful,
        counts.failed + counts.canceled + counts.timeout,
        states.depend + states.priority + states.sched
    );
    if purged {
        line.push_str(&format!(", {} inactive purged", counts.inactive_purged));
    }
    line
}

/// Reads the jobs a command line asks for. The status is 1 if it names ids and all are unknown.
async fn fetch(
    client: &Client,
    args: &Args,
    filter: &Filter,
    attrs: Vec<String>,
) -> Result<(Vec<Job>, i32), Fail> {
    if args.words.is_empty() {
        return Ok((list(client, filter, attrs).await?, 0));
    }
    if filter.given {
        err!("flux-jobs: WARNING: Filtering options ignored with jobid list");
    }
    by_ids(client, args, attrs).await
}

/// Reads the jobs whose ids are the words of a command line. The status is 1 if all are unknown.
pub(crate) async fn by_ids(
    client: &Client,
    args: &Args,
    attrs: Vec<String>,
) -> Result<(Vec<Job>, i32), Fail> {
    let mut calls = Vec::new();
    for word in &args.words {
        let id: JobId = word.parse().map_err(|_| {
            let text = format!("argument JOBID: invalid JobID value: '{word}'");
            args.parser().usage_error(&text)
        })?;
        let request = ListId {
            id,
            attrs: attrs.clone(),
            state: None,
        };
        calls.push((word, client.handle().call::<JobListId>(Dest::Any, &request)));
    }
    let mut jobs = Vec::new();
    for (word, call) in calls {
        match call.await {
            Ok(found) => jobs.push(Job::new(found.job)),
            Err(error) if error.errno == types::Errno::ENOENT => {
                err!("JobID {word} unknown");
            }
            Err(error) => return Err(Fail::of(word, error)),
        }
    }
    let status = i32::from(jobs.is_empty());
    Ok((jobs, status))
}

/// Reads the jobs that pass a filter, one more than asked for where there are more.
pub(crate) async fn list(
    client: &Client,
    filter: &Filter,
    attrs: Vec<String>,
) -> Result<Vec<Job>, Fail> {
    let request = List {
        // One more shows whether there are more.
        max_entries: if filter.count > 0 {
            filter.count + 1
        } else {
            // Of fewer than none the service knows what to say.
            filter.count
        },
        attrs,
        since: Some(filter.since),
        constraint: Some(filter.constraint.clone()),
        ..List::default()
    };
    let call = client.handle().call::<JobListList>(Dest::Any, &request);
    let jobs = call.await?.jobs;
    Ok(jobs.into_iter().map(Job::new).collect())
}

fn print_json(args: &Args, objects: Vec<Json>) {
    let value = match objects.as_slice() {
        [one] if args.words.len() == 1 => one.clone(),
        _ => json!({ "jobs": objects }),
    };
    outln!("{}", text::python(&value, true));
}

fn from_stdin(args: &Args, format: &mut Format, colors: bool) -> Outcome {
    let input =
        std::io::read_to_string(std::io::stdin()).map_err(|error| Fail::of("stdin", error))?;
    let mut jobs = Vec::new();
    for line in input.lines().filter(|line| !line.trim().is_empty()) {
        let job = serde_json::from_str(line).map_err(|error| Fail::new(error.to_string()))?;
        jobs.push(Job::new(job));
    }
    if args.has("json") {
        print_json(args, jobs.iter().map(Job::to_json).collect());
        return Ok(0);
    }
    let lines = Table {
        header: !no_header(args),
        colors,
        width: width(args)?,
    };
    lines.print(format, &mut jobs)?;
    Ok(0)
}

fn no_header(args: &Args) -> bool {
    args.has("no-header") || args.has("suppress-header")
}

/// How rows become lines.
struct Table {
    header: bool,
    colors: bool,
    width: Option<usize>,
}

impl Table {
    fn print(&self, format: &mut Format, jobs: &mut [Job]) -> Result<(), Fail> {
        format.sort(jobs).map_err(Fail::new)?;
        format.fit(jobs, self.header).map_err(Fail::new)?;
        if self.header {
            outln!("{}", format::cut(&format.header(), self.width));
        }
        self.rows(format, jobs)
    }

    fn rows(&self, format: &Format, jobs: &[Job]) -> Result<(), Fail> {
        for job in jobs {
            let line = format.row(job).map_err(Fail::new)?;
            if line.trim().is_empty() {
                continue;
            }
            let line = format::cut(&line, self.width);
            match job.color().filter(|_| self.colors) {
                // The reset comes with the next output, as it always has.
                Some(color) => out!("{color}{line}\n\x1b[0;0m"),
                None => outln!("{line}"),
            }
        }
        Ok(())
    }
}

/// A listing that may go down into instances.
struct View<'a> {
    args: &'a Args,
    filter: &'a Filter,
    attrs: Vec<String>,
    colors: bool,
    width: Option<usize>,
}

impl View<'_> {
    async fn print(&self, format: &mut Format, mut jobs: Vec<Job>) -> Result<(), Fail> {
        let table = Table {
            header: !no_header(self.args),
            colors: self.colors,
            width: self.width,
        };
        if format.names().any(|name| name.starts_with("instance.")) {
            for job in &mut jobs {
                job.query_instance().await;
            }
        }
        table.print(format, &mut jobs)?;
        if self.args.has("recursive") {
            let levels = self.levels()?;
            self.descend(format, &table, &jobs, String::new(), levels)
                .await?;
        }
        Ok(())
    }

    /// How far down to go.
    fn levels(&self) -> Result<i64, Fail> {
        match self.args.has("recursive") {
            true => Ok(self.args.int("level")?.unwrap_or(9999)),
            false => Ok(0),
        }
    }

    /// Whether a job is an instance to go into.
    fn descends(&self, job: &Job) -> bool {
        let own = i64::from(nix::unistd::getuid().as_raw());
        let mine = job.userid() == Some(own) || self.args.has("recurse-all");
        mine && job.uri().is_some() && job.is_running()
    }

    /// The jobs of an instance within.
    async fn list(&self, client: &Client) -> Result<Vec<Job>, Fail> {
        let mut jobs = list(client, self.filter, self.attrs.clone()).await?;
        if self.filter.count > 0 {
            jobs.truncate(usize::try_from(self.filter.count).unwrap_or_default());
        }
        Ok(jobs)
    }

    /// Jobs as JSON, those that are instances with the jobs in them.
    fn objects<'b>(
        &'b self,
        jobs: &'b [Job],
        levels: i64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Vec<Json>, Fail>> + 'b>> {
        Box::pin(async move {
            let mut objects = Vec::new();
            for job in jobs {
                let mut object = job.to_json();
                if levels > 0
                    && self.descends(job)
                    && let Some(client) = job.open_instance().await
                {
                    let inner = self.list(&client).await?;
                    object["jobs"] = self.objects(&inner, levels - 1).await?.into();
                }
                objects.push(object);
            }
            Ok(objects)
        })
    }

    fn descend<'b>(
        &'b self,
        format: &'b Format,
        table: &'b Table,
        jobs: &'b [Job],
        path: String,
        levels: i64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Fail>> + 'b>> {
        Box::pin(async move {
            if levels <= 0 {
                return Ok(());
            }
            for job in jobs.iter().filter(|job| self.descends(job)) {
                let path = format!("{path}{}", job.id());
                outln!();
                outln!("{path}:");
                output::flush();
                // An instance that cannot be reached shows an empty listing.
                let Some(client) = job.open_instance().await else {
                    continue;
                };
                if self.args.has("stats") {
                    outln!("{}", stats_line(&stats(&client).await?.all, false));
                }
                let mut inner = self.list(&client).await?;
                format.sort(&mut inner).map_err(Fail::new)?;
                table.rows(format, &inner)?;
                let path = format!("{path}/");
                self.descend(format, table, &inner, path, levels - 1)
                    .await?;
            }
            Ok(())
        })
    }
}
