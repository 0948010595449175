//! `flux module`: broker modules.

use std::path::Path;

use proto::Empty;
use proto::broker::{
    Debug, RusageWho, ServiceDebug, ServiceRusage, ServiceStats, ServiceStatsClear,
};
use proto::module::{Load, Module, ModuleList, ModuleLoad, ModuleRemove, Remove, name_of};
use proto::trace::{ModuleTrace, TraceModules};
use rpc::Dest;
use serde_json::Value;
use types::Errno;
use wire::{Flags, Message};

use super::trace as messages;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::json;
use crate::options::{Args, Family, Opt, Parser, arg, flag, maybe};
use crate::{err, outln};

const PROG: &str = "flux-module";

static SUBS: &[super::Sub] = &[
    ("list", "List modules", list),
    ("load", "Load a module", load),
    ("remove", "Remove a module", remove),
    ("unload", "", remove),
    ("reload", "Remove and load a module", reload),
    ("stats", "Show a module's counters", stats),
    ("debug", "Show and change a module's debug bits", debug),
    ("trace", "Show messages of modules", trace),
    // Older names.
    ("ls", "", list),
    ("insmod", "", load),
    ("rmmod", "", remove),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let known = |word: &String| SUBS.iter().any(|(sub, ..)| sub == word);
    match words.first() {
        Some(word) if known(word) => {
            super::dispatch_listed(PROG, "flux module subcommands:", SUBS, words)
        }
        Some(word) if word == "-h" || word == "--help" => {
            super::dispatch_listed(PROG, "flux module subcommands:", SUBS, &[])
        }
        other => {
            match other {
                Some(word) => err!("{PROG}: Unknown subcommand: {word}"),
                None => err!("{PROG}: missing subcommand"),
            }
            err!("Usage: flux-module COMMAND [OPTIONS]");
            err!("  -h, --help             Display this message.");
            1
        }
    }
}

static LIST: Parser = Parser {
    name: "flux-module list",
    usage: "[OPTIONS]",
    about: "List loaded modules",
    family: Family::G,
    opts: &[flag('l', "long", "Show where each module came from")],
};

fn list(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return LIST.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let call = client.handle().call::<ModuleList>(Dest::Any, &Empty {});
        let list = call.await.map_err(|error| Fail::of("list", error))?;
        let long = args.has("long");
        outln!(
            "{:<25.25} {:>4}  S Sendq Recvq Service{}",
            "Module",
            "Idle",
            if long { "  Path" } else { "" }
        );
        for module in &list.mods {
            outln!("{}", row(module, long));
        }
        Ok(0)
    })
}

fn row(module: &Module, long: bool) -> String {
    let idle = if module.idle > 99 {
        "idle".to_owned()
    } else {
        module.idle.to_string()
    };
    let state = match module.status {
        0 => 'I',
        1 => 'R',
        2 => 'F',
        3 => 'X',
        _ => '?',
    };
    let services: Vec<&str> = module
        .services
        .iter()
        .map(String::as_str)
        .filter(|service| *service != module.name)
        .collect();
    let mut services = services.join(",");
    let head = format!(
        "{:<25.25} {idle:>4}  {state} {:>5} {:>5}",
        module.name, module.sendqueue, module.recvqueue
    );
    if !long {
        return format!("{head} {services}");
    }
    if services.chars().count() > 8 {
        services = services.chars().take(7).collect::<String>() + "+";
    }
    format!("{head} {services:<8} {}", module.path)
}

const NAME: Opt = arg('\0', "name", "NAME", "Give the module another name");
const EXEC: Opt = flag('\0', "exec", "Run the module as a process of its own");
const LOADER: Opt = arg('\0', "loader", "PATH", "Load it with this program");
const FORCE: Opt = flag('f', "force", "Do not fail if it is not loaded");
const CANCEL: Opt = flag('\0', "cancel", "Stop the module without asking it");

static LOAD: Parser = Parser {
    name: "flux-module load",
    usage: "[OPTIONS] module",
    about: "Load module",
    family: Family::G,
    opts: &[NAME, EXEC, LOADER],
};

/// A module's path as the broker wants it: names stay, paths become absolute.
fn canonical(module: &str) -> Result<String, Fail> {
    if !module.contains('/') && !module.contains(".so") {
        return Ok(module.to_owned());
    }
    let path = Path::new(module).canonicalize();
    let path = path.map_err(|error| {
        let what = format!("could not canonicalize module path '{module}'");
        Fail::of(what, Errno::from_io(&error))
    })?;
    Ok(path.display().to_string())
}

async fn load_module(client: &client::Client, args: &Args) -> Result<(), Fail> {
    let (module, rest) = args.words.split_first().ok_or(Fail::silent(1))?;
    let request = Load {
        path: canonical(module)?,
        name: args.get("name").map(str::to_owned),
        loader: args.get("loader").map(str::to_owned),
        args: rest.to_vec(),
        exec: args.has("exec"),
    };
    let call = client.handle().call::<ModuleLoad>(Dest::Any, &request);
    call.await
        .map_err(|error| Fail::of(format!("load {module}"), error))?;
    Ok(())
}

async fn remove_module(client: &client::Client, name: &str, args: &Args) -> Result<(), Fail> {
    let request = Remove {
        name: name.to_owned(),
        cancel: args.has("cancel"),
    };
    let call = client.handle().call::<ModuleRemove>(Dest::Any, &request);
    match call.await {
        Err(error) if error.errno == Errno::ENOENT && args.has("force") => Ok(()),
        Err(error) => Err(Fail::of(format!("remove {name}"), error)),
        Ok(_) => Ok(()),
    }
}

fn load(words: &[String]) -> i32 {
    let args = match LOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return LOAD.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        load_module(&client, &args).await?;
        Ok(0)
    })
}

static REMOVE: Parser = Parser {
    name: "flux-module remove",
    usage: "[OPTIONS] module",
    about: "Unload module",
    family: Family::G,
    opts: &[FORCE, CANCEL],
};

fn remove(words: &[String]) -> i32 {
    let args = match REMOVE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [module] = args.words.as_slice() else {
        return REMOVE.wrong_words();
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        remove_module(&client, module, &args).await?;
        Ok(0)
    })
}

static RELOAD: Parser = Parser {
    name: "flux-module reload",
    usage: "[OPTIONS] module [module-args...]",
    about: "Reload module",
    family: Family::G,
    opts: &[NAME, EXEC, LOADER, FORCE, CANCEL],
};

fn reload(words: &[String]) -> i32 {
    let args = match RELOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let Some(module) = args.words.first() else {
        return RELOAD.wrong_words();
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let name = args
            .get("name")
            .unwrap_or_else(|| name_of(module))
            .to_owned();
        remove_module(&client, &name, &args).await?;
        load_module(&client, &args).await?;
        Ok(0)
    })
}

static STATS: Parser = Parser {
    name: "flux-module stats",
    usage: "[OPTIONS] module",
    about: "Display stats on module",
    family: Family::G,
    opts: &[
        arg(
            'p',
            "parse",
            "OBJNAME",
            "Show one value; periods lead into objects",
        ),
        arg('s', "scale", "N", "Multiply the value by N"),
        arg('t', "type", "int|double", "How to show the value"),
        maybe(
            'R',
            "rusage",
            "self|children|thread",
            "Show resource use instead",
        ),
        flag('c', "clear", "Clear the counters"),
        flag('C', "clear-all", "Clear the counters on every rank"),
    ],
};

fn stats(words: &[String]) -> i32 {
    let args = match STATS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [module] = args.words.as_slice() else {
        return STATS.wrong_words();
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let handle = client.handle();
        if args.has("clear") {
            let call = handle.call_service::<ServiceStatsClear>(module, Dest::Any, &Empty {});
            call.await.map_err(|error| Fail::of(module, error))?;
            return Ok(0);
        }
        if args.has("clear-all") {
            let topic = format!("{module}.stats-clear");
            handle.send(Message::event(topic.into()).with_flags(Flags::NONE));
            client.flush().await;
            client.attr("rank").await?;
            return Ok(0);
        }
        let object = if args.has("rusage") {
            let who = RusageWho {
                who: args.get("rusage").map(str::to_owned),
            };
            let call = handle.call_service::<ServiceRusage>(module, Dest::Any, &who);
            call.await
                .map_err(|error| Fail::of(format!("{module}.rusage"), error))?
        } else {
            let call = handle.call_service::<ServiceStats>(module, Dest::Any, &Empty {});
            call.await
                .map_err(|error| Fail::of(format!("{module}.stats-get"), error))?
        };
        show_stats(&args, Value::Object(object))?;
        Ok(0)
    })
}

fn show_stats(args: &Args, object: Value) -> Result<(), Fail> {
    let mut value = &object;
    if let Some(path) = args.get("parse") {
        for name in path.split('.') {
            value = value
                .get(name)
                .ok_or_else(|| Fail::new(format!("`{path}' not found in response")))?;
        }
    }
    let scale = args.float("scale")?.unwrap_or(1.0);
    let number = value.as_f64().map(|number| number * scale);
    match (args.get("type"), number) {
        (Some("int"), Some(number)) => outln!("{}", number as i64),
        (Some("double"), Some(number)) => outln!("{number:.6}"),
        (Some("int" | "double") | None, _) => match (value, number) {
            (Value::Number(raw), Some(number)) if raw.is_f64() => outln!("{number:.6}"),
            (Value::Number(_), Some(number)) => outln!("{}", number as i64),
            (Value::String(text), _) => outln!("{text}"),
            _ => outln!("{}", json::indented(value)),
        },
        (Some(_), _) => return Err(Fail::new("type must be 'int' or 'double'")),
    }
    Ok(())
}

static DEBUG: Parser = Parser {
    name: "flux-module debug",
    usage: "[OPTIONS] module",
    about: "Get/set module debug flags",
    family: Family::G,
    opts: &[
        flag('C', "clear", "Clear all bits"),
        arg('S', "set", "MASK", "Set all bits to MASK"),
        arg('c', "clearbit", "MASK", "Clear these bits"),
        arg('s', "setbit", "MASK", "Set these bits"),
    ],
};

fn debug(words: &[String]) -> i32 {
    let args = match DEBUG.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [module] = args.words.as_slice() else {
        err!("{PROG}: flux-debug requires service argument");
        return 1;
    };
    fail::run(PROG, async {
        let mask = |key: &str| -> Result<i32, Fail> {
            let text = args.get(key).unwrap_or("0");
            let parsed = match text.strip_prefix("0x") {
                Some(hex) => i32::from_str_radix(hex, 16),
                None => text.parse(),
            };
            parsed.map_err(|_| Fail::new(format!("invalid mask: {text}")))
        };
        let (op, flags) = if args.has("clear") {
            ("clr", 0)
        } else if args.has("set") {
            ("set", mask("set")?)
        } else if args.has("clearbit") {
            ("clrbit", mask("clearbit")?)
        } else {
            ("setbit", mask("setbit")?)
        };
        let client = fail::connect().await?;
        let request = Debug {
            op: op.to_owned(),
            flags,
        };
        let call = client
            .handle()
            .call_service::<ServiceDebug>(module, Dest::Any, &request);
        let reply = call
            .await
            .map_err(|error| Fail::of(format!("{module}.debug"), error.errno))?;
        outln!("{:#x}", reply.flags);
        Ok(0)
    })
}

static TRACE: Parser = Parser {
    name: "flux-module trace",
    usage: "[OPTIONS] [module module...]",
    about: "Trace module messages",
    family: Family::G,
    opts: &[
        messages::FULL,
        arg('T', "topic", "GLOB", "Only topics that match this pattern"),
        messages::TYPE,
        messages::COLOR,
        messages::HUMAN,
        messages::DELTA,
    ],
};

fn trace(words: &[String]) -> i32 {
    let asked = || {
        let args = TRACE.parse(words)?;
        let view = messages::View::new(PROG, &args, Some(&args.words))?;
        let request = TraceModules {
            names: args.words.clone(),
            typemask: messages::typemask(PROG, &args)?,
            topic_glob: args.get("topic").unwrap_or("*").to_owned(),
            full: args.has("full"),
        };
        Ok((view, request))
    };
    let (view, request) = match asked() {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        view.show::<ModuleTrace>(&client, &request).await
    })
}
