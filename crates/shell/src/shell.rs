//! The running shell: what its parts share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use client::Client;
use proto::job_manager::{JobManagerRaise, Raise};
use rpc::{Dest, Handle};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use subprocess::Server;
use tokio::sync::Notify;
use types::{Errno, IdSet, Rank};
use wire::Message;

use crate::coprocess::Coprocesses;
use crate::fatal::Fatal;
use crate::files::TmpDir;
use crate::input::Input;
use crate::job::Job;
use crate::log::{Level, Log};
use crate::mustache::Scope;
use crate::output::{Dest as OutputDest, Output, Stream};
use crate::pmi::Pmi;
use crate::pty::Ptys;
use crate::rc::{Current, Environment, Extensions};
use crate::store::{Store, key};
use crate::sysmon::Sysmon;
use crate::task::Task;

/// What the broker told at the start.
#[derive(Debug)]
pub(crate) struct Attributes {
    pub(crate) is_owner: bool,
    pub(crate) instance_level: u32,
    pub(crate) interface_hint: Option<String>,
}

/// Something a follower wants written (method `write`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) name: String,
    pub(crate) shell_rank: u32,
    pub(crate) context: Map<String, Value>,
}

/// The job shell of one node.
pub(crate) struct Shell {
    pub(crate) client: Client,
    pub(crate) handle: Handle,
    pub(crate) job: Job,
    /// This shell's number; 0 leads.
    pub(crate) rank: u32,
    /// The name its requests come under.
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) attributes: Attributes,
    pub(crate) log: Rc<Log>,
    pub(crate) store: Rc<Store>,
    pub(crate) tmpdir: TmpDir,
    /// The environment all tasks share.
    pub(crate) env: RefCell<Environment>,
    /// Scripts and plugins, if the job has any.
    pub(crate) extensions: Option<Extensions>,
    pub(crate) output: Output,
    pub(crate) input: Input,
    /// How long the job goes on after its first task's end.
    pub(crate) exit_timeout: Option<std::time::Duration>,
    pub(crate) tasks: RefCell<Vec<Rc<Task>>>,
    /// Local tasks that have not ended.
    pub(crate) running: Cell<u32>,
    /// Shells that reported their tasks' end, on the leader.
    pub(crate) shells_done: RefCell<IdSet>,
    /// Those of them whose plugins may have more to say, on the leader.
    pub(crate) talking: RefCell<IdSet>,
    pub(crate) first_exit: Cell<bool>,
    pub(crate) pmi: RefCell<Option<Pmi>>,
    pub(crate) ptys: Ptys,
    /// Where the job wants to know what it uses.
    pub(crate) sysmon: RefCell<Option<Rc<Sysmon>>>,
    /// What runs beside the tasks, if the job wants that.
    pub(crate) coprocesses: RefCell<Option<Rc<Coprocesses>>>,
    /// The processes others asked this shell to start, once one did.
    pub(crate) server: RefCell<Option<Rc<Server>>>,
    pub(crate) credits: Cell<u32>,
    pub(crate) credit_asked: Cell<bool>,
    pub(crate) credit_given: Notify,
    pub(crate) fatal: RefCell<Option<Fatal>>,
    /// Something the main loop waits for has happened.
    pub(crate) wake: Notify,
}

/// How often a shell that fails early asks for its leader, and how long it waits in between.
const EARLY_TRIES: u32 = 100;
const EARLY_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

impl Shell {
    pub(crate) fn is_leader(&self) -> bool {
        self.rank == 0
    }

    pub(crate) fn size(&self) -> u32 {
        self.job.size()
    }

    pub(crate) fn host(&self) -> &str {
        &self.job.nodes[self.rank as usize].host
    }

    /// Where another shell is.
    pub(crate) fn dest(&self, shell_rank: u32) -> Dest {
        let node = self.job.nodes.get(shell_rank as usize);
        node.map_or(Dest::Any, |node| Dest::Rank(Rank(node.broker_rank)))
    }

    pub(crate) fn topic(&self, method: &str) -> wire::Topic {
        format!("{}.{method}", self.service).into()
    }

    /// For templates of this shell; `task` is global rank and local index.
    pub(crate) fn scope(&self, task: Option<(u32, u32)>) -> Scope<'_> {
        Scope {
            job: &self.job,
            tmpdir: Some(self.tmpdir.path()),
            shell_rank: Some(self.rank),
            task,
        }
    }

    /// Tells the plugins of a topic, if there are any, and of the task it is about.
    ///
    /// Errors: one of them failed.
    pub(crate) fn hook(&self, topic: &str, task: Option<&mut Current>) -> Result<(), Fatal> {
        let Some(extensions) = &self.extensions else {
            return Ok(());
        };
        match extensions.call(topic, &self.env, task)? {
            true => Ok(()),
            false => Err(Fatal::new(format!("{topic}: plugin(s) failed"))),
        }
    }

    /// Tells the plugins of something that has happened. What fails is only logged; that a plugin
    /// ends the job is heeded. Returns whether they are content.
    pub(crate) fn hook_after(&self, topic: &str, task: Option<&mut Current>) -> bool {
        let Some(extensions) = &self.extensions else {
            return true;
        };
        extensions
            .call(topic, &self.env, task)
            .unwrap_or_else(|fatal| {
                self.die(fatal);
                false
            })
    }

    /// Ends the shell from within a task of its own.
    pub(crate) fn die(&self, fatal: Fatal) {
        self.fatal.borrow_mut().get_or_insert(fatal);
        self.wake.notify_one();
    }

    /// Raises an exception of type `exec`; the job manager then ends the job. Does not wait.
    pub(crate) fn raise(&self, note: &str, wait_status: Option<i32>) -> rpc::Call<proto::Empty> {
        let request = Raise {
            id: self.job.id,
            severity: 0,
            kind: "exec".into(),
            note: Some(note.to_owned()),
            wait_status,
        };
        self.handle.call::<JobManagerRaise>(Dest::Any, &request)
    }

    /// Sends the leader what is held back in the log, though it may not be there yet: asks until it
    /// takes it, or for a second.
    pub(crate) async fn tell_early(&self) {
        let mut tries = EARLY_TRIES;
        for context in self.log.take_held() {
            let write = Write {
                name: "log".to_owned(),
                shell_rank: self.rank,
                context,
            };
            let payload = proto::json_payload(&write);
            while tries > 0 {
                tries -= 1;
                let call = self
                    .handle
                    .call_raw(self.topic("write"), self.dest(0), payload.clone());
                match call.await {
                    Err(error) if error.errno == Errno::ENOSYS => {
                        tokio::time::sleep(EARLY_PAUSE).await;
                    }
                    // It has it, or is gone.
                    _ => break,
                }
            }
        }
    }

    /// Sends a message to the leader that it does not answer.
    pub(crate) fn tell_leader<T: Serialize>(&self, method: &str, payload: &T) {
        self.handle.notify_raw(
            self.topic(method),
            self.dest(0),
            proto::json_payload(payload),
        );
    }

    /// Writes a log line to the job's output.
    pub(crate) fn write_log(self: &Rc<Self>, context: Map<String, Value>) {
        self.record("log", context);
    }

    /// Adds an event to the job's output, through the leader if need be.
    fn record(self: &Rc<Self>, name: &str, context: Map<String, Value>) {
        if self.is_leader() {
            return self.store.append(key::OUTPUT, name, context);
        }
        let write = Write {
            name: name.to_owned(),
            shell_rank: self.rank,
            context,
        };
        self.tell_leader("write", &write);
    }

    /// Takes what a follower sent.
    pub(crate) fn on_write(self: &Rc<Self>, write: Write) {
        if write.name != "data" {
            let name = write.name;
            return self.store.append(key::OUTPUT, &name, write.context);
        }
        match StreamData::decode(&write.context, "UTF-8") {
            Ok(data) => self.store_data(&data),
            Err(error) => self.log.error(format!("write: {error}")),
        }
    }

    /// Puts output into the eventlog or a shared file, on the leader.
    fn store_data(self: &Rc<Self>, data: &StreamData) {
        let Some(stream) = Stream::from_name(&data.stream) else {
            return self.store.append(key::OUTPUT, "data", data.encode());
        };
        match self.output.dest(stream, &self.scope(None), true) {
            Ok(OutputDest::File(file)) => self.write_file(&file, stream, data),
            Ok(OutputDest::Eventlog | OutputDest::Leader) => self.store_in_eventlog(stream, data),
            Err(fatal) => self.die(fatal),
        }
    }

    fn store_in_eventlog(self: &Rc<Self>, stream: Stream, data: &StreamData) {
        if let Some(bytes) = &data.data {
            let (admitted, warning) = self.output.admit(stream, bytes.len());
            if let Some(warning) = warning {
                self.log.write(Level::Warn, Some("output.kvs"), &warning);
            }
            if !admitted {
                // The end of a stream is never dropped.
                if data.eof {
                    let eof = StreamData::eof(&data.stream, &data.rank);
                    self.store.append_data(&eof);
                }
                return;
            }
        }
        self.store.append_data(data);
    }

    fn write_file(&self, file: &std::fs::File, stream: Stream, data: &StreamData) {
        if let Err(error) = self.output.write_file(file, stream, data) {
            let errno = types::Errno::from_io(&error);
            self.log.error(format!("{}: write: {errno}", stream.name()));
        }
    }

    /// Takes output of a local task. Waits while the leader or the store cannot take more.
    pub(crate) async fn emit(self: &Rc<Self>, stream: Stream, dest: &OutputDest, data: StreamData) {
        match dest {
            OutputDest::File(file) => self.write_file(file, stream, &data),
            OutputDest::Leader if data.data.is_none() => {}
            _ if self.is_leader() => {
                self.store_data(&data);
                self.store.relieved().await;
            }
            OutputDest::Eventlog | OutputDest::Leader => {
                self.spend_credit().await;
                self.record("data", data.encode());
            }
        }
    }

    /// Waits for the leader's permission to send one message.
    pub(crate) async fn spend_credit(self: &Rc<Self>) {
        loop {
            let credits = self.credits.get();
            if credits <= self.output.config.low && !self.credit_asked.replace(true) {
                tokio::task::spawn_local(self.clone().ask_credit());
            }
            if credits > 0 {
                return self.credits.set(credits - 1);
            }
            self.log_flow("stop");
            self.credit_given.notified().await;
            self.log_flow("start");
        }
    }

    fn log_flow(&self, what: &str) {
        let text = format!("flow control {what}");
        self.log.write(Level::Debug, Some("output.client"), &text);
    }

    async fn ask_credit(self: Rc<Self>) {
        let credits = self.output.config.high;
        let payload = proto::json_payload(&serde_json::json!({"credits": credits}));
        let call = self
            .handle
            .call_raw(self.topic("write-getcredit"), self.dest(0), payload);
        if let Err(error) = call.await {
            return self.die(Fatal::call("write-getcredit", &error));
        }
        self.credits.set(self.credits.get() + credits);
        self.credit_asked.set(false);
        self.credit_given.notify_waiters();
    }

    /// Signals the local tasks.
    pub(crate) fn signal_tasks(&self, signum: i32) {
        self.ptys.release();
        for task in self.tasks.borrow().iter() {
            if let Err(error) = task.signal(signum) {
                let text = format!("kill task {}: signal {signum}: {error}", task.rank);
                self.log.write(Level::Warn, None, &text);
            }
        }
    }

    /// Whether all there is to do is done.
    pub(crate) fn is_done(&self) -> bool {
        self.tasks_are_done() && !crate::rc::native::lingers()
    }

    /// Whether all tasks this shell is to wait for have ended.
    pub(crate) fn tasks_are_done(&self) -> bool {
        self.running.get() == 0
            && (!self.is_leader() || self.shells_done.borrow().len() as u32 == self.size())
    }

    /// Whether a request's sender may give this shell orders.
    pub(crate) fn allows(&self, message: &Message) -> bool {
        message.cred.is_owner() || message.cred.userid.0 == nix::unistd::getuid().as_raw()
    }
}
