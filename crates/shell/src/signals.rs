//! Signals: those the shell gets and passes on, and the one a job may want before its end.

use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use proto::job_info::{JobInfoUpdateWatch, Update};
use proto::job_manager::{JobManagerKill, Kill};
use rpc::Dest;
use serde_json::{Map, Value};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use types::Errno;

use crate::fatal::Fatal;
use crate::log::Level;
use crate::shell::Shell;
use crate::store::now;

const NAME: Option<&str> = Some("signal");

/// The signals that are passed on to the tasks.
pub(crate) const PASSED_ON: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGALRM];

/// Where they are heard of.
pub(crate) struct Signals {
    interrupt: Listener,
    terminate: Listener,
    alarm: Listener,
}

impl Signals {
    pub(crate) fn new() -> Result<Signals, Fatal> {
        let listen = |kind| {
            signal(kind).map_err(|error| Fatal::new(format!("signal: {}", Errno::from_io(&error))))
        };
        let signals = Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            alarm: listen(SignalKind::alarm())?,
        };
        // The fork server holds them back until now.
        let held: SigSet = PASSED_ON.into_iter().collect();
        held.thread_unblock()
            .map_err(|errno| Fatal::new(format!("signal: {}", errno.desc())))?;
        Ok(signals)
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.alarm.recv() => libc::SIGALRM,
        }
    }
}

/// What the `signal` option asks for: signal and seconds before the end.
fn option(shell: &Shell) -> Result<Option<(i32, f64)>, Fatal> {
    let Some(option) = shell.job.option("signal") else {
        return Ok(None);
    };
    let invalid = || Fatal::new("invalid shell option signal");
    let object = match option {
        Value::Number(number) => {
            return Ok((number.as_i64() == Some(1)).then_some((libc::SIGUSR1, 60.0)));
        }
        Value::Object(object) => object,
        _ => return Err(invalid()),
    };
    let signum = match object.get("signum") {
        None => libc::SIGUSR1,
        Some(value) => value.as_i64().ok_or_else(invalid)? as i32,
    };
    let left = match object.get("timeleft") {
        None => 60.0,
        Some(Value::String(text)) => types::fsd::parse(text).map_err(|_| invalid())?,
        Some(value) => value.as_f64().ok_or_else(invalid)?,
    };
    Ok(Some((signum, left)))
}

/// Sends the job the signal it wants some time before its end, on the leader; again if it gets
/// another end.
pub(crate) fn watch_expiration(shell: &Rc<Shell>) -> Result<(), Fatal> {
    let Some((signum, left)) = option(shell)?.filter(|_| shell.is_leader()) else {
        return Ok(());
    };
    let warning = Warning {
        signum,
        name: Signal::try_from(signum).map_or("signal", Signal::as_str),
        left,
    };
    tokio::task::spawn_local(warning.follow(shell.clone()));
    Ok(())
}

/// A signal that tells of the end.
struct Warning {
    signum: i32,
    name: &'static str,
    /// Seconds between the two.
    left: f64,
}

impl Warning {
    async fn follow(self, shell: Rc<Shell>) {
        let mut expiration = shell.job.resources.expiration;
        let wanted = Update {
            id: shell.job.id,
            key: "R".to_owned(),
            flags: 0,
        };
        let mut updates = shell
            .handle
            .stream::<JobInfoUpdateWatch>(Dest::Any, &wanted);
        loop {
            let mut due = self.announce(&shell, expiration);
            let next = loop {
                tokio::select! {
                    update = updates.next() => match update {
                        Ok(Some(found)) => match end_of(&found) {
                            // The first answer is what is known.
                            Some(end) if end != expiration => break end,
                            _ => {}
                        },
                        Ok(None) => return,
                        Err(error) => return shell.log.error(format!("update-watch: {error}")),
                    },
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                        due = None;
                        self.send(&shell).await;
                    }
                }
            };
            expiration = next;
        }
    }

    /// Tells when it will be sent, if there is an end.
    fn announce(&self, shell: &Shell, expiration: f64) -> Option<Instant> {
        let name = self.name;
        if expiration <= 0.0 {
            let text = format!("job has no expiration, {name} will not be sent");
            shell.log.write(Level::Debug, NAME, &text);
            return None;
        }
        let wait = (expiration - self.left - now()).max(0.0);
        let text = format!("Will send {name} to job in {wait:.2}s");
        shell.log.write(Level::Debug, NAME, &text);
        // An end too far away to be counted is none.
        let wait = Duration::try_from_secs_f64(wait).ok()?;
        Instant::now().checked_add(wait)
    }

    async fn send(&self, shell: &Shell) {
        let Warning { name, left, .. } = self;
        let text = format!("job will expire in {left:.1}s, sending {name} to job");
        shell.log.write(Level::Notice, NAME, &text);
        let kill = Kill {
            id: shell.job.id,
            signum: self.signum,
        };
        let sent = shell.handle.call::<JobManagerKill>(Dest::Any, &kill).await;
        if let Err(error) = sent {
            shell.log.error(format!("signal: {error}"));
        }
    }
}

/// The end of R in an answer.
fn end_of(found: &Map<String, Value>) -> Option<f64> {
    found
        .get("R")?
        .get("execution")?
        .get("expiration")?
        .as_f64()
}
