//! `flux modprobe`: loading and removing modules with what they need (flux-modprobe(1)).
//!
//! The modules and what they need are in a [`catalog`]. Files in Python, which instances may have
//! as `rc1.d` and `rc3.d`, are run by a program of their own with the Python bindings of Flux;
//! where there are none, no Python is needed.

mod catalog;
mod paths;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use client::Client;
use proto::Empty;
use proto::attr::{AttrGet, Name};
use proto::broker::{BrokerGetEnv, GetEnv};
use proto::config::ConfigGet;
use proto::module::{Load, ModuleList, ModuleLoad, ModuleRemove, Remove};
use rpc::Dest;
use serde_json::{Map, Value, json};
use types::{Errno, Rank};

use super::dispatch_argparse;
use crate::driver::{self, Invocation};
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Opt, Parser, flag};
use crate::{err, outln};
use catalog::{Catalog, Conditions, Entry, on_rank};
use paths::Finder;

const PREFIX: &str = "flux-modprobe: ERROR";

/// The program that runs rc files.
const RUNNER: &str = include_str!("../../../assets/modprobe_run.py");

const DRY_RUN: Opt = flag('\0', "dry-run", "Print what would be done and do not do it");
const VERBOSE: Opt = flag('v', "verbose", "Say more");
const SHOW_DEPS: Opt = flag(
    '\0',
    "show-deps",
    "Show what each task comes after, and exit",
);

static LOAD: Parser = Parser {
    name: "flux-modprobe load",
    usage: "[-h] [--dry-run] MODULE [MODULE ...]",
    about: "",
    family: Family::P,
    opts: &[DRY_RUN],
};

static REMOVE: Parser = Parser {
    name: "flux-modprobe remove",
    ..LOAD
};

static RUN: Parser = Parser {
    name: "flux-modprobe run",
    usage: "[-h] [-v] [--show-deps] [--dry-run] FILE",
    opts: &[VERBOSE, SHOW_DEPS, DRY_RUN],
    ..LOAD
};

static RC1: Parser = Parser {
    name: "flux-modprobe rc1",
    usage: "[-h] [-v] [--timing] [--show-deps] [--dry-run]",
    opts: &[
        VERBOSE,
        SHOW_DEPS,
        DRY_RUN,
        flag('\0', "timing", "Keep how long each task took"),
    ],
    ..LOAD
};

static RC3: Parser = Parser {
    name: "flux-modprobe rc3",
    usage: "[-h] [-v] [--show-deps] [--dry-run]",
    opts: &[VERBOSE, SHOW_DEPS, DRY_RUN],
    ..LOAD
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_argparse(
        "flux-modprobe",
        &[
            ("load", load),
            ("remove", remove),
            ("run", run_file),
            ("rc1", rc1),
            ("rc3", rc3),
            ("list-dependencies", show::list_dependencies),
            ("show", show::show),
        ],
        words,
    )
}

/// What holds in an instance.
#[derive(Default)]
struct Known {
    config: Value,
    attrs: BTreeSet<String>,
    env: BTreeSet<String>,
}

impl Conditions for Known {
    fn has_config(&self, key: &str) -> bool {
        key.split('.')
            .try_fold(&self.config, |value, key| value.get(key))
            .is_some_and(|value| !value.is_null())
    }

    fn has_attr(&self, name: &str) -> bool {
        self.attrs.contains(name)
    }

    fn has_env(&self, name: &str) -> bool {
        std::env::var_os(name).is_some() || self.env.contains(name)
    }
}

/// What keys to ask for, without the mark of those that must not be set.
fn plain<'a>(catalog: &'a Catalog, keys: impl Fn(&'a Entry) -> &'a [String]) -> BTreeSet<&'a str> {
    let keys = catalog.entries().iter().flat_map(keys);
    keys.map(|key| key.strip_prefix('!').unwrap_or(key))
        .collect()
}

/// Reads the catalog. Without an instance it is what the files say.
async fn catalog(client: Option<&Client>, verbose: bool) -> Result<Catalog, Fail> {
    let mut catalog = Catalog::standard()?;
    for file in (Finder { verbose }).module_files() {
        let text = paths::read(&file)?;
        catalog
            .add_toml(&text)
            .map_err(|error| Fail::of(file.display(), error))?;
    }
    let mut known = Known::default();
    if let Some(client) = client {
        let config = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
        known.config = Value::Object(config.await?);
        if let Some(modules) = known.config.get("modules") {
            let table = modules
                .as_object()
                .ok_or_else(|| Fail::new("[modules] is not a table"))?;
            catalog
                .update(table)
                .map_err(|error| Fail::of("[modules]", error))?;
        }
        for name in plain(&catalog, |entry| &entry.needs_attrs) {
            let name = Name { name: name.into() };
            let call = client.handle().call::<AttrGet>(Dest::Any, &name);
            match call.await {
                Ok(_) => drop(known.attrs.insert(name.name)),
                Err(error) if error.errno == Errno::ENOENT => {}
                Err(error) => return Err(Fail::of(name.name, error)),
            }
        }
        let names: Vec<String> = plain(&catalog, |entry| &entry.needs_env)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if !names.is_empty() {
            known.env = broker_env(client, names)
                .await?
                .into_iter()
                .map(|(name, _)| name)
                .collect();
        }
    }
    catalog.apply(&known);
    // The variable names tasks, too; what is no module may be one.
    let disabled = std::env::var("FLUX_MODPROBE_DISABLE").unwrap_or_default();
    for name in disabled.split(',').filter(|name| !name.is_empty()) {
        let _task = catalog.disable(name);
    }
    Ok(catalog)
}

async fn broker_env(client: &Client, names: Vec<String>) -> Result<Map<String, Value>, Fail> {
    let call = client
        .handle()
        .call::<BrokerGetEnv>(Dest::Any, &GetEnv { names });
    let found = call
        .await
        .map_err(|error| Fail::of("broker.getenv", error))?;
    Ok(found.env)
}

/// An instance and its modules.
struct Session {
    client: Client,
    rank: Rank,
    catalog: Catalog,
}

impl Session {
    async fn open(verbose: bool) -> Result<Session, Fail> {
        let client = fail::connect_p().await?;
        Ok(Session {
            rank: client.rank().await?,
            catalog: catalog(Some(&client), verbose).await?,
            client,
        })
    }

    /// The modules that are loaded, without the broker's own, which stay.
    async fn loaded(&self) -> Result<Vec<String>, Fail> {
        let list = self
            .client
            .handle()
            .call::<ModuleList>(self.rank, &Empty {});
        let modules = list.await?.mods.into_iter();
        let loaded = modules.filter(|module| module.path != "builtin");
        Ok(loaded.map(|module| module.name).collect())
    }

    fn is_here(&self, entry: &Entry) -> bool {
        // The ranks were checked when they were read.
        on_rank(&entry.ranks, self.rank.0).unwrap_or(false)
    }

    /// Loads modules in order.
    async fn load(&self, entries: &[&Entry], dry_run: bool) -> Outcome {
        for entry in entries {
            if dry_run {
                let words = std::iter::once(&entry.name).chain(&entry.args);
                let words: Vec<&str> = words.map(String::as_str).collect();
                outln!("load {}", words.join(" "));
                continue;
            }
            let load = Load {
                path: entry.module.clone(),
                name: (entry.module != entry.name).then(|| entry.name.clone()),
                loader: None,
                args: entry.args.clone(),
                exec: entry.exec,
            };
            let call = self.client.handle().call::<ModuleLoad>(self.rank, &load);
            call.await.map_err(|error| Fail::of(&entry.name, error))?;
        }
        Ok(0)
    }

    /// Removes modules in order.
    async fn remove(&self, names: &[String], dry_run: bool) -> Outcome {
        for name in names {
            if dry_run {
                outln!("remove {name}");
                continue;
            }
            let remove = Remove {
                name: name.clone(),
                cancel: false,
            };
            let call = self
                .client
                .handle()
                .call::<ModuleRemove>(self.rank, &remove);
            call.await.map_err(|error| Fail::of(name, error))?;
        }
        Ok(0)
    }

    /// Modules in the order to remove them; those nothing is known of go first.
    fn removal_order(&self, names: &BTreeSet<&str>) -> Result<Vec<String>, Fail> {
        let (known, strange): (BTreeSet<&str>, BTreeSet<&str>) = names
            .iter()
            .partition(|name| self.catalog.named(name).is_some());
        let sorted = self.catalog.sorted(known)?;
        let known = sorted.iter().rev().map(|entry| entry.name.clone());
        Ok(strange
            .into_iter()
            .map(str::to_owned)
            .chain(known)
            .collect())
    }
}

fn no_such(name: &str) -> Fail {
    Fail::new(format!("no such task or module {name}"))
}

fn load(words: &[String]) -> i32 {
    let args = match LOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return LOAD.usage_error("the following arguments are required: MODULE");
    }
    fail::run(PREFIX, async {
        let session = Session::open(false).await?;
        let catalog = &session.catalog;
        let mut asked = BTreeSet::new();
        for name in &args.words {
            let entry = catalog.resolve(name).ok_or_else(|| no_such(name))?;
            asked.insert(entry.name.as_str());
        }
        let present = session.loaded().await?;
        let mut order = catalog.load_order(asked.iter().copied())?;
        order.retain(|entry| {
            let wanted = asked.contains(entry.name.as_str())
                || (session.is_here(entry) && !catalog.is_unmet(entry));
            wanted && !present.contains(&entry.name)
        });
        if order.is_empty() {
            err!("flux-modprobe: INFO: All modules and dependencies are already loaded");
        }
        session.load(&order, args.has("dry-run")).await
    })
}

fn remove(words: &[String]) -> i32 {
    let args = match REMOVE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return REMOVE.usage_error("the following arguments are required: MODULE");
    }
    fail::run(PREFIX, async {
        let session = Session::open(false).await?;
        let present = session.loaded().await?;
        let names = if args.words.iter().any(|word| word == "all") {
            present.iter().map(String::as_str).collect()
        } else {
            unused(&session.catalog, &present, &args.words)?
        };
        let order = session.removal_order(&names)?;
        session.remove(&order, args.has("dry-run")).await
    })
}

/// Modules to remove, and those that nothing needs without them.
///
/// # Errors
///
/// Some is not loaded, or others that stay need it.
fn unused<'a>(
    catalog: &'a Catalog,
    present: &'a [String],
    words: &[String],
) -> Result<BTreeSet<&'a str>, Fail> {
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for word in words {
        let answers = |name: &&String| {
            *name == word
                || catalog
                    .named(name)
                    .is_some_and(|entry| entry.provides.contains(word))
        };
        let name = present.iter().find(answers);
        let name = name.ok_or_else(|| Fail::new(format!("module {word} is not loaded")))?;
        gone.insert(name);
    }
    let users = |name: &str, gone: &BTreeSet<&str>| -> BTreeSet<&'a str> {
        let staying = present
            .iter()
            .filter(|other| !gone.contains(other.as_str()));
        let using = staying.filter(|other| {
            catalog
                .named(other)
                .is_some_and(|other| catalog.requires(other, name))
        });
        using.map(String::as_str).collect()
    };
    for name in &gone {
        let users = users(name, &gone);
        if !users.is_empty() {
            let users: Vec<&str> = users.into_iter().collect();
            let text = format!("{name} still in use by {}", users.join(", "));
            return Err(Fail::new(text));
        }
    }
    loop {
        let idle = present.iter().map(String::as_str).find(|name| {
            let required = gone.iter().any(|other| {
                catalog
                    .named(other)
                    .is_some_and(|other| catalog.requires(other, name))
            });
            required && !gone.contains(name) && users(name, &gone).is_empty()
        });
        match idle {
            Some(name) => gone.insert(name),
            None => return Ok(gone),
        };
    }
}

fn run_file(words: &[String]) -> i32 {
    let args = match RUN.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [file] = args.words.as_slice() else {
        return RUN.usage_error("the following arguments are required: FILE");
    };
    fail::run(PREFIX, async {
        if let Err(error) = std::fs::metadata(file) {
            return Err(Fail::of(file, Errno::from_io(&error)));
        }
        let session = Session::open(args.has("verbose")).await?;
        run_python(&session, "run", &[file.into()], &args)
    })
}

fn rc1(words: &[String]) -> i32 {
    let args = match RC1.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        if args.has("timing") {
            return Err(Fail::new("--timing is not implemented"));
        }
        let mut session = Session::open(args.has("verbose")).await?;
        choose_providers(&mut session).await?;
        let files = finder(&args).rc_files("rc1");
        if !files.is_empty() || args.has("show-deps") {
            return run_python(&session, "rc1", &files, &args);
        }
        let present = session.loaded().await?;
        let wanted = session
            .catalog
            .chosen()
            .filter(|entry| session.is_here(entry));
        let mut order = session
            .catalog
            .sorted(wanted.map(|entry| entry.name.as_str()).collect())?;
        if !args.has("dry-run") {
            order.retain(|entry| !present.contains(&entry.name));
        }
        session.load(&order, args.has("dry-run")).await
    })
}

fn rc3(words: &[String]) -> i32 {
    let args = match RC3.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let session = Session::open(args.has("verbose")).await?;
        let files = finder(&args).rc_files("rc3");
        if !files.is_empty() || args.has("show-deps") {
            return run_python(&session, "rc3", &files, &args);
        }
        let present = session.loaded().await?;
        let names = present.iter().map(String::as_str).collect();
        let order = session.removal_order(&names)?;
        session.remove(&order, args.has("dry-run")).await
    })
}

fn finder(args: &Args) -> Finder {
    Finder {
        verbose: args.has("verbose"),
    }
}

/// Lets those modules provide the scheduler and the store that the environment and the attributes
/// of the broker name.
async fn choose_providers(session: &mut Session) -> Result<(), Fail> {
    const VARIABLE: &str = "FLUX_SCHED_MODULE";
    const ATTRIBUTE: &str = "content.backing-module";
    let scheduler = match std::env::var(VARIABLE) {
        Ok(module) => Some(module),
        Err(_) => {
            let env = broker_env(&session.client, vec![VARIABLE.to_owned()]).await?;
            env.get(VARIABLE).and_then(Value::as_str).map(str::to_owned)
        }
    };
    let name = ATTRIBUTE.to_owned();
    let call = session
        .client
        .handle()
        .call::<AttrGet>(Dest::Any, &Name { name });
    let store = match call.await {
        Ok(found) => Some(found.value),
        Err(error) if error.errno == Errno::ENOENT => None,
        Err(error) => return Err(Fail::of(ATTRIBUTE, error)),
    };
    for (source, service, module) in [
        (VARIABLE, "sched", scheduler),
        (ATTRIBUTE, "content-backing", store),
    ] {
        let result = match module.as_deref() {
            None | Some("") => Ok(()),
            Some("none") => session.catalog.disable(service),
            Some(module) => session.catalog.set_alternative(service, module),
        };
        result.map_err(|error| Fail::of(source, error))?;
    }
    Ok(())
}

/// Becomes the program that runs rc files.
fn run_python(session: &Session, rc: &str, files: &[PathBuf], args: &Args) -> Outcome {
    let catalog = &session.catalog;
    let chosen: BTreeSet<&str> = catalog.chosen().map(|entry| entry.name.as_str()).collect();
    let resolved = |names: &[String]| -> Vec<String> {
        let resolve = |name: &String| {
            catalog
                .resolve(name)
                .map_or_else(|| name.clone(), |entry| entry.name.clone())
        };
        names.iter().map(resolve).collect()
    };
    let modules: Vec<Value> = catalog
        .entries()
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name,
                "module": entry.module,
                "args": entry.args,
                "exec": entry.exec,
                "requires": resolved(&entry.requires),
                "before": resolved(&entry.before),
                "after": resolved(&entry.after),
                "enabled": catalog.is_enabled(entry) && session.is_here(entry),
                "chosen": chosen.contains(entry.name.as_str()),
            })
        })
        .collect();
    let services = catalog.entries().iter().flat_map(|entry| &entry.provides);
    let services: BTreeMap<&str, &str> = services
        .filter_map(|name| Some((name.as_str(), catalog.resolve(name)?.name.as_str())))
        .collect();
    let order = json!({
        "rc": rc,
        "files": files.iter().map(|file| file.to_string_lossy()).collect::<Vec<_>>(),
        "modules": modules,
        "services": services,
        "dry_run": args.has("dry-run"),
        "verbose": args.has("verbose"),
        "show_deps": args.has("show-deps"),
    });
    crate::output::flush();
    let mut command = super::python::interpreter_command();
    let error = driver::exec(command.args(["-c", RUNNER, &order.to_string()]));
    Err(Fail::of("python", Errno::from_io(&error)))
}
