//! The job manager: every active job, and what happens next to it.
//!
//! Inputs post events. An event is folded into its job, told to followers, put in the batch for
//! the eventlog, and then the job's new state is acted on, which may post more events; [`Jobs`]
//! works these off in order before an input returns. State is a fold of the eventlog, so restart
//! is replay followed by the same actions.
//!
//! Invariants: a job in [`State::New`] is held until its `submit` event is durable. Resources are
//! given back exactly once, after the exec service has let go of them. A job becomes inactive
//! only when the scheduler and the exec service know nothing of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use serde_json::{Value, json};
use spec::Entry;
use types::{Errno, JobId, UserId};

use crate::alloc::{Alloc, AllocQueue};
use crate::callbacks::{Call, Calls, Given, Then};
use crate::depend::{Dependencies, Progress};
use crate::fold::{Fold, FoldError, State};
use crate::housekeeping::Origin;
use crate::past::Past;
use crate::perilog::{Kind, Perilog};
use crate::plugins::{Plugin, Plugins};
use crate::policy::Policy;
use crate::queues::Queues;
use crate::update::{update_jobspec, update_resources};
use crate::{
    Attachment, Effect, Effects, Object, PRIORITY_MAX, Refusal, Reply, Token, URGENCY_MAX, event,
    flags,
};

/// Where a job is with the exec service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It has nothing of the job.
    Idle,
    /// It is to have the job, but there is none.
    Waiting,
    /// It has the job.
    Sent,
}

/// An active job.
#[derive(Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What its eventlog says.
    pub fold: Fold,
    /// Its jobspec, without environment.
    pub jobspec: Rc<Object>,
    /// Its resources, without `scheduling`.
    pub resources: Option<Rc<Object>>,
    /// Its eventlog.
    pub log: String,
    /// Its queue.
    pub queue: Option<Box<str>>,
    pub(crate) name: Option<Box<str>>,
    pub(crate) alloc: Alloc,
    pub(crate) start: Start,
    pub(crate) released: bool,
    pub(crate) cleaned: bool,
    pub(crate) waiter: Option<Token>,
    /// When its last event was.
    pub(crate) last_event: f64,
    /// Whether it has annotations that its eventlog does not tell of.
    pub(crate) annotated: bool,
}

impl Job {
    pub(crate) fn new(id: JobId, fold: Fold, jobspec: Rc<Object>) -> Job {
        let mut job = Job {
            id,
            fold,
            jobspec,
            resources: None,
            log: String::new(),
            queue: None,
            name: None,
            alloc: Alloc::Idle,
            start: Start::Idle,
            released: false,
            cleaned: false,
            waiter: None,
            last_event: 0.0,
            annotated: false,
        };
        job.read_jobspec();
        job
    }

    pub(crate) fn system(&self, key: &str) -> Option<&Value> {
        self.jobspec.get("attributes")?.get("system")?.get(key)
    }

    /// Takes over what of the jobspec is needed often.
    pub(crate) fn read_jobspec(&mut self) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(Box::from);
        self.queue = text(self.system("queue"));
        self.name = text(self.system("job").and_then(|job| job.get("name")));
    }

    /// Seconds it may run; 0 for no limit of its own.
    pub fn duration(&self) -> f64 {
        self.system("duration")
            .and_then(Value::as_f64)
            .unwrap_or(0.0)
    }

    /// Whether its result is kept until it is waited for.
    pub fn is_waitable(&self) -> bool {
        self.fold.flags & flags::WAITABLE != 0
    }

    /// The end of its resources, seconds since the epoch; 0 for none.
    pub fn expiration(&self) -> f64 {
        let execution = self.resources.as_ref().and_then(|r| r.get("execution"));
        execution
            .and_then(|execution| execution.get("expiration"))
            .and_then(Value::as_f64)
            .unwrap_or(0.0)
    }

    /// What a scheduler is told of the job whose resources these are.
    pub fn origin(&self) -> Origin {
        Origin {
            id: self.id,
            userid: self.fold.userid,
            priority: self.fold.priority.unwrap_or(0),
            t_submit: self.fold.t_submit(),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            started: self.fold.started,
            inactive: self.fold.state == State::Inactive,
            success: self.fold.is_success(),
            excepted: self.fold.is_excepted(),
        }
    }
}

/// A time, or the first that is later than another as far as eventlogs tell: in microseconds.
///
/// Adding one would not do: what is rounded off in a sum can make two times look the same.
pub(crate) fn after(time: f64, other: f64) -> f64 {
    let micros = |time: f64| (time * 1e6).round();
    match micros(time) > micros(other) {
        true => time,
        false => (micros(other) + 1.0) / 1e6,
    }
}

/// A posted event that was not worked off yet.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) id: JobId,
    pub(crate) entry: Entry,
    pub(crate) commit: bool,
    attachment: Attachment,
}

/// An event that was folded into its job: what follows from it.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) id: JobId,
    pub(crate) name: String,
    /// The job's state and priority before it.
    before: (State, Option<u32>),
    cancels: bool,
}

/// Something to work off, in order.
#[derive(Debug)]
pub(crate) enum Work {
    Post(Post),
    /// Plugins in files have been told of the event.
    Act(Folded),
    /// Plugins in files are to give the job a priority.
    Prioritize(JobId),
    /// Plugins in files are to be told something from which nothing follows.
    Tell(Vec<Call>),
    /// What the caller does once all before this is done.
    Effect(Effect),
}

/// Every job of an instance.
#[derive(Debug, Default)]
pub struct Jobs {
    pub(crate) active: BTreeMap<JobId, Job>,
    pub(crate) inactive: BTreeMap<JobId, Past>,
    /// Inactive jobs by the time they became so; times as bits, which sort alike.
    pub(crate) by_age: BTreeSet<(u64, JobId)>,
    pub(crate) history: BTreeMap<UserId, BTreeSet<JobId>>,
    pub(crate) queues: Queues,
    pub(crate) policy: Policy,
    pub(crate) plugins: Plugins,
    pub(crate) perilog: Perilog,
    pub(crate) dependencies: Dependencies,
    pub(crate) alloc: AllocQueue,
    pub(crate) zombies: BTreeMap<JobId, (bool, String)>,
    pub(crate) waiters: VecDeque<Token>,
    pub(crate) waitables: usize,
    pub(crate) drains: Vec<Token>,
    pub(crate) idles: Vec<Token>,
    pub(crate) max_jobid: JobId0,
    pub(crate) running: usize,
    pub(crate) owner: Option<UserId>,
    pub(crate) exec_online: bool,
    pub(crate) work: VecDeque<Work>,
    pub(crate) calls: Calls,
    /// The end of the instance once known, seconds since the epoch; 0 for none.
    pub(crate) instance_expiration: Option<f64>,
}

/// The highest id, 0 at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobId0(pub(crate) JobId);

impl Default for JobId0 {
    fn default() -> Self {
        JobId0(JobId(0))
    }
}

impl Jobs {
    /// No jobs, of an instance of `owner`.
    pub fn new(owner: UserId) -> Jobs {
        Jobs {
            owner: Some(owner),
            ..Jobs::default()
        }
    }

    /// Takes a policy over.
    pub fn configure(&mut self, policy: Policy, now: f64, out: &mut Effects) {
        self.queues.configure(&policy);
        self.policy = policy;
        self.reschedule(now, out);
    }

    /// The queues.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// The queues, to put back their stored state.
    pub fn queues_mut(&mut self) -> &mut Queues {
        &mut self.queues
    }

    /// An active job.
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.active.get(&id)
    }

    /// Every active job by id.
    pub fn active(&self) -> impl ExactSizeIterator<Item = &Job> {
        self.active.values()
    }

    /// The highest id there was.
    pub fn max_jobid(&self) -> JobId {
        self.max_jobid.0
    }

    /// Makes the highest id at least this.
    pub fn raise_max_jobid(&mut self, id: JobId) {
        self.max_jobid.0 = self.max_jobid.0.max(id);
    }

    /// Jobs in the alloc queue, requests the scheduler has, jobs with resources.
    pub fn alloc_counts(&self) -> (usize, usize, usize) {
        (
            self.alloc.queued_len(),
            self.alloc.pending_len(),
            self.running,
        )
    }

    /// Whether a scheduler is there.
    pub fn sched_online(&self) -> bool {
        self.alloc.mode.is_some()
    }

    /// Jobs in the alloc queue, in its order.
    pub fn queued(&self) -> impl Iterator<Item = &Job> {
        self.alloc
            .queued()
            .chain(self.alloc.pending())
            .filter_map(|id| self.active.get(&id))
    }

    // Events.

    pub(crate) fn post(&mut self, id: JobId, entry: Entry) {
        self.post_with(id, entry, true, Attachment::None);
    }

    /// Posts `debug.NAME` for those who submitted the job with that flag.
    pub(crate) fn debug(&mut self, now: f64, id: JobId, name: &str, context: Value) {
        if self.active.get(&id).is_some_and(|job| job.fold.debug) {
            self.post(id, event::debug(now, name, context));
        }
    }

    pub(crate) fn post_with(
        &mut self,
        id: JobId,
        entry: Entry,
        commit: bool,
        attachment: Attachment,
    ) {
        let post = Post {
            id,
            entry,
            commit,
            attachment,
        };
        self.queue(id, Work::Post(post));
    }

    /// Puts something to do for a job behind what is to be done already.
    pub(crate) fn queue(&mut self, id: JobId, work: Work) {
        match self.calls.holds(id) {
            Some(held) => held.push(work),
            None => self.defer(work),
        }
    }

    /// Puts something to do behind what is to be done already. What plugins cause while they are
    /// asked comes before that.
    pub(crate) fn defer(&mut self, work: Work) {
        match self.calls.are_waiting() {
            true => self.calls.fresh.push_back(work),
            false => self.work.push_back(work),
        }
    }

    /// Posts an event of any kind. Errors: `ENOENT`; `ENOSYS` without the plugin; `EINVAL` for one
    /// that cannot follow what the eventlog has: once written, it would make the log unreadable.
    pub fn post_event(
        &mut self,
        now: f64,
        id: JobId,
        entry: Entry,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        self.plugins.require(Plugin::PostEvent)?;
        let Some(job) = self.active.get(&id) else {
            return Err(Refusal::new(Errno::ENOENT, ""));
        };
        if entry.name.is_empty() {
            return Err(Refusal::new(Errno::EINVAL, "an event needs a name"));
        }
        if let Err(error) = job.fold.clone().apply(&entry) {
            return Err(Refusal::new(Errno::EINVAL, error.to_string()));
        }
        self.post(id, entry);
        self.settle(now, out);
        Ok(())
    }

    /// Works off posted events, then gives the scheduler what it takes.
    pub(crate) fn settle(&mut self, now: f64, out: &mut Effects) {
        loop {
            while !self.calls.are_waiting()
                && let Some(work) = self.work.pop_front()
            {
                match work {
                    Work::Post(post) => self.process(now, post, out),
                    Work::Act(folded) => self.follow(now, &folded, out),
                    Work::Prioritize(id) => self.ask_priority(id),
                    Work::Tell(calls) => self.calls.wait_for(calls, Then::Nothing),
                    Work::Effect(effect) => out.push(effect),
                }
            }
            if self.calls.are_waiting() {
                // It goes on with the answer.
                return;
            }
            self.pump(now, out);
            if self.work.is_empty() {
                break;
            }
        }
        if self.active.is_empty() {
            for token in self.drains.drain(..) {
                out.push(Effect::Reply(token, Reply::Drained));
            }
        }
        if !self.idles.is_empty() && self.running == 0 && self.alloc.pending_len() == 0 {
            let pending = self.active.len();
            for token in self.idles.drain(..) {
                out.push(Effect::Reply(token, Reply::Idle(pending)));
            }
        }
    }

    fn process(&mut self, now: f64, post: Post, out: &mut Effects) {
        let Post {
            id,
            mut entry,
            commit,
            mut attachment,
        } = post;
        let Some(job) = self.active.get_mut(&id) else {
            // The job ended while this waited; its log is closed (RFC 21).
            return;
        };
        // What follows comes later, if only by the least that eventlogs tell.
        entry.timestamp = after(entry.timestamp, job.last_event);
        job.last_event = entry.timestamp;
        let before = (job.fold.state, job.fold.priority);
        let was_waitable = job.is_waitable();
        if entry.name != "submit"
            && let Err(error) = job.fold.apply(&entry)
        {
            // Only a second fatal event in a row can be too late; anything else is our own bug.
            debug_assert!(
                matches!(error, FoldError::State { .. } | FoldError::Context(_)),
                "{error}"
            );
            return;
        }
        self.waitables += usize::from(job.is_waitable() && !was_waitable);
        let line = entry.encode();
        if commit {
            job.log.push_str(&line);
        }
        let name = entry.name.clone();
        // A prolog's own failure must not end the epilog that follows it.
        let cancels = name == "exception"
            && entry.get_i64("severity") == Some(0)
            && entry.get_str("type") != Some(Kind::Prolog.name());
        match (name.as_str(), &entry.context) {
            ("jobspec-update", Some(updates)) => {
                update_jobspec(Rc::make_mut(&mut job.jobspec), updates);
                job.read_jobspec();
                if updates.keys().any(|key| !key.starts_with("attributes.")) {
                    // Followers keep no jobspecs and cannot tell what such an update makes of it.
                    attachment = Attachment::Jobspec(job.jobspec.clone());
                }
            }
            ("resource-update", Some(updates)) => {
                if let Some(resources) = &mut job.resources {
                    update_resources(Rc::make_mut(resources), updates);
                }
            }
            _ => {}
        }
        let after = job.fold.state;
        let calls = self.calls_of_event(id, &entry, before.0);
        out.push(Effect::Event {
            id,
            entry,
            line,
            commit,
            attachment,
        });
        let runs = |state| matches!(state, State::Run | State::Cleanup);
        match (runs(before.0), runs(after)) {
            (false, true) => self.running += 1,
            (true, false) => self.running -= 1,
            _ => {}
        }
        let folded = Folded {
            id,
            name,
            before,
            cancels,
        };
        match calls.is_empty() {
            true => self.follow(now, &folded, out),
            false => self.calls.wait_for(calls, Then::Act(folded)),
        }
    }

    fn follow(&mut self, now: f64, folded: &Folded, out: &mut Effects) {
        self.act(now, folded.id, &folded.name, folded.before, out);
        if folded.cancels {
            self.cancel_scripts(now, folded.id, out);
        }
    }

    /// What follows from an event.
    fn act(
        &mut self,
        now: f64,
        id: JobId,
        name: &str,
        before: (State, Option<u32>),
        out: &mut Effects,
    ) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let state = job.fold.state;
        match name {
            "validate" | "dependency-remove"
                if state == State::Depend
                    && job.fold.dependencies.is_empty()
                    && !self.is_posted(id, "depend") =>
            {
                self.post(id, event::plain(now, "depend"));
            }
            "depend" => self.prioritize(now, id),
            "urgency" if state == State::Priority => self.prioritize(now, id),
            "jobspec-update" | "flux-restart" if state == State::Priority => {
                self.withdraw(id, before.1, out);
                self.prioritize(now, id);
            }
            "priority" => self.on_priority(now, id, before, out),
            "alloc" if state == State::Run => self.start_checked(now, id, out),
            "prolog-finish" if state == State::Run => self.start(now, id, out),
            "finish" => drop(self.begin_script(now, id, Kind::Epilog, out)),
            "free" => self.note_free(id),
            "exception" if !job.fold.has_resources => self.forget_held(),
            "start" => self.progress(now, id),
            "resource-update" if state == State::Run => {
                let expiration = job.expiration();
                if job.start == Start::Sent {
                    out.push(Effect::Expiration { id, expiration });
                }
            }
            "clean" => return self.retire(now, id, out),
            _ => {}
        }
        if state == State::Cleanup {
            self.clean_up(now, id, out);
        }
    }

    /// Gives a job its priority: what plugins say, except for urgencies that leave no choice.
    pub(crate) fn prioritize(&mut self, now: f64, id: JobId) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let priority = match job.fold.urgency {
            URGENCY_MAX => PRIORITY_MAX,
            ..=0 => 0,
            _ => match self.calls.given.remove(&id) {
                Some(Given::Unavailable) => return,
                Some(Given::Priority(priority)) => priority,
                None if self.calls.wants("job.priority.get") => {
                    return self.defer(Work::Prioritize(id));
                }
                Some(Given::Nothing) | None => match self.plugin_priority(job) {
                    Some(priority) => priority,
                    None => return,
                },
            },
        };
        self.post(id, event::priority(now, priority));
    }

    fn on_priority(
        &mut self,
        now: f64,
        id: JobId,
        before: (State, Option<u32>),
        out: &mut Effects,
    ) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        let new = job.fold.priority.unwrap_or(0);
        let old = before.1.unwrap_or(0);
        match job.alloc {
            Alloc::Idle if job.fold.bypass && new > 0 => self.bypass(now, id),
            Alloc::Idle => self.enqueue(id),
            Alloc::Queued | Alloc::Pending if new == 0 => self.withdraw(id, Some(old), out),
            Alloc::Queued if old != new => self.alloc.reorder(old, new, id),
            Alloc::Pending if old != new => {
                self.alloc.reorder(old, new, id);
                out.push(Effect::Prioritize(vec![(id, new)]));
            }
            Alloc::Queued | Alloc::Pending | Alloc::Canceling => {}
        }
    }

    /// Puts a job in the alloc queue if it may be scheduled.
    pub(crate) fn enqueue(&mut self, id: JobId) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        let priority = job.fold.priority.unwrap_or(0);
        let wants = job.fold.state == State::Sched
            && job.alloc == Alloc::Idle
            && priority > 0
            && !job.fold.bypass;
        if wants && self.queues.schedules(job.queue.as_deref()) {
            job.alloc = Alloc::Queued;
            self.alloc.enqueue(priority, id);
        }
    }

    /// Takes a job out of the alloc queue, or its request back. `priority` is the one it had there.
    pub(crate) fn withdraw(&mut self, id: JobId, priority: Option<u32>, out: &mut Effects) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        let priority = priority.unwrap_or(0);
        match job.alloc {
            Alloc::Queued => {
                self.alloc.dequeue(priority, id);
                job.alloc = Alloc::Idle;
            }
            Alloc::Pending => {
                self.alloc.canceling(priority, id);
                job.alloc = Alloc::Canceling;
                out.push(Effect::CancelAlloc(id));
            }
            Alloc::Idle | Alloc::Canceling => {}
        }
    }

    /// Makes the alloc queue fit the states of queues.
    pub(crate) fn reschedule(&mut self, now: f64, out: &mut Effects) {
        let waiting: Vec<(JobId, Option<u32>, bool, Alloc)> = self
            .active
            .values()
            .filter(|job| job.fold.state == State::Sched)
            .map(|job| {
                let schedules = self.queues.schedules(job.queue.as_deref());
                (job.id, job.fold.priority, schedules, job.alloc)
            })
            .collect();
        for (id, priority, schedules, alloc) in waiting {
            match (schedules, alloc) {
                (true, Alloc::Idle) => self.enqueue(id),
                (false, Alloc::Queued | Alloc::Pending) => self.withdraw(id, priority, out),
                _ => {}
            }
        }
        self.settle(now, out);
    }

    /// Hands requests to the scheduler while it takes more.
    fn pump(&mut self, now: f64, out: &mut Effects) {
        while let Some(id) = self.alloc.next() {
            let Some(job) = self.active.get_mut(&id) else {
                continue;
            };
            job.alloc = Alloc::Pending;
            out.push(Effect::Alloc {
                id,
                priority: job.fold.priority.unwrap_or(0),
                userid: job.fold.userid,
                t_submit: job.fold.t_submit(),
                jobspec: job.jobspec.clone(),
            });
            self.debug(now, id, "alloc-request", Value::Null);
        }
        if let Some(id) = self.alloc.to_withdraw() {
            let priority = self.active.get(&id).and_then(|job| job.fold.priority);
            self.withdraw(id, priority, out);
        }
    }

    /// Starts a job unless it has been given what others have, or has a prolog first.
    fn start_checked(&mut self, now: f64, id: JobId, out: &mut Effects) {
        if self.check_alloc(now, id) && !self.begin_script(now, id, Kind::Prolog, out) {
            self.start(now, id, out);
        }
    }

    pub(crate) fn start(&mut self, now: f64, id: JobId, out: &mut Effects) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        if job.fold.prologs > 0 || job.start == Start::Sent {
            return;
        }
        if !self.exec_online {
            job.start = Start::Waiting;
            return;
        }
        let Some(resources) = job.resources.clone() else {
            debug_assert!(false, "a job in RUN has resources");
            return;
        };
        job.start = Start::Sent;
        let reattach = job.fold.started;
        out.push(Effect::Start {
            id,
            userid: job.fold.userid,
            jobspec: job.jobspec.clone(),
            resources,
            reattach,
        });
        if reattach {
            self.debug(now, id, "exec-reattach-start", json!({"id": id.0}));
        }
        self.debug(now, id, "start-request", Value::Null);
    }

    pub(crate) fn clean_up(&mut self, now: f64, id: JobId, out: &mut Effects) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let priority = job.fold.priority;
        self.withdraw(id, priority, out);
        let online = self.sched_online();
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        if job.start == Start::Waiting {
            job.start = Start::Idle;
        }
        let held = job.start == Start::Sent || job.fold.prologs > 0 || job.fold.epilogs > 0;
        if held || job.alloc != Alloc::Idle {
            return;
        }
        if job.fold.has_resources {
            if job.released {
                return;
            }
            if job.fold.bypass {
                job.released = true;
                self.post(id, event::plain(now, "free"));
            } else if online && let Some(resources) = job.resources.clone() {
                job.released = true;
                let origin = job.origin();
                out.push(Effect::Release { origin, resources });
                self.post(id, event::plain(now, "free"));
            }
            return;
        }
        if !std::mem::replace(&mut job.cleaned, true) {
            self.post(id, event::plain(now, "clean"));
        }
    }

    /// Tells jobs that depend on this one how far it is.
    pub(crate) fn progress(&mut self, now: f64, id: JobId) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let progress = job.progress();
        for (waiter, satisfied) in self.dependencies.progress(id, progress) {
            self.resolve(now, &waiter, satisfied);
        }
    }

    fn retire(&mut self, now: f64, id: JobId, out: &mut Effects) {
        self.progress(now, id);
        let Some(job) = self.active.remove(&id) else {
            return;
        };
        self.release_name(now, &job);
        if job.is_waitable() {
            self.reap(&job, out);
        }
        self.bury(&job);
        self.tell_end(&job);
    }

    /// Lets the next singleton of a job's name go on.
    pub(crate) fn release_name(&mut self, now: f64, job: &Job) {
        let name = job.name.as_ref();
        let next = name.and_then(|name| self.dependencies.unnamed(job.fold.userid, name, job.id));
        if let Some(next) = next {
            let entry = event::dependency(now, "dependency-remove", "singleton");
            self.post(next, entry);
        }
    }

    // Time and durability.

    /// Jobs whose `submit` event is durable go on.
    pub fn on_durable(&mut self, now: f64, ids: &[JobId], out: &mut Effects) {
        for &id in ids {
            if self
                .active
                .get(&id)
                .is_some_and(|job| job.fold.state == State::New)
            {
                self.post(id, event::plain(now, "validate"));
            }
        }
        self.settle(now, out);
    }

    /// When [`Jobs::on_time`] has something to do.
    pub fn next_time(&self) -> Option<f64> {
        let times = [self.dependencies.next_begin(), self.next_perilog_time()];
        times.into_iter().flatten().min_by(f64::total_cmp)
    }

    /// Lets begin what begins by now, and ends what takes too long.
    pub fn on_time(&mut self, now: f64, out: &mut Effects) {
        while let Some((time, id)) = self.dependencies.pop_begun(now) {
            let description = crate::submit::begin_description(time);
            self.post(
                id,
                event::dependency(now, "dependency-remove", &description),
            );
        }
        self.on_perilog_time(now, out);
        self.settle(now, out);
    }

    /// Says what the reader of a dependency must know.
    pub(crate) fn progress_of(&self, id: JobId) -> Option<Progress> {
        match self.active.get(&id) {
            Some(job) => Some(job.progress()),
            None => self.inactive.get(&id).map(|past| past.progress()),
        }
    }
}
