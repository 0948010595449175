//! Jobs that only pretend to run (`attributes.system.exec.test`): they test and measure all but
//! execution.

use std::time::Duration;

use jobs::event;
use proto::job_exec::Start;
use proto::kvs::{Commit, KvsCommit, PRIMARY};
use rpc::Dest;
use serde_json::{Value, json};
use spec::Entry;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use types::fsd;
use wire::Message;

use super::job::{Answers, fatal_status};
use super::{Control, Shared};
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
    let key = format!("{}.guest.exec.eventlog", start.id.kvs_path());
    let log = |entries: &[Entry]| {
        let text = spec::eventlog::encode(entries);
        let commit = Commit {
            ops: vec![store::append(key.clone(), text.as_bytes())],
            namespace: PRIMARY.into(),
            flags: 0,
        };
        shared.handle.call::<KvsCommit>(Dest::Any, &commit)
    };
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
    let begin = ["init", "starting", "recoverable"].map(|name| event::plain(time, name));
    let mut entries = begin.to_vec();
    let overrides = test
        .get("override")
        .and_then(Value::as_i64)
        .is_some_and(|on| on != 0);
    let mut status = test.get("wait_status").and_then(Value::as_i64).unwrap_or(0) as i32;
    let mut end = None;
    let mut failed = None;
    if !overrides {
        answers.start();
        end = run_time.map(|time| Instant::now() + time);
    }
    if text("mock_exception") == Some("run") {
        answers.exception("exec", 0, "mock run exception generated");
        failed = Some(None);
        status = shared.config.borrow().term_signal;
        end = Some(Instant::now());
    }
    if end.is_none_or(|end| end > Instant::now() + AT_ONCE) {
        // Readers follow along; nothing here depends on it being stored already.
        drop(log(&entries));
        entries.clear();
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
                Some(Control::Override { start: true, .. }) => answers.start(),
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
    let complete = json!({ "status": status });
    let complete = match complete {
        Value::Object(context) => Entry::with_context(time, "complete", context),
        _ => Entry::new(time, "complete"),
    };
    entries.extend([complete, event::plain(time, "done")]);
    let written = log(&entries);
    answers.finish(status);
    // The commit is on its way, and the KVS keeps their order: who sees the job's next event sees
    // these.
    answers.release();
    if let Err(error) = written.await {
        let text = format!("{}: exec eventlog: {error}", start.id.f58());
        shared.log(module::Severity::Err, text);
    }
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
    let seconds = own.or_else(limit).filter(|seconds| *seconds > 0.0);
    Ok(Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).ok())
}
