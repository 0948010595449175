//! Every entry, and the event their runs wait for.
//!
//! Pure: the time is an argument, and what is to be done comes back as effects.

use std::cell::LazyCell;
use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use module::Severity;
use proto::cron::{Create, Delete, Entry as Shown, Sync, SyncState};
use proto::rexec::Command;
use rpc::RpcError;
use spec::crontab::FieldError;
use types::Errno;

use super::entry::{Ended, Entry, OnEvent, Trigger};

/// How many seconds after the sync event runs need not wait for the next, unless told otherwise.
const EPSILON_DEFAULT: f64 = 0.015;

/// How long an entry of type `datetime` is slept on at most: somebody may set the clock.
const CLOCK_CHECK_SECONDS: f64 = 60.0;

/// The time, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since the epoch.
    pub(super) wall: f64,
    /// On a clock nobody sets.
    pub(super) steady: f64,
}

/// The time zone, not looked for before a calendar wants it: that takes a millisecond.
pub(super) type Zone = LazyCell<TimeZone>;

/// Why a request is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum CronError {
    #[error("there is no cron-{0}")]
    UnknownEntry(u64),
    #[error("cron-{0} is stopped already")]
    Stopped(u64),
    #[error("cron-{0} is not stopped")]
    NotStopped(u64),
    #[error("cron-{0} is being deleted")]
    Deleted(u64),
    #[error("unknown type '{0}'")]
    UnknownType(String),
    #[error("args: {0}")]
    Args(String),
    #[error("{name} cannot be {seconds} seconds")]
    Seconds { name: &'static str, seconds: f64 },
    #[error("{0}")]
    Field(#[from] FieldError),
}

impl CronError {
    fn errno(&self) -> Errno {
        match self {
            CronError::UnknownEntry(_) => Errno::ENOENT,
            CronError::Stopped(_)
            | CronError::NotStopped(_)
            | CronError::Deleted(_)
            | CronError::Seconds { .. } => Errno::EINVAL,
            CronError::UnknownType(_) => Errno::ENOSYS,
            CronError::Args(_) => Errno::EPROTO,
            CronError::Field(error) => error.errno(),
        }
    }
}

impl From<CronError> for RpcError {
    /// Scripts know the error number's words.
    fn from(error: CronError) -> RpcError {
        let errno = error.errno();
        RpcError::new(errno, format!("{errno}: {error}"))
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Tell in the log.
    Log(Severity, String),
    /// Run an entry's command.
    Run {
        /// The entry.
        id: u64,
        /// Where.
        rank: u32,
        /// What.
        command: Box<Command>,
    },
    /// Terminate a process.
    Terminate {
        /// Where.
        rank: u32,
        /// Which.
        pid: i32,
    },
    /// Listen to a topic.
    Subscribe(String),
    /// No longer.
    Unsubscribe(String),
}

/// The entries.
pub(super) struct Cron {
    zone: Zone,
    entries: BTreeMap<u64, Entry>,
    last_id: u64,
    sync: Option<String>,
    epsilon: f64,
    /// When the sync event came last, on the steady clock.
    last_sync: Option<f64>,
    /// Entries whose run waits for it, in order.
    deferred: Vec<u64>,
    /// What is to be done.
    pub(super) effects: Vec<Effect>,
}

impl Cron {
    /// No entries, in a time zone.
    pub(super) fn new(zone: fn() -> TimeZone) -> Cron {
        Cron {
            zone: LazyCell::new(zone),
            entries: BTreeMap::new(),
            last_id: 0,
            sync: None,
            epsilon: EPSILON_DEFAULT,
            last_sync: None,
            deferred: Vec::new(),
            effects: Vec::new(),
        }
    }

    fn log(&mut self, severity: Severity, text: String) {
        self.effects.push(Effect::Log(severity, text));
    }

    /// Makes an entry and starts it.
    pub(super) fn create(&mut self, now: Now, mut request: Create) -> Result<Shown, CronError> {
        let trigger = Trigger::of(&mut request)?;
        if let Some(seconds) = request
            .timeout
            .filter(|timeout| !(0.0..1e9).contains(timeout))
        {
            let name = "timeout";
            return Err(CronError::Seconds { name, seconds });
        }
        self.last_id += 1;
        let id = self.last_id;
        let entry = Entry::new(id, request, trigger, now);
        self.entries.insert(id, entry);
        self.start_entry(now, id);
        Ok(self.entry(id)?.shown())
    }

    fn entry(&mut self, id: u64) -> Result<&mut Entry, CronError> {
        self.entries.get_mut(&id).ok_or(CronError::UnknownEntry(id))
    }

    fn start_entry(&mut self, now: Now, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if !entry.start(now, &self.zone) {
            return self.no_next(id);
        }
        if let Trigger::Event { topic, .. } = &entry.trigger {
            self.effects.push(Effect::Subscribe(topic.clone()));
        }
    }

    fn stop_entry(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.stopped) else {
            return;
        };
        entry.stop();
        if let Trigger::Event { topic, .. } = &entry.trigger {
            self.effects.push(Effect::Unsubscribe(topic.clone()));
        }
    }

    fn no_next(&mut self, id: u64) {
        let text = format!("cron-{id}: Unable to get next wakeup. Stopping.");
        self.log(Severity::Err, text);
        self.stop_entry(id);
    }

    /// Starts a stopped entry.
    pub(super) fn start(&mut self, now: Now, id: u64) -> Result<Shown, CronError> {
        let entry = self.entry(id)?;
        if entry.deleted {
            return Err(CronError::Deleted(id));
        }
        if !entry.stopped {
            return Err(CronError::NotStopped(id));
        }
        self.start_entry(now, id);
        Ok(self.entry(id)?.shown())
    }

    /// Stops an entry. What it runs goes on.
    pub(super) fn stop(&mut self, id: u64) -> Result<Shown, CronError> {
        if self.entry(id)?.stopped {
            return Err(CronError::Stopped(id));
        }
        self.stop_entry(id);
        Ok(self.entry(id)?.shown())
    }

    /// Removes an entry: one whose command runs once that has ended.
    pub(super) fn delete(&mut self, request: Delete) -> Result<Shown, CronError> {
        let id = request.id;
        self.entry(id)?;
        self.stop_entry(id);
        let entry = self.entry(id)?;
        let shown = entry.shown();
        match &mut entry.run {
            Some(run) if !run.is_deferred() => {
                run.kill |= request.kill;
                entry.deleted = true;
                if request.kill {
                    self.terminate(id);
                }
            }
            _ => {
                self.deferred.retain(|deferred| *deferred != id);
                self.entries.remove(&id);
            }
        }
        Ok(shown)
    }

    /// Terminates an entry's process, if there is one already.
    fn terminate(&mut self, id: u64) {
        let entry = self.entries.get(&id);
        let Some(run) = entry.and_then(|entry| entry.run.as_ref()) else {
            return;
        };
        let (rank, pid) = (run.task.rank, run.task.pid);
        if pid > 0 {
            self.effects.push(Effect::Terminate { rank, pid });
        }
    }

    /// The entries.
    pub(super) fn list(&self) -> Vec<Shown> {
        self.entries.values().map(Entry::shown).collect()
    }

    /// Changes what runs wait for, and tells it.
    pub(super) fn sync(&mut self, now: Now, request: Sync) -> Result<SyncState, CronError> {
        if let Some(seconds) = request.sync_epsilon {
            if !(0.0..1e9).contains(&seconds) {
                let name = "sync_epsilon";
                return Err(CronError::Seconds { name, seconds });
            }
            self.epsilon = seconds;
        }
        match request.topic {
            Some(topic) => self.sync_to(topic),
            None if request.disable => {
                if let Some(topic) = self.sync.take() {
                    self.effects.push(Effect::Unsubscribe(topic));
                }
                self.launch_deferred(now);
            }
            None => {}
        }
        Ok(match &self.sync {
            Some(topic) => SyncState::Event {
                sync_event: topic.clone(),
                sync_epsilon: self.epsilon,
            },
            None => SyncState::Disabled {
                sync_disabled: true,
            },
        })
    }

    fn sync_to(&mut self, topic: String) {
        let text = format!("synchronizing cron tasks to event {topic}");
        self.log(Severity::Info, text);
        self.effects.push(Effect::Subscribe(topic.clone()));
        if let Some(before) = self.sync.replace(topic) {
            self.effects.push(Effect::Unsubscribe(before));
        }
        self.last_sync = None;
    }

    /// An event came.
    pub(super) fn on_event(&mut self, now: Now, topic: &str) {
        if self.sync.as_deref() == Some(topic) {
            self.last_sync = Some(now.steady);
            self.launch_deferred(now);
        }
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            match entry.on_event(now, topic) {
                OnEvent::Ignore => {}
                OnEvent::Run => self.trigger(now, id),
                OnEvent::Hold(seconds) => {
                    let text = format!("cron-{id}: delaying {seconds:.3}s due to min interval");
                    self.log(Severity::Debug, text);
                }
            }
        }
    }

    /// How many seconds [`Cron::on_time`] need not be called; `None` for ever.
    pub(super) fn remaining(&self, now: Now) -> Option<f64> {
        let waits = self.entries.values().flat_map(|entry| {
            let mut due = entry.trigger.remaining(now).filter(|_| !entry.stopped);
            if matches!(entry.trigger, Trigger::Datetime { .. }) {
                due = due.map(|due| due.min(CLOCK_CHECK_SECONDS));
            }
            let deadline = entry.run.as_ref().and_then(|run| run.deadline);
            [due, deadline.map(|deadline| deadline - now.steady)]
        });
        waits.flatten().min_by(f64::total_cmp)
    }

    /// Time has passed.
    pub(super) fn on_time(&mut self, now: Now) {
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        for id in ids {
            self.check_deadline(now, id);
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let remaining = entry.trigger.remaining(now);
            if entry.stopped || remaining.is_none_or(|remaining| remaining > 0.0) {
                continue;
            }
            let goes_on = entry.trigger.advance(now, &self.zone);
            self.trigger(now, id);
            // One that has run as often as it should is stopped by now.
            if !goes_on && self.entry(id).is_ok_and(|entry| !entry.stopped) {
                self.no_next(id);
            }
        }
    }

    fn check_deadline(&mut self, now: Now, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Some(run) = &mut entry.run else { return };
        if run.deadline.is_some_and(|deadline| deadline <= now.steady) {
            run.kill = true;
            entry.time_out();
            self.terminate(id);
        }
    }

    /// An entry's trigger says it should run: it does, or waits for the sync event.
    fn trigger(&mut self, now: Now, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.run.is_some() {
            let name = entry.name();
            let text = format!("cron-{id}: {name}: task still running or scheduled");
            return self.log(Severity::Info, text);
        }
        entry.trigger_run(now);
        if entry.stats.count == entry.repeat() {
            self.stop_entry(id);
        }
        let fresh = |last: f64| now.steady - last <= self.epsilon;
        match &self.sync {
            Some(topic) if !self.last_sync.is_some_and(fresh) => {
                let text = format!("deferring cron-{id} to next {topic} event");
                self.log(Severity::Debug, text);
                self.deferred.push(id);
                if let Ok(entry) = self.entry(id) {
                    entry.stats.deferred += 1;
                }
            }
            _ => self.launch(now, id),
        }
    }

    fn launch(&mut self, now: Now, id: u64) {
        let Ok(entry) = self.entry(id) else { return };
        let rank = entry.rank();
        if let Some(command) = entry.launch(now) {
            let command = Box::new(command);
            self.effects.push(Effect::Run { id, rank, command });
        }
    }

    fn launch_deferred(&mut self, now: Now) {
        for id in std::mem::take(&mut self.deferred) {
            self.launch(now, id);
        }
    }

    /// An entry's command runs.
    pub(super) fn on_started(&mut self, now: Now, id: u64, pid: i32) {
        let Ok(entry) = self.entry(id) else { return };
        let Some(run) = &mut entry.run else { return };
        run.task.pid = pid;
        run.task.running_time = Some(now.wall);
        if run.kill {
            self.terminate(id);
        }
    }

    /// An entry's command wrote a line.
    pub(super) fn on_line(&mut self, id: u64, severity: Severity, line: &str) {
        let Ok(entry) = self.entry(id) else { return };
        let (name, rank, command) = (entry.name(), entry.rank(), entry.command());
        let text = format!("cron-{id}[{name}]: rank={rank}: command=\"{command}\": \"{line}\"");
        self.log(severity, text);
    }

    /// An entry's command ended.
    pub(super) fn on_ended(&mut self, now: Now, id: u64, ended: &Ended) {
        let Ok(entry) = self.entry(id) else { return };
        let fault = entry.finish(now, ended);
        let limit = entry.failure_limit_reached().filter(|_| fault.is_some());
        if entry.deleted {
            self.entries.remove(&id);
        }
        if let Some(fault) = fault {
            self.log(Severity::Err, format!("cron-{id}: {fault}"));
        }
        if let Some(limit) = limit {
            let text = format!("cron-{id}: exceeded failure limit of {limit}. stopping");
            self.log(Severity::Err, text);
            self.stop_entry(id);
        }
    }
}
