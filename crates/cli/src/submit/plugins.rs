//! Plugins of the submission commands: classes in Python that add options and change jobspecs.
//!
//! Nothing of Python is touched where there are no plugins. Otherwise one interpreter, `host.py`,
//! has them all. It works on a copy of the command line, and tells what they changed in it.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use types::cli_plugins;

use crate::fail::Fail;
use crate::interpreter::Interpreter;
use crate::options::{self, Arg, Args, Opt, Parser};
use crate::outln;

const HOST: &str = include_str!("plugins/host.py");

/// The heading of plugins' options in help.
pub(super) const SECTION: &str =
    "Options provided by plugins (--help=OPTION for extended plugin documentation)";

/// What is told of the options that come with the commands.
const SHAPE_HELP: &str = "Takes the resources from a job shape (RFC 46), or from the `resources` \
section of a jobspec, in place of the options that ask for nodes, tasks, cores and GPUs.";

#[derive(Deserialize)]
struct Listed {
    name: String,
    path: String,
    options: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    argument: Argument,
    metavar: String,
    help: String,
    raw_help: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Argument {
    None,
    Maybe,
    One,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Parsed {
    Usage(String),
    Changed(Map<String, Value>),
}

/// Loads plugins for a command. `quiet` keeps what they print from standard output.
fn load(prog: &str, files: &[PathBuf], quiet: bool) -> Result<(Interpreter, Vec<Listed>), String> {
    let mut host = Interpreter::start(HOST)?;
    let question = json!({"call": "load", "prog": prog, "files": files, "quiet": quiet});
    let listed = host.ask(&question)?;
    Ok((host, listed))
}

/// Plugins as a validator has them.
pub(crate) struct Validators(Interpreter);

impl Validators {
    /// Loads the plugins there are, if any.
    pub(crate) fn load(prog: &str) -> Result<Option<Validators>, String> {
        let directories = cli_plugins::directories().unwrap_or_default();
        let files = cli_plugins::files(&directories);
        if files.is_empty() {
            return Ok(None);
        }
        let (host, _) = load(prog, &files, true)?;
        Ok(Some(Validators(host)))
    }

    /// Lets plugins check a jobspec. The error is what the first to refuse it says.
    pub(crate) fn check(&mut self, jobspec: &Value) -> Result<(), String> {
        self.0.ask(&json!({"call": "validate", "jobspec": jobspec}))
    }
}

/// The plugins of a command.
pub(super) struct Plugins {
    parser: &'static Parser,
    /// Where they were looked for; `None` if only what comes with the commands counts.
    path: Option<Vec<PathBuf>>,
    listed: Vec<Listed>,
    host: Option<Interpreter>,
}

impl Plugins {
    /// Loads the plugins there are for a command.
    ///
    /// # Errors
    ///
    /// A plugin could not be loaded, or has an option of the command's.
    pub(super) fn load(command: &'static Parser) -> Result<Plugins, Fail> {
        let path = cli_plugins::directories();
        let files = cli_plugins::files(path.as_deref().unwrap_or_default());
        let mut plugins = Plugins {
            parser: command,
            path,
            listed: Vec::new(),
            host: None,
        };
        if files.is_empty() {
            return Ok(plugins);
        }
        let (host, listed) = load(command.name, &files, false).map_err(Fail::new)?;
        plugins.host = Some(host);
        plugins.listed = listed;
        let added = plugins.listed.iter().flat_map(|plugin| &plugin.options);
        // Help has our own among those of plugins, and last.
        let (own, mut opts): (Vec<Opt>, _) = command.opts.iter().partition(|opt| is_own(opt));
        for option in added {
            let name = option.name.trim_start_matches('-');
            if opts.iter().chain(&own).any(|opt| opt.long == name) {
                let name = &option.name;
                let text = format!("argument {name}: conflicting option string: {name}");
                return Err(Fail::new(text));
            }
            opts.push(option.opt());
        }
        opts.extend(own);
        // A command parses its words once or twice, and then it ends.
        plugins.parser = Box::leak(Box::new(Parser {
            opts: Vec::leak(opts),
            ..*command
        }));
        Ok(plugins)
    }

    /// The command's parser, with the plugins' options.
    pub(super) fn parser(&self) -> &'static Parser {
        self.parser
    }

    /// Lists the plugins.
    pub(super) fn list(&self) {
        outln!("Options provided by plugins:");
        match &self.path {
            None => outln!("  Searched only flux.cli.plugins namespace"),
            Some(path) => {
                let path: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
                outln!("  Search path: {}", path.join(":"));
                outln!("  (plus flux.cli.plugins namespace)");
            }
        }
        for Listed {
            name,
            path,
            options,
        } in &self.listed
        {
            outln!("\n{name} loaded from {path}");
            for Described { name, raw_help, .. } in options {
                outln!("  {name:<20}  {raw_help}");
            }
        }
        outln!("\nShapePlugin loaded from flux (built in)");
        for opt in self.parser.opts.iter().filter(|opt| is_own(opt)) {
            outln!("  {:<20}  {}", format!("--{}", opt.long), opt.help);
        }
        outln!();
    }

    /// Shows what there is to say of a plugin's option.
    pub(super) fn tell(&mut self, topic: &str) -> Result<(), Fail> {
        let name = format!("--{}", topic.trim_start_matches('-'));
        if self
            .parser
            .opts
            .iter()
            .any(|opt| is_own(opt) && name[2..] == *opt.long)
        {
            outln!("\nDocumentation for plugin providing option `{name}`:\n");
            outln!("{SHAPE_HELP}");
            return Ok(());
        }
        let question = json!({"call": "tell", "option": name});
        match self.ask::<bool>(&question)? {
            Some(true) => Ok(()),
            _ => Err(Fail::new(format!("--help: no such option {topic}"))),
        }
    }

    fn ask<A: serde::de::DeserializeOwned>(&mut self, question: &Value) -> Result<Option<A>, Fail> {
        match &mut self.host {
            Some(host) => host.ask(question).map(Some).map_err(Fail::new),
            None => Ok(None),
        }
    }

    /// Shows plugins the command line, which they may change.
    ///
    /// # Errors
    ///
    /// A plugin refuses it, or an argument of one of its options is wrong.
    pub(super) fn preinit(&mut self, args: &mut Args) -> Result<(), Fail> {
        if self.host.is_none() {
            return Ok(());
        }
        let question = json!({
            "call": "preinit",
            "base": namespace(args),
            "words": self.own_words(args),
        });
        match self.ask(&question)? {
            None => Ok(()),
            Some(Parsed::Usage(text)) => Err(Fail::silent(self.parser.usage_error(&text))),
            Some(Parsed::Changed(changed)) => apply(args, &changed),
        }
    }

    /// The plugins' part of a command line.
    fn own_words(&self, args: &Args) -> Vec<String> {
        let known = |opt: &Opt| {
            let mut options = self.listed.iter().flat_map(|plugin| &plugin.options);
            options.any(|option| option.name[2..] == *opt.long)
        };
        let given = args.given().filter(|(opt, _)| known(opt));
        let word = |(opt, value): (&Opt, Option<&str>)| match value {
            Some(value) => format!("--{}={value}", opt.long),
            None => format!("--{}", opt.long),
        };
        given.map(word).collect()
    }

    /// Lets plugins change a jobspec.
    ///
    /// # Errors
    ///
    /// A plugin refuses it.
    pub(super) fn modify(&mut self, jobspec: Value) -> Result<Value, Fail> {
        if self.host.is_none() {
            return Ok(jobspec);
        }
        let question = json!({"call": "modify", "jobspec": jobspec});
        Ok(self.ask(&question)?.unwrap_or(jobspec))
    }
}

impl Described {
    fn opt(&self) -> Opt {
        let text = |text: &str| -> &'static str { String::leak(text.to_owned()) };
        let long = text(self.name.trim_start_matches('-'));
        let help = text(&self.help);
        let metavar = text(&self.metavar);
        let opt = match self.argument {
            Argument::None => options::flag('\0', long, help),
            Argument::Maybe => options::maybe('\0', long, metavar, help),
            Argument::One => options::arg('\0', long, metavar, help),
        };
        opt.under(SECTION)
    }
}

/// Whether an option of the command's own stands among those of plugins.
fn is_own(opt: &Opt) -> bool {
    matches!(opt.long, "resources-shape" | "resources-json")
}

/// Options that may be given several times, and are a list for plugins.
const LISTS: &[&str] = &[
    "setopt",
    "setattr",
    "add-file",
    "dependency",
    "requires",
    "env",
    "env-remove",
    "env-file",
    "rlimit",
    "conf",
    "broker-opts",
    "define",
];
/// Options that are numbers for plugins, and what they are if not given.
const NUMBERS: &[(&str, Option<i64>)] = &[
    ("add-brokers", Some(0)),
    ("nslots", None),
    ("cores-per-slot", Some(1)),
    ("gpus-per-slot", None),
];
/// Options that help leaves out and plugins see.
const SEEN_THOUGH_HIDDEN: &[&str] = &["add-brokers", "debug-emulate"];
const URGENCY_DEFAULT: &str = "16";

/// What a command calls its other words.
fn words_name(parser: &Parser) -> &'static str {
    match parser.name {
        "flux batch" => "SCRIPT",
        "flux alloc" => "COMMAND",
        _ => "command",
    }
}

/// A command line as argparse has it, without plugins' options.
fn namespace(args: &Args) -> Map<String, Value> {
    let mut map = Map::new();
    for opt in args.parser().opts {
        let is_alias = opt.hidden && !SEEN_THOUGH_HIDDEN.contains(&opt.long);
        if is_alias || opt.section == SECTION && !is_own(opt) {
            continue;
        }
        let number = NUMBERS.iter().find(|(long, _)| *long == opt.long);
        let value = match (opt.arg, number, args.get(opt.long)) {
            (Arg::No, ..) if opt.long == "verbose" => args.count(opt.long).into(),
            (Arg::No, ..) => args.has(opt.long).into(),
            _ if LISTS.contains(&opt.long) => match args.has(opt.long) {
                true => args.all(opt.long).collect(),
                false => Value::Null,
            },
            (_, Some((_, default)), None) => (*default).into(),
            (_, Some(_), Some(text)) => text.parse::<i64>().map_or(text.into(), Value::from),
            (_, None, Some(text)) => text.into(),
            (_, None, None) if opt.long == "urgency" => URGENCY_DEFAULT.into(),
            (_, None, None) => Value::Null,
        };
        map.insert(opt.long.replace('-', "_"), value);
    }
    map.insert(words_name(args.parser()).to_owned(), json!(args.words));
    map
}

/// Gives arguments the values plugins gave them.
fn apply(args: &mut Args, changed: &Map<String, Value>) -> Result<(), Fail> {
    let name = words_name(args.parser());
    for (key, value) in changed {
        let texts = texts(value).ok_or_else(|| {
            Fail::new(format!(
                "a plugin sets args.{key} to {value}, which no option can be"
            ))
        })?;
        if key == name {
            args.words = texts.into_iter().flatten().collect();
        } else {
            args.set(&key.replace('_', "-"), &texts);
        }
    }
    Ok(())
}

/// An option's arguments for a value in Python, each with or without text.
fn texts(value: &Value) -> Option<Vec<Option<String>>> {
    Some(match value {
        Value::Null | Value::Bool(false) => Vec::new(),
        Value::Bool(true) => vec![None],
        Value::String(text) => vec![Some(text.clone())],
        Value::Number(number) => vec![Some(number.to_string())],
        Value::Array(items) => {
            let mut all = Vec::new();
            for item in items {
                match item {
                    Value::String(_) | Value::Number(_) => all.extend(texts(item)?),
                    _ => return None,
                }
            }
            all
        }
        Value::Object(_) => return None,
    })
}
