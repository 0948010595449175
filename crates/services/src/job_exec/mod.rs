//! Module `job-exec`: runs jobs (RFC 32, RFC 50).
//!
//! Each job is a task of its own that goes straight from its start request to its last answer:
//! it makes the guest namespace, starts a job shell on every rank through `rexec`, waits for all
//! of them, and leaves the namespace's contents in the job's directory. Whatever concerns a
//! running job from outside (exceptions, new expirations, barrier entries) reaches its task
//! through a channel. What several jobs commit to the primary namespace at the same time shares
//! one commit.
//!
//! Jobs that ask for `attributes.system.exec.test` run no shell: see `mock`. They have no
//! namespace either; their events go straight to where the namespace's would end up.

mod barrier;
mod config;
mod ending;
mod guest;
mod job;
mod mock;
mod moment;
mod shells;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use module::{Builtin, Context, Failure, Host, Input, Severity};
use proto::config::ModuleConfigReload;
use proto::job_exec::{
    CriticalRanks, Expiration, JobExecCriticalRanks, JobExecExpiration, JobExecOverride,
    JobExecShellBarrier, JobExecStats, Start,
};
use proto::job_manager::{ExecHello, JOB_EXCEPTION, JobException, JobManagerExecHello};
use proto::{Access, Empty, Payload as _};
use rpc::{Dest, Handle, Routes, RpcError};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use types::{Errno, IdSet, JobId, UserId};
use wire::Message;

use config::Config;
use writer::Writer;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "job-exec",
        main: |context| Box::pin(run(context)),
    }
}

/// What reaches a running job from outside.
enum Control {
    /// Somebody raised an exception.
    Exception {
        severity: i32,
        wait_status: Option<i32>,
    },
    /// Its end moved; 0 for none.
    Expiration(f64),
    /// A shell entered the barrier.
    Barrier { message: Box<Message>, rank: u32 },
    /// The shells it cannot lose.
    Critical(IdSet),
    /// Somebody asks how far it is.
    Stats(oneshot::Sender<Value>),
    /// A mock job shall start, or end.
    Override { start: bool, status: i32 },
}

/// A job that runs.
struct Running {
    userid: UserId,
    control: mpsc::UnboundedSender<Control>,
    implementation: &'static str,
    /// For mock jobs under `override`: whether it was started.
    overridden: Option<bool>,
}

/// What all jobs share.
/// Debug bit: new expirations are refused.
const DEBUG_EXPIRATION: i32 = 1;

struct Shared {
    handle: Handle,
    host: Rc<dyn Host>,
    config: RefCell<Rc<Config>>,
    /// The module's arguments, which outweigh the configuration.
    args: Vec<String>,
    jobs: RefCell<HashMap<JobId, Running>>,
    primary: Writer,
    owner: UserId,
    debug: Rc<Cell<i32>>,
}

impl Shared {
    fn log(&self, severity: Severity, text: impl AsRef<str>) {
        self.host.log(severity, "job-exec", text.as_ref());
    }

    /// Hands something to a running job. Whether there is such a job.
    fn control(&self, id: JobId, control: Control) -> bool {
        let jobs = self.jobs.borrow();
        jobs.get(&id)
            .is_some_and(|job| job.control.send(control).is_ok())
    }
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let config = Config::parse(&context.config(), &context.args)
        .map_err(|text| Failure::new(Errno::EINVAL, text))?;
    let mut shared = Rc::new(Shared {
        handle: context.handle.clone(),
        host: context.host(),
        config: RefCell::new(Rc::new(config)),
        args: context.args.clone(),
        jobs: RefCell::default(),
        primary: Writer::primary(context.handle.clone()),
        owner: nix::unistd::getuid().as_raw().into(),
        debug: context.debug_flags(),
    });
    context.subscribe(JOB_EXCEPTION);
    let hello = ExecHello {
        service: context.name().to_owned(),
    };
    context
        .handle
        .call::<JobManagerExecHello>(Dest::Any, &hello)
        .await?;
    let routes = routes();
    context.ready();
    while let Some(input) = context.next().await {
        match input {
            Input::Request(message) => context.dispatch(&routes, &mut shared, message),
            Input::Event(event) => on_event(&shared, &event),
        }
    }
    let jobs: Vec<JobId> = shared.jobs.borrow().keys().copied().collect();
    if let Err(error) = guest::leave(&shared, &jobs).await {
        let text = format!("failed to keep what the guests of jobs wrote: {error}");
        shared.log(module::Severity::Err, text);
    }
    Ok(())
}

fn on_event(shared: &Shared, event: &Message) {
    if event.topic_str() != JOB_EXCEPTION {
        return;
    }
    if let Ok(exception) = JobException::decode(event.payload.as_ref()) {
        // Most exceptions concern jobs that do not run.
        let _no_such_job = shared.control(
            exception.id,
            Control::Exception {
                severity: exception.severity,
                wait_status: exception.wait_status,
            },
        );
    }
}

type State = Rc<Shared>;

fn routes() -> Routes<State> {
    Routes::new()
        .on_message(
            "start",
            Access::Owner,
            |shared: &mut State, handle, message| match Start::decode(message.payload.as_ref()) {
                Ok(start) => begin(shared, message, start),
                Err(_) => handle.respond_error(&message, &Errno::EPROTO.into()),
            },
        )
        .on::<JobExecExpiration>(|shared, request, wish| {
            let Expiration { id, expiration } = wish;
            if shared.debug.get() & DEBUG_EXPIRATION != 0 {
                let text = "Rejecting expiration update for testing";
                request.fail(RpcError::new(Errno::EINVAL, text));
            } else if shared.control(id, Control::Expiration(expiration)) {
                let text = format!("updated expiration of {} to {expiration:.2}", id.f58());
                shared.log(Severity::Debug, text);
                request.reply(&Empty {});
            } else {
                request.fail(RpcError::new(Errno::ENOENT, "Job not found"));
            }
        })
        .on::<JobExecCriticalRanks>(|shared, request, wish: CriticalRanks| {
            let owner = shared.jobs.borrow().get(&wish.id).map(|job| job.userid);
            match (owner, wish.ranks.parse::<IdSet>()) {
                (None, _) => request.fail(RpcError::new(Errno::ENOENT, "Job not found")),
                (Some(owner), _) if owner != request.cred().userid => {
                    request.fail(RpcError::new(Errno::EPERM, "Permission denied"));
                }
                (_, Err(error)) => request.fail(RpcError::new(Errno::EINVAL, error.to_string())),
                (_, Ok(ranks)) => {
                    shared.control(wish.id, Control::Critical(ranks));
                    request.reply(&Empty {});
                }
            }
        })
        .on::<JobExecShellBarrier>(|shared, request, entry| {
            let message = Box::new(request.message().clone());
            let owner = shared.jobs.borrow().get(&entry.id).map(|job| job.userid);
            let refuse = |errno, text| {
                barrier::answer(
                    &shared.handle,
                    request.message(),
                    Err(RpcError::new(errno, text)),
                );
            };
            match owner {
                None => refuse(Errno::ENOENT, "job not found"),
                Some(owner) if !request.cred().may_act_for(owner) => {
                    refuse(Errno::EPERM, "Permission denied");
                }
                Some(_) => {
                    let rank = entry.rank;
                    shared.control(entry.id, Control::Barrier { message, rank });
                }
            }
        })
        .on::<JobExecOverride>(|shared, request, wish| {
            let result = override_job(shared, request.cred(), &wish);
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<JobExecStats>(|shared, request, Empty {}| {
            let shared = shared.clone();
            tokio::task::spawn_local(async move { request.reply(&stats(&shared).await) });
        })
        .on::<ModuleConfigReload>(|shared, request, config| {
            match Config::parse(&config, &shared.args) {
                Ok(config) => {
                    *shared.config.borrow_mut() = Rc::new(config);
                    request.reply(&Empty {});
                }
                Err(text) => request.fail(RpcError::new(Errno::EINVAL, text)),
            }
        })
}

/// What `stats-get` says: each job tells of itself.
async fn stats(shared: &Shared) -> Map<String, Value> {
    let asked: Vec<_> = shared
        .jobs
        .borrow()
        .iter()
        .map(|(id, job)| {
            let (answer, answered) = oneshot::channel();
            // One that has just ended tells nothing.
            let _ended = job.control.send(Control::Stats(answer));
            (*id, job.implementation, answered)
        })
        .collect();
    let mut jobs = Map::new();
    for (id, implementation, answered) in asked {
        let mut about = json!({"implementation": implementation, "ns": guest::namespace(id)});
        if let (Value::Object(about), Ok(Value::Object(more))) = (&mut about, answered.await) {
            about.extend(more);
        }
        jobs.insert(id.f58(), about);
    }
    let config = shared.config.borrow().clone();
    config.stats(jobs)
}

fn begin(shared: &State, message: Message, start: Start) {
    let id = start.id;
    let test = start
        .jobspec
        .get("attributes")
        .and_then(|attributes| attributes.get("system")?.get("exec")?.get("test"))
        .cloned();
    let overrides = test
        .as_ref()
        .and_then(|test| test.get("override")?.as_i64())
        .is_some_and(|on| on != 0);
    let (control, controls) = mpsc::unbounded_channel();
    let running = Running {
        userid: start.userid,
        control,
        implementation: if test.is_some() {
            "testexec"
        } else {
            "bulk-exec"
        },
        overridden: overrides.then_some(false),
    };
    shared.jobs.borrow_mut().insert(id, running);
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        // Real jobs cannot be gone on with anyhow, which they say themselves.
        let recoverable = match start.reattach && test.is_some() {
            true => guest::check_recoverable(&shared, id).await,
            false => Ok(()),
        };
        match (recoverable, test) {
            (Err(why), _) => {
                let answers = job::Answers::new(&shared.handle, &message, id);
                answers.exception("exec", 0, &format!("job is not recoverable: {why}"));
                answers.finish(1 << 8);
                answers.release();
            }
            (Ok(()), Some(test)) => mock::run(&shared, &message, &start, &test, controls).await,
            (Ok(()), None) => job::run(&shared, &message, start, controls).await,
        }
        shared.jobs.borrow_mut().remove(&id);
    });
}

fn override_job(
    shared: &Shared,
    who: types::Cred,
    wish: &proto::job_exec::Override,
) -> Result<(), RpcError> {
    let refuse = |errno, text: &str| Err(RpcError::new(errno, text));
    let mut jobs = shared.jobs.borrow_mut();
    let Some(job) = jobs.get_mut(&wish.jobid) else {
        return refuse(Errno::ENOENT, "Job not found");
    };
    if !who.may_act_for(job.userid) {
        return refuse(Errno::EPERM, "Permission denied");
    }
    let Some(started) = &mut job.overridden else {
        return refuse(Errno::EINVAL, "Job not in exec override mode");
    };
    let start = match (wish.event.as_str(), *started) {
        ("start", true) => return refuse(Errno::EINVAL, "Job already running"),
        ("finish", false) => return refuse(Errno::EINVAL, "Job not running"),
        ("start", false) => true,
        ("finish", true) => false,
        _ => return refuse(Errno::EINVAL, "Invalid event"),
    };
    *started = true;
    let status = wish.status.unwrap_or(0);
    if job
        .control
        .send(Control::Override { start, status })
        .is_err()
    {
        return refuse(Errno::ENOENT, "Job not found");
    }
    Ok(())
}
