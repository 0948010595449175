//! One job, from its start request to its last answer.

use std::rc::Rc;
use std::time::Duration;

use jobs::event;
use module::Severity;
use nix::sys::signal::Signal;
use proto::job_exec::{Start, StartReply};
use proto::job_manager::{JobManagerKill, Kill};
use proto::resource::{Drain, ResourceDrain};
use proto::rexec::Command;
use rpc::{Dest, Handle, RpcError};
use serde_json::{Map, Value, json};
use spec::{Entry, ResourceSet};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use types::{Errno, IdSet, JobId, Rank};
use wire::Message;

use super::barrier::Barrier;
use super::config::signal_name;
use super::ending::{Ending, Step};
use super::shells::{self, Shell, ShellEvent};
use super::writer::Writer;
use super::{Control, Shared, guest};
use crate::job_manager::now;
use crate::store;

/// The most J and R may have together to travel in the shell's environment.
const HANDOVER_BYTES_MAX: usize = 64 << 10;
/// Longer than any job.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

/// What a jobspec may say in `attributes.system.exec.bulkexec`.
const BULK_OPTIONS: &[&str] = &[
    "barrier-timeout",
    "mock_exception",
    "sdexec-test-expected-cpus",
    "service",
];

/// Answers to a start request (RFC 32).
pub(super) struct Answers<'a> {
    handle: &'a Handle,
    message: &'a Message,
    id: JobId,
}

impl<'a> Answers<'a> {
    pub(super) fn new(handle: &'a Handle, message: &'a Message, id: JobId) -> Answers<'a> {
        Answers {
            handle,
            message,
            id,
        }
    }

    fn answer(&self, kind: &str, data: Value) {
        let reply = StartReply {
            id: self.id,
            kind: kind.to_owned(),
            data,
        };
        self.handle.respond(self.message, &reply);
    }

    pub(super) fn reattached(&self) {
        self.answer("reattached", Value::Null);
    }

    pub(super) fn start(&self) {
        self.answer("start", Value::Null);
    }

    pub(super) fn finish(&self, status: i32) {
        self.answer("finish", json!({ "status": status }));
    }

    pub(super) fn release(&self) {
        self.answer("release", json!({"ranks": "all", "final": true}));
    }

    pub(super) fn exception(&self, kind: &str, severity: i32, note: &str) {
        let data = json!({"severity": severity, "type": kind, "note": note});
        self.answer("exception", data);
    }
}

/// The status of a job that a fatal exception ended.
pub(super) fn fatal_status(status: i32, wait_status: Option<i32>) -> i32 {
    match wait_status {
        Some(given) if given & 0x7f != 0 => (128 + (given & 0x7f)) << 8,
        Some(given) => given & 0xff00,
        None if status == 0 => 1 << 8,
        None => status,
    }
}

struct Job<'a> {
    shared: &'a Shared,
    config: Rc<super::config::Config>,
    answers: Answers<'a>,
    id: JobId,
    guest: Writer,
    /// Events that go with the end of the exec eventlog.
    last: Vec<Entry>,
    shells: Vec<Shell>,
    ranks: IdSet,
    critical: IdSet,
    barrier: Barrier,
    barrier_end: Option<Instant>,
    exit_end: Option<Instant>,
    expiration: Option<Instant>,
    /// The same, in seconds since the epoch; 0 for none.
    expires: f64,
    /// How long shells may be apart at the first barrier.
    barrier_timeout: Option<Duration>,
    ending: Option<Ending>,
    /// A fatal exception, with the status it asks for.
    failed: Option<Option<i32>>,
    status: i32,
    reported_start: bool,
    component: String,
}

/// Runs a job to its end.
pub(super) async fn run(
    shared: &Shared,
    message: &Message,
    start: Start,
    controls: mpsc::UnboundedReceiver<Control>,
) {
    let answers = Answers::new(&shared.handle, message, start.id);
    if let Err(error) = try_run(shared, &answers, &start, controls).await {
        let note = format!("job-exec: {error}");
        shared.log(Severity::Err, format!("{}: {note}", start.id.f58()));
        answers.exception("exec", 0, &note);
        answers.finish(1 << 8);
        answers.release();
    }
}

async fn try_run(
    shared: &Shared,
    answers: &Answers<'_>,
    start: &Start,
    controls: mpsc::UnboundedReceiver<Control>,
) -> Result<(), RpcError> {
    let id = start.id;
    let set = ResourceSet::from_value(&Value::Object(start.resources.clone()))
        .map_err(|error| RpcError::new(Errno::EINVAL, format!("R: {error}")))?;
    if start.reattach {
        answers.exception("exec", 0, "reattach to running job is not implemented");
        answers.finish(1 << 8);
        answers.release();
        return Ok(());
    }
    let name = guest::namespace(id);
    // The symlink goes out before the shell can write anything, and the KVS keeps the order;
    // nobody has to wait for it here. It goes first of all to share a commit with the job
    // manager's event.
    let linked = guest::link(shared, id);
    let key = format!("{}.J", id.kvs_path());
    let signed = store::get(&shared.handle, &key);
    let time = now();
    let first = [event::plain(time, "init"), event::plain(time, "starting")];
    let first = spec::eventlog::encode(&first);
    let (created, signed) = tokio::join!(guest::create(shared, start, &first), signed);
    created?;
    let guest = Writer::new(shared.handle.clone(), &name);
    let mut job = Job {
        shared,
        config: shared.config.borrow().clone(),
        answers: Answers::new(answers.handle, answers.message, id),
        id,
        guest,
        last: Vec::new(),
        shells: set
            .nodes()
            .map(|(rank, node)| Shell {
                rank,
                host: node.hostname.as_deref().unwrap_or("unknown").to_owned(),
                pid: None,
                started: false,
                status: None,
            })
            .collect(),
        ranks: set.ranks(),
        critical: IdSet::first_n(set.nnodes() as u32),
        barrier: Barrier::new(set.ranks()),
        barrier_end: None,
        exit_end: None,
        expiration: None,
        expires: 0.0,
        barrier_timeout: None,
        ending: None,
        failed: None,
        status: 0,
        reported_start: false,
        component: String::new(),
    };
    // What is to be reattached was refused above: this is the job's first start.
    let most = job.shared.config.borrow().max_start_delay_percent;
    let late = compensation(set.starttime, set.expiration, now(), most);
    job.set_expiration(set.expiration + late);
    let system = |key: &str| {
        start
            .jobspec
            .get("attributes")?
            .get("system")?
            .get("exec")?
            .get(key)
    };
    let bulk = system("bulkexec");
    if let Some(key) = bulk.and_then(unknown_bulk_option) {
        let note = format!("failed to unpack system.exec.bulkexec: unknown key '{key}'");
        shared.log(Severity::Err, format!("{}: {note}", id.f58()));
        job.fail("exec", &note);
        job.status = 1 << 8;
    }
    let own_timeout = bulk.and_then(|bulk| bulk.get("barrier-timeout")?.as_f64());
    job.barrier_timeout = match own_timeout {
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|limit| !limit.is_zero()),
        None => job.config.barrier_timeout,
    };
    let mock = bulk.and_then(|bulk| bulk.get("mock_exception")?.as_str());
    match mock {
        _ if job.failed.is_some() => {}
        Some(when @ ("init" | "starting")) => {
            job.fail("exec", &format!("mock {when} exception generated"));
            job.status = 1 << 8;
        }
        _ => {
            let path = system("job_shell").and_then(Value::as_str);
            let signed = signed?.and_then(|bytes| String::from_utf8(bytes).ok());
            let command = job.command(path, start, signed);
            job.supervise(command, controls).await;
        }
    }
    let status = match job.failed {
        Some(wait_status) => fatal_status(job.status, wait_status),
        None => job.status,
    };
    let time = now();
    let complete = context(time, "complete", json!({ "status": status }));
    job.last.extend([complete, event::plain(time, "done")]);
    answers.finish(status);
    job.guest.settled().await?;
    linked.await.unwrap_or(Ok(()))?;
    let grafted = guest::graft(shared, id, &spec::eventlog::encode(&job.last)).await?;
    // The commit is on its way, and the KVS keeps their order: who sees the job's next event sees
    // what the guest left.
    answers.release();
    let removed = guest::remove(shared, id, grafted).await;
    if let Err(error) = removed {
        let text = format!("{}: failed to keep the guest directory: {error}", id.f58());
        shared.log(Severity::Err, text);
    }
    Ok(())
}

/// A key of the `bulkexec` attribute that means nothing.
fn unknown_bulk_option(bulk: &Value) -> Option<&str> {
    let known = |key: &str| BULK_OPTIONS.contains(&key);
    bulk.as_object()?
        .keys()
        .map(String::as_str)
        .find(|key| !known(key))
}

/// An event with details, which are an object.
pub(super) fn context(time: f64, name: &str, context: Value) -> Entry {
    match context {
        Value::Object(context) => Entry::with_context(time, name, context),
        _ => Entry::new(time, name),
    }
}

impl Job<'_> {
    /// Adds an event to the exec eventlog. Readers follow along; the end of the job waits for it.
    fn log(&self, entry: Entry) {
        let text = spec::eventlog::encode(&[entry]);
        let op = store::append("exec.eventlog", text.as_bytes());
        drop(self.guest.write(vec![op]));
    }

    /// Adds what the leading shell's end means to the exec eventlog: with the last events, if this
    /// is the end of the job.
    fn log_leader_exit(&mut self, exit: Value) {
        let entry = context(now(), "shell-exit", exit);
        match self.active().is_empty() {
            true => self.last.push(entry),
            false => self.log(entry),
        }
    }

    fn command(&mut self, path: Option<&str>, start: &Start, signed: Option<String>) -> Command {
        let mut env = Map::new();
        for (name, value) in types::environ::text_vars() {
            env.insert(name, value.into());
        }
        env.insert(
            "FLUX_KVS_NAMESPACE".into(),
            guest::namespace(self.id).into(),
        );
        let resources = Value::Object(start.resources.clone()).to_string();
        if let Some(signed) = signed.filter(|j| j.len() + resources.len() < HANDOVER_BYTES_MAX) {
            env.insert(proto::shell::J.into(), signed.into());
            env.insert(proto::shell::R.into(), resources.into());
        }
        let dec = self.id.0.to_string();
        let configured = path
            .map(str::to_owned)
            .or_else(|| self.config.job_shell.clone());
        let mut cmdline = match configured {
            Some(path) => vec![path],
            None => crate::rexec::shell::command(),
        };
        cmdline.push(dec.clone());
        self.component = "flux-shell".into();
        if let Some(imp) = self
            .config
            .imp
            .clone()
            .filter(|_| start.userid != self.shared.owner)
        {
            cmdline.splice(0..0, [imp, "exec".into()]);
            env.insert(
                "FLUX_IMP_EXEC_HELPER".into(),
                format!("flux imp_exec_helper {dec}").into(),
            );
            self.component = "flux-imp".into();
        } else if cmdline.len() == 2 {
            let base = cmdline[0].rsplit('/').next().unwrap_or_default();
            self.component = base.to_owned();
        }
        Command {
            cmdline,
            env,
            ..Command::default()
        }
    }

    /// Starts the shells and stays until all are gone.
    async fn supervise(
        &mut self,
        command: Command,
        mut controls: mpsc::UnboundedReceiver<Control>,
    ) {
        let service = self.config.service.clone();
        let handle = self.shared.handle.clone();
        let mut reports = shells::start(&handle, &service, &self.shells, &Rc::new(command));
        while self.shells.iter().any(|shell| shell.status.is_none()) {
            let timers = [self.barrier_end, self.exit_end, self.expiration];
            let kill = self.ending.as_ref().map(Ending::next);
            let due = timers.into_iter().flatten().chain(kill).min();
            let due = due.unwrap_or_else(|| Instant::now() + FOREVER);
            tokio::select! {
                report = reports.recv() => match report {
                    Some((at, event, pid)) => self.on_report(at, event, pid),
                    None => break,
                },
                control = controls.recv() => match control {
                    Some(control) => self.on_control(control),
                    None => break,
                },
                () = sleep_until(due) => {
                    if self.on_time(Instant::now()) {
                        break;
                    }
                }
            }
        }
        self.barrier.shatter(&handle);
    }

    fn on_report(&mut self, at: usize, event: ShellEvent, pid: Option<i32>) {
        match event {
            ShellEvent::Started => {
                self.shells[at].pid = pid;
                self.shells[at].started = true;
                if self.ending.is_some() {
                    let (handle, service) = (&self.shared.handle, &self.config.service);
                    shells::kill(handle, service, &self.shells[at], self.config.term_signal);
                }
                let all = self.shells.iter().all(|shell| shell.started);
                if all && !std::mem::replace(&mut self.reported_start, true) {
                    self.answers.start();
                }
            }
            ShellEvent::Output(io) => self.on_output(&io),
            ShellEvent::Ended(status) => self.on_end(at, status),
            ShellEvent::Failed(error) => self.on_failure(at, &error),
        }
    }

    fn on_output(&self, io: &Map<String, Value>) {
        let text = |key: &str| io.get(key).and_then(Value::as_str);
        let Some(data) = text("data") else { return };
        let log = json!({
            "component": self.component,
            "stream": text("stream").unwrap_or_default(),
            "rank": text("rank").unwrap_or_default(),
            "data": data,
        });
        self.log(context(now(), "log", log));
    }

    fn on_end(&mut self, at: usize, status: i32) {
        self.shells[at].status = Some(status);
        self.shells[at].pid = None;
        self.status = self.status.max(status);
        if at == 0 {
            self.on_leader_end(status);
        }
        let early = self.shells.len() > 1 && self.barrier.passed == 0 && self.failed.is_none();
        self.barrier.shatter(&self.shared.handle);
        if early && self.shells.iter().any(|shell| shell.status.is_none()) {
            let shell = &self.shells[at];
            let note = format!(
                "{} (rank {}) terminated before first barrier",
                shell.host, shell.rank
            );
            let reason = format!("{} terminated before first barrier", self.id.f58());
            self.drain(IdSet::from_range(shell.rank, shell.rank), reason);
            self.fail("exec", &note);
        } else if at > 0 && status & 0x7f != 0 && self.failed.is_none() {
            // It cannot have told the leader of its tasks' end.
            let text = types::describe_signal(status & 0x7f);
            let message = format!("shell rank {at} (on {}): {text}", self.shells[at].host);
            self.tell_leader(at, 2, message);
        }
    }

    fn on_leader_end(&mut self, status: i32) {
        let active: IdSet = self.active();
        let mut exit = json!({"rank": self.shells[0].rank, "wait_status": status});
        if !active.is_empty() {
            exit["active_ranks"] = active.to_list().into();
        }
        self.log_leader_exit(exit);
        let signum = status & 0x7f;
        if signum != 0 && self.failed.is_none() {
            let text = types::describe_signal(signum);
            let note = format!("shell rank 0 (on {}): {text}", self.shells[0].host);
            self.fail("exec", &note);
        }
        if !active.is_empty() {
            self.exit_end = self
                .config
                .shell_exit_timeout
                .map(|limit| Instant::now() + limit);
        }
    }

    fn active(&self) -> IdSet {
        let mut active = IdSet::new();
        for shell in self.shells.iter().filter(|shell| shell.status.is_none()) {
            active.insert(shell.rank);
        }
        active
    }

    fn on_failure(&mut self, at: usize, error: &RpcError) {
        let started = self.shells[at].started;
        let status = shells::failure_status(error);
        self.status = self.status.max(status);
        self.shells[at].status = Some(-1);
        self.shells[at].pid = None;
        let (host, rank) = (self.shells[at].host.clone(), self.shells[at].rank);
        self.barrier.shatter(&self.shared.handle);
        if error.errno == Errno::EHOSTUNREACH {
            let text = format!("node failure on {host} (rank {rank})");
            let critical = self.critical.contains(at as u32);
            let (severity, message) = match critical {
                true => (0, format!("node failure on {host} (shell rank {at})")),
                // The exception's note says it.
                false => (2, String::new()),
            };
            self.tell_leader(at, severity, message);
            if critical {
                self.fail("exec", &text);
            } else {
                self.answers.exception("node-failure", 2, &text);
            }
        } else if error.errno == Errno::ENOSYS {
            let service = &self.config.service;
            self.fail(
                "exec",
                &format!("{service} service is not loaded on {host} (rank {rank})"),
            );
        } else if !started || self.failed.is_none() {
            let note = format!("job shell exec error on broker {host} (rank {rank}): {error}");
            self.fail("exec", &note);
        }
        if at == 0 {
            let exit = json!({"rank": rank, "wait_status": -1});
            self.log_leader_exit(exit);
        }
    }

    /// Tells the first shell that another is lost.
    fn tell_leader(&self, at: usize, severity: i32, message: String) {
        let Some(leader) = self.shells.first().filter(|shell| shell.pid.is_some()) else {
            return;
        };
        let payload = json!({"type": "lost-shell", "severity": severity, "shell_rank": at,
            "message": message});
        let plain = self.id.f58_plain();
        let topic = format!(
            "{}-shell-{plain}.exception",
            self.answers.message.cred.userid
        );
        let rank = Rank(leader.rank);
        let payload = proto::json_payload(&payload);
        let call = self.shared.handle.call_raw(topic.into(), rank, payload);
        tokio::task::spawn_local(async move {
            // The shell may not listen; nothing depends on it.
            let _ignored = call.await;
        });
    }

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Exception {
                severity: 0,
                wait_status,
            } => self.end(wait_status),
            Control::Exception { .. } | Control::Override { .. } => {}
            Control::Expiration(expiration) => self.set_expiration(expiration),
            Control::Critical(ranks) => self.critical = ranks,
            Control::Stats(answer) => {
                // Who asked may be gone.
                let _gone = answer.send(self.stats());
            }
            Control::Barrier { message, rank } => {
                let first = self.barrier.enter(&self.shared.handle, *message, rank);
                if first && self.barrier.passed == 0 {
                    self.barrier_end = self.barrier_timeout.map(|l| Instant::now() + l);
                } else if self.barrier.passed > 0 {
                    self.barrier_end = None;
                }
            }
        }
    }

    /// Sets the end of the job, seconds since the epoch; 0 for none.
    fn set_expiration(&mut self, expiration: f64) {
        self.expires = expiration;
        let left = Duration::try_from_secs_f64((expiration - now()).max(0.0));
        self.expiration = match left {
            Ok(left) if expiration > 0.0 => Some(Instant::now() + left.min(FOREVER)),
            _ => None,
        };
    }

    /// Raises a fatal exception and ends the job.
    fn fail(&mut self, kind: &str, note: &str) {
        self.answers.exception(kind, 0, note);
        self.end(None);
    }

    /// Ends the job: the terminating signal at once, stronger means later.
    fn end(&mut self, wait_status: Option<i32>) {
        if self.failed.is_none() {
            self.failed = Some(wait_status);
        }
        let text = format!("exec aborted: id={}", self.id.f58());
        self.shared.log(Severity::Debug, text);
        self.kill_shells(self.config.term_signal);
        let limits = self.config.ending;
        self.ending
            .get_or_insert_with(|| Ending::new(Instant::now(), limits));
    }

    fn kill_shells(&self, signum: i32) {
        for shell in &self.shells {
            shells::kill(&self.shared.handle, &self.config.service, shell, signum);
        }
    }

    fn kill_tasks(&self, signum: i32) {
        let kill = Kill {
            id: self.id,
            signum,
        };
        let call = self.shared.handle.call::<JobManagerKill>(Dest::Any, &kill);
        tokio::task::spawn_local(async move {
            // A job without tasks is what was wanted.
            let _gone = call.await;
        });
    }

    /// Does what is due. Whether the job is to be given up.
    fn on_time(&mut self, time: Instant) -> bool {
        let due = |timer: &mut Option<Instant>| timer.take_if(|end| *end <= time).is_some();
        if due(&mut self.expiration) {
            self.answers
                .exception("timeout", 0, "resource allocation expired");
            self.kill_tasks(nix::sys::signal::Signal::SIGALRM as i32);
            self.failed.get_or_insert(None);
            let limits = self.config.ending;
            self.ending.get_or_insert_with(|| Ending::new(time, limits));
        }
        if due(&mut self.barrier_end) {
            let missing = self.barrier.missing();
            let note = format!(
                "start barrier timeout waiting for {}/{} nodes (rank{} {missing})",
                missing.len(),
                self.ranks.len(),
                if missing.len() == 1 { "" } else { "s" },
            );
            let reason = format!("job {} start timeout: possible node hang", self.id.f58());
            self.drain(missing, reason);
            self.fail("exec", &note);
        }
        if due(&mut self.exit_end) {
            let active = self.active();
            let hosts: Vec<&str> = self
                .shells
                .iter()
                .filter(|shell| shell.status.is_none())
                .map(|shell| shell.host.as_str())
                .collect();
            let limit = self
                .config
                .shell_exit_timeout
                .unwrap_or_default()
                .as_secs_f64();
            let note = format!(
                "job shells still active on {} (rank {active}) {} after leader shell exit",
                hosts.join(","),
                types::fsd::format_compiled(limit, 4),
            );
            self.fail("exec", &note);
        }
        self.force(time)
    }

    /// The next attempt to end the job, if it is due. Whether it was the last.
    fn force(&mut self, time: Instant) -> bool {
        let Some(ending) = &mut self.ending else {
            return false;
        };
        let id = self.id.f58();
        for step in ending.steps(time) {
            let (signum, whom) = match (step, &self.config.imp) {
                (Step::SignalTasks, _) => (self.config.kill_signal, "job"),
                (Step::SignalShells, None) => (self.config.kill_signal, "job shell for job"),
                (Step::SignalShells, Some(_)) => (Signal::SIGUSR1 as i32, "IMP for job"),
                (Step::GiveUp(limit), _) => {
                    let text = format!("job {id} exceeded {limit}. Draining active ranks");
                    self.shared.log(Severity::Debug, text);
                    let reason = format!("unkillable user processes for job {id}");
                    self.drain(self.active(), reason);
                    return true;
                }
            };
            let text = format!("Sending {} to {whom} {id}", signal_name(signum));
            self.shared.log(Severity::Debug, text);
            match step {
                Step::SignalShells => self.kill_shells(signum),
                _ => self.kill_tasks(signum),
            }
        }
        false
    }

    /// What `stats-get` says of the job.
    fn stats(&self) -> Value {
        let active = self.active();
        let number = |is: bool| i32::from(is);
        let config = &self.config;
        let ending = self.ending.as_ref();
        let pause = ending.map_or(config.ending.pause, |ending| ending.pause);
        json!({
            "critical_ranks": self.critical.to_string(),
            "multiuser": number(config.imp.is_some()),
            "has_namespace": 1,
            "exception_in_progress": number(self.failed.is_some()),
            "started": number(self.reported_start),
            "running": number(self.reported_start),
            "finalizing": 0,
            "expiration": self.expires,
            "kill_timeout": pause.as_secs_f64(),
            "kill_count": ending.map_or(0, |ending| ending.kills),
            "kill_shell_count": ending.map_or(0, |ending| ending.shell_kills),
            "total_shells": self.shells.len(),
            "active_shells": active.len(),
            "active_ranks": active.to_string(),
        })
    }

    /// Takes nodes out of use.
    fn drain(&self, ranks: IdSet, reason: String) {
        let request = Drain {
            targets: ranks.to_list(),
            reason: Some(reason),
            mode: Some("update".into()),
        };
        let call = self
            .shared
            .handle
            .call::<ResourceDrain>(Dest::Rank(Rank::LEADER), &request);
        let host = self.shared.host.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = call.await {
                host.log(Severity::Err, "job-exec", &format!("drain: {error}"));
            }
        });
    }
}

/// Seconds by which a job's end moves because it starts late: the whole delay if it is more than
/// that many percent of the job's duration.
fn compensation(starttime: f64, expiration: f64, now: f64, percent: f64) -> f64 {
    let (delay, duration) = (now - starttime, expiration - starttime);
    match starttime > 0.0 && duration > 0.0 && delay > duration * percent / 100.0 {
        true => delay,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_jobs_are_given_the_time_they_waited() {
        assert_eq!(compensation(100.0, 110.0, 102.0, 25.0), 0.0);
        assert_eq!(compensation(100.0, 110.0, 103.0, 25.0), 3.0);
        assert_eq!(compensation(100.0, 110.0, 130.0, 25.0), 30.0);
        // No limit, and resources that do not say since when they are the job's.
        assert_eq!(compensation(100.0, 0.0, 130.0, 25.0), 0.0);
        assert_eq!(compensation(0.0, 110.0, 130.0, 25.0), 0.0);
    }
}
