//! `flux modprobe`: loading and removing modules with what they need.
//!
//! The standard set and its order are known here. `run` takes an rc file in Python, as the
//! reference has them, and needs the Python bindings of Flux for that.

use std::collections::HashSet;
use std::process::Command;

use client::Client;
use proto::Empty;
use proto::module::{Load, ModuleList, ModuleLoad, ModuleRemove, Remove, STANDARD};
use types::{Errno, Rank};

use crate::driver::{self, Invocation};
use crate::fail::{self, Fail, Outcome};
use crate::{err, outln};

const PROG: &str = "flux-modprobe";

/// The program that runs rc files.
const RUNNER: &str = include_str!("../../assets/modprobe_run.py");

const USAGE: &str = "\
usage: flux-modprobe [-h] {load,remove,run,rc1,rc3} ...

subcommands:
   load [--dry-run] MODULE...    load modules and those before them that they need
   remove [--dry-run] MODULE...  remove modules and those after them that need them
   run FILE                      run an rc file
   rc1                           load the standard modules
   rc3                           remove all modules";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let rest = words.get(1..).unwrap_or_default();
    let dry_run = rest.iter().any(|word| word == "--dry-run");
    let modules: Vec<&str> = rest
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'))
        .collect();
    match words.first().map(String::as_str) {
        Some("load") if !modules.is_empty() => fail::run(PROG, load(modules, dry_run)),
        Some("remove") if !modules.is_empty() => fail::run(PROG, remove(modules, dry_run)),
        Some("rc1") => {
            let all = STANDARD.iter().map(|module| module.name).collect();
            fail::run(PROG, load(all, dry_run))
        }
        Some("rc3") => fail::run(PROG, remove(Vec::new(), dry_run)),
        Some("run") => match modules.first() {
            Some(file) => run_file(file),
            None => usage("the following arguments are required: FILE"),
        },
        Some("-h" | "--help") => {
            outln!("{USAGE}");
            0
        }
        Some("load" | "remove") => usage("the following arguments are required: MODULE"),
        Some(word @ ("show" | "list-dependencies")) => {
            err!("{PROG}: ERROR: {word} is not implemented");
            1
        }
        Some(word) => usage(&format!(
            "argument subcommand: invalid choice: '{word}' (choose from 'load', 'remove', 'run', \
             'rc1', 'rc3')"
        )),
        None => usage("the following arguments are required: subcommand"),
    }
}

fn usage(error: &str) -> i32 {
    err!("{USAGE}");
    err!("{PROG}: error: {error}");
    2
}

async fn loaded(client: &Client, rank: Rank) -> Result<HashSet<String>, Fail> {
    let list = client.handle().call::<ModuleList>(rank, &Empty {}).await?;
    Ok(list.mods.into_iter().map(|module| module.name).collect())
}

/// The standard name of a module that may be asked for by what it provides.
fn resolve(name: &str) -> &str {
    STANDARD
        .iter()
        .find(|module| module.name == name || module.provides.contains(&name))
        .map_or(name, |module| module.name)
}

async fn load(modules: Vec<&str>, dry_run: bool) -> Outcome {
    let client = fail::connect_p().await?;
    let rank = client.rank().await?;
    let present = loaded(&client, rank).await?;
    let last = modules
        .iter()
        .filter_map(|name| {
            STANDARD
                .iter()
                .position(|module| module.name == resolve(name))
        })
        .max();
    let needed = STANDARD.iter().take(last.map_or(0, |last| last + 1));
    let needed = needed.filter(|module| rank == Rank::LEADER || !module.leader);
    let mut wanted: Vec<&str> = needed.map(|module| module.name).collect();
    for name in modules.iter().map(|name| resolve(name)) {
        if !STANDARD.iter().any(|module| module.name == name) {
            wanted.push(name);
        }
    }
    for name in wanted.into_iter().filter(|name| !present.contains(*name)) {
        if dry_run {
            outln!("load {name}");
            continue;
        }
        let load = Load {
            path: name.into(),
            name: None,
            loader: None,
            args: Vec::new(),
            exec: false,
        };
        client
            .handle()
            .call::<ModuleLoad>(rank, &load)
            .await
            .map_err(|error| Fail::of(name, error))?;
    }
    Ok(0)
}

/// Removes modules, the last loaded first; none named means all.
async fn remove(modules: Vec<&str>, dry_run: bool) -> Outcome {
    let client = fail::connect_p().await?;
    let rank = client.rank().await?;
    let present = loaded(&client, rank).await?;
    let names: Vec<&str> = modules.iter().map(|name| resolve(name)).collect();
    let first = STANDARD
        .iter()
        .position(|module| names.contains(&module.name))
        .unwrap_or(0);
    let mut gone: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !STANDARD.iter().any(|module| module.name == *name))
        .collect();
    if names.is_empty() || gone.len() < names.len() {
        gone.extend(STANDARD[first..].iter().rev().map(|module| module.name));
    }
    for name in gone
        .into_iter()
        .filter(|name| present.contains(*name) || !STANDARD.iter().any(|m| m.name == *name))
    {
        if dry_run {
            outln!("remove {name}");
            continue;
        }
        let remove = Remove {
            name: name.into(),
            cancel: false,
        };
        match client.handle().call::<ModuleRemove>(rank, &remove).await {
            Ok(_) => {}
            Err(error) => return Err(Fail::of(name, error)),
        }
    }
    Ok(0)
}

fn run_file(file: &str) -> i32 {
    if let Err(error) = std::fs::metadata(file) {
        err!("{PROG}: ERROR: {file}: {}", Errno::from_io(&error));
        return 1;
    }
    let standard = match serde_json::to_string(STANDARD) {
        Ok(standard) => standard,
        Err(error) => {
            err!("{PROG}: ERROR: {error}");
            return 1;
        }
    };
    let mut command: Command = super::python::interpreter_command();
    let error = driver::exec(command.args(["-c", RUNNER, file, &standard]));
    err!("{PROG}: ERROR: python3: {}", Errno::from_io(&error));
    1
}
