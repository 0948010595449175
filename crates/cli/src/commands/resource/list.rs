//! `flux resource list`, `info` and `R`.

use std::collections::BTreeMap;

use proto::Empty;
use proto::resource::{ResourceSchedStatus, SchedStatus};
use proto::sched::SchedResourceStatus;
use rpc::Dest;
use serde_json::Value as Json;
use spec::r::ResourceSet;
use types::{Errno, IdSet};

use super::{
    CONFIG_FILE, FORMAT, FROM_STDIN, INCLUDE, LEADER, NO_HEADER, NO_SKIP_EMPTY, PREFIX, QUEUE,
    Queues, SKIP_EMPTY, STATE, STATES, chosen, include, part, wanted_queues,
};
use crate::commands::queue::print;
use crate::fail::{self, Fail};
use crate::format::{self, Format, Named, Row, Value};
use crate::options::{Args, Family, Parser};
use crate::{json, outln};

static LIST: Parser = Parser {
    name: "flux-resource list",
    usage: "[-h] [-o FORMAT] [-s STATE,...] [-i TARGETS] [-q QUEUE,...] [-n] [--skip-empty] [--no-skip-empty]",
    about: "",
    family: Family::P,
    opts: &[
        FORMAT,
        STATES,
        STATE,
        INCLUDE,
        QUEUE,
        NO_HEADER,
        SKIP_EMPTY,
        NO_SKIP_EMPTY,
        FROM_STDIN,
        CONFIG_FILE,
    ],
};

static FORMATS: &[Named] = &[
    (
        "default",
        "Default flux-resource list format string",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?+:{ngpus:>5} {nodelist}",
    ),
    (
        "rlist",
        "Format including resource list details",
        // The stray plus is part of the known output.
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?:+{ngpus:>5} {rlist}",
    ),
];

fn heading(name: &str) -> Option<String> {
    let heading = match name {
        "state" => "STATE",
        "queue" => "QUEUE",
        "properties" | "propertiesx" => "PROPERTIES",
        "nnodes" => "NNODES",
        "ncores" => "NCORES",
        "ngpus" => "NGPUS",
        "ranks" => "RANKS",
        "nodelist" => "NODELIST",
        "rlist" => "LIST",
        _ => return None,
    };
    Some(heading.to_owned())
}

/// Some resources in one state.
struct Line {
    state: String,
    queue: String,
    properties: String,
    others: String,
    set: ResourceSet,
}

impl Row for Line {
    fn field(&self, name: &str) -> Result<Value, String> {
        Ok(match name {
            "state" => self.state.clone().into(),
            "queue" => self.queue.clone().into(),
            "properties" => self.properties.clone().into(),
            "propertiesx" => self.others.clone().into(),
            "nnodes" => self.set.nnodes().into(),
            "ncores" => self.set.count("core").into(),
            "ngpus" => self.set.count("gpu").into(),
            "ranks" => self.set.ranks().to_string().into(),
            "nodelist" => self.set.nodelist().to_string().into(),
            _ => rlist(&self.set).into(),
        })
    }
}

/// `rank[0-3]/core[0-7],gpu0` for each group of like ranks.
fn rlist(set: &ResourceSet) -> String {
    let groups: Vec<String> = set
        .groups()
        .into_iter()
        .map(|(ranks, children)| {
            let children: Vec<String> = children
                .iter()
                .filter(|(_, ids)| !ids.is_empty())
                .map(|(kind, ids)| format!("{kind}{}", ids.to_bracketed()))
                .collect();
            format!("rank{}/{}", ranks.to_bracketed(), children.join(","))
        })
        .collect();
    groups.join(" ")
}

/// The resources of each state.
struct States {
    sets: BTreeMap<&'static str, ResourceSet>,
}

impl States {
    fn new(status: &SchedStatus) -> Result<States, Fail> {
        let set = |value: &Json| match value {
            Json::Null => Ok(ResourceSet::default()),
            value => ResourceSet::from_value(value).map_err(|error| Fail::of("R", error)),
        };
        let (all, down) = (set(&status.all)?, set(&status.down)?);
        let mut allocated = set(&status.allocated)?;
        allocated.copy_properties_from(&all);
        let up = all.difference(&down);
        let free = up.difference(&allocated);
        Ok(States {
            sets: BTreeMap::from([
                ("all", all),
                ("down", down),
                ("allocated", allocated),
                ("up", up),
                ("free", free),
            ]),
        })
    }

    fn get(&self, name: &str) -> Result<&ResourceSet, Fail> {
        self.sets
            .get(name)
            .ok_or_else(|| Fail::new(format!("Invalid resource state {name} specified")))
    }
}

struct Query {
    states: States,
    queues: Queues,
    /// Queues that are shown only where asked for.
    hidden: Vec<String>,
    ranks: Option<IdSet>,
}

async fn query(args: &Args) -> Result<Query, Fail> {
    let (status, queues) = if args.has("from-stdin") {
        let status = serde_json::from_reader(std::io::stdin().lock())
            .map_err(|error| Fail::of("standard input", error))?;
        (status, configured_queues(args.get("config-file"))?)
    } else {
        let client = fail::connect_p().await?;
        let handle = client.handle();
        // Older schedulers answer the same question; a variable of the tests says to ask them.
        let own = "resource.sched-status";
        let call = match std::env::var("FLUX_RESOURCE_LIST_RPC") {
            Ok(other) if other != own => handle.call::<SchedResourceStatus>(Dest::Any, &Empty {}),
            _ => handle.call::<ResourceSchedStatus>(LEADER, &Empty {}),
        };
        let queues = Queues::read(&client);
        (call.await?, queues.await?)
    };
    let states = States::new(&status)?;
    let ranks = include(args, states.get("all")?)?;
    Ok(Query {
        states,
        queues,
        ranks,
        hidden: Vec::new(),
    })
}

/// The queues of a configuration in a JSON file, if one is given.
fn configured_queues(path: Option<&str>) -> Result<Queues, Fail> {
    let Some(path) = path else {
        return Ok(Queues::default());
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Fail::of(path, Errno::from_io(&error)))?;
    let config = serde_json::from_str(&text).map_err(|error| Fail::of(path, error))?;
    Queues::of(&config)
}

/// The queues that configuration files hide.
fn hidden_queues() -> Result<Vec<String>, Fail> {
    let names = |value: &Json| -> Result<Vec<String>, String> {
        serde_json::from_value(value["list"]["hidden-queues"].clone()).or_else(|error| match &value
            ["list"]["hidden-queues"]
        {
            Json::Null => Ok(Vec::new()),
            _ => Err(format!("list.hidden-queues: {error}")),
        })
    };
    let merged = format::files("flux-resource", |value| names(value).map(drop));
    merged.and_then(|merged| names(&merged)).map_err(Fail::new)
}

impl Query {
    /// The resources of a state that the command line wants.
    fn set(&self, args: &Args, state: &str) -> Result<ResourceSet, Fail> {
        let mut set = self.states.get(state)?.clone();
        if let Some(ranks) = &self.ranks {
            set = set.copy_ranks(ranks);
        }
        let wanted = wanted_queues(args);
        if !wanted.is_empty() {
            set = self.queues.restrict(&set, &wanted)?;
        }
        Ok(set)
    }

    /// The queues to show, with what they require.
    fn shown_queues(&self, args: &Args) -> impl Iterator<Item = (&str, Option<&[String]>)> {
        let wanted: Vec<String> = wanted_queues(args).into_iter().map(str::to_owned).collect();
        self.queues
            .list
            .iter()
            .filter(move |(name, _, is_virtual)| match wanted.is_empty() {
                true => !is_virtual && !self.hidden.contains(name),
                false => wanted.contains(name),
            })
            .map(|(name, requires, _)| (name.as_str(), requires.as_deref()))
    }

    /// The queues that may use some resources, as shown.
    fn queue_names(&self, args: &Args, set: &ResourceSet) -> String {
        let names: Vec<&str> = self
            .shown_queues(args)
            .filter(|(_, requires)| part(set, *requires).nnodes() == set.nnodes())
            .map(|(name, _)| name)
            .collect();
        names.join(",")
    }

    /// The lines of a state without resources: one for each queue.
    fn empty_lines(&self, args: &Args, state: &str) -> Vec<Line> {
        let line = |queue: &str| Line {
            state: state.to_owned(),
            queue: queue.to_owned(),
            properties: String::new(),
            others: String::new(),
            set: ResourceSet::new(),
        };
        let lines: Vec<Line> = self
            .shown_queues(args)
            .map(|(name, _)| line(name))
            .collect();
        match lines.is_empty() {
            true => vec![line("")],
            false => lines,
        }
    }

    /// Splits resources by which properties their ranks have.
    fn lines(&self, args: &Args, state: &str) -> Result<Vec<Line>, Fail> {
        let set = self.set(args, state)?;
        if set.is_empty() {
            return Ok(self.empty_lines(args, state));
        }
        let mut groups: BTreeMap<Vec<String>, IdSet> = BTreeMap::new();
        for rank in set.ranks().iter() {
            let properties = set
                .properties()
                .iter()
                .filter(|(_, ranks)| ranks.contains(rank))
                .map(|(name, _)| name.clone())
                .collect();
            groups.entry(properties).or_default().insert(rank);
        }
        let mut lines: Vec<Line> = groups
            .into_iter()
            .map(|(properties, ranks)| {
                let set = set.copy_ranks(&ranks);
                let is_queue = |name: &String| self.queues.list.iter().any(|(q, ..)| q == name);
                let others: Vec<_> = properties
                    .iter()
                    .filter(|name| !is_queue(name))
                    .cloned()
                    .collect();
                Line {
                    state: state.to_owned(),
                    queue: self.queue_names(args, &set),
                    properties: properties.join(","),
                    others: others.join(","),
                    set,
                }
            })
            .collect();
        lines.sort_by_key(|line| line.set.ranks().first());
        Ok(lines)
    }
}

fn states(args: &Args, default: &str) -> Vec<String> {
    let text = args.get("states").or(args.get("state")).unwrap_or(default);
    text.split(',').map(str::to_lowercase).collect()
}

pub(super) fn list(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let mut format = chosen(&args, "list", FORMATS, heading)?;
        let names = states(&args, "free,allocated,down");
        let mut query = query(&args).await?;
        query.hidden = hidden_queues()?;
        let mut lines: Vec<Line> = Vec::new();
        let skip = args.has("skip-empty") || (args.has("include") && !args.has("no-skip-empty"));
        for state in &names {
            for line in query.lines(&args, state)? {
                if line.set.is_empty() && skip {
                    continue;
                }
                // What looks alike is one line.
                let visible = |line: &Line| -> Vec<String> {
                    ["state", "queue", "properties", "propertiesx"]
                        .iter()
                        .filter(|name| format.has(name))
                        .map(|name| {
                            line.field(name)
                                .map(|value| value.plain())
                                .unwrap_or_default()
                        })
                        .collect()
                };
                let text = visible(&line);
                let same = lines.iter_mut().find(|known| visible(known) == text);
                match same {
                    Some(known) => known.set.add(&line.set),
                    None => lines.push(line),
                }
            }
        }
        if is_only_properties(&format) {
            lines = union_of_properties(lines);
        }
        print(&mut format, &mut lines, !args.has("no-header"))
    })
}

/// Whether a format shows properties and nothing else.
fn is_only_properties(format: &Format) -> bool {
    let mut names = format.names();
    matches!(names.next(), Some("properties" | "propertiesx")) && names.next().is_none()
}

/// One line with all the properties that lines have, in the order they come.
fn union_of_properties(lines: Vec<Line>) -> Vec<Line> {
    let union = |text: fn(&Line) -> &str| {
        let mut names: Vec<&str> = Vec::new();
        for name in lines.iter().flat_map(|line| text(line).split(',')) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(",")
    };
    let (properties, others) = (union(|line| &line.properties), union(|line| &line.others));
    let first = lines.into_iter().next();
    first
        .map(|line| Line {
            properties,
            others,
            ..line
        })
        .into_iter()
        .collect()
}

static INFO: Parser = Parser {
    name: "flux-resource info",
    usage: "[-h] [-s STATE,...] [-i TARGETS] [-q QUEUE,...]",
    about: "",
    family: Family::P,
    opts: &[
        STATES,
        STATE,
        INCLUDE,
        QUEUE,
        SKIP_EMPTY,
        NO_SKIP_EMPTY,
        FROM_STDIN,
        CONFIG_FILE,
    ],
};

/// The resources of all the states a command line names together.
async fn union(args: &Args) -> Result<ResourceSet, Fail> {
    let query = query(args).await?;
    let mut union: Option<ResourceSet> = None;
    for state in states(args, "all") {
        let set = query.set(args, &state)?;
        match &mut union {
            Some(union) => union.add(&set),
            // The first brings the times too.
            None => union = Some(set),
        }
    }
    Ok(union.unwrap_or_default())
}

pub(super) fn info(words: &[String]) -> i32 {
    let args = match INFO.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let set = union(&args).await?;
        let count = |number: usize, word: &str| {
            let plural = if number == 1 { "" } else { "s" };
            format!("{number} {word}{plural}")
        };
        outln!(
            "{}, {}, {}",
            count(set.nnodes(), "Node"),
            count(set.count("core"), "Core"),
            count(set.count("gpu"), "GPU")
        );
        Ok(0)
    })
}

static R: Parser = Parser {
    name: "flux-resource R",
    ..INFO
};

pub(super) fn show_r(words: &[String]) -> i32 {
    let args = match R.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let set = union(&args).await?;
        outln!("{}", json::python(&set.to_value(), true));
        Ok(0)
    })
}
