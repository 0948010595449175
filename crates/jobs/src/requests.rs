//! What people ask of jobs: exceptions, signals, urgencies, notes, waiting, queues, history.

use types::{Cred, Errno, JobId, UserId, describe_signal};

use crate::alloc::Alloc;
use crate::fold::{Fold, State};
use crate::manager::Job;
use crate::plugins::Plugin;
use crate::update::update_jobspec;
use crate::{
    Attachment, Effect, Effects, Jobs, Object, Refusal, Reply, Token, URGENCY_DEFAULT, URGENCY_MAX,
    event, slice,
};

/// Some jobs.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Whose; `None` for everybody's.
    pub userid: Option<UserId>,
    /// State bits.
    pub states: i32,
}

/// The constraint that a queue with these properties puts on its jobs.
fn constraints(properties: &[String]) -> serde_json::Value {
    serde_json::json!({ "properties": properties })
}

fn refuse<T>(errno: Errno, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(errno, text))
}

impl Jobs {
    /// The active job a request means. `missing` and `over` are the texts for those that are not.
    fn job(&self, id: JobId, errno: Errno, missing: &str, over: &str) -> Result<&Job, Refusal> {
        match self.active.get(&id) {
            Some(job) => Ok(job),
            None if self.inactive.contains_key(&id) => refuse(errno, over),
            None => refuse(errno, missing),
        }
    }

    /// Raises an exception. Errors: `EPROTO`, `ENOENT`, `EPERM`.
    #[expect(clippy::too_many_arguments, reason = "the parts of an exception")]
    pub fn raise(
        &mut self,
        now: f64,
        who: Cred,
        id: JobId,
        kind: &str,
        severity: i32,
        note: &str,
        wait_status: Option<i32>,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        check_exception(kind, severity)?;
        let job = self.job(id, Errno::ENOENT, "unknown job id", "job is inactive")?;
        if !who.may_act_for(job.fold.userid) {
            return refuse(
                Errno::EPERM,
                "guests can only raise exceptions on their own jobs",
            );
        }
        if job.fold.state == State::New && severity == 0 {
            // Nobody has been told this id yet.
            return refuse(Errno::ENOENT, "unknown job id");
        }
        self.except(now, who.userid, id, kind, severity, note, wait_status, out);
        self.settle(now, out);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of an exception")]
    fn except(
        &mut self,
        now: f64,
        userid: UserId,
        id: JobId,
        kind: &str,
        severity: i32,
        note: &str,
        wait_status: Option<i32>,
        out: &mut Effects,
    ) {
        let entry = event::raised(now, kind, severity, note, userid, wait_status);
        self.post(id, entry);
        out.push(Effect::Excepted {
            id,
            kind: kind.to_owned(),
            severity,
            wait_status,
        });
    }

    fn select(&self, which: Selection) -> Vec<JobId> {
        let matches = |job: &&Job| {
            job.fold.state.bit() & which.states != 0
                && which.userid.is_none_or(|userid| userid == job.fold.userid)
        };
        self.active
            .values()
            .filter(matches)
            .map(|job| job.id)
            .collect()
    }

    /// Raises an exception on many jobs. Returns how many matched. Errors: `EPROTO`, `EPERM`.
    #[expect(clippy::too_many_arguments, reason = "the parts of an exception")]
    pub fn raise_all(
        &mut self,
        now: f64,
        who: Cred,
        which: Selection,
        dry_run: bool,
        kind: &str,
        severity: i32,
        note: &str,
        out: &mut Effects,
    ) -> Result<usize, Refusal> {
        check_exception(kind, severity)?;
        if !who.is_owner() && which.userid != Some(who.userid) {
            return refuse(
                Errno::EPERM,
                "guests can only raise exceptions on their own jobs",
            );
        }
        let ids = self.select(which);
        if !dry_run {
            for &id in &ids {
                self.except(now, who.userid, id, kind, severity, note, None, out);
            }
            self.settle(now, out);
        }
        Ok(ids.len())
    }

    /// Signals a job's tasks. Errors: `EINVAL`, `EPERM`.
    pub fn kill(
        &self,
        who: Cred,
        id: JobId,
        signum: i32,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        check_signal(signum)?;
        let job = self.job(id, Errno::EINVAL, "unknown job id", "job is inactive")?;
        if !who.may_act_for(job.fold.userid) {
            return refuse(
                Errno::EPERM,
                "guests may only send signals to their own jobs",
            );
        }
        if !matches!(job.fold.state, State::Run | State::Cleanup) || job.fold.status.is_some() {
            return refuse(Errno::EINVAL, "job is not running");
        }
        out.push(Effect::Kill { id, signum });
        Ok(())
    }

    /// Signals the tasks of many jobs. Returns how many matched. Errors: `EINVAL`, `EPERM`.
    pub fn kill_all(
        &self,
        who: Cred,
        userid: Option<UserId>,
        dry_run: bool,
        signum: i32,
        out: &mut Effects,
    ) -> Result<usize, Refusal> {
        check_signal(signum)?;
        if !who.is_owner() && userid != Some(who.userid) {
            return refuse(Errno::EPERM, "guests can only kill their own jobs");
        }
        let ids = self.select(Selection {
            userid,
            states: State::Run.bit(),
        });
        if !dry_run {
            out.extend(ids.iter().map(|&id| Effect::Kill { id, signum }));
        }
        Ok(ids.len())
    }

    /// Changes a pending job's urgency. Returns the former. Errors: `EINVAL`, `EPERM`.
    pub fn set_urgency(
        &mut self,
        now: f64,
        who: Cred,
        id: JobId,
        urgency: i32,
        out: &mut Effects,
    ) -> Result<i32, Refusal> {
        if !(0..=URGENCY_MAX).contains(&urgency) {
            return refuse(Errno::EINVAL, "urgency value is out of range");
        }
        let job = self.job(id, Errno::EINVAL, "unknown job", "job is inactive")?;
        if !who.may_act_for(job.fold.userid) {
            return refuse(Errno::EPERM, "guests can only reprioritize their own jobs");
        }
        let old = job.fold.urgency;
        if !who.is_owner() && urgency > old.max(URGENCY_DEFAULT) {
            return refuse(Errno::EPERM, "guests can only adjust urgency <= default");
        }
        if job.fold.has_resources || job.fold.state > State::Sched {
            let text = "urgency cannot be changed once resources are allocated";
            return refuse(Errno::EINVAL, text);
        }
        self.post(id, event::urgency(now, who.userid, urgency));
        self.settle(now, out);
        Ok(old)
    }

    /// Notes something on a job. Errors: `ENOENT`, `EPERM`.
    pub fn memo(
        &mut self,
        now: f64,
        who: Cred,
        id: JobId,
        memo: Object,
        is_volatile: bool,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        let job = self.job(id, Errno::ENOENT, "unknown job id", "job is inactive")?;
        if !who.may_act_for(job.fold.userid) {
            return refuse(Errno::EPERM, "guests can only add a memo to their own jobs");
        }
        self.post_with(id, event::memo(now, memo), !is_volatile, Attachment::None);
        self.settle(now, out);
        Ok(())
    }

    /// Whether one of our own plugins is there for updates of this key.
    pub fn updates(&self, key: &str) -> bool {
        match key {
            "attributes.system.duration" => self.plugins.has(Plugin::UpdateDuration),
            "attributes.system.queue" => self.plugins.has(Plugin::UpdateQueue),
            _ => false,
        }
    }

    /// Checks an update of a job's jobspec. Returns the running job's new expiration, which the
    /// scheduler must accept first. `others` are keys that plugins in files see to.
    /// Errors: `ENOENT`, `EINVAL`, `EPERM`.
    pub fn check_update(
        &self,
        now: f64,
        who: Cred,
        id: JobId,
        updates: &Object,
        others: &[String],
    ) -> Result<Option<f64>, Refusal> {
        let job = match self.active.get(&id) {
            Some(job) => job,
            None if self.inactive.contains_key(&id) => {
                return refuse(Errno::EINVAL, "job is inactive");
            }
            None => return refuse(Errno::ENOENT, "unknown job id"),
        };
        if !who.may_act_for(job.fold.userid) {
            return refuse(Errno::EPERM, "guests may only update their own jobs");
        }
        if job.fold.immutable && !who.is_owner() {
            let text = "job is immutable due to previous instance owner update";
            return refuse(Errno::EPERM, text);
        }
        let limited = !who.is_owner() || !self.plugins.owner_may_exceed_limits();
        let running = job.fold.state >= State::Run;
        let mut queue = job.queue.as_deref();
        let mut expiration = None;
        for (key, value) in updates {
            match (key.as_str(), value) {
                ("attributes.system.duration", value)
                    if self.plugins.has(Plugin::UpdateDuration) =>
                {
                    let duration = value.as_f64().unwrap_or(-1.0);
                    if duration < 0.0 {
                        return refuse(Errno::EINVAL, "duration must not be negative");
                    }
                    if running {
                        if limited {
                            let text =
                                "duration update of running job requires instance owner privileges";
                            return refuse(Errno::EPERM, text);
                        }
                        expiration = Some(new_expiration(self, job, now, duration)?);
                    }
                }
                ("attributes.system.queue", serde_json::Value::String(name))
                    if self.plugins.has(Plugin::UpdateQueue) =>
                {
                    self.check_queue(job, name, running)?;
                    queue = Some(name);
                }
                (key, _) if others.iter().any(|other| other == key) => {}
                (key, _) => {
                    return refuse(Errno::EINVAL, format!("update of {key} not supported"));
                }
            }
        }
        if limited && self.plugins.has(Plugin::LimitDuration) {
            let mut jobspec = (*job.jobspec).clone();
            update_jobspec(&mut jobspec, updates);
            let duration = updates
                .get("attributes.system.duration")
                .and_then(serde_json::Value::as_f64)
                .unwrap_or_else(|| job.duration());
            if let Err(text) = self.policy.check_duration(queue, duration) {
                return refuse(Errno::EINVAL, text);
            }
        }
        Ok(expiration)
    }

    fn check_queue(&self, job: &Job, name: &str, running: bool) -> Result<(), Refusal> {
        if running {
            let text = "update of queue for running job not supported";
            return refuse(Errno::EINVAL, text);
        }
        if job.queue.as_deref() == Some(name) {
            let text = format!("job queue is already set to {name}");
            return refuse(Errno::EINVAL, text);
        }
        if !self.queues.find(Some(name))?.enabled {
            return refuse(Errno::EINVAL, format!("queue {name} is currently disabled"));
        }
        let of_queue = constraints(self.policy.requires(job.queue.as_deref()));
        if job
            .system("constraints")
            .is_some_and(|own| *own != of_queue)
        {
            let text = format!(
                "job appears to have non-queue constraints, unable to update queue to {name}"
            );
            return refuse(Errno::EINVAL, text);
        }
        Ok(())
    }

    /// Adds to an update what follows from it: another queue wants other constraints.
    fn complete(&self, job: &Job, updates: &mut Object) {
        if let Some(serde_json::Value::String(name)) = updates.get("attributes.system.queue") {
            let old = self.policy.requires(job.queue.as_deref());
            let new = self.policy.requires(Some(name));
            if old != new {
                updates.insert("attributes.system.constraints".into(), constraints(new));
            }
        }
    }

    /// A job's jobspec as an update makes it.
    pub fn updated_jobspec(&self, id: JobId, updates: &Object) -> Option<Object> {
        let job = self.active.get(&id)?;
        let mut updates = updates.clone();
        self.complete(job, &mut updates);
        let mut jobspec = (*job.jobspec).clone();
        update_jobspec(&mut jobspec, &updates);
        Some(jobspec)
    }

    /// Carries out an update that [`Jobs::check_update`] and the scheduler accepted.
    pub fn update(
        &mut self,
        now: f64,
        who: Cred,
        id: JobId,
        mut updates: Object,
        expiration: Option<f64>,
        out: &mut Effects,
    ) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        self.complete(job, &mut updates);
        if who.is_owner() && job.fold.userid != who.userid {
            self.post(id, event::set_flags(now, &["immutable"]));
        }
        self.post(id, event::jobspec_update(now, updates));
        if let Some(expiration) = expiration {
            self.post(id, event::resource_update(now, expiration));
        }
        self.settle(now, out);
    }

    /// When the instance ends, 0 for never. Where that changes, running jobs without a duration of
    /// their own end with it. Returns the end known before, and these jobs with the end they had.
    pub fn set_instance_expiration(
        &mut self,
        now: f64,
        expiration: f64,
        out: &mut Effects,
    ) -> (Option<f64>, Vec<(JobId, f64)>) {
        let before = self.instance_expiration.replace(expiration);
        let mut jobs = Vec::new();
        if before.is_some_and(|before| before != expiration) {
            let follows = |job: &&Job| job.fold.state == State::Run && job.duration() == 0.0;
            let running = self.active.values().filter(follows);
            jobs.extend(running.map(|job| (job.id, job.expiration())));
        }
        for (id, _) in &jobs {
            self.post(*id, event::resource_update(now, expiration));
        }
        self.settle(now, out);
        (before, jobs)
    }

    // Waiting.

    /// Waits for a waitable job, or any. `Ok(Some)` if one is over already; otherwise `token` is
    /// answered when one is. Errors: `ECHILD`.
    pub fn wait(&mut self, id: Option<JobId>, token: Token) -> Result<Option<Reply>, Refusal> {
        let Some(id) = id else {
            if let Some((id, (success, error))) = self.zombies.pop_first() {
                return Ok(Some(Reply::Waited { id, success, error }));
            }
            let asked = self
                .active
                .values()
                .filter(|job| job.waiter.is_some())
                .count();
            if self.waitables <= self.waiters.len() + asked {
                return refuse(Errno::ECHILD, "there are no more waitable jobs");
            }
            self.waiters.push_back(token);
            return Ok(None);
        };
        if let Some((success, error)) = self.zombies.remove(&id) {
            return Ok(Some(Reply::Waited { id, success, error }));
        }
        let Some(job) = self.active.get_mut(&id) else {
            let text = "invalid job id, or job may be inactive and not waitable";
            return refuse(Errno::ECHILD, text);
        };
        if !job.is_waitable() {
            let text = "job was not submitted with FLUX_JOB_WAITABLE";
            return refuse(Errno::ECHILD, text);
        }
        if job.waiter.is_some() {
            return refuse(Errno::ECHILD, "job id already has a waiter");
        }
        job.waiter = Some(token);
        Ok(None)
    }

    /// Whoever asked with this token is gone.
    pub fn forget_token(&mut self, token: Token) {
        self.waiters.retain(|waiting| *waiting != token);
        self.drains.retain(|waiting| *waiting != token);
        self.idles.retain(|waiting| *waiting != token);
        for job in self.active.values_mut() {
            if job.waiter == Some(token) {
                job.waiter = None;
            }
        }
    }

    /// A waitable job is over.
    pub(crate) fn reap(&mut self, job: &Job, out: &mut Effects) {
        self.waitables = self.waitables.saturating_sub(1);
        let (success, error) = wait_result(&job.fold);
        match job.waiter.or_else(|| self.waiters.pop_front()) {
            Some(token) => {
                let id = job.id;
                out.push(Effect::Reply(token, Reply::Waited { id, success, error }));
            }
            None => drop(self.zombies.insert(job.id, (success, error))),
        }
    }

    /// Inactive jobs whose results wait to be fetched.
    pub fn zombies(&self) -> impl Iterator<Item = JobId> {
        self.zombies.keys().copied()
    }

    /// Asks to be told when no job is active.
    pub fn drain(&mut self, now: f64, token: Token, out: &mut Effects) {
        self.drains.push(token);
        self.settle(now, out);
    }

    /// Asks to be told when no job has resources and the scheduler no request.
    pub fn idle(&mut self, now: f64, token: Token, out: &mut Effects) {
        self.idles.push(token);
        self.settle(now, out);
    }

    // Queues.

    /// Opens or closes queues for jobs. Errors: `EINVAL`.
    pub fn queue_enable(
        &mut self,
        name: Option<&str>,
        enable: bool,
        reason: Option<&str>,
        all: bool,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        self.queues.enable(name, enable, reason, all)?;
        out.push(Effect::Checkpoint);
        Ok(())
    }

    /// Starts or stops scheduling. Errors: `EINVAL`.
    #[expect(clippy::too_many_arguments, reason = "the request's parts")]
    pub fn queue_start(
        &mut self,
        now: f64,
        name: Option<&str>,
        start: bool,
        reason: Option<&str>,
        all: bool,
        save: bool,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        self.queues.start(name, start, reason, all, save)?;
        if save {
            out.push(Effect::Checkpoint);
        }
        self.reschedule(now, out);
        Ok(())
    }

    // History.

    /// A slice of a user's jobs, the newest first. Errors: `EINVAL`, `ENOSYS` without the plugin.
    pub fn history(&self, userid: UserId, text: &str) -> Result<Vec<JobId>, Refusal> {
        self.plugins.require(Plugin::History)?;
        let jobs = self.history.get(&userid);
        let count = jobs.map_or(0, std::collections::BTreeSet::len);
        let Some(indices) = slice::indices(text, count) else {
            let text = "could not parse python-style slice expression";
            return refuse(Errno::EINVAL, text);
        };
        let newest: Vec<JobId> = jobs.into_iter().flatten().rev().copied().collect();
        Ok(indices.into_iter().map(|at| newest[at]).collect())
    }

    /// Inactive jobs to forget: older than `age` seconds, or beyond the newest `count`, the oldest
    /// first and at most `batch`. Returns how many there are in all.
    pub fn purge(
        &mut self,
        now: f64,
        age: Option<f64>,
        count: Option<usize>,
        batch: usize,
        force: bool,
        out: &mut Effects,
    ) -> usize {
        let excess = count.map_or(0, |count| self.inactive.len().saturating_sub(count));
        let old = |bits: u64| age.is_some_and(|age| now - f64::from_bits(bits) > age);
        let ids: Vec<JobId> = self
            .by_age
            .iter()
            .enumerate()
            .take_while(|(at, key)| *at < excess || old(key.0))
            .map(|(_, key)| key.1)
            .take(batch)
            .collect();
        if force && !ids.is_empty() {
            self.forget(&ids);
            out.push(Effect::Forget(ids.clone()));
        }
        ids.len()
    }

    /// Forgets one inactive job. Errors: `ENOENT`, `EINVAL`.
    pub fn purge_id(&mut self, id: JobId, force: bool, out: &mut Effects) -> Result<(), Refusal> {
        if self.active.contains_key(&id) {
            return refuse(Errno::EINVAL, "cannot purge active job");
        }
        if !self.inactive.contains_key(&id) {
            return refuse(Errno::ENOENT, "id not found");
        }
        if force {
            self.forget(&[id]);
            out.push(Effect::Forget(vec![id]));
        }
        Ok(())
    }

    fn forget(&mut self, ids: &[JobId]) {
        for id in ids {
            let Some(past) = self.inactive.remove(id) else {
                continue;
            };
            self.by_age
                .remove(&(past.t_inactive.max(0.0).to_bits(), *id));
            self.zombies.remove(id);
            if let Some(history) = self.history.get_mut(&past.userid) {
                history.remove(id);
            }
        }
    }

    /// Whether a job is in the alloc queue or with the scheduler.
    pub fn is_waiting(&self, id: JobId) -> bool {
        self.active
            .get(&id)
            .is_some_and(|job| matches!(job.alloc, Alloc::Queued | Alloc::Pending))
    }
}

fn new_expiration(jobs: &Jobs, job: &Job, now: f64, duration: f64) -> Result<f64, Refusal> {
    if duration == 0.0 {
        return Ok(jobs.instance_expiration.unwrap_or(0.0));
    }
    let start = job
        .resources
        .as_ref()
        .and_then(|r| r.get("execution")?.get("starttime")?.as_f64());
    let Some(start) = start else {
        return refuse(Errno::EINVAL, "unable to get job starttime");
    };
    let expiration = start + duration;
    if expiration < now {
        let text = "requested duration places job expiration in the past";
        return refuse(Errno::EINVAL, text);
    }
    Ok(expiration)
}

pub(crate) fn check_exception(kind: &str, severity: i32) -> Result<(), Refusal> {
    if !(0..=7).contains(&severity) {
        return refuse(Errno::EPROTO, "invalid exception severity");
    }
    if kind.is_empty() || kind.contains(|c: char| c.is_whitespace() || c == '=') {
        return refuse(Errno::EPROTO, "invalid exception type");
    }
    Ok(())
}

fn check_signal(signum: i32) -> Result<(), Refusal> {
    if (1..=64).contains(&signum) {
        return Ok(());
    }
    refuse(Errno::EINVAL, "Invalid signal number")
}

/// What waiting for a job yields: whether it ended well, and why not.
pub fn wait_result(fold: &Fold) -> (bool, String) {
    if fold.is_success() {
        return (true, String::new());
    }
    if let Some(exception) = fold.exception.as_ref().filter(|_| fold.is_excepted()) {
        let text = format!("Fatal exception type={} {}", exception.kind, exception.note);
        return (false, text.trim_end().to_owned());
    }
    let status = fold.status.unwrap_or(0);
    let text = match (status & 0x7f, (status >> 8) & 0xff) {
        (0, code) if code > 128 => format!("task(s) {}", describe_signal(code - 128)),
        (0, code) => format!("task(s) exited with exit code {code}"),
        (signum, _) => format!("job shell {}", describe_signal(signum)),
    };
    (false, text)
}
