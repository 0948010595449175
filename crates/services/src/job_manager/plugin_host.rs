//! Plugins in files: the process they run in, what they are asked and what they ask.
//!
//! While plugins are asked the module takes nothing else on: what comes meanwhile waits, but for
//! what plugins themselves ask. So a job is in the state they were told of until they have answered.
//! The broker goes on: plugins may make calls to it, if not to the job manager.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use jobs::plugin_requests::Action;
use jobs::{Answer, Call, NewJob, Refusal, State as JobState, Token};
use module::{Context, Host, Input, Severity};
use proto::job_manager as jm;
use proto::jobtap::{Ask, Order, Report, encode};
use rpc::RpcError;
use serde_json::{Map, Value, json};
use spec::Entry;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use types::{Errno, JobId, RoleMask};
use wire::{Message, encode_stream};

use super::service::refused;
use super::{State, now};
use crate::store;

/// After how long the log says that plugins keep all jobs waiting.
const SLOW: Duration = Duration::from_secs(5);

/// How long plugins have to end with the module.
const END: Duration = Duration::from_secs(1);

/// The length of what precedes a message in the framing of the local connector.
const FRAME_HEADER: usize = 8;

/// The process. It ends with this.
struct Process {
    orders: mpsc::UnboundedSender<String>,
    reports: Lines<BufReader<OwnedReadHalf>>,
    child: Child,
}

impl Process {
    fn start(host: &dyn Host) -> std::io::Result<Process> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("jobtap-host");
        host.environment(&mut command);
        let child = command
            .stdin(OwnedFd::from(theirs))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (reader, mut writer) = UnixStream::from_std(ours)?.into_split();
        let (orders, mut lines) = mpsc::unbounded_channel::<String>();
        tokio::task::spawn_local(async move {
            while let Some(line) = lines.recv().await {
                if writer.write_all(line.as_bytes()).await.is_err() {
                    // The end of its reports says so too.
                    return;
                }
            }
        });
        Ok(Process {
            orders,
            reports: BufReader::new(reader).lines(),
            child,
        })
    }

    fn send(&self, order: &Order) {
        // A process that is gone shows by the end of its reports.
        let _gone = self.orders.send(encode(order));
    }

    /// Its next report. Errors: why there will be none. Cancel safe.
    async fn next(&mut self) -> Result<Report, String> {
        match self.reports.next_line().await {
            Ok(Some(line)) => {
                serde_json::from_str(&line).map_err(|error| format!("invalid report: {error}"))
            }
            Ok(None) => match self.child.wait().await {
                Ok(status) => Err(status.to_string()),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What a plugin answers requests to.
struct Service {
    plugin: String,
    rolemask: RoleMask,
}

/// Something that needs plugins, and so takes time.
pub(super) enum Todo {
    /// Let a batch of jobs in.
    Submit(Vec<NewJob>, Token),
    /// Update a job's attributes.
    Update(Message, jm::Update),
    /// Load or remove plugins.
    Jobtap(Message, jm::Jobtap),
    /// Ask a plugin for what it has to tell.
    Query(Message, String),
    /// Take a new configuration over.
    Reload(Message, Map<String, Value>),
    /// Tell of a job that is forgotten.
    Forgotten(JobId),
}

/// Plugins in files, as far as the module has to do with them.
#[derive(Default)]
pub(super) struct PluginHost {
    process: Option<Process>,
    /// The file of each, by name.
    files: BTreeMap<String, String>,
    services: BTreeMap<String, Service>,
    todo: VecDeque<Todo>,
    /// What came while plugins were asked.
    pub(super) deferred: VecDeque<Input>,
    /// Whether the module was asked to end meanwhile.
    pub(super) ending: bool,
}

impl PluginHost {
    /// Something plugins say unasked. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Report, String> {
        match &mut self.process {
            Some(process) => process.next().await,
            None => future::pending().await,
        }
    }

    pub(super) fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    pub(super) fn push(&mut self, todo: Todo) {
        self.todo.push_back(todo);
    }

    fn send(&self, order: &Order) {
        if let Some(process) = &self.process {
            process.send(order);
        }
    }

    /// Passes a request on if it is for a plugin. Whether it was.
    pub(super) fn pass_on(&self, message: &Message) -> Option<Result<(), RpcError>> {
        let method = message.topic.as_ref()?.method();
        let service = self.services.get(method)?;
        let roles = message.cred.rolemask;
        if !roles.intersects(service.rolemask) {
            return Some(Err(Errno::EPERM.into()));
        }
        let mut frame = BytesMut::new();
        encode_stream(message, &mut frame);
        self.send(&Order::Message {
            service: method.to_owned(),
            data: STANDARD.encode(&frame[FRAME_HEADER..]),
        });
        Some(Ok(()))
    }
}

/// Asking.
impl State {
    /// Gives the process an order and waits for its report. `None` if it has ended.
    async fn order(&mut self, context: &mut Context, order: Order) -> Option<Report> {
        self.plugin_host.send(&order);
        let slow = tokio::time::sleep(SLOW);
        tokio::pin!(slow);
        let mut is_slow = false;
        loop {
            let host = &mut self.plugin_host;
            let process = host.process.as_mut()?;
            let report = tokio::select! {
                biased;
                report = process.next() => report,
                () = &mut slow, if !is_slow => {
                    is_slow = true;
                    let what = order.what();
                    let text = format!("jobtap: jobs wait for plugins: {what} takes long");
                    self.log(Severity::Warning, text);
                    continue;
                }
                input = context.next(), if !host.ending => {
                    match input {
                        Some(input) => host.deferred.push_back(input),
                        None => {
                            // Nobody would wait for plugins that do not answer.
                            host.ending = true;
                            process.child.start_kill().ok()?;
                        }
                    }
                    continue;
                }
            };
            match report {
                Ok(Report::Ask { number, ask }) => {
                    let result = self.on_ask(ask);
                    self.answer_ask(number, result);
                }
                Ok(report) => return Some(report),
                Err(reason) => {
                    self.lose_plugins(&reason);
                    return None;
                }
            }
        }
    }

    /// Asks plugins.
    async fn ask_plugins(&mut self, context: &mut Context, call: &Call) -> Answer {
        let order = Order::Call {
            id: Some(call.id),
            topic: call.topic.clone(),
            plugin: call.plugin.clone(),
            args: call.args.clone(),
        };
        self.call_plugins(context, order).await
    }

    async fn call_plugins(&mut self, context: &mut Context, order: Order) -> Answer {
        match self.order(context, order).await {
            Some(Report::Called {
                handled,
                failed,
                out,
            }) => Answer {
                handled,
                failed,
                out,
            },
            _ => {
                let mut out = Map::new();
                let text = "the process of the job manager's plugins has ended";
                out.insert("errmsg".into(), text.into());
                Answer {
                    handled: true,
                    failed: true,
                    out,
                }
            }
        }
    }

    /// Asks what the engine waits for, until it waits no more.
    pub(super) async fn attend_calls(&mut self, context: &mut Context) {
        while let Some(call) = self.jobs.next_call().cloned() {
            let answer = self.ask_plugins(context, &call).await;
            self.log_failure(&call, &answer);
            self.with_jobs(|jobs, now, out| jobs.on_answer(now, answer, out));
        }
    }

    fn log_failure(&self, call: &Call, answer: &Answer) {
        if answer.failed {
            let why = answer.error().unwrap_or("callback returned error");
            let text = format!("jobtap: {}: {}: {why}", call.id.f58(), call.topic);
            self.log(Severity::Err, text);
        }
    }

    /// Does all that needs plugins.
    pub(super) async fn attend(&mut self, context: &mut Context) {
        loop {
            self.attend_calls(context).await;
            let Some(todo) = self.plugin_host.todo.pop_front() else {
                return;
            };
            match todo {
                Todo::Submit(jobs, token) => self.admit(context, jobs, token).await,
                Todo::Update(message, update) => {
                    if let Err(error) = self.plugin_update(context, &message, update).await {
                        self.handle.respond_error(&message, &error);
                    }
                }
                Todo::Jobtap(message, wish) => {
                    let result = self.change_plugins(context, wish).await;
                    self.answer_jobtap(&message, result);
                }
                Todo::Query(message, name) => self.query(context, &message, &name).await,
                Todo::Reload(message, config) => {
                    let result = self.reload(context, &config).await;
                    match result {
                        Ok(()) => self.handle.respond(&message, &proto::Empty {}),
                        Err(error) => self.handle.respond_error(&message, &error),
                    }
                }
                Todo::Forgotten(id) => self.tell_forgotten(context, id).await,
            }
        }
    }

    /// Plugins said something unasked.
    pub(super) async fn on_report(
        &mut self,
        context: &mut Context,
        report: Result<Report, String>,
    ) {
        match report {
            Ok(Report::Ask { number, ask }) => {
                let result = self.on_ask(ask);
                // Before the answer, what follows is done: that is what plugins count on.
                self.with_jobs(|jobs, now, out| jobs.resume(now, out));
                self.attend_calls(context).await;
                self.answer_ask(number, result);
            }
            Ok(_) => self.lose_plugins("a report nobody asked for"),
            Err(reason) => self.lose_plugins(&reason),
        }
    }

    fn answer_ask(&self, number: u64, result: Result<Value, Refusal>) {
        let (value, errnum) = match result {
            Ok(value) => (value, 0),
            Err(refusal) => (Value::Null, refusal.errno.0),
        };
        self.plugin_host.send(&Order::Answer {
            number,
            value,
            errnum,
        });
    }

    /// Does what a plugin asks.
    fn on_ask(&mut self, ask: Ask) -> Result<Value, Refusal> {
        let action = |epilog| match epilog {
            true => Action::Epilog,
            false => Action::Prolog,
        };
        if let Ask::RegisterService {
            plugin,
            service,
            rolemask,
        } = ask
        {
            return self.register_service(plugin, service, rolemask);
        }
        self.with_jobs(|jobs, now, out| {
            match ask {
                Ask::Lookup { id } => {
                    let missing = Refusal {
                        errno: Errno::ENOENT,
                        text: String::new(),
                    };
                    return jobs.plugin_args(id).map(Value::Object).ok_or(missing);
                }
                Ask::Result { id } => return Ok(jobs.plugin_result(id)?.bit().into()),
                Ask::HasEvent { id, name } => return Ok(jobs.plugin_has_event(id, &name)?.into()),
                Ask::ReprioritizeAll => jobs.reprioritize_all(),
                Ask::Reprioritize { id, priority } => {
                    jobs.plugin_reprioritize(now, id, priority)?
                }
                Ask::DependencyAdd { id, description } => {
                    jobs.plugin_add_dependency(now, id, &description)?;
                }
                Ask::DependencyRemove { id, description } => {
                    jobs.plugin_remove_dependency(now, id, &description)?;
                }
                Ask::SetFlag { id, flag } => jobs.plugin_set_flag(now, id, &flag)?,
                Ask::Raise {
                    id,
                    kind,
                    severity,
                    note,
                } => jobs.plugin_raise(now, id, &kind, severity, &note, out)?,
                Ask::PostEvent { id, name, context } => {
                    let entry = match context {
                        Some(context) => Entry::with_context(now, name, context),
                        None => Entry::new(now, name),
                    };
                    jobs.plugin_post(id, entry)?;
                }
                Ask::UpdateJobspec { id, updates } => jobs.plugin_update(now, id, updates)?,
                Ask::Subscribe { plugin, id } => jobs.plugin_subscribe(&plugin, id)?,
                Ask::Unsubscribe { plugin, id } => jobs.plugin_unsubscribe(&plugin, id),
                Ask::ActionStart {
                    id,
                    epilog,
                    description,
                } => jobs.plugin_start_action(now, id, action(epilog), &description)?,
                Ask::ActionFinish {
                    id,
                    epilog,
                    description,
                    status,
                } => jobs.plugin_finish_action(now, id, action(epilog), &description, status)?,
                Ask::RegisterService { .. } => {}
            }
            Ok(Value::Null)
        })
    }

    fn register_service(
        &mut self,
        plugin: String,
        service: String,
        rolemask: u32,
    ) -> Result<Value, Refusal> {
        let services = &mut self.plugin_host.services;
        if let Some(known) = services.get(&service)
            && known.plugin != plugin
        {
            return Err(Refusal {
                errno: Errno::EEXIST,
                text: String::new(),
            });
        }
        let text = format!("jobtap plugin {plugin} registered method job-manager.{service}");
        let rolemask = RoleMask(rolemask);
        services.insert(service, Service { plugin, rolemask });
        self.log(Severity::Debug, text);
        Ok(Value::Null)
    }

    /// The process has ended, and all its plugins with it.
    fn lose_plugins(&mut self, reason: &str) {
        self.plugin_host.process = None;
        let names: Vec<String> = std::mem::take(&mut self.plugin_host.files)
            .into_keys()
            .collect();
        if !self.plugin_host.ending {
            let names = names.join(", ");
            let text = format!("jobtap: the process of {names} has ended: {reason}");
            self.log(Severity::Err, text);
        }
        for name in names {
            self.forget_plugin(&name);
        }
    }

    /// What is left of a plugin that is gone.
    fn forget_plugin(&mut self, name: &str) {
        self.jobs.forget_plugin_file(name);
        self.plugin_host.files.remove(name);
        self.plugin_host
            .services
            .retain(|_, service| service.plugin != name);
        if self.plugin_host.files.is_empty() {
            self.plugin_host.process = None;
            self.jobs.set_plugin_topics([]);
        }
    }

    fn take_topics(&mut self, topics: Vec<String>) {
        // With the end of a job, what plugins keep with it goes.
        let end = "job.destroy".to_owned();
        self.jobs.set_plugin_topics(topics.into_iter().chain([end]));
    }
}

/// Loading.
impl State {
    /// Loads a plugin from a file and tells it of all jobs. Errors: `EEXIST`, `EINVAL` with what
    /// the loader or the plugin says.
    pub(super) async fn load_file(
        &mut self,
        context: &mut Context,
        path: &str,
        conf: Option<Map<String, Value>>,
    ) -> Result<(), RpcError> {
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        self.jobs.add_plugin_file(&name).map_err(refused)?;
        let loaded = self.load_and_introduce(context, &name, path, conf).await;
        if loaded.is_err() {
            self.remove_file(context, &name).await;
        }
        self.with_jobs(|jobs, now, out| jobs.resume(now, out));
        loaded
    }

    async fn load_and_introduce(
        &mut self,
        context: &mut Context,
        name: &str,
        path: &str,
        conf: Option<Map<String, Value>>,
    ) -> Result<(), RpcError> {
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        if self.plugin_host.process.is_none() {
            let process = Process::start(&*self.host).map_err(|error| {
                RpcError::new(Errno::from_io(&error), format!("{path}: {error}"))
            })?;
            self.plugin_host.process = Some(process);
        }
        self.plugin_host
            .files
            .insert(name.to_owned(), path.to_owned());
        let order = Order::Load {
            name: name.to_owned(),
            path: path.to_owned(),
            conf,
        };
        let order = match self.order(context, order).await {
            Some(Report::Loaded {
                error: None,
                topics,
                order,
            }) => {
                self.take_topics(topics);
                order
            }
            Some(Report::Loaded {
                error: Some(text), ..
            }) => return Err(invalid(format!("{name}: {text}"))),
            _ => return Err(invalid(format!("{path}: its process has ended"))),
        };
        let config = (*self.host.config()).clone();
        self.tell_config(context, Some(name), &config).await?;
        for id in self.ids_in_order(order.as_deref()) {
            for call in self.jobs.introduce(id, name) {
                let answer = self.ask_plugins(context, &call).await;
                // Whatever it thinks of them, the jobs are there.
                self.log_failure(&call, &answer);
                self.jobs.on_introduced(now(), &call, &answer);
            }
            self.jobs.introduced(now(), id);
        }
        Ok(())
    }

    fn ids_in_order(&self, order: Option<&str>) -> Vec<JobId> {
        let jobs = self.jobs.active();
        let mut ids: Vec<(JobState, JobId)> = jobs.map(|job| (job.fold.state, job.id)).collect();
        match order {
            Some("state") => ids.sort(),
            Some(_) => ids.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1))),
            None => {}
        }
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Tells plugins of the jobs a restart has brought back.
    pub(super) async fn introduce_restored(&mut self, context: &mut Context) {
        if !self.jobs.plugins().has_files() {
            return;
        }
        self.attend_calls(context).await;
        let files: Vec<String> = self.plugin_host.files.keys().cloned().collect();
        for id in self.ids_in_order(None) {
            let mut unhandled = BTreeSet::new();
            for (at, name) in files.iter().enumerate() {
                for call in self.jobs.introduce(id, name) {
                    let answer = self.ask_plugins(context, &call).await;
                    let scheme = call.topic.strip_prefix("job.dependency.");
                    if let Some(scheme) = scheme {
                        match (answer.handled, at) {
                            (true, _) => drop(unhandled.remove(scheme)),
                            (false, 0) => drop(unhandled.insert(scheme.to_owned())),
                            (false, _) => {}
                        }
                    }
                    self.jobs.on_introduced(now(), &call, &answer);
                }
            }
            for scheme in unhandled {
                self.jobs.note_stuck(now(), id, &scheme);
            }
            self.jobs.introduced(now(), id);
        }
        self.with_jobs(|jobs, now, out| jobs.resume(now, out));
        self.attend_calls(context).await;
    }

    /// Removes a plugin in a file.
    pub(super) async fn remove_file(&mut self, context: &mut Context, name: &str) {
        if self.plugin_host.process.is_some() {
            let order = Order::Remove {
                name: name.to_owned(),
            };
            if let Some(Report::Loaded { topics, .. }) = self.order(context, order).await {
                self.take_topics(topics);
            }
        }
        self.forget_plugin(name);
    }

    /// Removes all plugins in files before the module ends, so that they can put things in order.
    /// They get [`END`] for it.
    pub(super) async fn end_plugins(&mut self, context: &mut Context) {
        if std::mem::replace(&mut self.plugin_host.ending, true) {
            return;
        }
        let names: Vec<String> = self.plugin_host.files.keys().cloned().collect();
        let removed = async {
            for name in names {
                self.remove_file(context, &name).await;
            }
        };
        // The process is killed with what is left.
        let _late = tokio::time::timeout(END, removed).await;
    }

    /// Tells plugins, or one of them, of the configuration. Errors: `EINVAL` if they refuse it.
    async fn tell_config(
        &mut self,
        context: &mut Context,
        plugin: Option<&str>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        let mut args = Map::new();
        args.insert("conf".into(), Value::Object(config.clone()));
        let order = Order::Call {
            id: None,
            topic: "conf.update".into(),
            plugin: plugin.map(str::to_owned),
            args,
        };
        if !self.jobs.plugins_want("conf.update") {
            return Ok(());
        }
        let answer = self.call_plugins(context, order).await;
        if !answer.failed {
            return Ok(());
        }
        let text = answer.error().unwrap_or("jobtap: conf.update failed");
        Err(RpcError::new(Errno::EINVAL, text))
    }

    async fn reload(
        &mut self,
        context: &mut Context,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        self.tell_config(context, None, config).await?;
        self.take_config(config)
    }

    async fn query(&mut self, context: &mut Context, message: &Message, name: &str) {
        let mut data = Map::new();
        data.insert("name".into(), name.into());
        data.insert("path".into(), self.plugin_host.file(name).into());
        let order = Order::Call {
            id: None,
            topic: "plugin.query".into(),
            plugin: Some(name.to_owned()),
            args: data.clone(),
        };
        let answer = self.call_plugins(context, order).await;
        if answer.failed {
            let text = answer.error().unwrap_or("plugin.query failed").to_owned();
            let error = RpcError::new(Errno::EINVAL, format!("{name}: {text}"));
            return self.handle.respond_error(message, &error);
        }
        data.extend(answer.out);
        self.handle.respond(message, &data);
    }
}

/// Jobs.
impl State {
    async fn admit(&mut self, context: &mut Context, jobs: Vec<NewJob>, token: Token) {
        let mut errors = Vec::new();
        for new in jobs {
            let id = new.id;
            if let Err(text) = self.admit_one(context, new).await {
                errors.push((id, text));
            }
            self.attend_calls(context).await;
        }
        self.with_jobs(|jobs, now, out| jobs.submitted(now, token, errors, out));
    }

    /// Lets a job in. Errors are texts for who submits it.
    async fn admit_one(&mut self, context: &mut Context, new: NewJob) -> Result<(), String> {
        for call in self.jobs.admit(now(), new)? {
            let answer = self.ask_plugins(context, &call).await;
            if let Some(text) = self.jobs.refusal(&call, &answer) {
                self.with_jobs(|jobs, now, out| jobs.reject(now, out));
                return Err(text);
            }
            self.jobs.on_introduced(now(), &call, &answer);
        }
        self.with_jobs(|jobs, now, out| jobs.accept(now, out));
        Ok(())
    }

    /// Updates a job some of whose attributes plugins have to allow.
    async fn plugin_update(
        &mut self,
        context: &mut Context,
        message: &Message,
        mut update: jm::Update,
    ) -> Result<(), RpcError> {
        let (who, id) = (message.cred, update.id);
        let keys: Vec<String> = update
            .updates
            .keys()
            .filter(|key| !self.jobs.updates(key))
            .cloned()
            .collect();
        let check = |state: &State, updates: &Map<String, Value>| {
            let expiration = state.jobs.check_update(now(), who, id, updates, &keys);
            expiration.map_err(refused)
        };
        check(self, &update.updates)?;
        let queue = update.updates.contains_key("attributes.system.queue");
        let (mut validated, mut feasibility) = (true, queue);
        let mut more = Map::new();
        for key in &keys {
            let Some(mut call) = self.jobs.call(id, &format!("job.update.{key}")) else {
                return Err(Errno::ENOENT.into());
            };
            let args = &mut call.args;
            let value = update.updates.get(key).cloned().unwrap_or_default();
            args.insert("key".into(), key.as_str().into());
            args.insert("value".into(), value);
            args.insert("updates".into(), Value::Object(update.updates.clone()));
            let cred = json!({"userid": who.userid.0, "rolemask": who.rolemask.0});
            args.insert("cred".into(), cred);
            let answer = self.ask_plugins(context, &call).await;
            let text = match (answer.handled, answer.failed) {
                (false, _) => format!("update of {key} not supported"),
                (true, true) => {
                    let unsaid = "one or more jobspec updates are invalid";
                    answer.error().unwrap_or(unsaid).to_owned()
                }
                (true, false) => {
                    let flag = |key| answer.out.get(key).is_some_and(is_true);
                    validated &= flag("validated");
                    feasibility |= flag("feasibility");
                    if let Some(Value::Object(updates)) = answer.out.get("updates") {
                        more.extend(updates.clone());
                    }
                    continue;
                }
            };
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        update.updates.extend(more);
        if !validated {
            self.validate_update(context, id, &update.updates).await?;
        }
        let expiration = check(self, &update.updates)?;
        self.schedule_update(message.clone(), update, expiration, feasibility);
        Ok(())
    }

    /// Asks plugins whether a job may be as an update makes it.
    async fn validate_update(
        &mut self,
        context: &mut Context,
        id: JobId,
        updates: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        if !self.jobs.plugins_want("job.validate") {
            return Ok(());
        }
        let Some(mut call) = self.jobs.call(id, "job.validate") else {
            return Ok(());
        };
        if let Some(Value::Object(jobspec)) = call.args.get_mut("jobspec") {
            let entry = Entry::with_context(now(), "jobspec-update", updates.clone());
            jobs::apply_updates(&[entry], Some(jobspec), None);
        }
        let answer = self.ask_plugins(context, &call).await;
        match self.jobs.refusal(&call, &answer) {
            Some(text) => Err(RpcError::new(Errno::EINVAL, text)),
            None => Ok(()),
        }
    }

    /// Tells plugins of a job that is forgotten: all that is known of it is in the store still.
    async fn tell_forgotten(&mut self, context: &mut Context, id: JobId) {
        let key = |name: &str| format!("{}.{name}", id.kvs_path());
        let args = async {
            let log = store::get(&self.handle, &key("eventlog")).await.ok()??;
            let jobspec = store::get(&self.handle, &key("jobspec")).await.ok()??;
            jobs::past_args(id, &log, &jobspec)
        };
        let Some(args) = args.await else {
            return;
        };
        let call = Call {
            id,
            topic: "job.inactive-remove".into(),
            plugin: None,
            args,
        };
        self.ask_plugins(context, &call).await;
    }
}

fn is_true(value: &Value) -> bool {
    // Plugins in C write 1.
    value.as_bool() == Some(true) || value.as_i64().is_some_and(|number| number != 0)
}
