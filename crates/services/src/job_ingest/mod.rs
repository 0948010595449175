//! Module `job-ingest`: takes jobs in, on every rank.
//!
//! A submission is unwrapped, checked, filled in with the defaults of its queue and given an id.
//! Jobs then gather in a batch; one commit stores the jobspecs of all, and one request hands them
//! to the job manager, which answers when they are durable. There is no timer: a batch is what
//! arrived while the one before was stored.
//!
//! The validators and frobnicators everyone has run in this process. If others are configured, a
//! [`worker`] process does all of that step.

mod checks;
mod config;
mod envelope;
mod worker;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use module::{Builtin, Context, Failure, Host, Input, Severity};
use proto::Empty;
use proto::config::ModuleConfigReload;
use proto::job_ingest::{
    Clock, JobIngestGetinfo, JobIngestStats, JobIngestSubmit, Submit, Submitted, flags,
};
use proto::job_manager::{self, JobManagerGetinfo, JobManagerSubmit, NewJob, SubmitErrors};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use types::fluid::{FluidGenerator, GENERATOR_MAX};
use types::{Errno, JobId, Rank, UserId};
use wire::Message;

use crate::job_manager::now;
use crate::rexec;
use crate::store;
use config::{Config, Overrides};
use worker::Worker;

/// Generator numbers kept for other uses.
const GENERATORS_RESERVED: u16 = 16;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "job-ingest",
        main: |context| Box::pin(run(context)),
    }
}

/// A job that came in.
struct Accepted {
    /// When it came, in milliseconds since the module started.
    arrived_ms: u64,
    message: Message,
    signed: String,
    jobspec: Value,
    urgency: i32,
    flags: i32,
}

/// The processes that do what is not built in.
#[derive(Default)]
struct Workers {
    frobnicator: Option<Worker>,
    validator: Option<Worker>,
}

/// What comes back from the module's own tasks.
enum Posted {
    /// What became of the checks that take time.
    Checked(Box<Accepted>, Result<(), RpcError>),
    /// A batch is stored and known to the job manager.
    Done(Vec<(JobId, Message)>, Result<SubmitErrors, RpcError>),
}

struct State {
    handle: Handle,
    host: Rc<dyn Host>,
    posts: mpsc::UnboundedSender<Posted>,
    config: Rc<Config>,
    workers: Rc<Workers>,
    overrides: Overrides,
    owner: UserId,
    allow_root: bool,
    started: Instant,
    ids: FluidGenerator,
    waiting: VecDeque<Accepted>,
    storing: bool,
    requests: u64,
    errors: u64,
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let invalid = |text: String| Failure::new(Errno::EINVAL, text);
    let mut overrides = Overrides::default();
    let mut generator_max = u32::from(GENERATOR_MAX - GENERATORS_RESERVED);
    let mut allow_root = false;
    for arg in &context.args {
        match arg.split_once('=') {
            Some(("max-fluid-generator-id", number)) => {
                let parsed: Option<u32> = number.parse().ok();
                generator_max = parsed
                    .filter(|max| *max <= GENERATOR_MAX.into())
                    .ok_or_else(|| {
                        invalid(format!("Invalid max-fluid-generator-id: '{number}'"))
                    })?;
            }
            None if arg == "allow-root-jobs" => allow_root = true,
            _ if overrides.take(arg) => {}
            _ => return Err(invalid(format!("Invalid option: {arg}"))),
        }
    }
    let config = Config::parse(&context.config(), &overrides).map_err(invalid)?;
    let rank = context.rank();
    if rank.0 > generator_max {
        // Requests then go to the next broker above.
        return Ok(());
    }
    let timestamp = if rank == Rank::LEADER {
        let info = context
            .handle
            .call::<JobManagerGetinfo>(Dest::Any, &Empty {})
            .await?;
        match info.max_jobid.timestamp_ms() {
            0 => 0,
            highest => highest + 1,
        }
    } else {
        let clock = context
            .handle
            .call::<JobIngestGetinfo>(Dest::Upstream, &Empty {})
            .await?;
        clock.timestamp
    };
    let ids = FluidGenerator::new(rank.0, timestamp, 0)
        .map_err(|error| Failure::new(error.errno(), error.to_string()))?;
    let (posts, mut posted) = mpsc::unbounded_channel();
    let mut state = State {
        handle: context.handle.clone(),
        host: context.host(),
        posts,
        config: Rc::new(config),
        workers: Rc::default(),
        overrides,
        owner: nix::unistd::getuid().as_raw().into(),
        allow_root,
        started: Instant::now(),
        ids,
        waiting: VecDeque::new(),
        storing: false,
        requests: 0,
        errors: 0,
    };
    let routes = routes();
    state.configured();
    context.ready();
    loop {
        tokio::select! {
            biased;
            input = context.next() => match input {
                None => break,
                Some(Input::Request(message)) => context.dispatch(&routes, &mut state, message),
                Some(Input::Event(_)) => {}
            },
            Some(post) = posted.recv() => state.on_posted(post),
        }
        state.store();
    }
    // Jobs under way are still answered; new ones find no service.
    while state.storing {
        match posted.recv().await {
            Some(post) => state.on_posted(post),
            None => break,
        }
        state.store();
    }
    Ok(())
}

fn routes() -> Routes<State> {
    Routes::new()
        .on_raw::<JobIngestSubmit>(|state: &mut State, request| state.submit(&request))
        .on::<JobIngestGetinfo>(|state, request, Empty {}| {
            let timestamp = state.ids.timestamp_ms(state.elapsed_ms());
            request.reply(&Clock { timestamp });
        })
        .on::<JobIngestStats>(|state, request, Empty {}| {
            let worker = |requests, errors| {
                json!({"running": 0, "requests": requests, "errors": errors, "trash": 0,
                    "backlog": 0, "pids": [0, 0, 0, 0]})
            };
            let pipeline = json!({
                "frobnicator": worker(0, 0),
                "validator": worker(state.requests, state.errors),
            });
            request.reply(&Map::from_iter([("pipeline".to_owned(), pipeline)]));
        })
        .on::<ModuleConfigReload>(|state, request, config| {
            match Config::parse(&config, &state.overrides) {
                Ok(config) => {
                    state.config = Rc::new(config);
                    state.configured();
                    request.reply(&Empty {});
                }
                Err(text) => request.fail(RpcError::new(Errno::EINVAL, text)),
            }
        })
}

fn invalid<T>(text: impl Into<String>) -> Result<T, RpcError> {
    Err(RpcError::new(Errno::EINVAL, text))
}

impl State {
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes what the configuration asks for.
    fn configured(&mut self) {
        let state = if self.config.validate {
            "enabled"
        } else {
            "disabled"
        };
        let text = format!(
            "configuring validator with {} ({state})",
            self.config.validator
        );
        self.host.log(Severity::Debug, "job-ingest", &text);
        let worker = |command: &str, words: &Option<Vec<String>>| {
            let mut cmdline = vec![rexec::shell::program().to_owned(), command.to_owned()];
            cmdline.extend(words.clone()?);
            let (handle, host) = (self.handle.clone(), self.host.clone());
            let buffer_size = self.config.buffer_size.clone();
            Some(Worker::new(handle, host, cmdline, buffer_size))
        };
        let workers = Workers {
            frobnicator: worker("job-frobnicator", &self.config.frobnicator_worker),
            validator: worker("job-validator", &self.config.validator_worker),
        };
        self.workers = Rc::new(workers);
    }

    fn submit(&mut self, request: &Request<JobIngestSubmit>) {
        self.requests += 1;
        let job = match self.accept(request) {
            Ok(job) => job,
            Err(error) => return self.refuse(request.message(), &error),
        };
        if job.needs_time(&self.config) {
            let (handle, posts) = (self.handle.clone(), self.posts.clone());
            let (config, workers) = (self.config.clone(), self.workers.clone());
            let hosts = self.host.attr("hostlist");
            tokio::task::spawn_local(async move {
                let mut job = Box::new(job);
                let result = job.check_slowly(&handle, &config, &workers, hosts).await;
                let _ended = posts.send(Posted::Checked(job, result));
            });
            return;
        }
        let mut job = job;
        match job.check(&self.config, || self.host.attr("hostlist")) {
            Ok(()) => self.waiting.push_back(job),
            Err(error) => self.refuse(request.message(), &error),
        }
    }

    fn refuse(&mut self, message: &Message, error: &RpcError) {
        self.errors += 1;
        self.handle.respond_error(message, error);
    }

    /// Checks a submission.
    fn accept(&self, request: &Request<JobIngestSubmit>) -> Result<Accepted, RpcError> {
        let who = request.cred();
        let submit: Submit =
            proto::Payload::decode(request.message().payload.as_ref()).map_err(|error| {
                RpcError::new(
                    Errno::EPROTO,
                    format!("error decoding job request: {error}"),
                )
            })?;
        let known = flags::DEBUG | flags::WAITABLE | flags::NOVALIDATE;
        if submit.flags & !known != 0 {
            return Err(RpcError::new(Errno::EPROTO, "invalid job flags"));
        }
        if submit.flags & flags::NOVALIDATE != 0 && !who.is_owner() {
            let text = "only the instance owner can submit with FLUX_JOB_NOVALIDATE";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if !(0..=31).contains(&submit.urgency) {
            return invalid("urgency range is [0:31]");
        }
        if submit.urgency > 16 && !who.is_owner() {
            return invalid("only the instance owner can submit with urgency >16");
        }
        if submit.flags & flags::WAITABLE != 0 && !who.is_owner() {
            return invalid("only the instance owner can submit with FLUX_JOB_WAITABLE");
        }
        let (signer, payload) = envelope::unwrap(&submit.signed)
            .or_else(|text| invalid(format!("could not unwrap jobspec: {text}")))?;
        if signer != who.userid {
            let text = format!("signer={signer} != requestor={}", who.userid);
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if !who.is_owner() {
            let text = "only instance owner can use sign-type=none";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if who.userid.0 == 0 && self.owner.0 != 0 && !self.allow_root {
            return invalid("submission of jobs as user root not supported");
        }
        let jobspec: Value = serde_json::from_slice(&payload)
            .or_else(|error| invalid(format!("jobspec: invalid JSON: {error}")))?;
        Ok(Accepted {
            arrived_ms: self.elapsed_ms(),
            message: request.message().clone(),
            signed: submit.signed,
            jobspec,
            urgency: submit.urgency,
            flags: submit.flags,
        })
    }

    fn on_posted(&mut self, post: Posted) {
        match post {
            Posted::Checked(job, Ok(())) => self.waiting.push_back(*job),
            Posted::Checked(job, Err(error)) => {
                let error = RpcError::new(Errno::EINVAL, error.to_string());
                self.refuse(&job.message, &error);
            }
            Posted::Done(jobs, result) => {
                self.storing = false;
                self.answer(jobs, result);
            }
        }
    }

    fn answer(&mut self, jobs: Vec<(JobId, Message)>, result: Result<SubmitErrors, RpcError>) {
        let refused = match result {
            Ok(errors) => errors.errors,
            Err(error) => {
                self.host
                    .log(Severity::Err, "job-ingest", &format!("submit: {error}"));
                for (_, message) in jobs {
                    self.handle.respond_error(&message, &error);
                }
                return;
            }
        };
        let mut unlink = Vec::new();
        for (id, message) in jobs {
            match refused.iter().find(|(refused, _)| *refused == id) {
                None => self.handle.respond(&message, &Submitted { id }),
                Some((_, text)) => {
                    let error = RpcError::new(Errno::EINVAL, text.clone());
                    self.handle.respond_error(&message, &error);
                    unlink.push(store::unlink(id.kvs_path()));
                }
            }
        }
        if unlink.is_empty() {
            return;
        }
        let (handle, host) = (self.handle.clone(), self.host.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = store::commit(&handle, unlink, 0).await {
                let text = format!("removing refused jobs: {error}");
                host.log(Severity::Err, "job-ingest", &text);
            }
        });
    }

    /// Stores what waits as one batch, unless one is under way.
    fn store(&mut self) {
        if self.storing || self.waiting.is_empty() {
            return;
        }
        let count = self
            .config
            .batch_count
            .unwrap_or(usize::MAX)
            .min(self.waiting.len());
        let mut ops = Vec::with_capacity(2 * count);
        let mut jobs = Vec::with_capacity(count);
        let mut messages = Vec::with_capacity(count);
        for job in self.waiting.drain(..count) {
            // A job's place in the KVS follows from its id, and a batch whose jobs all had the
            // same millisecond would be one large directory, written anew with each of their
            // events.
            let id = match self.ids.generate(job.arrived_ms) {
                Ok(id) => id,
                Err(error) => {
                    let error = RpcError::new(error.errno(), error.to_string());
                    self.handle.respond_error(&job.message, &error);
                    continue;
                }
            };
            let mut jobspec = job.jobspec;
            if let Some(system) = jobspec
                .pointer_mut("/attributes/system")
                .and_then(Value::as_object_mut)
            {
                system.shift_remove("environment");
            }
            let path = id.kvs_path();
            ops.push(store::put(format!("{path}.J"), job.signed.as_bytes()));
            ops.push(store::put(
                format!("{path}.jobspec"),
                jobspec.to_string().as_bytes(),
            ));
            jobs.push(NewJob {
                id,
                userid: job.message.cred.userid,
                urgency: job.urgency,
                t_submit: now(),
                flags: job.flags,
                jobspec: match jobspec {
                    Value::Object(jobspec) => jobspec,
                    _ => Map::new(),
                },
            });
            messages.push((id, job.message));
        }
        self.storing = true;
        let (handle, posts) = (self.handle.clone(), self.posts.clone());
        tokio::task::spawn_local(async move {
            let result = match store::commit(&handle, ops, 0).await {
                Ok(()) => {
                    let batch = job_manager::Submit { jobs };
                    handle.call::<JobManagerSubmit>(Dest::Any, &batch).await
                }
                Err(error) => Err(error),
            };
            let _ended = posts.send(Posted::Done(messages, result));
        });
    }
}
