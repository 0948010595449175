//! Modules `sched-simple`, `sched-fifo` and `sched-backfill` (RFC 27): one scheduler with different
//! policies, the first two being the same.
//!
//! The `sched` crate decides; this module carries requests in and decisions out. R is stored
//! before a job manager's request is answered; allocations of one pass are stored by one commit,
//! and what arrives meanwhile forms the next pass. When jobs that wait may start is foretold once
//! passes have calmed down a little, because it takes as long as several of them.

mod args;

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
use sched::{Decision, Pending, Policy, Request as JobRequest, Scheduler};
use serde_json::{Map, Value, json};
use spec::jobspec::JobspecError;
use spec::{Jobspec, ResourceSet};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{Errno, JobId};
use wire::Message;

use crate::store;
use args::{Args, Depth};

/// How long it takes until it is foretold again when jobs may start.
const FORECAST_DELAY: Duration = Duration::from_millis(50);

/// How much of an average the newest value is.
const EWMA_WEIGHT: f64 = 0.2;

/// Debug bit: the next allocation fails.
const DEBUG_FAIL_ALLOC: i32 = 1;
/// Debug bit: pending jobs are annotated with their place in the queue instead of their start.
const DEBUG_ANNOTATE: i32 = 2;
/// Debug bit: new expirations are refused.
const DEBUG_EXPIRATION: i32 = 4;

/// The modules.
pub fn builtins() -> [Builtin; 3] {
    [
        Builtin {
            name: "sched-simple",
            main: |context| Box::pin(run(context, "sched-simple", Policy::Fifo)),
        },
        Builtin {
            name: "sched-fifo",
            main: |context| Box::pin(run(context, "sched-fifo", Policy::Fifo)),
        },
        Builtin {
            name: "sched-backfill",
            main: |context| Box::pin(run(context, "sched-backfill", Policy::Backfill)),
        },
    ]
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
    name: &'static str,
    handle: Handle,
    host: Rc<dyn Host>,
    posts: mpsc::UnboundedSender<Posted>,
    debug: Rc<Cell<i32>>,
    args: Args,
    scheduler: Scheduler,
    /// Whether there are resources.
    ready: bool,
    /// The requests to answer, by job.
    requests: HashMap<JobId, Message>,
    storing: bool,
    /// When to foretell starts.
    forecast_at: Option<Instant>,
    stats: Stats,
}

/// What is known of the scheduler's work. Averages are in seconds.
#[derive(Default)]
struct Stats {
    passes: u64,
    forecasts: u64,
    last: Option<Instant>,
    duration: f64,
    interval: f64,
}

impl Stats {
    fn pass(&mut self, begin: Instant) {
        let average = |average: &mut f64, value: Duration| {
            *average += EWMA_WEIGHT * (value.as_secs_f64() - *average);
        };
        average(&mut self.duration, begin.elapsed());
        if let Some(last) = self.last.replace(begin) {
            average(&mut self.interval, begin - last);
        }
        self.passes += 1;
    }
}

async fn run(mut context: Context, name: &'static str, policy: Policy) -> Result<(), Failure> {
    let args = Args::parse(name, policy, &context.args)
        .map_err(|text| Failure::new(Errno::EINVAL, text))?;
    context.register_service("sched")?;
    context.register_service("feasibility")?;
    let (posts, mut posted) = mpsc::unbounded_channel();
    let mut state = State {
        name,
        handle: context.handle.clone(),
        host: context.host(),
        posts,
        debug: context.debug_flags(),
        args,
        scheduler: Scheduler::new(policy),
        ready: false,
        requests: HashMap::new(),
        storing: false,
        forecast_at: None,
        stats: Stats::default(),
    };
    state.acquire();
    let routes = routes();
    // Resources come once every rank has reported, which may be long after.
    context.ready();
    loop {
        let forecast = state.forecast_at;
        tokio::select! {
            () = tokio::time::sleep_until(forecast.unwrap_or_else(Instant::now)),
                if forecast.is_some() => state.forecast(),
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
    fn log(&self, severity: Severity, text: &str) {
        if severity <= self.args.log_level {
            self.host.log(severity, self.name, text);
        }
    }

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
                self.log(Severity::Debug, &text);
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
            let text = format!(
                "ready: queue-depth={} log-level={} pool-class=Rv1Pool Rv1 {set}",
                self.args.depth, self.args.log_level
            );
            self.log(Severity::Info, &text);
            self.scheduler.set_resources(set);
            self.ready = true;
            self.say_hello();
        }
        if !self.ready {
            return Ok(());
        }
        if let Some(up) = &update.up {
            self.scheduler.set_up(up, true);
        }
        if let Some(down) = &update.down {
            self.scheduler.set_up(down, false);
        }
        if let Some(shrink) = &update.shrink {
            self.scheduler.shrink(shrink);
        }
        if let Some(expiration) = update.expiration {
            self.scheduler.set_expiration(expiration);
            let text = format!("resource expiration updated to {expiration:.2}");
            self.log(Severity::Info, &text);
        }
        Ok(())
    }

    /// Learns which jobs run already, then tells the job manager to send more.
    fn say_hello(&self) {
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        let hello = SchedHello {
            partial_ok: self.args.partial,
        };
        let ready = match self.args.depth {
            Depth::Limited(limit) => SchedReady {
                mode: "limited".into(),
                limit: Some(limit.into()),
            },
            Depth::Unlimited => SchedReady {
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
        if resources.is_ok_and(|set| self.scheduler.claim(job.id, &set)) {
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
        let (host, name) = (self.host.clone(), self.name);
        tokio::task::spawn_local(async move {
            if let Err(error) = call.await {
                host.log(Severity::Err, name, &format!("raise: {error}"));
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
                self.scheduler.insert(Pending {
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
        if self.scheduler.remove(id)
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
                self.log(Severity::Debug, &text);
                self.scheduler.free(free.id, &set, free.last);
            }
            Err(error) => {
                let text = format!("free {}: {error}", free.id.f58());
                self.log(Severity::Err, &text);
            }
        }
    }

    /// Makes a pass over the queue and stores what it gave away.
    fn schedule(&mut self) {
        if self.storing || !self.ready || self.scheduler.pending_len() == 0 {
            return;
        }
        let begin = Instant::now();
        let decisions = self.scheduler.schedule(now());
        self.stats.pass(begin);
        let mut replies = Vec::new();
        let mut ops = Vec::new();
        for decision in decisions {
            match decision {
                Decision::Alloc {
                    id,
                    resources,
                    backfill,
                } => {
                    ops.push(store::put(
                        format!("{}.R", id.kvs_path()),
                        ResourceSet::encode(&resources).as_bytes(),
                    ));
                    replies.push((id, success(id, &resources, backfill)));
                }
                Decision::Deny(id, note) => {
                    if let Some(message) = self.requests.remove(&id) {
                        self.handle.respond(&message, &deny(id, &note));
                    }
                }
            }
        }
        self.annotate_pending();
        let quiet = self.debug.get() & DEBUG_ANNOTATE == 0;
        if quiet && self.scheduler.pending_len() > 0 && self.forecast_at.is_none() {
            self.forecast_at = Some(begin + FORECAST_DELAY);
        }
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

    /// Tells when jobs that wait may start.
    fn forecast(&mut self) {
        self.forecast_at = None;
        self.stats.forecasts += 1;
        for (id, start) in self.scheduler.forecast(now()) {
            self.annotate(id, json!({ "t_estimate": start }));
        }
    }

    fn annotate(&self, id: JobId, sched: Value) {
        let Some(message) = self.requests.get(&id) else {
            return;
        };
        let annotations = Map::from_iter([("sched".to_owned(), sched)]);
        let annotate = AllocReply {
            annotations: Some(annotations),
            ..reply(id, alloc::ANNOTATE)
        };
        self.handle.respond(message, &annotate);
    }

    fn annotate_pending(&self) {
        if self.debug.get() & DEBUG_ANNOTATE == 0 {
            return;
        }
        for (ahead, id) in self.scheduler.pending().enumerate() {
            let sched = json!({"reason_pending": "insufficient resources", "jobs_ahead": ahead});
            self.annotate(id, sched);
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
                    if let Some(resources) = reply.resources
                        && let Ok(set) = ResourceSet::from_value(&Value::Object(resources))
                    {
                        self.scheduler.free(id, &set, true);
                    }
                    let note = format!("cannot store R: {error}");
                    self.answer(&message, deny(id, &note));
                }
            }
        }
    }

    fn check(&self, feasibility: Feasibility) -> Result<(), RpcError> {
        if !self.ready {
            return Err(Errno::EAGAIN.into());
        }
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        let jobspec = Jobspec::from_value(Value::Object(feasibility.jobspec))
            .map_err(|error| invalid(unparsable(&error)))?;
        let request =
            JobRequest::from_jobspec(&jobspec).map_err(|error| invalid(error.to_string()))?;
        self.scheduler
            .check(&request)
            .map_err(|error| RpcError::new(Errno::EOVERFLOW, error.to_string()))
    }

    fn status(&self) -> SchedStatus {
        // Before there are resources, all sets are empty.
        let pool = self.scheduler.pool();
        SchedStatus {
            all: pool.resources().to_value(),
            down: pool.down_resources().to_value(),
            allocated: pool.allocated_resources().to_value(),
        }
    }

    fn stats(&self) -> Map<String, Value> {
        let stats = json!({
            "sched_passes": self.stats.passes,
            // A pass is never interrupted.
            "sched_yields": 0,
            "forecast_passes": self.stats.forecasts,
            "forecast_yields": 0,
            "sched_delay": 0.0,
            "sched_duration_ewma": self.stats.duration,
            "sched_interval_ewma": self.stats.interval,
            "pending_jobs": self.scheduler.pending_len(),
        });
        match stats {
            Value::Object(stats) => stats,
            _ => Map::new(),
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

fn success(id: JobId, set: &ResourceSet, backfill: Option<JobId>) -> AllocReply {
    // What was said of it while it was pending goes.
    let mut sched = json!({
        "resource_summary": set.to_string(),
        "reason_pending": null,
        "jobs_ahead": null,
        "t_estimate": null,
    });
    if let Some(head) = backfill {
        sched["backfill"] = head.f58().to_string().into();
    }
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
                state.scheduler.prioritize(id, priority);
            }
            state.schedule();
        })
        .on::<SchedExpiration>(|state, request, of: Expiration| {
            if state.debug.get() & DEBUG_EXPIRATION != 0 {
                let text = "Rejecting expiration update for testing";
                return request.fail(RpcError::new(Errno::EINVAL, text));
            }
            state.scheduler.set_job_expiration(of.id, of.expiration);
            request.reply(&Empty {});
            state.schedule();
        })
        .on::<SchedResourceStatus>(|state, request, Empty {}| request.reply(&state.status()))
        .on::<ServiceStats>(|state, request, Empty {}| {
            request.reply(&state.stats());
        })
        .on::<FeasibilityCheck>(|state, request, feasibility: Feasibility| {
            request.reply_result(&state.check(feasibility).map(|()| Empty {}));
        })
}
