//! The older way a batch script came along: `attributes.system.batch`.

use std::ffi::OsString;

use serde_json::Value;

use crate::fatal::Fatal;
use crate::files::{self, TmpDir};
use crate::job::Job;
use crate::shell::Shell;

fn batch(job: &Job) -> Option<&Value> {
    job.jobspec.system("batch")
}

/// Writes the script, on the leader.
pub(crate) fn write_script(job: &Job, tmpdir: &TmpDir, leader: bool) -> Result<(), Fatal> {
    let Some(batch) = batch(job) else {
        return Ok(());
    };
    let script = batch.get("script").and_then(Value::as_str);
    let script = script.ok_or_else(|| Fatal::new("batch: failed to unpack script"))?;
    if !leader {
        return Ok(());
    }
    files::write_new(&tmpdir.path().join("script"), script.as_bytes(), 0o700)
        .map_err(|text| Fatal::new(format!("batch: error writing script: {text}")))
}

/// Turns the command of a task into a broker that runs the script.
pub(crate) fn rewrite(shell: &Shell, rank: u32, words: &mut Vec<OsString>) {
    let Some(batch) = batch(&shell.job) else {
        return;
    };
    let first = words.first().is_some_and(|word| word == "flux");
    let second = words
        .get(1)
        .is_some_and(|word| word == "broker" || word == "start");
    if first && second {
        return;
    }
    if rank == 0 {
        if let Some(program) = words.first_mut() {
            *program = shell.tmpdir.path().join("script").into();
        }
    } else {
        words.clear();
    }
    let mut broker: Vec<OsString> = vec!["flux".into(), "broker".into()];
    if let Some(Value::Array(options)) = batch.get("broker-opts") {
        broker.extend(options.iter().filter_map(Value::as_str).map(OsString::from));
    }
    broker.append(words);
    *words = broker;
}
