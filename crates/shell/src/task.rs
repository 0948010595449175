//! Tasks: starting them, following them, and what their end means.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use spec::stdio::StreamData;
use subprocess::{
    BUFFER_DEFAULT, BeforeExec, Command, Input, Process, Stdio, describe_status, exit_code,
};
use types::Errno;

use crate::fatal::Fatal;
use crate::input;
use crate::log::Level;
use crate::mustache;
use crate::output::{Dest, Stream};
use crate::rc::{Current, Environment};
use crate::shell::Shell;
use crate::store::key;
use crate::{affinity, rlimit};

/// How long a job goes on after its first task's end, unless told otherwise.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The option that has tasks wait for a tool before they do anything.
pub(crate) const STOP: &str = "stop-tasks-in-exec";

/// A task of this shell.
pub(crate) struct Task {
    /// Its number in the job.
    pub(crate) rank: u32,
    /// Its number on this node.
    pub(crate) local: u32,
    pub(crate) pid: i32,
    group: bool,
    pub(crate) status: Cell<Option<i32>>,
    pub(crate) stdin: RefCell<Option<Input>>,
}

impl Task {
    /// Signals the task if it still runs.
    pub(crate) fn signal(&self, signum: i32) -> Result<(), Errno> {
        if self.status.get().is_some() {
            return Ok(());
        }
        match subprocess::signal(self.pid, self.group, signum) {
            Err(Errno::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// The task info object.
    pub(crate) fn info(&self) -> Map<String, Value> {
        let mut info = Map::new();
        info.insert("localid".into(), self.local.into());
        info.insert("rank".into(), self.rank.into());
        let state = match self.status.get() {
            Some(_) => "Exited",
            None => "Running",
        };
        info.insert("state".into(), state.into());
        info.insert("pid".into(), self.pid.into());
        if let Some(status) = self.status.get() {
            info.insert("wait_status".into(), status.into());
            let signal = status & 0x7f;
            info.insert("signaled".into(), signal.into());
            if signal == 0 {
                info.insert("exitcode".into(), exit_code(status).into());
            }
        }
        info
    }
}

/// The program and arguments of a task.
fn arguments(shell: &Shell, rank: u32, local: u32) -> Vec<OsString> {
    let scope = shell.scope(Some((rank, local)));
    let render = |word: &String| mustache::render(word, &scope).into();
    let mut words: Vec<OsString> = shell.job.jobspec.command().iter().map(render).collect();
    crate::batch::rewrite(shell, rank, &mut words);
    words
}

/// The environment of a task.
fn environment(shell: &Shell, rank: u32, local: u32) -> Environment {
    let scope = shell.scope(Some((rank, local)));
    let mut env = shell.env.borrow().clone();
    env.insert("FLUX_TASK_RANK".into(), rank.to_string());
    env.insert("FLUX_TASK_LOCAL_ID".into(), local.to_string());
    if let Some(Value::Object(expand)) = shell.job.option("env-expand") {
        for (name, template) in expand {
            if let Some(template) = template.as_str() {
                env.insert(name.clone(), mustache::render(template, &scope));
            }
        }
    }
    affinity::set_gpus(shell, local, &mut env);
    if let Some(pmi) = &*shell.pmi.borrow() {
        pmi.set_environment(rank, &mut env);
    }
    env
}

/// What plugins see of a task that is not running yet.
fn prospect(rank: u32, local: u32, env: Environment) -> Current {
    let info = json!({"localid": local, "rank": rank, "state": "Init"});
    let info = info.as_object().cloned().unwrap_or_default();
    Current { info, env }
}

/// Lets the process of a task call the plugins before it becomes the task. What keeps it from that
/// is then to be read from the file.
fn hook_exec(shell: &Rc<Shell>, mut current: Current) -> Result<(BeforeExec, File), Errno> {
    current.info.insert("state".into(), "Exec".into());
    let shell = shell.clone();
    let pipe = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK);
    let (read, write) = pipe.map_err(|errno| Errno(errno as i32))?;
    let write = File::from(write);
    let action = move || {
        shell.log.set_direct();
        let result = shell.hook("task.exec", Some(&mut current.clone()));
        crate::rc::flush_streams();
        result.map_err(|fatal| {
            // If this fails the shell still learns that the task has not started.
            drop((&write).write_all(fatal.message.as_bytes()));
            Errno::ECANCELED
        })
    };
    Ok((BeforeExec::new(action), File::from(read)))
}

/// Starts the local tasks.
///
/// Errors: the first that cannot be started, with the exit code shells use for that.
pub(crate) fn start_all(shell: &Rc<Shell>) -> Result<(), Fatal> {
    let binding = affinity::Binding::new(shell)?;
    let _limits = rlimit::apply(shell)?;
    let taskids: Vec<u32> = shell.job.nodes[shell.rank as usize]
        .taskids
        .iter()
        .collect();
    shell.running.set(taskids.len() as u32);
    for (local, rank) in (0..).zip(taskids) {
        binding.bind(shell, rank, local)?;
        start(shell, rank, local)?;
    }
    binding.restore();
    Ok(())
}

/// What was written before the process ended.
fn text_in(mut file: File) -> Option<String> {
    let mut text = Vec::new();
    // The other end is still open here, so this ends when there is no more.
    drop(file.read_to_end(&mut text));
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

fn start(shell: &Rc<Shell>, rank: u32, local: u32) -> Result<(), Fatal> {
    let argv = arguments(shell, rank, local);
    let scope = shell.scope(Some((rank, local)));
    let mut command = Command::new(argv.clone());
    let mut env = environment(shell, rank, local);
    let mut refusal = None;
    if let Some(extensions) = &shell.extensions {
        let mut current = prospect(rank, local, env);
        shell.hook("task.init", Some(&mut current))?;
        if extensions.wants("task.exec") {
            let hook = hook_exec(shell, current.clone());
            let (action, file) = hook.map_err(|errno| Fatal::new(format!("task.exec: {errno}")))?;
            command.before_exec = Some(action);
            refusal = Some(file);
        }
        env = current.env;
    }
    command.path = env.get("PATH").map(OsString::from);
    let variable = |(name, value): (String, String)| (name.into(), value.into());
    command.env = Some(env.into_iter().map(variable).collect());
    command.own_group = !shell.job.switch("nosetpgrp");
    command.stop_in_exec = shell.job.switch(STOP);
    command.input_max = input::BUFFER_MAX;
    command.stdin = shell.input.stdio(&scope)?;
    command.stdout = Stdio::Pipe;
    command.stderr = Stdio::Pipe;
    if shell.pmi.borrow().is_some() {
        command.channels.push("PMI_FD".into());
    }
    if let Some(terminal) = shell.ptys.open(rank)? {
        let clone = || {
            let copy = terminal.try_clone();
            copy.map_err(|error| Fatal::new(format!("pty: {}", Errno::from_io(&error))))
        };
        command.stdin = Stdio::Fd(clone()?);
        command.stdout = Stdio::Fd(clone()?);
        command.stderr = Stdio::Fd(clone()?);
        command.on_terminal = true;
    }
    let dests = [
        shell.output.dest(Stream::Out, &scope, shell.is_leader())?,
        shell.output.dest(Stream::Err, &scope, shell.is_leader())?,
    ];
    let group = command.own_group;
    let mut process = command.spawn().map_err(|errno| {
        let name = argv.first().cloned().unwrap_or_default();
        let name = name.to_string_lossy();
        let host = shell.host();
        if let Some(text) = refusal.and_then(text_in) {
            return Fatal::new(format!("task {rank} (host {host}): {text}"));
        }
        let text = format!("task {rank} (host {host}): start failed: {name}: {errno}");
        Fatal::new(text).with_code(match errno {
            Errno::EPERM | Errno::EACCES => 126,
            Errno::ENOENT => 127,
            _ => 1,
        })
    })?;
    let task = Rc::new(Task {
        rank,
        local,
        pid: process.pid,
        group,
        status: Cell::new(None),
        stdin: RefCell::new(process.stdin.take()),
    });
    if let Some(session) = shell.ptys.session(rank) {
        session.started(task.pid);
    }
    shell.tasks.borrow_mut().push(task.clone());
    for (_, to_task, from_task) in std::mem::take(&mut process.channels) {
        crate::pmi::serve(shell, local, to_task, from_task);
    }
    if let Some(score) = shell.job.option("oom.adjust").and_then(Value::as_i64) {
        let file = format!("/proc/{}/oom_score_adj", task.pid);
        if let Err(error) = std::fs::write(file, score.to_string()) {
            shell.log.warn(format!("oom: {}", Errno::from_io(&error)));
        }
    }
    let forked = match &shell.extensions {
        Some(_) => shell.hook("task.fork", Some(&mut current(&task))),
        None => Ok(()),
    };
    tokio::task::spawn_local(follow(shell.clone(), task, process, dests));
    forked
}

/// What plugins see of a started task.
fn current(task: &Task) -> Current {
    let mut info = task.info();
    if let Some(status) = task.status.get() {
        // Plugins are told nothing of a signal that was none, and the code the shell counts.
        info.retain(|key, value| key != "signaled" || *value != 0);
        info.insert("exitcode".into(), exit_code(status).into());
    }
    Current {
        info,
        env: Environment::new(),
    }
}

/// Carries a task's output and waits for its end.
async fn follow(shell: Rc<Shell>, task: Rc<Task>, mut process: Process, dests: [Dest; 2]) {
    let [out, err] = dests;
    let stdout = process.stdout.take();
    let stderr = process.stderr.take();
    let session = shell.ptys.session(task.rank);
    let from_terminal = async {
        if let Some(session) = &session {
            crate::pty::carry(&shell, session, &out).await;
        }
        carry(&shell, &task, Stream::Out, stdout, &out).await;
    };
    let ((), (), status) = tokio::join!(
        from_terminal,
        carry(&shell, &task, Stream::Err, stderr, &err),
        process.wait(),
    );
    let status = status.unwrap_or_else(|errno| {
        shell
            .log
            .error(format!("task {}: wait: {errno}", task.rank));
        0
    });
    task.status.set(Some(status));
    if let Some(session) = session {
        session.finish(status);
    }
    if let Some(stdin) = task.stdin.take() {
        stdin.close();
    }
    on_exit(&shell, &task);
    if shell.extensions.is_some() {
        shell.hook_after("task.exit", Some(&mut current(&task)));
    }
    shell.running.set(shell.running.get() - 1);
    if shell.running.get() == 0 {
        on_all_complete(&shell);
    }
}

async fn carry(
    shell: &Rc<Shell>,
    task: &Task,
    stream: Stream,
    output: Option<subprocess::Output>,
    dest: &Dest,
) {
    if let Some(output) = output {
        carry_data(shell, task, stream, output, dest).await;
    }
    let eof = StreamData::eof(stream.name(), task.rank);
    shell.emit(stream, dest, eof).await;
}

async fn carry_data(
    shell: &Rc<Shell>,
    task: &Task,
    stream: Stream,
    mut output: subprocess::Output,
    dest: &Dest,
) {
    let config = shell.output.config.stream(stream);
    output.set_buffering(config.buffering, BUFFER_DEFAULT);
    // A file without labels takes lines as they come.
    let together = matches!(dest, Dest::File(_));
    loop {
        let piece = match together {
            true => output.next_lines().await,
            false => output.next().await,
        };
        match piece {
            Ok(Some(piece)) => {
                let data = StreamData::new(stream.name(), task.rank, &piece);
                shell.emit(stream, dest, data).await;
            }
            Ok(None) => break,
            Err(error) => {
                let errno = Errno::from_io(&error);
                let text = format!("task {}: {}: {errno}", task.rank, stream.name());
                shell.log.error(text);
                break;
            }
        }
    }
}

/// A local task has ended.
fn on_exit(shell: &Rc<Shell>, task: &Task) {
    shell.log.debug(format!(
        "task {} complete status={}",
        task.rank,
        task.status.get().map_or(0, exit_code)
    ));
    if shell.first_exit.replace(true) {
        return;
    }
    match shell.is_leader() {
        true => first_exit(shell, task.info(), shell.host()),
        false => shell.tell_leader("doom", &task.info()),
    }
}

fn on_all_complete(shell: &Rc<Shell>) {
    // Before the leader knows: once it has every shell's end, it takes no more to log.
    if let Some(sysmon) = shell.sysmon.take() {
        sysmon.summary();
    }
    shell.hook_after("shell.finish", None);
    if shell.is_leader() {
        shell.shells_done.borrow_mut().insert(0);
    } else {
        let more = shell.extensions.is_some();
        let payload = json!({"shell_rank": shell.rank, "more": more});
        shell.tell_leader("tasks-complete", &payload);
    }
    shell.wake.notify_one();
}

/// The first task of the job has ended, on the leader.
pub(crate) fn first_exit(shell: &Rc<Shell>, info: Map<String, Value>, host: &str) {
    let number = |key: &str| info.get(key).and_then(Value::as_i64).unwrap_or(0);
    let status = number("wait_status") as i32;
    let who = format!("task rank {} on host {host}", number("rank"));
    shell.store.append(key::EXEC, "shell.task-exit", info);
    let how = format!(" ({})", describe_status(status));
    watch_exit(shell, &who, &how, status);
}

/// Ends the job after its first task's end, or its first lost shell, as the options say. `how` it
/// ended follows the verb; of a shell that is not told.
pub(crate) fn watch_exit(shell: &Rc<Shell>, who: &str, how: &str, status: i32) {
    let command = shell
        .job
        .jobspec
        .command()
        .first()
        .cloned()
        .unwrap_or_default();
    let command = command.rsplit('/').next().unwrap_or_default().to_owned();
    if status != 0 && shell.job.switch("exit-on-error") {
        let note = format!("{command}: {who} failed{how} and exit-on-error is set");
        return raise(shell, note, status);
    }
    let Some(timeout) = shell.exit_timeout else {
        return;
    };
    if shell.tasks_are_done() || (shell.size() == 1 && shell.running.get() <= 1) {
        return;
    }
    let shell = shell.clone();
    let note = format!("{command}: {who} exited{how} and exit-timeout=");
    tokio::task::spawn_local(async move {
        tokio::time::sleep(timeout).await;
        if shell.tasks_are_done() {
            // What keeps the shell is no task.
            return;
        }
        let seconds = types::fsd::format_g(timeout.as_secs_f64(), 6);
        let note = format!("{note}{seconds}s has expired");
        raise(&shell, note, status);
    });
}

fn raise(shell: &Rc<Shell>, note: String, status: i32) {
    shell.log.write(Level::Fatal, Some("task-exit"), &note);
    let shell = shell.clone();
    let call = shell.raise(&note, Some(status));
    tokio::task::spawn_local(async move {
        if let Err(error) = call.await {
            shell
                .log
                .error(format!("failed to raise exception: {error}"));
        }
    });
}

/// The `exit-timeout` option; `None` for never.
pub(crate) fn exit_timeout(job: &crate::job::Job) -> Result<Option<Duration>, Fatal> {
    let bad = || Fatal::new("exit-timeout is not a valid Flux Standard Duration");
    match job.option("exit-timeout") {
        None => Ok(Some(EXIT_TIMEOUT)),
        Some(Value::String(text)) if text == "none" => Ok(None),
        Some(Value::String(text)) => types::fsd::parse_duration(text).map_err(|_| bad()),
        Some(value) => {
            let seconds = value.as_f64().ok_or_else(bad)?;
            Duration::try_from_secs_f64(seconds)
                .map(Some)
                .map_err(|_| bad())
        }
    }
}
