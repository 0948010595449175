//! `flux resource status`, and what `drain` shows.

use std::collections::BTreeMap;

use proto::Empty;
use proto::job_manager::JobManagerStats;
use proto::resource::{DrainInfo, ResourceSchedStatus, ResourceStatus, Status};
use rpc::Dest;
use serde_json::Value as Json;
use spec::r::ResourceSet;
use types::IdSet;

use super::{
    COLOR, FORMAT, INCLUDE, LEADER, NO_HEADER, PREFIX, QUEUE, Queues, SKIP_EMPTY, STATE, STATES,
    chosen, include, wanted_queues,
};
use crate::commands::queue::print;
use crate::fail::{self, Fail};
use crate::format::{Format, Named, Row, Value};
use crate::options::{Args, Family, Parser};
use crate::{color, err};

static STATUS: Parser = Parser {
    name: "flux-resource status",
    usage: "[-h] [-o FORMAT] [-s STATE,...] [-i TARGETS] [-q QUEUE,...] [-n] [-L [WHEN]] [--skip-empty]",
    about: "",
    family: Family::P,
    opts: &[
        FORMAT, STATES, STATE, INCLUDE, QUEUE, NO_HEADER, COLOR, SKIP_EMPTY,
    ],
};

static FORMATS: &[Named] = &[
    (
        "default",
        "Default flux-resource status format string",
        "{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} {nodelist}",
    ),
    (
        "long",
        "Long flux-resource status format string",
        "{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} +:{reason:<30.30} {nodelist}",
    ),
];

const VALID: [&str; 11] = [
    "all",
    "online",
    "avail",
    "offline",
    "exclude",
    "drain",
    "draining",
    "drained",
    "torpid",
    "allocated",
    "housekeeping",
];

pub(super) fn heading(name: &str) -> Option<String> {
    let heading = match name {
        "state" | "statex" => "STATE",
        "nnodes" => "NNODES",
        "ranks" => "RANKS",
        "nodelist" => "NODELIST",
        "reason" => "REASON",
        "timestamp" => "TIME",
        "status" => "STATUS",
        "up" | "up.ascii" => "UP",
        "color_up" | "color_off" => "",
        _ => return None,
    };
    Some(heading.to_owned())
}

/// Ranks in one state.
#[derive(Clone)]
pub(super) struct Line {
    state: &'static str,
    online: bool,
    ranks: IdSet,
    nodelist: String,
    reason: String,
    timestamp: f64,
    color: bool,
}

impl Row for Line {
    fn field(&self, name: &str) -> Result<Value, String> {
        Ok(match name {
            "state" if self.online => self.state.into(),
            "state" => format!("{}*", self.state).into(),
            "statex" => self.state.into(),
            "nnodes" => self.ranks.len().into(),
            "ranks" => self.ranks.to_string().into(),
            "nodelist" => self.nodelist.clone().into(),
            "reason" => self.reason.clone().into(),
            "timestamp" if self.timestamp == 0.0 => "".into(),
            "timestamp" => Value::Float(self.timestamp),
            "status" if self.online => "online".into(),
            "status" => "offline".into(),
            "up" if self.online => "✔".into(),
            "up" => "✗".into(),
            "up.ascii" if self.online => "y".into(),
            "up.ascii" => "n".into(),
            "color_up" if !self.color => "".into(),
            "color_up" if self.online => "\x1b[01;32m".into(),
            "color_up" => "\x1b[01;31m".into(),
            _ if self.color => "\x1b[0;0m".into(),
            _ => "".into(),
        })
    }
}

/// What is known of the ranks.
struct View {
    status: Status,
    all: ResourceSet,
    allocated: IdSet,
    housekeeping: IdSet,
    ranks: IdSet,
    color: bool,
}

async fn query(args: &Args) -> Result<View, Fail> {
    let color = color::wanted_p(args)?;
    let client = fail::connect_p().await?;
    let handle = client.handle();
    let status = handle.call::<ResourceStatus>(LEADER, &Empty {});
    let sched = handle.call::<ResourceSchedStatus>(LEADER, &Empty {});
    let stats = handle.call::<JobManagerStats>(Dest::Any, &Empty {});
    let queues = Queues::read(&client);
    let status = status.await?;
    let all = ResourceSet::from_value(&Json::Object(status.resources.clone()))
        .map_err(|error| Fail::new(error.to_string()))?;
    let mut allocated = match ResourceSet::from_value(&sched.await?.allocated) {
        Ok(set) => set.ranks(),
        Err(_) => IdSet::new(),
    };
    let mut housekeeping = IdSet::new();
    let running = &stats.await.map(Json::Object).unwrap_or_default()["housekeeping"]["running"];
    for job in running
        .as_object()
        .into_iter()
        .flat_map(|jobs| jobs.values())
    {
        if let Some(ids) = job["pending"].as_str().and_then(|text| text.parse().ok()) {
            housekeeping.insert_all(&ids);
        }
    }
    allocated.remove_all(&housekeeping);
    let mut ranks = all.ranks();
    if let Some(wanted) = include(args, &all)? {
        ranks = ranks.intersection(&wanted);
    }
    let queues = queues.await?;
    let wanted = wanted_queues(args);
    if !wanted.is_empty() {
        ranks = ranks.intersection(&queues.restrict(&all, &wanted)?.ranks());
    }
    Ok(View {
        status,
        all,
        allocated,
        housekeeping,
        ranks,
        color,
    })
}

impl View {
    fn line(&self, state: &'static str, ranks: IdSet, online: bool) -> Line {
        let nodelist = self.all.copy_ranks(&ranks).nodelist().to_string();
        Line {
            state,
            online,
            ranks,
            nodelist,
            reason: String::new(),
            timestamp: 0.0,
            color: self.color,
        }
    }

    /// Drained ranks, split by whether jobs still run there and whether they are online.
    fn drained(&self) -> Result<Vec<Line>, Fail> {
        let mut lines = Vec::new();
        for (ids, info) in &self.status.drain {
            let ids: IdSet = ids
                .parse()
                .map_err(|_| Fail::new("malformed drain object"))?;
            let ids = ids.intersection(&self.ranks);
            let info: DrainInfo = serde_json::from_value(info.clone())
                .map_err(|error| Fail::new(error.to_string()))?;
            let busy = ids.intersection(&self.allocated);
            for (state, ids) in [("draining", &busy), ("drained", &ids.difference(&busy))] {
                for online in [true, false] {
                    let ranks = if online {
                        ids.intersection(&self.status.online)
                    } else {
                        ids.difference(&self.status.online)
                    };
                    if ranks.is_empty() {
                        continue;
                    }
                    let mut line = self.line(state, ranks, online);
                    line.reason = info.reason.clone();
                    line.timestamp = info.timestamp;
                    lines.push(line);
                }
            }
        }
        lines.sort_by_key(|line| line.ranks.first());
        Ok(lines)
    }

    fn drain_ids(&self) -> IdSet {
        let mut all = IdSet::new();
        for ids in self.status.drain.keys().filter_map(|ids| ids.parse().ok()) {
            all.insert_all(&ids);
        }
        all
    }
}

pub(super) fn run(words: &[String]) -> i32 {
    let args = match STATUS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PREFIX, async {
        let mut format = chosen(&args, "status", FORMATS, heading)?;
        let given = args.get("states").or(args.get("state"));
        let names = wanted_states(given)?;
        let view = query(&args).await?;
        let has = |name: &str| names.iter().any(|known| known == name);
        let drain = view.drain_ids();
        let mut gone = drain.union(&view.status.exclude);
        gone.insert_all(&view.status.torpid);
        let mut lines = Vec::new();
        let sets = [
            ("avail", view.ranks.difference(&gone)),
            ("exclude", view.ranks.intersection(&view.status.exclude)),
            ("allocated", view.ranks.intersection(&view.allocated)),
            ("torpid", view.ranks.intersection(&view.status.torpid)),
            ("housekeeping", view.ranks.intersection(&view.housekeeping)),
        ];
        let keep_empty = given.is_some() && !args.has("skip-empty");
        for (state, set) in sets {
            if !has(state) {
                continue;
            }
            for online in [true, false] {
                let ranks = if online {
                    set.intersection(&view.status.online)
                } else {
                    set.difference(&view.status.online)
                };
                let wanted = if online {
                    !has("offline-only")
                } else {
                    !has("online-only")
                };
                let empty_wanted = keep_empty && (online || has("offline"));
                if wanted && (!ranks.is_empty() || empty_wanted) {
                    lines.push(view.line(state, ranks, online));
                }
            }
        }
        let drained = view.drained()?;
        for state in ["draining", "drained"] {
            if keep_empty && has(state) && !drained.iter().any(|line| line.state == state) {
                lines.push(view.line(state, IdSet::new(), true));
            }
        }
        for line in drained {
            let wanted = if line.online {
                !has("offline-only")
            } else {
                !has("online-only")
            };
            if has(line.state) && wanted {
                lines.push(line);
            }
        }
        show(&mut format, lines, &args, view.color)
    })
}

/// The states to show, with marks for those who want one kind of rank only.
fn wanted_states(text: Option<&str>) -> Result<Vec<String>, Fail> {
    let defaults = [
        "avail",
        "exclude",
        "draining",
        "drained",
        "torpid",
        "housekeeping",
    ];
    let Some(text) = text else {
        return Ok(defaults.map(str::to_owned).to_vec());
    };
    let mut names: Vec<String> = text.split(',').map(str::to_lowercase).collect();
    let valid = || err!("flux-resource: INFO: valid states: {}", VALID.join(","));
    if text == "help" {
        valid();
        return Err(Fail::silent(0));
    }
    if let Some(name) = names.iter().find(|name| !VALID.contains(&name.as_str())) {
        err!("flux-resource: ERROR: Invalid resource state {name} specified");
        valid();
        return Err(Fail::silent(1));
    }
    let has = |names: &[String], name: &str| names.iter().any(|known| known == name);
    let only = |names: &[String]| {
        names
            .iter()
            .all(|name| name == "online" || name == "offline")
    };
    if has(&names, "drain") {
        names.extend(["draining", "drained"].map(str::to_owned));
    }
    let kinds_only = only(&names);
    if has(&names, "all") || kinds_only {
        names.extend(defaults.map(str::to_owned));
        if has(&names, "all") {
            names.push("allocated".to_owned());
        }
    }
    match (has(&names, "online"), has(&names, "offline")) {
        (true, false) => names.push("online-only".to_owned()),
        (false, true) if kinds_only => names.push("offline-only".to_owned()),
        _ => {}
    }
    Ok(names)
}

/// Merges lines that look alike but for the ranks, and prints them.
fn show(format: &mut Format, lines: Vec<Line>, args: &Args, color: bool) -> Result<i32, Fail> {
    let ranks = |name: &str| matches!(name, "nodelist" | "ranks" | "nnodes");
    // Whole values are compared: those cut to the same text may differ.
    let mut plain = format.without_width(|_| true);
    plain.remove(ranks);
    let mut merged: BTreeMap<usize, Line> = BTreeMap::new();
    let mut seen: Vec<String> = Vec::new();
    let mut nodes: Vec<types::Hostlist> = Vec::new();
    for line in lines {
        let text = plain.row(&line).map_err(Fail::new)?;
        let hosts = line.nodelist.parse().unwrap_or_default();
        match seen.iter().position(|known| *known == text) {
            Some(index) => {
                nodes[index].append(&hosts);
                if let Some(known) = merged.get_mut(&index) {
                    known.ranks.insert_all(&line.ranks);
                    known.nodelist = nodes[index].to_string();
                }
            }
            None => {
                merged.insert(seen.len(), line);
                seen.push(text);
                nodes.push(hosts);
            }
        }
    }
    let mut lines: Vec<Line> = merged.into_values().collect();
    if !color {
        format.remove(|name| name.starts_with("color_"));
    }
    print(format, &mut lines, !args.has("no-header"))
}

/// Lists the drained ranks.
pub(super) async fn list_drained(args: &Args, formats: &[Named]) -> Result<i32, Fail> {
    let mut format = chosen(args, "drain", formats, heading)?;
    let view = query(args).await?;
    let lines = view.drained()?;
    show(&mut format, lines, args, view.color)
}
