//! The process in which plugins of the job manager run that come in files (flux-jobtap-plugins(7)).
//!
//! Such a plugin is foreign code in C, so it runs in no broker. The job manager starts this program
//! with its first one, gives it orders over a socket pair, its standard input, and waits for what
//! plugins say without taking anything else on ([`proto::jobtap`]). Plugins are linked to
//! `libflux-core.so`, which comes with them: their handle is an ordinary connection of that
//! library, whose reactor is the main loop here. The functions they call beside it are in
//! `interface.c`, which makes text of variable arguments, and behind it in `interface`.
//!
//! If a plugin ends this process, its plugins are gone; the job manager and all jobs go on.

mod host;
mod interface;
mod link;

use std::ffi::OsString;
use std::process::ExitCode;

/// `flux jobtap-host`: runs plugins for the job manager that started this process.
pub fn host_main(_words: Vec<OsString>) -> ExitCode {
    match host::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            types::complain!("flux-jobtap-host: {error}");
            ExitCode::FAILURE
        }
    }
}
