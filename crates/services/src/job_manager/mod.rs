//! Module `job-manager`: the life of jobs (RFC 21), the links to the scheduler (RFC 27) and to
//! the exec service (RFC 32), queues, and the journal of events.
//!
//! The engine in `jobs` decides. This module gives it inputs and carries out its effects: events
//! go to followers of the journal at once and to the KVS with the next commit; answers that
//! promise durability leave when that commit is done. There is no timer: whatever gathers while
//! one commit runs is the next. A failed commit ends the module, since acknowledged jobs would be
//! lost otherwise.

mod attributes;
mod batch;
mod config;
mod history;
mod housekeeping;
mod jobtap;
mod journal;
mod perilog;
mod plugin_host;
mod restart;
mod scripts;
mod service;

pub(crate) use journal::Handover;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jobs::{Effect, Effects, Jobs, Reply, SchedMode, Token};
use module::{Builtin, Context, Failure, Host, Input, Severity};
use proto::job_exec::{Expiration, JobExecExpiration, JobExecStart, Start, StartReply};
use proto::job_manager::{
    Counts, Idle, JOB_EXCEPTION, JobException, ShellKill, SubmitErrors, Waited, shell_kill_topic,
};
use proto::kvs::{KvsWatchLookup, Lookup, Op, PRIMARY, commit_flags, flags};
use proto::overlay::HEARTBEAT_PULSE;
use proto::sched::{Alloc, AllocReply, OfJob, Prioritize, SchedAlloc, SchedCancel};
use proto::sched::{SchedPrioritize, alloc};
use proto::{Empty, Payload as _, Rpc as _};
use rpc::{Dest, Handle, Routes, RpcError};
use serde_json::Value;
use spec::ResourceSet;
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{Errno, JobId, Rank, fsd};
use wire::{Flags, Kind, Message};

use crate::store;
use batch::Batch;
use config::Config;
use history::History;
use journal::Journal;

/// How many inactive jobs one transaction forgets.
const PURGE_BATCH: usize = 100;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "job-manager",
        main: |context| Box::pin(run(context)),
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> f64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// What comes back from the module's own tasks.
enum Posted {
    /// A response without matchtag: from the scheduler or the exec service.
    Response(Message),
    /// The commit under way is done.
    Committed(Result<(), RpcError>),
    /// The scheduler's word on a running job's new end.
    Updated(Box<service::PendingUpdate>, Result<(), RpcError>),
    /// The exec service did not take a new end.
    NoExpiration(JobId),
    /// The instance's end.
    InstanceEnd(f64),
    /// What a prolog, epilog or housekeeping command did.
    Script(scripts::News),
    /// The ranks where a prolog or epilog failed are drained.
    Drained(JobId, jobs::perilog::Kind),
    /// The instance ends its jobs.
    Cleanup,
    /// A step in writing the summary of inactive jobs.
    History(history::Step),
    /// A part of the history for a follower of the journal, or the last of it.
    Backlog(u64, Option<Vec<bytes::Bytes>>),
}

/// With more active jobs than this, events gather before they are committed.
const GATHER_JOBS: usize = 8;

/// How long: half of what the reference always waits.
const GATHER_TIME: Duration = Duration::from_millis(5);

struct State {
    handle: Handle,
    host: Rc<dyn Host>,
    posts: mpsc::UnboundedSender<Posted>,
    jobs: Jobs,
    batch: Batch,
    /// Whether the state directory outlives the instance.
    persistent: bool,
    journal: Journal,
    history: History,
    config: Config,
    tokens: HashMap<Token, Message>,
    tokens_given: u64,
    /// The request by which the scheduler made itself known.
    scheduler: Option<Message>,
    /// The exec service's name, and the request by which it made itself known.
    exec: Option<(String, Message)>,
    /// Until when events gather.
    gathering: Option<Instant>,
    scripts: scripts::Scripts,
    housekeeping: jobs::housekeeping::Housekeeping,
    perilog: perilog::Config,
    plugin_host: plugin_host::PluginHost,
    hostname: String,
    /// The union of allocated resources, until it changes.
    allocated: Option<Value>,
}

/// How an end that may be 0, for never, has changed.
fn expiration_change(from: f64, to: f64) -> String {
    let by = match (from, to) {
        (0.0, _) => "-inf".to_owned(),
        (_, 0.0) => "+inf".to_owned(),
        _ => {
            let plus = if to > from { "+" } else { "" };
            plus.to_owned() + &fsd::format_g(to - from, 6)
        }
    };
    format!("from {from:.2} to {to:.2} ({by})")
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let config =
        Config::parse(&context.config()).map_err(|text| Failure::new(Errno::EINVAL, text))?;
    let (posts, mut posted) = mpsc::unbounded_channel();
    let owner = nix::unistd::getuid().as_raw();
    let mut state = State {
        handle: context.handle.clone(),
        host: context.host(),
        posts,
        jobs: Jobs::new(owner.into()),
        batch: Batch::default(),
        persistent: context.attr("statedir-cleanup").as_deref() != Some("1"),
        journal: Journal::default(),
        history: History::default(),
        config: config.clone(),
        tokens: HashMap::new(),
        tokens_given: 0,
        scheduler: None,
        exec: None,
        gathering: None,
        scripts: scripts::Scripts::default(),
        housekeeping: jobs::housekeeping::Housekeeping::default(),
        perilog: perilog::Config::default(),
        plugin_host: plugin_host::PluginHost::default(),
        hostname: context.attr("hostname").unwrap_or_default(),
        allocated: None,
    };
    let sink = state.posts.clone();
    context.handle.on_unmatched(move |message| {
        // The module may have ended meanwhile.
        let _ended = sink.send(Posted::Response(message));
    });
    state.with_jobs(|jobs, now, out| jobs.configure(config.policy, now, out));
    // Before there are jobs, so that those found are seen by them too.
    state.configure_plugins(&mut context).await?;
    restart::load(&mut state).await?;
    state.introduce_restored(&mut context).await;
    state.watch_instance();
    state.watch_broker();
    state.watch_heartbeat(&context);
    let routes = service::routes();
    context.ready();
    loop {
        state.attend(&mut context).await;
        if let Some(input) = state.plugin_host.deferred.pop_front() {
            state.on_input(&context, &routes, input);
            continue;
        }
        if state.plugin_host.ending {
            break;
        }
        let gathering = state.flush_or_gather();
        let due = state
            .jobs
            .next_time()
            .into_iter()
            .chain(state.housekeeping.next_time())
            .min_by(f64::total_cmp)
            .map(|time| Duration::from_secs_f64((time - now()).max(0.0)));
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(gathering.unwrap_or_else(Instant::now)),
                if gathering.is_some() => {}
            input = context.next() => match input {
                None => break,
                Some(input) => state.on_input(&context, &routes, input),
            },
            report = state.plugin_host.next() => state.on_report(&mut context, report).await,
            Some(post) = posted.recv() => state.on_posted(post)?,
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {
                state.with_jobs(|jobs, now, out| jobs.on_time(now, out));
                state.on_housekeeping_time();
            }
        }
    }
    state.end_plugins(&mut context).await;
    state.unload(&mut posted).await
}

impl State {
    fn log(&self, severity: Severity, text: impl AsRef<str>) {
        self.host.log(severity, "job-manager", text.as_ref());
    }

    /// Gives the engine an input and carries out what follows.
    fn with_jobs<T>(&mut self, input: impl FnOnce(&mut Jobs, f64, &mut Effects) -> T) -> T {
        let mut out = Effects::new();
        let result = input(&mut self.jobs, now(), &mut out);
        for effect in out {
            self.perform(effect);
        }
        result
    }

    fn on_input(&mut self, context: &Context, routes: &Routes<State>, input: Input) {
        match input {
            Input::Request(message) => match self.plugin_host.pass_on(&message) {
                None => context.dispatch(routes, self, message),
                Some(Ok(())) => {}
                Some(Err(error)) => self.handle.respond_error(&message, &error),
            },
            Input::Event(event) => self.on_event(&event),
        }
    }

    fn token(&mut self, message: &Message) -> Token {
        self.tokens_given += 1;
        let token = Token(self.tokens_given);
        self.tokens.insert(token, message.clone());
        token
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Event {
                id,
                entry,
                line,
                commit,
                attachment,
            } => {
                if matches!(entry.name.as_str(), "alloc" | "free") {
                    self.allocated = None;
                }
                self.journal
                    .publish(&self.handle, id, &entry.name, &line, &attachment);
                if commit {
                    self.batch.append(id, &line);
                    match entry.name.as_str() {
                        "submit" => self.batch.durable.push(id),
                        "clean" => self.history.on_change(id, self.batch.number()),
                        _ => {}
                    }
                }
            }
            Effect::Alloc {
                id,
                priority,
                userid,
                t_submit,
                jobspec,
            } => {
                let request = Alloc {
                    id,
                    priority,
                    userid,
                    t_submit,
                    jobspec: (*jobspec).clone(),
                };
                let topic = SchedAlloc::topic().into();
                self.handle
                    .send_unmatched(topic, Dest::Any, request.encode());
            }
            Effect::CancelAlloc(id) => self.handle.notify::<SchedCancel>(Dest::Any, &OfJob { id }),
            Effect::Prioritize(jobs) => {
                let request = Prioritize { jobs };
                self.handle.notify::<SchedPrioritize>(Dest::Any, &request);
            }
            Effect::Free { id, resources } => {
                self.free(id, (*resources).clone(), true);
            }
            Effect::Release { origin, resources } => self.release(origin, (*resources).clone()),
            Effect::Start {
                id,
                userid,
                jobspec,
                resources,
                reattach,
            } => {
                let Some((service, _)) = &self.exec else {
                    return;
                };
                let request = Start {
                    id,
                    userid,
                    jobspec: (*jobspec).clone(),
                    reattach,
                    resources: (*resources).clone(),
                };
                let topic = JobExecStart::topic_of(service).into();
                self.handle
                    .send_unmatched(topic, Dest::Any, request.encode());
            }
            Effect::Excepted {
                id,
                kind,
                severity,
                wait_status,
            } => {
                let event = JobException {
                    id,
                    kind,
                    severity,
                    wait_status,
                };
                self.handle.publish(JOB_EXCEPTION, Flags::PRIVATE, &event);
            }
            Effect::Kill { id, signum } => {
                let topic = shell_kill_topic(id);
                self.handle
                    .publish(topic, Flags::NONE, &ShellKill { signum });
            }
            Effect::Expiration { id, expiration } => self.send_expiration(id, expiration),
            Effect::Reply(token, reply) => {
                if let Some(message) = self.tokens.remove(&token) {
                    self.batch.replies.push((message, reply));
                }
            }
            Effect::StoreResources { id, resources } => self.batch.put_resources(id, &resources),
            Effect::RunScript(script) => self.run_script(&script),
            Effect::KillScript { id, kind, ranks } => {
                let script = scripts::Script::Perilog(kind);
                self.signal_script(id, script, &ranks, libc::SIGTERM);
            }
            Effect::ScriptOverdue { id, kind } => self.on_overdue(id, kind),
            Effect::DrainRanks {
                id,
                kind,
                ranks,
                reason,
            } => self.drain(id, kind, &ranks, reason),
            Effect::Forget(ids) => {
                for id in &ids {
                    self.history.on_change(*id, self.batch.number());
                    if self.jobs.plugins_want("job.inactive-remove") {
                        self.plugin_host.push(plugin_host::Todo::Forgotten(*id));
                    }
                }
                self.batch.forget(ids);
            }
            Effect::Checkpoint => self.batch.checkpoint = true,
        }
    }

    fn send_expiration(&self, id: JobId, expiration: f64) {
        let Some((service, _)) = &self.exec else {
            return;
        };
        let request = Expiration { id, expiration };
        let call = self
            .handle
            .call_service::<JobExecExpiration>(service, Dest::Any, &request);
        let posts = self.posts.clone();
        tokio::task::spawn_local(async move {
            if call.await.is_err() {
                let _ended = posts.send(Posted::NoExpiration(id));
            }
        });
    }

    /// Commits what has gathered, at once while little goes on. With many jobs active, events that
    /// nobody waits for gather a little longer, because a commit costs much the same whatever
    /// its size. Returns when to look again.
    fn flush_or_gather(&mut self) -> Option<Instant> {
        let waits = self.jobs.active().len() > GATHER_JOBS && self.batch.can_wait();
        if !waits {
            self.gathering = None;
            self.flush();
            return None;
        }
        let until = *self
            .gathering
            .get_or_insert_with(|| Instant::now() + GATHER_TIME);
        if Instant::now() < until {
            return Some(until);
        }
        self.gathering = None;
        self.flush();
        None
    }

    /// Commits what has gathered, unless a commit is under way already.
    fn flush(&mut self) {
        let checkpoint = self
            .batch
            .checkpoint
            .then(|| restart::checkpoint(&self.jobs));
        let Some(ops) = self.batch.take(checkpoint) else {
            return;
        };
        if ops.is_empty() {
            return self.on_committed();
        }
        // With a checkpoint, what was answered outlives this broker however it ends. Batches share
        // it: one is made of whatever came while the one before was written.
        let durable = self.persistent && self.batch.is_promised();
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        let host = self.host.clone();
        tokio::task::spawn_local(async move {
            let result = match durable {
                true => commit_durably(&handle, &*host, ops).await,
                false => store::commit(&handle, ops, 0).await,
            };
            let _ended = posts.send(Posted::Committed(result));
        });
    }

    fn on_committed(&mut self) {
        let done = self.batch.done();
        if !done.forgotten.is_empty() {
            let event = proto::job_manager::JobPurge {
                jobs: done.forgotten,
            };
            let topic = proto::job_manager::JOB_PURGE_INACTIVE;
            self.handle.publish(topic, Flags::NONE, &event);
        }
        // Last, so that who is told can see what was done.
        for (message, reply) in done.replies {
            respond(&self.handle, &message, reply);
        }
        if !done.durable.is_empty() {
            self.with_jobs(|jobs, now, out| jobs.on_durable(now, &done.durable, out));
        }
    }

    fn on_posted(&mut self, post: Posted) -> Result<(), RpcError> {
        match post {
            Posted::Response(message) => self.on_response(&message),
            Posted::Committed(result) => {
                result.map_err(|error| {
                    RpcError::new(error.errno, format!("eventlog commit: {error}"))
                })?;
                self.on_committed();
            }
            Posted::Updated(update, result) => self.on_updated(*update, result),
            Posted::NoExpiration(id) => {
                let note = "failed to send expiration update to exec system: job termination may \
                            not coincide with expiration";
                self.with_jobs(|jobs, now, out| jobs.on_exception(now, id, "exec", 1, note, out));
            }
            Posted::InstanceEnd(expiration) => self.on_instance_end(expiration),
            Posted::Script(news) => self.on_script(news),
            Posted::Drained(id, kind) => {
                self.with_jobs(|jobs, now, out| jobs.on_script_drained(now, id, kind, out));
            }
            Posted::Cleanup => self.jobs.close_perilog(),
            Posted::History(step) => self.on_history(step),
            Posted::Backlog(listener, part) => self.journal.backlog(&self.handle, listener, part),
        }
        Ok(())
    }

    /// The end of the instance is known, or has changed.
    fn on_instance_end(&mut self, expiration: f64) {
        let (before, jobs) =
            self.with_jobs(|jobs, now, out| jobs.set_instance_expiration(now, expiration, out));
        if before.unwrap_or(0.0) != expiration {
            let text = format!("duration-validator: updated expiration to {expiration:.2}");
            self.log(Severity::Debug, text);
        }
        if let Some(before) = before.filter(|before| *before != expiration) {
            let change = expiration_change(before, expiration);
            let text = format!("resource expiration updated {change}");
            self.log(Severity::Info, text);
        }
        for (id, before) in jobs {
            let change = expiration_change(before, expiration);
            let text = format!("updated expiration of {} {change}", id.f58());
            self.log(Severity::Info, text);
        }
    }

    fn on_response(&mut self, message: &Message) {
        if message.topic_str() == SchedAlloc::topic() {
            return self.on_alloc_response(message);
        }
        let exec = self
            .exec
            .as_ref()
            .map(|(service, _)| JobExecStart::topic_of(service));
        if exec.as_deref() == Some(message.topic_str()) {
            self.on_start_response(message);
        }
    }

    fn on_alloc_response(&mut self, message: &Message) {
        if !self.jobs.sched_online() {
            return;
        }
        let reply = match decode::<AllocReply>(message) {
            Ok(reply) => reply,
            Err(error) => {
                self.log(Severity::Err, format!("sched.alloc: {error}"));
                return self.lose_scheduler();
            }
        };
        let id = reply.id;
        let annotations = reply.annotations;
        match (reply.kind, reply.resources) {
            (alloc::SUCCESS, Some(resources)) => self.with_jobs(|jobs, now, out| {
                jobs.on_alloc(now, id, resources, annotations.as_ref(), out);
            }),
            (alloc::ANNOTATE, _) => self.with_jobs(|jobs, now, out| {
                jobs.on_alloc_annotate(now, id, &annotations.unwrap_or_default(), out);
            }),
            (alloc::DENY, _) => self.with_jobs(|jobs, now, out| {
                jobs.on_alloc_deny(now, id, reply.note.as_deref().unwrap_or_default(), out);
            }),
            (alloc::CANCEL, _) => {
                self.with_jobs(|jobs, now, out| jobs.on_alloc_canceled(now, id, out));
            }
            (kind, _) => {
                self.log(
                    Severity::Err,
                    format!("sched.alloc: invalid response type {kind}"),
                );
                self.lose_scheduler();
            }
        }
    }

    fn lose_scheduler(&mut self) {
        if self.scheduler.take().is_some() || self.jobs.sched_online() {
            self.log(Severity::Debug, "scheduler: stop");
            self.with_jobs(|jobs, now, out| jobs.sched_lost(now, out));
        }
    }

    fn on_start_response(&mut self, message: &Message) {
        let reply = match decode::<StartReply>(message) {
            Ok(reply) => reply,
            Err(error) => {
                self.log(Severity::Err, format!("exec: {error}"));
                return self.lose_exec();
            }
        };
        let (id, data) = (reply.id, &reply.data);
        let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| data.get(key).and_then(Value::as_i64).unwrap_or_default() as i32;
        match reply.kind.as_str() {
            "start" => self.with_jobs(|jobs, now, out| jobs.on_start(now, id, out)),
            "reattached" => self.with_jobs(|jobs, now, out| jobs.on_reattached(now, id, out)),
            "release" => {
                let last = data.get("final").and_then(Value::as_bool).unwrap_or(false);
                self.with_jobs(|jobs, now, out| jobs.on_release(now, id, text("ranks"), last, out));
            }
            "finish" => {
                self.with_jobs(|jobs, now, out| jobs.on_finish(now, id, number("status"), out));
            }
            "exception" => self.with_jobs(|jobs, now, out| {
                jobs.on_exception(now, id, text("type"), number("severity"), text("note"), out);
            }),
            other => {
                self.log(
                    Severity::Err,
                    format!("exec: invalid response type {other}"),
                );
                self.lose_exec();
            }
        }
    }

    fn lose_exec(&mut self) {
        if self.exec.take().is_some() {
            self.with_jobs(|jobs, now, out| jobs.exec_lost(now, out));
        }
    }

    /// A party is gone: nobody waits for what it asked any more.
    fn on_disconnect(&mut self, notice: &Message) {
        let same = |message: &Message| {
            message.sender() == notice.sender() && notice.cred.may_act_for(message.cred.userid)
        };
        self.journal.remove(|message| same(message));
        let gone: Vec<Token> = self
            .tokens
            .iter()
            .filter(|(_, message)| same(message))
            .map(|(token, _)| *token)
            .collect();
        for token in gone {
            self.tokens.remove(&token);
            self.jobs.forget_token(token);
        }
        if self.scheduler.as_ref().is_some_and(same) {
            self.lose_scheduler();
        }
        if self.exec.as_ref().is_some_and(|(_, message)| same(message)) {
            self.lose_exec();
        }
    }

    fn on_event(&mut self, event: &Message) {
        if event.topic_str() != HEARTBEAT_PULSE {
            return;
        }
        self.write_history_if_due();
        let (age, number) = (self.config.age_limit, self.config.num_limit);
        if age.is_some() || number.is_some() {
            self.with_jobs(|jobs, now, out| jobs.purge(now, age, number, PURGE_BATCH, true, out));
        }
    }

    fn watch_heartbeat(&self, context: &Context) {
        context.subscribe(HEARTBEAT_PULSE);
    }

    /// Follows the instance's own resources for its end.
    fn watch_instance(&self) {
        let request = Lookup {
            key: "resource.R".into(),
            flags: flags::WATCH | flags::WAITCREATE,
            namespace: Some(PRIMARY.into()),
            rootdir: None,
            rootseq: None,
        };
        let mut watch = self
            .handle
            .stream::<KvsWatchLookup>(Dest::Rank(Rank::LEADER), &request);
        let posts = self.posts.clone();
        tokio::task::spawn_local(async move {
            // The end of the watch is the end of the instance, or of news.
            while let Ok(Some(found)) = watch.next().await {
                let set = store::value_of(&found.val)
                    .ok()
                    .and_then(|bytes| ResourceSet::decode(&bytes).ok());
                if let Some(set) = set
                    && posts.send(Posted::InstanceEnd(set.expiration)).is_err()
                {
                    return;
                }
            }
        });
    }

    /// Puts everything in order before the module ends.
    async fn unload(mut self, posted: &mut mpsc::UnboundedReceiver<Posted>) -> Result<(), Failure> {
        self.batch.checkpoint = true;
        self.flush();
        while self.batch.is_busy() {
            match posted.recv().await {
                Some(Posted::Committed(result)) => {
                    result?;
                    self.on_committed();
                    self.flush();
                }
                Some(_) => {}
                None => break,
            }
        }
        self.write_history().await;
        self.journal.end(&self.handle);
        for (_, message) in self.tokens.drain() {
            let error = RpcError::new(Errno::ENOSYS, "job-manager is unloading");
            self.handle.respond_error(&message, &error);
        }
        Ok(())
    }
}

/// The payload of a response, or the error it is.
/// Commits with a checkpoint. Where none can be written jobs go on without: an instance with a
/// full disk is better than none.
async fn commit_durably(handle: &Handle, host: &dyn Host, ops: Vec<Op>) -> Result<(), RpcError> {
    let Err(error) = store::commit(handle, ops.clone(), commit_flags::SYNC).await else {
        return Ok(());
    };
    // Without a backing store nobody expects anything to last.
    if error.errno != Errno::ENOSYS {
        let text = format!("jobs would not outlive a crash: checkpoint: {error}");
        host.log(Severity::Err, "job-manager", &text);
    }
    store::commit(handle, ops, 0).await
}

fn decode<P: proto::Payload>(message: &Message) -> Result<P, RpcError> {
    if let Kind::Response {
        errno: Some(errno), ..
    } = message.kind
    {
        let text = message.text().map(str::to_owned);
        return Err(RpcError { errno, text });
    }
    P::decode(message.payload.as_ref())
        .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))
}

fn respond(handle: &Handle, message: &Message, reply: Reply) {
    match reply {
        Reply::Submitted(errors) => handle.respond(message, &SubmitErrors { errors }),
        Reply::Purged(count) => handle.respond(message, &counts(count)),
        Reply::Drained => handle.respond(message, &Empty {}),
        Reply::Idle(pending) => {
            let pending = i64::try_from(pending).unwrap_or(i64::MAX);
            handle.respond(message, &Idle { pending });
        }
        Reply::Waited { id, success, error } => {
            let waited = Waited {
                id,
                success,
                errstr: error,
            };
            handle.respond(message, &waited);
        }
    }
}

fn counts(count: usize) -> Counts {
    Counts {
        count: i64::try_from(count).unwrap_or(i64::MAX),
        errors: 0,
    }
}

/// How the scheduler wants its requests. Errors: `EPROTO`.
fn sched_mode(ready: &proto::job_manager::SchedReady) -> Result<SchedMode, RpcError> {
    match (ready.mode.as_str(), ready.limit) {
        ("unlimited", _) => Ok(SchedMode::Unlimited),
        ("limited", Some(limit)) if limit > 0 => Ok(SchedMode::Limited(
            usize::try_from(limit).unwrap_or(usize::MAX),
        )),
        _ => Err(Errno::EPROTO.into()),
    }
}
