//! Prolog and epilog: the site's commands before a job's tasks and after them (`perilog.so`).
//!
//! A prolog holds a job's start up, an epilog holds its resources. Either runs on the leader's host
//! or on each rank of the job. One that fails raises an exception, and if it ran on each rank, those
//! where it failed are drained before it counts as finished. An epilog begins when a job's tasks
//! have ended; a job whose prolog failed has no tasks, so that its epilog begins with that failure,
//! before the prolog is said to have finished: nothing gets between the two.
//!
//! A command that takes too long, or whose job is lost, is told to end. If it does not, it is left
//! alone, and where it goes on is drained.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spec::{ResourceSet, eventlog};
use types::{IdSet, JobId, UserId};

use crate::fold::State;
use crate::manager::Job;
use crate::plugins::Plugin;
use crate::{Effect, Effects, Jobs, Object, event};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Before the tasks.
    Prolog,
    /// After them.
    Epilog,
}

impl Kind {
    /// Its name: the type of its exceptions and the beginning of its texts.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prolog => "prolog",
            Kind::Epilog => "epilog",
        }
    }

    /// Its events: start and finish.
    fn events(self) -> (&'static str, &'static str) {
        match self {
            Kind::Prolog => ("prolog-start", "prolog-finish"),
            Kind::Epilog => ("epilog-start", "epilog-finish"),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Kind::Prolog => "job-manager.prolog",
            Kind::Epilog => "job-manager.epilog",
        }
    }

    /// The severity of its failure. A job that is over anyway is not failed by its epilog.
    fn severity(self) -> i32 {
        match self {
            Kind::Prolog => 0,
            Kind::Epilog => 2,
        }
    }
}

/// What is configured of either.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The command.
    pub command: Vec<String>,
    /// Whether it runs on each rank of the job, or on the leader's host.
    pub per_rank: bool,
    /// Seconds it may take.
    pub timeout: Option<f64>,
    /// Seconds it may take to end once it is told to.
    pub kill_timeout: f64,
    /// Whether it is to end when its job is lost.
    pub cancel_on_exception: bool,
}

impl Settings {
    fn to_value(&self) -> Value {
        json!({
            "command": self.command,
            "per_rank": self.per_rank,
            "cancel_on_exception": self.cancel_on_exception,
            "timeout": self.timeout.unwrap_or(0.0),
            "kill-timeout": self.kill_timeout,
        })
    }
}

/// A command to start for a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// The job.
    pub id: JobId,
    /// Whose it is.
    pub userid: UserId,
    /// What the command is.
    pub kind: Kind,
    /// The command.
    pub command: Vec<String>,
    /// Where it is to run.
    pub ranks: IdSet,
    /// The job's resources, for its ranks and their hosts.
    pub resources: ResourceSet,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// It is to end because its job is lost.
    Canceled,
    /// It is to end because it takes too long.
    TimedOut,
    /// It is over, and ranks are being drained.
    Draining,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Canceled => "canceled",
            Phase::TimedOut => "timeout",
            Phase::Draining => "draining",
        }
    }
}

/// A command that runs for a job.
#[derive(Clone, Debug)]
struct Run {
    phase: Phase,
    settings: Settings,
    resources: ResourceSet,
    total: usize,
    active: IdSet,
    failed: IdSet,
    /// The highest wait status so far.
    status: i32,
    /// When it is told to end, or is left alone.
    deadline: Option<f64>,
    /// What is raised once ranks are drained.
    note: Option<String>,
}

impl Run {
    fn to_value(&self, now: f64, kind: Kind) -> Value {
        let remaining = self.deadline.map_or(-1.0, |time| (time - now).max(0.0));
        json!({
            "name": kind.name(),
            "state": self.phase.name(),
            "total": self.total,
            "active": self.active.len(),
            "active_ranks": self.active.to_string(),
            "remaining_time": remaining.round() as i64,
        })
    }

    /// Where something happened.
    fn place(&self, ranks: &IdSet, leader: &str) -> String {
        let hosts = match self.settings.per_rank {
            true => self.resources.copy_ranks(ranks).nodelist().to_string(),
            false => leader.to_owned(),
        };
        format!("{hosts} (rank {ranks})")
    }
}

/// Prolog and epilog of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Perilog {
    prolog: Option<Settings>,
    epilog: Option<Settings>,
    /// The leader's host.
    leader: String,
    /// Whether the instance ends, so that nothing more is begun.
    closed: bool,
    runs: BTreeMap<(JobId, Kind), Run>,
}

impl Perilog {
    fn settings(&self, kind: Kind) -> Option<&Settings> {
        match kind {
            Kind::Prolog => self.prolog.as_ref(),
            Kind::Epilog => self.epilog.as_ref(),
        }
    }
}

impl Jobs {
    /// Takes settings over, for what begins from now on. `leader` is the leader's host.
    pub fn configure_perilog(
        &mut self,
        leader: &str,
        prolog: Option<Settings>,
        epilog: Option<Settings>,
    ) {
        leader.clone_into(&mut self.perilog.leader);
        self.perilog.prolog = prolog;
        self.perilog.epilog = epilog;
    }

    /// The instance ends: no more is begun.
    pub fn close_perilog(&mut self) {
        self.perilog.closed = true;
    }

    /// When [`Jobs::on_perilog_time`] has something to do.
    pub(crate) fn next_perilog_time(&self) -> Option<f64> {
        let times = self.perilog.runs.values().filter_map(|run| run.deadline);
        times.min_by(f64::total_cmp)
    }

    /// What `perilog.so` tells of itself.
    pub(crate) fn query_perilog(&self, now: f64, data: &mut Object) {
        let conf = |kind| {
            let settings = self.perilog.settings(kind);
            settings.map_or_else(|| json!({}), Settings::to_value)
        };
        let conf = json!({"prolog": conf(Kind::Prolog), "epilog": conf(Kind::Epilog)});
        let runs = self.perilog.runs.iter();
        let procs = runs.map(|(&(id, kind), run)| (id.f58(), run.to_value(now, kind)));
        data.insert("conf".into(), conf);
        data.insert("procs".into(), Value::Object(procs.collect()));
    }

    /// Begins a job's prolog or epilog if there is one to begin. Returns whether there is.
    pub(crate) fn begin_script(
        &mut self,
        now: f64,
        id: JobId,
        kind: Kind,
        out: &mut Effects,
    ) -> bool {
        let begun = self.run_script(now, id, kind, out);
        if begun {
            let (start, _) = kind.events();
            self.post(id, event::action_start(now, start, kind.description()));
        }
        begun
    }

    fn run_script(&mut self, now: f64, id: JobId, kind: Kind, out: &mut Effects) -> bool {
        if self.perilog.closed || !self.plugins.has(Plugin::Perilog) {
            return false;
        }
        let Some(settings) = self.perilog.settings(kind).cloned() else {
            return false;
        };
        let Some((userid, resources)) = self.active.get(&id).and_then(|job| {
            let resources = job.resources.as_ref()?;
            let resources = ResourceSet::from_value(&Value::Object((**resources).clone()));
            // What a scheduler gave and cannot be read is no reason to keep a job from running.
            Some((job.fold.userid, resources.unwrap_or_default()))
        }) else {
            return false;
        };
        let ranks: IdSet = match settings.per_rank {
            true => resources.ranks(),
            false => [0].into_iter().collect(),
        };
        if ranks.is_empty() {
            return false;
        }
        let script = Script {
            id,
            userid,
            kind,
            command: settings.command.clone(),
            ranks: ranks.clone(),
            resources: resources.clone(),
        };
        let run = Run {
            phase: Phase::Running,
            resources,
            total: ranks.len(),
            active: ranks,
            failed: IdSet::new(),
            status: 0,
            deadline: settings.timeout.map(|seconds| now + seconds),
            note: None,
            settings,
        };
        self.perilog.runs.insert((id, kind), run);
        out.push(Effect::RunScript(Box::new(script)));
        true
    }

    /// Runs anew what ran when the job manager ended.
    pub(crate) fn resume_scripts(&mut self, now: f64, id: JobId, out: &mut Effects) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let is_open = |kind: Kind| match kind {
            Kind::Prolog => job.fold.prologs > 0,
            Kind::Epilog => job.fold.epilogs > 0,
        };
        let kinds = [Kind::Prolog, Kind::Epilog].into_iter();
        let ours: Vec<Kind> = kinds
            .filter(|kind| is_open(*kind) && is_open_in_log(job, *kind))
            .collect();
        for kind in ours {
            self.run_script(now, id, kind, out);
            if kind == Kind::Prolog
                && let Some(State::Cleanup) = self.active.get(&id).map(|job| job.fold.state)
            {
                self.cancel_scripts(now, id, out);
            }
        }
    }

    /// A job is lost: what runs for it is to end, where that is wanted.
    pub(crate) fn cancel_scripts(&mut self, now: f64, id: JobId, out: &mut Effects) {
        for kind in [Kind::Prolog, Kind::Epilog] {
            let run = self.perilog.runs.get_mut(&(id, kind));
            if let Some(run) = run
                && run.phase == Phase::Running
                && run.settings.cancel_on_exception
            {
                run.phase = Phase::Canceled;
                terminate(now, id, kind, run, out);
            }
        }
    }

    /// Ends what takes too long, or leaves it alone.
    pub(crate) fn on_perilog_time(&mut self, now: f64, out: &mut Effects) {
        let is_due = |run: &Run| run.deadline.is_some_and(|time| time <= now);
        let runs = self.perilog.runs.iter();
        let due: Vec<(JobId, Kind)> = runs
            .filter(|(_, run)| is_due(run))
            .map(|(key, _)| *key)
            .collect();
        for (id, kind) in due {
            let Some(run) = self.perilog.runs.get_mut(&(id, kind)) else {
                continue;
            };
            if run.phase == Phase::Running {
                run.phase = Phase::TimedOut;
                terminate(now, id, kind, run, out);
            } else {
                run.failed.insert_all(&run.active);
                run.active = IdSet::new();
                out.push(Effect::ScriptOverdue { id, kind });
                self.end_script(now, id, kind, true, out);
            }
        }
    }

    /// A command has ended on a rank, with a wait status.
    pub fn on_script_ended(
        &mut self,
        now: f64,
        id: JobId,
        kind: Kind,
        rank: u32,
        status: i32,
        out: &mut Effects,
    ) {
        let Some(run) = self.perilog.runs.get_mut(&(id, kind)) else {
            return;
        };
        if !run.active.remove(rank) {
            return;
        }
        run.status = run.status.max(status);
        if status != 0 {
            run.failed.insert(rank);
        }
        if run.active.is_empty() {
            self.end_script(now, id, kind, false, out);
        }
        self.settle(now, out);
    }

    /// The ranks where a command failed are drained, as far as they can be.
    pub fn on_script_drained(&mut self, now: f64, id: JobId, kind: Kind, out: &mut Effects) {
        self.finish_script(now, id, kind);
        self.settle(now, out);
    }

    /// A command is over, or left alone.
    fn end_script(&mut self, now: f64, id: JobId, kind: Kind, left_alone: bool, out: &mut Effects) {
        let Some(run) = self.perilog.runs.get_mut(&(id, kind)) else {
            return;
        };
        let name = kind.name();
        let failed = run.status != 0 || left_alone || run.phase == Phase::TimedOut;
        let how = match (left_alone, run.phase, run.status & 0x7f) {
            (true, ..) => Some("canceled then timed out".to_owned()),
            (_, Phase::TimedOut, _) => Some("timed out".to_owned()),
            _ if !failed || run.phase == Phase::Canceled => None,
            (_, _, 0) => Some(format!("exited with code={}", run.status >> 8)),
            (_, _, signal) => Some(format!("killed by signal {signal}")),
        };
        let place = match run.failed.is_empty() {
            // It gave way in good order, but too late.
            true => run.place(&run.resources.ranks(), &self.perilog.leader),
            false => run.place(&run.failed, &self.perilog.leader),
        };
        run.note = how.as_ref().map(|how| format!("{name} {how} on {place}"));
        run.deadline = None;
        let mut drain = None;
        if let Some(how) = how
            && run.settings.per_rank
            && !run.failed.is_empty()
        {
            let how = match how.ends_with("timed out") {
                true => how.as_str(),
                false => "failed",
            };
            run.phase = Phase::Draining;
            drain = Some(Effect::DrainRanks {
                id,
                kind,
                ranks: run.failed.clone(),
                reason: format!("{name} {how} for job {}", id.f58()),
            });
        }
        if failed && kind == Kind::Prolog {
            self.begin_script(now, id, Kind::Epilog, out);
        }
        match drain {
            Some(drain) => out.push(drain),
            None => self.finish_script(now, id, kind),
        }
    }

    fn finish_script(&mut self, now: f64, id: JobId, kind: Kind) {
        let Some(run) = self.perilog.runs.remove(&(id, kind)) else {
            return;
        };
        if let Some(note) = &run.note {
            let owner = self.owner.unwrap_or(UserId(0));
            let (name, severity) = (kind.name(), kind.severity());
            let raised = event::raised(now, name, severity, note, owner, None);
            self.post(id, raised);
        }
        let (_, finish) = kind.events();
        let finish = event::action_finish(now, finish, kind.description(), run.status);
        self.post(id, finish);
    }
}

/// Tells a command to end.
fn terminate(now: f64, id: JobId, kind: Kind, run: &mut Run, out: &mut Effects) {
    run.deadline = Some(now + run.settings.kill_timeout);
    out.push(Effect::KillScript {
        id,
        kind,
        ranks: run.active.clone(),
    });
}

/// Whether a job's eventlog has one of ours that did not finish. Others may post such events too.
fn is_open_in_log(job: &Job, kind: Kind) -> bool {
    let (start, finish) = kind.events();
    let mut open = 0_i32;
    for entry in eventlog::decode(job.log.as_bytes()).unwrap_or_default() {
        if entry.get_str("description") == Some(kind.description()) {
            open += i32::from(entry.name == start) - i32::from(entry.name == finish);
        }
    }
    open > 0
}
