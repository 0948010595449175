//! `flux modprobe`: loading and removing modules with what they need (flux-modprobe(1)).
//!
//! The modules and what they need are in a [`Catalog`]. Files in Python, which instances may have
//! as `rc1.d` and `rc3.d`, are run by a program of their own with the Python bindings of Flux;
//! where there are none, no Python is needed.

mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use client::Client;
use modprobe::{
    BACKING_MODULE, Catalog, Conditions, DISABLE, Entry, Finder, SCHED_MODULE, on_rank,
};
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
    let say = teller(verbose);
    let files = Finder { say: &say }.module_files();
    let mut catalog = Catalog::read(&files).map_err(Fail::new)?;
    let mut known = Known::default();
    if let Some(client) = client {
        let config = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
        known.config = Value::Object(config.await?);
        if let Value::Object(config) = &known.config {
            catalog.configure(config).map_err(Fail::new)?;
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
    catalog.disable_all(&std::env::var(DISABLE).unwrap_or_default());
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
        let sorted = self.catalog.sorted(known).map_err(Fail::new)?;
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
        let mut order = catalog
            .load_order(asked.iter().copied())
            .map_err(Fail::new)?;
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
        let files = rc_files(&args, "rc1");
        if !files.is_empty() || args.has("show-deps") {
            return run_python(&session, "rc1", &files, &args);
        }
        let present = session.loaded().await?;
        let mut order = session.catalog.start_order().map_err(Fail::new)?;
        order.retain(|entry| session.is_here(entry));
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
        let files = rc_files(&args, "rc3");
        if !files.is_empty() || args.has("show-deps") {
            return run_python(&session, "rc3", &files, &args);
        }
        let present = session.loaded().await?;
        let names = present.iter().map(String::as_str).collect();
        let order = session.removal_order(&names)?;
        session.remove(&order, args.has("dry-run")).await
    })
}

/// The files of `rc1` or `rc3`.
fn rc_files(args: &Args, rc: &str) -> Vec<PathBuf> {
    let say = teller(args.has("verbose"));
    Finder { say: &say }.rc_files(rc)
}

/// Prints where files are looked for and found, if that is wanted.
fn teller(verbose: bool) -> impl Fn(&str, &Path) {
    move |what, path| {
        if verbose {
            outln!("{what} {}", path.display());
        }
    }
}

/// Lets those modules provide the scheduler and the store that the environment and the attributes
/// of the broker name.
async fn choose_providers(session: &mut Session) -> Result<(), Fail> {
    let scheduler = match std::env::var(SCHED_MODULE) {
        Ok(module) => module,
        Err(_) => {
            let names = vec![SCHED_MODULE.to_owned()];
            let env = broker_env(&session.client, names).await?;
            let module = env.get(SCHED_MODULE).and_then(Value::as_str);
            module.unwrap_or_default().to_owned()
        }
    };
    let catalog = &mut session.catalog;
    catalog.choose_scheduler(&scheduler).map_err(Fail::new)?;
    let name = BACKING_MODULE.to_owned();
    let handle = session.client.handle();
    match handle.call::<AttrGet>(Dest::Any, &Name { name }).await {
        Ok(store) => catalog.choose_store(&store.value).map_err(Fail::new),
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        Err(error) => Err(Fail::of(BACKING_MODULE, error)),
    }
}

/// Becomes the program that runs rc files.
fn run_python(session: &Session, rc: &str, files: &[PathBuf], args: &Args) -> Outcome {
    let catalog = &session.catalog;
    let chosen = catalog.start_order().map_err(Fail::new)?;
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
                "chosen": chosen.iter().any(|other| other.name == entry.name),
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
