//! `flux python`, and how script commands are run.

use std::path::Path;
use std::process::Command;

use types::{Errno, installation};

use crate::driver::{self, Invocation};
use crate::{err, outln};

/// The interpreter: `FLUX_PYTHON` or the first `python3` in the search path.
fn interpreter() -> String {
    if let Ok(path) = std::env::var("FLUX_PYTHON") {
        return path;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("python3"))
        .find(|path| path.is_file())
        .map_or_else(|| "python3".to_owned(), |path| path.display().to_string())
}

fn with_bindings(command: &mut Command) -> &mut Command {
    let own = installation::get("python_path").unwrap_or_default();
    let path = match std::env::var("PYTHONPATH") {
        Ok(path) if !path.is_empty() => {
            command.env("FLUX_PYTHONPATH_ORIG", &path);
            format!("{own}:{path}")
        }
        _ => own,
    };
    command.env("PYTHONPATH", path)
}

/// Runs a script with the Flux bindings in reach.
pub(crate) fn command(script: &Path) -> Command {
    let mut command = Command::new(interpreter());
    command.arg(script);
    with_bindings(&mut command);
    command
}

/// The interpreter with the Flux bindings in reach.
pub(crate) fn interpreter_command() -> Command {
    let mut command = Command::new(interpreter());
    with_bindings(&mut command);
    command
}

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    match words.first().map(String::as_str) {
        Some("--get-path") => {
            outln!("{}", installation::get("python_path").unwrap_or_default());
            return 0;
        }
        Some("--list-versions") => return list_versions(),
        _ => {}
    }
    let interpreter = interpreter();
    let mut command = Command::new(&interpreter);
    let error = driver::exec(with_bindings(command.args(words)));
    err!("flux: {interpreter}: {}", Errno::from_io(&error));
    1
}

fn list_versions() -> i32 {
    let path = std::env::var_os("FLUX_EXEC_PATH").unwrap_or_default();
    for dir in std::env::split_paths(&path) {
        let Ok(entries) = dir.read_dir() else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(version) = name.strip_prefix("flux-python")
                && version.starts_with(|digit: char| digit.is_ascii_digit())
            {
                outln!("{version}");
            }
        }
    }
    0
}
