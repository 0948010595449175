//! An index of all jobs that answers queries (RFC 43).
//!
//! Jobs are in three ordered sets (pending, running, inactive) whose concatenation is the order
//! of answers, and in indexes by user, so that a query walks only what it may return.

mod attributes;
mod constraint;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use serde_json::Value;
use spec::{Entry, Jobspec, ResourceSet};
use types::{JobId, UserId};

use crate::Object;
use crate::fold::{Fold, FoldError, Outcome, State};
use crate::record::Record;

pub use attributes::{ATTRIBUTES, Attribute};
pub use constraint::{Constraint, ConstraintError};

/// What the shell's option `per-resource` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PerResource {
    /// Nodes.
    Node,
    /// Cores.
    Core,
}

/// Reads the option. What is wrong about it is for the shell to say.
fn tasks_per(jobspec: &Jobspec) -> Option<(PerResource, u64)> {
    let option = jobspec.shell_option("per-resource")?;
    let kind = match option.get("type")?.as_str()? {
        "node" => PerResource::Node,
        "core" => PerResource::Core,
        _ => return None,
    };
    let count = option.get("count").map_or(Some(1), Value::as_u64)?;
    Some((kind, count))
}

/// What a job's jobspec says about it. Jobs alike share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Described {
    /// Its name.
    pub name: Option<Box<str>>,
    /// Its working directory.
    pub cwd: Option<Box<str>>,
    /// Its queue.
    pub queue: Option<Box<str>>,
    /// Its project.
    pub project: Option<Box<str>>,
    /// Its bank.
    pub bank: Option<Box<str>>,
    /// Its tasks, as far as the request fixes them.
    pub ntasks: Option<u64>,
    /// So many tasks for each node or core it has.
    pub tasks_per: Option<(PerResource, u64)>,
    /// Its cores.
    pub ncores: Option<u64>,
    /// Its nodes.
    pub nnodes: Option<u64>,
    /// Its duration in seconds, as bits; `None` if the jobspec is invalid.
    pub(crate) duration: Option<u64>,
    /// Descriptions of its dependencies.
    pub dependencies: Vec<Box<str>>,
}

impl Described {
    /// Reads a jobspec. An invalid one says nothing but what can be read all the same.
    pub(crate) fn read(jobspec: &Object) -> Described {
        let Ok(jobspec) = Jobspec::from_value(Value::Object(jobspec.clone())) else {
            return Described::default();
        };
        let text = |text: Option<&str>| text.map(Box::from);
        // Whole nodes have as many as they have.
        let whole = jobspec.slots().is_ok_and(|slots| slots.exclusive);
        let ncores = jobspec.ncores().filter(|_| !whole);
        Described {
            name: text(jobspec.name()),
            cwd: text(jobspec.cwd()),
            queue: text(jobspec.queue()),
            project: text(jobspec.project()),
            bank: text(jobspec.bank()),
            ntasks: jobspec.ntasks(),
            tasks_per: tasks_per(&jobspec),
            ncores: ncores.filter(|count| *count > 0),
            nnodes: jobspec.nnodes(),
            duration: Some(jobspec.duration_seconds().to_bits()),
            dependencies: Vec::new(),
        }
    }

    /// Its duration in seconds.
    pub fn duration(&self) -> Option<f64> {
        self.duration.map(f64::from_bits)
    }
}

/// What a job's resources say about it. Jobs on the same nodes share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Placed {
    /// Its ranks.
    pub ranks: Box<str>,
    /// Its nodes.
    pub nodelist: Box<str>,
    /// Its cores.
    pub ncores: u64,
    /// How many nodes.
    pub nnodes: u64,
}

impl Placed {
    /// Reads R, and the end of these resources. `None` if that is not R.
    pub(crate) fn read(resources: &Object) -> Option<(Placed, f64)> {
        let set = ResourceSet::from_value(&Value::Object(resources.clone())).ok()?;
        let placed = Placed {
            ranks: set.ranks().to_bracketed().into(),
            nodelist: set.nodelist().to_string().into(),
            ncores: set.count("core") as u64,
            nnodes: set.nnodes() as u64,
        };
        Some((placed, set.expiration))
    }
}

/// A job in the index.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its id.
    pub id: JobId,
    /// What its eventlog says.
    pub fold: Fold,
    /// What its jobspec says.
    pub described: Rc<Described>,
    /// What its resources say.
    pub placed: Option<Rc<Placed>>,
    /// The end of its resources.
    pub expiration: Option<f64>,
}

impl Listed {
    /// Its tasks.
    pub fn ntasks(&self) -> Option<u64> {
        let (described, placed) = (&self.described, &self.placed);
        let Some((kind, each)) = described.tasks_per else {
            return described.ntasks;
        };
        let count = match (kind, placed) {
            (PerResource::Node, Some(placed)) => Some(placed.nnodes),
            (PerResource::Core, Some(placed)) => Some(placed.ncores),
            (PerResource::Node, None) => described.nnodes,
            (PerResource::Core, None) => described.ncores,
        };
        count?.checked_mul(each)
    }
}

/// Where a job is in the order of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Pending(Reverse<u32>, JobId),
    Running(Reverse<u64>, JobId),
    Inactive(Reverse<u64>, JobId),
}

impl Place {
    fn id(self) -> JobId {
        match self {
            Place::Pending(_, id) | Place::Running(_, id) | Place::Inactive(_, id) => id,
        }
    }
}

fn place(job: &Listed) -> Place {
    let time = |state| {
        Reverse(
            job.fold
                .time_of(state)
                .unwrap_or_default()
                .max(0.0)
                .to_bits(),
        )
    };
    match job.fold.state {
        State::Run | State::Cleanup if job.fold.time_of(State::Run).is_some() => {
            Place::Running(time(State::Run), job.id)
        }
        State::Cleanup => Place::Running(time(State::Cleanup), job.id),
        State::Inactive => Place::Inactive(time(State::Inactive), job.id),
        _ => Place::Pending(Reverse(job.fold.priority.unwrap_or(0)), job.id),
    }
}

/// Job counts of the instance or one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`State::index`].
    pub states: [i64; 7],
    /// Ended well.
    pub successful: i64,
    /// Ended badly in any other way than the next two.
    pub failed: i64,
    /// Canceled.
    pub canceled: i64,
    /// Out of time.
    pub timeout: i64,
    /// Ended and forgotten.
    pub purged: i64,
}

impl Counts {
    fn count(&mut self, fold: &Fold, by: i64) {
        self.states[fold.state.index()] += by;
        if fold.state != State::Inactive {
            return;
        }
        match fold.outcome() {
            Outcome::Completed => self.successful += by,
            Outcome::Canceled => self.canceled += by,
            Outcome::Timeout => self.timeout += by,
            _ => self.failed += by,
        }
    }
}

/// What one query wants.
#[derive(Clone, Debug)]
pub struct Query {
    /// The condition.
    pub constraint: Constraint,
    /// At most this many; 0 for all.
    pub max_entries: usize,
    /// Only inactive jobs that became so after this.
    pub since: f64,
    /// At most this many conditions are tried; 0 for any number.
    pub comparisons_max: usize,
}

/// Too many conditions were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Excessive comparisons made, limit search via states or since")]
pub struct Excessive;

/// The index.
#[derive(Debug, Default)]
pub struct List {
    active: BTreeMap<JobId, Listed>,
    /// Jobs that are over, which are many.
    inactive: BTreeMap<JobId, Record>,
    order: BTreeSet<Place>,
    by_user: BTreeMap<UserId, BTreeSet<Place>>,
    described: HashSet<Rc<Described>>,
    placed: HashSet<Rc<Placed>>,
    counts: Counts,
    by_queue: BTreeMap<Box<str>, Counts>,
}

impl List {
    /// The number of jobs: pending, running, inactive.
    pub fn sizes(&self) -> [i64; 3] {
        let states = self.counts.states;
        [
            states[..4].iter().sum(),
            states[4..6].iter().sum(),
            states[6],
        ]
    }

    /// Counts of all jobs.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Counts of the jobs of each queue.
    pub fn queue_counts(&self) -> impl Iterator<Item = (&str, &Counts)> {
        self.by_queue.iter().map(|(name, counts)| (&**name, counts))
    }

    /// A job.
    pub fn get(&self, id: JobId) -> Option<Cow<'_, Listed>> {
        match self.active.get(&id) {
            Some(job) => Some(Cow::Borrowed(job)),
            None => self.inactive.get(&id).map(|job| Cow::Owned(job.job())),
        }
    }

    fn take(&mut self, id: JobId) -> Option<Listed> {
        let active = self.active.remove(&id);
        active.or_else(|| self.inactive.remove(&id).map(|record| record.job()))
    }

    /// Takes a job in that is over; one that is known stays as it is.
    pub fn remember(&mut self, record: Record) {
        let job = record.outline();
        if !self.active.contains_key(&job.id) && !self.inactive.contains_key(&job.id) {
            self.link(&job);
            self.inactive.insert(job.id, record);
        }
    }

    /// Takes events of a job in, with the jobspec that goes with `submit` and the resources that
    /// go with `alloc`. Returns whether its state changed.
    ///
    /// Errors: see [`FoldError`]; events before the faulty one are taken in.
    pub fn apply(
        &mut self,
        id: JobId,
        events: &[Entry],
        jobspec: Option<&Object>,
        resources: Option<&Object>,
    ) -> Result<bool, FoldError> {
        let mut events = events.iter();
        let mut job = match self.take(id) {
            Some(job) => {
                self.unlink(&job);
                job
            }
            None => {
                let Some(first) = events.next() else {
                    return Ok(false);
                };
                Listed {
                    id,
                    fold: Fold::submitted(first)?,
                    described: Rc::default(),
                    placed: None,
                    expiration: None,
                }
            }
        };
        let before = job.fold.state;
        if let Some(jobspec) = jobspec {
            job.described = self.intern(Described::read(jobspec));
        }
        if let Some(resources) = resources {
            self.place_on(&mut job, resources);
        }
        let mut result = Ok(());
        for event in events {
            result = job.fold.apply(event);
            if result.is_err() {
                break;
            }
            self.follow(&mut job, event);
        }
        if job.fold.state == State::Inactive {
            job.fold.dependencies = Vec::new();
        }
        let changed = job.fold.state != before || before == State::New;
        self.link(&job);
        if job.fold.state == State::Inactive {
            self.inactive.insert(id, Record::new(&job));
        } else {
            self.active.insert(id, job);
        }
        result.map(|()| changed)
    }

    fn intern(&mut self, described: Described) -> Rc<Described> {
        match self.described.get(&described) {
            Some(known) => known.clone(),
            None => {
                let described = Rc::new(described);
                self.described.insert(described.clone());
                described
            }
        }
    }

    fn place_on(&mut self, job: &mut Listed, resources: &Object) {
        let Some((placed, expiration)) = Placed::read(resources) else {
            return;
        };
        job.expiration = Some(expiration);
        let placed = match self.placed.get(&placed) {
            Some(known) => known.clone(),
            None => {
                let placed = Rc::new(placed);
                self.placed.insert(placed.clone());
                placed
            }
        };
        job.placed = Some(placed);
    }

    /// What an event changes beside the fold.
    fn follow(&mut self, job: &mut Listed, event: &Entry) {
        match event.name.as_str() {
            "jobspec-update" => {
                let mut described = (*job.described).clone();
                for (key, value) in event.context.iter().flatten() {
                    let text = || value.as_str().map(Box::from);
                    match key.as_str() {
                        "attributes.system.duration" => {
                            described.duration = value.as_f64().map(f64::to_bits);
                        }
                        "attributes.system.queue" => described.queue = text(),
                        "attributes.system.bank" => described.bank = text(),
                        "attributes.system.project" => described.project = text(),
                        "attributes.system.job.name" => described.name = text(),
                        _ => {}
                    }
                }
                job.described = self.intern(described);
            }
            "resource-update" => job.expiration = event.get_f64("expiration").or(job.expiration),
            _ => {}
        }
    }

    fn link(&mut self, job: &Listed) {
        let place = place(job);
        self.order.insert(place);
        self.by_user
            .entry(job.fold.userid)
            .or_default()
            .insert(place);
        self.counts.count(&job.fold, 1);
        if let Some(queue) = &job.described.queue {
            if !self.by_queue.contains_key(queue) {
                self.by_queue.insert(queue.clone(), Counts::default());
            }
            if let Some(counts) = self.by_queue.get_mut(queue) {
                counts.count(&job.fold, 1);
            }
        }
    }

    fn unlink(&mut self, job: &Listed) {
        let place = place(job);
        self.order.remove(&place);
        if let Some(jobs) = self.by_user.get_mut(&job.fold.userid) {
            jobs.remove(&place);
        }
        self.counts.count(&job.fold, -1);
        if let Some(counts) = job
            .described
            .queue
            .as_ref()
            .and_then(|q| self.by_queue.get_mut(q))
        {
            counts.count(&job.fold, -1);
        }
    }

    /// Forgets inactive jobs.
    pub fn purge(&mut self, ids: &[JobId]) {
        for id in ids {
            let Some(job) = self.inactive.remove(id).map(|record| record.outline()) else {
                continue;
            };
            self.unlink(&job);
            self.counts.purged += 1;
            let queue = job.described.queue.as_ref();
            if let Some(counts) = queue.and_then(|queue| self.by_queue.get_mut(queue)) {
                counts.purged += 1;
            }
        }
        self.described.retain(|shared| Rc::strong_count(shared) > 1);
        self.placed.retain(|shared| Rc::strong_count(shared) > 1);
    }

    /// The jobs a query wants, in order: pending by priority, running and inactive the newest
    /// first. `parent` tells the parent of a virtual queue. Errors: [`Excessive`].
    pub fn query(
        &self,
        query: &Query,
        parent: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<Cow<'_, Listed>>, Excessive> {
        let states = query.constraint.states();
        let everybody = &self.order;
        let order = match query.constraint.user() {
            Some(user) => match self.by_user.get(&user) {
                Some(jobs) => jobs,
                None => return Ok(Vec::new()),
            },
            None => everybody,
        };
        let oldest = JobId(u64::MAX);
        let first = JobId(0);
        let mut found = Vec::new();
        let mut comparisons = 0;
        let groups = [
            (
                15,
                Place::Pending(Reverse(u32::MAX), first),
                Place::Pending(Reverse(0), oldest),
            ),
            (
                State::Run.bit() | State::Cleanup.bit(),
                Place::Running(Reverse(u64::MAX), first),
                Place::Running(Reverse(0), oldest),
            ),
            (
                State::Inactive.bit(),
                Place::Inactive(Reverse(u64::MAX), first),
                // `since` itself is not after `since`.
                Place::Inactive(Reverse(query.since.max(0.0).to_bits()), first),
            ),
        ];
        for (bits, from, to) in groups {
            if states & bits == 0 {
                continue;
            }
            let to = match (bits == State::Inactive.bit(), query.since > 0.0) {
                (true, false) => Place::Inactive(Reverse(0), oldest),
                _ => to,
            };
            for place in order.range(from..=to) {
                let Some(job) = self.get(place.id()) else {
                    continue;
                };
                let matches = query.constraint.matches(&job, parent, &mut comparisons);
                if query.comparisons_max > 0 && comparisons > query.comparisons_max {
                    return Err(Excessive);
                }
                if matches {
                    found.push(job);
                    if found.len() == query.max_entries {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
