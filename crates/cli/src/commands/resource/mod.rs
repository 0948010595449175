//! `flux resource`: the instance's resources.

mod drain;
mod eventlog;
mod list;
mod status;

use client::Client;
use proto::Empty;
use proto::config::ConfigGet;
use proto::resource::{Reload, ResourceAcquireMute, ResourceReload};
use rpc::Dest;
use serde_json::Value as Json;
use spec::constraint::Constraint;
use spec::r::ResourceSet;
use types::{Errno, Hostlist, IdSet, Rank};

use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};
use crate::format::{self, Format, Named, NoFormat};
use crate::options::{Args, Family, Opt, Parser, arg, flag, maybe};

const PREFIX: &str = "flux-resource: ERROR";
const LEADER: Dest = Dest::Rank(Rank::LEADER);

const INCLUDE: Opt = arg('i', "include", "TARGETS", "Only these ranks or hosts");
const QUEUE: Opt = arg(
    'q',
    "queue",
    "QUEUE,...",
    "Only the resources of these queues",
);
const FORMAT: Opt = arg(
    'o',
    "format",
    "FORMAT",
    "Output format: a name, or a Python format string",
);
const NO_HEADER: Opt = flag('n', "no-header", "Leave out the header line");
const COLOR: Opt = maybe('L', "color", "WHEN", "Use colour: never, always or auto");
const STATES: Opt = arg('s', "states", "STATE,...", "Only these states");
const STATE: Opt = arg('\0', "state", "STATE,...", "").hidden();
const SKIP_EMPTY: Opt = flag('\0', "skip-empty", "Leave out states without resources");
const FROM_STDIN: Opt = flag('\0', "from-stdin", "").hidden();
const CONFIG_FILE: Opt = arg('\0', "config-file", "FILE", "").hidden();
const NO_SKIP_EMPTY: Opt = flag('\0', "no-skip-empty", "Show states without resources");

const SUBS: &[super::PlainSub] = &[
    ("acquire-mute", acquire_mute),
    ("drain", drain::drain),
    ("undrain", drain::undrain),
    ("status", status::run),
    ("list", list::list),
    ("info", list::info),
    ("R", list::show_r),
    ("reload", reload),
    ("eventlog", eventlog::run),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_argparse("flux-resource", SUBS, words)
}

/// Finds and parses the format a command line asks for.
fn chosen(
    args: &Args,
    section: &str,
    formats: &[Named],
    heading: fn(&str) -> Option<String>,
) -> Result<Format, Fail> {
    let variable = format!("FLUX_RESOURCE_{}_FORMAT_DEFAULT", section.to_uppercase());
    let text = format::choose(
        "flux-resource",
        Some(section),
        &variable,
        formats,
        args.get("format"),
    );
    let text = text.map_err(|error| match error {
        NoFormat::Done(status) => Fail::silent(status),
        NoFormat::Error(text) => Fail::new(text),
    })?;
    Format::parse(&text, heading).map_err(Fail::new)
}

/// Queues: name and the properties they require, a virtual one its parent's.
#[derive(Default)]
pub(crate) struct Queues {
    list: Vec<(String, Option<Vec<String>>, bool)>,
}

impl Queues {
    /// The queues of an instance.
    pub(crate) async fn read(client: &Client) -> Result<Queues, Fail> {
        let call = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
        Queues::of(&Json::Object(call.await?))
    }

    /// The queues of a configuration.
    fn of(config: &Json) -> Result<Queues, Fail> {
        let requires = |table: &Json| {
            let list = table["requires"].as_array()?;
            Some(
                list.iter()
                    .filter_map(Json::as_str)
                    .map(str::to_owned)
                    .collect(),
            )
        };
        let mut list = Vec::new();
        for (name, table) in config["queues"].as_object().into_iter().flatten() {
            let parent = table["parent"].as_str();
            let needed = match parent {
                None => requires(table),
                Some(parent) => match &config["queues"][parent] {
                    Json::Null => {
                        return Err(Fail::new(format!(
                            "queue '{name}': parent queue '{parent}' is not configured"
                        )));
                    }
                    parent => requires(parent),
                },
            };
            list.push((name.clone(), needed, parent.is_some()));
        }
        Ok(Queues { list })
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(name, ..)| name.as_str())
    }

    /// The part of some resources that any of the queues named may use.
    pub(crate) fn restrict(&self, set: &ResourceSet, wanted: &[&str]) -> Result<ResourceSet, Fail> {
        let mut out = ResourceSet::new();
        for name in wanted {
            let queue = self.list.iter().find(|(known, ..)| known == name);
            let Some((_, requires, _)) = queue else {
                return Err(Fail::new(format!("--queue: {name}: no such queue")));
            };
            out.add(&part(set, requires.as_deref()));
        }
        Ok(out)
    }
}

/// The part of some resources with all of the properties.
fn part(set: &ResourceSet, requires: Option<&[String]>) -> ResourceSet {
    let Some(requires) = requires else {
        return set.clone();
    };
    match Constraint::from_properties(requires.iter().map(String::as_str)) {
        Ok(constraint) => set.copy_constraint(&constraint),
        Err(_) => ResourceSet::new(),
    }
}

/// The queues named on a command line.
fn wanted_queues(args: &Args) -> Vec<&str> {
    args.all("queue").flat_map(|list| list.split(',')).collect()
}

/// The ranks an idset or hostlist means.
fn include(args: &Args, all: &ResourceSet) -> Result<Option<IdSet>, Fail> {
    let Some(text) = args.get("include") else {
        return Ok(None);
    };
    if let Ok(ids) = text.parse() {
        return Ok(Some(ids));
    }
    let hosts: Hostlist = text
        .parse()
        .map_err(|_| Fail::new(format!("--include: Invalid hostlist: '{text}'")))?;
    let known = all.nodelist();
    let mut unknown = Hostlist::new();
    for host in hosts.iter() {
        if !known.contains(&host) {
            unknown.push(&host);
        }
    }
    // Scripts count on getting nothing for them.
    if !unknown.is_empty() {
        err!("flux-resource: WARNING: --include: unknown hosts: {unknown}");
    }
    Ok(Some(all.ranks_of(&hosts)))
}

static RELOAD: Parser = Parser {
    name: "flux-resource reload",
    usage: "[-h] [-x] [-f] path",
    about: "",
    family: Family::P,
    opts: &[
        flag('x', "xml", "PATH is a directory of hwloc topologies"),
        flag('f', "force", "Accept ranks beyond the instance"),
    ],
};

fn reload(words: &[String]) -> i32 {
    let args = match RELOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [path] = args.words.as_slice() else {
        return RELOAD.usage_error("the following arguments are required: path");
    };
    fail::run(PREFIX, async {
        let path = std::fs::canonicalize(path)
            .map_err(|error| Fail::new(format!("{}: '{path}'", Errno::from_io(&error))))?;
        let request = Reload {
            path: path.display().to_string(),
            xml: args.has("xml"),
            force: args.has("force"),
        };
        let client = fail::connect_p().await?;
        client
            .handle()
            .call::<ResourceReload>(LEADER, &request)
            .await?;
        Ok(0)
    })
}

static ACQUIRE_MUTE: Parser = Parser {
    name: "flux-resource acquire-mute",
    usage: "[-h]",
    about: "",
    family: Family::P,
    opts: &[],
};

/// Keeps resources that vanish at shutdown from the scheduler. The standard rc1 of others asks for
/// it.
fn acquire_mute(words: &[String]) -> i32 {
    match ACQUIRE_MUTE.parse(words) {
        Ok(args) if args.words.is_empty() => {}
        Ok(_) => return ACQUIRE_MUTE.wrong_words(),
        Err(status) => return status,
    }
    fail::run(PREFIX, async {
        let client = fail::connect_p().await?;
        client
            .handle()
            .call::<ResourceAcquireMute>(LEADER, &Empty {})
            .await?;
        Ok(0)
    })
}
