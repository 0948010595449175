//! Job dependencies (RFC 26): on other jobs, on names, on time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use types::{JobId, UserId};

/// What a job waits for in another job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Start,
    Any,
    Ok,
    NotOk,
    Except,
}

impl After {
    pub(crate) fn from_scheme(scheme: &str) -> Option<After> {
        Some(match scheme {
            "after" | "afterstart" => After::Start,
            "afterany" => After::Any,
            "afterok" => After::Ok,
            "afternotok" => After::NotOk,
            "afterexcept" => After::Except,
            _ => return None,
        })
    }

    /// The beginning of its description.
    pub(crate) fn label(self) -> &'static str {
        match self {
            After::Start => "after-start",
            After::Any => "after-finish",
            After::Ok => "after-success",
            After::NotOk => "after-failure",
            After::Except => "after-except",
        }
    }
}

/// How far the job waited for has come, as far as dependencies care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) started: bool,
    pub(crate) inactive: bool,
    pub(crate) success: bool,
    pub(crate) excepted: bool,
}

impl After {
    /// `Some(true)` if satisfied, `Some(false)` if it can never be.
    pub(crate) fn check(self, job: Progress) -> Option<bool> {
        if self == After::Start && job.started {
            return Some(true);
        }
        job.inactive.then_some(match self {
            After::Start => false,
            After::Any => true,
            After::Ok => job.success,
            After::NotOk => !job.success,
            After::Except => job.excepted,
        })
    }
}

/// A job that waits for another.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) id: JobId,
    pub(crate) after: After,
    pub(crate) description: Box<str>,
}

/// Jobs of one user and name.
#[derive(Debug, Default)]
struct Namesakes {
    /// How many are active and not waiting here.
    others: usize,
    waiting: VecDeque<JobId>,
}

/// Every dependency of every active job.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    after: BTreeMap<JobId, Vec<Waiter>>,
    names: BTreeMap<(UserId, Box<str>), Namesakes>,
    /// By time, as bits: positive floats sort as their bits do.
    begin: BTreeSet<(u64, JobId)>,
}

impl Dependencies {
    pub(crate) fn wait_for(&mut self, dependency: JobId, waiter: Waiter) {
        self.after.entry(dependency).or_default().push(waiter);
    }

    /// Every job that waits for another, with that.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (JobId, &Waiter)> {
        let waiters = self.after.iter();
        waiters.flat_map(|(id, waiters)| waiters.iter().map(|waiter| (*id, waiter)))
    }

    /// The waiters of a job that is as far as this, each with whether it is satisfied.
    pub(crate) fn progress(&mut self, id: JobId, job: Progress) -> Vec<(Waiter, bool)> {
        let Some(waiters) = self.after.get_mut(&id) else {
            return Vec::new();
        };
        let mut done = Vec::new();
        waiters.retain(|waiter| match waiter.after.check(job) {
            Some(satisfied) => {
                done.push((waiter.clone(), satisfied));
                false
            }
            None => true,
        });
        if waiters.is_empty() {
            self.after.remove(&id);
        }
        done
    }

    /// A job with a name came. Whether, as a singleton, it has to wait.
    pub(crate) fn named(&mut self, user: UserId, name: &str, id: JobId, singleton: bool) -> bool {
        let jobs = self.names.entry((user, name.into())).or_default();
        let waits = singleton && (jobs.others > 0 || !jobs.waiting.is_empty());
        if waits {
            jobs.waiting.push_back(id);
        } else {
            jobs.others += 1;
        }
        waits
    }

    /// A job with a name went. The singleton whose turn it is now.
    pub(crate) fn unnamed(&mut self, user: UserId, name: &str, id: JobId) -> Option<JobId> {
        let key = (user, Box::from(name));
        let jobs = self.names.get_mut(&key)?;
        match jobs.waiting.iter().position(|waiting| *waiting == id) {
            Some(at) => drop(jobs.waiting.remove(at)),
            None => jobs.others = jobs.others.saturating_sub(1),
        }
        if jobs.others > 0 {
            return None;
        }
        let next = jobs.waiting.pop_front();
        match next {
            Some(_) => jobs.others = 1,
            None => drop(self.names.remove(&key)),
        }
        next
    }

    pub(crate) fn begin_at(&mut self, time: f64, id: JobId) {
        self.begin.insert((time.max(0.0).to_bits(), id));
    }

    /// The next time something begins.
    pub(crate) fn next_begin(&self) -> Option<f64> {
        self.begin.first().map(|key| f64::from_bits(key.0))
    }

    /// A job whose time has come, with that time.
    pub(crate) fn pop_begun(&mut self, now: f64) -> Option<(f64, JobId)> {
        let (bits, id) = *self.begin.first()?;
        let time = f64::from_bits(bits);
        if time > now {
            return None;
        }
        self.begin.pop_first();
        Some((time, id))
    }
}
