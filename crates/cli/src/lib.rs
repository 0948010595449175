//! The `flux` command: the driver and the commands it has built in.
//!
//! [`main`] prepares the environment and finds the command by name; the command then parses its
//! own words. Nothing is set up before a command needs it, so that starting one costs little.

// `eprintln!` panics where nobody reads: see `types::complain!`.
#![warn(clippy::print_stderr)]

mod attach;
mod color;
mod commands;
mod config;
mod datetime;
mod driver;
mod environment;
mod events;
mod fail;
mod format;
mod input;
mod interpreter;
mod json;
mod options;
mod output;
mod pty;
mod resolve;
mod signal;
mod submit;
mod terminal;
mod timefmt;

use std::ffi::OsString;
use std::process::ExitCode;

/// A program that lives in another crate and is run under a command name, its words without
/// `flux` and with its name first.
pub type Program = fn(Vec<OsString>) -> ExitCode;

/// Runs `flux` with its words, the program's own name first. `extra` are commands of other crates.
pub fn main(args: Vec<OsString>, extra: &[(&str, Program)]) -> ExitCode {
    let code = driver::main(args, extra);
    output::flush();
    code
}

/// The current directory, for commands that are run in it unless `option` names another.
fn current_dir(option: &str) -> Result<String, fail::Fail> {
    let dir = std::env::current_dir()
        .map_err(|error| fail::Fail::of("getcwd", types::Errno::from_io(&error)))?;
    dir.into_os_string().into_string().map_err(|dir| {
        let dir = dir.display();
        fail::Fail::new(format!("{dir}: directory is not UTF-8 text; use {option}"))
    })
}

/// The name of this host.
fn hostname() -> Result<String, fail::Fail> {
    let name = nix::unistd::gethostname()
        .map_err(|errno| fail::Fail::of("gethostname", types::Errno(errno as i32)))?;
    Ok(name.to_string_lossy().into_owned())
}
