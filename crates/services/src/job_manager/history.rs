//! The stored summary of inactive jobs, which spares a start from reading their eventlogs.
//!
//! It is in parts, values of about a megabyte in the directory `checkpoint.job-history`; see
//! [`jobs::history`] for what is in them and when they are believed. Parts are written when the
//! module ends and now and then before, each time for what changed since and for parts that have
//! become small or stale, so that the cost of writing goes with the number of jobs that ended.
//!
//! A directory may be summarised when all its jobs are over, the commits with their last events
//! are done, and nothing of it changes while its address is looked up. Since commits are carried
//! out in order, a root that has the summary has the events too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jobs::history::{Slice, SliceId, Summary};
use jobs::{Jobs, Record, State as JobState};
use module::Severity;
use proto::kvs::Op;
use rpc::{Handle, RpcError};
use spec::{BlobRef, TreeObj};
use types::JobId;

use super::{Posted, State, restart};
use crate::store;

/// Where the parts are.
const DIRECTORY: &str = "checkpoint.job-history";
/// A part has about so many bytes.
const PART_SIZE: usize = 1 << 20;
/// Parts smaller than this are written anew together with others.
const PART_SIZE_MIN: usize = PART_SIZE / 2;
/// With fewer jobs to write at the end it is as cheap to read them back.
const JOBS_MIN: usize = 128;
/// So many jobs that ended are written before the end.
const JOBS_DUE: usize = 4096;
/// And so many at a time, give or take a slice, since the broker does nothing else meanwhile.
const JOBS_MAX: usize = 2 * JOBS_DUE;
/// Seconds for which jobs must have been over then. Whoever was to add a job to their directory
/// has done so.
const AGE_MIN: f64 = 10.0;

/// A stored part.
struct Part {
    size: usize,
    /// How many slices it was written with.
    written: usize,
    /// How many of these are still told by it.
    live: usize,
}

/// What is summarised, and what is not yet.
#[derive(Default)]
pub(super) struct History {
    parts: BTreeMap<u64, Part>,
    /// The part that tells of a slice.
    homes: HashMap<SliceId, u64>,
    /// Slices that changed, and the commit that has the change.
    changed: BTreeMap<SliceId, u64>,
    /// How many jobs ended since the last writing.
    ended: usize,
    next: u64,
    /// What is being written.
    writing: Option<Vec<SliceId>>,
}

/// What to write.
pub(super) struct Plan {
    slices: Vec<(SliceId, Vec<Record>)>,
    /// How many jobs of these are not in a part yet.
    fresh: usize,
    /// Parts to replace.
    parts: Vec<u64>,
}

/// The addresses of directories as they are now.
pub(super) type Addresses = HashMap<SliceId, BlobRef>;

/// Slices as they were stored, with the part that tells of each.
pub(super) type Known = HashMap<SliceId, (Slice, u64)>;

impl History {
    /// Reads what is stored. Parts that cannot be understood are passed over.
    pub(super) async fn read(state: &State) -> Result<(History, Known), RpcError> {
        let mut history = History::default();
        let mut known = Known::new();
        let names = restart::entries(&state.handle, DIRECTORY).await?;
        let numbers = names.iter().filter_map(|(name, _)| name.parse().ok());
        // What a later part tells of a slice counts.
        let numbers: BTreeSet<u64> = numbers.collect();
        let read = |number| restart::lookup(&state.handle, format!("{DIRECTORY}.{number}"), 0);
        let calls: Vec<_> = numbers.iter().map(read).collect();
        for (number, call) in numbers.into_iter().zip(calls) {
            let bytes = match call.await {
                Ok(found) => store::value_of(&found.val).unwrap_or_default(),
                Err(error) => {
                    state.log(Severity::Err, format!("{DIRECTORY}.{number}: {error}"));
                    Vec::new()
                }
            };
            history.next = history.next.max(number.saturating_add(1));
            let slices = Summary::decode(&bytes).unwrap_or_else(|| {
                let text =
                    format!("{DIRECTORY}.{number}: not understood, eventlogs are read instead");
                state.log(Severity::Info, text);
                Vec::new()
            });
            let part = Part {
                size: bytes.len(),
                written: slices.len(),
                live: 0,
            };
            history.parts.insert(number, part);
            for slice in slices {
                known.insert(slice.id, (slice, number));
            }
        }
        Ok((history, known))
    }

    /// A slice is as a part tells.
    pub(super) fn confirm(&mut self, slice: SliceId, part: u64) {
        self.homes.insert(slice, part);
        if let Some(part) = self.parts.get_mut(&part) {
            part.live += 1;
        }
    }

    /// A job ended, or was forgotten; the commit of that number has it.
    pub(super) fn on_change(&mut self, id: JobId, commit: u64) {
        self.ended += 1;
        let slice = SliceId::of(id);
        self.changed.insert(slice, commit);
        self.leave_home(slice);
    }

    fn leave_home(&mut self, slice: SliceId) {
        let home = self.homes.remove(&slice);
        if let Some(part) = home.and_then(|home| self.parts.get_mut(&home)) {
            part.live -= 1;
        }
    }

    /// Whether it is time to write before the end.
    fn is_due(&self) -> bool {
        self.ended >= JOBS_DUE && self.writing.is_none()
    }

    /// What can be written now: slices of which `done` commits have all, and whose jobs ended
    /// before `until`; of these about `jobs_max` jobs.
    fn plan(&mut self, jobs: &Jobs, done: u64, until: f64, jobs_max: usize) -> Plan {
        let records = |slice: SliceId| -> Option<Vec<Record>> {
            if jobs.are_active(slice.range()) {
                return None;
            }
            let records: Vec<Record> = jobs.records(slice.range()).cloned().collect();
            let ended = |record: &Record| record.outline().fold.time_of(JobState::Inactive);
            let is_old = |record| ended(record).is_some_and(|time| time < until);
            records.iter().all(is_old).then_some(records)
        };
        let mut fresh = 0;
        let mut slices = Vec::new();
        for (slice, _) in self.changed.iter().filter(|(_, commit)| **commit <= done) {
            if fresh >= jobs_max {
                break;
            }
            if let Some(records) = records(*slice) {
                fresh += records.len();
                slices.push((*slice, records));
            }
        }
        self.ended = self.ended.saturating_sub(fresh);
        for (slice, _) in &slices {
            self.changed.remove(slice);
        }
        slices.retain(|(_, records)| !records.is_empty());
        self.writing = Some(slices.iter().map(|(slice, _)| *slice).collect());
        let is_stale = |part: &Part| {
            part.size < PART_SIZE_MIN || part.live * 2 < part.written || part.live == 0
        };
        let stale = self.parts.iter().filter(|(_, part)| is_stale(part));
        let parts: BTreeSet<u64> = stale.map(|(number, _)| *number).collect();
        let moved = self.homes.iter().filter(|(_, home)| parts.contains(home));
        slices.extend(moved.filter_map(|(slice, _)| Some((*slice, records(*slice)?))));
        slices.sort_unstable_by_key(|(slice, _)| *slice);
        Plan {
            slices,
            fresh,
            parts: parts.into_iter().collect(),
        }
    }

    /// The commits that carry a plan out, unless what it is of changed since.
    fn commits(&mut self, jobs: &Jobs, plan: Plan, addresses: &Addresses) -> Vec<Vec<Op>> {
        let mut commits = Vec::new();
        let mut summary = Summary::default();
        let mut told: Vec<SliceId> = Vec::new();
        let mut rest = plan.slices.into_iter().peekable();
        while let Some((id, records)) = rest.next() {
            let is_same = !self.changed.contains_key(&id) && !jobs.are_active(id.range());
            if let Some(blobref) = addresses.get(&id).filter(|_| is_same) {
                summary.push(&Slice {
                    id,
                    blobref: *blobref,
                    records,
                });
                told.push(id);
            }
            if told.is_empty() || (rest.peek().is_some() && summary.size() < PART_SIZE) {
                continue;
            }
            let number = self.next;
            self.next += 1;
            let bytes = std::mem::take(&mut summary).finish();
            let part = Part {
                size: bytes.len(),
                written: told.len(),
                live: 0,
            };
            self.parts.insert(number, part);
            // Should they not get there, all of these are to be written again.
            self.writing.get_or_insert_default().extend(&told);
            for slice in told.drain(..) {
                self.leave_home(slice);
                self.confirm(slice, number);
            }
            commits.push(vec![store::put(format!("{DIRECTORY}.{number}"), &bytes)]);
        }
        // The old parts go last: until then they tell the same.
        let mut removal = Vec::new();
        for number in plan.parts {
            self.homes.retain(|_, home| *home != number);
            self.parts.remove(&number);
            removal.push(store::unlink(format!("{DIRECTORY}.{number}")));
        }
        if !removal.is_empty() {
            commits.push(removal);
        }
        commits
    }
}

/// Looks up the addresses of the directories of a plan.
async fn addresses(handle: &Handle, plan: &Plan) -> Result<Addresses, RpcError> {
    let mut addresses = Addresses::new();
    let uppers: BTreeSet<String> = plan.slices.iter().map(|(id, _)| id.names().0).collect();
    for upper in uppers {
        for (lower, object) in restart::entries(handle, &format!("job.{upper}")).await? {
            if let TreeObj::DirRef(blobref) = object
                && let Some(slice) = SliceId::from_names(&upper, &lower)
            {
                addresses.insert(slice, blobref);
            }
        }
    }
    Ok(addresses)
}

async fn commit(handle: &Handle, commits: Vec<Vec<Op>>) -> Result<(), RpcError> {
    for ops in commits {
        store::commit(handle, ops, 0).await?;
    }
    Ok(())
}

/// How far the writing of a summary is.
pub(super) enum Step {
    Addresses(Plan, Result<Addresses, RpcError>),
    Written(Result<(), RpcError>),
}

impl State {
    /// Writes a summary if it is time to.
    pub(super) fn write_history_if_due(&mut self) {
        if !self.persistent || !self.history.is_due() {
            return;
        }
        let until = super::now() - AGE_MIN;
        let done = self.batch.done_count();
        let plan = self.history.plan(&self.jobs, done, until, JOBS_MAX);
        if plan.fresh < JOBS_MIN {
            // They ended too lately, or have neighbours that run.
            return self.resume_history();
        }
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        tokio::task::spawn_local(async move {
            let found = addresses(&handle, &plan).await;
            let _ended = posts.send(Posted::History(Step::Addresses(plan, found)));
        });
    }

    pub(super) fn on_history(&mut self, step: Step) {
        match step {
            Step::Addresses(plan, Ok(found)) => {
                let commits = self.history.commits(&self.jobs, plan, &found);
                let (handle, posts) = (self.handle.clone(), self.posts.clone());
                tokio::task::spawn_local(async move {
                    let written = commit(&handle, commits).await;
                    let _ended = posts.send(Posted::History(Step::Written(written)));
                });
            }
            Step::Written(Ok(())) => self.history.writing = None,
            Step::Addresses(_, Err(error)) | Step::Written(Err(error)) => {
                self.log(Severity::Err, format!("{DIRECTORY}: {error}"));
                self.resume_history();
                // With a full disk this would fail at every heartbeat.
                self.history.ended = 0;
            }
        }
    }

    /// What was being written counts as changed again.
    fn resume_history(&mut self) {
        for slice in self.history.writing.take().unwrap_or_default() {
            self.history.leave_home(slice);
            self.history.changed.entry(slice).or_insert(0);
        }
    }

    /// Writes a summary before the module ends; every commit is done.
    pub(super) async fn write_history(&mut self) {
        if !self.persistent {
            return;
        }
        self.resume_history();
        let done = self.batch.done_count();
        let plan = self
            .history
            .plan(&self.jobs, done, f64::INFINITY, usize::MAX);
        if plan.fresh < JOBS_MIN {
            return;
        }
        let written = match addresses(&self.handle, &plan).await {
            Ok(found) => {
                let commits = self.history.commits(&self.jobs, plan, &found);
                commit(&self.handle, commits).await
            }
            Err(error) => Err(error),
        };
        // The eventlogs are there, so that nothing is lost but time.
        if let Err(error) = written {
            self.log(Severity::Err, format!("{DIRECTORY}: {error}"));
        }
    }
}
