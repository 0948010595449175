//! Housekeeping: what runs on nodes between the end of a job and their return to the scheduler.
//!
//! A job that ends hands its resources over and becomes inactive. They stay allocated here until
//! the site's command has ended on each rank, and go back together or by and by, as configured.
//! Commands that fail hold nothing up.
//!
//! A scheduler that starts anew is told of what is allocated here, as it is of active jobs. One that
//! cannot take what is left of an allocation makes the rest of it end at once.

use std::collections::BTreeMap;

use spec::ResourceSet;
use types::{IdSet, JobId, UserId};

/// When ranks go back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Release {
    /// When the command has ended on all of them.
    #[default]
    Together,
    /// From so many seconds after its first end on, each as it ends there.
    After(f64),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// Well, or in a way that was told already.
    Well,
    /// With an exit code that is not 0.
    Failed,
    /// By a signal.
    Signaled(i32),
}

/// The job that resources come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    /// Its id.
    pub id: JobId,
    /// Whose it was.
    pub userid: UserId,
    /// Its priority.
    pub priority: u32,
    /// When it was submitted.
    pub t_submit: f64,
}

/// Something to do for the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Give resources back to the scheduler.
    Free {
        /// The job they come from.
        id: JobId,
        /// The resources.
        resources: ResourceSet,
        /// Whether they are the last of the job's.
        last: bool,
    },
    /// Tell that the command failed.
    Failed {
        /// The job.
        id: JobId,
        /// Where, with hosts.
        resources: ResourceSet,
        /// How; `None` in several ways.
        ended: Option<Ended>,
    },
    /// Signal the command.
    Kill {
        /// The job.
        id: JobId,
        /// Where.
        ranks: IdSet,
        /// The signal.
        signum: i32,
    },
    /// Tell that all of it is over.
    Complete(JobId),
    /// Tell that it is ended for want of a scheduler that could take it over.
    Abandoned {
        /// The job.
        id: JobId,
        /// What is left of it.
        resources: ResourceSet,
    },
}

/// What a job left.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// The job.
    pub origin: Origin,
    /// When housekeeping began.
    pub t_start: f64,
    /// Ranks where the command runs.
    pub pending: IdSet,
    /// What has not gone back.
    pub resources: ResourceSet,
    /// Ranks that have.
    pub released: IdSet,
    release: Release,
    /// When the ranks that are done go back; from then on ranks do so as they end.
    release_at: Option<f64>,
    failures: BTreeMap<u32, Ended>,
}

/// All housekeeping.
#[derive(Debug, Default)]
pub struct Housekeeping {
    allocations: BTreeMap<JobId, Allocation>,
}

impl Housekeeping {
    /// What jobs left, by id.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// Whether a command is to run for a job on a rank.
    pub fn is_pending(&self, id: JobId, rank: u32) -> bool {
        let found = self.allocations.get(&id);
        found.is_some_and(|allocation| allocation.pending.contains(rank))
    }

    /// Takes a job's resources over. The command is to be started on all their ranks.
    pub fn begin(&mut self, now: f64, origin: Origin, resources: ResourceSet, release: Release) {
        let allocation = Allocation {
            origin,
            t_start: now,
            pending: resources.ranks(),
            resources,
            released: IdSet::new(),
            release,
            release_at: None,
            failures: BTreeMap::new(),
        };
        self.allocations.insert(origin.id, allocation);
    }

    /// The command has ended on a rank.
    pub fn on_ended(&mut self, now: f64, id: JobId, rank: u32, ended: Ended) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(allocation) = self.allocations.get_mut(&id) else {
            return actions;
        };
        if !allocation.pending.remove(rank) {
            return actions;
        }
        if ended != Ended::Well {
            allocation.failures.insert(rank, ended);
        }
        if let (Release::After(wait), None) = (allocation.release, allocation.release_at) {
            allocation.release_at = Some(now + wait);
        }
        let due = allocation.release_at.is_some_and(|time| time <= now);
        if due || allocation.pending.is_empty() {
            self.give_back(id, &mut actions);
        }
        actions
    }

    /// When [`Housekeeping::on_time`] has something to do.
    pub fn next_time(&self) -> Option<f64> {
        let timed = self.allocations.values().filter(|it| it.has_done());
        timed.filter_map(|it| it.release_at).min_by(f64::total_cmp)
    }

    /// Gives back what is due by now.
    pub fn on_time(&mut self, now: f64) -> Vec<Action> {
        let is_due = |it: &&Allocation| it.release_at.is_some_and(|time| time <= now);
        let due = self.allocations.values().filter(is_due);
        let ids: Vec<JobId> = due.map(|it| it.origin.id).collect();
        let mut actions = Vec::new();
        for id in ids {
            self.give_back(id, &mut actions);
        }
        actions
    }

    /// Signals commands: after one job or all, on some ranks or all.
    pub fn kill(&self, id: Option<JobId>, ranks: Option<&IdSet>, signum: i32) -> Vec<Action> {
        let wanted = |it: &&Allocation| id.is_none_or(|id| it.origin.id == id);
        let kill = |it: &Allocation| Action::Kill {
            id: it.origin.id,
            ranks: match ranks {
                Some(ranks) => it.pending.intersection(ranks),
                None => it.pending.clone(),
            },
            signum,
        };
        self.allocations.values().filter(wanted).map(kill).collect()
    }

    /// A scheduler starts. `partial` tells whether it takes what is left of an allocation; otherwise
    /// that is ended with `signum` and forgotten.
    pub fn on_hello(&mut self, partial: bool, signum: i32) -> Vec<Action> {
        let mut actions = Vec::new();
        self.allocations.retain(|&id, allocation| {
            if partial || allocation.released.is_empty() {
                return true;
            }
            actions.push(Action::Abandoned {
                id,
                resources: allocation.resources.clone(),
            });
            actions.push(Action::Kill {
                id,
                ranks: allocation.pending.clone(),
                signum,
            });
            false
        });
        actions
    }

    /// Gives back the ranks of a job that are done.
    fn give_back(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(allocation) = self.allocations.get_mut(&id) else {
            return;
        };
        allocation.report(actions);
        let held = allocation.resources.ranks();
        let done = held.difference(&allocation.pending);
        let last = allocation.pending.is_empty();
        if !done.is_empty() {
            actions.push(Action::Free {
                id,
                resources: allocation.resources.copy_ranks(&done),
                last,
            });
            allocation.resources.remove_ranks(&done);
            allocation.released.insert_all(&done);
        }
        if last {
            self.allocations.remove(&id);
            actions.push(Action::Complete(id));
        }
    }
}

impl Allocation {
    /// Whether there are ranks to give back.
    fn has_done(&self) -> bool {
        self.resources.nnodes() > self.pending.len()
    }

    /// Tells of failures not told yet.
    fn report(&mut self, actions: &mut Vec<Action>) {
        let failures = std::mem::take(&mut self.failures);
        let Some(first) = failures.values().next().copied() else {
            return;
        };
        let same = failures.values().all(|ended| *ended == first);
        let ranks: IdSet = failures.keys().copied().collect();
        actions.push(Action::Failed {
            id: self.origin.id,
            resources: self.resources.copy_ranks(&ranks),
            ended: same.then_some(first),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: JobId = JobId(7);

    fn begin(release: Release) -> Housekeeping {
        let mut resources = ResourceSet::new();
        let cores: IdSet = [0].into_iter().collect();
        for rank in 0..4 {
            let children = spec::Children::new(cores.clone(), IdSet::new());
            resources.insert(rank, Some("host"), &children);
        }
        let origin = Origin {
            id: ID,
            userid: UserId(1),
            priority: 16,
            t_submit: 0.5,
        };
        let mut housekeeping = Housekeeping::default();
        housekeeping.begin(1.0, origin, resources, release);
        housekeeping
    }

    fn show(actions: Vec<Action>) -> Vec<String> {
        let line = |action| match action {
            Action::Free {
                resources, last, ..
            } => {
                let last = if last { " last" } else { "" };
                format!("free {}{last}", resources.ranks())
            }
            Action::Failed {
                resources, ended, ..
            } => format!("failed {} {ended:?}", resources.ranks()),
            Action::Kill { ranks, signum, .. } => format!("kill {ranks} {signum}"),
            Action::Complete(_) => "complete".to_owned(),
            Action::Abandoned { resources, .. } => format!("abandoned {}", resources.ranks()),
        };
        actions.into_iter().map(line).collect()
    }

    fn end(housekeeping: &mut Housekeeping, now: f64, rank: u32) -> Vec<String> {
        show(housekeeping.on_ended(now, ID, rank, Ended::Well))
    }

    const NOTHING: [String; 0] = [];

    #[test]
    fn all_ranks_go_back_together_unless_asked_otherwise() {
        let mut h = begin(Release::Together);
        for rank in 0..3 {
            assert_eq!(end(&mut h, 2.0, rank), NOTHING);
            assert_eq!(end(&mut h, 2.0, rank), NOTHING);
        }
        assert_eq!(h.next_time(), None);
        assert_eq!(end(&mut h, 2.0, 3), ["free 0-3 last", "complete"]);
        assert_eq!(h.allocations().count(), 0);
        assert_eq!(end(&mut h, 2.0, 3), NOTHING);
    }

    #[test]
    fn each_rank_goes_back_as_it_ends() {
        let mut h = begin(Release::After(0.0));
        assert_eq!(end(&mut h, 2.0, 1), ["free 1"]);
        assert_eq!(end(&mut h, 2.0, 0), ["free 0"]);
        assert_eq!(h.next_time(), None);
        assert_eq!(end(&mut h, 3.0, 3), ["free 3"]);
        assert_eq!(end(&mut h, 3.0, 2), ["free 2 last", "complete"]);
    }

    #[test]
    fn ranks_that_are_done_go_back_when_the_time_has_come() {
        let mut h = begin(Release::After(5.0));
        assert_eq!(end(&mut h, 2.0, 0), NOTHING);
        assert_eq!(end(&mut h, 3.0, 2), NOTHING);
        assert_eq!(h.next_time(), Some(7.0));
        assert_eq!(show(h.on_time(6.0)), NOTHING);
        assert_eq!(show(h.on_time(7.0)), ["free 0,2"]);
        assert_eq!(h.next_time(), None);
        assert_eq!(end(&mut h, 8.0, 1), ["free 1"]);
        assert_eq!(end(&mut h, 8.0, 3), ["free 3 last", "complete"]);
    }

    #[test]
    fn failures_are_told_once_and_hold_nothing_up() {
        let mut h = begin(Release::After(5.0));
        h.on_ended(2.0, ID, 0, Ended::Failed);
        h.on_ended(2.0, ID, 1, Ended::Failed);
        let told = ["failed 0-1 Some(Failed)", "free 0-1"];
        assert_eq!(show(h.on_time(7.0)), told);
        let told = ["failed 2 Some(Signaled(9))", "free 2"];
        assert_eq!(show(h.on_ended(8.0, ID, 2, Ended::Signaled(9))), told);

        let mut h = begin(Release::Together);
        for rank in 0..2 {
            h.on_ended(2.0, ID, rank, Ended::Failed);
        }
        h.on_ended(2.0, ID, 2, Ended::Signaled(9));
        let told = ["failed 0-2 None", "free 0-3 last", "complete"];
        assert_eq!(end(&mut h, 2.0, 3), told);
    }

    #[test]
    fn signals_reach_what_runs_where_they_are_meant_to() {
        let mut h = begin(Release::After(0.0));
        end(&mut h, 2.0, 1);
        let ranks: IdSet = [0, 1].into_iter().collect();
        assert_eq!(show(h.kill(None, None, 15)), ["kill 0,2-3 15"]);
        assert_eq!(show(h.kill(Some(ID), Some(&ranks), 9)), ["kill 0 9"]);
        assert_eq!(show(h.kill(Some(JobId(8)), None, 15)), NOTHING);
    }

    #[test]
    fn a_scheduler_that_takes_no_parts_ends_what_is_in_parts() {
        let mut h = begin(Release::After(0.0));
        assert_eq!(show(h.on_hello(false, 15)), NOTHING);
        end(&mut h, 2.0, 1);
        assert_eq!(show(h.on_hello(true, 15)), NOTHING);
        assert!(h.is_pending(ID, 0) && !h.is_pending(ID, 1));
        let told = ["abandoned 0,2-3", "kill 0,2-3 15"];
        assert_eq!(show(h.on_hello(false, 15)), told);
        assert!(!h.is_pending(ID, 0));
        assert_eq!(end(&mut h, 2.0, 0), NOTHING);
    }
}
