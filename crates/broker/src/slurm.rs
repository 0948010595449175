//! An instance within a Slurm job ends when that does.

use std::rc::Rc;

use client::slurm::{Expiration, POLL_INTERVAL, SlurmError};
use module::Severity;

use crate::broker::Broker;

/// The Slurm job this process is in.
const VARIABLE: &str = "SLURM_JOB_ID";
/// What jobs ask for their time left, as a variable that libyogrt reads.
const YOGRT: (&str, &str) = ("YOGRT_BACKEND", "flux");

/// Takes over the end of the Slurm job, if the broker is in one and its instance is in no other,
/// and keeps following it. What goes wrong is logged; the instance then has no end.
pub(crate) async fn follow(broker: &Rc<Broker>) {
    let Ok(text) = std::env::var(VARIABLE) else {
        return;
    };
    if broker.attrs.borrow().get("parent-uri").is_some() {
        return;
    }
    let Ok(jobid) = text.parse() else {
        let text = format!("rc1.0: invalid {VARIABLE}. Skipping expiration sync");
        return broker.log(Severity::Err, &text);
    };
    let (name, value) = YOGRT;
    broker
        .environment
        .borrow_mut()
        .insert(name.to_owned(), Some(value.to_owned()));
    let mut expiration = Expiration::new(jobid);
    let handle = broker.router.handle();
    match expiration.sync(&handle).await {
        Ok(end) => end.into_iter().for_each(|end| log_end(broker, end)),
        Err(error) => return log_failure(broker, &error),
    }
    let broker = broker.clone();
    tokio::task::spawn_local(async move {
        let changed = |end| log_end(&broker, end);
        let error = expiration.follow(&handle, POLL_INTERVAL, changed).await;
        log_failure(&broker, &error);
    });
}

fn log_end(broker: &Broker, end: f64) {
    let text = format!("slurm: instance expiration is {end:.2}");
    broker.log(Severity::Info, &text);
}

fn log_failure(broker: &Broker, error: &SlurmError) {
    broker.log(Severity::Err, &format!("slurm: {error}"));
}
