//! The `flux` executable: every program of the system, chosen by `argv[0]` or the first word.

mod allocator;

use std::ffi::OsString;
use std::panic;
use std::path::Path;
use std::process::{self, ExitCode};

use cli::Program;

/// Programs that are not client commands. Their words begin with their own name.
const PROGRAMS: &[(&str, Program)] = &[
    ("broker", broker),
    ("start", start),
    ("shell", shell::shell_main),
    ("jobtap-host", jobtap::host_main),
];

fn broker(words: Vec<OsString>) -> ExitCode {
    broker::broker_main(words.into_iter().skip(1).collect(), services::builtins())
}

fn start(words: Vec<OsString>) -> ExitCode {
    broker::start_main(words.into_iter().skip(1).collect())
}

/// Makes a panic the end of the process. It is our fault, and what waits for a task that has gone
/// would wait forever.
fn end_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
}

fn main() -> ExitCode {
    allocator::tune();
    end_on_panic();
    types::fluid::follow_locale();
    let words: Vec<OsString> = std::env::args_os().collect();
    // Job shells are started by this name, once for every job and node: nothing else comes first.
    let name = words.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "flux-shell") {
        return shell::shell_main(words);
    }
    cli::main(words, PROGRAMS)
}
