//! `flux R`: resource sets (RFC 20), read from standard input one after another.

mod config;

use std::io::Read;

use serde_json::Value;
use spec::r::{Children, VerifyConfig, VerifyError};
use spec::{Constraint, ResourceSet};
use topology::{Topology, XmlError};
use types::{Hostlist, IdSet};

use super::{Sub, dispatch_forms};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, json, outln};

const PROG: &str = "flux-R";

static SUBS: &[Sub] = &[
    ("encode", "[OPTIONS]...", encode),
    ("append", " ", append),
    ("diff", " ", diff),
    ("intersect", " ", intersect),
    ("remap", " ", remap),
    ("rerank", "HOSTLIST", rerank),
    ("decode", "[OPTIONS]...", decode),
    ("verify", " ", verify),
    (
        "set-property",
        "PROPERTY:RANKS [PROPERTY:RANKS]...",
        set_property,
    ),
    ("parse-config", "PATH", parse_config),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_forms(
        PROG,
        "Read, generate, and process RFC 20 Resource Set objects.",
        SUBS,
        words,
    )
}

static ENCODE: Parser = Parser {
    name: "flux-R encode",
    usage: "[OPTIONS]...",
    about: "Make a resource set.",
    family: Family::G,
    opts: &[
        arg(
            'r',
            "ranks",
            "IDSET",
            "Its ranks; as many as there are hosts, or 0",
        ),
        arg('c', "cores", "IDS", "The cores of each rank (default: 0)"),
        arg('g', "gpus", "IDS", "The GPUs of each rank (default: none)"),
        arg(
            'H',
            "hosts",
            "HOSTS",
            "The hosts of the ranks (default: this one for all)",
        ),
        arg(
            'p',
            "property",
            "NAME[:RANKS]",
            "Give ranks, or all, a property (multiple use OK)",
        ),
        flag('l', "local", "Take cores and GPUs of this host"),
        arg('f', "xml", "FILE", "Take cores and GPUs from hwloc XML"),
    ],
};

static DECODE: Parser = Parser {
    name: "flux-R decode",
    usage: "[OPTIONS]...",
    about: "Show the union of resource sets, or a summary.",
    family: Family::G,
    opts: &[
        flag('s', "short", "Print the short form"),
        flag('n', "nodelist", "Print the hosts"),
        flag('r', "ranks", "Print the ranks"),
        arg(
            'c',
            "count",
            "TYPE",
            "Print how many of a type there are: node, core, gpu",
        ),
        arg('i', "include", "RANKS", "Only these ranks"),
        arg('x', "exclude", "RANKS", "Without these ranks"),
        arg(
            'p',
            "properties",
            "LIST",
            "Only ranks with these properties",
        ),
    ],
};

static APPEND: Parser = plain(
    "flux-R append",
    "",
    "Join resource sets that have nothing in common.",
);
static DIFF: Parser = plain("flux-R diff", "", "Take resource sets away from the first.");
static INTERSECT: Parser = plain(
    "flux-R intersect",
    "",
    "Find what all resource sets have in common.",
);
static REMAP: Parser = plain(
    "flux-R remap",
    "",
    "Number the ranks and cores of the union of resource sets from 0.",
);
static RERANK: Parser = plain(
    "flux-R rerank",
    "HOSTLIST",
    "Number the ranks of the union of resource sets as their hosts are in a list.",
);
static VERIFY: Parser = plain(
    "flux-R verify",
    "",
    "Check that the second of two resource sets has what the first has.",
);
static SET_PROPERTY: Parser = plain(
    "flux-R set-property",
    "PROPERTY:RANKS [PROPERTY:RANKS]...",
    "Give ranks of a resource set properties.",
);
static PARSE_CONFIG: Parser = plain(
    "flux-R parse-config",
    "PATH",
    "Read the array resource.config of a configuration.",
);

const fn plain(name: &'static str, usage: &'static str, about: &'static str) -> Parser {
    Parser {
        name,
        usage,
        about,
        family: Family::G,
        opts: &[],
    }
}

/// Parses a command's words, does its work and shows the set it makes.
fn show(
    parser: &'static Parser,
    words: &[String],
    work: impl FnOnce(&Args) -> Result<ResourceSet, Fail>,
) -> i32 {
    let args = match parser.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let outcome = work(&args).map(|set| {
        print(&set);
        0
    });
    fail::report(PROG, outcome)
}

fn print(set: &ResourceSet) {
    outln!("{}", json::python(&set.to_value(), false));
}

/// The sets in a text.
fn parse(text: &str) -> Result<Vec<ResourceSet>, Fail> {
    let mut sets = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value =
            value.map_err(|error| Fail::new(format!("Failed to read an R object: {error}")))?;
        let set = ResourceSet::from_value(&value)
            .map_err(|error| Fail::new(format!("Failed to decode R on stdin: {error}")))?;
        sets.push(set);
    }
    if sets.is_empty() {
        return Err(Fail::new(
            "Failed to read an R object: '[' or '{' expected near end of file",
        ));
    }
    Ok(sets)
}

fn read() -> Result<Vec<ResourceSet>, Fail> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|error| Fail::of("stdin", types::Errno::from_io(&error)))?;
    parse(&text)
}

/// Joins sets; they may overlap.
fn union(sets: Vec<ResourceSet>) -> ResourceSet {
    let mut sets = sets.into_iter();
    let mut all = sets.next().unwrap_or_default();
    for set in sets {
        all.add(&set);
        all.copy_properties_from(&set);
    }
    all
}

fn encode(words: &[String]) -> i32 {
    show(&ENCODE, words, encoded)
}

fn encoded(args: &Args) -> Result<ResourceSet, Fail> {
    let local = args.has("local");
    if (local || args.has("xml")) && (args.has("cores") || args.has("gpus")) {
        return Err(Fail::new(
            "do not specify --cores or --gpus with --local or --xml",
        ));
    }
    let ids = |key: &str, default: &str| {
        let text = args.get(key).unwrap_or(default);
        text.parse::<IdSet>()
            .map_err(|_| Fail::new(format!("Failed to decode {key}='{text}' as idset")))
    };
    let hosts = match args.get("hosts") {
        Some(text) => Some(
            text.parse::<Hostlist>()
                .map_err(|_| Fail::new(format!("invalid hostlist '{text}'")))?,
        ),
        None => None,
    };
    let ranks = match &hosts {
        Some(hosts) if !args.has("ranks") => {
            IdSet::first_n(u32::try_from(hosts.len()).unwrap_or(u32::MAX))
        }
        _ => ids("ranks", "0")?,
    };
    let children = if local {
        let (topology, _) =
            Topology::local(true, "").map_err(|error| Fail::new(error.to_string()))?;
        Children::new(topology.core_ids(), topology.gpu_ids())
    } else if let Some(file) = args.get("xml") {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Fail::of(file, types::Errno::from_io(&error)))?;
        from_xml(&text).map_err(|error| Fail::of(file, error))?
    } else {
        let cores = match args.get("cores") {
            // No cores and no GPUs would be no resources at all.
            Some("") if !args.has("gpus") => IdSet::first_n(1),
            None if args.has("gpus") => IdSet::new(),
            _ => ids("cores", "0")?,
        };
        Children::new(cores, ids("gpus", "")?)
    };
    let hosts = match hosts {
        Some(hosts) => hosts,
        None => {
            let own = crate::hostname()?;
            ranks.iter().map(|_| own.as_str()).collect()
        }
    };
    if hosts.len() != ranks.len() {
        return Err(Fail::new(format!(
            "hostname count in '{hosts}' does not match nranks ({})",
            ranks.len()
        )));
    }
    let mut set = ResourceSet::new();
    for (rank, host) in ranks.iter().zip(hosts.iter()) {
        set.insert(rank, Some(&host), &children);
    }
    add_properties(&mut set, args.all("property"))?;
    Ok(set)
}

/// The cores and GPUs of an hwloc document, numbered in order.
fn from_xml(text: &str) -> Result<Children, XmlError> {
    let found = topology::read_xml(text)?.topology;
    Ok(Children::new(found.core_ids(), found.gpu_ids()))
}

fn add_properties<'a>(
    set: &mut ResourceSet,
    definitions: impl Iterator<Item = &'a str>,
) -> Result<(), Fail> {
    let fail = |text: String| Fail::new(format!("failed to assign properties: {text}"));
    for definition in definitions {
        let (name, ranks) = match definition.split_once(':') {
            Some((name, text)) => {
                let ranks = text.parse::<IdSet>().map_err(|_| {
                    fail(format!(
                        "invalid idset '{text}' specified for property \"{name}\""
                    ))
                })?;
                (name, ranks)
            }
            None => (definition, set.ranks()),
        };
        set.add_property(name, &ranks)
            .map_err(|error| fail(error.to_string()))?;
    }
    Ok(())
}

fn append(words: &[String]) -> i32 {
    show(&APPEND, words, |_| {
        let mut sets = read()?.into_iter();
        let mut all = sets.next().unwrap_or_default();
        for set in sets {
            all.append(&set)
                .map_err(|error| Fail::new(error.to_string()))?;
        }
        Ok(all)
    })
}

/// Several sets, of which a command needs two.
fn at_least_two(name: &str, sets: Vec<ResourceSet>) -> Result<Vec<ResourceSet>, Fail> {
    if sets.len() < 2 {
        return Err(Fail::new(format!(
            "{name} requires at least 2 resource sets"
        )));
    }
    Ok(sets)
}

fn diff(words: &[String]) -> i32 {
    show(&DIFF, words, |_| {
        let sets = at_least_two("diff", read()?)?;
        let mut sets = sets.into_iter();
        let mut left = sets.next().unwrap_or_default();
        for set in sets {
            left.subtract(&set);
        }
        Ok(left)
    })
}

fn intersect(words: &[String]) -> i32 {
    show(&INTERSECT, words, |_| {
        let sets = at_least_two("intersect", read()?)?;
        let mut sets = sets.into_iter();
        let first = sets.next().unwrap_or_default();
        Ok(sets.fold(first, |common, set| common.intersection(&set)))
    })
}

fn remap(words: &[String]) -> i32 {
    show(&REMAP, words, |_| {
        let mut all = union(read()?);
        all.remap();
        Ok(all)
    })
}

fn rerank(words: &[String]) -> i32 {
    show(&RERANK, words, |args| {
        let [hosts] = args.words.as_slice() else {
            return Err(Fail::new("Must provide a hostlist for re-ranking"));
        };
        let mut all = union(read()?);
        let hosts: Hostlist = hosts
            .parse()
            .map_err(|_| Fail::of("invalid hostlist", hosts))?;
        all.rerank(&hosts)
            .map_err(|error| Fail::new(error.to_string()))?;
        Ok(all)
    })
}

fn decode(words: &[String]) -> i32 {
    let args = match DECODE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let outcome = read()
        .and_then(|sets| selected(&args, union(sets)))
        .map(|set| {
            summary(&args, &set);
            0
        });
    fail::report(PROG, outcome)
}

/// The part of a set a command line asks for.
fn selected(args: &Args, mut set: ResourceSet) -> Result<ResourceSet, Fail> {
    let ranks = |key: &str| match args.get(key) {
        Some(text) => text
            .parse::<IdSet>()
            .map(Some)
            .map_err(|_| Fail::new(format!("Invalid ranks option: '{text}': Invalid argument"))),
        None => Ok(None),
    };
    if let Some(ranks) = ranks("include")? {
        set = set.copy_ranks(&ranks);
    }
    if let Some(ranks) = ranks("exclude")? {
        set.remove_ranks(&ranks);
    }
    if let Some(list) = args.get("properties") {
        let constraint = Constraint::from_properties(list.split(',')).map_err(|error| {
            Fail::new(format!(
                "Invalid property constraint: {error}: Invalid argument"
            ))
        })?;
        set = set.copy_constraint(&constraint);
    }
    Ok(set)
}

fn summary(args: &Args, set: &ResourceSet) {
    let mut printed = false;
    if args.has("short") {
        outln!("{set}");
        printed = true;
    }
    if args.has("nodelist") {
        outln!("{}", set.nodelist());
        printed = true;
    }
    if args.has("ranks") {
        outln!("{}", set.ranks());
        printed = true;
    }
    if let Some(kind) = args.get("count") {
        outln!("{}", set.count(kind));
        printed = true;
    }
    if !printed {
        print(set);
    }
}

fn verify(words: &[String]) -> i32 {
    if let Err(status) = VERIFY.parse(words) {
        return status;
    }
    let outcome = read().and_then(|sets| {
        let [expected, actual] = sets.as_slice() else {
            return Err(Fail::new("verify requires exactly 2 R objects on stdin"));
        };
        match expected.verify(actual, &VerifyConfig::STRICT) {
            Ok(()) => Ok(0),
            // More than expected is worth a word but no failure.
            Err(error @ VerifyError::Extra { .. }) => {
                err!("{PROG}: {error}");
                Ok(0)
            }
            Err(error) => Err(Fail::new(error.to_string())),
        }
    });
    fail::report(PROG, outcome)
}

fn set_property(words: &[String]) -> i32 {
    show(&SET_PROPERTY, words, |args| {
        let mut set = union(read()?);
        add_properties(&mut set, args.words.iter().map(String::as_str))?;
        Ok(set)
    })
}

fn parse_config(words: &[String]) -> i32 {
    let args = match PARSE_CONFIG.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [path] = args.words.as_slice() else {
        return PARSE_CONFIG.wrong_words();
    };
    let outcome = config::read(path).map(|set| {
        print(&set);
        0
    });
    fail::report(PROG, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(options: &str) -> Result<ResourceSet, String> {
        let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        let args = ENCODE.parse(&words).expect("options");
        encoded(&args).map_err(|failure| failure.text)
    }

    #[test]
    fn sets_are_made() {
        let check = |options: &str, expect: &str| {
            let text = match made(options) {
                Ok(set) => set.to_string(),
                Err(text) => text,
            };
            assert_eq!(text, expect, "{options}");
        };
        check("", "rank0/core0");
        check("-r 0-1 -c 0-3 -g 0 -H foo,bar", "rank[0-1]/core[0-3],gpu0");
        check("-H foo[0-2]", "rank[0-2]/core0");
        check(
            "-r 0-1 -H foo",
            "hostname count in 'foo' does not match nranks (2)",
        );
        check("-c x", "Failed to decode cores='x' as idset");
        check("-H foo[", "invalid hostlist 'foo['");
        check(
            "-l -c 0",
            "do not specify --cores or --gpus with --local or --xml",
        );
        check(
            "-p a:x",
            "failed to assign properties: invalid idset 'x' specified for property \"a\"",
        );
    }

    #[test]
    fn parts_are_selected() {
        let check = |options: &str, expect: &str| {
            let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
            let args = DECODE.parse(&words).expect("options");
            let set = made("-r 0-3 -H h[0-3] -p a:0-1 -p b").expect("set");
            let text = match selected(&args, set) {
                Ok(set) => set.to_string(),
                Err(failure) => failure.text,
            };
            assert_eq!(text, expect, "{options}");
        };
        check("-i 0", "rank0/core0");
        check("-x 0-1", "rank[2-3]/core0");
        check("-p a", "rank[0-1]/core0");
        check("-p ^a,b", "rank[2-3]/core0");
        check("-p nope", "");
        check("-i x", "Invalid ranks option: 'x': Invalid argument");
    }

    #[test]
    fn several_sets_are_read() {
        let two = "{\"version\":1,\"execution\":{\"R_lite\":[{\"rank\":\"0\",\"children\":{\"core\":\"0\"}}],\"starttime\":0,\"expiration\":0,\"nodelist\":[\"a\"]}}".repeat(2);
        assert_eq!(parse(&two).expect("sets").len(), 2);
        assert!(parse("").is_err());
        assert!(parse("{").is_err());
        assert!(parse("{\"a\":1}").is_err());
    }
}
