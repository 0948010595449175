//! Module `sched-simple`: first in, first out, by priority (RFC 27).
//!
//! The `sched` crate decides; this module carries requests in and decisions out. R is stored
//! before a job manager's request is answered; allocations of one pass are stored by one commit,
//! and what arrives meanwhile forms the next pass.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use module::{Builtin, Context, Failure, Host, Input, Severity};
use proto::broker::ServiceStats;
use proto::job_exec::Expiration;
use proto::job_manager::{
    HelloJob, JobManagerRaise, JobManagerSchedHello, JobManagerSchedReady, Raise, SchedHello,
    SchedReady,
};
use proto::resource::{AcquireUpdate, ResourceAcquire, SchedStatus};
use proto::sched::{
    Alloc, AllocReply, Feasibility, FeasibilityCheck, Free, OfJob, Prioritize, SchedCancel,
    SchedExpiration, SchedFree, SchedPrioritize, SchedResourceStatus, alloc,
};
use proto::{Access, Empty, Payload as _};
use rpc::{Dest, Handle, Routes, RpcError};
use sched::{Decision, Pending, Pool, Queue, Request as JobRequest};
use serde_json::{Map, Value, json};
use spec::jobspec::JobspecError;
use spec::{Jobspec, ResourceSet};
use tokio::sync::mpsc;
use types::{Errno, JobId};
use wire::Message;

use crate::store;

/// How many requests the job manager may have outstanding.
const QUEUE_DEPTH: u32 = 8;

/// Debug bit: the next allocation fails.
const DEBUG_FAIL_ALLOC: i32 = 1;
/// Debug bit: pending jobs are annotated.
const DEBUG_ANNOTATE: i32 = 2;
/// Debug bit: new expirations are refused.
const DEBUG_EXPIRATION: i32 = 4;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "sched-simple",
        main: |context| Box::pin(run(context)),
    }
}

/// How many requests may be outstanding, from the arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Limited(u32),
    Unlimited,
}

fn parse_mode(args: &[String]) -> Result<(Mode, bool), String> {
    let (mut mode, mut partial) = (Mode::Limited(QUEUE_DEPTH), true);
    for arg in args {
        let bad = || format!("unknown argument '{arg}'");
        match arg.split_once('=') {
            Some(("mode", "unlimited") | ("queue-depth", "unlimited")) => mode = Mode::Unlimited,
            Some(("mode" | "queue-depth", text)) => {
                let number = text.strip_prefix("limited=").unwrap_or(text);
                mode = number
                    .parse()
                    .ok()
                    .filter(|limit| *limit > 0)
                    .map(Mode::Limited)
                    .ok_or_else(bad)?;
            }
            Some(("log-level" | "pool-class", _)) => {}
            None if arg == "test-hello-nopartial" => partial = false,
            _ => return Err(bad()),
        }
    }
    Ok((mode, partial))
}

/// What comes back from the module's own tasks.
enum Posted {
    /// The resources changed.
    Acquire(AcquireUpdate),
    /// No resources will come any more.
    AcquireEnded(RpcError),
    /// A job that runs already, and its R.
    Hello(HelloJob, Result<ResourceSet, String>),
    /// The job manager knows the scheduler is there.
    Ready(Result<i64, RpcError>),
    /// R of these jobs is stored.
    Stored(Vec<(JobId, AllocReply)>, Result<(), RpcError>),
}

struct State {
    handle: Handle,
    host: Rc<dyn Host>,
    posts: mpsc::UnboundedSender<Posted>,
    debug: Rc<Cell<i32>>,
    mode: Mode,
    partial: bool,
    pool: Option<Pool>,
    queue: Queue,
    /// The requests to answer, by job.
    requests: HashMap<JobId, Message>,
    storing: bool,
    passes: u64,
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let (mode, partial) =
        parse_mode(&context.args).map_err(|text| Failure::new(Errno::EINVAL, text))?;
    context.register_service("sched")?;
    context.register_service("feasibility")?;
    let (posts, mut posted) = mpsc::unbounded_channel();
    let mut state = State {
        handle: context.handle.clone(),
        host: context.host(),
        posts,
        debug: context.debug_flags(),
        mode,
        partial,
        pool: None,
        queue: Queue::default(),
        requests: HashMap::new(),
        storing: false,
        passes: 0,
    };
    state.acquire();
    let routes = routes();
    // Resources come once every rank has reported, which may be long after.
    context.ready();
    loop {
        tokio::select! {
            input = context.next() => match input {
                None => return Ok(()),
                Some(Input::Request(message)) => {
                    context.dispatch(&routes, &mut state, message);
                }
                Some(Input::Event(_)) => {}
            },
            Some(post) = posted.recv() => {
                if let Err(error) = state.on_posted(post) {
                    return Err(error.into());
                }
            }
        }
    }
}

impl State {
    /// Follows the resources.
    fn acquire(&self) {
        let mut updates = self.handle.stream::<ResourceAcquire>(Dest::Any, &Empty {});
        let posts = self.posts.clone();
        tokio::task::spawn_local(async move {
            loop {
                let post = match updates.next().await {
                    Ok(Some(update)) => Posted::Acquire(update),
                    Ok(None) => Posted::AcquireEnded(Errno::ENODATA.into()),
                    Err(error) => Posted::AcquireEnded(error),
                };
                let ended = matches!(post, Posted::AcquireEnded(_));
                if posts.send(post).is_err() || ended {
                    return;
                }
            }
        });
    }

    fn on_posted(&mut self, post: Posted) -> Result<(), RpcError> {
        match post {
            Posted::Acquire(update) => self.on_acquire(update)?,
            Posted::AcquireEnded(error) if error.errno == Errno::ECANCELED => {}
            Posted::AcquireEnded(error) => {
                return Err(RpcError::new(
                    error.errno,
                    format!("resource.acquire: {error}"),
                ));
            }
            Posted::Hello(job, resources) => self.on_hello(&job, resources),
            Posted::Ready(Ok(count)) => {
                let text = format!("scheduler: ready, {count} jobs pending");
                self.host.log(Severity::Debug, "sched-simple", &text);
            }
            Posted::Ready(Err(error)) => {
                return Err(RpcError::new(
                    error.errno,
                    format!("job-manager.sched-ready: {error}"),
                ));
            }
            Posted::Stored(replies, result) => self.on_stored(replies, result),
        }
        self.schedule();
        Ok(())
    }

    fn on_acquire(&mut self, update: AcquireUpdate) -> Result<(), RpcError> {
        if let Some(resources) = update.resources {
            let set = ResourceSet::from_value(&Value::Object(resources))
                .map_err(|error| RpcError::new(Errno::EPROTO, format!("acquired R: {error}")))?;
            let text = format!("ready: queue-depth={} {set}", self.depth());
            self.host.log(Severity::Info, "sched-simple", &text);
            self.pool = Some(Pool::new(set));
            self.say_hello();
        }
        let Some(pool) = &mut self.pool else {
            return Ok(());
        };
        if let Some(up) = &update.up {
            pool.set_up(up, true);
        }
        if let Some(down) = &update.down {
            pool.set_up(down, false);
        }
        if let Some(shrink) = &update.shrink {
            pool.shrink(shrink);
        }
        if let Some(expiration) = update.expiration {
            pool.set_expiration(expiration);
            let text = format!("resource expiration updated to {expiration:.2}");
            self.host.log(Severity::Info, "sched-simple", &text);
        }
        Ok(())
    }

    fn depth(&self) -> String {
        match self.mode {
            Mode::Limited(limit) => limit.to_string(),
            Mode::Unlimited => "unlimited".into(),
        }
    }

    /// Learns which jobs run already, then tells the job manager to send more.
    fn say_hello(&self) {
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        let hello = SchedHello {
            partial_ok: self.partial,
        };
        let ready = match self.mode {
            Mode::Limited(limit) => SchedReady {
                mode: "limited".into(),
                limit: Some(limit.into()),
            },
            Mode::Unlimited => SchedReady {
                mode: "unlimited".into(),
                limit: None,
            },
        };
        tokio::task::spawn_local(async move {
            let mut jobs = handle.stream::<JobManagerSchedHello>(Dest::Any, &hello);
            loop {
                match jobs.next().await {
                    Ok(Some(job)) => {
                        let resources = lookup_r(&handle, &job).await;
                        // The module may have ended meanwhile.
                        let _ended = posts.send(Posted::Hello(job, resources));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let _ended = posts.send(Posted::Ready(Err(error)));
                        return;
                    }
                }
            }
            let answer = handle.call::<JobManagerSchedReady>(Dest::Any, &ready).await;
            let _ended = posts.send(Posted::Ready(answer.map(|reply| reply.count)));
        });
    }

    fn on_hello(&mut self, job: &HelloJob, resources: Result<ResourceSet, String>) {
        let claimed = match (resources, &mut self.pool) {
            (Ok(set), Some(pool)) => pool.claim(&set),
            _ => false,
        };
        if claimed {
            return;
        }
        let raise = Raise {
            id: job.id,
            severity: 0,
            kind: "scheduler-restart".into(),
            note: Some("failed to reallocate R for running job".into()),
            wait_status: None,
        };
        let call = self.handle.call::<JobManagerRaise>(Dest::Any, &raise);
        let host = self.host.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = call.await {
                host.log(Severity::Err, "sched-simple", &format!("raise: {error}"));
            }
        });
    }

    // -- requests

    fn on_alloc(&mut self, message: Message) {
        let Ok(request) = Alloc::decode(message.payload.as_ref()) else {
            return self.handle.respond_error(&message, &Errno::EPROTO.into());
        };
        let id = request.id;
        if self.debug.get() & DEBUG_FAIL_ALLOC != 0 {
            self.debug.set(self.debug.get() & !DEBUG_FAIL_ALLOC);
            return self.answer(&message, deny(id, "DEBUG_FAIL_ALLOC"));
        }
        let parsed = Jobspec::from_value(Value::Object(request.jobspec))
            .map_err(|error| unparsable(&error))
            .and_then(|jobspec| {
                JobRequest::from_jobspec(&jobspec).map_err(|error| error.to_string())
            });
        match parsed {
            Ok(wanted) => {
                self.requests.insert(id, message);
                self.queue.insert(Pending {
                    id,
                    priority: request.priority,
                    request: wanted,
                });
            }
            Err(note) => self.answer(&message, deny(id, &note)),
        }
    }

    fn answer(&self, message: &Message, reply: AllocReply) {
        self.handle.respond(message, &reply);
    }

    fn on_cancel(&mut self, id: JobId) {
        if self.queue.remove(id)
            && let Some(message) = self.requests.remove(&id)
        {
            self.answer(&message, reply(id, alloc::CANCEL));
        }
    }

    fn on_free(&mut self, free: Free) {
        match ResourceSet::from_value(&Value::Object(free.resources)) {
            Ok(set) => {
                let last = if free.last { " (final)" } else { "" };
                let text = format!("free: {set} {}{last}", free.id.f58());
                self.host.log(Severity::Debug, "sched-simple", &text);
                if let Some(pool) = &mut self.pool {
                    pool.free(&set);
                }
            }
            Err(error) => {
                let text = format!("free {}: {error}", free.id.f58());
                self.host.log(Severity::Err, "sched-simple", &text);
            }
        }
    }

    /// Makes a pass over the queue and stores what it gave away.
    fn schedule(&mut self) {
        let Some(pool) = &mut self.pool else { return };
        if self.storing || self.queue.is_empty() {
            return;
        }
        self.passes += 1;
        let expiration = pool.expiration();
        // Whatever wrote it may need it in the R of jobs, an instance within ours say.
        let scheduling = pool.resources().scheduling.clone();
        let durations: HashMap<JobId, f64> = self.queue.durations().collect();
        let mut replies = Vec::new();
        let mut ops = Vec::new();
        for decision in self.queue.schedule(pool) {
            match decision {
                Decision::Alloc(id, mut set) => {
                    let start = now();
                    set.starttime = start;
                    set.scheduling.clone_from(&scheduling);
                    set.expiration = match durations.get(&id).copied().unwrap_or(0.0) {
                        duration if duration > 0.0 => start + duration,
                        _ => expiration,
                    };
                    ops.push(store::put(
                        format!("{}.R", id.kvs_path()),
                        ResourceSet::encode(&set).as_bytes(),
                    ));
                    replies.push((id, success(id, &set)));
                }
                Decision::Deny(id, note) => {
                    if let Some(message) = self.requests.remove(&id) {
                        self.handle.respond(&message, &deny(id, &note));
                    }
                }
            }
        }
        self.annotate_pending();
        if replies.is_empty() {
            return;
        }
        self.storing = true;
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        tokio::task::spawn_local(async move {
            let result = store::commit(&handle, ops, 0).await;
            let _ended = posts.send(Posted::Stored(replies, result));
        });
    }

    fn annotate_pending(&self) {
        if self.debug.get() & DEBUG_ANNOTATE == 0 {
            return;
        }
        for (ahead, id) in self.queue.ids().enumerate() {
            if let Some(message) = self.requests.get(&id) {
                let sched =
                    json!({"reason_pending": "insufficient resources", "jobs_ahead": ahead});
                let annotations = Map::from_iter([("sched".to_owned(), sched)]);
                let kind = alloc::ANNOTATE;
                let annotate = AllocReply {
                    annotations: Some(annotations),
                    ..reply(id, kind)
                };
                self.handle.respond(message, &annotate);
            }
        }
    }

    fn on_stored(&mut self, replies: Vec<(JobId, AllocReply)>, result: Result<(), RpcError>) {
        self.storing = false;
        for (id, reply) in replies {
            let Some(message) = self.requests.remove(&id) else {
                continue;
            };
            match &result {
                Ok(()) => self.answer(&message, reply),
                Err(error) => {
                    if let (Some(resources), Some(pool)) = (reply.resources, &mut self.pool)
                        && let Ok(set) = ResourceSet::from_value(&Value::Object(resources))
                    {
                        pool.free(&set);
                    }
                    let note = format!("cannot store R: {error}");
                    self.answer(&message, deny(id, &note));
                }
            }
        }
    }

    fn check(&self, feasibility: Feasibility) -> Result<(), RpcError> {
        let Some(pool) = &self.pool else {
            return Err(Errno::EAGAIN.into());
        };
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        let jobspec = Jobspec::from_value(Value::Object(feasibility.jobspec))
            .map_err(|error| invalid(unparsable(&error)))?;
        let request =
            JobRequest::from_jobspec(&jobspec).map_err(|error| invalid(error.to_string()))?;
        pool.check(&request)
            .map_err(|error| RpcError::new(Errno::EOVERFLOW, error.to_string()))
    }

    fn status(&self) -> SchedStatus {
        let empty = ResourceSet::new();
        let value = |set: &ResourceSet| set.to_value();
        match &self.pool {
            None => SchedStatus {
                all: value(&empty),
                down: value(&empty),
                allocated: value(&empty),
            },
            Some(pool) => SchedStatus {
                all: value(pool.resources()),
                down: value(&pool.down_resources()),
                allocated: value(&pool.allocated_resources()),
            },
        }
    }
}

async fn lookup_r(handle: &Handle, job: &HelloJob) -> Result<ResourceSet, String> {
    let key = format!("{}.R", job.id.kvs_path());
    let text = store::get(handle, &key)
        .await
        .map_err(|error| format!("{key}: {error}"))?;
    let text = text.ok_or_else(|| format!("{key}: no such key"))?;
    let mut set = ResourceSet::decode(&text).map_err(|error| format!("{key}: {error}"))?;
    // Of a job in housekeeping, some ranks may be free already.
    if let Some(free) = &job.free {
        let free = free
            .parse()
            .map_err(|error| format!("free ranks {free}: {error}"))?;
        set.remove_ranks(&free);
    }
    Ok(set)
}

/// What is said of a jobspec that cannot be parsed. Scripts look for the words of the scheduler where
/// there is no duration, which are not those of the validator.
fn unparsable(error: &JobspecError) -> String {
    match error {
        JobspecError::Attribute(name) => {
            let key = name.rsplit('.').next().unwrap_or(name);
            format!("cannot parse jobspec: getting duration: Object item not found: {key}")
        }
        other => format!("cannot parse jobspec: {other}"),
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn reply(id: JobId, kind: i32) -> AllocReply {
    AllocReply {
        id,
        kind,
        note: None,
        annotations: None,
        resources: None,
    }
}

fn deny(id: JobId, note: &str) -> AllocReply {
    AllocReply {
        note: Some(note.to_owned()),
        ..reply(id, alloc::DENY)
    }
}

fn success(id: JobId, set: &ResourceSet) -> AllocReply {
    // What was said of it while it was pending goes.
    let sched = json!({
        "resource_summary": set.to_string(), "reason_pending": null, "jobs_ahead": null,
    });
    let resources = match set.to_value() {
        Value::Object(map) => Some(map),
        _ => None,
    };
    AllocReply {
        annotations: Some(Map::from_iter([("sched".to_owned(), sched)])),
        resources,
        ..reply(id, alloc::SUCCESS)
    }
}

fn routes() -> Routes<State> {
    Routes::new()
        .on_message("alloc", Access::Owner, |state: &mut State, _, message| {
            state.on_alloc(message);
            state.schedule();
        })
        .on::<SchedFree>(|state, _, free: Free| {
            state.on_free(free);
            state.schedule();
        })
        .on::<SchedCancel>(|state, _, of: OfJob| {
            state.on_cancel(of.id);
            state.schedule();
        })
        .on::<SchedPrioritize>(|state, _, prioritize: Prioritize| {
            for (id, priority) in prioritize.jobs {
                state.queue.prioritize(id, priority);
            }
            state.schedule();
        })
        .on::<SchedExpiration>(|state, request, _: Expiration| {
            if state.debug.get() & DEBUG_EXPIRATION != 0 {
                let text = "Rejecting expiration update for testing";
                return request.fail(RpcError::new(Errno::EINVAL, text));
            }
            request.reply(&Empty {});
        })
        .on::<SchedResourceStatus>(|state, request, Empty {}| request.reply(&state.status()))
        .on::<ServiceStats>(|state, request, Empty {}| {
            let mut stats = Map::new();
            stats.insert("sched_passes".into(), state.passes.into());
            stats.insert("pending".into(), state.queue.len().into());
            request.reply(&stats);
        })
        .on::<FeasibilityCheck>(|state, request, feasibility: Feasibility| {
            request.reply_result(&state.check(feasibility).map(|()| Empty {}));
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_set_the_mode() {
        let check = |arg: &str| parse_mode(&[arg.to_owned()]);
        assert_eq!(check("mode=limited=4"), Ok((Mode::Limited(4), true)));
        assert_eq!(check("queue-depth=unlimited"), Ok((Mode::Unlimited, true)));
        assert_eq!(check("test-hello-nopartial"), Ok((Mode::Limited(8), false)));
        assert_eq!(
            check("mode=limited=0"),
            Err("unknown argument 'mode=limited=0'".into())
        );
        assert_eq!(check("foo"), Err("unknown argument 'foo'".into()));
    }
}
