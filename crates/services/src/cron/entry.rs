//! One entry: what triggers it, what it runs, and what became of that.

use std::collections::VecDeque;

use proto::cron::{Create, Entry as Shown, Stats, Task, TypeData, kind, task_state};
use proto::rexec::Command;
use serde::de::DeserializeOwned;
use types::describe_signal;

use super::calendar::Calendar;
use super::state::{CronError, Now, Zone};

/// Runs to remember where a request does not say.
const HISTORY_DEFAULT: u32 = 1;

/// What triggers an entry.
#[derive(Clone, Debug)]
pub(super) enum Trigger {
    /// Time that passes.
    Interval {
        /// Seconds; 0 for once.
        every: f64,
        /// Seconds to the first.
        after: f64,
        /// When next, on the steady clock.
        due: Option<f64>,
        /// The same as people read it.
        next_wakeup: f64,
    },
    /// Events.
    Event {
        /// Their topic.
        topic: String,
        /// Only with every how many of them; 0 for all.
        nth: u32,
        /// With which of them first.
        after: u32,
        /// Seconds between two runs at least.
        min_interval: f64,
        /// How many there were.
        counter: u64,
        /// A run held back until then, on the steady clock, for the sake of `min_interval`.
        held: Option<f64>,
        /// The last run, on the steady clock.
        last: Option<f64>,
    },
    /// The calendar.
    Datetime {
        /// The fields.
        calendar: Calendar,
        /// When next, in seconds since the epoch.
        due: Option<f64>,
    },
}

fn args<T: DeserializeOwned>(request: &mut Create) -> Result<T, CronError> {
    let args = std::mem::take(&mut request.args);
    serde_json::from_value(args.into()).map_err(|error| CronError::Args(error.to_string()))
}

/// Seconds a clock can count.
fn seconds(name: &'static str, seconds: f64) -> Result<f64, CronError> {
    if std::time::Duration::try_from_secs_f64(seconds).is_err() {
        return Err(CronError::Seconds { name, seconds });
    }
    Ok(seconds)
}

impl Trigger {
    /// What a request asks for; takes its arguments.
    pub(super) fn of(request: &mut Create) -> Result<Trigger, CronError> {
        match request.kind.as_str() {
            kind::INTERVAL => {
                let asked: proto::cron::Interval = args(request)?;
                let every = seconds("interval", asked.interval)?;
                Ok(Trigger::Interval {
                    every,
                    after: seconds("after", asked.after.unwrap_or(every))?,
                    due: None,
                    next_wakeup: 0.0,
                })
            }
            kind::EVENT => {
                let asked: proto::cron::Topic = args(request)?;
                Ok(Trigger::Event {
                    topic: asked.topic,
                    nth: asked.nth.unwrap_or(0),
                    after: asked.after.unwrap_or(0),
                    min_interval: seconds("min_interval", asked.min_interval.unwrap_or(0.0))?,
                    counter: 0,
                    held: None,
                    last: None,
                })
            }
            kind::DATETIME => Ok(Trigger::Datetime {
                calendar: Calendar::parse(&args(request)?)?,
                due: None,
            }),
            other => Err(CronError::UnknownType(other.to_owned())),
        }
    }

    /// Begins to wait. False if there is nothing to wait for.
    fn arm(&mut self, now: Now, zone: &Zone) -> bool {
        match self {
            Trigger::Interval {
                after,
                due,
                next_wakeup,
                ..
            } => {
                *due = Some(now.steady + *after);
                *next_wakeup = now.wall + *after;
                true
            }
            Trigger::Event { counter, .. } => {
                *counter = 0;
                true
            }
            Trigger::Datetime { calendar, due } => {
                *due = calendar.next_after(now.wall, zone);
                due.is_some()
            }
        }
    }

    fn disarm(&mut self) {
        match self {
            Trigger::Interval { due, .. } => *due = None,
            Trigger::Event { held, .. } => *held = None,
            // What was next stays to be seen.
            Trigger::Datetime { .. } => {}
        }
    }

    /// Seconds until it is due.
    pub(super) fn remaining(&self, now: Now) -> Option<f64> {
        match self {
            Trigger::Interval { due, .. } => Some(due.as_ref()? - now.steady),
            Trigger::Event { held, .. } => Some(held.as_ref()? - now.steady),
            Trigger::Datetime { due, .. } => Some(due.as_ref()? - now.wall),
        }
    }

    /// It was due: waits for the next time. False if there is none.
    pub(super) fn advance(&mut self, now: Now, zone: &Zone) -> bool {
        match self {
            Trigger::Interval {
                every,
                due,
                next_wakeup,
                ..
            } => {
                // One that runs once stays startable.
                let next = due.map(|due| due + *every).filter(|_| *every > 0.0);
                // After a stall one run says as much as several.
                *due = next.map(|next| {
                    if next > now.steady {
                        next
                    } else {
                        now.steady + *every
                    }
                });
                if let Some(due) = due {
                    *next_wakeup = now.wall + (*due - now.steady);
                }
                true
            }
            Trigger::Event { held, last, .. } => {
                *held = None;
                *last = Some(now.steady);
                true
            }
            Trigger::Datetime { calendar, due } => {
                *due = calendar.next_after(now.wall, zone);
                due.is_some()
            }
        }
    }

    fn shown(&self) -> TypeData {
        match self {
            Trigger::Interval {
                every,
                after,
                next_wakeup,
                ..
            } => TypeData::Interval {
                interval: *every,
                after: *after,
                next_wakeup: *next_wakeup,
            },
            Trigger::Event {
                topic,
                nth,
                after,
                min_interval,
                counter,
                ..
            } => TypeData::Event {
                topic: topic.clone(),
                nth: *nth,
                after: *after,
                counter: *counter,
                min_interval: *min_interval,
            },
            Trigger::Datetime { calendar, due } => TypeData::Datetime {
                next_wakeup: due.unwrap_or(0.0),
                fields: calendar.fields(),
            },
        }
    }
}

/// What an event means for an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OnEvent {
    /// Nothing.
    Ignore,
    /// It runs.
    Run,
    /// It will run, that many seconds later.
    Hold(f64),
}

/// A run that is not over.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) task: Task,
    /// When it has taken too long, on the steady clock.
    pub(super) deadline: Option<f64>,
    /// Whether it is to be terminated as soon as there is a process.
    pub(super) kill: bool,
}

impl Run {
    pub(super) fn is_deferred(&self) -> bool {
        self.task.start_time.is_none()
    }
}

/// An entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    request: Create,
    pub(super) trigger: Trigger,
    pub(super) stopped: bool,
    /// Whether it goes as soon as its command has ended.
    pub(super) deleted: bool,
    pub(super) stats: Stats,
    pub(super) run: Option<Run>,
    history: VecDeque<Task>,
}

impl Entry {
    /// An entry that is stopped as yet.
    pub(super) fn new(id: u64, request: Create, trigger: Trigger, now: Now) -> Entry {
        Entry {
            id,
            request,
            trigger,
            stopped: true,
            deleted: false,
            stats: Stats {
                ctime: now.wall,
                ..Stats::default()
            },
            run: None,
            history: VecDeque::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.request.name
    }

    pub(super) fn command(&self) -> &str {
        &self.request.command
    }

    pub(super) fn rank(&self) -> u32 {
        self.request.rank.unwrap_or(0)
    }

    pub(super) fn repeat(&self) -> i64 {
        self.request.repeat.unwrap_or(0)
    }

    /// The number of failures that stops it, if there were so many.
    pub(super) fn failure_limit_reached(&self) -> Option<u32> {
        let limit = self.request.stop_on_failure.filter(|limit| *limit > 0)?;
        (self.stats.failcount >= i64::from(limit)).then_some(limit)
    }

    /// Waits for its trigger, and counts anew. False if that never comes.
    pub(super) fn start(&mut self, now: Now, zone: &Zone) -> bool {
        self.stats.starttime = now.wall;
        self.stats.count = 0;
        self.stats.failcount = 0;
        self.stopped = !self.trigger.arm(now, zone);
        !self.stopped
    }

    pub(super) fn stop(&mut self) {
        self.trigger.disarm();
        self.stopped = true;
    }

    /// An event with this topic.
    pub(super) fn on_event(&mut self, now: Now, seen: &str) -> OnEvent {
        let Trigger::Event {
            topic,
            nth,
            after,
            min_interval,
            counter,
            held,
            last,
        } = &mut self.trigger
        else {
            return OnEvent::Ignore;
        };
        if self.stopped || topic != seen {
            return OnEvent::Ignore;
        }
        *counter += 1;
        let since = counter.checked_sub(u64::from(*after));
        let nth = u64::from((*nth).max(1));
        if held.is_some() || since.is_none_or(|since| !since.is_multiple_of(nth)) {
            return OnEvent::Ignore;
        }
        let wait = last.map_or(0.0, |last| last + *min_interval - now.steady);
        if wait > 0.0 {
            *held = Some(now.steady + wait);
            return OnEvent::Hold(wait);
        }
        *last = Some(now.steady);
        OnEvent::Run
    }

    /// Counts a run, which waits for its turn.
    pub(super) fn trigger_run(&mut self, now: Now) {
        self.stats.total += 1;
        self.stats.count += 1;
        self.run = Some(Run {
            task: Task {
                rank: self.rank(),
                state: task_state::DEFERRED.to_owned(),
                create_time: now.wall,
                ..Task::default()
            },
            deadline: None,
            kill: false,
        });
    }

    /// Its run's turn has come.
    pub(super) fn launch(&mut self, now: Now) -> Option<Command> {
        let run = self.run.as_mut()?;
        run.task.state = task_state::RUNNING.to_owned();
        run.task.start_time = Some(now.wall);
        let timeout = self.request.timeout;
        run.deadline = timeout.map(|timeout| now.steady + timeout);
        self.stats.lastrun = now.wall;
        Some(Command {
            cwd: self.request.cwd.clone(),
            cmdline: ["sh", "-c", self.command()].map(str::to_owned).into(),
            env: self.request.environ.clone().unwrap_or_default(),
            ..Command::default()
        })
    }

    /// Its run took too long.
    pub(super) fn time_out(&mut self) {
        if let Some(run) = &mut self.run {
            run.deadline = None;
            run.task.timedout = Some(true);
            run.task.state = task_state::TIMEOUT.to_owned();
        }
    }

    /// Its run is over. Tells what was wrong with it.
    pub(super) fn finish(&mut self, now: Now, ended: &Ended) -> Option<String> {
        let Run { mut task, .. } = self.run.take()?;
        task.end_time = Some(now.wall);
        let fault = match ended {
            Ended::Status(status) => {
                task.status = *status;
                let (code, fault) = read_status(*status);
                task.code = Some(code);
                if task.timedout.is_none() {
                    let state = match fault {
                        Some(_) => task_state::FAILED,
                        None => task_state::EXITED,
                    };
                    task.state = state.to_owned();
                }
                fault.map(|fault| format!("\"{}\": Failed: {fault}", self.command()))
            }
            Ended::Lost { errno, text } => {
                task.rexec_errno = Some(*errno);
                task.code = Some(0);
                task.state = task_state::REXEC_FAILURE.to_owned();
                Some(format!("failure running {}: {text}", self.command()))
            }
        };
        match fault {
            Some(_) => {
                self.stats.failure += 1;
                self.stats.failcount += 1;
            }
            None => self.stats.success += 1,
        }
        let keep = self.request.task_history_count.unwrap_or(HISTORY_DEFAULT);
        self.history.push_front(task);
        self.history.truncate(keep as usize);
        fault
    }

    /// The entry as clients see it.
    pub(super) fn shown(&self) -> Shown {
        let run = self.run.iter().map(|run| &run.task);
        Shown {
            id: self.id,
            rank: self.rank(),
            name: self.request.name.clone(),
            command: self.request.command.clone(),
            repeat: self.repeat(),
            stopped: self.stopped,
            kind: self.request.kind.clone(),
            timeout: self.request.timeout,
            stats: self.stats,
            typedata: self.trigger.shown(),
            tasks: run.chain(&self.history).cloned().collect(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// A wait status.
    Status(i32),
    /// It was not run, or nobody knows.
    Lost {
        /// The error.
        errno: i32,
        /// What is said of it.
        text: String,
    },
}

/// The code a wait status stands for, and what was wrong.
fn read_status(status: i32) -> (i32, Option<String>) {
    let signal = status & 0x7f;
    if signal != 0 {
        return (128 + signal, Some(describe_signal(signal)));
    }
    let code = (status >> 8) & 0xff;
    (code, (code != 0).then(|| format!("Exit {code}")))
}
