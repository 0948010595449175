//! The job manager's links: to the scheduler (RFC 27) and to the exec service (RFC 32).

use std::rc::Rc;

use serde_json::{Value, json};
use types::{Errno, JobId, UserId};

use crate::alloc::{Alloc, SchedMode};
use crate::fold::State;
use crate::manager::{Job, Jobs, Start};
use crate::{Attachment, Effect, Effects, Object, Refusal, event};

/// The scheduler.
impl Jobs {
    /// Jobs that hold resources the scheduler gave them.
    pub fn sched_hello(&self) -> impl Iterator<Item = &Job> {
        self.active
            .values()
            .filter(|job| job.fold.has_resources && !job.fold.bypass)
    }

    /// A scheduler is there. Returns how many jobs wait.
    pub fn sched_ready(&mut self, now: f64, mode: SchedMode, out: &mut Effects) -> usize {
        self.alloc.mode = Some(mode);
        let count = self.alloc.queued_len();
        let waiting: Vec<JobId> = self
            .active
            .values()
            .filter(|job| job.fold.state == State::Cleanup && job.fold.has_resources)
            .map(|job| job.id)
            .collect();
        for id in waiting {
            self.clean_up(now, id, out);
        }
        self.settle(now, out);
        count
    }

    /// The scheduler is gone: what it was asked is asked again when there is one.
    pub fn sched_lost(&mut self, now: f64, out: &mut Effects) {
        self.alloc.reset();
        let asked: Vec<JobId> = self
            .active
            .values()
            .filter(|job| matches!(job.alloc, Alloc::Pending | Alloc::Canceling))
            .map(|job| job.id)
            .collect();
        for id in asked {
            self.request_gone(now, id, out);
        }
        self.settle(now, out);
    }

    /// A request ended without resources.
    fn request_gone(&mut self, now: f64, id: JobId, out: &mut Effects) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        job.alloc = Alloc::Idle;
        let annotated = job
            .fold
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key("sched"));
        if annotated {
            let mut clear = Object::new();
            clear.insert("sched".into(), Value::Null);
            self.annotate(now, id, &clear);
        }
        match self.active.get(&id).map(|job| job.fold.state) {
            Some(State::Sched) => self.enqueue(id),
            Some(State::Cleanup) => self.clean_up(now, id, out),
            _ => {}
        }
    }

    /// Somebody but the scheduler has something to tell about a pending job.
    pub(crate) fn annotate_pending(&mut self, now: f64, id: JobId, update: &Object) {
        let pending = |job: &Job| job.fold.state < State::Run;
        if self.active.get(&id).is_some_and(pending) {
            self.annotate(now, id, update);
        }
    }

    fn annotate(&mut self, now: f64, id: JobId, update: &Object) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        job.fold.annotate(update);
        job.annotated = true;
        let entry = event::annotations(now, job.fold.annotations.as_deref());
        self.post_with(id, entry, false, Attachment::None);
    }

    /// Takes a job's request off the scheduler's list. `None` if it is unknown.
    fn answered(&mut self, id: JobId) -> Option<&mut Job> {
        let job = self.active.get_mut(&id)?;
        match job.alloc {
            Alloc::Pending => self.alloc.answered(job.fold.priority.unwrap_or(0), id),
            Alloc::Canceling => self.alloc.canceled(),
            Alloc::Idle | Alloc::Queued => return None,
        }
        job.alloc = Alloc::Idle;
        Some(job)
    }

    /// The scheduler gave a job resources.
    pub fn on_alloc(
        &mut self,
        now: f64,
        id: JobId,
        mut resources: Object,
        annotations: Option<&Object>,
        out: &mut Effects,
    ) {
        // The scheduler's own data stays in the KVS.
        resources.shift_remove("scheduling");
        let resources = Rc::new(resources);
        let Some(job) = self.answered(id) else {
            out.push(Effect::Free { id, resources });
            return;
        };
        if job.fold.state != State::Sched {
            out.push(Effect::Free { id, resources });
            self.request_gone(now, id, out);
            return self.settle(now, out);
        }
        if let Some(annotations) = annotations {
            job.fold.annotate(annotations);
        }
        job.annotated = false;
        job.resources = Some(resources.clone());
        let entry = event::alloc(now, job.fold.annotations.as_deref(), false);
        self.post_with(id, entry, true, Attachment::Resources(resources));
        self.settle(now, out);
    }

    /// The scheduler has something to tell about a pending job.
    pub fn on_alloc_annotate(&mut self, now: f64, id: JobId, update: &Object, out: &mut Effects) {
        let pending = self.active.get(&id).map(|job| job.alloc);
        if pending == Some(Alloc::Pending) {
            self.annotate(now, id, update);
            self.settle(now, out);
        }
    }

    /// The scheduler says a job can never run.
    pub fn on_alloc_deny(&mut self, now: f64, id: JobId, note: &str, out: &mut Effects) {
        if self.answered(id).is_none() {
            return;
        }
        let owner = self.owner.unwrap_or(UserId(0));
        self.post(id, event::exception(now, "alloc", 0, owner, note));
        if self
            .active
            .get(&id)
            .is_some_and(|job| job.fold.state == State::Cleanup)
        {
            self.clean_up(now, id, out);
        }
        self.settle(now, out);
    }

    /// The scheduler dropped a request.
    pub fn on_alloc_canceled(&mut self, now: f64, id: JobId, out: &mut Effects) {
        if self.answered(id).is_some() {
            self.request_gone(now, id, out);
            self.settle(now, out);
        }
    }
}

/// The exec service.
impl Jobs {
    /// An exec service is there. Errors: `EINVAL` while it has a job.
    pub fn exec_hello(&mut self, now: f64, out: &mut Effects) -> Result<(), Refusal> {
        if self.active.values().any(|job| job.start == Start::Sent) {
            return Err(Refusal::new(Errno::EINVAL, ""));
        }
        self.exec_online = true;
        let waiting: Vec<JobId> = self
            .active
            .values()
            .filter(|job| job.start == Start::Waiting)
            .map(|job| job.id)
            .collect();
        for id in waiting {
            self.start(now, id, out);
        }
        self.settle(now, out);
        Ok(())
    }

    /// The exec service is gone, and its jobs with it.
    pub fn exec_lost(&mut self, now: f64, out: &mut Effects) {
        self.exec_online = false;
        let sent: Vec<JobId> = self
            .active
            .values()
            .filter(|job| job.start == Start::Sent)
            .map(|job| job.id)
            .collect();
        for id in sent {
            let Some(job) = self.active.get_mut(&id) else {
                continue;
            };
            job.start = Start::Waiting;
            let state = job.fold.state;
            self.debug(now, id, "start-lost", json!({"note": "disconnect"}));
            if state == State::Cleanup {
                self.clean_up(now, id, out);
            }
        }
        self.settle(now, out);
    }

    fn of_exec(&mut self, id: JobId) -> Option<&mut Job> {
        self.active
            .get_mut(&id)
            .filter(|job| job.start == Start::Sent)
    }

    /// A job's tasks run.
    pub fn on_start(&mut self, now: f64, id: JobId, out: &mut Effects) {
        if self.of_exec(id).is_some() {
            self.post(id, event::plain(now, "start"));
            self.settle(now, out);
        }
    }

    /// The exec service has found a job that ran before it began.
    pub fn on_reattached(&mut self, now: f64, id: JobId, out: &mut Effects) {
        if self.of_exec(id).is_some() {
            self.debug(now, id, "exec-reattach-finish", Value::Null);
            self.settle(now, out);
        }
    }

    /// A job's tasks ended.
    pub fn on_finish(&mut self, now: f64, id: JobId, status: i32, out: &mut Effects) {
        if self.of_exec(id).is_some() {
            self.post(id, event::finish(now, status));
            self.settle(now, out);
        }
    }

    /// Ranks are free of a job's tasks.
    pub fn on_release(&mut self, now: f64, id: JobId, ranks: &str, last: bool, out: &mut Effects) {
        let Some(job) = self.of_exec(id) else { return };
        if last {
            job.start = Start::Idle;
        }
        self.post(id, event::release(now, ranks, last));
        self.settle(now, out);
    }

    /// The exec service raised an exception.
    pub fn on_exception(
        &mut self,
        now: f64,
        id: JobId,
        kind: &str,
        severity: i32,
        note: &str,
        out: &mut Effects,
    ) {
        if self.active.contains_key(&id) {
            let owner = self.owner.unwrap_or(UserId(0));
            self.post(id, event::exception(now, kind, severity, owner, note));
            self.settle(now, out);
        }
    }
}
