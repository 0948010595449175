//! Starting job shells and hearing from them.

use std::rc::Rc;

use proto::rexec::{Command, Exec, ExecEvent, Kill, RexecExec, RexecKill, flags};
use rpc::{Handle, RpcError};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use types::{Errno, Rank};

/// What a shell did.
pub(super) enum ShellEvent {
    /// It runs.
    Started,
    /// It wrote something.
    Output(Map<String, Value>),
    /// It ended, as of `wait(2)`.
    Ended(i32),
    /// It was not started, or got lost.
    Failed(RpcError),
}

/// A shell.
pub(super) struct Shell {
    /// Its broker's rank.
    pub(super) rank: u32,
    /// Its broker's host.
    pub(super) host: String,
    /// Its process id, while it runs.
    pub(super) pid: Option<i32>,
    /// Whether it was started.
    pub(super) started: bool,
    /// How it ended; -1 if that is unknown.
    pub(super) status: Option<i32>,
}

/// What shells report, with their position in the job.
pub(super) type Reports = mpsc::UnboundedReceiver<(usize, ShellEvent, Option<i32>)>;

/// Starts a shell on every rank. Reports carry the shell's position, and its process id if that
/// is new.
pub(super) fn start(
    handle: &Handle,
    service: &str,
    shells: &[Shell],
    command: &Rc<Command>,
) -> Reports {
    let (reports, receiver) = mpsc::unbounded_channel();
    for (at, shell) in shells.iter().enumerate() {
        let request = Exec {
            cmd: (**command).clone(),
            flags: flags::STDOUT | flags::STDERR,
            local_flags: None,
        };
        let mut stream = handle.stream_service::<RexecExec>(service, Rank(shell.rank), &request);
        let reports = reports.clone();
        tokio::task::spawn_local(async move {
            let mut status = None;
            loop {
                let (event, pid) = match stream.next().await {
                    Ok(Some(ExecEvent::Started { pid })) => (ShellEvent::Started, Some(pid)),
                    Ok(Some(ExecEvent::Output { io, .. })) => (ShellEvent::Output(io), None),
                    Ok(Some(ExecEvent::Finished { status: ended })) => {
                        // Output may still come; the end of the stream is the end.
                        status = Some(ended);
                        continue;
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) => (ShellEvent::Ended(status.unwrap_or(0)), None),
                    Err(error) => (ShellEvent::Failed(error), None),
                };
                let last = matches!(event, ShellEvent::Ended(_) | ShellEvent::Failed(_));
                // The job may be over already.
                if reports.send((at, event, pid)).is_err() || last {
                    return;
                }
            }
        });
    }
    receiver
}

/// Signals a shell.
pub(super) fn kill(handle: &Handle, service: &str, shell: &Shell, signum: i32) {
    let Some(pid) = shell.pid else { return };
    let request = Kill {
        pid,
        label: None,
        signum,
    };
    let call = handle.call_service::<RexecKill>(service, Rank(shell.rank), &request);
    tokio::task::spawn_local(async move {
        // A shell that is gone already is what was wanted.
        let _gone = call.await;
    });
}

/// What a shell that could not be started counts as, as of `wait(2)`.
pub(super) fn failure_status(error: &RpcError) -> i32 {
    match error.errno {
        Errno::ENOENT => 127 << 8,
        Errno::EPERM | Errno::EACCES => 126 << 8,
        Errno::EHOSTUNREACH => 0,
        _ => 1 << 8,
    }
}
