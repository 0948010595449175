//! `flux overlay`: the tree of brokers.

mod status;

use std::time::Duration;

use client::Client;
use proto::Empty;
use proto::overlay::{
    ChildHealth, Health, OfRank, OverlayDisconnectSubtree, OverlayHealth, OverlayTopology, Topology,
};
use proto::trace::{OverlayTrace, TraceOverlay};
use rpc::RpcError;
use types::{Errno, Hostlist, IdSet, Rank};

use super::trace as messages;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg};
use crate::{err, outln};

const PROG: &str = "flux-overlay";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux overlay",
        "Manage overlay network",
        &[
            ("errors", "[OPTIONS]", errors),
            ("status", "[OPTIONS]", status::run),
            ("lookup", "[OPTIONS] TARGET", lookup),
            ("parentof", "[OPTIONS] RANK", parentof),
            ("disconnect", "[OPTIONS] TARGET", disconnect),
            ("trace", "[OPTIONS] [topic-glob]", trace),
        ],
        words,
    )
}

async fn hosts(client: &Client) -> Result<Hostlist, Fail> {
    client
        .attr("hostlist")
        .await?
        .parse()
        .map_err(|_| Fail::new("hostlist attribute is malformed"))
}

/// The ranks an idset or hostlist means. Of several brokers on a host, the first stands for it.
fn target_ranks(hosts: &Hostlist, target: &str) -> Result<IdSet, Fail> {
    if let Ok(ids) = target.parse() {
        return Ok(ids);
    }
    let wanted: Hostlist = target
        .parse()
        .map_err(|_| Fail::new("target must be a valid idset or hostlist"))?;
    let mut ranks = IdSet::new();
    for host in wanted.iter() {
        let at = hosts
            .find(&host)
            .ok_or_else(|| Fail::new(format!("host {host} not found in host map")))?;
        ranks.insert(u32::try_from(at).unwrap_or(u32::MAX));
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

/// The one word a subcommand takes; `missing` is what to say where it is not given.
fn one(parser: &'static Parser, words: &[String], missing: &str) -> Result<(Args, String), i32> {
    let args = parser.parse(words)?;
    match args.words.as_slice() {
        [word] => {
            let word = word.clone();
            Ok((args, word))
        }
        _ => {
            err!("{PROG}: {missing}");
            Err(1)
        }
    }
}

fn lookup(words: &[String]) -> i32 {
    let (_, target) = match one(&LOOKUP, words, "single TARGET argument is required") {
        Ok(found) => found,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let hosts = hosts(&client).await?;
        match target.parse::<IdSet>() {
            Ok(ids) => {
                if let Some(rank) = ids.iter().find(|&rank| rank as usize >= hosts.len()) {
                    return Err(Fail::new(format!("rank {rank} is not in host map")));
                }
                outln!("{}", hosts.select(&ids));
            }
            Err(_) => outln!("{}", target_ranks(&hosts, &target)?),
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

fn not_a_rank(rank: u32) -> Fail {
    Fail::new(format!("{rank} is not a valid rank in this instance"))
}

/// The parent of a rank. Errors: it has none, or is not in the instance.
fn parent_of(topology: &Topology, rank: u32) -> Result<u32, Fail> {
    if rank == topology.rank {
        return Err(Fail::new(format!("{rank} has no parent")));
    }
    parent(topology, rank).ok_or_else(|| not_a_rank(rank))
}

/// Asks a broker for its health, or waits until it is in a state. The timeout is for each answer.
async fn health(
    client: &Client,
    rank: Rank,
    timeout: Option<Duration>,
    wait: Option<&str>,
) -> Result<Health, RpcError> {
    let mut answers = client.handle().stream::<OverlayHealth>(rank, &Empty {});
    loop {
        let answer = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, answers.next())
                .await
                .unwrap_or(Err(Errno::ETIMEDOUT.into())),
            None => answers.next().await,
        };
        let health = answer?.ok_or(RpcError::from(Errno::ENODATA))?;
        if wait.is_none_or(|state| state == health.status) {
            return Ok(health);
        }
    }
}

fn parentof(words: &[String]) -> i32 {
    let (_, target) = match one(&PARENTOF, words, "RANK is required") {
        Ok(found) => found,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let rank: u32 = target
            .parse()
            .map_err(|_| Fail::new(format!("invalid rank: {target}")))?;
        let client = fail::connect_builtin().await?;
        outln!("{}", parent_of(&whole(&client).await?, rank)?);
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
    let (args, target) = match one(&DISCONNECT, words, "TARGET is required") {
        Ok(found) => found,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let hosts = hosts(&client).await?;
        let ranks = target_ranks(&hosts, &target);
        let (Ok(Some(rank)), Ok(1)) = (
            ranks.as_ref().map(IdSet::first),
            ranks.as_ref().map(IdSet::len),
        ) else {
            return Err(Fail::new("TARGET must be a valid rank or hostname"));
        };
        let topology = whole(&client).await?;
        let parent = match args.int("parent")? {
            Some(parent) => u32::try_from(parent).unwrap_or(u32::MAX),
            None => parent_of(&topology, rank)?,
        };
        let named = |rank: u32| match hosts.nth(rank as usize) {
            Some(host) => Ok(format!("{host} (rank {rank})")),
            None => Err(not_a_rank(rank)),
        };
        let (above, below) = (named(parent)?, named(rank)?);
        err!("{PROG}: asking {above} to disconnect child {below}");
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
        let timeout = args.duration("timeout")?.unwrap_or(0.5);
        let timeout = (timeout > 0.0).then(|| Duration::from_secs_f64(timeout));
        let topology = whole(&client).await?;
        let mut found: Vec<(String, Hostlist)> = Vec::new();
        let mut note = |rank: u32, error: &str| {
            let host = hosts.nth(rank as usize).unwrap_or_default();
            match found.iter_mut().find(|(text, _)| text == error) {
                Some((_, list)) => list.push(&host),
                None => found.push((error.to_owned(), Hostlist::from_iter([host]))),
            }
        };
        // Depth first, in the order of ranks: the last in line is next.
        let mut waiting = vec![(&topology, None)];
        while let Some((node, found)) = waiting.pop() {
            let gone = |child: &ChildHealth| matches!(child.status.as_str(), "lost" | "offline");
            let below: Vec<(&Topology, Option<ChildHealth>)> = match found {
                Some(child) if gone(&child) => {
                    let error = child.error.unwrap_or_default();
                    if !error.is_empty() {
                        note(node.rank, &error);
                    }
                    let orphan = |node: &Topology| ChildHealth {
                        rank: node.rank,
                        status: child.status.clone(),
                        duration: 0.0,
                        error: Some("lost parent".to_owned()),
                    };
                    node.children
                        .iter()
                        .map(|node| (node, Some(orphan(node))))
                        .collect()
                }
                Some(_) if node.children.is_empty() => Vec::new(),
                _ => match health(&client, Rank(node.rank), timeout, None).await {
                    Err(error) => {
                        note(node.rank, &error.to_string());
                        Vec::new()
                    }
                    Ok(health) => {
                        let of = |node: &Topology| {
                            let child = health.children.iter().find(|c| c.rank == node.rank);
                            child.cloned()
                        };
                        let below = node.children.iter();
                        below.map(|node| (node, of(node))).collect()
                    }
                },
            };
            waiting.extend(below.into_iter().rev());
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
