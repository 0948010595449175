//! What plugins in files are asked (flux-jobtap-plugins(7)).
//!
//! Such plugins are foreign code and run in a process of their own, so an answer takes time. While
//! one is out the engine works nothing off: events that are posted meanwhile wait, and the caller
//! gives it no other input than what the plugins themselves request
//! (see [`crate::plugin_requests`]) until [`Jobs::next_call`] says there is nothing more to ask.
//!
//! What plugins post while they are told of an event comes before what the engine does about it, so
//! that a job whose plugin starts a prolog in `job.state.run` is not started before it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};
use spec::{Entry, ResourceSet, eventlog};
use types::{JobId, UserId};

use crate::fold::{Fold, State};
use crate::manager::{Folded, Job, Work};
use crate::{Effects, Jobs, NewJob, Object, Reply, Token, event};

/// The priority plugins answer if they have none yet.
const PRIORITY_UNAVAILABLE: i64 = -2;

/// Something to ask plugins in files.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The job it is about.
    pub id: JobId,
    /// What has happened, or what is asked.
    pub topic: String,
    /// Which plugin is asked, by name; `None` for all, in the order they were loaded.
    pub plugin: Option<String>,
    /// What they are told.
    pub args: Object,
}

/// What they answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether one of them is there for this topic.
    pub handled: bool,
    /// Whether one of them failed.
    pub failed: bool,
    /// What they put out.
    pub out: Object,
}

impl Answer {
    /// Why they refused, if they say so.
    pub fn error(&self) -> Option<&str> {
        let text = |key| self.out.get(key).and_then(Value::as_str);
        text("errmsg").or_else(|| text("errstr"))
    }
}

/// What plugins say of a job's priority.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Given {
    Priority(u32),
    Unavailable,
    /// Nothing: it is left to our own plugins.
    Nothing,
}

/// What comes after an answer.
#[derive(Debug)]
pub(crate) enum Then {
    Nothing,
    Act(Folded),
    Prioritize(JobId),
}

/// Where the engine is with plugins in files.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The topics some of them want, of those that are asked unasked. Empty without plugins.
    topics: BTreeSet<String>,
    /// Which plugins follow the events of a job.
    subscribers: BTreeMap<JobId, BTreeSet<String>>,
    /// What is asked, the first of it now.
    waiting: VecDeque<Call>,
    then: Option<Then>,
    /// What came to be done while it was asked.
    pub(crate) fresh: VecDeque<Work>,
    pub(crate) given: BTreeMap<JobId, Given>,
    /// A job that is not let in yet, with its events.
    held: Option<(JobId, Vec<Work>)>,
}

impl Calls {
    pub(crate) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a plugin is there for a topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }

    pub(crate) fn wait_for(&mut self, calls: Vec<Call>, then: Then) {
        self.waiting = calls.into();
        self.then = Some(then);
    }

    /// What is to be done for a job that is not let in yet.
    pub(crate) fn holds(&mut self, id: JobId) -> Option<&mut Vec<Work>> {
        let (held, work) = self.held.as_mut()?;
        (*held == id).then_some(work)
    }

    pub(crate) fn subscribe(&mut self, plugin: &str, id: JobId) {
        let plugins = self.subscribers.entry(id).or_default();
        plugins.insert(plugin.to_owned());
    }

    pub(crate) fn unsubscribe(&mut self, plugin: &str, id: JobId) {
        if let Some(plugins) = self.subscribers.get_mut(&id) {
            plugins.remove(plugin);
        }
    }

    /// A plugin is gone.
    pub(crate) fn forget_plugin(&mut self, plugin: &str) {
        for plugins in self.subscribers.values_mut() {
            plugins.remove(plugin);
        }
    }
}

/// Asking.
impl Jobs {
    /// Takes over which topics plugins in files are there for.
    pub fn set_plugin_topics(&mut self, topics: impl IntoIterator<Item = String>) {
        self.calls.topics = topics.into_iter().collect();
    }

    /// Whether a plugin in a file is there for a topic.
    pub fn plugins_want(&self, topic: &str) -> bool {
        self.calls.wants(topic)
    }

    /// What the engine waits for.
    pub fn next_call(&self) -> Option<&Call> {
        self.calls.waiting.front()
    }

    /// The answer to [`Jobs::next_call`].
    pub fn on_answer(&mut self, now: f64, answer: Answer, out: &mut Effects) {
        let Some(call) = self.calls.waiting.front().cloned() else {
            return;
        };
        self.take_answer(now, &call, &answer);
        self.calls.waiting.pop_front();
        if self.calls.waiting.is_empty() {
            let fresh = std::mem::take(&mut self.calls.fresh);
            let then = match self.calls.then.take() {
                Some(Then::Act(folded)) => Some(Work::Act(folded)),
                Some(Then::Prioritize(id)) => {
                    self.take_priority(now, id);
                    None
                }
                Some(Then::Nothing) | None => None,
            };
            for work in fresh.into_iter().chain(then).rev() {
                self.work.push_front(work);
            }
        }
        self.settle(now, out);
    }

    /// Goes on with what was posted outside of inputs.
    pub fn resume(&mut self, now: f64, out: &mut Effects) {
        self.settle(now, out);
    }

    /// What plugins are told of any job.
    pub fn plugin_args(&self, id: JobId) -> Option<Object> {
        self.active.get(&id).map(args_of)
    }

    /// Something to ask about an active job.
    pub fn call(&self, id: JobId, topic: &str) -> Option<Call> {
        let args = self.plugin_args(id)?;
        Some(Call {
            id,
            topic: topic.to_owned(),
            plugin: None,
            args,
        })
    }

    pub(crate) fn calls_of_event(&self, id: JobId, entry: &Entry, before: State) -> Vec<Call> {
        let mut calls = Vec::new();
        let Some(job) = self.active.get(&id) else {
            return calls;
        };
        let subscribers = self.calls.subscribers.get(&id);
        if self.calls.topics.is_empty() && subscribers.is_none() {
            return calls;
        }
        let state = job.fold.state;
        let args = || {
            let mut args = args_of(job);
            args.insert("entry".into(), entry.to_value());
            args
        };
        let mut call = |topic: String, plugin: Option<String>, args: Object| {
            calls.push(Call {
                id,
                topic,
                plugin,
                args,
            });
        };
        if let Some(subscribers) = subscribers {
            for plugin in self.plugins.names() {
                if subscribers.contains(plugin) {
                    let topic = format!("job.event.{}", entry.name);
                    call(topic, Some(plugin.to_owned()), args());
                }
            }
        }
        if entry.name == "jobspec-update" && self.calls.wants("job.update") {
            let mut args = args();
            args.insert("updates".into(), entry.context.clone().into());
            call("job.update".into(), None, args);
        }
        let topic = format!("job.state.{}", state.name().to_ascii_lowercase());
        if state != before && self.calls.wants(&topic) {
            let mut args = args();
            args.insert("prev_state".into(), before.bit().into());
            call(topic, None, args);
        }
        calls
    }

    /// What plugins put out for a job.
    fn take_answer(&mut self, now: f64, call: &Call, answer: &Answer) {
        let id = call.id;
        if !call.topic.starts_with("job.") {
            return;
        }
        if let Some(Value::Object(annotations)) = answer.out.get("annotations") {
            self.annotate_pending(now, id, annotations);
        }
        if call.topic == "job.state.sched"
            && let Some(given) = answer.out.get("R")
        {
            match (ResourceSet::from_value(given), given) {
                (Ok(_), Value::Object(resources)) => self.give_resources(now, id, resources),
                (Err(error), _) => self.complain(now, id, &call.topic, &format!("R: {error}")),
                (Ok(_), _) => {}
            }
        }
        let Some(priority) = answer.out.get("priority") else {
            if call.topic == "job.state.priority" {
                self.calls.given.insert(id, Given::Nothing);
            }
            return;
        };
        let asked = matches!(
            call.topic.as_str(),
            "job.state.priority" | "job.priority.get"
        );
        let number = priority.as_i64();
        match number.map(|number| (number, u32::try_from(number))) {
            Some((PRIORITY_UNAVAILABLE, _)) if asked => {
                self.calls.given.insert(id, Given::Unavailable);
            }
            Some((_, Ok(priority))) if asked => {
                self.calls.given.insert(id, Given::Priority(priority));
            }
            Some((_, Ok(priority))) => {
                // Whatever they were told of, they may say the job is worth more now.
                self.give_priority(now, id, priority);
            }
            Some((PRIORITY_UNAVAILABLE, _)) => {}
            _ => {
                if call.topic == "job.state.priority" {
                    self.calls.given.insert(id, Given::Unavailable);
                }
                let note = format!("priority must be an integer from 0 to {}", u32::MAX);
                self.complain(now, id, &call.topic, &note);
            }
        }
    }

    fn complain(&mut self, now: f64, id: JobId, kind: &str, note: &str) {
        let owner = self.owner.unwrap_or(UserId(0));
        self.post(id, event::exception(now, kind, 4, owner, note));
    }

    /// Gives a pending job another priority.
    pub(crate) fn give_priority(&mut self, now: f64, id: JobId, priority: u32) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let pending = matches!(job.fold.state, State::Priority | State::Sched);
        let held = matches!(job.fold.urgency, crate::URGENCY_MAX | ..=0);
        if pending && !held && job.fold.priority != Some(priority) {
            self.post(id, event::priority(now, priority));
        }
    }

    pub(crate) fn ask_priority(&mut self, id: JobId) {
        if let Some(call) = self.call(id, "job.priority.get") {
            self.calls.wait_for(vec![call], Then::Prioritize(id));
        }
    }

    fn take_priority(&mut self, now: f64, id: JobId) {
        let given = self.calls.given.remove(&id);
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let priority = match given {
            Some(Given::Unavailable) => return,
            Some(Given::Priority(priority)) => priority,
            Some(Given::Nothing) | None => match self.plugin_priority(job) {
                Some(priority) => priority,
                None => return,
            },
        };
        self.give_priority(now, id, priority);
    }

    /// Asks plugins for the priorities of all pending jobs anew.
    pub fn reprioritize_all(&mut self) {
        let pending = self
            .active
            .values()
            .filter(|job| matches!(job.fold.state, State::Priority | State::Sched))
            .filter(|job| !matches!(job.fold.urgency, crate::URGENCY_MAX | ..=0));
        let ids: Vec<JobId> = pending.map(|job| job.id).collect();
        for id in ids {
            self.defer(Work::Prioritize(id));
        }
    }

    /// A job is over.
    pub(crate) fn tell_end(&mut self, job: &Job) {
        self.calls.given.remove(&job.id);
        self.calls.subscribers.remove(&job.id);
        let topics = ["job.inactive-add", "job.destroy"];
        let calls: Vec<Call> = topics
            .into_iter()
            .filter(|topic| self.calls.wants(topic))
            .map(|topic| Call {
                id: job.id,
                topic: topic.to_owned(),
                plugin: None,
                args: args_of(job),
            })
            .collect();
        if !calls.is_empty() {
            self.defer(Work::Tell(calls));
        }
    }

    /// Whether an event is posted but not worked off.
    pub(crate) fn is_posted(&self, id: JobId, name: &str) -> bool {
        // Without plugins what is posted follows at once.
        !self.calls.topics.is_empty() && self.posted(id).any(|entry| entry.name == name)
    }

    /// The events of a job that are posted but not worked off.
    pub(crate) fn posted(&self, id: JobId) -> impl Iterator<Item = &Entry> {
        let held = self.calls.held.as_ref().filter(|held| held.0 == id);
        let held = held.into_iter().flat_map(|(_, work)| work);
        held.chain(&self.work)
            .chain(&self.calls.fresh)
            .filter_map(move |work| match work {
                Work::Post(post) if post.id == id => Some(&post.entry),
                _ => None,
            })
    }
}

/// New jobs that plugins in files have to let in, and jobs new plugins have to know of.
impl Jobs {
    /// Lets a job in as far as our own plugins do. What it posts waits for [`Jobs::accept`] or
    /// [`Jobs::reject`]. Returns what to ask. Errors are texts for who submits it.
    pub fn admit(&mut self, now: f64, new: NewJob) -> Result<Vec<Call>, String> {
        let id = new.id;
        self.calls.held = Some((id, Vec::new()));
        if let Err(text) = self.submit_one(now, new) {
            self.calls.held = None;
            return Err(text);
        }
        let mut calls = self.introduction(id, &["job.create", "job.validate"]);
        calls.extend(self.dependency_calls(id));
        calls.extend(self.introduction(id, &["job.new"]));
        Ok(calls)
    }

    fn introduction(&self, id: JobId, topics: &[&str]) -> Vec<Call> {
        let wanted = topics.iter().filter(|topic| self.calls.wants(topic));
        wanted.filter_map(|topic| self.call(id, topic)).collect()
    }

    /// What plugins in files are asked about the dependencies only they know.
    fn dependency_calls(&self, id: JobId) -> Vec<Call> {
        let Some(job) = self.active.get(&id) else {
            return Vec::new();
        };
        let foreign = self.foreign_dependencies(job);
        let calls = foreign.into_iter().map(|(scheme, dependency)| {
            let mut args = args_of(job);
            args.insert("dependency".into(), dependency);
            Call {
                id,
                topic: format!("job.dependency.{scheme}"),
                plugin: None,
                args,
            }
        });
        calls.collect()
    }

    /// Whether an answer to [`Jobs::admit`]'s calls refuses the job, and why.
    pub fn refusal(&self, call: &Call, answer: &Answer) -> Option<String> {
        if !answer.handled
            && let Some(scheme) = call.topic.strip_prefix("job.dependency.")
        {
            return Some(format!("dependency scheme \"{scheme}\" not supported"));
        }
        let refused = answer.failed.then(|| answer.error())?;
        Some(
            refused
                .unwrap_or("rejected by job-manager plugin")
                .to_owned(),
        )
    }

    /// Takes what a plugin put out for a job it lets in.
    pub fn on_introduced(&mut self, now: f64, call: &Call, answer: &Answer) {
        self.take_answer(now, call, answer);
    }

    /// The job is in.
    pub fn accept(&mut self, now: f64, out: &mut Effects) {
        if let Some((_, work)) = self.calls.held.take() {
            self.work.extend(work);
        }
        self.settle(now, out);
    }

    /// The job is out, as if it had never been there.
    pub fn reject(&mut self, now: f64, out: &mut Effects) {
        let Some((id, _)) = self.calls.held.take() else {
            return;
        };
        if let Some(job) = self.active.remove(&id) {
            self.withdraw_new(now, &job);
            self.calls.subscribers.remove(&id);
            self.calls.given.remove(&id);
            if self.calls.wants("job.destroy") {
                let call = Call {
                    id,
                    topic: "job.destroy".into(),
                    plugin: None,
                    args: args_of(&job),
                };
                self.work.push_back(Work::Tell(vec![call]));
            }
        }
        self.settle(now, out);
    }

    /// Answers a batch of jobs once those let in are durable.
    pub fn submitted(
        &mut self,
        now: f64,
        token: Token,
        errors: Vec<(JobId, String)>,
        out: &mut Effects,
    ) {
        let reply = Reply::Submitted(errors);
        let effect = crate::Effect::Reply(token, reply);
        self.work.push_back(Work::Effect(effect));
        self.settle(now, out);
    }

    /// What a plugin that was just loaded is told of an active job.
    pub fn introduce(&self, id: JobId, plugin: &str) -> Vec<Call> {
        let mut calls = self.introduction(id, &["job.create", "job.new"]);
        let state = self.active.get(&id).map(|job| job.fold.state);
        if matches!(state, Some(State::New | State::Depend)) {
            calls.extend(self.dependency_calls(id));
        }
        let topic = match state {
            Some(State::Depend) => "job.state.depend",
            Some(State::Priority) => "job.state.priority",
            _ => "",
        };
        calls.extend(self.introduction(id, &[topic]));
        for call in &mut calls {
            call.plugin = Some(plugin.to_owned());
            // Nothing has happened, but they may count on it.
            if call.topic.starts_with("job.state.")
                && let Some(bit) = state.map(State::bit)
            {
                call.args.insert("prev_state".into(), bit.into());
            }
        }
        calls
    }

    /// Notes that no plugin is there for a dependency of a job.
    pub fn note_stuck(&mut self, now: f64, id: JobId, scheme: &str) {
        let note = format!("dependency {scheme} is not handled: job may be stuck in DEPEND state");
        self.complain(now, id, "dependency", &note);
    }

    /// Goes on with a job a new plugin was told of.
    pub fn introduced(&mut self, now: f64, id: JobId) {
        match self.active.get(&id).map(|job| job.fold.state) {
            Some(State::Priority) if self.calls.given.contains_key(&id) => {
                self.prioritize(now, id);
            }
            Some(State::Sched) if self.calls.wants("job.priority.get") => {
                self.work.push_back(Work::Prioritize(id));
            }
            _ => {}
        }
    }
}

/// What plugins are told of a job (flux-jobtap-plugins(7), arguments).
fn args_of(job: &Job) -> Object {
    let mut args = Object::new();
    args.insert("jobspec".into(), Value::Object((*job.jobspec).clone()));
    if let Some(resources) = &job.resources {
        args.insert("R".into(), Value::Object(Object::clone(resources)));
    }
    args.insert("id".into(), job.id.0.into());
    args.insert("userid".into(), job.fold.userid.0.into());
    args.insert("urgency".into(), job.fold.urgency.into());
    args.insert("state".into(), job.fold.state.bit().into());
    let priority = job.fold.priority.map_or(json!(-1), Value::from);
    args.insert("priority".into(), priority);
    args.insert("t_submit".into(), job.fold.t_submit().into());
    if job.fold.state >= State::Cleanup
        && let Some(entry) = end_event(&job.log)
    {
        args.insert("end_event".into(), entry.to_value());
    }
    args
}

/// What plugins are told of a job that is no longer here, from its eventlog and jobspec. `None` if
/// they are none.
pub fn past_args(id: JobId, log: &[u8], jobspec: &[u8]) -> Option<Object> {
    let entries = eventlog::decode(log).ok()?;
    let fold = Fold::replay(&entries).ok()?;
    let mut jobspec: Object = serde_json::from_slice(jobspec).ok()?;
    crate::apply_updates(&entries, Some(&mut jobspec), None);
    let mut job = Job::new(id, fold, std::rc::Rc::new(jobspec));
    job.log = String::from_utf8(log.to_vec()).ok()?;
    Some(args_of(&job))
}

/// The event that ended a job.
fn end_event(log: &str) -> Option<Entry> {
    let entries = eventlog::decode(log.as_bytes()).ok()?;
    let mut entries = entries.into_iter();
    let mut fold = Fold::submitted(&entries.next()?).ok()?;
    entries.find(|entry| fold.apply(entry).is_ok() && fold.state >= State::Cleanup)
}
