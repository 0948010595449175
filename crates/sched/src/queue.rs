//! The requests that wait, and the order in which they are served.

use std::collections::{BTreeMap, HashMap};

use spec::ResourceSet;
use types::JobId;

use crate::pool::{AllocError, Pool};
use crate::request::Request;

/// A request in the queue.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The job.
    pub id: JobId,
    /// Higher is served first.
    pub priority: u32,
    /// What it wants.
    pub request: Request,
}

/// Priority, highest first, then job id, lowest first.
type Key = (std::cmp::Reverse<u32>, JobId);

/// Requests in the order they are served: first in, first out, among those of equal priority.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    requests: BTreeMap<Key, Request>,
    keys: HashMap<JobId, Key>,
    /// A job that is known to be served some day, if the pool stays as it is.
    possible: Option<JobId>,
}

/// A request's turn.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// It has got these resources, for so many seconds, 0 for as long as it can.
    Served(JobId, f64, Box<ResourceSet>),
    /// It can never be served; why.
    Denied(JobId, String),
}

impl Queue {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Adds a request. One of the same job is replaced.
    pub(crate) fn insert(&mut self, pending: Pending) {
        self.remove(pending.id);
        let key = (std::cmp::Reverse(pending.priority), pending.id);
        self.keys.insert(pending.id, key);
        self.requests.insert(key, pending.request);
    }

    /// Withdraws a request. Returns whether it was there.
    pub(crate) fn remove(&mut self, id: JobId) -> bool {
        match self.keys.remove(&id) {
            Some(key) => self.requests.remove(&key).is_some(),
            None => false,
        }
    }

    /// Changes a request's priority. Unknown jobs are ignored.
    pub(crate) fn prioritize(&mut self, id: JobId, priority: u32) {
        if let Some(key) = self.keys.get(&id).copied()
            && let Some(request) = self.requests.remove(&key)
        {
            self.insert(Pending {
                id,
                priority,
                request,
            });
        }
    }

    /// The requests that wait, in order.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (JobId, &Request)> + '_ {
        self.requests
            .iter()
            .map(|((_, id), request)| (*id, request))
    }

    /// The pool has become smaller: what was possible may no longer be.
    pub(crate) fn doubt(&mut self) {
        self.possible = None;
    }

    /// Serves or denies the first request; `None` if it has to wait, or there is none.
    pub(crate) fn serve_first(&mut self, pool: &mut Pool) -> Option<Turn> {
        let entry = self.requests.first_entry()?;
        let id = entry.key().1;
        if let Some(set) = pool.alloc_now(entry.get()) {
            let request = entry.remove();
            self.keys.remove(&id);
            return Some(Turn::Served(id, request.duration, Box::new(set)));
        }
        if self.possible == Some(id) {
            return None;
        }
        if let Err(error @ AllocError::Unsatisfiable(_)) = pool.check(entry.get()) {
            entry.remove();
            self.keys.remove(&id);
            return Some(Turn::Denied(id, error.to_string()));
        }
        self.possible = Some(id);
        None
    }

    /// Serves those behind the first, in order, if they can be now and `may`.
    pub(crate) fn serve_others(
        &mut self,
        pool: &mut Pool,
        may: impl Fn(&Request) -> bool,
    ) -> Vec<Turn> {
        let mut turns = Vec::new();
        let mut served = Vec::new();
        for (key, request) in self.requests.iter().skip(1) {
            if may(request)
                && let Some(set) = pool.alloc_now(request)
            {
                turns.push(Turn::Served(key.1, request.duration, Box::new(set)));
                served.push(*key);
            }
        }
        for key in served {
            self.requests.remove(&key);
            self.keys.remove(&key.1);
        }
        turns
    }
}
