//! `flux pstree`: the jobs of an instance and of the instances among them as a tree.

mod tree;

use client::Client;
use proto::attr::{AttrGet, Name};
use rpc::Dest;
use serde_json::{Map, json};

use super::jobs::{Filter, Job, attributes, by_ids, heading, list};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::format::{self, Format, Row, Value};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, outln, terminal, timefmt};
use tree::{Connectors, Tree};

static PARSER: Parser = Parser {
    name: "flux-pstree",
    usage: "[OPTIONS] [JOBID ...]",
    about: "",
    family: Family::P,
    opts: &[
        flag('a', "all", "Show jobs in all states"),
        arg(
            'c',
            "count",
            "N",
            "Show at most N jobs of each instance (default 1000)",
        ),
        arg(
            'f',
            "filter",
            "STATE|RESULT",
            "Show jobs with this state or result",
        ),
        flag('x', "extended", "Show details in front of the tree"),
        flag('l', "long", "Do not cut long lines"),
        arg('L', "level", "N", "Go down at most N levels"),
        flag('p', "parent-ids", "Show the ids of parents"),
        flag('n', "no-header", "Leave out the header of details"),
        flag('X', "no-combine", "Do not combine equal children"),
        arg('o', "label", "FORMAT", "Label format (default '{name}')"),
        arg('\0', "parent-label", "FORMAT", "Label format of parents"),
        arg(
            '\0',
            "detail-format",
            "FORMAT",
            "Format of details (implies --extended)",
        ),
        arg(
            'd',
            "details",
            "NAME",
            "Details by name: default, resources, progress or stats",
        ),
        flag('C', "compact", "Use narrow connectors"),
        flag('\0', "ascii", "Use ASCII connectors"),
        arg(
            '\0',
            "skip-root",
            "yes|no",
            "Whether to leave out this instance; it is if there are details or job ids",
        ),
    ],
};

/// The formats of details that have names.
const DETAILS: &[(&str, &str)] = &[
    (
        "default",
        "{id.f58:>12} {username:<8.8} {status_abbrev:>2.2} {ntasks:>6h} {nnodes:>6h} {runtime!F:>8h}",
    ),
    (
        "resources",
        "{id.f58:>12} \
         {instance.resources.all.nnodes:>5} {instance.resources.allocated.nnodes:>5} \
         {instance.resources.all.ncores:>5} {instance.resources.allocated.ncores:>5} \
         {instance.resources.all.ngpus:>5} {instance.resources.allocated.ngpus:>5}",
    ),
    (
        "progress",
        "{id.f58:>12} {ntasks:>6h} {instance.stats.total:>6} {instance.progress!P:>5} \
         {instance.utilization!P:>5} {instance.gpu_utilization!P:>5} {runtime!H:>10}",
    ),
    ("stats", "{id.f58:>12} {instance.stats:^25} {runtime!H:>10}"),
];

/// The width of lines where there is no terminal.
const WIDTH_DEFAULT: usize = 132;
/// The number of levels that is as good as all.
const LEVELS_MAX: i64 = 9999;
/// What the enclosing instance is called.
const ROOT: &str = ".";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-pstree: ERROR", async {
        let view = View::new(&args)?;
        let client = fail::connect_p().await?;
        let roots = view.collect(&client, &args).await?;
        view.print(&args, roots)?;
        Ok(0)
    })
}

/// A job with those below it.
struct Node {
    job: Job,
    /// Whether it is the enclosing instance, which may be no job.
    root: bool,
    children: Vec<Node>,
}

impl Node {
    fn leaf(job: Job) -> Node {
        Node {
            job,
            root: false,
            children: Vec::new(),
        }
    }
}

impl Row for Node {
    fn field(&self, name: &str) -> Result<Value, String> {
        if self.root && (name == "id" || name.starts_with("id.")) {
            return Ok(Value::Str(ROOT.to_owned()));
        }
        self.job.field(name)
    }
}

/// What the options ask for.
struct View {
    filter: Filter,
    attrs: Vec<String>,
    /// Whether instances are to be asked about themselves.
    asks: bool,
    levels: i64,
    label: Format,
    parent_label: Format,
    details: Option<Format>,
    skip_root: bool,
}

impl View {
    fn new(args: &Args) -> Result<View, Fail> {
        let skip_root = match args.get("skip-root") {
            Some("yes") => Some(true),
            Some("no") => Some(false),
            Some(_) => return Err(Fail::new("--skip-root requires either 'yes' or 'no'")),
            None => None,
        };
        let given = args.has("all") || args.has("filter");
        if given && !args.words.is_empty() {
            err!("flux-pstree: WARNING: filtering options ignored with jobid list");
        }
        let names = if args.has("all") {
            "pending,running,inactive"
        } else {
            args.get("filter").unwrap_or("running")
        };
        let names: Vec<String> = names.split(',').map(str::to_lowercase).collect();
        let parse = |text: &str| Format::parse(text, heading).map_err(Fail::new);
        let name = if args.has("all") {
            "{name}:{status_abbrev}"
        } else {
            "{name}"
        };
        let id = if args.has("parent-ids") {
            "{id.f58} "
        } else {
            ""
        };
        let parent_label = args.get("parent-label").or(args.get("label"));
        let parent_label = parent_label.unwrap_or("{name}");
        let details = details(args)?.map(parse).transpose()?;
        let mut view = View {
            filter: Filter::own(&names, args.int("count")?.unwrap_or(1000))?,
            attrs: Vec::new(),
            asks: false,
            levels: args.int("level")?.unwrap_or(LEVELS_MAX),
            label: parse(args.get("label").unwrap_or(name))?,
            parent_label: parse(&format!("{id}{parent_label}"))?,
            skip_root: skip_root.unwrap_or(details.is_some() || !args.words.is_empty()),
            details,
        };
        let asks = view.fields().any(|name| name.starts_with("instance."));
        view.attrs = attributes(view.fields().chain(["state", "userid", "annotations"]));
        view.asks = asks;
        Ok(view)
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        let details = self.details.iter().flat_map(Format::names);
        self.label
            .names()
            .chain(self.parent_label.names())
            .chain(details)
    }

    /// The trees to show. Jobs that are unknown are left out, which is no failure.
    async fn collect(&self, client: &Client, args: &Args) -> Result<Vec<Node>, Fail> {
        let children = if args.words.is_empty() {
            self.children(client, self.levels).await?
        } else {
            let (jobs, _) = by_ids(client, args, self.attrs.clone()).await?;
            self.nodes(jobs, self.levels).await
        };
        if self.skip_root {
            return Ok(children);
        }
        let root = self.root(client, children).await?;
        Ok(vec![root])
    }

    /// The jobs of an instance.
    async fn children(&self, client: &Client, levels: i64) -> Result<Vec<Node>, Fail> {
        let mut jobs = list(client, &self.filter, self.attrs.clone()).await?;
        if let Ok(count @ 1..) = usize::try_from(self.filter.count) {
            jobs.truncate(count);
        }
        Ok(self.nodes(jobs, levels).await)
    }

    async fn nodes(&self, jobs: Vec<Job>, levels: i64) -> Vec<Node> {
        let mut nodes = Vec::new();
        for job in jobs {
            nodes.push(Box::pin(self.node(job, levels)).await);
        }
        nodes
    }

    async fn node(&self, job: Job, levels: i64) -> Node {
        let mut node = Node::leaf(job);
        let own = node.job.userid() == Some(i64::from(nix::unistd::getuid().as_raw()));
        if !own || (levels <= 0 && !self.asks) {
            return node;
        }
        // An instance that cannot be reached is shown without what it would tell.
        if let Some(client) = node.job.open_instance().await {
            if self.asks {
                node.job.ask_instance(&client).await;
            }
            if levels > 0
                && let Ok(children) = self.children(&client, levels - 1).await
            {
                node.children = children;
            }
        }
        node
    }

    /// The enclosing instance as if it were a job.
    async fn root(&self, client: &Client, children: Vec<Node>) -> Result<Node, Fail> {
        let attr = |name: &str| {
            let request = Name {
                name: name.to_owned(),
            };
            client.handle().call::<AttrGet>(Dest::Any, &request)
        };
        let (size, owner, start) = (
            attr("size"),
            attr("security.owner"),
            attr("broker.starttime"),
        );
        let mut info = Map::new();
        let size = size.await?.value.parse::<u32>().unwrap_or_default();
        let owner = owner.await?.value.parse::<u32>().unwrap_or_default();
        let start = start.await.ok().and_then(|start| start.value.parse().ok());
        info.insert("name".to_owned(), json!(ROOT));
        info.insert("state".to_owned(), json!(Job::RUN));
        info.insert("ntasks".to_owned(), json!(size));
        info.insert("nnodes".to_owned(), json!(size));
        info.insert("userid".to_owned(), json!(owner));
        info.insert(
            "t_run".to_owned(),
            json!(start.unwrap_or_else(timefmt::now)),
        );
        let mut job = Job::new(info);
        if self.asks {
            job.ask_instance(client).await;
        }
        Ok(Node {
            job,
            root: true,
            children,
        })
    }

    fn print(mut self, args: &Args, roots: Vec<Node>) -> Result<(), Fail> {
        let combine = !args.has("no-combine") && self.details.is_none();
        let trees = roots
            .iter()
            .map(|node| self.tree(node))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Fail::new)?;
        let connectors = if args.has("ascii") {
            Connectors::ASCII
        } else if args.has("compact") {
            Connectors::COMPACT
        } else {
            Connectors::BOX
        };
        let lines = tree::lines(&trees, connectors, combine);
        let mut details = Vec::new();
        if let Some(format) = &mut self.details {
            let mut rows = Vec::new();
            for root in roots {
                flatten(root, &mut rows);
            }
            let header = !args.has("no-header");
            format.fit(&rows, header).map_err(Fail::new)?;
            if header && !rows.is_empty() {
                outln!("{}", format.header());
            }
            for row in &rows {
                details.push(format!("{} ", format.row(row).map_err(Fail::new)?));
            }
        }
        // The lines and the rows come in the same order.
        let mut details = details.into_iter();
        let width = (!args.has("long")).then(width);
        for line in lines {
            let line = format!("{}{line}", details.next().unwrap_or_default());
            outln!("{}", format::cut(&line, width));
        }
        Ok(())
    }

    fn tree(&self, node: &Node) -> Result<Tree, String> {
        let parent = node.root || (node.job.is_running() && node.job.uri().is_some());
        let format = if parent {
            &self.parent_label
        } else {
            &self.label
        };
        let children = node.children.iter().map(|child| self.tree(child));
        Ok(Tree {
            label: format.row(node)?,
            children: children.collect::<Result<_, _>>()?,
        })
    }
}

/// The format of details, if there are to be any.
fn details(args: &Args) -> Result<Option<&str>, Fail> {
    if let Some(format) = args.get("detail-format") {
        return Ok(Some(format));
    }
    let name = match args.get("details") {
        Some(name) => name,
        None if args.has("extended") => "default",
        None => return Ok(None),
    };
    match DETAILS.iter().find(|(known, _)| *known == name) {
        Some((_, format)) => Ok(Some(format)),
        None => Err(Fail::new(format!("Unknown --details format '{name}'"))),
    }
}

/// The nodes of a tree in the order of its lines.
fn flatten(mut node: Node, rows: &mut Vec<Node>) {
    let children = std::mem::take(&mut node.children);
    rows.push(node);
    for child in children {
        flatten(child, rows);
    }
}

/// The width of lines.
fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok();
    columns
        .and_then(|columns| columns.parse().ok())
        .filter(|columns| *columns > 0)
        .or_else(terminal::tty_width)
        .unwrap_or(WIDTH_DEFAULT)
}
