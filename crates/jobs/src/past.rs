//! Jobs from before: what is kept of those that are over, and how stored jobs come back.

use std::ops::RangeBounds;
use std::rc::Rc;

use spec::{Entry, eventlog};
use types::{JobId, UserId};

use crate::depend::Progress;
use crate::fold::{Fold, FoldError, State};
use crate::list::{Described, Listed, Placed};
use crate::manager::{Job, Jobs};
use crate::record::Record;
use crate::update::apply_updates;
use crate::{Effects, Object, event, flags};

/// What is kept of an inactive job.
#[derive(Clone, Debug)]
pub struct Past {
    /// Whose it was.
    pub userid: UserId,
    /// When it became inactive.
    pub t_inactive: f64,
    pub(crate) started: bool,
    pub(crate) success: bool,
    pub(crate) excepted: bool,
    record: Record,
}

impl Past {
    /// All there is to say about it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            started: self.started,
            inactive: true,
            success: self.success,
            excepted: self.excepted,
        }
    }
}

/// Inactive jobs.
impl Jobs {
    /// An inactive job.
    pub fn past(&self, id: JobId) -> Option<&Past> {
        self.inactive.get(&id)
    }

    /// The ids of inactive jobs.
    pub fn inactive(&self) -> impl ExactSizeIterator<Item = JobId> {
        self.inactive.keys().copied()
    }

    /// What is kept of the inactive jobs among these.
    pub fn records(&self, ids: impl RangeBounds<JobId>) -> impl Iterator<Item = &Record> {
        self.inactive.range(ids).map(|(_, past)| past.record())
    }

    /// Whether some of these jobs are active.
    pub fn are_active(&self, ids: impl RangeBounds<JobId>) -> bool {
        self.active.range(ids).next().is_some()
    }

    pub(crate) fn bury(&mut self, job: &Job) {
        // What the eventlog does not tell, a restart would not find.
        let replayed = job.annotated.then(|| eventlog::decode(job.log.as_bytes()));
        let replayed = replayed.and_then(|entries| Fold::replay(&entries.ok()?).ok());
        let fold = replayed.unwrap_or_else(|| job.fold.clone());
        let (placed, expiration) = job.resources.as_deref().and_then(Placed::read).unzip();
        self.keep(Record::new(&Listed {
            id: job.id,
            expiration: fold.expiration.or(expiration),
            fold,
            described: Rc::new(Described::read(&job.jobspec)),
            placed: placed.map(Rc::new),
        }));
    }

    fn keep(&mut self, record: Record) {
        let Listed { id, fold, .. } = record.outline();
        let t_inactive = fold.time_of(State::Inactive).unwrap_or_default();
        let past = Past {
            userid: fold.userid,
            t_inactive,
            started: fold.started,
            success: fold.is_success(),
            excepted: fold.is_excepted(),
            record,
        };
        self.by_age.insert((t_inactive.max(0.0).to_bits(), id));
        self.inactive.insert(id, past);
    }
}

/// Restart.
impl Jobs {
    /// Puts a job back from its stored log, jobspec and resources, without acting.
    /// Errors: see [`FoldError`].
    pub fn restore(
        &mut self,
        id: JobId,
        log: &str,
        entries: &[Entry],
        mut jobspec: Object,
        mut resources: Option<Object>,
    ) -> Result<(), FoldError> {
        let fold = Fold::replay(entries)?;
        apply_updates(entries, Some(&mut jobspec), resources.as_mut());
        self.raise_max_jobid(id);
        self.history.entry(fold.userid).or_default().insert(id);
        let mut job = Job::new(id, fold, Rc::new(jobspec));
        job.read_jobspec();
        job.resources = resources.map(|mut resources| {
            resources.shift_remove("scheduling");
            Rc::new(resources)
        });
        if job.fold.state == State::Inactive {
            if job.is_waitable() {
                let result = crate::requests::wait_result(&job.fold);
                self.zombies.insert(id, result);
            }
            self.bury(&job);
            return Ok(());
        }
        job.log = log.to_owned();
        if matches!(job.fold.state, State::Run | State::Cleanup) {
            self.running += 1;
        }
        self.waitables += usize::from(job.is_waitable());
        self.active.insert(id, job);
        Ok(())
    }

    /// Puts an inactive job back from its record: the same as [`Jobs::restore`] from its log.
    pub fn restore_record(&mut self, record: Record) {
        let Listed { id, fold, .. } = record.outline();
        self.raise_max_jobid(id);
        self.history.entry(fold.userid).or_default().insert(id);
        if fold.flags & flags::WAITABLE != 0 {
            let result = crate::requests::wait_result(&fold);
            self.zombies.insert(id, result);
        }
        self.keep(record);
    }

    /// Acts on every restored job, once all are there.
    pub fn restored(&mut self, now: f64, out: &mut Effects) {
        let ids: Vec<(JobId, State)> = self
            .active
            .values()
            .map(|job| (job.id, job.fold.state))
            .collect();
        for &(id, state) in &ids {
            if matches!(state, State::New | State::Depend) {
                self.resume_dependencies(now, id);
            }
            self.register_name(now, id, false);
        }
        for &(id, _) in &ids {
            self.register_name(now, id, true);
        }
        for (id, state) in ids {
            match state {
                State::New => self.post(id, event::plain(now, "validate")),
                State::Depend => {
                    let free = self
                        .active
                        .get(&id)
                        .is_some_and(|job| job.fold.dependencies.is_empty());
                    if free {
                        self.post(id, event::plain(now, "depend"));
                    }
                }
                State::Priority => self.prioritize(now, id),
                State::Sched => self.post(id, event::plain(now, "flux-restart")),
                State::Run => {
                    self.resume_scripts(now, id, out);
                    self.start(now, id, out);
                }
                State::Cleanup => {
                    self.resume_scripts(now, id, out);
                    self.clean_up(now, id, out);
                }
                State::Inactive => {}
            }
        }
        self.settle(now, out);
    }

    /// Counts a job among its namesakes: first those that run, then the singletons that wait.
    fn register_name(&mut self, now: f64, id: JobId, waiting: bool) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let waits = job.fold.dependencies.iter().any(|d| &**d == "singleton");
        if let Some(name) = &job.name
            && waits == waiting
            && !self.dependencies.named(job.fold.userid, name, id, waits)
            && waits
        {
            self.post(id, event::dependency(now, "dependency-remove", "singleton"));
        }
    }
}
