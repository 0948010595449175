//! Programs the broker runs: rc1, the initial program (rc2), cleanup commands and rc3.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Instant;

use module::Severity;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp, tcsetpgrp};
use proto::broker::RunAt;
use rpc::RpcError;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use types::Errno;

use crate::broker::Broker;
use crate::lifecycle::duration_text;

/// Environment variables that describe the enclosing job, not this instance.
const BLOCKED: &[&str] = &[
    "FLUX_JOB_ID",
    "FLUX_JOB_ID_PATH",
    "FLUX_ENCLOSING_ID",
    "FLUX_JOB_SIZE",
    "FLUX_JOB_NNODES",
    "FLUX_JOB_TMPDIR",
    "FLUX_TASK_RANK",
    "FLUX_TASK_LOCAL_ID",
    "FLUX_KVS_NAMESPACE",
    "FLUX_PROXY_REMOTE",
    "FLUX_PMI_LIBRARY_PATH",
    "FLUX_START_URI",
    "I_MPI_PMI_LIBRARY",
    "NOTIFY_SOCKET",
];

/// Families of such variables.
const BLOCKED_PREFIXES: &[&str] = &["PMI_", "PMIX_", "SLURM_", "PALS_"];

/// Gives a command the environment of this instance.
pub(crate) fn prepare(broker: &Broker, command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if BLOCKED.contains(&&*text)
            || BLOCKED_PREFIXES
                .iter()
                .any(|prefix| text.starts_with(prefix))
        {
            // `flux start` passes its socket on to test programs.
            if text != "FLUX_START_URI" {
                command.env_remove(&name);
            }
        }
    }
    let attrs = broker.attrs.borrow();
    if let Some(uri) = attrs.get("local-uri") {
        command.env("FLUX_URI", uri);
    }
    if let Some(jobid) = attrs.get("jobid") {
        command.env("FLUX_ENCLOSING_ID", jobid);
    }
    // Commands find the `flux` that runs this instance first.
    if let Some(rundir) = attrs.get("rundir") {
        let mut path = std::ffi::OsString::from(format!("{rundir}/bin"));
        if let Some(old) = std::env::var_os("PATH") {
            path.push(":");
            path.push(old);
        }
        command.env("PATH", path);
    }
    for (name, value) in broker.environment.borrow().iter() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

fn shell() -> String {
    std::env::var("SHELL")
        .ok()
        .filter(|shell| !shell.is_empty())
        .unwrap_or("/bin/bash".into())
}

/// Puts commands in front of those to run at the end. Errors: `EPROTO` nothing to run.
pub(crate) fn push(broker: &Broker, push: &RunAt) -> Result<(), RpcError> {
    if push.commands.is_empty() {
        return Err(RpcError::new(Errno::EPROTO, "commands array is empty"));
    }
    if push.commands.iter().any(String::is_empty) {
        return Err(RpcError::new(
            Errno::EPROTO,
            "cannot push an empty command line",
        ));
    }
    if push.name != "cleanup" {
        return Err(RpcError::new(
            Errno::EPROTO,
            format!("{}: no such list", push.name),
        ));
    }
    let mut cleanup = broker.cleanup.borrow_mut();
    for command in &push.commands {
        cleanup.insert(0, command.clone());
    }
    Ok(())
}

/// Runs a command line of `list` through the shell, logging its output. Returns its exit code.
pub(crate) async fn run_logged(
    broker: &Rc<Broker>,
    list: &str,
    index: usize,
    command_line: &str,
) -> i32 {
    let appname = format!("{list}.{index}");
    let started = Instant::now();
    let mut command = Command::new(shell());
    command.arg("-c").arg(command_line);
    match run_command(broker, &appname, command).await {
        Err(error) => {
            let text = format!("{appname}: {command_line} error starting command: {error}");
            broker.log(Severity::Err, &text);
            127
        }
        Ok(status) => report(broker, &appname, command_line, started, status),
    }
}

/// Runs a program with its output going to the log. The outer error is of its start.
pub(crate) async fn run_command(
    broker: &Rc<Broker>,
    appname: &str,
    mut command: Command,
) -> std::io::Result<std::io::Result<ExitStatus>> {
    prepare(broker, &mut command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn()?;
    broker.running.borrow_mut().command = signal_target(&child, true);
    let log = |severity| move |line: &str| broker.log(severity, &format!("{appname}: {line}"));
    let stdout = log_lines(child.stdout.take(), log(Severity::Info));
    let stderr = log_lines(child.stderr.take(), log(Severity::Err));
    let (status, (), ()) = tokio::join!(child.wait(), stdout, stderr);
    broker.running.borrow_mut().command = None;
    tokio::task::yield_now().await;
    Ok(status)
}

/// Logs a stream line by line until it ends.
pub(crate) async fn log_lines(stream: Option<impl AsyncRead + Unpin>, log: impl Fn(&str)) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    // A line that is not UTF-8 ends the log of this stream; the program itself goes on.
    while let Ok(Some(line)) = lines.next_line().await {
        log(&line);
    }
}

/// The code a shell would have for this: of a signal its number and 128.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    let signaled = || status.signal().map_or(1, |number| 128 + number);
    status.code().unwrap_or_else(signaled)
}

/// Logs how a command ended; returns its exit code.
fn report(
    broker: &Broker,
    appname: &str,
    command_line: &str,
    started: Instant,
    status: std::io::Result<ExitStatus>,
) -> i32 {
    let elapsed = duration_text(started.elapsed());
    let (code, how) = match status {
        Ok(status) => {
            let how = match status.signal() {
                Some(number) => types::describe_signal(number),
                None => "Exited".to_owned(),
            };
            let code = exit_code(status);
            (code, format!("{how} (rc={code})"))
        }
        Err(error) => (1, format!("wait: {error}")),
    };
    let severity = if code == 0 {
        Severity::Info
    } else {
        Severity::Err
    };
    broker.log(
        severity,
        &format!("{appname}: {command_line} {how} {elapsed}"),
    );
    code
}

/// What the broker runs just now, as `kill(2)` takes it: a negative number is a process group.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// A logged command.
    pub(crate) command: Option<Pid>,
    /// The initial program.
    pub(crate) rc2: Option<Pid>,
}

/// A child, with all its processes if it leads a group of its own.
fn signal_target(child: &Child, own_group: bool) -> Option<Pid> {
    let pid = i32::try_from(child.id()?).ok()?;
    Some(Pid::from_raw(if own_group { -pid } else { pid }))
}

/// Tells what an initial program that had no process group of its own left in that of the broker
/// to end. It may hold the output of the job this instance is, which then never ends.
///
/// Only a job shell makes the broker the leader of a group that is all its own: in an interactive
/// shell the other commands of the pipeline are in it too.
pub(crate) fn hang_up_leftovers(broker: &Broker) {
    let is_job = broker.attrs.borrow().get("jobid").is_some();
    if is_job && getpgrp() == getpid() {
        // The broker catches the signal; the group has at least the broker.
        let _sent = kill(Pid::from_raw(0), Signal::SIGHUP);
    }
}

/// Tells the initial program to end, as its terminal would.
pub(crate) fn hang_up_rc2(broker: &Broker) -> bool {
    send(broker.running.borrow().rc2, Signal::SIGHUP)
}

/// Ends a logged command that is in the way.
pub(crate) fn abort_running(broker: &Broker) -> bool {
    send(broker.running.borrow().command, Signal::SIGTERM)
}

fn send(target: Option<Pid>, signal: Signal) -> bool {
    let Some(target) = target else { return false };
    // The program may just have ended by itself, which is as good.
    kill(target, signal).is_ok()
}

/// Runs the initial program to its end. Returns its exit code.
pub(crate) async fn run_rc2(broker: &Rc<Broker>, words: &[String]) -> i32 {
    let (mut command, shown) = match rc2_command(words) {
        Ok(command) => command,
        Err(text) => {
            broker.log(Severity::Err, &text);
            return 1;
        }
    };
    prepare(broker, &mut command);
    let leads = getpgrp() == getpid();
    let own_group = !leads || broker.attrs.borrow().get("broker.rc2_pgrp").is_some();
    if own_group {
        command.process_group(0);
    }
    let started = Instant::now();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            broker.log(
                Severity::Err,
                &format!("rc2.0: {shown}: error starting command: {error}"),
            );
            return if error.kind() == std::io::ErrorKind::NotFound {
                127
            } else {
                126
            };
        }
    };
    broker.running.borrow_mut().rc2 = signal_target(&child, own_group);
    let terminal = child
        .id()
        .filter(|_| own_group)
        .and_then(|pid| Terminal::hand_over(pid as i32));
    let status = child.wait().await;
    if let Some(terminal) = terminal {
        terminal.take_back();
    }
    broker.running.borrow_mut().rc2 = None;
    let code = report(broker, "rc2.0", &shown, started, status);
    // The words are for the log; the code of an interactive shell is its last command's.
    code
}

/// The initial program: words are run as they are, one word as a shell would, none is a shell.
fn rc2_command(words: &[String]) -> Result<(Command, String), String> {
    use std::io::IsTerminal;
    let shown = words.join(" ");
    match words {
        [] => {
            if !std::io::stdin().is_terminal() {
                return Err("stdin is not a tty - can't run interactive shell".into());
            }
            Ok((Command::new(shell()), shell()))
        }
        [word] if !is_program(word) => {
            let mut command = Command::new(shell());
            command.arg("-c").arg(word);
            Ok((command, shown))
        }
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments);
            Ok((command, shown))
        }
    }
}

fn is_program(word: &str) -> bool {
    !word.contains(' ')
        && Path::new(word)
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The controlling terminal, lent to the initial program.
struct Terminal {
    owner: Pid,
}

impl Terminal {
    /// Makes the process group `pid` the foreground one, if this process may decide that.
    fn hand_over(pid: i32) -> Option<Terminal> {
        let owner = getpgrp();
        if tcgetpgrp(std::io::stdin()).ok()? != owner {
            return None;
        }
        ignore_terminal_stop();
        tcsetpgrp(std::io::stdin(), Pid::from_raw(pid)).ok()?;
        // It may have looked before the terminal was its own and stopped itself.
        let _ended = kill(Pid::from_raw(-pid), Signal::SIGCONT);
        Some(Terminal { owner })
    }

    fn take_back(self) {
        // Without a terminal there is nothing to take back.
        let _hung_up = tcsetpgrp(std::io::stdin(), self.owner);
    }
}

/// A background process that sets the foreground group is stopped unless it ignores this.
#[expect(
    unsafe_code,
    reason = "setting a signal to ignored runs no code of ours"
)]
fn ignore_terminal_stop() {
    // SAFETY: `SigIgn` installs no handler.
    if let Err(errno) = unsafe { signal(Signal::SIGTTOU, SigHandler::SigIgn) } {
        types::complain!("flux-broker: SIGTTOU: {errno}");
    }
}

/// Runs rc1 or rc3 as the attribute says. `None` if there is nothing to run.
pub(crate) async fn run_rc(broker: &Rc<Broker>, list: &str, attribute: &str) -> Option<i32> {
    let path = broker
        .attrs
        .borrow()
        .get(attribute)
        .map(str::to_owned)
        .unwrap_or_default();
    match path.as_str() {
        "" => None,
        // Built in, and logged as the command it stands for.
        command @ ("flux modprobe rc1" | "flux modprobe rc3") => {
            let started = Instant::now();
            let code = match list {
                "rc1" => crate::rc::start(broker).await,
                _ => crate::rc::stop(broker).await,
            };
            let status = ExitStatus::from_raw((code & 0xff) << 8);
            Some(report(
                broker,
                &format!("{list}.0"),
                command,
                started,
                Ok(status),
            ))
        }
        command => Some(run_logged(broker, list, 0, command).await),
    }
}

/// A slot for [`Running`].
pub(crate) type RunningSlot = RefCell<Running>;
