//! `flux version`, `flux env` and `flux help`.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use types::{Errno, installation};

use crate::driver::{self, Invocation};
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};
use crate::{err, outln};

static VERSION: Parser = Parser {
    name: "flux version",
    usage: "",
    about: "Display flux version information",
    family: Family::G,
    opts: &[],
};

pub(crate) fn version(_: &Invocation<'_>, words: &[String]) -> i32 {
    match VERSION.parse(words) {
        Ok(_) => run(),
        Err(status) => status,
    }
}

/// Prints the versions.
pub(crate) fn run() -> i32 {
    let version = proto::VERSION;
    outln!("commands:    \t\t{version}");
    outln!("libflux-core:\t\t{version}");
    let mut status = 0;
    if let Ok(uri) = std::env::var("FLUX_URI") {
        status = fail::run("flux-version", async {
            let client = fail::connect_builtin().await?;
            let broker = client
                .attr("version")
                .await
                .map_err(|error| Fail::of("version", error))?;
            outln!("broker:  \t\t{broker}");
            outln!("FLUX_URI:\t\t{uri}");
            Ok(0)
        });
    }
    if status == 0 {
        outln!("build-options:\t\t+rust");
    }
    status
}

pub(crate) fn env(invocation: &Invocation<'_>, words: &[String]) -> i32 {
    if matches!(words.first().map(String::as_str), Some("-h" | "--help")) {
        err!("Usage: flux env [COMMAND ARGS...]");
        return 0;
    }
    let python_path = {
        let own = installation::get("python_path").unwrap_or_default();
        match invocation.environment.get("PYTHONPATH") {
            Some(path) if !path.is_empty() => format!("{own}:{path}"),
            _ => own,
        }
    };
    let words = match words {
        [marker, rest @ ..] if marker == "--" => rest,
        [option, ..] if option.starts_with('-') => {
            err!("flux env: unrecognized option '{option}'");
            err!("Try `flux env --help' for more information.");
            return 1;
        }
        _ => words,
    };
    let Some((program, args)) = words.split_first() else {
        for (name, value) in invocation.environment.iter() {
            if name != "PYTHONPATH" {
                outln!("export {name}=\"{value}\"");
            }
        }
        outln!("export PYTHONPATH=\"{python_path}\"");
        return 0;
    };
    let mut command = Command::new(program);
    let error = driver::exec(command.args(args).env("PYTHONPATH", python_path));
    let errno = Errno::from_io(&error);
    err!("flux: execvp ({program}): {errno}");
    1
}

pub(crate) fn help(_: &Invocation<'_>, words: &[String]) -> i32 {
    let topic = match words.first().map(String::as_str) {
        None => return driver::usage(),
        Some("-h" | "--help") => {
            err!("Usage: flux help [OPTIONS...] [COMMAND...]");
            return 0;
        }
        Some(topic) => topic,
    };
    let marker = installation::get("no_docs_path").unwrap_or_default();
    if std::path::Path::new(&marker).exists() && std::env::var_os("FLUX_IGNORE_NO_DOCS").is_none() {
        err!("flux: flux manual pages not built");
        return 1;
    }
    let page = if topic.starts_with("flux") {
        topic.to_owned()
    } else {
        format!("flux-{topic}")
    };
    match Command::new("man").arg(page).status() {
        Ok(status) => status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
        Err(error) => {
            err!("flux: man: {}", Errno::from_io(&error));
            1
        }
    }
}
