//! The job shell: starts, feeds, follows and ends the tasks of a job on one node.
//!
//! Life of a shell: [`start`] connects, learns the job and prepares; the tasks are started between
//! two barriers all shells of the job pass together; then the main loop here serves requests and
//! events until every task has ended. The shell of rank 0 leads: it alone writes the job's
//! eventlogs, through [`store`], and the others send it what they have.
//!
//! One thread, no runtime threads: everything shares one [`shell::Shell`] without locks.

// `eprintln!` panics where nobody reads: see `types::complain!`.
#![warn(clippy::print_stderr)]

mod affinity;
mod batch;
mod coprocess;
mod distribute;
mod fatal;
mod files;
mod hwloc;
mod input;
mod job;
mod log;
mod mustache;
mod output;
mod pmi;
mod proctable;
mod pty;
mod rc;
mod rlimit;
mod service;
mod shell;
mod signals;
mod stage_in;
mod start;
mod store;
mod sysmon;
mod task;

use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use subprocess::forkserver;
use tokio::sync::mpsc;
use types::JobId;
use wire::Message;

use crate::fatal::Fatal;
use crate::log::{Level, Log};
use crate::output::Output;
use crate::shell::Shell;
use crate::store::{Store, key};

/// How long processes others started through the shell have after the last task.
const REXEC_TIMEOUT: Duration = Duration::from_secs(60);

/// The program `flux-shell JOBID`. `words` begin with the program's own name.
///
/// With [`forkserver::OPTION`] alone it is a fork server of shells, whose requests begin with the
/// program's path and the command that leads here.
pub fn shell_main(words: Vec<OsString>) -> ExitCode {
    // For `ps` and the like; forked shells inherit it. Nothing depends on it.
    let _named = nix::sys::prctl::set_name(c"flux-shell");
    let [_, option] = &words[..] else {
        return shell(&words).into();
    };
    if option != forkserver::OPTION {
        return shell(&words).into();
    }
    // What all shells need and none changes. Those that miss it say so themselves.
    let _warmed = affinity::topology();
    match forkserver::serve(&signals::PASSED_ON, |argv| {
        shell(argv.get(1..).unwrap_or_default())
    }) {
        Ok(code) => code.into(),
        Err(error) => {
            types::complain!("flux-shell: fork server: {}", types::Errno::from_io(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs the shell of one job. Returns its exit code.
fn shell(words: &[OsString]) -> u8 {
    // A forked shell has an environment of its own.
    types::fluid::follow_locale();
    let log = Rc::new(Log::new());
    let id = match parse(words) {
        Ok(id) => id,
        Err(text) => {
            types::complain!("{text}");
            return 1;
        }
    };
    match client::run(run(id, log.clone())) {
        Ok(code) => code as u8,
        Err(error) => {
            let errno = types::Errno::from_io(&error);
            log.write(Level::Fatal, None, &format!("runtime: {errno}"));
            1
        }
    }
}

/// Reads the command line. Errors: what the user should see.
fn parse(words: &[OsString]) -> Result<JobId, String> {
    let usage = || "Usage: flux-shell [OPTIONS] JOBID".to_owned();
    let mut id = None;
    for word in words.iter().skip(1) {
        match word.to_str().ok_or_else(usage)? {
            "--reconnect" => {
                // It must not be believed to survive its broker.
                return Err("flux-shell: --reconnect is not supported yet".to_owned());
            }
            text if text.starts_with('-') || id.is_some() => return Err(usage()),
            text => id = Some(text.parse().map_err(|_| usage())?),
        }
    }
    id.ok_or_else(usage)
}

async fn run(id: JobId, log: Rc<Log>) -> i32 {
    let client = match client::open(None).await {
        Ok(client) => client,
        Err(error) => {
            log.write(Level::Fatal, None, &format!("flux_open: {error}"));
            return 1;
        }
    };
    let mut incoming = client.incoming();
    let handle = client.handle().clone();
    let store = Store::new(handle.clone(), format!("job-{}", id.0));
    // From here on the shell itself decides when it ends.
    let mut signals = match signals::Signals::new() {
        Ok(signals) => signals,
        Err(fatal) => return fail_early(&handle, &store, id, &fatal, &log).await,
    };
    let shell = match start::set_up(client, id, log.clone(), store.clone()).await {
        Ok(shell) => shell,
        Err(fatal) => return fail_early(&handle, &store, id, &fatal, &log).await,
    };
    match serve(&shell, &mut incoming, &mut signals).await {
        Ok(code) => code,
        Err(fatal) => fail(&shell, &mut incoming, &fatal).await,
    }
}

/// Reports a failure of a shell that has not come to life, and ends the job.
async fn fail_early(
    handle: &rpc::Handle,
    store: &Rc<Store>,
    id: JobId,
    fatal: &Fatal,
    log: &Log,
) -> i32 {
    log.write(Level::Fatal, None, &fatal.message);
    if log.rank() == Some(0) {
        store.add(key::OUTPUT, "header", Output::header_event(0));
        for context in log.take_held() {
            store.add(key::OUTPUT, "log", context);
        }
        if let Err(error) = store.sync().await {
            types::complain!("flux-shell: kvs.commit: {error}");
        }
    } else {
        // There is no shell to pass these on; whoever started this one collects them.
        for context in log.take_held() {
            if let Some(text) = context.get("message").and_then(serde_json::Value::as_str) {
                types::complain!("flux-shell: {text}");
            }
        }
    }
    raise(handle, id, fatal, log).await;
    fatal.code
}

/// Reports a failure and ends the job.
async fn fail(shell: &Rc<Shell>, incoming: &mut mpsc::Receiver<Message>, fatal: &Fatal) -> i32 {
    // Another shell that failed has said why before this one could hear of it.
    while let Ok(message) = incoming.try_recv() {
        service::on_message(shell, message);
    }
    if !fatal.silent {
        shell.log.write(Level::Fatal, None, &fatal.message);
    }
    if !shell.log.is_open() {
        shell.tell_early().await;
        start::open_log(shell);
    }
    // That the tasks end now is nobody's doing but this shell's.
    shell.first_exit.set(true);
    shell.signal_tasks(libc::SIGKILL);
    if let Some(coprocesses) = &*shell.coprocesses.borrow() {
        coprocesses.signal(shell, libc::SIGKILL);
    }
    if shell.is_leader()
        && let Err(error) = shell.store.sync().await
    {
        types::complain!("flux-shell: kvs.commit: {error}");
    }
    if !fatal.silent {
        raise(&shell.handle, shell.job.id, fatal, &shell.log).await;
    }
    tell_exit(shell);
    shell.client.flush().await;
    fatal.code
}

async fn raise(handle: &rpc::Handle, id: JobId, fatal: &Fatal, log: &Log) {
    let request = proto::job_manager::Raise {
        id,
        severity: 0,
        kind: "exec".into(),
        note: Some(fatal.message.clone()),
        wait_status: None,
    };
    let call = handle.call::<proto::job_manager::JobManagerRaise>(rpc::Dest::Any, &request);
    if let Err(error) = call.await {
        log.error(format!("failed to raise exception: {error}"));
    }
}

/// Runs the tasks to their end. Returns the exit code.
async fn serve(
    shell: &Rc<Shell>,
    incoming: &mut mpsc::Receiver<Message>,
    signals: &mut signals::Signals,
) -> Result<i32, Fatal> {
    {
        // Other shells may have requests, and the user signals, while this one starts.
        let mut starting = std::pin::pin!(start::start_tasks(shell));
        loop {
            tokio::select! {
                biased;
                started = &mut starting => break started?,
                message = incoming.recv() => on_incoming(shell, message)?,
            }
        }
    }
    signals::watch_expiration(shell)?;
    loop {
        if let Some(fatal) = shell.fatal.borrow_mut().take() {
            return Err(fatal);
        }
        if shell.is_done() {
            break;
        }
        tokio::select! {
            message = incoming.recv() => on_incoming(shell, message)?,
            signum = signals.next() => shell.signal_tasks(signum),
            () = shell.wake.notified() => {}
        }
    }
    finish(shell, incoming).await
}

fn on_incoming(shell: &Rc<Shell>, message: Option<Message>) -> Result<(), Fatal> {
    // Without its broker a shell can report nothing and must not outlive it.
    let message = message.ok_or_else(|| Fatal::new("lost connection to broker"))?;
    service::on_message(shell, message);
    Ok(())
}

/// Every task has ended.
async fn finish(shell: &Rc<Shell>, incoming: &mut mpsc::Receiver<Message>) -> Result<i32, Fatal> {
    let coprocesses = shell.coprocesses.borrow().clone();
    if let Some(coprocesses) = coprocesses {
        meanwhile(shell, incoming, coprocesses.end(shell)).await?;
    }
    end_processes(shell, incoming).await?;
    if shell.is_leader() {
        for line in shell.output.summary() {
            shell.log.write(Level::Warn, Some("output.kvs"), &line);
        }
    }
    let codes: Vec<i32> = {
        let code = |task: &Rc<task::Task>| task.status.get().map_or(0, subprocess::exit_code);
        shell.tasks.borrow().iter().map(code).collect()
    };
    let mut code = codes.into_iter().max().unwrap_or(0);
    if shell.is_leader() {
        shell.hook_after("shell.tasks-complete", None);
    }
    if !shell.hook_after("shell.exit", None) {
        code = code.max(1);
    }
    if let Some(fatal) = shell.fatal.take() {
        return Err(fatal);
    }
    end_plugins(shell, incoming).await?;
    shell.log.debug(format!("exit {code}"));
    let synced = shell.store.sync().await;
    synced.map_err(|error| Fatal::call("kvs.commit", &error))?;
    shell.client.flush().await;
    Ok(code)
}

/// Lets plugins of all shells say their last: the leader takes what the others have to log.
async fn end_plugins(
    shell: &Rc<Shell>,
    incoming: &mut mpsc::Receiver<Message>,
) -> Result<(), Fatal> {
    while !shell.talking.borrow().is_empty() {
        tokio::select! {
            message = incoming.recv() => on_incoming(shell, message)?,
            () = shell.wake.notified() => {}
        }
    }
    rc::native::unload();
    tell_exit(shell);
    Ok(())
}

/// Tells the leader that this shell has nothing more to say, if it might have had.
fn tell_exit(shell: &Shell) {
    if shell.extensions.is_some() && !shell.is_leader() {
        let payload = serde_json::json!({"shell_rank": shell.rank});
        shell.tell_leader("exited", &payload);
    }
}

/// How long processes others started through this shell have to end.
fn rexec_timeout(job: &job::Job) -> Result<Duration, Fatal> {
    match job.option("rexec-shutdown-timeout") {
        None => Ok(REXEC_TIMEOUT),
        Some(value) => value
            .as_str()
            .and_then(|text| types::fsd::parse_duration(text).ok()?)
            .ok_or_else(|| Fatal::new("rexec-shutdown-timeout is not a valid FSD")),
    }
}

/// Ends the processes others started through this shell.
async fn end_processes(
    shell: &Rc<Shell>,
    incoming: &mut mpsc::Receiver<Message>,
) -> Result<(), Fatal> {
    let server = shell.server.borrow().clone();
    let Some(server) = server.filter(|server| !server.is_idle()) else {
        return Ok(());
    };
    let timeout = rexec_timeout(&shell.job)?;
    let all = meanwhile(shell, incoming, server.shutdown(timeout)).await?;
    if !all {
        server.signal_all(libc::SIGKILL);
        server.idle().await;
    }
    Ok(())
}

/// Waits for something while requests are served.
async fn meanwhile<T>(
    shell: &Rc<Shell>,
    incoming: &mut mpsc::Receiver<Message>,
    wait: impl Future<Output = T>,
) -> Result<T, Fatal> {
    let mut wait = std::pin::pin!(wait);
    loop {
        tokio::select! {
            output = &mut wait => return Ok(output),
            message = incoming.recv() => on_incoming(shell, message)?,
        }
    }
}
