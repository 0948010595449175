//! `flux overlay`: the tree of brokers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use client::Client;
use proto::Empty;
use proto::overlay::{
    Health, OfRank, OverlayDisconnectSubtree, OverlayHealth, OverlayTopology, Topology,
};
use proto::trace::{OverlayTrace, TraceOverlay};
use types::{Hostlist, IdSet, Rank};

use super::trace as messages;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag, maybe};
use crate::{err, outln};

const PROG: &str = "flux-overlay";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux overlay",
        "Manage overlay network",
        &[
            ("errors", "[OPTIONS]", errors),
            ("status", "[OPTIONS]", status),
            ("lookup", "[OPTIONS] TARGET", lookup),
            ("parentof", "[OPTIONS] RANK", parentof),
            ("disconnect", "[OPTIONS] TARGET", disconnect),
            ("trace", "[OPTIONS] [topic-glob]", trace),
        ],
        words,
    )
}

static STATUS: Parser = Parser {
    name: "flux overlay status",
    usage: "[OPTIONS]",
    about: "Display overlay subtree health status",
    family: Family::G,
    opts: &[
        arg('r', "rank", "NODEID", "Begin at this rank (default 0)"),
        maybe('v', "verbose", "LEVEL", "Show for how long"),
        arg(
            't',
            "timeout",
            "FSD",
            "Wait so long for each rank (default 0.5s, 0 for ever)",
        ),
        flag('\0', "summary", "Show the state of the subtree only"),
        flag('\0', "down", "Show only what is not well"),
        flag('\0', "no-pretty", "Do not draw the tree"),
        flag('\0', "no-ghost", "Leave out what is behind a lost rank"),
        maybe('L', "color", "WHEN", "Use colour: never, always or auto"),
        arg('H', "highlight", "TARGET", "Mark ranks or hosts"),
        arg(
            'w',
            "wait",
            "STATE",
            "Wait until the subtree is in this state",
        ),
    ],
};

const STATES: [&str; 5] = ["full", "partial", "degraded", "lost", "offline"];

struct View<'a> {
    client: &'a Client,
    hosts: Hostlist,
    verbose: bool,
    down: bool,
    pretty: bool,
    ghosts: bool,
    timeout: f64,
    highlight: IdSet,
}

fn status(words: &[String]) -> i32 {
    let args = match STATUS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return STATUS.wrong_words();
    }
    fail::run(PROG, async {
        let wait = args.get("wait");
        if wait.is_some_and(|state| !STATES.contains(&state)) {
            return Err(Fail::new("invalid --wait state"));
        }
        let rank = Rank(u32::try_from(args.int("rank")?.unwrap_or(0)).unwrap_or(u32::MAX));
        let client = fail::connect_builtin().await?;
        let mut health = client.handle().stream::<OverlayHealth>(rank, &Empty {});
        let mut now;
        loop {
            now = health
                .next()
                .await
                .map_err(|error| Fail::of("overlay.health", error))?
                .ok_or_else(|| Fail::new("overlay.health: no answer"))?;
            if wait.is_none_or(|state| state == now.status) {
                break;
            }
        }
        let view = View {
            client: &client,
            hosts: hosts(&client).await?,
            verbose: args.has("verbose"),
            down: args.has("down"),
            pretty: !args.has("no-pretty"),
            ghosts: !args.has("no-ghost"),
            timeout: args.duration("timeout")?.unwrap_or(0.5),
            highlight: match args.get("highlight") {
                Some(target) => target_ranks(&hosts(&client).await?, target)?,
                None => IdSet::new(),
            },
        };
        if args.has("summary") {
            outln!("{}{}", now.status, view.duration(now.duration));
            return Ok(0);
        }
        let call = client
            .handle()
            .call::<OverlayTopology>(rank, &OfRank { rank: rank.0 });
        let topology = call
            .await
            .map_err(|error| Fail::of("overlay.topology", error))?;
        let line = view.line(now.rank, &now.status, now.duration, None);
        if !view.down || now.status != "full" {
            outln!("{line}");
        }
        view.children(&now, &topology, String::new()).await?;
        Ok(0)
    })
}

async fn hosts(client: &Client) -> Result<Hostlist, Fail> {
    client
        .attr("hostlist")
        .await?
        .parse()
        .map_err(|_| Fail::new("hostlist attribute is malformed"))
}

impl View<'_> {
    fn duration(&self, seconds: f64) -> String {
        if self.verbose {
            format!(" for {}", types::fsd::format_compiled(seconds, 6))
        } else {
            String::new()
        }
    }

    fn line(&self, rank: u32, status: &str, seconds: f64, error: Option<&str>) -> String {
        let host = self.hosts.nth(rank as usize).unwrap_or_default();
        let name = if self.highlight.contains(rank) {
            format!("<<{rank} {host}>>")
        } else {
            format!("{rank} {host}")
        };
        let error = error.map(|error| format!(" {error}")).unwrap_or_default();
        format!("{name}: {status}{}{error}", self.duration(seconds))
    }

    fn children<'b>(
        &'b self,
        health: &'b Health,
        topology: &'b Topology,
        indent: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), Fail>> + 'b>> {
        Box::pin(async move {
            let shown: Vec<_> = health
                .children
                .iter()
                .filter(|child| !self.down || child.status != "full")
                .collect();
            for (index, child) in shown.iter().enumerate() {
                let last = index + 1 == shown.len();
                let (mark, below) = match (self.pretty, last) {
                    (false, _) => ("", ""),
                    (true, true) => ("└─ ", "   "),
                    (true, false) => ("├─ ", "│  "),
                };
                let line = self.line(
                    child.rank,
                    &child.status,
                    child.duration,
                    child.error.as_deref(),
                );
                outln!("{indent}{mark}{line}");
                let Some(inner) = topology.children.iter().find(|t| t.rank == child.rank) else {
                    continue;
                };
                if inner.children.is_empty() {
                    continue;
                }
                let indent = format!("{indent}{below}");
                if matches!(child.status.as_str(), "lost" | "offline") {
                    if self.ghosts {
                        self.ghosts(inner, &child.status, &indent);
                    }
                    continue;
                }
                match self.ask(child.rank).await {
                    Ok(health) => self.children(&health, inner, indent).await?,
                    Err(error) => outln!("{indent}{error}"),
                }
            }
            Ok(())
        })
    }

    async fn ask(&self, rank: u32) -> Result<Health, String> {
        let call = self
            .client
            .handle()
            .call::<OverlayHealth>(Rank(rank), &Empty {});
        let answer = if self.timeout > 0.0 {
            match tokio::time::timeout(Duration::from_secs_f64(self.timeout), call).await {
                Ok(answer) => answer,
                Err(_) => return Err("Connection timed out".to_owned()),
            }
        } else {
            call.await
        };
        answer.map_err(|error| error.to_string())
    }

    /// What is behind a rank that is gone has its state.
    fn ghosts(&self, topology: &Topology, status: &str, indent: &str) {
        for (index, child) in topology.children.iter().enumerate() {
            let last = index + 1 == topology.children.len();
            let (mark, below) = match (self.pretty, last) {
                (false, _) => ("", ""),
                (true, true) => ("└─ ", "   "),
                (true, false) => ("├─ ", "│  "),
            };
            let host = self.hosts.nth(child.rank as usize).unwrap_or_default();
            outln!("{indent}{mark}{} {host}: {status}", child.rank);
            self.ghosts(child, status, &format!("{indent}{below}"));
        }
    }
}

/// The ranks an idset or hostlist means.
fn target_ranks(hosts: &Hostlist, target: &str) -> Result<IdSet, Fail> {
    if let Ok(ids) = target.parse() {
        return Ok(ids);
    }
    let wanted: Hostlist = target
        .parse()
        .map_err(|_| Fail::new(format!("invalid target: {target}")))?;
    let mut ranks = IdSet::new();
    for host in wanted.iter() {
        let mut found = false;
        for rank in hosts.positions(&host) {
            found = true;
            ranks.insert(u32::try_from(rank).unwrap_or(u32::MAX));
        }
        if !found {
            return Err(Fail::new(format!("unknown host: {host}")));
        }
    }
    Ok(ranks)
}

static LOOKUP: Parser = Parser {
    name: "flux overlay lookup",
    usage: "[OPTIONS] TARGET",
    about: "translate rank idset to hostlist or the reverse",
    family: Family::G,
    opts: &[],
};

fn one(parser: &'static Parser, words: &[String]) -> Result<(Args, String), i32> {
    let args = parser.parse(words)?;
    match args.words.as_slice() {
        [word] => {
            let word = word.clone();
            Ok((args, word))
        }
        _ => Err(parser.wrong_words()),
    }
}

fn lookup(words: &[String]) -> i32 {
    let (_, target) = match one(&LOOKUP, words) {
        Ok(found) => found,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let hosts = hosts(&client).await?;
        match target.parse::<IdSet>() {
            Ok(ids) => {
                if ids.last().is_some_and(|last| last as usize >= hosts.len()) {
                    return Err(Fail::new(format!("{target} is out of range")));
                }
                outln!("{}", hosts.select(&ids));
            }
            Err(_) => {
                let mut ranks = IdSet::new();
                let wanted: Hostlist = target
                    .parse()
                    .map_err(|_| Fail::new(format!("invalid target: {target}")))?;
                for host in wanted.iter() {
                    let at = hosts
                        .find(&host)
                        .ok_or_else(|| Fail::new(format!("unknown host: {host}")))?;
                    ranks.insert(u32::try_from(at).unwrap_or(u32::MAX));
                }
                outln!("{ranks}");
            }
        }
        Ok(0)
    })
}

static PARENTOF: Parser = Parser {
    name: "flux overlay parentof",
    usage: "[OPTIONS] RANK",
    about: "show the parent of RANK",
    family: Family::G,
    opts: &[],
};

async fn whole(client: &Client) -> Result<Topology, Fail> {
    let call = client
        .handle()
        .call::<OverlayTopology>(Rank::LEADER, &OfRank { rank: 0 });
    call.await
        .map_err(|error| Fail::of("overlay.topology", error))
}

fn parent(topology: &Topology, rank: u32) -> Option<u32> {
    topology.children.iter().find_map(|child| {
        if child.rank == rank {
            Some(topology.rank)
        } else {
            parent(child, rank)
        }
    })
}

fn parentof(words: &[String]) -> i32 {
    let (_, target) = match one(&PARENTOF, words) {
        Ok(found) => found,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let rank: u32 = target
            .parse()
            .map_err(|_| Fail::new(format!("invalid rank: {target}")))?;
        let client = fail::connect_builtin().await?;
        if rank == 0 {
            return Err(Fail::new("0 has no parent"));
        }
        match parent(&whole(&client).await?, rank) {
            Some(parent) => outln!("{parent}"),
            None => {
                return Err(Fail::new(format!(
                    "{rank} is not a valid rank in this instance"
                )));
            }
        }
        Ok(0)
    })
}

static DISCONNECT: Parser = Parser {
    name: "flux overlay disconnect",
    usage: "[OPTIONS] TARGET",
    about: "disconnect a subtree rooted at TARGET",
    family: Family::G,
    opts: &[arg(
        'r',
        "parent",
        "NODEID",
        "Ask this rank, not the target's parent",
    )],
};

fn disconnect(words: &[String]) -> i32 {
    let (args, target) = match one(&DISCONNECT, words) {
        Ok(found) => found,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let ranks = target_ranks(&hosts(&client).await?, &target)?;
        let (Some(rank), 1) = (ranks.first(), ranks.len()) else {
            return Err(Fail::new("TARGET must be a single rank or host"));
        };
        let parent = match args.int("parent")? {
            Some(parent) => u32::try_from(parent).unwrap_or(u32::MAX),
            None => parent(&whole(&client).await?, rank)
                .ok_or_else(|| Fail::new(format!("{rank} has no parent")))?,
        };
        err!("{PROG}: asking rank {parent} to disconnect child rank {rank}");
        let call = client
            .handle()
            .call::<OverlayDisconnectSubtree>(Rank(parent), &OfRank { rank });
        call.await
            .map_err(|error| Fail::of("overlay.disconnect-subtree", error))?;
        Ok(0)
    })
}

static ERRORS: Parser = Parser {
    name: "flux overlay errors",
    usage: "[OPTIONS]",
    about: "summarize overlay errors",
    family: Family::G,
    opts: &[arg('t', "timeout", "FSD", "Wait so long for each rank")],
};

fn errors(words: &[String]) -> i32 {
    let args = match ERRORS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let hosts = hosts(&client).await?;
        let view = View {
            client: &client,
            hosts: hosts.clone(),
            verbose: false,
            down: false,
            pretty: false,
            ghosts: false,
            timeout: args.duration("timeout")?.unwrap_or(0.5),
            highlight: IdSet::new(),
        };
        let topology = whole(&client).await?;
        let mut found: Vec<(String, Hostlist)> = Vec::new();
        let mut waiting = vec![&topology];
        while let Some(node) = waiting.pop() {
            let Ok(health) = view.ask(node.rank).await else {
                continue;
            };
            for child in &health.children {
                if let Some(error) = child.error.as_deref().filter(|error| !error.is_empty()) {
                    let host = hosts.nth(child.rank as usize).unwrap_or_default();
                    match found.iter_mut().find(|(text, _)| text == error) {
                        Some((_, list)) => list.push(&host),
                        None => found.push((error.to_owned(), Hostlist::from_iter([host]))),
                    }
                }
                if !matches!(child.status.as_str(), "lost" | "offline") {
                    let inner = node.children.iter().find(|node| node.rank == child.rank);
                    waiting.extend(inner.filter(|node| !node.children.is_empty()));
                }
            }
        }
        for (text, list) in found {
            outln!("{list}: {text}");
        }
        Ok(0)
    })
}

static TRACE: Parser = Parser {
    name: "flux overlay trace",
    usage: "[OPTIONS] [topic-glob]",
    about: "Trace messages received on overlay network",
    family: Family::G,
    opts: &[
        arg('r', "rank", "NODEID", "Only messages of this neighbour"),
        messages::FULL,
        messages::TYPE,
        messages::COLOR,
        messages::HUMAN,
        messages::DELTA,
    ],
};

fn trace(words: &[String]) -> i32 {
    let asked = || {
        let args = TRACE.parse(words)?;
        let glob = match args.words.as_slice() {
            [] => "*",
            [glob] => glob,
            _ => return Err(TRACE.wrong_words()),
        };
        let request = TraceOverlay {
            typemask: messages::typemask(PROG, &args)?,
            topic_glob: glob.to_owned(),
            nodeid: -1,
            full: args.has("full"),
        };
        let view = messages::View::new(PROG, &args, None)?;
        Ok((args, view, request))
    };
    let (args, view, mut request) = match asked() {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        request.nodeid = args.int("rank")?.unwrap_or(-1);
        let client = fail::connect_builtin().await?;
        view.show::<OverlayTrace>(&client, &request).await
    })
}
