//! The `rlimit` option: resource limits of the tasks.
//!
//! They are set in the shell while it starts the tasks, which inherit them, and put back.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::fatal::Fatal;
use crate::log::Level;
use crate::shell::Shell;

const NAMES: &[(&str, Resource)] = &[
    ("cpu", Resource::RLIMIT_CPU),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("data", Resource::RLIMIT_DATA),
    ("stack", Resource::RLIMIT_STACK),
    ("core", Resource::RLIMIT_CORE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("ofile", Resource::RLIMIT_NOFILE),
    ("as", Resource::RLIMIT_AS),
    ("rss", Resource::RLIMIT_RSS),
    ("nproc", Resource::RLIMIT_NPROC),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
];

/// Puts the shell's own limits back when dropped.
pub(crate) struct Restore(Vec<(Resource, u64, u64)>);

impl Drop for Restore {
    fn drop(&mut self) {
        for (resource, soft, hard) in &self.0 {
            // Raising a soft limit below the hard one is always allowed.
            let _ = setrlimit(*resource, *soft, *hard);
        }
    }
}

/// Sets the limits.
///
/// Errors name an option that is no limit.
pub(crate) fn apply(shell: &Shell) -> Result<Restore, Fatal> {
    let mut restore = Restore(Vec::new());
    let Some(Value::Object(limits)) = shell.job.option("rlimit") else {
        return Ok(restore);
    };
    for (name, value) in limits {
        let invalid = || Fatal::new(format!("invalid shell option rlimit.{name}={value}"));
        let known = NAMES.iter().find(|(known, _)| known == name);
        let (_, resource) = known.ok_or_else(invalid)?;
        let wanted = match value.as_i64().ok_or_else(invalid)? {
            limit if limit < 0 => libc::RLIM_INFINITY,
            limit => limit as u64,
        };
        let Ok((soft, hard)) = getrlimit(*resource) else {
            continue;
        };
        let wanted = if wanted > hard {
            // Unlimited usually means "as much as there is".
            if wanted != libc::RLIM_INFINITY {
                let text = format!("{name} exceeds current max, raising value to hard limit");
                shell.log.write(Level::Warn, Some("rlimit"), &text);
            }
            hard
        } else {
            wanted
        };
        if wanted == soft {
            continue;
        }
        match setrlimit(*resource, wanted, hard) {
            Ok(()) => restore.0.push((*resource, soft, hard)),
            Err(errno) => shell.log.error(format!("rlimit: {name}: {}", errno.desc())),
        }
    }
    Ok(restore)
}
