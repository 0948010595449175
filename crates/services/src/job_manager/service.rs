//! The methods of `job-manager`.

use jobs::plugins::Plugin;
use jobs::{Fold, NewJob, Refusal, Reply, Selection};
use module::Severity;
use proto::config::ModuleConfigReload;
use proto::job_exec::Expiration;
use proto::job_manager as jm;
use proto::job_manager::{
    AllocQuery, HelloJob, History, Info, JobManagerAllocQuery, JobManagerDrain,
    JobManagerExecHello, JobManagerGetattr, JobManagerGetinfo, JobManagerHistoryGet,
    JobManagerHousekeepingKill, JobManagerIdle, JobManagerJournal, JobManagerJournalCancel,
    JobManagerKill, JobManagerKillAll, JobManagerList, JobManagerMemo, JobManagerPostEvent,
    JobManagerPurge, JobManagerPurgeId, JobManagerQueueEnable, JobManagerQueueList,
    JobManagerQueueStart, JobManagerQueueStatus, JobManagerRaise, JobManagerRaiseAll,
    JobManagerResourceStatus, JobManagerSchedHello, JobManagerSchedReady,
    JobManagerSetBatchTimeout, JobManagerStats, JobManagerSubmit, JobManagerUpdate,
    JobManagerUrgency, JobManagerWait, QueueStatus, ResourceStatus,
};
use proto::sched::{Feasibility, FeasibilityCheck, SchedExpiration};
use proto::{Access, Empty, Rpc};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use spec::{Entry, ResourceSet};
use types::{Errno, JobId, Rank, UserId};
use wire::Message;

use super::plugin_host::Todo;
use super::{Handover, Posted, State, config::Config, counts, jobtap, now, restart, sched_mode};

/// An update that waits for the scheduler.
pub(super) struct PendingUpdate {
    message: Message,
    id: JobId,
    updates: Map<String, Value>,
    expiration: Option<f64>,
}

/// Asks the scheduler whether a job may be as an update makes it, and end when. A scheduler that
/// does not know such requests has nothing against it.
async fn ask_scheduler(
    handle: &Handle,
    id: JobId,
    jobspec: Option<Map<String, Value>>,
    expiration: Option<f64>,
) -> Result<(), RpcError> {
    if let Some(jobspec) = jobspec {
        let wish = Feasibility { jobspec };
        let call = handle.call::<FeasibilityCheck>(Rank::LEADER, &wish);
        if let Err(error) = call.await
            && error.errno != Errno::ENOSYS
        {
            return Err(error);
        }
    }
    if let Some(expiration) = expiration {
        let wish = Expiration { id, expiration };
        let call = handle.call::<SchedExpiration>(Dest::Any, &wish);
        if let Err(error) = call.await
            && error.errno != Errno::ENOSYS
        {
            let text = "scheduler refused expiration update";
            return Err(RpcError::new(error.errno, text));
        }
    }
    Ok(())
}

pub(super) fn refused(refusal: Refusal) -> RpcError {
    match refusal.text.is_empty() {
        true => refusal.errno.into(),
        false => RpcError::new(refusal.errno, refusal.text),
    }
}

fn answer<R: Rpc>(request: &Request<R>, result: Result<R::Response, Refusal>) {
    request.reply_result(&result.map_err(refused));
}

fn user(userid: i64) -> Option<UserId> {
    u32::try_from(userid).ok().map(UserId)
}

/// Answers a purge: once the jobs are gone from the store, if it was meant.
fn purged(state: &mut State, message: &Message, count: usize, force: bool) {
    let reply = Reply::Purged(count);
    match force && count > 0 {
        true => state.batch.replies.push((message.clone(), reply)),
        false => super::respond(&state.handle, message, reply),
    }
}

pub(super) fn routes() -> Routes<State> {
    let routes = links(Routes::new());
    let routes = requests(routes);
    let routes = jobtap::routes(queries(routes));
    administration(routes)
}

fn links(routes: Routes<State>) -> Routes<State> {
    routes
        .on::<JobManagerSubmit>(|state: &mut State, request, batch| {
            let token = state.token(request.message());
            let jobs = batch.jobs.into_iter().map(|job| NewJob {
                id: job.id,
                userid: job.userid,
                urgency: job.urgency,
                t_submit: job.t_submit,
                flags: job.flags,
                jobspec: job.jobspec,
            });
            let jobs = jobs.collect();
            if state.jobs.plugins().has_files() {
                return state.plugin_host.push(Todo::Submit(jobs, token));
            }
            state.with_jobs(|engine, now, out| engine.submit(now, jobs, token, out));
        })
        .on::<JobManagerSchedHello>(|state, request, hello| {
            let partial = if hello.partial_ok { " +partial-ok" } else { "" };
            state.log(Severity::Debug, format!("scheduler: hello{partial}"));
            for job in state.jobs.sched_hello() {
                request.reply(&HelloJob {
                    id: job.id,
                    priority: job.fold.priority.unwrap_or(0),
                    userid: job.fold.userid,
                    t_submit: job.fold.t_submit(),
                    free: None,
                });
            }
            for held in state.housekeeping_hello(hello.partial_ok) {
                request.reply(&held);
            }
            request.end();
        })
        .on::<JobManagerSchedReady>(|state, request, ready| {
            let mode = match sched_mode(&ready) {
                Ok(mode) => mode,
                Err(error) => return request.fail(error),
            };
            state.log(Severity::Debug, format!("scheduler: ready {}", ready.mode));
            state.scheduler = Some(request.message().clone());
            let waiting = state.jobs.queued().count();
            request.reply(&jm::SchedReadyReply {
                count: i64::try_from(waiting).unwrap_or(i64::MAX),
            });
            state.with_jobs(|jobs, now, out| jobs.sched_ready(now, mode, out));
        })
        .on::<JobManagerExecHello>(|state, request, hello| {
            let former = state
                .exec
                .replace((hello.service, request.message().clone()));
            let result = state.with_jobs(|jobs, now, out| jobs.exec_hello(now, out));
            if result.is_err() {
                state.exec = former;
            }
            answer(&request, result.map(|()| Empty {}));
        })
        .on_message("disconnect", Access::Any, |state, _, notice| {
            state.on_disconnect(&notice);
        })
        .on::<JobManagerJournal>(|state, request, wanted| {
            let exchange = state.host.exchange();
            let handover = wanted
                .handover
                .then(|| exchange.get::<Handover>())
                .flatten();
            match state
                .journal
                .follow(&state.handle, &state.jobs, &request, &wanted, handover)
            {
                Ok(None) => {}
                Ok(Some((number, filter))) => restart::read_history(state, number, filter),
                Err(error) => request.fail(error),
            }
        })
        .on::<JobManagerJournalCancel>(|state, request, cancel| {
            let matches = |message: &Message| {
                Request::<JobManagerJournal>::new(&state.handle, message.clone())
                    .is_cancelled_by(request.message(), cancel.matchtag)
            };
            state.journal.cancel(&state.handle, matches);
        })
}

fn requests(routes: Routes<State>) -> Routes<State> {
    routes
        .on::<JobManagerRaise>(|state: &mut State, request, raise| {
            let (who, note) = (request.cred(), raise.note.unwrap_or_default());
            let (kind, status) = (&raise.kind, raise.wait_status);
            let result = state.with_jobs(|jobs, now, out| {
                jobs.raise(now, who, raise.id, kind, raise.severity, &note, status, out)
            });
            answer(&request, result.map(|()| Empty {}));
        })
        .on::<JobManagerRaiseAll>(|state, request, raise| {
            let (who, note) = (request.cred(), raise.note.unwrap_or_default());
            let which = Selection {
                userid: user(raise.userid),
                states: raise.states,
            };
            let (dry, kind, severity) = (raise.dry_run, &raise.kind, raise.severity);
            let result = state.with_jobs(|jobs, now, out| {
                jobs.raise_all(now, who, which, dry, kind, severity, &note, out)
            });
            answer(&request, result.map(counts));
        })
        .on::<JobManagerKill>(|state, request, kill| {
            let who = request.cred();
            let result = state.with_jobs(|jobs, _, out| jobs.kill(who, kill.id, kill.signum, out));
            answer(&request, result.map(|()| Empty {}));
        })
        .on::<JobManagerKillAll>(|state, request, kill| {
            let (who, whose) = (request.cred(), user(kill.userid));
            let result = state.with_jobs(|jobs, _, out| {
                jobs.kill_all(who, whose, kill.dry_run, kill.signum, out)
            });
            answer(&request, result.map(counts));
        })
        .on::<JobManagerUrgency>(|state, request, urgency| {
            let who = request.cred();
            let result = state.with_jobs(|jobs, now, out| {
                jobs.set_urgency(now, who, urgency.id, urgency.urgency, out)
            });
            let result = result.map(|old_urgency| jm::OldUrgency { old_urgency });
            answer(&request, result);
        })
        .on::<JobManagerMemo>(|state, request, memo| {
            let who = request.cred();
            let result = state.with_jobs(|jobs, now, out| {
                jobs.memo(now, who, memo.id, memo.memo, memo.is_volatile, out)
            });
            answer(&request, result.map(|()| Empty {}));
        })
        .on::<JobManagerUpdate>(|state, request, update| state.start_update(&request, update))
        .on::<JobManagerWait>(|state, request, wait| {
            let id = u64::try_from(wait.id).ok().map(JobId);
            let token = state.token(request.message());
            match state.jobs.wait(id, token) {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    state.tokens.remove(&token);
                    super::respond(&state.handle, request.message(), reply);
                }
                Err(refusal) => {
                    state.tokens.remove(&token);
                    request.fail(refused(refusal));
                }
            }
        })
        .on::<JobManagerDrain>(|state, request, Empty {}| {
            let token = state.token(request.message());
            state.with_jobs(|jobs, now, out| jobs.drain(now, token, out));
        })
        .on::<JobManagerIdle>(|state, request, Empty {}| {
            let token = state.token(request.message());
            state.with_jobs(|jobs, now, out| jobs.idle(now, token, out));
        })
        .on::<JobManagerPostEvent>(|state, request, post| {
            let entry = match post.context {
                Some(context) => Entry::with_context(now(), post.name, context),
                None => Entry::new(now(), post.name),
            };
            let result =
                state.with_jobs(|jobs, now, out| jobs.post_event(now, post.id, entry, out));
            answer(&request, result.map(|()| Empty {}));
        })
}

fn queries(routes: Routes<State>) -> Routes<State> {
    routes
        .on::<JobManagerGetinfo>(|state: &mut State, request, Empty {}| {
            if state.hides_from(request.cred()) {
                return request.fail(Errno::EPERM);
            }
            request.reply(&Info {
                max_jobid: state.jobs.max_jobid(),
            });
        })
        .on::<JobManagerStats>(|state, request, Empty {}| {
            if state.hides_from(request.cred()) {
                return request.fail(Errno::EPERM);
            }
            let (listeners, events) = state.journal.stats();
            let stats = json!({
                "journal": {"listeners": listeners, "events": events},
                "active_jobs": state.jobs.active().len(),
                "inactive_jobs": state.jobs.inactive().len(),
                "max_jobid": state.jobs.max_jobid().0,
                "housekeeping": state.housekeeping_stats(),
            });
            if let Value::Object(stats) = stats {
                request.reply(&stats);
            }
        })
        .on::<JobManagerList>(|state, request, list| {
            let limit = usize::try_from(list.max_entries).unwrap_or(0);
            let limit = if limit == 0 { usize::MAX } else { limit };
            let queued: Vec<JobId> = state.jobs.queued().map(|job| job.id).collect();
            let others = state
                .jobs
                .active()
                .filter(|job| !state.jobs.is_waiting(job.id));
            let jobs = queued
                .iter()
                .filter_map(|id| state.jobs.get(*id))
                .chain(others)
                .map(|job| summary(job.id, &job.fold));
            let zombies = state
                .jobs
                .zombies()
                .filter_map(|id| Some(summary(id, &state.jobs.past(id)?.record().job().fold)));
            request.reply(&jm::Jobs {
                jobs: jobs.chain(zombies).take(limit).collect(),
            });
        })
        .on::<JobManagerGetattr>(|state, request, wanted| {
            state.attributes(&request, wanted);
        })
        .on::<JobManagerAllocQuery>(|state, request, Empty {}| {
            let (queued, pending, running) = state.jobs.alloc_counts();
            let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            request.reply(&AllocQuery {
                queue_length: number(queued),
                alloc_pending: number(pending),
                running: number(running),
            });
        })
        .on::<JobManagerResourceStatus>(|state, request, Empty {}| {
            let allocated = state.allocated();
            request.reply(&ResourceStatus { allocated });
        })
        .on::<JobManagerHistoryGet>(|state, request, wanted| {
            let result = state.jobs.history(request.cred().userid, &wanted.slice);
            answer(&request, result.map(|jobs| History { jobs }));
        })
}

fn administration(routes: Routes<State>) -> Routes<State> {
    routes
        .on::<JobManagerQueueList>(|state: &mut State, request, Empty {}| {
            request.reply(&jm::QueueNames {
                queues: state.jobs.queues().names().map(str::to_owned).collect(),
            });
        })
        .on::<JobManagerQueueStatus>(|state, request, wanted| {
            let queues = state.jobs.queues();
            let queue = match queues.find(wanted.name.as_deref()) {
                Ok(queue) => queue,
                Err(refusal) => return request.fail(refused(refusal)),
            };
            let parent = queue.parent.as_deref();
            let stopped = parent.filter(|parent| !queues.schedules(Some(parent)));
            let (blocked, reason) = match stopped {
                _ if !queue.started => (None, queue.stop_reason.clone()),
                Some(parent) => {
                    let text = format!("parent queue '{parent}' is stopped");
                    (Some("parent"), Some(text))
                }
                None if !state.jobs.sched_online() => {
                    (Some("scheduler"), Some("Scheduler is offline".to_owned()))
                }
                None => (None, None),
            };
            request.reply(&QueueStatus {
                enable: queue.enabled,
                start: queue.started && blocked.is_none(),
                parent: queue.parent.clone(),
                blocked: blocked.map(str::to_owned),
                disable_reason: queue.disable_reason.clone(),
                stop_reason: reason,
            });
        })
        .on::<JobManagerQueueEnable>(|state, request, wish| {
            let (name, reason) = (wish.name.as_deref(), wish.reason.as_deref());
            let result = state.with_jobs(|jobs, _, out| {
                jobs.queue_enable(name, wish.enable, reason, wish.all, out)
            });
            answer(&request, result.map(|()| Empty {}));
        })
        .on::<JobManagerQueueStart>(|state, request, wish| {
            let (name, reason) = (wish.name.as_deref(), wish.reason.as_deref());
            let (start, all, save) = (wish.start, wish.all, !wish.nocheckpoint);
            let result = state.with_jobs(|jobs, now, out| {
                jobs.queue_start(now, name, start, reason, all, save, out)
            });
            answer(&request, result.map(|()| Empty {}));
        })
        .on::<JobManagerPurge>(|state, request, wish| {
            let invalid = |text| RpcError::new(Errno::EINVAL, text);
            if wish.age_limit < 0.0 && wish.age_limit != -1.0 {
                return request.fail(invalid("if set, age limit must be >= 0"));
            }
            if wish.num_limit < -1 {
                return request.fail(invalid("if set, num limit must be >= 0"));
            }
            if !(1..=100).contains(&wish.batch) {
                return request.fail(invalid("batch must be >= 1 and <= 100"));
            }
            let age = (wish.age_limit >= 0.0).then_some(wish.age_limit);
            let number = usize::try_from(wish.num_limit).ok();
            let batch = match wish.force {
                true => usize::try_from(wish.batch).unwrap_or(1),
                false => usize::MAX,
            };
            let count = state
                .with_jobs(|jobs, now, out| jobs.purge(now, age, number, batch, wish.force, out));
            purged(state, request.message(), count, wish.force);
        })
        .on::<JobManagerPurgeId>(|state, request, wish| {
            let result = state.with_jobs(|jobs, _, out| jobs.purge_id(wish.id, wish.force, out));
            match result {
                Ok(()) => purged(state, request.message(), 1, wish.force),
                Err(refusal) => request.fail(refused(refusal)),
            }
        })
        .on::<JobManagerHousekeepingKill>(|state, request, kill| {
            let result = state.kill_housekeeping(&kill);
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<JobManagerSetBatchTimeout>(|_, request, _| request.reply(&Empty {}))
        .on::<ModuleConfigReload>(|state, request, config| {
            if state.jobs.plugins_want("conf.update") {
                let todo = Todo::Reload(request.message().clone(), config);
                return state.plugin_host.push(todo);
            }
            let result = state.take_config(&config);
            request.reply_result(&result.map(|()| Empty {}));
        })
}

/// A job as `list` shows it.
fn summary(id: JobId, fold: &Fold) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("id".into(), id.0.into());
    object.insert("userid".into(), fold.userid.0.into());
    object.insert("urgency".into(), fold.urgency.into());
    let priority = fold.priority.map_or(Value::from(-1), Value::from);
    object.insert("priority".into(), priority);
    object.insert("t_submit".into(), fold.t_submit().into());
    object.insert("state".into(), fold.state.bit().into());
    if let Some(annotations) = &fold.annotations {
        object.insert("annotations".into(), Value::Object((**annotations).clone()));
    }
    if !fold.dependencies.is_empty() {
        object.insert("dependencies".into(), json!(fold.dependencies));
    }
    object
}

impl State {
    /// Whether a guest may not see others' jobs.
    pub(super) fn hides_from(&self, who: types::Cred) -> bool {
        let privileged = types::RoleMask::OWNER | types::RoleMask::ADMIN;
        self.config.private && !who.rolemask.intersects(privileged)
    }

    /// The union of resources that jobs hold; `null` where there are none.
    fn allocated(&mut self) -> Value {
        if let Some(known) = &self.allocated {
            return known.clone();
        }
        let mut union = ResourceSet::new();
        for job in self.jobs.active().filter(|job| job.fold.has_resources) {
            let set = job
                .resources
                .as_ref()
                .map(|resources| ResourceSet::from_value(&Value::Object((**resources).clone())));
            if let Some(Ok(set)) = set {
                union.add(&set);
            }
        }
        for held in self.housekeeping.allocations() {
            union.add(&held.resources);
        }
        let value = match union.is_empty() {
            true => Value::Null,
            false => union.to_value(),
        };
        self.allocated = Some(value.clone());
        value
    }

    /// Takes a configuration over. Errors: `EINVAL`.
    pub(super) fn take_config(&mut self, config: &Map<String, Value>) -> Result<(), RpcError> {
        let invalid = |text| RpcError::new(Errno::EINVAL, text);
        let config = Config::parse(config).map_err(invalid)?;
        if self.jobs.plugins().has(Plugin::Perilog) {
            self.configure_perilog(&config.tables).map_err(invalid)?;
        }
        self.config = config.clone();
        self.tell_housekeeping();
        self.with_jobs(|jobs, now, out| jobs.configure(config.policy, now, out));
        Ok(())
    }

    /// Checks an update, with plugins in files if some of it is theirs.
    fn start_update(&mut self, request: &Request<JobManagerUpdate>, update: jm::Update) {
        let ours = update.updates.keys().all(|key| self.jobs.updates(key));
        if !ours && self.jobs.plugins().has_files() {
            let todo = Todo::Update(request.message().clone(), update);
            return self.plugin_host.push(todo);
        }
        let (who, id) = (request.cred(), update.id);
        match self.jobs.check_update(now(), who, id, &update.updates, &[]) {
            Ok(expiration) => {
                let elsewhere = update.updates.contains_key("attributes.system.queue");
                self.schedule_update(request.message().clone(), update, expiration, elsewhere);
            }
            Err(refusal) => request.fail(refused(refusal)),
        }
    }

    /// Carries out an update; a running job's new end needs the scheduler's consent, and so does
    /// one that may make the job infeasible (`check`).
    pub(super) fn schedule_update(
        &mut self,
        message: Message,
        update: jm::Update,
        expiration: Option<f64>,
        check: bool,
    ) {
        let id = update.id;
        let jobspec = check.then(|| self.jobs.updated_jobspec(id, &update.updates));
        let pending = PendingUpdate {
            message,
            id,
            updates: update.updates,
            expiration,
        };
        let jobspec = jobspec.flatten();
        if jobspec.is_none() && expiration.is_none() {
            return self.on_updated(pending, Ok(()));
        }
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        tokio::task::spawn_local(async move {
            let result = ask_scheduler(&handle, id, jobspec, expiration).await;
            let _ended = posts.send(Posted::Updated(Box::new(pending), result));
        });
    }

    pub(super) fn on_updated(&mut self, update: PendingUpdate, result: Result<(), RpcError>) {
        let PendingUpdate {
            message,
            id,
            updates,
            expiration,
        } = update;
        if let Err(error) = result {
            return self.handle.respond_error(&message, &error);
        }
        let who = message.cred;
        self.with_jobs(|jobs, now, out| jobs.update(now, who, id, updates, expiration, out));
        self.handle.respond(&message, &Empty {});
    }
}
