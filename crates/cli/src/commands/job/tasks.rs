//! Where the tasks of a job are.

use client::Client;
use proto::job_info::{JobInfoLookup, Lookup, lookup_flags, watch_flags};
use rpc::Dest;
use spec::{ResourceSet, Taskmap};
use types::{Errno, Hostlist, JobId};

use super::{PROG, connect};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg};
use crate::{attach, outln};

static TASKMAP: Parser = Parser {
    name: "flux-job taskmap",
    usage: "[OPTION] JOBID|TASKMAP",
    about: "Utility function for working with job task maps",
    family: Family::G,
    opts: &[
        arg('\0', "taskids", "NODEID", "Print the tasks on a node"),
        arg(
            '\0',
            "ntasks",
            "NODEID",
            "Print the number of tasks on a node",
        ),
        arg('\0', "nodeid", "TASKID", "Print the node of a task"),
        arg('\0', "hostname", "TASKID", "Print the host of a task"),
        arg(
            '\0',
            "to",
            "FORMAT",
            "Print it in another form (raw, pmi, hosts, or multiline)",
        ),
    ],
};

/// A map, and the hosts of its nodes if it is a job's.
struct Map {
    map: Taskmap,
    hosts: Option<Hostlist>,
}

pub(super) fn taskmap(words: &[String]) -> i32 {
    let args = match TASKMAP.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [text] = args.words.as_slice() else {
        return TASKMAP.wrong_words();
    };
    // A map needs no instance.
    let Ok(id) = text.parse::<JobId>() else {
        let shown = text
            .parse()
            .map_err(|error| Fail::of("error decoding taskmap", error))
            .and_then(|map| show(&args, &Map { map, hosts: None }));
        return fail::report(PROG, shown.map(|()| 0));
    };
    fail::run(PROG, async {
        let client = connect().await?;
        let map = of_job(&client, id).await?;
        let hosts = if args.has("hostname") || args.get("to") == Some("hosts") {
            Some(hosts_of(&client, id).await?)
        } else {
            None
        };
        show(&args, &Map { map, hosts })?;
        Ok(0)
    })
}

/// The map a job's shell made, once it has.
async fn of_job(client: &Client, id: JobId) -> Result<Taskmap, Fail> {
    let wrong =
        |error: &dyn std::fmt::Display| Fail::new(format!("Unable to get job taskmap: {error}"));
    let mut events = attach::watch(client, id, "guest.exec.eventlog", watch_flags::WAITCREATE);
    loop {
        let entry = match events.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(wrong(&"job never started")),
            Err(error) if error.errno == Errno::ENOENT => return Err(wrong(&"no such job")),
            Err(error) => return Err(wrong(&error)),
        };
        if entry.name == "shell.start"
            && let Some(map) = entry.get("taskmap")
        {
            return Taskmap::from_value(map).map_err(|error| wrong(&error));
        }
    }
}

async fn hosts_of(client: &Client, id: JobId) -> Result<Hostlist, Fail> {
    let request = Lookup {
        id,
        keys: vec!["R".to_owned()],
        flags: lookup_flags::CURRENT | lookup_flags::JSON_DECODE,
    };
    let found = client
        .handle()
        .call::<JobInfoLookup>(Dest::Any, &request)
        .await?;
    let resources = found.get("R").ok_or_else(|| Fail::of("R", Errno::EPROTO))?;
    let set = ResourceSet::from_value(resources).map_err(|error| Fail::of("R", error))?;
    Ok(set.nodelist())
}

fn show(args: &Args, map: &Map) -> Result<(), Fail> {
    let none = Errno::ENOENT;
    let number = |key: &str| -> Result<Option<u32>, Fail> {
        match args.int(key)? {
            None => Ok(None),
            // Negative numbers are of no node and no task either.
            Some(number) => Ok(Some(u32::try_from(number).unwrap_or(u32::MAX))),
        }
    };
    if let Some(node) = number("taskids")? {
        let tasks = map.map.taskids(node);
        if tasks.is_empty() {
            return Err(Fail::new(format!("No taskids for node {node}: {none}")));
        }
        outln!("{tasks}");
    } else if let Some(node) = number("ntasks")? {
        let tasks = map.map.taskids(node);
        if tasks.is_empty() {
            return Err(Fail::new(format!(
                "failed to get task count for node {node}: {none}"
            )));
        }
        outln!("{}", tasks.len());
    } else if let Some(task) = number("nodeid")? {
        outln!("{}", node_of(&map.map, task)?);
    } else if let Some(task) = number("hostname")? {
        let hosts = map
            .hosts
            .as_ref()
            .ok_or_else(|| Fail::new("taskmap: can't use --hostname without a jobid"))?;
        outln!("{}", host(hosts, node_of(&map.map, task)?)?);
    } else {
        form(args.get("to"), map)?;
    }
    Ok(())
}

fn node_of(map: &Taskmap, task: u32) -> Result<u32, Fail> {
    map.nodeid(task).ok_or_else(|| {
        Fail::new(format!(
            "failed to get nodeid for task {task}: {}",
            Errno::ENOENT
        ))
    })
}

fn host(hosts: &Hostlist, node: u32) -> Result<String, Fail> {
    hosts
        .nth(node as usize)
        .ok_or_else(|| Fail::new(format!("failed to get host of node {node}")))
}

/// Shows a whole map.
fn form(form: Option<&str>, map: &Map) -> Result<(), Fail> {
    match form {
        None => outln!("{}", map.map.to_value()),
        Some("raw") => outln!("{}", map.map.to_raw()),
        Some("pmi") => outln!("{}", map.map.to_pmi()),
        Some("multiline") => {
            let tasks = u32::try_from(map.map.ntasks()).unwrap_or(u32::MAX);
            for task in 0..tasks {
                outln!("{task}: {}", node_of(&map.map, task)?);
            }
        }
        Some("hosts") => {
            let hosts = map
                .hosts
                .as_ref()
                .ok_or_else(|| Fail::new("taskmap: can't use --to=hosts without a jobid"))?;
            for (node, tasks) in (0..).zip(map.map.all_taskids()) {
                outln!("{}: {tasks}", host(hosts, node)?);
            }
        }
        Some(other) => return Err(Fail::new(format!("invalid value --to={other}"))),
    }
    Ok(())
}
