//! Who gets resources, and when the others may hope for theirs.

use std::collections::HashMap;

use spec::ResourceSet;
use types::{IdSet, JobId};

use crate::pool::{AllocError, Pool};
use crate::queue::{Pending, Queue, Turn};
use crate::request::Request;
use crate::running::Running;

/// For how many jobs, at most, it is foretold when they will start.
const FORECAST_MAX: usize = 256;

/// How far a start has to move, in seconds, to be worth telling.
const FORECAST_STEP: f64 = 1.0;

/// In which order requests are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// One after the other: the first that has to wait holds up those behind.
    #[default]
    Fifo,
    /// While the first waits, those behind run if they are sure to have ended when it can start
    /// (EASY backfilling, with the first as the only one that has a reservation).
    Backfill,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// These resources are its own now.
    Alloc {
        /// The job.
        id: JobId,
        /// R, with its start and end.
        resources: Box<ResourceSet>,
        /// The job that waits while this one is let by.
        backfill: Option<JobId>,
    },
    /// It can never be served; why.
    Deny(JobId, String),
}

/// The requests, the resources, and who has them.
#[derive(Debug, Default)]
pub struct Scheduler {
    policy: Policy,
    pool: Pool,
    queue: Queue,
    running: Running,
    /// The starts that were told, of jobs that still wait.
    told: HashMap<JobId, f64>,
}

impl Scheduler {
    /// A scheduler without resources.
    pub fn new(policy: Policy) -> Scheduler {
        Scheduler {
            policy,
            ..Scheduler::default()
        }
    }

    /// What there is and what of it is free.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives it resources, all down, in place of those it had.
    pub fn set_resources(&mut self, resources: ResourceSet) {
        self.pool = Pool::new(resources);
        self.running = Running::default();
        self.queue.doubt();
    }

    /// Marks ranks up or down.
    pub fn set_up(&mut self, ranks: &IdSet, up: bool) {
        self.pool.set_up(ranks, up);
    }

    /// Takes ranks away for good.
    pub fn shrink(&mut self, ranks: &IdSet) {
        self.pool.shrink(ranks);
        self.queue.doubt();
    }

    /// The resources end at another time, seconds since the epoch; 0 for never.
    pub fn set_expiration(&mut self, expiration: f64) {
        self.pool.set_expiration(expiration);
    }

    /// A job that was running before has these resources. Returns whether they were free.
    pub fn claim(&mut self, id: JobId, resources: &ResourceSet) -> bool {
        let claimed = self.pool.claim(resources);
        if claimed {
            let own = resources.expiration != self.pool.expiration();
            let end = if own { resources.expiration } else { 0.0 };
            self.running.insert(id, resources, end);
        }
        claimed
    }

    /// A job gives resources back, or all it had.
    pub fn free(&mut self, id: JobId, resources: &ResourceSet, all: bool) {
        self.pool.free(resources);
        self.running.free(id, resources, all);
    }

    /// A running job ends at another time, seconds since the epoch; 0 for never.
    pub fn set_job_expiration(&mut self, id: JobId, expiration: f64) {
        self.running.set_end(id, expiration);
    }

    /// Adds a request. One of the same job is replaced.
    pub fn insert(&mut self, pending: Pending) {
        self.queue.insert(pending);
    }

    /// Withdraws a request. Returns whether it was there.
    pub fn remove(&mut self, id: JobId) -> bool {
        self.told.remove(&id);
        self.queue.remove(id)
    }

    /// Changes a request's priority. Unknown jobs are ignored.
    pub fn prioritize(&mut self, id: JobId, priority: u32) {
        self.queue.prioritize(id, priority);
    }

    /// The jobs that wait, in order.
    pub fn pending(&self) -> impl Iterator<Item = JobId> + '_ {
        self.queue.requests().map(|(id, _)| id)
    }

    /// How many wait.
    pub fn pending_len(&self) -> usize {
        self.queue.len()
    }

    /// Whether a request could be served if all resources were up and free.
    ///
    /// Errors: [`AllocError::Unsatisfiable`] with what is wanting.
    pub fn check(&self, request: &Request) -> Result<(), AllocError> {
        self.pool.check(request)
    }

    /// Serves whom it can.
    pub fn schedule(&mut self, now: f64) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while let Some(turn) = self.queue.serve_first(&mut self.pool) {
            decisions.push(self.decide(turn, now, None));
        }
        if self.policy == Policy::Backfill
            && self.queue.len() > 1
            && let Some((head, start)) = self.head_start(now)
        {
            let ends =
                |request: &Request| request.duration > 0.0 && now + request.duration <= start;
            for turn in self.queue.serve_others(&mut self.pool, ends) {
                decisions.push(self.decide(turn, now, Some(head)));
            }
        }
        decisions
    }

    fn decide(&mut self, turn: Turn, now: f64, backfill: Option<JobId>) -> Decision {
        match turn {
            Turn::Denied(id, note) => Decision::Deny(id, note),
            Turn::Served(id, duration, mut set) => {
                self.told.remove(&id);
                let end = match duration > 0.0 {
                    true => now + duration,
                    false => 0.0,
                };
                self.running.insert(id, &set, end);
                set.starttime = now;
                set.expiration = match end > 0.0 {
                    true => end,
                    false => self.pool.expiration(),
                };
                // Whatever wrote it may need it in the R of jobs, an instance within ours say.
                set.scheduling.clone_from(&self.pool.resources().scheduling);
                Decision::Alloc {
                    id,
                    resources: set,
                    backfill,
                }
            }
        }
    }

    /// The first job that waits, and when it can start.
    fn head_start(&mut self, now: f64) -> Option<(JobId, f64)> {
        let head = self.queue.requests().take(1);
        let starts = self.running.forecast(&mut self.pool, head, now);
        starts.first().copied()
    }

    /// Foretells when jobs will start: the first alone where others may pass it, else as many as
    /// can be foretold. Returns what has changed since it was last asked, `None` where nothing can
    /// be said any more.
    pub fn forecast(&mut self, now: f64) -> Vec<(JobId, Option<f64>)> {
        let depth = match self.policy {
            Policy::Fifo => FORECAST_MAX,
            Policy::Backfill => 1,
        };
        let pending = self.queue.requests().take(depth);
        let starts = self.running.forecast(&mut self.pool, pending, now);
        let mut before = std::mem::take(&mut self.told);
        let mut changes = Vec::new();
        for (id, start) in starts {
            let known = before.remove(&id);
            if known.is_none_or(|known| (known - start).abs() >= FORECAST_STEP) {
                changes.push((id, Some(start)));
                self.told.insert(id, start);
            } else if let Some(known) = known {
                self.told.insert(id, known);
            }
        }
        let mut stale: Vec<_> = before.into_keys().collect();
        stale.sort_unstable();
        changes.extend(stale.into_iter().map(|id| (id, None)));
        changes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spec::Count;
    use spec::r::Children;

    use super::*;

    fn ids(count: u32) -> IdSet {
        IdSet::first_n(count)
    }

    /// Nodes of two cores.
    fn scheduler(policy: Policy, nodes: u32) -> Scheduler {
        let mut set = ResourceSet::new();
        for rank in 0..nodes {
            set.insert(rank, None, &Children::new(ids(2), IdSet::new()));
        }
        let mut scheduler = Scheduler::new(policy);
        scheduler.set_resources(set);
        scheduler.set_up(&ids(nodes), true);
        scheduler
    }

    fn request(nodes: u64, cores: u64, duration: f64) -> Request {
        Request {
            nodes: (nodes > 0).then_some(Count::Fixed(nodes)),
            exclusive: nodes > 0,
            slots: Count::Fixed(1),
            cores,
            gpus: 0,
            constraint: None,
            duration,
        }
    }

    /// Submits jobs given as `NODES DURATION`, nodes 0 meaning one core.
    fn submit(scheduler: &mut Scheduler, first: u64, jobs: &[(u64, f64)]) {
        for (id, (nodes, duration)) in (first..).zip(jobs) {
            scheduler.insert(Pending {
                id: JobId(id),
                priority: 16,
                request: request(*nodes, 1, *duration),
            });
        }
    }

    /// Job ids, `id<head` for one that is let by, `-id` for one denied.
    fn pass(scheduler: &mut Scheduler, now: f64) -> String {
        let show = |decision: Decision| match decision {
            Decision::Alloc {
                id,
                backfill: Some(head),
                ..
            } => format!("{}<{}", id.0, head.0),
            Decision::Alloc { id, .. } => id.0.to_string(),
            Decision::Deny(id, _) => format!("-{}", id.0),
        };
        let shown: Vec<_> = scheduler.schedule(now).into_iter().map(show).collect();
        shown.join(" ")
    }

    /// `id@start`, `id@` where nothing can be said any more.
    fn forecast(scheduler: &mut Scheduler, now: f64) -> String {
        let show = |(id, start): (JobId, Option<f64>)| {
            format!(
                "{}@{}",
                id.0,
                start.map(|s| s.to_string()).unwrap_or_default()
            )
        };
        let shown: Vec<_> = scheduler.forecast(now).into_iter().map(show).collect();
        shown.join(" ")
    }

    fn end(scheduler: &mut Scheduler, id: u64) {
        let id = JobId(id);
        let mine = scheduler.running.set_of(id);
        assert!(!mine.is_empty(), "{id} runs");
        scheduler.free(id, &mine, true);
    }

    #[test]
    fn the_highest_priority_goes_first_and_blocks_those_behind() {
        let mut scheduler = scheduler(Policy::Fifo, 2);
        for (id, priority, cores) in [(1, 16, 1), (2, 16, 2), (3, 16, 1), (4, 20, 2), (5, 31, 5)] {
            scheduler.insert(Pending {
                id: JobId(id),
                priority,
                request: request(0, cores, 0.0),
            });
        }
        assert_eq!(pass(&mut scheduler, 0.0), "-5 4 1");
        assert_eq!(
            scheduler.pending().collect::<Vec<_>>(),
            [JobId(2), JobId(3)]
        );
        scheduler.prioritize(JobId(3), 31);
        assert_eq!(pass(&mut scheduler, 0.0), "3");
        assert!(scheduler.remove(JobId(2)));
        assert!(!scheduler.remove(JobId(2)));
        assert_eq!(scheduler.pending_len(), 0);
    }

    #[test]
    fn starts_are_foretold_up_to_the_first_job_without_an_end() {
        // As the reference foretells them on four nodes.
        let mut scheduler = scheduler(Policy::Fifo, 4);
        submit(
            &mut scheduler,
            1,
            &[(3, 100.0), (3, 200.0), (1, 50.0), (1, 300.0), (0, 90.0)],
        );
        assert_eq!(pass(&mut scheduler, 1000.0), "1");
        assert_eq!(
            forecast(&mut scheduler, 1000.0),
            "2@1100 3@1100 4@1150 5@1300"
        );
        assert_eq!(forecast(&mut scheduler, 1001.0), "");
        submit(&mut scheduler, 6, &[(0, 0.0), (4, 60.0), (0, 10.0)]);
        assert_eq!(pass(&mut scheduler, 1001.0), "");
        assert_eq!(forecast(&mut scheduler, 1001.0), "6@1300");
        end(&mut scheduler, 1);
        assert_eq!(pass(&mut scheduler, 1010.0), "2 3");
        assert_eq!(forecast(&mut scheduler, 1010.0), "4@1060 5@1210 6@1210");
        submit(&mut scheduler, 9, &[(4, 70.0)]);
        scheduler.prioritize(JobId(9), 20);
        assert_eq!(pass(&mut scheduler, 1010.0), "");
        assert_eq!(
            forecast(&mut scheduler, 1010.0),
            "9@1210 4@1280 5@1280 6@1280"
        );
        // What ends when nobody knows holds up those who need it.
        scheduler.set_job_expiration(JobId(2), 0.0);
        assert_eq!(forecast(&mut scheduler, 1010.0), "4@ 5@ 6@ 9@");
    }

    #[test]
    fn short_jobs_are_let_by_while_the_first_waits() {
        let mut scheduler = scheduler(Policy::Backfill, 4);
        let jobs = [
            (3, 100.0),
            (3, 200.0),
            (1, 300.0),
            (1, 0.0),
            (1, 50.0),
            (1, 60.0),
        ];
        submit(&mut scheduler, 1, &jobs);
        assert_eq!(pass(&mut scheduler, 1000.0), "1 5<2");
        assert_eq!(forecast(&mut scheduler, 1000.0), "2@1100");
        end(&mut scheduler, 5);
        assert_eq!(pass(&mut scheduler, 1030.0), "6<2");
        end(&mut scheduler, 1);
        assert_eq!(pass(&mut scheduler, 1040.0), "2");
        assert_eq!(forecast(&mut scheduler, 1040.0), "3@1090");
    }

    #[test]
    fn without_a_start_for_the_first_nobody_is_let_by() {
        let mut scheduler = scheduler(Policy::Backfill, 4);
        submit(
            &mut scheduler,
            1,
            &[(3, 100.0), (0, 0.0), (4, 200.0), (0, 10.0)],
        );
        assert_eq!(pass(&mut scheduler, 1000.0), "1 2");
        assert_eq!(forecast(&mut scheduler, 1000.0), "");
        // A node that is down is none to hope for.
        end(&mut scheduler, 2);
        scheduler.set_up(&IdSet::from_range(3, 3), false);
        assert_eq!(pass(&mut scheduler, 1000.0), "");
        scheduler.set_up(&IdSet::from_range(3, 3), true);
        assert_eq!(pass(&mut scheduler, 1000.0), "4<3");
    }

    #[test]
    fn a_pool_that_shrinks_makes_jobs_impossible() {
        let mut scheduler = scheduler(Policy::Fifo, 2);
        submit(&mut scheduler, 1, &[(1, 10.0), (2, 10.0)]);
        assert_eq!(pass(&mut scheduler, 0.0), "1");
        scheduler.shrink(&IdSet::from_range(1, 1));
        assert_eq!(pass(&mut scheduler, 0.0), "-2");
    }

    #[test]
    fn jobs_that_ran_before_count() {
        let mut first = scheduler(Policy::Fifo, 2);
        submit(&mut first, 1, &[(2, 10.0)]);
        let decisions = first.schedule(50.0);
        let [Decision::Alloc { resources, .. }] = decisions.as_slice() else {
            panic!("{decisions:?}");
        };
        assert_eq!((resources.starttime, resources.expiration), (50.0, 60.0));
        let mut second = scheduler(Policy::Fifo, 2);
        assert!(second.claim(JobId(1), resources));
        assert!(!second.claim(JobId(2), resources));
        submit(&mut second, 3, &[(1, 1.0)]);
        assert_eq!(pass(&mut second, 55.0), "");
        assert_eq!(forecast(&mut second, 55.0), "3@60");
        second.free(JobId(1), resources, true);
        assert_eq!(pass(&mut second, 56.0), "3");
    }

    proptest! {
        /// Looking ahead changes nothing.
        #[test]
        fn a_forecast_leaves_the_pool_as_it_was(
            jobs in proptest::collection::vec((0u64..5, 0u32..40), 1..30),
            ended in proptest::collection::vec(1u64..30, 0..10),
        ) {
            let mut scheduler = scheduler(Policy::Backfill, 4);
            let jobs: Vec<_> = jobs.iter().map(|(n, d)| (*n, f64::from(*d))).collect();
            submit(&mut scheduler, 1, &jobs);
            for (now, id) in (0u32..).zip(ended) {
                let now = f64::from(now);
                scheduler.schedule(now);
                let free = scheduler.pool.free_resources().to_string();
                scheduler.policy = Policy::Fifo;
                scheduler.forecast(now);
                scheduler.policy = Policy::Backfill;
                prop_assert_eq!(scheduler.pool.free_resources().to_string(), free);
                let mine = scheduler.running.set_of(JobId(id));
                scheduler.free(JobId(id), &mine, true);
            }
        }
    }
}
