//! Waiting for many submitted jobs.
//!
//! The instance owner follows all of them through one journal, which carries only the events that
//! matter; others, and who wants output, follow the eventlogs of each job.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use client::Client;
use proto::job_info::watch_flags;
use proto::job_manager::{JobManagerJournal, Journal, JournalEvents};
use rpc::{Dest, Stream};
use serde_json::{Map, Value, json};
use spec::Entry;
use types::{Errno, JobId};

use super::sinks::Sinks;
use crate::attach::{data_of, log_line, show_data, watch};
use crate::fail::Fail;
use crate::options::Args;
use crate::{err, output, signal};

/// What to wait for and what to show.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The event that ends the wait for a job; `exec.` in front of one of the execution.
    pub(crate) event: String,
    /// Whether to show output.
    pub(crate) output: bool,
    /// Whether output lines get the job id and task rank.
    pub(crate) label: bool,
    /// 1 tells of each job's end, 2 of every event.
    pub(crate) verbose: usize,
}

impl Wanted {
    /// What a command line wants, `None` if it does not wait at all.
    pub(crate) fn from_args(args: &Args) -> Result<Option<Wanted>, Fail> {
        let event = match args.get("wait-event") {
            Some(event) => event.to_owned(),
            None if args.has("wait") || args.has("watch") => "clean".to_owned(),
            None => return Ok(None),
        };
        Ok(Some(Wanted {
            event,
            output: args.has("watch"),
            label: args.has("label-io"),
            verbose: args.count("verbose"),
        }))
    }

    /// Whether one journal of all jobs tells all that is wanted.
    fn journal_suffices(&self) -> bool {
        !self.output && self.verbose < 2 && !self.event.starts_with("exec.")
    }
}

/// What is known of a job's end.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    code: i32,
    started: bool,
    start: Option<f64>,
}

impl Ended {
    /// Takes an event of the job. True if it was the one waited for.
    fn event(&mut self, id: JobId, entry: &Entry, wanted: &Wanted) -> bool {
        let start = *self.start.get_or_insert(entry.timestamp);
        let at = entry.timestamp - start;
        if wanted.verbose > 1 {
            let context = entry.context.as_ref().map(sorted).unwrap_or_default();
            err!("{id}: {at:.3}s: {} {context}", entry.name);
        }
        match entry.name.as_str() {
            "start" => self.started = true,
            "finish" => {
                let status = entry.get_i64("status").unwrap_or_default() as i32;
                self.code = self.code.max(signal::exit_code(status));
                if wanted.verbose > 0 {
                    let word = if status == 0 { "complete" } else { "failed" };
                    err!("{id}: {at:.3}s: {word}: status={status}");
                }
            }
            "exception" if entry.get_i64("severity") == Some(0) => {
                self.code = self.code.max(1);
                if !self.started || entry.get_str("type") == Some("exec") {
                    err!(
                        "job.exception: type={} severity=0 {}",
                        entry.get_str("type").unwrap_or_default(),
                        entry.get_str("note").unwrap_or_default()
                    );
                }
            }
            _ => {}
        }
        entry.name == wanted.event
    }
}

/// Compact JSON with sorted keys.
fn sorted(context: &Map<String, Value>) -> String {
    let sorted: std::collections::BTreeMap<_, _> = context.iter().collect();
    serde_json::to_string(&sorted).unwrap_or_default()
}

/// The journal of the jobs to come, opened before they are submitted.
pub(crate) struct Watcher {
    client: Client,
    wanted: Rc<Wanted>,
    journal: Option<Stream<JournalEvents>>,
}

impl Watcher {
    /// Starts watching, so that no event of a job submitted later is missed.
    pub(crate) async fn open(client: &Client, wanted: Wanted) -> Result<Watcher, Fail> {
        let mut journal = None;
        if wanted.journal_suffices() {
            let mut allow =
                json!({"submit": 1, "start": 1, "finish": 1, "exception": 1, "clean": 1});
            allow[&wanted.event] = json!(1);
            let request = Journal {
                full: false,
                allow: Some(allow),
                deny: None,
                ..Journal::default()
            };
            let mut stream = client
                .handle()
                .stream::<JobManagerJournal>(Dest::Any, &request);
            // What there was before ends with a message of no job.
            loop {
                match stream.next().await {
                    Ok(Some(events)) if events.id == -1 => {
                        journal = Some(stream);
                        break;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    // Guests have no journal, and follow their jobs one by one.
                    Err(error) if error.errno == Errno::EPERM => break,
                    Err(error) => return Err(Fail::new(error.to_string())),
                }
            }
        }
        Ok(Watcher {
            client: client.clone(),
            wanted: Rc::new(wanted),
            journal,
        })
    }

    /// Whether jobs are to be followed one by one from the moment their id is known.
    pub(crate) fn one_by_one(&self) -> bool {
        self.journal.is_none()
    }

    /// Starts to follow one job.
    pub(crate) fn follow(
        &self,
        id: JobId,
        sinks: Sinks,
    ) -> tokio::task::JoinHandle<Result<i32, Fail>> {
        let client = self.client.clone();
        let wanted = self.wanted.clone();
        tokio::task::spawn_local(async move { follow(&client, id, &wanted, &sinks).await })
    }

    /// Follows all jobs through the journal and returns the highest exit code.
    pub(crate) async fn journal(mut self, ids: &[JobId]) -> Result<i32, Fail> {
        let Some(journal) = &mut self.journal else {
            return Ok(0);
        };
        let mut waiting: HashMap<JobId, Ended> =
            ids.iter().map(|id| (*id, Ended::default())).collect();
        let mut highest = 0;
        let mut last = None;
        while !waiting.is_empty() {
            let Some(events) = journal.next().await? else {
                return Err(Fail::new("job manager is gone"));
            };
            let id = JobId(events.id as u64);
            let Some(job) = waiting.get_mut(&id) else {
                continue;
            };
            for event in &events.events {
                let entry = Entry::from_value(event).map_err(|error| Fail::of("journal", error))?;
                if job.event(id, &entry, &self.wanted) {
                    highest = highest.max(job.code);
                    waiting.remove(&id);
                    last = Some(id);
                    break;
                }
                if entry.name == "clean" {
                    highest = highest.max(job.code.max(1));
                    err!("{id}: event '{}' never received", self.wanted.event);
                    waiting.remove(&id);
                    last = Some(id);
                    break;
                }
            }
        }
        // The journal is ahead of the store. Commits come in the same order, so that once the
        // last event can be read, all can.
        if let Some(id) = last {
            let mut stream = watch(&self.client, id, "eventlog", 0);
            while let Some(entry) = stream.next().await? {
                if entry.name == self.wanted.event {
                    break;
                }
            }
        }
        Ok(highest)
    }
}

/// Follows one job and returns its exit code.
async fn follow(client: &Client, id: JobId, wanted: &Wanted, sinks: &Sinks) -> Result<i32, Fail> {
    let (log, name) = match wanted.event.strip_prefix("exec.") {
        Some(name) => ("guest.exec.eventlog", name),
        None => ("eventlog", wanted.event.as_str()),
    };
    let ended = Cell::new(Ended::default());
    let main = async {
        let mut stream = watch(client, id, "eventlog", 0);
        while let Some(entry) = stream.next().await? {
            let mut job = ended.get();
            let found = job.event(id, &entry, wanted);
            ended.set(job);
            if found {
                break;
            }
        }
        Ok::<(), Fail>(())
    };
    let output = async {
        if wanted.output {
            follow_output(client, id, wanted, sinks).await?;
        }
        Ok::<(), Fail>(())
    };
    if log == "eventlog" {
        tokio::try_join!(main, output)?;
        return Ok(ended.get().code);
    }
    let exec = async {
        let mut stream = watch(client, id, log, watch_flags::WAITCREATE);
        while let Some(entry) = stream.next().await? {
            if entry.name == name {
                return Ok::<bool, Fail>(true);
            }
        }
        Ok(false)
    };
    // The event of the execution ends the wait, or the end of the job does.
    tokio::pin!(exec);
    tokio::select! {
        found = &mut exec => {
            found?;
        }
        done = main => {
            done?;
            exec.await?;
        }
    }
    Ok(ended.get().code)
}

async fn follow_output(
    client: &Client,
    id: JobId,
    wanted: &Wanted,
    sinks: &Sinks,
) -> Result<(), Fail> {
    let mut stream = watch(client, id, "guest.output", watch_flags::WAITCREATE);
    let mut encodings = Map::new();
    let prefix = if wanted.label {
        format!("{id}: ")
    } else {
        String::new()
    };
    loop {
        let entry = match stream.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(error) if error.errno == Errno::ENOENT => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match entry.name.as_str() {
            "header" => {
                if let Some(Value::Object(map)) = entry.get("encoding") {
                    encodings = map.clone();
                }
            }
            "data" => {
                let data = entry
                    .context
                    .as_ref()
                    .and_then(|context| data_of(context, &encodings));
                if let Some(data) = data {
                    let bytes = data.data.as_deref().unwrap_or_default();
                    if !sinks.data(&data.stream, bytes)? {
                        show_data(&data, wanted.label, &prefix);
                    }
                }
            }
            "log" => {
                if let Some(line) = log_line(&entry, false, false) {
                    err!("{line}");
                }
            }
            _ => {}
        }
        output::flush();
    }
}
