//! Jobs that only pretend to run (`attributes.system.exec.test`): they test and measure all but
//! execution.

use std::time::Duration;

use jobs::event;
use proto::job_exec::Start;
use proto::kvs::{Commit, Committed, KvsCommit, PRIMARY};
use rpc::{Call, Dest, RpcError};
use serde_json::{Value, json};
use spec::Entry;
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{JobId, fsd};
use wire::Message;

use super::job::{Answers, context, fatal_status};
use super::moment::sleep_until;
use super::{Control, Shared, guest};
use crate::job_manager::now;
use crate::store;

/// Longer than any job.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

/// The events of a job that runs no longer than this are stored all together.
const AT_ONCE: Duration = Duration::from_millis(10);

/// Runs a mock job to its end.
pub(super) async fn run(
    shared: &Shared,
    message: &Message,
    start: &Start,
    test: &Value,
    mut controls: mpsc::UnboundedReceiver<Control>,
) {
    let answers = Answers::new(&shared.handle, message, start.id);
    let text = |key: &str| test.get(key).and_then(Value::as_str);
    let guest = start.userid != shared.owner && !shared.config.borrow().allow_guests;
    let refusal = match text("mock_exception") {
        _ if guest => Some("guests may not use test exec implementation"),
        Some("init") => Some("mock initialization exception generated"),
        _ => None,
    };
    let run_time = run_time(test, start);
    if let Some(note) = refusal.or(run_time.err()) {
        // It never starts, so it does not finish either.
        answers.exception("exec", 0, note);
        return answers.release();
    }
    let run_time = run_time.unwrap_or_default();
    let time = now();
    let begin: &[&str] = match start.reattach {
        false => &["init", "starting", "recoverable"],
        true => &["reattach", "re-starting"],
    };
    let mut entries: Vec<Entry> = begin.iter().map(|name| event::plain(time, name)).collect();
    let finished = start.reattach && is_on(test, "reattach_finish");
    let overrides = is_on(test, "override");
    let mut status = test.get("wait_status").and_then(Value::as_i64).unwrap_or(0) as i32;
    let mut end = None;
    let mut failed = None;
    if start.reattach {
        end = left(run_time, start).map(|time| Instant::now() + time);
    } else if !overrides {
        end = run_time.map(|time| Instant::now() + time);
    }
    let failing = text("mock_exception") == Some("run");
    if finished || failing {
        end = Some(Instant::now());
    }
    // Nobody could use the namespace of a job that is over at once.
    let lasts = end.is_none_or(|end| end > Instant::now() + AT_ONCE);
    if lasts {
        match begin_guest(shared, start, &entries).await {
            Ok(()) => entries.clear(),
            Err(error) => {
                answers.exception("exec", 0, &format!("job-exec: {error}"));
                answers.finish(1 << 8);
                return answers.release();
            }
        }
    }
    if start.reattach {
        answers.reattached();
    } else if !overrides {
        answers.start();
    }
    if failing {
        answers.exception("exec", 0, "mock run exception generated");
        failed = Some(None);
        status = shared.config.borrow().term_signal;
    }
    loop {
        let until = end.unwrap_or_else(|| Instant::now() + FOREVER);
        tokio::select! {
            () = sleep_until(until) => break,
            control = controls.recv() => match control {
                Some(Control::Exception { severity: 0, wait_status }) => {
                    failed = Some(wait_status);
                    if wait_status.is_none() {
                        status = shared.config.borrow().term_signal;
                    }
                    break;
                }
                Some(Control::Override { start: true, .. }) => {
                    answers.start();
                    // Without a time of its own it is also ended by hand.
                    end = run_time
                        .filter(|time| !time.is_zero())
                        .map(|time| Instant::now() + time);
                }
                Some(Control::Override { start: false, status: given }) => {
                    status = given;
                    break;
                }
                Some(_) => {}
                None => break,
            },
        }
    }
    if let Some(wait_status) = failed {
        status = fatal_status(status, wait_status);
    }
    let time = now();
    let complete = context(time, "complete", json!({ "status": status }));
    entries.extend([complete, event::plain(time, "done")]);
    answers.finish(status);
    let log = spec::eventlog::encode(&entries);
    let written = match lasts {
        true => guest::graft(shared, start.id, &log).await,
        false => Ok(append(shared, start.id, &log)),
    };
    // The commit is on its way, and the KVS keeps their order: who sees the job's next event sees
    // these.
    answers.release();
    let result = async {
        match lasts {
            true => guest::remove(shared, start.id, written?).await,
            false => written?.await.map(drop),
        }
    };
    if let Err(error) = result.await {
        let text = format!("{}: exec eventlog: {error}", start.id.f58());
        shared.log(module::Severity::Err, text);
    }
}

/// Makes or finds the guest namespace, with these events in it.
async fn begin_guest(shared: &Shared, start: &Start, entries: &[Entry]) -> Result<(), RpcError> {
    let log = spec::eventlog::encode(entries);
    if !start.reattach {
        drop(guest::link(shared, start.id));
        return guest::create(shared, start, &log).await;
    }
    append(shared, start.id, &log).await?;
    guest::restore(shared, start).await?;
    drop(guest::link(shared, start.id));
    Ok(())
}

/// Adds to the exec eventlog in the job's directory.
fn append(shared: &Shared, id: JobId, log: &str) -> Call<Committed> {
    let key = format!("{}.guest.exec.eventlog", id.kvs_path());
    let commit = Commit {
        ops: vec![store::append(key, log.as_bytes())],
        namespace: PRIMARY.into(),
        flags: 0,
    };
    shared.handle.call::<KvsCommit>(Dest::Any, &commit)
}

/// Whether an option that is 0 or 1 is 1.
fn is_on(test: &Value, key: &str) -> bool {
    test.get(key)
        .and_then(Value::as_i64)
        .is_some_and(|on| on != 0)
}

/// What is left of the time of a job that was there before this broker: it began when it got its
/// resources.
fn left(run_time: Option<Duration>, start: &Start) -> Option<Duration> {
    let began = start
        .resources
        .get("execution")
        .and_then(|execution| execution.get("starttime")?.as_f64())
        .unwrap_or_else(now);
    let past = Duration::try_from_secs_f64(now() - began).unwrap_or_default();
    run_time.map(|time| time.saturating_sub(past))
}

/// How long a mock job runs; `None` for ever. Errors: what is wrong with the option.
fn run_time(test: &Value, start: &Start) -> Result<Option<Duration>, &'static str> {
    let invalid = "system.exec.test.run_duration is no Flux Standard Duration";
    let own = match test.get("run_duration") {
        Some(Value::String(text)) => Some(fsd::parse(text).map_err(|_| invalid)?),
        Some(_) => return Err(invalid),
        None => None,
    };
    let limit = || {
        let system = start.jobspec.get("attributes")?.get("system")?;
        system.get("duration")?.as_f64()
    };
    match own.or_else(limit) {
        Some(seconds) if seconds > 0.0 => Ok(Duration::try_from_secs_f64(seconds).ok()),
        // Whoever asks for no time at all wants to end it.
        _ if own.is_some() => Ok(None),
        _ => Ok(Some(Duration::ZERO)),
    }
}
