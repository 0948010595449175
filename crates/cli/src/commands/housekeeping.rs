//! `flux housekeeping`: what runs on nodes after their jobs.

use proto::Empty;
use proto::job_manager::{HousekeepingKill, JobManagerHousekeepingKill, JobManagerStats};
use rpc::Dest;
use serde_json::Value as Json;
use types::{Hostlist, IdSet, JobId};

use super::dispatch_argparse;
use super::queue::print;
use super::targets::{TargetsError, hosts, targets};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::format::{self, Format, Named, NoFormat, Row, Value};
use crate::options::{Family, Parser, arg, flag};
use crate::timefmt;

static FORMATS: &[Named] = &[(
    "default",
    "Default flux-housekeeping format string",
    "{id.f58:>12} {nnodes:>6} {pending.nnodes:>7} {runtime!F:>8} {nodelist}",
)];

static LIST: Parser = Parser {
    name: "flux-housekeeping list",
    usage: "[-h] [-i HOSTS|RANKS] [-n] [-o FORMAT]",
    about: "",
    family: Family::P,
    opts: &[
        arg(
            'i',
            "include",
            "HOSTS|RANKS",
            "Only housekeeping on these hosts or ranks",
        ),
        flag('n', "no-header", "Leave out the header line"),
        arg(
            'o',
            "format",
            "FORMAT",
            "Output format: a name, or a Python format string",
        ),
    ],
};

static KILL: Parser = Parser {
    name: "flux-housekeeping kill",
    usage: "[-h] [-s SIGNUM] [-t RANKS|HOSTS] [-j JOBID] [--all]",
    opts: &[
        arg('s', "signal", "SIGNUM", "The signal to send (default 15)"),
        arg(
            't',
            "targets",
            "RANKS|HOSTS",
            "Only on these ranks or hosts",
        ),
        arg('j', "jobid", "JOBID", "Only after this job"),
        flag('\0', "all", "After all jobs"),
    ],
    ..LIST
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_argparse(
        "flux-housekeeping",
        &[("list", list), ("kill", kill)],
        words,
    )
}

fn kill(words: &[String]) -> i32 {
    let args = match KILL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-housekeeping: ERROR", async {
        if !["targets", "jobid", "all"].iter().any(|key| args.has(key)) {
            return Err(Fail::new(
                "specify at least one of --targets, --jobid, or --all",
            ));
        }
        if args.has("all") && args.has("jobid") {
            return Err(Fail::new("do not specify a jobid with --all"));
        }
        let jobid = match args.get("jobid") {
            None | Some("all") => None,
            Some(text) => Some(text.parse::<JobId>().map_err(|_| {
                KILL.usage_error(&format!(
                    "argument -j/--jobid: invalid JobID value: '{text}'"
                ))
            })?),
        };
        let signum = args.int("signal")?.unwrap_or(15);
        let client = fail::connect_p().await?;
        let ranks = match args.get("targets") {
            Some(text) => {
                let ranks = targets(text, &hosts(&client).await?);
                let ranks = ranks.map_err(|error| match error {
                    TargetsError::Invalid(text) => Fail::new(format!(
                        "--targets must be a valid Idset or Hostlist: '{text}'"
                    )),
                    TargetsError::Unknown(host) => {
                        Fail::new(format!("didn't find {host} in instance hostlist"))
                    }
                })?;
                Some(ranks.to_string())
            }
            None => None,
        };
        let request = HousekeepingKill {
            signum: i32::try_from(signum).map_err(|_| Fail::new("invalid signal"))?,
            jobid,
            ranks,
        };
        client
            .handle()
            .call::<JobManagerHousekeepingKill>(Dest::Any, &request)
            .await?;
        Ok(0)
    })
}

/// Housekeeping after one job.
struct Job {
    id: JobId,
    start: f64,
    now: f64,
    allocated: IdSet,
    pending: IdSet,
    hosts: Hostlist,
}

fn heading(name: &str) -> Option<String> {
    let heading = match name {
        "t_start" => "T_START",
        "runtime" => "RUNTIME",
        "ranks" | "allocated.ranks" => "RANKS",
        "nodelist" | "allocated.nodelist" => "NODELIST",
        "nnodes" | "allocated.nnodes" => "NNODES",
        "pending.ranks" => "ACTIVE_RANKS",
        "pending.nodelist" => "ACTIVE_NODES",
        "pending.nnodes" => "#ACTIVE",
        _ if name == "id" || name.starts_with("id.") => "JOBID",
        _ => return None,
    };
    Some(heading.to_owned())
}

impl Row for Job {
    fn field(&self, name: &str) -> Result<Value, String> {
        if name == "id" || name.starts_with("id.") {
            // The encodings of ids are those of job listings.
            let info = [("id".to_owned(), self.id.0.into())].into_iter().collect();
            return super::jobs::Job::new(info).field(name);
        }
        let (set, field) = match name.split_once('.') {
            Some(("pending", field)) => (&self.pending, field),
            Some(("allocated", field)) => (&self.allocated, field),
            _ => (&self.allocated, name),
        };
        Ok(match field {
            "t_start" => Value::Float(self.start),
            "runtime" => Value::Float(self.now - self.start),
            "ranks" => set.to_string().into(),
            "nodelist" => self.hosts.select(set).to_string().into(),
            "nnodes" => set.len().into(),
            _ => return Err(format!("Unknown format field: {name}")),
        })
    }
}

fn list(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-housekeeping: ERROR", async {
        let chosen = format::choose(
            "flux-housekeeping",
            None,
            "FLUX_HOUSEKEEPING_FORMAT_DEFAULT",
            FORMATS,
            args.get("format"),
        );
        let chosen = chosen.map_err(|error| match error {
            NoFormat::Done(status) => Fail::silent(status),
            NoFormat::Error(text) => Fail::new(text),
        })?;
        let mut format = Format::parse(&chosen, heading)
            .map_err(|error| Fail::new(format!("Error in user format: {error}")))?;
        let client = fail::connect_p().await?;
        let call = client
            .handle()
            .call::<JobManagerStats>(Dest::Any, &Empty {});
        let stats = Json::Object(call.await?);
        let hosts = hosts(&client).await?;
        let mut jobs = jobs(&stats, &hosts)?;
        if let Some(text) = args.get("include") {
            let ranks = targets(text, &hosts)?;
            jobs.retain(|job| job.pending.intersects(&ranks));
        }
        if format.names().all(is_about_nodes) {
            jobs = merge(jobs);
        }
        print(&mut format, &mut jobs, !args.has("no-header"))
    })
}

/// Whether a field is one of those that jobs share if they are listed without saying which.
fn is_about_nodes(name: &str) -> bool {
    let field = name.rsplit('.').next();
    matches!(field, Some("ranks" | "nodelist" | "nnodes"))
}

/// Makes one of all jobs: where housekeeping is, whatever for.
fn merge(jobs: Vec<Job>) -> Vec<Job> {
    let merged = jobs.into_iter().reduce(|mut all, job| {
        all.allocated.insert_all(&job.allocated);
        all.pending.insert_all(&job.pending);
        all
    });
    merged.into_iter().collect()
}

/// The jobs in the job manager's statistics.
fn jobs(stats: &Json, hosts: &Hostlist) -> Result<Vec<Job>, Fail> {
    let now = timefmt::now();
    let running = stats
        .pointer("/housekeeping/running")
        .and_then(Json::as_object);
    let mut jobs = Vec::new();
    for (id, entry) in running.into_iter().flatten() {
        let ids = |key: &str| {
            entry[key]
                .as_str()
                .unwrap_or_default()
                .parse::<IdSet>()
                .map_err(|error| Fail::of("housekeeping", error))
        };
        jobs.push(Job {
            id: id
                .parse()
                .map_err(|_| Fail::of("housekeeping", "bad job id"))?,
            start: entry["t_start"].as_f64().unwrap_or_default(),
            now,
            allocated: ids("allocated")?,
            pending: ids("pending")?,
            hosts: hosts.clone(),
        });
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_from_statistics() {
        let stats = serde_json::json!({"housekeeping": {"running": {
            "f1": {"t_start": 1.5, "allocated": "0-3", "pending": "2"}
        }}});
        let hosts: Hostlist = "h[0-3]".parse().expect("hosts");
        let jobs = jobs(&stats, &hosts).expect("jobs");
        let field = |name: &str| jobs[0].field(name).expect("field").plain();
        assert_eq!(jobs.len(), 1);
        assert_eq!(field("nnodes"), "4");
        assert_eq!(field("nodelist"), "h[0-3]");
        assert_eq!(field("pending.nodelist"), "h2");
        assert_eq!(field("pending.nnodes"), "1");
    }

    #[test]
    fn jobs_that_nothing_tells_apart_are_one() {
        let stats = serde_json::json!({"housekeeping": {"running": {
            "f1": {"t_start": 1.5, "allocated": "0-1", "pending": "0"},
            "f2": {"t_start": 1.5, "allocated": "3", "pending": "3"}
        }}});
        let hosts: Hostlist = "h[0-3]".parse().expect("hosts");
        let merged = merge(jobs(&stats, &hosts).expect("jobs"));
        let field = |name: &str| merged[0].field(name).expect("field").plain();
        assert_eq!(merged.len(), 1);
        assert_eq!(field("ranks"), "0-1,3");
        assert_eq!(field("pending.nnodes"), "2");
        let told = ["ranks", "pending.nodelist", "id", "id.dec", "runtime"].map(is_about_nodes);
        assert_eq!(told, [true, true, false, false, false]);
    }
}
