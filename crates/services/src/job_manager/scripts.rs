//! The site's commands that run around jobs: prolog, epilog and housekeeping.
//!
//! What runs and what follows from its end is decided in the engines. Here commands are started on
//! brokers, told to end, and followed until they do; their output goes to the log.

use std::collections::HashMap;

use jobs::perilog::Kind;
use module::Severity;
use proto::rexec::Command;
use types::{IdSet, JobId, UserId};

use super::{Posted, State};
use crate::process::{self, Report};

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Script {
    /// Prolog or epilog.
    Perilog(Kind),
    Housekeeping,
}

/// Who a command runs for, and where.
type Key = (JobId, Script, u32);

/// The commands that run.
#[derive(Default)]
pub(super) struct Scripts {
    processes: HashMap<Key, Process>,
}

struct Process {
    host: String,
    pid: Option<i32>,
    /// The signal to send once there is a process.
    doomed: Option<i32>,
}

/// What is reported of a command.
pub(super) struct News {
    key: Key,
    report: Report,
}

/// The words that make the flux-imp run what it is configured to.
pub(super) fn imp_command(imp: &str, name: &str) -> Vec<String> {
    [imp, "run", name].map(str::to_owned).to_vec()
}

/// A command for a job: in this broker's environment, with what tells of the job.
pub(super) fn command(words: &[String], id: String, userid: UserId, ranks: &IdSet) -> Command {
    let job = [
        ("FLUX_JOB_ID", id),
        ("FLUX_JOB_USERID", userid.0.to_string()),
        ("FLUX_JOB_RANKS", ranks.to_string()),
    ];
    let job = job.map(|(name, value)| (name.to_owned(), value));
    let env = types::environ::text_vars().chain(job);
    Command {
        cmdline: words.to_vec(),
        env: env.map(|(name, value)| (name, value.into())).collect(),
        ..Command::default()
    }
}

impl State {
    /// Starts a command on a rank, whose host the log is to name.
    pub(super) fn start_script(
        &mut self,
        id: JobId,
        script: Script,
        (rank, host): (u32, &str),
        command: Command,
    ) {
        let key = (id, script, rank);
        let process = Process {
            host: host.to_owned(),
            pid: None,
            doomed: None,
        };
        self.scripts.processes.insert(key, process);
        let posts = self.posts.clone();
        let report = move |report| {
            // The module may have ended.
            posts.send(Posted::Script(News { key, report })).is_ok()
        };
        let task = process::follow(self.handle.clone(), rank, command, report);
        tokio::task::spawn_local(task);
    }

    /// Signals a command, where it runs.
    pub(super) fn signal_script(&mut self, id: JobId, script: Script, ranks: &IdSet, signum: i32) {
        for rank in ranks.iter() {
            let Some(process) = self.scripts.processes.get_mut(&(id, script, rank)) else {
                continue;
            };
            match process.pid {
                Some(pid) => process::kill(&self.handle, rank, pid, signum),
                None => process.doomed = Some(signum),
            }
        }
    }

    /// Takes no more note of a command.
    pub(super) fn leave_script(&mut self, id: JobId, script: Script) {
        let processes = &mut self.scripts.processes;
        processes.retain(|key, _| (key.0, key.1) != (id, script));
    }

    pub(super) fn on_script(&mut self, News { key, report }: News) {
        let (id, script, rank) = key;
        let Some(process) = self.scripts.processes.get_mut(&key) else {
            return;
        };
        let place = place(id, script, &process.host, rank);
        match report {
            Report::Started(pid) => {
                process.pid = Some(pid);
                if let Some(signum) = process.doomed {
                    process::kill(&self.handle, rank, pid, signum);
                }
            }
            Report::Output(io) => process::lines(&io, |severity, line| {
                let stream = match (script, severity) {
                    (Script::Housekeeping, _) => "",
                    (Script::Perilog(_), _) if self.perilog.is_ignored(line) => return,
                    (Script::Perilog(_), Severity::Err) => "stderr: ",
                    (Script::Perilog(_), _) => "stdout: ",
                };
                self.log(severity, format!("{place}: {stream}{line}"));
            }),
            Report::Ended(result) => {
                self.scripts.processes.remove(&key);
                if let Err(error) = &result {
                    let text = format!("{place}: error launching process: {}", error.errno);
                    self.log(Severity::Err, text);
                }
                match script {
                    Script::Housekeeping => self.on_housekeeping_ended(id, rank, &result),
                    Script::Perilog(kind) => self.on_perilog_ended(id, kind, rank, &result),
                }
            }
        }
    }
}

/// Where a command runs, as the log says it.
fn place(id: JobId, script: Script, host: &str, rank: u32) -> String {
    let id = id.f58();
    match script {
        Script::Housekeeping => format!("housekeeping: {host} (rank {rank}) {id}"),
        Script::Perilog(kind) => format!("{id}: {}: {host} (rank {rank})", kind.name()),
    }
}
