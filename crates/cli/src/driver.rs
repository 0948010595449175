//! The `flux` driver: its own options, the environment, and which command to run.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use types::{Errno, installation};

use crate::environment::Environment;
use crate::options::{Family, Parser, flag};
use crate::{Program, commands, err, fail, out, outln, output};

static PARSER: Parser = Parser {
    name: "flux",
    usage: "[OPTIONS] COMMAND ARGS",
    about: "",
    family: Family::G,
    opts: &[
        flag(
            'v',
            "verbose",
            "Show the environment and how the command is found",
        ),
        flag('V', "version", "Show version information"),
        flag('p', "parent", "Run the command in the enclosing instance"),
        flag('r', "root", "Run the command in the outermost instance"),
    ],
};

/// The farthest a word may be from a command to be suggested for it.
const SUGGEST_DISTANCE_MAX: usize = 3;
/// The most suggestions.
const SUGGEST_MAX: usize = 3;

/// Commands that the reference has and we do not have yet.
const NOT_BUILT: &[&str] = &["tree"];

/// How a command sees its environment.
pub(crate) struct Invocation<'a> {
    /// What the driver prepared.
    pub(crate) environment: &'a Environment,
}

pub(crate) fn main(args: Vec<OsString>, extra: &[(&str, Program)]) -> ExitCode {
    let mut args = args.into_iter();
    let argv0 = args.next().unwrap_or_else(|| "flux".into());
    let raw: Vec<OsString> = args.collect();
    let words: Vec<String> = raw
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let own = words
        .iter()
        .position(|word| !word.starts_with('-'))
        .unwrap_or(words.len());
    if words[..own]
        .iter()
        .any(|word| word == "-h" || word == "--help")
    {
        show_help();
        return ExitCode::SUCCESS;
    }
    let parsed = match PARSER.parse(&words[..own]) {
        Ok(parsed) => parsed,
        Err(status) => return exit_code(status),
    };
    let mut environment = Environment::prepare(&argv0);
    let up = if parsed.has("root") {
        usize::MAX
    } else {
        parsed.count("parent")
    };
    if up > 0
        && let Err(fail) = enclosing(&mut environment, up)
    {
        return exit_code(fail::report("flux", Err(fail)));
    }
    environment.apply();
    let verbose = parsed.has("verbose");
    if verbose {
        for (name, value) in environment.iter() {
            outln!("{name}={value}");
        }
    }
    if parsed.has("version") {
        return exit_code(commands::version::run());
    }
    let mut rest = raw.into_iter().skip(own);
    let mut words = words.into_iter().skip(own);
    let (Some(mut raw_name), Some(mut name)) = (rest.next(), words.next()) else {
        show_help();
        return ExitCode::FAILURE;
    };
    if name == "mini" {
        // An old prefix of the submission commands.
        match (rest.next(), words.next()) {
            (Some(next_raw), Some(next)) => (raw_name, name) = (next_raw, next),
            _ => {
                err!("flux: mini: missing subcommand");
                return ExitCode::FAILURE;
            }
        }
    }
    if let Some((_, program)) = extra.iter().find(|(extra, _)| *extra == name) {
        output::flush();
        return program(std::iter::once(raw_name).chain(rest).collect());
    }
    let invocation = Invocation {
        environment: &environment,
    };
    if let Some(run) = commands::find(&name) {
        // Something else would be stored, run or looked for than what was asked for.
        if let Some(word) = rest.find(|word| word.to_str().is_none()) {
            let shown = word.as_encoded_bytes().escape_ascii();
            err!("flux-{name}: argument is not UTF-8: {shown}");
            return ExitCode::FAILURE;
        }
        return exit_code(run(&invocation, &words.collect::<Vec<_>>()));
    }
    external(&raw_name, &name, rest.collect(), verbose, extra)
}

fn exit_code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status & 0xff).unwrap_or(1))
}

/// Directs the environment at an enclosing instance.
fn enclosing(environment: &mut Environment, up: usize) -> Result<(), fail::Fail> {
    let found = client::run(async {
        let mut uri: Option<String> = None;
        let mut namespace = None;
        for _ in 0..up {
            let client = client::open(uri.as_deref())
                .await
                .map_err(|error| fail::Fail::of("flux_open", error.errno))?;
            match client.attr("parent-uri").await {
                Ok(parent) => uri = Some(parent),
                Err(error) if error.errno == Errno::ENOENT => break,
                Err(error) => return Err(fail::Fail::from(error)),
            }
            namespace = client.attr("parent-kvs-namespace").await.ok();
        }
        Ok((uri, namespace))
    });
    let (uri, namespace) = found.map_err(|error| fail::Fail::new(error.to_string()))??;
    if let Some(uri) = uri {
        environment.set("FLUX_URI", uri);
        match namespace {
            Some(namespace) => environment.set("FLUX_KVS_NAMESPACE", namespace),
            None => environment.unset("FLUX_KVS_NAMESPACE"),
        }
    }
    Ok(())
}

fn exec_path() -> Vec<PathBuf> {
    ["FLUX_EXEC_PATH", "PATH"]
        .iter()
        .filter_map(std::env::var_os)
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .collect()
}

pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Replaces this process by a command that is a program of its own.
fn external(
    raw_name: &OsStr,
    name: &str,
    args: Vec<OsString>,
    verbose: bool,
    extra: &[(&str, Program)],
) -> ExitCode {
    if name.contains('/') {
        let error = exec(Command::new(raw_name).args(&args));
        err!("flux: {name}: {}", Errno::from_io(&error));
        return ExitCode::FAILURE;
    }
    let path = exec_path();
    if verbose {
        let text: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
        outln!("sub-command search path: {}", text.join(":"));
    }
    for dir in &path {
        let script = dir.join(format!("flux-{name}.py"));
        let program = dir.join(format!("flux-{name}"));
        if verbose {
            err!("flux: trying to exec {}", script.display());
        }
        if is_executable(&script) {
            exec(commands::python::command(&script).args(&args));
        }
        if verbose {
            err!("flux: trying to exec {}", program.display());
        }
        if is_executable(&program) {
            exec(Command::new(&program).args(&args));
        }
    }
    if NOT_BUILT.contains(&name) {
        err!("flux: {name}: this command is not implemented");
        return ExitCode::FAILURE;
    }
    err!("flux: `{name}' is not a flux command.  See 'flux --help'");
    suggest(name, &path, extra);
    ExitCode::FAILURE
}

/// Replaces this process; only returns on failure.
pub(crate) fn exec(command: &mut Command) -> std::io::Error {
    output::flush();
    command.exec()
}

fn suggest(name: &str, path: &[PathBuf], extra: &[(&str, Program)]) {
    let mut names: Vec<String> = commands::names().map(str::to_owned).collect();
    names.extend(extra.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(NOT_BUILT.iter().map(|name| (*name).to_owned()));
    for dir in path {
        let Ok(entries) = dir.read_dir() else {
            continue;
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(command) = file.to_str().and_then(|file| file.strip_prefix("flux-")) else {
                continue;
            };
            if is_executable(&entry.path()) {
                names.push(command.strip_suffix(".py").unwrap_or(command).to_owned());
            }
        }
    }
    let mut scored: Vec<(usize, &String)> = Vec::new();
    for candidate in &names {
        if candidate == name || scored.iter().any(|(_, known)| *known == candidate) {
            continue;
        }
        let mut score = distance(name, candidate);
        if candidate.starts_with(name) {
            score = if name.len() >= 5 { 0 } else { score - 1 };
        }
        scored.push((score, candidate));
    }
    let Some(best) = scored.iter().map(|(score, _)| *score).min() else {
        return;
    };
    if best > SUGGEST_DISTANCE_MAX {
        return;
    }
    let mut best: Vec<_> = scored
        .into_iter()
        .filter(|(score, _)| *score == best)
        .map(|(_, name)| name)
        .collect();
    best.sort();
    best.truncate(SUGGEST_MAX);
    if best.len() == 1 {
        err!("flux: The most similar command is");
    } else {
        err!("flux: The most similar commands are");
    }
    for name in best {
        err!("flux: \t{name}");
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn show_help() {
    let text = PARSER.help_text();
    output::error_bytes(text.as_bytes());
    output::error_bytes(help_listing().as_bytes());
}

/// What the installation says about its commands, and what we know of our own.
fn help_listing() -> String {
    let mut patterns = installation::get("cmdhelp_pattern").unwrap_or_default();
    if let Ok(more) = std::env::var("FLUX_CMDHELP_PATTERN") {
        patterns = format!("{patterns}:{more}");
    }
    let mut text = String::new();
    for file in patterns.split(':').flat_map(glob_json) {
        let Ok(bytes) = std::fs::read(&file) else {
            continue;
        };
        let Ok(serde_json::Value::Array(categories)) = serde_json::from_slice(&bytes) else {
            err!("flux: {}: not a list of commands", file.display());
            continue;
        };
        for category in &categories {
            let string = |value: &serde_json::Value, key: &str| {
                value[key].as_str().unwrap_or_default().to_owned()
            };
            text.push_str(&format!("\n{}\n", string(category, "description")));
            for command in category["commands"].as_array().into_iter().flatten() {
                let row = format!(
                    "   {:<18}{}\n",
                    string(command, "name"),
                    string(command, "description")
                );
                text.push_str(&row);
            }
        }
    }
    if text.is_empty() {
        text.push_str("\nCommands:\n");
        for (name, about) in commands::summary() {
            text.push_str(&format!("   {name:<18}{about}\n"));
        }
    }
    text.push_str("\nSee 'flux help COMMAND' for more information about a specific command.\n");
    text
}

/// The files a pattern `DIR/PREFIX*SUFFIX` means, sorted.
fn glob_json(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Vec::new();
    };
    let Some((prefix, suffix)) = name.split_once('*') else {
        return vec![path.to_path_buf()];
    };
    let Ok(entries) = dir.read_dir() else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str()
                .is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// Prints the driver's usage, as `flux help` does.
pub(crate) fn usage() -> i32 {
    out!("{}", PARSER.help_text());
    out!("{}", help_listing());
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("geta", "gc"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("job", "jobs"), 1);
    }
}
