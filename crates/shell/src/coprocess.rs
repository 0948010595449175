//! The `coprocess` option: programs that run beside the tasks on the job's nodes, for monitoring
//! and the like (flux-shell-options(7)).
//!
//! What such a program writes goes to a file: of each shell's own where the file's name tells of the
//! node, else to one that the leader writes, and to which the other shells pass theirs on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value};
use spec::stdio::StreamData;
use subprocess::{Buffering, Command, Output, Process, Stdio};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use types::{Errno, IdSet};

use crate::fatal::Fatal;
use crate::job::Job;
use crate::log::Level;
use crate::mustache::render;
use crate::shell::{Shell, Write};

const COMPONENT: &str = "coprocess";
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long output may still come once all that could write it was killed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How much is passed on at once.
const PIECE: usize = 4096;

/// A program the job wants.
#[derive(Debug, PartialEq)]
struct Wanted {
    name: String,
    command: Vec<String>,
    output: String,
    /// On which shells.
    shells: IdSet,
}

impl Wanted {
    /// Whether each shell has a file of its own.
    fn is_apart(&self) -> bool {
        self.output.contains("{{node.")
    }
}

/// The programs beside one shell's tasks.
pub(crate) struct Coprocesses {
    wanted: Vec<Wanted>,
    kill_timeout: Duration,
    helpers: RefCell<Vec<Rc<Helper>>>,
    /// The files this shell writes, by program.
    files: RefCell<BTreeMap<String, File>>,
    /// Other shells whose output has not ended, by program; on the leader.
    others: RefCell<BTreeMap<String, IdSet>>,
    /// Some output has ended.
    ended: Notify,
}

/// A program that was started.
struct Helper {
    pid: i32,
    is_done: Cell<bool>,
}

impl Coprocesses {
    /// What the job wants, if it wants anything.
    ///
    /// # Errors
    ///
    /// An option is wrong.
    pub(crate) fn new(job: &Job) -> Result<Option<Coprocesses>, Fatal> {
        let Some(option) = job.option("coprocess") else {
            return Ok(None);
        };
        let wanted = parse(option, job.size()).map_err(Fatal::new)?;
        let kill_timeout = match job.option("coprocess-kill-timeout") {
            None => Some(KILL_TIMEOUT),
            Some(Value::String(text)) => types::fsd::parse_duration(text).ok().flatten(),
            Some(value) => value
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        };
        let kill_timeout = kill_timeout
            .ok_or_else(|| Fatal::new("coprocess: failed to parse coprocess-kill-timeout"))?;
        Ok(Some(Coprocesses {
            wanted,
            kill_timeout,
            helpers: RefCell::default(),
            files: RefCell::default(),
            others: RefCell::default(),
            ended: Notify::new(),
        }))
    }

    /// Opens files, so that the leader is ready before any other shell starts its programs. What
    /// goes wrong is only logged.
    pub(crate) fn prepare(&self, shell: &Shell) {
        for wanted in &self.wanted {
            if writes(shell, wanted)
                && let Err(text) = self.open(shell, wanted)
            {
                shell.log.write(Level::Error, Some(COMPONENT), &text);
            }
            if shell.is_leader() && !wanted.is_apart() {
                let mut others = wanted.shells.clone();
                others.remove(shell.rank);
                let name = wanted.name.clone();
                self.others.borrow_mut().insert(name, others);
            }
        }
    }

    /// Starts the programs. One that cannot be is only logged.
    pub(crate) fn launch(self: &Rc<Self>, shell: &Rc<Shell>) {
        let here = |wanted: &&Wanted| wanted.shells.contains(shell.rank);
        for wanted in self.wanted.iter().filter(here) {
            let own_file = writes(shell, wanted);
            match start(shell, wanted) {
                Ok((process, output)) => {
                    let helper = Rc::new(Helper {
                        pid: process.pid,
                        is_done: Cell::new(false),
                    });
                    let text = format!("{}: launched pid={}", wanted.name, helper.pid);
                    shell.log.write(Level::Debug, Some(COMPONENT), &text);
                    self.helpers.borrow_mut().push(helper.clone());
                    let sink = Sink {
                        shell: shell.clone(),
                        coprocesses: self.clone(),
                        name: wanted.name.clone(),
                        own_file,
                    };
                    tokio::task::spawn_local(follow(sink, helper, process, output));
                }
                Err(errno) => {
                    let text = format!("{}: launch failed: {errno}", wanted.name);
                    shell.log.write(Level::Error, Some(COMPONENT), &text);
                    if !own_file {
                        pass_on(shell, &wanted.name, None);
                    }
                }
            }
        }
    }

    /// Opens the file a program's output goes to. Errors are texts for people.
    fn open(&self, shell: &Shell, wanted: &Wanted) -> Result<(), String> {
        let path = render(&wanted.output, &shell.scope(None));
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        let file = options
            .open(&path)
            .map_err(|error| format!("{}: {path}: {}", wanted.name, Errno::from_io(&error)))?;
        self.files.borrow_mut().insert(wanted.name.clone(), file);
        Ok(())
    }

    /// Takes output another shell has passed on.
    pub(crate) fn on_write(&self, shell: &Shell, write: &Write) {
        let data = match StreamData::decode(&write.context, "UTF-8") {
            Ok(data) => data,
            Err(error) => return shell.log.error(format!("coprocess-write: {error}")),
        };
        if let Some(bytes) = &data.data {
            self.write(shell, &write.name, bytes);
        }
        if data.eof
            && let Some(others) = self.others.borrow_mut().get_mut(&write.name)
        {
            others.remove(write.shell_rank);
            self.ended.notify_one();
        }
    }

    /// Another shell is gone and writes nothing any more.
    pub(crate) fn forget(&self, shell_rank: u32) {
        for others in self.others.borrow_mut().values_mut() {
            others.remove(shell_rank);
        }
        self.ended.notify_one();
    }

    fn write(&self, shell: &Shell, name: &str, bytes: &[u8]) {
        // Where there is none, that was logged.
        if let Some(file) = self.files.borrow_mut().get_mut(name)
            && let Err(error) = file.write_all(bytes)
        {
            let text = format!("{name}: write: {}", Errno::from_io(&error));
            shell.log.write(Level::Error, Some(COMPONENT), &text);
        }
    }

    /// Signals the programs that run.
    pub(crate) fn signal(&self, shell: &Shell, signum: i32) {
        for helper in &*self.helpers.borrow() {
            // One that has ended may leave others behind in its group.
            match subprocess::signal(helper.pid, true, signum) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    let text = format!("kill {}: {errno}", helper.pid);
                    shell.log.write(Level::Error, Some(COMPONENT), &text);
                }
            }
        }
    }

    /// Ends the programs, and waits for what they write until then here and on other shells.
    pub(crate) async fn end(&self, shell: &Rc<Shell>) {
        self.signal(shell, libc::SIGTERM);
        let timeout = |time| tokio::time::timeout(time, self.until(|| self.are_done()));
        if timeout(self.kill_timeout).await.is_err() {
            let text = "coprocess: helper(s) still running, sending SIGKILL";
            shell.log.warn(text);
            self.signal(shell, libc::SIGKILL);
            // What holds the other end of a pipe may have left the group.
            let _left = timeout(DRAIN_TIMEOUT).await;
        }
        let others = self.until(|| self.others.borrow().values().all(IdSet::is_empty));
        // Those shells kill theirs after the same time.
        let time = self.kill_timeout + DRAIN_TIMEOUT;
        if tokio::time::timeout(time, others).await.is_err() {
            shell
                .log
                .warn("coprocess: output of other shells may be missing");
        }
    }

    fn are_done(&self) -> bool {
        self.helpers
            .borrow()
            .iter()
            .all(|helper| helper.is_done.get())
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        while !holds() {
            self.ended.notified().await;
        }
    }
}

/// Whether a program's output goes to a file of this shell.
fn writes(shell: &Shell, wanted: &Wanted) -> bool {
    match wanted.is_apart() {
        true => wanted.shells.contains(shell.rank),
        false => shell.is_leader(),
    }
}

/// Starts a program, with all it writes coming from one stream.
fn start(shell: &Shell, wanted: &Wanted) -> Result<(Process, Output), Errno> {
    let io = |error: std::io::Error| Errno::from_io(&error);
    let (read, write) = std::io::pipe().map_err(io)?;
    let scope = shell.scope(None);
    let env = shell.env.borrow().clone();
    let mut command = Command::new(wanted.command.iter().map(|word| render(word, &scope)));
    command.path = env.get("PATH").map(OsString::from);
    let variable = |(name, value): (String, String)| (name.into(), value.into());
    command.env = Some(env.into_iter().map(variable).collect());
    command.own_group = true;
    command.stdin = Stdio::Null;
    command.stdout = Stdio::Fd(write.try_clone().map_err(io)?.into());
    command.stderr = Stdio::Fd(write.into());
    let process = command.spawn()?;
    let source = pipe::Receiver::from_owned_fd(read.into()).map_err(io)?;
    Ok((process, Output::new(source, Buffering::Eager, PIECE)))
}

/// Where a program's output goes.
struct Sink {
    shell: Rc<Shell>,
    coprocesses: Rc<Coprocesses>,
    name: String,
    /// To a file of this shell, else to the leader.
    own_file: bool,
}

impl Sink {
    async fn take(&self, piece: &[u8]) {
        if self.own_file {
            return self.coprocesses.write(&self.shell, &self.name, piece);
        }
        self.shell.spend_credit().await;
        pass_on(&self.shell, &self.name, Some(piece));
    }
}

/// Carries a program's output and waits for its end.
async fn follow(sink: Sink, helper: Rc<Helper>, mut process: Process, mut output: Output) {
    let carry = async {
        // An error is the end of the stream, too.
        while let Ok(Some(piece)) = output.next_lines().await {
            sink.take(&piece).await;
        }
    };
    let ((), status) = tokio::join!(carry, process.wait());
    if !sink.own_file {
        pass_on(&sink.shell, &sink.name, None);
    }
    let how = match status {
        Ok(status) => subprocess::describe_status(status),
        Err(errno) => errno.to_string(),
    };
    let text = format!("{}: {how}", sink.name);
    sink.shell.log.write(Level::Debug, Some(COMPONENT), &text);
    helper.is_done.set(true);
    sink.coprocesses.ended.notify_one();
}

/// Sends output to the leader; `None` for its end.
fn pass_on(shell: &Shell, name: &str, piece: Option<&[u8]>) {
    let data = match piece {
        Some(piece) => StreamData::new("stdout", shell.rank, piece),
        None => StreamData::eof("stdout", shell.rank),
    };
    let write = Write {
        name: name.to_owned(),
        shell_rank: shell.rank,
        context: data.encode(),
    };
    shell.tell_leader("coprocess-write", &write);
}

/// Reads the option. Errors are texts for people.
fn parse(option: &Value, size: u32) -> Result<Vec<Wanted>, String> {
    let entries = option.as_object().filter(|entries| !entries.is_empty());
    let entries = entries.ok_or("coprocess option must be a non-empty object")?;
    let entry = |(name, entry): (&String, &Value)| {
        parse_one(name, entry, size).map_err(|text| format!("coprocess: {name}: {text}"))
    };
    entries.iter().map(entry).collect()
}

fn parse_one(name: &str, entry: &Value, size: u32) -> Result<Wanted, String> {
    let entry: &Map<String, Value> = entry.as_object().ok_or("must be an object")?;
    let mut wanted = Wanted {
        name: name.to_owned(),
        command: Vec::new(),
        output: format!("coproc-{name}-{{{{id}}}}.log"),
        shells: IdSet::first_n(size),
    };
    for (key, value) in entry {
        match key.as_str() {
            "command" => {
                let words = value.as_array().into_iter().flatten();
                let words = words.map(|word| word.as_str().map(str::to_owned));
                wanted.command = words.collect::<Option<_>>().unwrap_or_default();
            }
            "output" => {
                let text = value.as_str().ok_or("output must be a string")?;
                text.clone_into(&mut wanted.output);
            }
            "ranks" => {
                let text = value.as_str().unwrap_or_default();
                if text != "all" {
                    let ids: IdSet = text
                        .parse()
                        .map_err(|_| format!("invalid ranks '{text}'"))?;
                    wanted.shells = ids.intersection(&wanted.shells);
                }
            }
            key => return Err(format!("unknown key {key}")),
        }
    }
    match wanted.command.is_empty() {
        true => Err("command must be a non-empty array of strings".to_owned()),
        false => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_option_says_what_runs_where() {
        let option = json!({
            "a": {"command": ["x", "{{id}}"]},
            "b": {"command": ["y"], "output": "{{node.name}}.log", "ranks": "1,7"},
        });
        let wanted = parse(&option, 3).expect("valid");
        assert_eq!(
            (wanted[0].output.as_str(), wanted[0].shells.to_string()),
            ("coproc-a-{{id}}.log", "0-2".to_owned())
        );
        assert_eq!(wanted[1].shells.to_string(), "1");
        assert!(wanted[1].is_apart() && !wanted[0].is_apart());
    }

    #[test]
    fn bad_options_are_refused_in_words() {
        let non_empty = "command must be a non-empty array of strings";
        for (option, expect) in [
            (json!("nope"), "coprocess option must be a non-empty object"),
            (json!({}), "coprocess option must be a non-empty object"),
            (json!({"m": 1}), "coprocess: m: must be an object"),
            (json!({"m": {}}), &format!("coprocess: m: {non_empty}")),
            (
                json!({"m": {"command": []}}),
                &format!("coprocess: m: {non_empty}"),
            ),
            (
                json!({"m": {"command": "x"}}),
                &format!("coprocess: m: {non_empty}"),
            ),
            (
                json!({"m": {"command": [1]}}),
                &format!("coprocess: m: {non_empty}"),
            ),
            (
                json!({"m": {"command": ["x"], "ranks": "y"}}),
                "coprocess: m: invalid ranks 'y'",
            ),
            (
                json!({"m": {"command": ["x"], "outputs": "y"}}),
                "coprocess: m: unknown key outputs",
            ),
        ] {
            assert_eq!(parse(&option, 1), Err(expect.to_owned()));
        }
    }
}
