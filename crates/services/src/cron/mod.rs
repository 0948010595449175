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
use proto::rexec::{Command, Exec, ExecEvent, Kill, RexecExec, RexecKill, flags};
use rpc::{Handle, Routes, RpcError};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use types::{Errno, Rank, fsd};

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

/// What a command did.
enum Report {
    Started(i32),
    Output(Map<String, Value>),
    Ended(Ended),
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
        Report::Ended(ended) => state.cron.on_ended(now, id, &ended),
        Report::Output(io) => {
            let Ok(StreamData {
                stream,
                data: Some(data),
                ..
            }) = StreamData::decode(&io, "utf-8")
            else {
                return;
            };
            let severity = match stream.as_str() {
                "stderr" => Severity::Err,
                _ => Severity::Info,
            };
            for line in String::from_utf8_lossy(&data).lines() {
                state.cron.on_line(id, severity, line);
            }
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
            let task = follow(context.handle.clone(), rank, *command, reports.clone(), id);
            tokio::task::spawn_local(task);
        }
        Effect::Terminate { rank, pid } => {
            let request = Kill {
                pid,
                label: None,
                signum: libc::SIGTERM,
            };
            let call = context.handle.call::<RexecKill>(Rank(rank), &request);
            tokio::task::spawn_local(async move {
                // A process that is gone already is what was wanted.
                let _gone = call.await;
            });
        }
    }
}

/// Runs a command and reports what it does, its end last.
async fn follow(handle: Handle, rank: u32, command: Command, reports: Reports, id: u64) {
    let request = Exec {
        cmd: command,
        flags: flags::STDOUT | flags::STDERR,
        local_flags: None,
    };
    let mut stream = handle.stream::<RexecExec>(Rank(rank), &request);
    let mut status = 0;
    loop {
        let report = match stream.next().await {
            Ok(Some(ExecEvent::Started { pid })) => Report::Started(pid),
            Ok(Some(ExecEvent::Output { io, .. })) => Report::Output(io),
            Ok(Some(ExecEvent::Finished { status: ended })) => {
                // Output may still come; the end of the stream is the end.
                status = ended;
                continue;
            }
            Ok(Some(_)) => continue,
            Ok(None) => Report::Ended(Ended::Status(status)),
            Err(error) => Report::Ended(Ended::Lost {
                errno: error.errno.0,
                text: error.to_string(),
            }),
        };
        let last = matches!(report, Report::Ended(_));
        // The module may be gone.
        if reports.send((id, report)).is_err() || last {
            return;
        }
    }
}
