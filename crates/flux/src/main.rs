//! The `flux` executable: every program of the system, chosen by `argv[0]` or the first word.

use std::ffi::OsString;
use std::process::ExitCode;

use cli::Program;

/// Programs that are not client commands. Their words begin with their own name.
const PROGRAMS: &[(&str, Program)] = &[("broker", broker), ("start", start)];

fn broker(words: Vec<OsString>) -> ExitCode {
    broker::broker_main(words.into_iter().skip(1).collect(), services::builtins())
}

fn start(words: Vec<OsString>) -> ExitCode {
    broker::start_main(words.into_iter().skip(1).collect())
}

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect(), PROGRAMS)
}
