//! How the end of a job is forced, step by step.
//!
//! Its tasks are signalled again and again; with the fifth signal its shells are signalled too, and
//! from then on only they, at intervals that double. Once that was done too often, or for too long,
//! the job is given up.

use std::time::Duration;

use tokio::time::Instant;

/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often tasks are signalled.
const TASK_KILLS: u32 = 5;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// The first interval.
    pub(super) pause: Duration,
    /// How often shells are signalled.
    pub(super) shell_kills: u32,
    /// How long it goes on; then the count is of no concern.
    pub(super) time: Option<Duration>,
}

impl Limits {
    /// How long it goes on at most, in seconds, by the reference's reckoning: up to the last
    /// signal but one.
    pub(super) fn total(&self) -> f64 {
        if let Some(time) = self.time {
            return time.as_secs_f64();
        }
        let mut total = self.pause * TASK_KILLS;
        let mut pause = self.pause;
        for _ in 1..self.shell_kills {
            total = total.saturating_add(pause.min(PAUSE_MAX));
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
        total.as_secs_f64()
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SignalTasks,
    SignalShells,
    /// Leave it alone; says which limit is exceeded.
    GiveUp(&'static str),
}

/// How far the end of a job has been forced.
pub(super) struct Ending {
    limits: Limits,
    deadline: Option<Instant>,
    next: Instant,
    /// The interval at present.
    pub(super) pause: Duration,
    /// How often tasks were signalled.
    pub(super) kills: u32,
    /// How often shells were signalled.
    pub(super) shell_kills: u32,
}

impl Ending {
    /// Begins, when the job has been told to end.
    pub(super) fn new(now: Instant, limits: Limits) -> Ending {
        Ending {
            limits,
            deadline: limits.time.map(|time| now + time),
            next: now + limits.pause,
            pause: limits.pause,
            kills: 0,
            shell_kills: 0,
        }
    }

    /// When [`Ending::steps`] has something to do.
    pub(super) fn next(&self) -> Instant {
        self.deadline.map_or(self.next, |end| end.min(self.next))
    }

    /// What is due.
    pub(super) fn steps(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.next <= now {
            if self.kills < TASK_KILLS {
                self.kills += 1;
                steps.push(Step::SignalTasks);
            }
            if self.kills == TASK_KILLS {
                self.shell_kills += 1;
                steps.push(Step::SignalShells);
                self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
                if self.deadline.is_none() && self.shell_kills >= self.limits.shell_kills {
                    steps.push(Step::GiveUp("max kill count"));
                }
            }
            self.next = now + self.pause;
        }
        if self.deadline.is_some_and(|end| end <= now) {
            steps.push(Step::GiveUp("max-kill-timeout"));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{GiveUp, SignalShells, SignalTasks};

    fn limits(shell_kills: u32, time: Option<u64>) -> Limits {
        Limits {
            pause: Duration::from_millis(100),
            shell_kills,
            time: time.map(Duration::from_millis),
        }
    }

    /// Milliseconds from the beginning, and what is done.
    fn run(limits: Limits) -> Vec<(u128, Step)> {
        let start = Instant::now();
        let mut ending = Ending::new(start, limits);
        let mut done = Vec::new();
        while !matches!(done.last(), Some((_, GiveUp(_)))) {
            let now = ending.next();
            let time = (now - start).as_millis();
            done.extend(ending.steps(now).into_iter().map(|step| (time, step)));
        }
        done
    }

    #[test]
    fn tasks_come_first_then_shells_ever_more_rarely() {
        let expect = [
            (100, SignalTasks),
            (200, SignalTasks),
            (300, SignalTasks),
            (400, SignalTasks),
            (500, SignalTasks),
            (500, SignalShells),
            (700, SignalShells),
            (1100, SignalShells),
            (1100, GiveUp("max kill count")),
        ];
        assert_eq!(run(limits(3, None)), expect);
    }

    #[test]
    fn a_time_limit_counts_for_itself() {
        let done = run(limits(1, Some(650)));
        let last = [(500, SignalShells), (650, GiveUp("max-kill-timeout"))];
        assert_eq!(done[5..], last);
    }

    #[test]
    fn the_total_is_what_others_reckon() {
        let total = |limits: Limits| (limits.total() * 1e6).round() / 1e6;
        assert_eq!(total(limits(3, None)), 0.8);
        assert_eq!(total(limits(5, None)), 2.0);
        assert_eq!(total(limits(8, Some(500))), 0.5);
        let standard = Limits {
            pause: Duration::from_secs(5),
            ..limits(8, None)
        };
        assert_eq!(total(standard), 640.0);
    }
}
