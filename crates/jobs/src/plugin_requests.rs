//! What plugins in files may ask of the engine, at any time (flux-jobtap-plugins(7)).
//!
//! What these post is worked off by [`Jobs::resume`], or once the answer that is out has come.

use spec::{Entry, eventlog};
use types::{Errno, JobId, UserId};

use crate::fold::{Outcome, State};
use crate::manager::{Job, Start};
use crate::{Effect, Effects, Jobs, Object, Refusal, event};

/// A part of a job's life that others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Before the job's tasks.
    Prolog,
    /// After them.
    Epilog,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Prolog => "prolog",
            Action::Epilog => "epilog",
        }
    }
}

/// The parts of a jobspec that may change (RFC 21, `jobspec-update`).
const UPDATABLE: [&str; 3] = ["attributes", "resources", "tasks"];

fn refuse<T>(errno: Errno, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(errno, text))
}

impl Jobs {
    fn known(&self, id: JobId) -> Result<&Job, Refusal> {
        let job = self.active.get(&id);
        job.ok_or_else(|| Refusal::new(Errno::ENOENT, "unknown job id"))
    }

    /// An active job that events may be posted to. Errors: `ENOENT`; `EINVAL` if it is over.
    fn open(&self, id: JobId) -> Result<&Job, Refusal> {
        let job = self.known(id)?;
        match job.fold.state {
            State::Inactive => refuse(Errno::EINVAL, "job is inactive"),
            _ => Ok(job),
        }
    }

    /// Gives a pending job a priority. Errors: `ENOENT`, `EINVAL`.
    pub fn plugin_reprioritize(
        &mut self,
        now: f64,
        id: JobId,
        priority: u32,
    ) -> Result<(), Refusal> {
        let state = self.known(id)?.fold.state;
        if !matches!(state, State::Priority | State::Sched) {
            return refuse(Errno::EINVAL, "job is not pending");
        }
        self.give_priority(now, id, priority);
        Ok(())
    }

    /// The dependencies of a job, with what is posted.
    fn dependencies_to_be(&self, job: &Job) -> Vec<String> {
        let mut all: Vec<String> = job
            .fold
            .dependencies
            .iter()
            .map(|d| d.to_string())
            .collect();
        for entry in self.posted(job.id) {
            let Some(description) = entry.get_str("description") else {
                continue;
            };
            match entry.name.as_str() {
                "dependency-add" => all.push(description.to_owned()),
                "dependency-remove" => all.retain(|known| known != description),
                _ => {}
            }
        }
        all
    }

    /// Holds a job back. One that has or had this dependency stays as it is. Errors: `ENOENT`;
    /// `EINVAL` once it is too late.
    pub fn plugin_add_dependency(
        &mut self,
        now: f64,
        id: JobId,
        description: &str,
    ) -> Result<(), Refusal> {
        let job = self.known(id)?;
        if job.fold.state > State::Depend {
            return refuse(Errno::EINVAL, "job has no dependencies any more");
        }
        let added = |entry: &Entry| {
            entry.name == "dependency-add" && entry.get_str("description") == Some(description)
        };
        if log_of(job).iter().any(added) || self.posted(id).any(added) {
            return Ok(());
        }
        self.post(id, event::dependency(now, "dependency-add", description));
        Ok(())
    }

    /// Holds a job back no longer. Errors: `ENOENT` for the job or the dependency.
    pub fn plugin_remove_dependency(
        &mut self,
        now: f64,
        id: JobId,
        description: &str,
    ) -> Result<(), Refusal> {
        let job = self.known(id)?;
        let known = self.dependencies_to_be(job);
        if !known.iter().any(|known| known == description) {
            return refuse(Errno::ENOENT, "the job has no such dependency");
        }
        self.post(id, event::dependency(now, "dependency-remove", description));
        Ok(())
    }

    /// Sets a flag. Errors: `ENOENT`; `EINVAL` for one nobody knows.
    pub fn plugin_set_flag(&mut self, now: f64, id: JobId, flag: &str) -> Result<(), Refusal> {
        self.open(id)?;
        if !["debug", "waitable", "immutable", "alloc-bypass"].contains(&flag) {
            return refuse(Errno::EINVAL, format!("unknown job flag: {flag}"));
        }
        self.post(id, event::set_flags(now, &[flag]));
        Ok(())
    }

    /// Raises an exception. Errors: `ENOENT`; `EPROTO` for type or severity.
    pub fn plugin_raise(
        &mut self,
        now: f64,
        id: JobId,
        kind: &str,
        severity: i32,
        note: &str,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        self.open(id)?;
        crate::requests::check_exception(kind, severity)?;
        let owner = self.owner.unwrap_or(UserId(0));
        let entry = event::raised(now, kind, severity, note, owner, None);
        self.post(id, entry);
        out.push(Effect::Excepted {
            id,
            kind: kind.to_owned(),
            severity,
            wait_status: None,
        });
        Ok(())
    }

    /// Posts an event. Errors: `ENOENT`; `EINVAL` for one that cannot follow what the eventlog has.
    pub fn plugin_post(&mut self, id: JobId, entry: Entry) -> Result<(), Refusal> {
        let job = self.open(id)?;
        if entry.name.is_empty() {
            return refuse(Errno::EINVAL, "an event needs a name");
        }
        let mut fold = job.fold.clone();
        for posted in self.posted(id).filter(|posted| posted.name != "submit") {
            // What cannot follow is dropped when its turn comes.
            let _dropped = fold.apply(posted);
        }
        if let Err(error) = fold.apply(&entry) {
            return refuse(Errno::EINVAL, error.to_string());
        }
        self.post(id, entry);
        Ok(())
    }

    /// Changes a pending job's jobspec. Errors: `ENOENT`; `EINVAL` for keys that are in none, or a
    /// job that runs.
    pub fn plugin_update(&mut self, now: f64, id: JobId, updates: Object) -> Result<(), Refusal> {
        let job = self.known(id)?;
        if job.fold.state >= State::Run {
            return refuse(Errno::EINVAL, "job is not pending");
        }
        let fixed = |key: &&String| {
            let part = key.split('.').next().unwrap_or_default();
            !UPDATABLE.contains(&part)
        };
        if let Some(key) = updates.keys().find(fixed) {
            return refuse(Errno::EINVAL, format!("{key} cannot be updated"));
        }
        self.post(id, event::jobspec_update(now, updates));
        Ok(())
    }

    /// How a job ended. Errors: `ENOENT`; `EINVAL` if it has not.
    pub fn plugin_result(&self, id: JobId) -> Result<Outcome, Refusal> {
        let job = self.known(id)?;
        match job.fold.state >= State::Cleanup {
            true => Ok(job.fold.outcome()),
            false => refuse(Errno::EINVAL, "job has not ended"),
        }
    }

    /// Whether a job's eventlog has an event. Errors: `ENOENT`.
    pub fn plugin_has_event(&self, id: JobId, name: &str) -> Result<bool, Refusal> {
        let job = self.known(id)?;
        Ok(log_of(job).iter().any(|entry| entry.name == name))
    }

    /// Lets a plugin follow a job's events. Errors: `ENOENT`.
    pub fn plugin_subscribe(&mut self, plugin: &str, id: JobId) -> Result<(), Refusal> {
        self.known(id)?;
        self.calls.subscribe(plugin, id);
        Ok(())
    }

    /// Ends that.
    pub fn plugin_unsubscribe(&mut self, plugin: &str, id: JobId) {
        self.calls.unsubscribe(plugin, id);
    }

    /// Holds up a job's start, or the end of its clean-up. Errors: `ENOENT`; `EINVAL` once it is
    /// too late, and for an epilog while it is too early.
    pub fn plugin_start_action(
        &mut self,
        now: f64,
        id: JobId,
        action: Action,
        description: &str,
    ) -> Result<(), Refusal> {
        let job = self.known(id)?;
        let in_time = match action {
            Action::Prolog => job.fold.state < State::Cleanup && job.start != Start::Sent,
            Action::Epilog => job.fold.state == State::Cleanup && !job.cleaned && !job.fold.freed,
        };
        if !in_time {
            let text = format!("no {} can start in this state", action.name());
            return refuse(Errno::EINVAL, text);
        }
        let name = format!("{}-start", action.name());
        self.post(id, event::action_start(now, &name, description));
        Ok(())
    }

    /// Ends that. Errors: `ENOENT`.
    pub fn plugin_finish_action(
        &mut self,
        now: f64,
        id: JobId,
        action: Action,
        description: &str,
        status: i32,
    ) -> Result<(), Refusal> {
        self.open(id)?;
        let name = format!("{}-finish", action.name());
        self.post(id, event::action_finish(now, &name, description, status));
        Ok(())
    }

    /// A plugin gives a job resources: it does without the scheduler.
    pub(crate) fn give_resources(&mut self, now: f64, id: JobId, resources: &Object) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        if job.resources.is_some() || job.fold.state != State::Sched {
            return;
        }
        let mut kept = resources.clone();
        kept.shift_remove("scheduling");
        job.resources = Some(std::rc::Rc::new(kept));
        self.keep_own_resources(now, id, resources.clone());
        self.bypass(now, id);
    }
}

fn log_of(job: &Job) -> Vec<Entry> {
    // Our own log, which was encoded from entries.
    eventlog::decode(job.log.as_bytes()).unwrap_or_default()
}
