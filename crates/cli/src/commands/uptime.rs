//! `flux uptime`.

use proto::Empty;
use proto::broker::StateGet;
use proto::job_manager::{JobManagerQueueList, JobManagerQueueStatus, Queue};
use proto::resource::ResourceStatus;
use rpc::Dest;
use types::{IdSet, Rank};

use super::jobs::username;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};
use crate::{outln, timefmt};

static PARSER: Parser = Parser {
    name: "flux uptime",
    usage: "[OPTIONS]",
    about: "Show how long this Flux instance has been running",
    family: Family::G,
    opts: &[],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    if let Err(status) = PARSER.parse(words) {
        return status;
    }
    fail::run("flux", async {
        let client = fail::connect().await?;
        let handle = client.handle();
        // All requests travel together.
        let attr = |name: &str| {
            let request = proto::attr::Name {
                name: name.to_owned(),
            };
            handle.call::<proto::attr::AttrGet>(Dest::Any, &request)
        };
        let state = handle.call::<StateGet>(Dest::Any, &Empty {});
        let (owner, level, size) = (attr("security.owner"), attr("instance-level"), attr("size"));
        let start = attr("broker.starttime");
        let state = state.await.map_err(|error| Fail::of("state", error))?;
        let owner = owner.await?.value;
        let owner = owner.parse().map_or(owner, username);
        let mut duration = state.duration;
        if state.state == "run"
            && let Ok(start) = start.await
            && let Ok(start) = start.value.parse::<f64>()
        {
            duration = timefmt::now() - start;
        }
        let mut line = format!(
            " {} {} {},  owner {owner},  depth {},  size {}",
            timefmt::strftime("%H:%M:%S", timefmt::now()),
            state.state,
            types::fsd::format_compiled(duration, 2),
            level.await?.value,
            size.await?.value
        );
        if state.state == "run" {
            let leader = Dest::Rank(Rank::LEADER);
            // Services that are not there are simply not mentioned.
            if let Ok(status) = handle.call::<ResourceStatus>(leader, &Empty {}).await {
                let drained: usize = status
                    .drain
                    .keys()
                    .filter_map(|ids| ids.parse::<IdSet>().ok())
                    .map(|ids| ids.len())
                    .sum();
                if drained > 0 {
                    line.push_str(&format!(",  {drained} drained"));
                }
                if !status.offline.is_empty() {
                    line.push_str(&format!(",  {} offline", status.offline.len()));
                }
            }
        }
        outln!("{line}");
        if state.state == "run" {
            let (disabled, stopped) = queues(&client).await.unwrap_or_default();
            let notes: Vec<_> = [
                (disabled, "submit disabled"),
                (stopped, "scheduler stopped"),
            ]
            .into_iter()
            .filter_map(|(on, text)| on.then_some(text))
            .collect();
            if !notes.is_empty() {
                outln!("  {}", notes.join(",  "));
            }
        }
        Ok(0)
    })
}

/// Whether every queue is closed, and whether every queue is stopped.
async fn queues(client: &client::Client) -> Result<(bool, bool), Fail> {
    let handle = client.handle();
    let list = handle.call::<JobManagerQueueList>(Dest::Any, &Empty {});
    let names: Vec<Option<String>> = match list.await?.queues {
        queues if queues.is_empty() => vec![None],
        queues => queues.into_iter().map(Some).collect(),
    };
    let calls: Vec<_> = names
        .into_iter()
        .map(|name| handle.call::<JobManagerQueueStatus>(Dest::Any, &Queue { name }))
        .collect();
    let (mut disabled, mut stopped) = (true, true);
    for call in calls {
        let queue = call.await?;
        disabled &= !queue.enable;
        stopped &= !queue.start;
    }
    Ok((disabled, stopped))
}
