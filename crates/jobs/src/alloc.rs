//! The queue of jobs that want resources, and the requests the scheduler has.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use types::JobId;

/// How many requests the scheduler takes at once (RFC 27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedMode {
    /// At most so many.
    Limited(usize),
    /// All.
    Unlimited,
}

/// Where a job is between wanting resources and having asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alloc {
    /// It does not want any, or must not.
    Idle,
    /// It waits here.
    Queued,
    /// The scheduler has its request.
    Pending,
    /// The scheduler was told to drop its request and has not answered.
    Canceling,
}

type Key = (Reverse<u32>, JobId);

/// Jobs by priority, the highest and oldest first.
#[derive(Debug, Default)]
pub(crate) struct AllocQueue {
    pub(crate) mode: Option<SchedMode>,
    queued: BTreeSet<Key>,
    pending: BTreeSet<Key>,
    canceling: usize,
}

impl AllocQueue {
    pub(crate) fn queued_len(&self) -> usize {
        self.queued.len()
    }

    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len() + self.canceling
    }

    pub(crate) fn enqueue(&mut self, priority: u32, id: JobId) {
        self.queued.insert((Reverse(priority), id));
    }

    pub(crate) fn dequeue(&mut self, priority: u32, id: JobId) {
        self.queued.remove(&(Reverse(priority), id));
    }

    /// A request was answered, or is being withdrawn.
    pub(crate) fn answered(&mut self, priority: u32, id: JobId) {
        self.pending.remove(&(Reverse(priority), id));
    }

    pub(crate) fn canceling(&mut self, priority: u32, id: JobId) {
        self.answered(priority, id);
        self.canceling += 1;
    }

    pub(crate) fn canceled(&mut self) {
        self.canceling = self.canceling.saturating_sub(1);
    }

    /// Moves a job whose priority changes.
    pub(crate) fn reorder(&mut self, old: u32, new: u32, id: JobId) {
        for set in [&mut self.queued, &mut self.pending] {
            if set.remove(&(Reverse(old), id)) {
                set.insert((Reverse(new), id));
            }
        }
    }

    /// The next job to ask for, if the scheduler takes another.
    pub(crate) fn next(&mut self) -> Option<JobId> {
        let room = match self.mode? {
            SchedMode::Unlimited => true,
            SchedMode::Limited(limit) => self.pending_len() < limit,
        };
        if !room {
            return None;
        }
        let key = self.queued.pop_first()?;
        self.pending.insert(key);
        Some(key.1)
    }

    /// The request to withdraw in favour of a job of higher priority, if there is no room for it.
    pub(crate) fn to_withdraw(&self) -> Option<JobId> {
        let SchedMode::Limited(limit) = self.mode? else {
            return None;
        };
        // One at a time: room is on its way already.
        if self.pending_len() < limit || self.canceling > 0 {
            return None;
        }
        let first = self.queued.first()?;
        let last = self.pending.last()?;
        (first.0 < last.0).then_some(last.1)
    }

    /// Every job in the queue.
    pub(crate) fn queued(&self) -> impl Iterator<Item = JobId> {
        self.queued.iter().map(|key| key.1)
    }

    /// Every job whose request the scheduler has.
    pub(crate) fn pending(&self) -> impl Iterator<Item = JobId> {
        self.pending.iter().map(|key| key.1)
    }

    /// Forgets the scheduler and what it was asked.
    pub(crate) fn reset(&mut self) {
        self.mode = None;
        self.pending.clear();
        self.canceling = 0;
    }
}
