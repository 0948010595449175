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

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// These resources are its own now.
    Alloc(JobId, Box<ResourceSet>),
    /// It can never be served; why.
    Deny(JobId, String),
}

/// Priority, highest first, then job id, lowest first.
type Key = (std::cmp::Reverse<u32>, JobId);

/// Requests in the order they are served: first in, first out, among those of equal priority.
#[derive(Debug, Default)]
pub struct Queue {
    requests: BTreeMap<Key, Request>,
    keys: HashMap<JobId, Key>,
}

impl Queue {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Adds a request. One of the same job is replaced.
    pub fn insert(&mut self, pending: Pending) {
        self.remove(pending.id);
        let key = (std::cmp::Reverse(pending.priority), pending.id);
        self.keys.insert(pending.id, key);
        self.requests.insert(key, pending.request);
    }

    /// Withdraws a request. Returns whether it was there.
    pub fn remove(&mut self, id: JobId) -> bool {
        match self.keys.remove(&id) {
            Some(key) => self.requests.remove(&key).is_some(),
            None => false,
        }
    }

    /// Changes a request's priority. Unknown jobs are ignored.
    pub fn prioritize(&mut self, id: JobId, priority: u32) {
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

    /// The jobs that wait, in order.
    pub fn ids(&self) -> impl Iterator<Item = JobId> + '_ {
        self.requests.keys().map(|(_, id)| *id)
    }

    /// The jobs that wait and how long each will run, in seconds; 0 for as long as it can.
    pub fn durations(&self) -> impl Iterator<Item = (JobId, f64)> + '_ {
        self.requests
            .iter()
            .map(|((_, id), request)| (*id, request.duration))
    }

    /// Serves the queue in order until the first request that has to wait.
    pub fn schedule(&mut self, pool: &mut Pool) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while let Some(entry) = self.requests.first_entry() {
            let id = entry.key().1;
            match pool.alloc(entry.get()) {
                Ok(set) => decisions.push(Decision::Alloc(id, Box::new(set))),
                Err(error @ AllocError::Unsatisfiable(_)) => {
                    decisions.push(Decision::Deny(id, error.to_string()));
                }
                Err(AllocError::Insufficient) => break,
            }
            entry.remove();
            self.keys.remove(&id);
        }
        decisions
    }
}

#[cfg(test)]
mod tests {
    use spec::Count;
    use spec::r::Children;
    use types::IdSet;

    use super::*;

    fn pending(id: u64, priority: u32, cores: u64) -> Pending {
        let request = Request {
            nodes: None,
            exclusive: false,
            slots: Count::Fixed(1),
            cores,
            gpus: 0,
            constraint: None,
            duration: 0.0,
        };
        Pending {
            id: JobId(id),
            priority,
            request,
        }
    }

    fn pool() -> Pool {
        let mut set = ResourceSet::new();
        set.insert(0, None, &Children::new(IdSet::first_n(4), IdSet::new()));
        let mut pool = Pool::new(set);
        pool.set_up(&IdSet::first_n(1), true);
        pool
    }

    fn served(decisions: &[Decision]) -> Vec<u64> {
        decisions
            .iter()
            .map(|decision| match decision {
                Decision::Alloc(id, _) => id.0,
                Decision::Deny(id, _) => id.0 + 1000,
            })
            .collect()
    }

    #[test]
    fn the_highest_priority_goes_first_and_blocks_those_behind() {
        let mut queue = Queue::default();
        queue.insert(pending(1, 16, 1));
        queue.insert(pending(2, 16, 4));
        queue.insert(pending(3, 16, 1));
        queue.insert(pending(4, 20, 2));
        queue.insert(pending(5, 31, 5));
        assert_eq!(served(&queue.schedule(&mut pool())), [1005, 4, 1]);
        assert_eq!(queue.ids().collect::<Vec<_>>(), [JobId(2), JobId(3)]);
        queue.prioritize(JobId(3), 31);
        assert_eq!(served(&queue.schedule(&mut pool())), [3]);
        assert!(queue.remove(JobId(2)));
        assert!(!queue.remove(JobId(2)));
        assert!(queue.is_empty());
    }
}
