//! The `flux` executable: every program of the system, chosen by `argv[0]` or the first word.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect(), &[])
}
