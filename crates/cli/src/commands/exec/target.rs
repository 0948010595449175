//! Where commands run: on brokers, or on the nodes of a job.

use client::Client;
use proto::job_info::watch_flags;
use proto::job_list::{JobListId, ListId};
use rpc::Dest;
use types::{Errno, IdSet, JobId};

use crate::attach;
use crate::commands::jobs::Job;
use crate::fail::Fail;
use crate::options::Args;

/// The servers that are asked.
pub(super) struct Target {
    /// Their service.
    pub(super) service: String,
    /// Their ranks in the instance.
    pub(super) ranks: IdSet,
}

impl Target {
    /// What a command line asks for.
    pub(super) async fn of(client: &Client, args: &Args) -> Result<Target, Fail> {
        let mut target = match args.get("jobid") {
            Some(word) => Target::job(client, word).await?,
            None => Target::instance(client).await?,
        };
        if let Some(service) = args.get("service") {
            service.clone_into(&mut target.service);
        }
        target.ranks = chosen(args, &target.ranks, args.has("jobid"))?;
        Ok(target)
    }

    async fn instance(client: &Client) -> Result<Target, Fail> {
        let size = client.attr("size").await?;
        let size = size.parse().map_err(|_| Fail::of("size", Errno::EPROTO))?;
        Ok(Target {
            service: "rexec".to_owned(),
            ranks: IdSet::first_n(size),
        })
    }

    /// The shells of a running job.
    async fn job(client: &Client, word: &str) -> Result<Target, Fail> {
        let id: JobId = word
            .parse()
            .map_err(|_| Fail::new(format!("error parsing jobid: \"{word}\"")))?;
        let request = ListId {
            id,
            attrs: vec!["ranks".to_owned(), "state".to_owned()],
            state: None,
        };
        let call = client.handle().call::<JobListId>(Dest::Any, &request);
        let found = call.await.map_err(|error| match error.errno {
            Errno::ENOENT => Fail::new(format!("job {word} not found")),
            _ => Fail::of(format!("unable to get info for job {word}"), error),
        })?;
        let job = Job::new(found.job);
        if !job.is_running() {
            return Err(Fail::new(format!("job {word} is not currently running")));
        }
        let ranks = job.str("ranks");
        Ok(Target {
            service: format!("{}.rexec", shell_service(client, id, word).await?),
            ranks: ranks
                .parse()
                .map_err(|error| Fail::of(format!("ranks of job {word}: {ranks:?}"), error))?,
        })
    }
}

/// Waits until the shells of a job have a service, and tells its name.
async fn shell_service(client: &Client, id: JobId, word: &str) -> Result<String, Fail> {
    let failed = |error: &dyn std::fmt::Display| {
        Fail::of(
            format!("failed to get shell.init event for {word}"),
            error.to_string(),
        )
    };
    let mut events = attach::watch(client, id, "guest.exec.eventlog", watch_flags::WAITCREATE);
    loop {
        match events.next().await {
            Ok(Some(entry)) if entry.name == "shell.init" => {
                let service = entry.get_str("service").map(str::to_owned);
                return service.ok_or_else(|| failed(&Errno::EPROTO));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(failed(&Errno::ENODATA)),
            Err(error) => return Err(failed(&error)),
        }
    }
}

/// The ranks asked for. In a job they are given as indexes into its nodes.
fn chosen(args: &Args, all: &IdSet, indexed: bool) -> Result<IdSet, Fail> {
    let numbers = match indexed {
        true => IdSet::first_n(u32::try_from(all.len()).unwrap_or(u32::MAX)),
        false => all.clone(),
    };
    let mut chosen = match args.get("rank") {
        None | Some("all") => numbers.clone(),
        Some(text) => text
            .parse()
            .map_err(|_| Fail::of(format!("failed to decode idset '{text}'"), Errno::EINVAL))?,
    };
    let invalid = chosen.difference(&numbers);
    if chosen.is_empty() || !invalid.is_empty() {
        return Err(Fail::new(format!(
            "One or more invalid --ranks specified: {}",
            args.get("rank").unwrap_or_default()
        )));
    }
    if let Some(text) = args.get("exclude") {
        let excluded = text
            .parse()
            .map_err(|_| Fail::of("error decoding --exclude idset", Errno::EINVAL))?;
        chosen.remove_all(&excluded);
    }
    if chosen.is_empty() {
        return Err(Fail::new("No targets specified"));
    }
    Ok(match indexed {
        true => chosen
            .iter()
            .filter_map(|index| all.nth(usize::try_from(index).ok()?))
            .collect(),
        false => chosen,
    })
}
