//! `flux job hostpids`: hosts and process ids of a job's tasks.

use std::time::Duration;

use client::Client;
use proto::Empty;
use proto::job_info::watch_flags;
use proto::job_list::{JobListId, ListId};
use rpc::Dest;
use spec::proctable::{Packed, Process};
use types::{Errno, IdSet, JobId, Rank};

use super::{PROG, connect, parse_id};
use crate::commands::jobs::Job;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg};
use crate::{attach, outln};

static PARSER: Parser = Parser {
    name: "flux-job hostpids",
    usage: "[OPTIONS] JOBID",
    about: "Print host:pid pairs for tasks in JOBID",
    family: Family::G,
    opts: &[
        arg(
            'd',
            "delimiter",
            "STRING",
            "Set output delimiter (default=\",\")",
        ),
        arg('r', "ranks", "IDSET", "Include only task ranks in IDSET"),
        arg('t', "timeout", "DURATION", "timeout after DURATION"),
    ],
};

pub(super) fn hostpids(words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [word] = args.words.as_slice() else {
        return PARSER.wrong_words();
    };
    fail::run(PROG, async {
        let ranks: Option<IdSet> = match args.get("ranks") {
            None | Some("all") => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|error| Fail::of(format!("--ranks={text}"), error))?,
            ),
        };
        let timeout = args.duration("timeout")?;
        let id = parse_id(word)?;
        let client = connect().await?;
        let leader = leader(&client, id, word);
        let leader = match timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            Some(timeout) => tokio::time::timeout(timeout, leader)
                .await
                .map_err(|_| Fail::new("hostpids: timeout waiting for shell.start event"))??,
            None => leader.await?,
        };
        let rows = table(&client, &leader).await?;
        let shown: Vec<String> = rows
            .iter()
            .filter(|row| ranks.as_ref().is_none_or(|ranks| ranks.contains(row.task)))
            .map(|row| format!("{}:{}", row.host, row.pid))
            .collect();
        outln!("{}", shown.join(args.get("delimiter").unwrap_or(",")));
        Ok(0)
    })
}

/// The shell that answers for a job.
struct Leader {
    service: String,
    rank: Rank,
}

/// Waits until all tasks of a job run.
async fn leader(client: &Client, id: JobId, word: &str) -> Result<Leader, Fail> {
    let inactive = || Fail::new(format!("hostpids: job {word} is inactive"));
    let request = ListId {
        id,
        attrs: vec!["state".to_owned()],
        state: None,
    };
    match client.handle().call::<JobListId>(Dest::Any, &request).await {
        Ok(found) => {
            if Job::new(found.job).is_inactive() {
                return Err(inactive());
            }
        }
        Err(error) if error.errno == Errno::ENOENT => {
            return Err(Fail::of(word, "No such job"));
        }
        Err(error) => return Err(error.into()),
    }
    let mut events = attach::watch(client, id, "guest.exec.eventlog", watch_flags::WAITCREATE);
    let mut leader = None;
    loop {
        let entry = match events.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(inactive()),
            Err(error) if error.errno == Errno::ENOENT => return Err(inactive()),
            Err(error) => return Err(error.into()),
        };
        match (entry.name.as_str(), &leader) {
            ("shell.init", _) => {
                let wrong = || Fail::of("shell.init", Errno::EPROTO);
                let rank = entry.get_i64("leader-rank");
                let rank = rank.and_then(|rank| u32::try_from(rank).ok());
                leader = Some(Leader {
                    service: entry.get_str("service").ok_or_else(wrong)?.to_owned(),
                    rank: Rank(rank.ok_or_else(wrong)?),
                });
            }
            ("shell.start", Some(_)) => break,
            _ => {}
        }
    }
    leader.ok_or_else(inactive)
}

async fn table(client: &Client, leader: &Leader) -> Result<Vec<Process>, Fail> {
    let unable = |error: &dyn std::fmt::Display| {
        Fail::new(format!("hostpids: unable to get proctable: {error}"))
    };
    let topic = format!("{}.proctable", leader.service);
    let payload = proto::json_payload(&Empty {});
    let call = client
        .handle()
        .call_raw(topic.into(), Dest::Rank(leader.rank), payload);
    let reply = call.await.map_err(|error| unable(&error))?;
    let text = reply.text().ok_or_else(|| unable(&Errno::EPROTO))?;
    let packed: Packed = serde_json::from_str(text).map_err(|error| unable(&error))?;
    packed.unpack().map_err(|error| unable(&error))
}
