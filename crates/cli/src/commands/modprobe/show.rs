//! `flux modprobe show` and `list-dependencies`.

use std::collections::BTreeSet;

use modprobe::{Catalog, Entry};

use super::{PREFIX, catalog, no_such};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::{json as text, outln};

const SET_ALTERNATIVE: Opt = arg(
    'S',
    "set-alternative",
    "NAME=MODULE",
    "Let this module provide a service",
);
const DISABLE: Opt = arg('D', "disable", "NAME", "Do not use this module");

static SHOW: Parser = Parser {
    name: "flux-modprobe show",
    usage: "[-h] [-S NAME=MODULE] [-D NAME] MODULE",
    about: "",
    family: Family::P,
    opts: &[SET_ALTERNATIVE, DISABLE],
};

static LIST: Parser = Parser {
    name: "flux-modprobe list-dependencies",
    usage: "[-h] [-S NAME=MODULE] [-D NAME] [-f] MODULE",
    opts: &[
        SET_ALTERNATIVE,
        DISABLE,
        flag('f', "full", "Show again what was shown before"),
    ],
    ..SHOW
};

/// The catalog as the command line wants it.
async fn wanted(args: &Args) -> Result<Catalog, Fail> {
    let client = client::open(None).await.ok();
    let mut catalog = catalog(client.as_ref(), false).await?;
    for name in args.all("disable").flat_map(|list| list.split(',')) {
        catalog.disable(name).map_err(Fail::new)?;
    }
    for pair in args.all("set-alternative") {
        let (service, module) = pair
            .split_once('=')
            .ok_or_else(|| Fail::new(format!("--set-alternative: invalid value '{pair}'")))?;
        catalog
            .set_alternative(service, module)
            .map_err(Fail::new)?;
    }
    Ok(catalog)
}

pub(super) fn show(words: &[String]) -> i32 {
    let args = match SHOW.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [name] = args.words.as_slice() else {
        return SHOW.usage_error("the following arguments are required: MODULE");
    };
    fail::run(PREFIX, async {
        let catalog = wanted(&args).await?;
        let entry = catalog.resolve(name).ok_or_else(|| no_such(name))?;
        outln!("{}", text::python(&entry.to_json(), true));
        Ok(0)
    })
}

pub(super) fn list_dependencies(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [name] = args.words.as_slice() else {
        return LIST.usage_error("the following arguments are required: MODULE");
    };
    fail::run(PREFIX, async {
        let catalog = wanted(&args).await?;
        let entry = catalog.resolve(name).ok_or_else(|| no_such(name))?;
        let mut tree = Tree {
            catalog: &catalog,
            seen: (!args.has("full")).then(BTreeSet::new),
            lines: vec![label(name, entry)],
        };
        tree.below(entry, "", &mut vec![&entry.name]);
        for line in tree.lines {
            outln!("{line}");
        }
        Ok(0)
    })
}

/// A name, and the module it stands for.
fn label(name: &str, entry: &Entry) -> String {
    if name == entry.name {
        name.to_owned()
    } else {
        format!("{name} ({})", entry.name)
    }
}

/// What modules require, as lines.
struct Tree<'a> {
    catalog: &'a Catalog,
    /// What was shown, if that is not shown again.
    seen: Option<BTreeSet<&'a str>>,
    lines: Vec<String>,
}

impl<'a> Tree<'a> {
    fn below(&mut self, entry: &'a Entry, indent: &str, above: &mut Vec<&'a str>) {
        let mut children: Vec<(&str, &Entry)> = Vec::new();
        for name in &entry.requires {
            let Some(child) = self.catalog.resolve(name) else {
                continue;
            };
            let new = match &mut self.seen {
                Some(seen) => seen.insert(&child.name),
                None => true,
            };
            if new && !above.contains(&child.name.as_str()) {
                children.push((name, child));
            }
        }
        let count = children.len();
        for (at, (name, child)) in children.into_iter().enumerate() {
            let (branch, rest) = if at + 1 == count {
                ("└── ", "    ")
            } else {
                ("├── ", "│   ")
            };
            self.lines
                .push(format!("{indent}{branch}{}", label(name, child)));
            above.push(&child.name);
            self.below(child, &format!("{indent}{rest}"), above);
            above.pop();
        }
    }
}
