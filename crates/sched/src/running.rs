//! What runs, until when, and what will be free then.

use std::collections::{BTreeSet, HashMap};

use spec::ResourceSet;
use types::JobId;

use crate::Request;
use crate::pool::{Pool, Share, share};

/// The jobs that have resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running {
    jobs: HashMap<JobId, Job>,
    /// Those with an end, in its order. Times of a sign are in order by their bits.
    ends: BTreeSet<(u64, JobId)>,
}

#[derive(Clone, Debug)]
struct Job {
    share: Share,
    /// Seconds since the epoch; 0 for none.
    end: f64,
}

impl Running {
    /// A job has got these resources until `end`, seconds since the epoch; 0 if that is not known.
    pub(crate) fn insert(&mut self, id: JobId, set: &ResourceSet, end: f64) {
        self.remove(id);
        let share = share(set);
        self.jobs.insert(id, Job { share, end });
        self.set_end(id, end);
    }

    /// Moves a job's end.
    pub(crate) fn set_end(&mut self, id: JobId, end: f64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        self.ends.remove(&(job.end.to_bits(), id));
        job.end = end.max(0.0);
        if job.end > 0.0 {
            self.ends.insert((job.end.to_bits(), id));
        }
    }

    /// A job has given these resources back, or all it had.
    pub(crate) fn free(&mut self, id: JobId, set: &ResourceSet, all: bool) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let nodes = set.nodes();
        let given: HashMap<_, _> = nodes.map(|(rank, node)| (rank, &node.children)).collect();
        for (rank, children) in &mut job.share {
            if let Some(given) = given.get(rank) {
                *children = children.difference(given);
            }
        }
        job.share.retain(|(_, children)| !children.is_empty());
        if all || job.share.is_empty() {
            self.remove(id);
        }
    }

    /// What a job has.
    #[cfg(test)]
    pub(crate) fn set_of(&self, id: JobId) -> ResourceSet {
        let mut set = ResourceSet::new();
        for (rank, children) in self.jobs.get(&id).iter().flat_map(|job| &job.share) {
            set.insert(*rank, None, children);
        }
        set
    }

    fn remove(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            self.ends.remove(&(job.end.to_bits(), id));
        }
    }

    /// When each request could be served if they are served in order, each job takes all its time
    /// and nothing else happens. It ends with the first that cannot, or whose own end is not known.
    /// The pool is left as it was.
    pub(crate) fn forecast<'a>(
        &self,
        pool: &mut Pool,
        pending: impl Iterator<Item = (JobId, &'a Request)>,
        now: f64,
    ) -> Vec<(JobId, f64)> {
        let mut future = Future {
            pool,
            time: now,
            running: self
                .ends
                .iter()
                .map(|(end, id)| (*end, &self.jobs[id].share)),
            next: None,
            started: BTreeSet::new(),
            shares: Vec::new(),
            done: Vec::new(),
        };
        let mut starts = Vec::new();
        for (id, request) in pending {
            let Some(start) = future.start(request) else {
                break;
            };
            starts.push((id, start));
            if request.duration <= 0.0 {
                break;
            }
        }
        future.undo();
        starts
    }
}

/// A pool in the time to come.
struct Future<'a, I: Iterator<Item = (u64, &'a Share)>> {
    pool: &'a mut Pool,
    time: f64,
    /// What ends of that which runs already.
    running: I,
    next: Option<(u64, &'a Share)>,
    /// Ends of what has been started since, as indices of `shares`.
    started: BTreeSet<(u64, usize)>,
    shares: Vec<Share>,
    done: Vec<Step<'a>>,
}

enum Step<'a> {
    Gave(&'a Share),
    GaveStarted(usize),
    Took(usize),
}

impl<'a, I: Iterator<Item = (u64, &'a Share)>> Future<'a, I> {
    /// Goes on until a request can be served, and serves it; `None` if that never comes.
    fn start(&mut self, request: &Request) -> Option<f64> {
        loop {
            if let Some((share, _)) = self.pool.place(request) {
                self.pool.take(&share);
                let at = self.shares.len();
                self.shares.push(share);
                self.done.push(Step::Took(at));
                if request.duration > 0.0 {
                    let end = self.time + request.duration;
                    self.started.insert((end.to_bits(), at));
                }
                return Some(self.time);
            }
            self.advance()?;
        }
    }

    /// Goes on to the next end of a job.
    fn advance(&mut self) -> Option<()> {
        self.next = self.next.or_else(|| self.running.next());
        let started = self.started.first().copied();
        let end = match (self.next, started) {
            (Some((end, share)), started) if started.is_none_or(|(other, _)| end <= other) => {
                self.next = None;
                self.pool.give(share);
                self.done.push(Step::Gave(share));
                end
            }
            (_, Some((end, at))) => {
                self.started.pop_first();
                self.pool.give(&self.shares[at]);
                self.done.push(Step::GaveStarted(at));
                end
            }
            (_, None) => return None,
        };
        // A job that should have ended already will soon.
        self.time = self.time.max(f64::from_bits(end));
        Some(())
    }

    fn undo(self) {
        for step in self.done.into_iter().rev() {
            match step {
                Step::Gave(share) => self.pool.take(share),
                Step::GaveStarted(at) => self.pool.take(&self.shares[at]),
                Step::Took(at) => self.pool.give(&self.shares[at]),
            }
        }
    }
}
