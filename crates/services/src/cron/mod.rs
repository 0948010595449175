//! Module `cron`: runs commands by time, by event or by the calendar.
//!
//! Entries, their triggers and their counts are [`state::Cron`], which is pure; here are the
//! clocks, the events and the processes. An entry runs one command at a time, by `sh -c` through
//! `rexec`, and what that writes goes to the log. With the argument `sync=TOPIC` runs wait for the
//! next event of that topic, so that what has to disturb a machine disturbs it at one moment.
//!
//! Entries live as long as the module: nothing is stored, and what runs when the module goes is
//! terminated.

mod calendar;
mod entry;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::tz::TimeZone;
use module::{Builtin, Context, Failure, Input, Severity};
use proto::cron::{CronCreate, CronDelete, CronList, CronStart, CronStop, CronSync, List, Sync};
use rpc::{Routes, RpcError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use types::{Errno, fsd};

use crate::process::{self, Report};
use entry::Ended;
use state::{Cron, Effect, Now};

/// The longest the module sleeps; it then just looks again.
const SLEEP_MAX: Duration = Duration::from_secs(86_400);

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "cron",
        main: |context| Box::pin(run(context)),
    }
}

struct State {
    cron: Cron,
    begin: Instant,
}

impl State {
    fn now(&self) -> Now {
        Now {
            wall: crate::job_manager::now(),
            steady: self.begin.elapsed().as_secs_f64(),
        }
    }
}

/// Reads the module's arguments.
fn configure(state: &mut State, context: &Context) -> Result<(), Failure> {
    let mut sync = Sync::default();
    for arg in &context.args {
        match arg.split_once('=') {
            Some(("sync", topic)) => sync.topic = (!topic.is_empty()).then(|| topic.to_owned()),
            Some(("sync_epsilon", text)) => match fsd::parse(text) {
                Ok(seconds) => sync.sync_epsilon = Some(seconds),
                Err(error) => context.log(
                    Severity::Err,
                    format!("option {arg} ignored: {}", error.errno()),
                ),
            },
            _ => {
                let text = format!("Unknown option `{arg}'");
                return Err(Failure::new(Errno::EINVAL, text));
            }
        }
    }
    let now = state.now();
    state.cron.sync(now, sync).map_err(RpcError::from)?;
    Ok(())
}

fn routes() -> Routes<State> {
    Routes::new()
        .on::<CronCreate>(|state: &mut State, request, create| {
            let now = state.now();
            let entry = state.cron.create(now, create);
            request.reply_result(&entry.map_err(RpcError::from));
        })
        .on::<CronDelete>(|state, request, delete| {
            request.reply_result(&state.cron.delete(delete).map_err(RpcError::from));
        })
        .on::<CronStart>(|state, request, named| {
            let now = state.now();
            let entry = state.cron.start(now, named.id);
            request.reply_result(&entry.map_err(RpcError::from));
        })
        .on::<CronStop>(|state, request, named| {
            request.reply_result(&state.cron.stop(named.id).map_err(RpcError::from));
        })
        .on::<CronList>(|state, request, _| {
            let entries = state.cron.list();
            request.reply(&List { entries });
        })
        .on::<CronSync>(|state, request, sync| {
            let now = state.now();
            let sync = state.cron.sync(now, sync);
            request.reply_result(&sync.map_err(RpcError::from));
        })
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let routes = routes();
    let mut state = State {
        cron: Cron::new(TimeZone::system),
        begin: Instant::now(),
    };
    let (reports, mut inbox) = mpsc::unbounded_channel();
    configure(&mut state, &context)?;
    context.ready();
    loop {
        for effect in std::mem::take(&mut state.cron.effects) {
            carry_out(&context, &reports, effect);
        }
        let remaining = state.cron.remaining(state.now());
        let wait = remaining.map_or(SLEEP_MAX, |seconds| {
            Duration::try_from_secs_f64(seconds).unwrap_or_default()
        });
        tokio::select! {
            input = context.next() => match input {
                None => return Ok(()),
                Some(Input::Request(message)) => {
                    context.dispatch(&routes, &mut state, message);
                }
                Some(Input::Event(message)) => {
                    let now = state.now();
                    state.cron.on_event(now, message.topic_str());
                }
            },
            Some((id, report)) = inbox.recv() => on_report(&mut state, id, report),
            () = sleep(wait.min(SLEEP_MAX)) => {}
        }
        // Not only after sleeping: whoever sets the clock may tell so by any request.
        let now = state.now();
        state.cron.on_time(now);
    }
}

fn on_report(state: &mut State, id: u64, report: Report) {
    let now = state.now();
    match report {
        Report::Started(pid) => state.cron.on_started(now, id, pid),
        Report::Ended(result) => {
            let ended = match result {
                Ok(status) => Ended::Status(status),
                Err(error) => Ended::Lost {
                    errno: error.errno.0,
                    text: error.to_string(),
                },
            };
            state.cron.on_ended(now, id, &ended);
        }
        Report::Output(io) => {
            process::lines(&io, |severity, line| state.cron.on_line(id, severity, line));
        }
    }
}

type Reports = mpsc::UnboundedSender<(u64, Report)>;

fn carry_out(context: &Context, reports: &Reports, effect: Effect) {
    match effect {
        Effect::Log(severity, text) => context.log(severity, text),
        Effect::Subscribe(topic) => context.subscribe(&topic),
        Effect::Unsubscribe(topic) => context.unsubscribe(&topic),
        Effect::Run { id, rank, command } => {
            let reports = reports.clone();
            // The module may be gone.
            let report = move |report| reports.send((id, report)).is_ok();
            let task = process::follow(context.handle.clone(), rank, *command, report);
            tokio::task::spawn_local(task);
        }
        Effect::Terminate { rank, pid } => {
            process::kill(&context.handle, rank, pid, libc::SIGTERM);
        }
    }
}
