//! The `flux` executable: every program of the system, chosen by `argv[0]` or the first word.

use std::ffi::OsString;
use std::process::ExitCode;

/// Programs that are not client commands.
const PROGRAMS: &[(&str, fn(Vec<OsString>) -> ExitCode)] =
    &[("broker", broker), ("start", broker::start_main)];

fn broker(words: Vec<OsString>) -> ExitCode {
    broker::broker_main(words, services::builtins())
}

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect(), PROGRAMS)
}
