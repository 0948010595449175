//! Module `job-list`: lists and counts jobs (RFC 43).
//!
//! The index in `jobs` is fed by the job manager's journal. Inactive jobs come the short way, as
//! records shared with the job manager. Requests that come before all of that is in wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use jobs::list::{Constraint, Counts as JobCounts, List, Listed, Query};
use jobs::policy::Policy;
use jobs::{Fold, State as JobState};
use module::{Builtin, Context, Failure, Host, Input, Severity};
use proto::Empty;
use proto::config::ModuleConfigReload;
use proto::job_list::{
    Attrs, Counts, JobListAttrs, JobListId, JobListJobStats, JobListList, JobListPause,
    JobListStats, JobListUnpause, JobStats, Jobs, ListId, OneJob, StateCounts,
};
use proto::job_manager::{JOB_PURGE_INACTIVE, JobManagerJournal, JobPurge, Journal, JournalEvents};
use proto::{Access, Payload as _};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use spec::Entry;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use types::{Cred, Errno, JobId, RoleMask, UserId};
use wire::Message;

use crate::job_manager::Handover;
use crate::store;

/// How long changes gather before followers of the counts hear of them.
const STATS_PAUSE: Duration = Duration::from_millis(200);
/// How many conditions a query may try unless configured otherwise.
const COMPARISONS_MAX: usize = 1_000_000;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "job-list",
        main: |context| Box::pin(run(context)),
    }
}

/// What is configured.
#[derive(Clone, Debug, Default)]
struct Config {
    policy: Policy,
    comparisons_max: usize,
    private: bool,
}

impl Config {
    fn parse(config: &Map<String, Value>) -> Result<Config, String> {
        let limit = config
            .get("job-list")
            .and_then(|table| table.get("max_comparisons"));
        let comparisons_max = match limit {
            None => COMPARISONS_MAX,
            Some(value) => value
                .as_u64()
                .and_then(|limit| usize::try_from(limit).ok())
                .ok_or("job-list.max_comparisons must be >= 0")?,
        };
        let private = config
            .get("access")
            .and_then(|access| access.get("private-mode")?.as_bool())
            .unwrap_or(false);
        Ok(Config {
            policy: Policy::parse(config)?,
            comparisons_max,
            private,
        })
    }
}

/// A request for one job that is not there, or not far enough, yet.
struct Waiting {
    request: Request<JobListId>,
    wanted: ListId,
}

/// What comes back from the module's own tasks.
enum Posted {
    /// Whether a job that is not listed is stored at all.
    Stored(Waiting, bool),
}

struct State {
    handle: Handle,
    host: Rc<dyn Host>,
    posts: mpsc::UnboundedSender<Posted>,
    config: Config,
    list: List,
    /// Requests that came before the history was in; `None` once it is.
    deferred: Option<Vec<Message>>,
    waiting: Vec<Waiting>,
    followers: Vec<Request<JobListJobStats>>,
    stats_due: Option<Instant>,
    /// Events held back while a test pauses them.
    paused: Option<Vec<JournalEvents>>,
    lookups: u64,
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let config =
        Config::parse(&context.config()).map_err(|text| Failure::new(Errno::EINVAL, text))?;
    let (posts, mut posted) = mpsc::unbounded_channel();
    let mut state = State {
        handle: context.handle.clone(),
        host: context.host(),
        posts,
        config,
        list: List::default(),
        deferred: Some(Vec::new()),
        waiting: Vec::new(),
        followers: Vec::new(),
        stats_due: None,
        paused: None,
        lookups: 0,
    };
    context.subscribe(JOB_PURGE_INACTIVE);
    let handover = Handover::default();
    state.host.exchange().offer(handover.clone());
    let wanted = Journal {
        full: true,
        handover: true,
        ..Journal::default()
    };
    let mut journal = context
        .handle
        .stream::<JobManagerJournal>(Dest::Any, &wanted);
    let routes = routes();
    context.ready();
    let mut journal_ended = false;
    loop {
        let due = state.stats_due;
        tokio::select! {
            input = context.next() => match input {
                None => break,
                Some(Input::Request(message)) => match &mut state.deferred {
                    Some(deferred) => deferred.push(message),
                    None => context.dispatch(&routes, &mut state, message),
                },
                Some(Input::Event(event)) => state.on_event(&event),
            },
            events = journal.next(), if !journal_ended => match events {
                Ok(Some(events)) => {
                    if state.on_journal(events) {
                        for record in handover.take() {
                            state.list.remember(record);
                        }
                        for message in state.deferred.take().unwrap_or_default() {
                            context.dispatch(&routes, &mut state, message);
                        }
                    }
                }
                // The job manager is unloaded: there is no news, but answers to give.
                Ok(None) => journal_ended = true,
                Err(error) => {
                    let text = format!("job-manager.events-journal: {error}");
                    return Err(Failure::new(error.errno, text));
                }
            },
            Some(Posted::Stored(waiting, stored)) = posted.recv() => {
                state.on_stored(waiting, stored);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                state.tell_followers();
            }
        }
    }
    state.host.exchange().withdraw::<Handover>();
    for follower in &state.followers {
        follower.end();
    }
    Ok(())
}

fn routes() -> Routes<State> {
    Routes::new()
        .on_raw::<JobListList>(|state: &mut State, request| {
            if let Err(error) = state.list(&request) {
                request.fail(error);
            }
        })
        .on_raw::<JobListId>(|state, request| match decode(request.message()) {
            Ok(wanted) => state.list_id(Waiting { request, wanted }),
            Err(error) => request.fail(error),
        })
        .on::<JobListAttrs>(|_, request, Empty {}| {
            let names = jobs::list::ATTRIBUTES
                .iter()
                .map(|(name, _)| (*name).to_owned());
            request.reply(&Attrs {
                attrs: names.chain(["all".to_owned()]).collect(),
            });
        })
        .on::<JobListJobStats>(|state, request, Empty {}| {
            if state.hides_from(request.cred()) {
                return request.fail(Errno::EPERM);
            }
            request.reply(&state.stats());
            if request.is_streaming() {
                state.followers.push(request);
            }
        })
        .on::<JobListPause>(|state, request, Empty {}| {
            state.paused.get_or_insert_default();
            request.reply(&Empty {});
        })
        .on::<JobListUnpause>(|state, request, Empty {}| {
            for events in state.paused.take().unwrap_or_default() {
                state.on_journal(events);
            }
            request.reply(&Empty {});
        })
        .on::<JobListStats>(|state, request, Empty {}| {
            let [pending, running, inactive] = state.list.sizes();
            let waits: BTreeSet<JobId> = state.waiting.iter().map(|it| it.wanted.id).collect();
            let stats = json!({
                "jobs": {"pending": pending, "running": running, "inactive": inactive},
                "idsync": {"lookups": state.lookups, "waits": waits.len()},
                "stats_watchers": state.followers.len(),
            });
            if let Value::Object(stats) = stats {
                request.reply(&stats);
            }
        })
        .on_message("disconnect", Access::Any, |state, _, notice| {
            state
                .followers
                .retain(|follower| !follower.is_from_sender_of(&notice));
            state
                .waiting
                .retain(|waiting| !waiting.request.is_from_sender_of(&notice));
        })
        .on_message("job-stats-cancel", Access::User, |state, _, cancel| {
            let tag: Result<proto::log::Cancel, _> =
                proto::Payload::decode(cancel.payload.as_ref());
            let Ok(tag) = tag else { return };
            let canceled =
                |f: &mut Request<JobListJobStats>| f.is_cancelled_by(&cancel, tag.matchtag);
            for follower in state.followers.extract_if(.., canceled) {
                follower.end();
            }
        })
        .on::<ModuleConfigReload>(|state, request, config| match Config::parse(&config) {
            Ok(config) => {
                state.config = config;
                request.reply(&Empty {});
            }
            Err(text) => request.fail(RpcError::new(Errno::EINVAL, text)),
        })
}

fn bad_payload(text: impl std::fmt::Display) -> RpcError {
    RpcError::new(Errno::EPROTO, format!("invalid payload: {text}"))
}

fn decode<P: proto::Payload>(message: &Message) -> Result<P, RpcError> {
    P::decode(message.payload.as_ref())
        .map_err(|error| bad_attributes(message).unwrap_or_else(|| bad_payload(error)))
}

/// What is wrong with the attributes that a request names, if that is what is wrong with it.
fn bad_attributes(message: &Message) -> Option<RpcError> {
    let payload: Map<String, Value> = serde_json::from_str(message.text()?).ok()?;
    let Value::Array(attrs) = payload.get("attrs")? else {
        return Some(bad_payload("attrs must be an array"));
    };
    let text = "attr has no string value";
    (!attrs.iter().all(Value::is_string)).then(|| RpcError::new(Errno::EINVAL, text))
}

fn attributes(names: &[String]) -> Result<Vec<jobs::list::Attribute>, RpcError> {
    Listed::select(names)
        .map_err(|name| RpcError::new(Errno::EINVAL, format!("{name} is not a valid attribute")))
}

fn constraint(wanted: &proto::job_list::List) -> Result<Constraint, RpcError> {
    if let Some(value) = &wanted.constraint {
        return Constraint::from_value(value)
            .map_err(|error| bad_payload(format!("constraint object invalid: {error}")));
    }
    // The older form.
    let mut all = Constraint::all();
    if let Some(userid) = wanted.userid.and_then(|userid| u32::try_from(userid).ok()) {
        all = all.and(Constraint::of_user(UserId(userid)));
    }
    let results = wanted.results.filter(|mask| *mask != 0);
    if let Some(mask) = wanted.states.filter(|mask| *mask != 0) {
        all = all.and(Constraint::in_states(mask));
    }
    if let Some(mask) = results.filter(|mask| *mask != 15) {
        all = all.and(Constraint::with_results(mask));
    }
    if let Some(name) = &wanted.name {
        all = all.and(Constraint::named(name.clone()));
    }
    if let Some(queue) = &wanted.queue {
        all = all.and(Constraint::in_queue(queue.clone()));
    }
    Ok(all)
}

impl State {
    fn hides_from(&self, who: Cred) -> bool {
        let privileged = RoleMask::OWNER | RoleMask::ADMIN;
        self.config.private && !who.rolemask.intersects(privileged)
    }

    /// Takes events in. Whether these were the end of the history.
    fn on_journal(&mut self, events: JournalEvents) -> bool {
        let Ok(id) = u64::try_from(events.id).map(JobId) else {
            return true;
        };
        if let Some(paused) = &mut self.paused {
            paused.push(events);
            return false;
        }
        let entries: Vec<Entry> = events
            .events
            .iter()
            .filter_map(|e| Entry::from_value(e).ok())
            .collect();
        let applied = self.list.apply(
            id,
            &entries,
            events.jobspec.as_ref(),
            events.resources.as_ref(),
        );
        match applied {
            Ok(changed) => {
                if changed && !self.followers.is_empty() {
                    self.stats_due
                        .get_or_insert_with(|| Instant::now() + STATS_PAUSE);
                }
            }
            Err(error) => {
                let text = format!("{}: {error}", id.f58());
                self.host.log(Severity::Err, "job-list", &text);
            }
        }
        if !self.waiting.is_empty() {
            self.wake(id);
        }
        false
    }

    fn on_event(&mut self, event: &Message) {
        if event.topic_str() == JOB_PURGE_INACTIVE
            && let Ok(purge) = JobPurge::decode(event.payload.as_ref())
        {
            self.list.purge(&purge.jobs);
            if !self.followers.is_empty() {
                self.stats_due
                    .get_or_insert_with(|| Instant::now() + STATS_PAUSE);
            }
        }
    }

    fn list(&self, request: &Request<JobListList>) -> Result<(), RpcError> {
        let wanted: proto::job_list::List = decode(request.message())?;
        let Ok(max_entries) = usize::try_from(wanted.max_entries) else {
            return Err(bad_payload("max_entries < 0 not allowed"));
        };
        let since = wanted.since.unwrap_or(0.0);
        if since < 0.0 {
            return Err(bad_payload("since < 0.0 not allowed"));
        }
        let attributes = attributes(&wanted.attrs)?;
        let mut constraint = constraint(&wanted)?;
        if self.hides_from(request.cred()) {
            constraint = constraint.and(Constraint::of_user(request.cred().userid));
        }
        let query = Query {
            constraint,
            max_entries,
            since,
            comparisons_max: self.config.comparisons_max,
        };
        let parent = |queue: &str| self.config.policy.queues.get(queue)?.parent.clone();
        let found = self
            .list
            .query(&query, &parent)
            .map_err(|error| RpcError::new(Errno::EINVAL, error.to_string()))?;
        if !request.is_streaming() {
            let jobs = found.iter().map(|job| job.render(&attributes)).collect();
            request.reply(&Jobs {
                jobs,
                version: None,
            });
            return Ok(());
        }
        for (at, job) in found.iter().enumerate() {
            request.reply(&Jobs {
                jobs: vec![job.render(&attributes)],
                version: (at == 0).then_some(1),
            });
        }
        request.end();
        Ok(())
    }

    /// Answers a request for one job, or makes it wait.
    fn list_id(&mut self, waiting: Waiting) {
        let Waiting { request, wanted } = &waiting;
        let attributes = match attributes(&wanted.attrs) {
            Ok(attributes) => attributes,
            Err(error) => return request.fail(error),
        };
        let Some(job) = self.list.get(wanted.id) else {
            // It may be on its way through the journal.
            self.lookups += 1;
            let (handle, posts) = (self.handle.clone(), self.posts.clone());
            let key = format!("{}.eventlog", wanted.id.kvs_path());
            tokio::task::spawn_local(async move {
                let stored = matches!(store::get(&handle, &key).await, Ok(Some(_)));
                let _ended = posts.send(Posted::Stored(waiting, stored));
            });
            return;
        };
        if self.hides_from(request.cred()) && job.fold.userid != request.cred().userid {
            return request.fail(Errno::ENOENT);
        }
        let reached = |fold: &Fold, mask: i32| {
            // A job that is over reaches nothing more: who waits longer waits for ever.
            fold.state == JobState::Inactive
                || fold.state.bit() & mask != 0
                || JobState::ALL
                    .iter()
                    .any(|state| state.bit() & mask != 0 && fold.time_of(*state).is_some())
        };
        if let Some(mask) = wanted.state.filter(|mask| *mask != 0)
            && !reached(&job.fold, mask)
        {
            return self.waiting.push(waiting);
        }
        request.reply(&OneJob {
            job: job.render(&attributes),
        });
    }

    fn on_stored(&mut self, waiting: Waiting, stored: bool) {
        match stored {
            _ if self.list.get(waiting.wanted.id).is_some() => self.list_id(waiting),
            true => self.waiting.push(waiting),
            false => waiting.request.fail(Errno::ENOENT),
        }
    }

    /// Looks again at who waits for a job.
    fn wake(&mut self, id: JobId) {
        let ready: Vec<Waiting> = self
            .waiting
            .extract_if(.., |waiting| waiting.wanted.id == id)
            .collect();
        for waiting in ready {
            self.list_id(waiting);
        }
    }

    fn stats(&self) -> JobStats {
        let mut queues: BTreeMap<&str, &JobCounts> = self.list.queue_counts().collect();
        // Queues nobody has used are there too.
        let none = JobCounts::default();
        for name in self.config.policy.queues.keys() {
            queues.entry(name).or_insert(&none);
        }
        JobStats {
            all: wire_counts(self.list.counts(), None),
            queues: queues
                .into_iter()
                .map(|(name, counts)| wire_counts(counts, Some(name)))
                .collect(),
        }
    }

    fn tell_followers(&mut self) {
        self.stats_due = None;
        let stats = self.stats();
        for follower in &self.followers {
            follower.reply(&stats);
        }
    }
}

fn wire_counts(counts: &JobCounts, name: Option<&str>) -> Counts {
    let [_, depend, priority, sched, run, cleanup, inactive] = counts.states;
    Counts {
        job_states: StateCounts {
            depend,
            priority,
            sched,
            run,
            cleanup,
            inactive,
            total: counts.states.iter().sum(),
        },
        successful: counts.successful,
        failed: counts.failed,
        canceled: counts.canceled,
        timeout: counts.timeout,
        inactive_purged: counts.purged,
        name: name.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use wire::Target;

    use super::*;

    #[test]
    fn bad_attributes_are_told_from_other_faults() {
        let check = |text: &str| {
            let topic = "job-list.list".into();
            let message = Message::request(topic, Target::Any, None).with_text(text);
            bad_attributes(&message).map(|error| (error.errno, error.to_string()))
        };
        let array = "invalid payload: attrs must be an array".to_owned();
        assert_eq!(check(r#"{"attrs":5}"#), Some((Errno::EPROTO, array)));
        let text = "attr has no string value".to_owned();
        assert_eq!(check(r#"{"attrs":["id",5]}"#), Some((Errno::EINVAL, text)));
        for text in ["{}", "[]", "x", r#"{"attrs":["id"]}"#] {
            assert_eq!(check(text), None, "{text}");
        }
    }
}
