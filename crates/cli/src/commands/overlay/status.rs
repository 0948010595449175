//! `flux overlay status`: the tree of brokers and how each part of it is.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use client::Client;
use proto::overlay::{ChildHealth, Health, OfRank, OverlayTopology, Topology};
use types::{Hostlist, IdSet, Rank};

use super::{PROG, health, hosts, target_ranks};
use crate::color::{self, RED, YELLOW};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag, level, maybe};
use crate::outln;

static STATUS: Parser = Parser {
    name: "flux overlay status",
    usage: "[OPTIONS]",
    about: "Display overlay subtree health status",
    family: Family::G,
    opts: &[
        arg('r', "rank", "NODEID", "Begin at this rank (default 0)"),
        level("1: show for how long, 2: and round trips"),
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
        arg(
            'H',
            "highlight",
            "TARGET",
            "Mark ranks or hosts and what is above them",
        ),
        arg(
            'w',
            "wait",
            "STATE",
            "Wait until the subtree is in this state",
        ),
    ],
};

const STATES: [&str; 5] = ["full", "partial", "degraded", "lost", "offline"];

/// How the reference ends a colour, and what it shows ghosts and marked ranks in.
const DEFAULT: &str = "\x1b[39m";
const DARK: &str = "\x1b[90m";
const MARKED: &str = "\x1b[01;34m";

/// What is shown, and how.
struct View<'a> {
    client: &'a Client,
    hosts: Hostlist,
    verbose: i64,
    down: bool,
    pretty: bool,
    ghosts: bool,
    color: bool,
    timeout: Option<Duration>,
    highlight: IdSet,
}

pub(super) fn run(words: &[String]) -> i32 {
    let parsed = STATUS.parse(words).and_then(|args| {
        let color = color::wanted_g(&args)?;
        Ok((args, color))
    });
    let (args, color) = match parsed {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return STATUS.wrong_words();
    }
    fail::run(PROG, show(&args, color))
}

async fn show(args: &Args, color: bool) -> Result<i32, Fail> {
    let wait = args.get("wait");
    if wait.is_some_and(|state| !STATES.contains(&state)) {
        return Err(Fail::new("invalid --wait state"));
    }
    let verbose = args.verbosity()?;
    let rank = Rank(u32::try_from(args.int("rank")?.unwrap_or(0)).unwrap_or(u32::MAX));
    let timeout = args.duration("timeout")?.unwrap_or(0.5);
    let client = fail::connect_builtin().await?;
    let hosts = hosts(&client).await?;
    let highlight = match args.get("highlight") {
        Some(target) => marked(&hosts, target)?,
        None => IdSet::new(),
    };
    let view = View {
        client: &client,
        verbose,
        down: args.has("down"),
        pretty: !args.has("no-pretty"),
        ghosts: !args.has("no-ghost"),
        color,
        timeout: (timeout > 0.0).then(|| Duration::from_secs_f64(timeout)),
        highlight,
        hosts,
    };
    let began = Instant::now();
    let top = health(view.client, rank, view.timeout, wait).await?;
    let trip = began.elapsed();
    if args.has("summary") {
        outln!("{}{}", top.status, view.duration(top.duration));
        return Ok(0);
    }
    let call = client
        .handle()
        .call::<OverlayTopology>(rank, &OfRank { rank: rank.0 });
    let topology = call
        .await
        .map_err(|error| Fail::of("overlay.topology", error))?;
    if view.shows(&top.status) {
        let line = view.line(&topology, &top.status, Some(top.duration), None);
        outln!("{line}{}", view.trip(trip));
    }
    view.children(&top, &topology, String::new()).await;
    Ok(0)
}

/// The ranks to mark. Errors name what is not in the instance.
fn marked(hosts: &Hostlist, target: &str) -> Result<IdSet, Fail> {
    let ranks = target_ranks(hosts, target)
        .map_err(|fail| Fail::new(format!("Error decoding {target}: {}", fail.text)))?;
    let size = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    let beyond = ranks.iter().find(|&rank| rank >= size);
    if let Some(rank) = beyond {
        let last = size.saturating_sub(1);
        let text = format!("--highlight: rank {rank} not in set 0-{last}");
        return Err(Fail::new(text));
    }
    Ok(ranks)
}

impl View<'_> {
    fn shows(&self, status: &str) -> bool {
        !self.down || status != "full"
    }

    fn duration(&self, seconds: f64) -> String {
        if self.verbose > 0 {
            format!(" for {}", types::fsd::format_compiled(seconds, 6))
        } else {
            String::new()
        }
    }

    fn trip(&self, time: Duration) -> String {
        if self.verbose > 1 {
            format!(" ({:.3} ms)", time.as_secs_f64() * 1e3)
        } else {
            String::new()
        }
    }

    fn name(&self, topology: &Topology) -> String {
        let rank = topology.rank;
        let host = self.hosts.nth(rank as usize).unwrap_or_default();
        match (is_above(topology, &self.highlight), self.color) {
            (true, true) => color::paint(true, MARKED, &format!("{rank} {host}")),
            (true, false) => format!("<<{rank} {host}>>"),
            (false, _) => format!("{rank} {host}"),
        }
    }

    fn status(&self, status: &str, ghost: bool) -> String {
        let hue = match status {
            "lost" | "offline" if ghost => DARK,
            "lost" => RED,
            "offline" => YELLOW,
            _ => return status.to_owned(),
        };
        match self.color {
            true => format!("{hue}{status}{DEFAULT}"),
            false => status.to_owned(),
        }
    }

    /// A broker's line. One behind a broker that is gone has no time of its own.
    fn line(
        &self,
        topology: &Topology,
        status: &str,
        seconds: Option<f64>,
        error: Option<&str>,
    ) -> String {
        let mut line = self.name(topology) + ": " + &self.status(status, seconds.is_none());
        if let Some(seconds) = seconds {
            line += &self.duration(seconds);
        }
        if let Some(error) = error.filter(|error| !error.is_empty()) {
            line += " ";
            line += error;
        }
        line
    }

    /// What goes before a child's line, and before those of its children.
    fn branch(&self, indent: &str, last: bool) -> (String, String) {
        let (mark, below) = match (self.pretty, last) {
            (false, _) => ("", ""),
            (true, true) => ("└─ ", "   "),
            (true, false) => ("├─ ", "│  "),
        };
        (format!("{indent}{mark}"), format!("{indent}{below}"))
    }

    fn children<'b>(
        &'b self,
        health: &'b Health,
        topology: &'b Topology,
        indent: String,
    ) -> Pin<Box<dyn Future<Output = ()> + 'b>> {
        Box::pin(async move {
            for (index, child) in health.children.iter().enumerate() {
                let inner = topology.children.iter().find(|t| t.rank == child.rank);
                let alone = Topology {
                    rank: child.rank,
                    size: 1,
                    children: Vec::new(),
                };
                let last = index + 1 == health.children.len();
                let (mark, below) = self.branch(&indent, last);
                self.child(child, inner.unwrap_or(&alone), &mark, below)
                    .await;
            }
        })
    }

    async fn child(&self, child: &ChildHealth, topology: &Topology, mark: &str, below: String) {
        let line = self.line(
            topology,
            &child.status,
            Some(child.duration),
            child.error.as_deref(),
        );
        if matches!(child.status.as_str(), "lost" | "offline") {
            outln!("{mark}{line}");
            if self.ghosts {
                self.ghosts(topology, &child.status, &below);
            }
            return;
        }
        if topology.children.is_empty() && self.verbose < 2 {
            if self.shows(&child.status) {
                outln!("{mark}{line}");
            }
            return;
        }
        let began = Instant::now();
        match health(self.client, Rank(child.rank), self.timeout, None).await {
            Ok(health) => {
                if self.shows(&child.status) {
                    outln!("{mark}{line}{}", self.trip(began.elapsed()));
                }
                self.children(&health, topology, below).await;
            }
            Err(error) => outln!("{mark}{}: {error}", self.name(topology)),
        }
    }

    /// What is behind a rank that is gone has its state.
    fn ghosts(&self, topology: &Topology, status: &str, indent: &str) {
        for (index, child) in topology.children.iter().enumerate() {
            let last = index + 1 == topology.children.len();
            let (mark, below) = self.branch(indent, last);
            outln!("{mark}{}", self.line(child, status, None, None));
            self.ghosts(child, status, &below);
        }
    }
}

/// Whether one of these ranks is in the subtree.
fn is_above(topology: &Topology, ranks: &IdSet) -> bool {
    ranks.contains(topology.rank) || topology.children.iter().any(|child| is_above(child, ranks))
}
