//! What an instance tells the instance it is a job of.

use std::rc::Rc;

use module::Severity;
use proto::job_exec::{CriticalRanks, JobExecCriticalRanks};
use proto::job_manager::{JobManagerMemo, Memo};
use rpc::Dest;
use serde_json::Map;
use spec::Taskmap;
use types::{Errno, IdSet, JobId};

use crate::broker::Broker;

/// Tells the parent where this instance can be reached: a memo on the job (RFC 21) that tools
/// look up. And which of the job's shells it cannot lose: those that run brokers with others below
/// them. A parent that cannot be told is logged; the instance goes on without.
pub(crate) fn announce(broker: &Rc<Broker>) {
    let attr = |name: &str| broker.attrs.borrow().get(name).map(str::to_owned);
    let (Some(parent), Some(jobid), Some(local)) =
        (attr("parent-uri"), attr("jobid"), attr("local-uri"))
    else {
        return;
    };
    let host = attr("hostname").unwrap_or_default();
    let path = local.strip_prefix("local://").unwrap_or(&local);
    let uri = format!("ssh://{host}{path}");
    let critical = attr("broker.critical-ranks").and_then(|ranks| {
        let ranks: IdSet = ranks.parse().ok()?;
        Some(shell_ranks(&ranks, &attr("broker.mapping")?))
    });
    let broker = broker.clone();
    tokio::task::spawn_local(async move {
        if let Err(text) = tell(&parent, &jobid, uri, critical).await {
            let text = format!("cannot tell the enclosing instance of this one: {text}");
            broker.log(Severity::Warning, &text);
        }
    });
}

/// The shells that run these brokers; those of the same number where it is not known which they
/// run.
fn shell_ranks(brokers: &IdSet, mapping: &str) -> IdSet {
    let map: Taskmap = mapping.parse().unwrap_or_else(|_| Taskmap::unknown());
    brokers
        .iter()
        .map(|rank| map.nodeid(rank).unwrap_or(rank))
        .collect()
}

async fn tell(
    parent: &str,
    jobid: &str,
    uri: String,
    critical: Option<IdSet>,
) -> Result<(), String> {
    let id: JobId = jobid.parse().map_err(|_| format!("{jobid}: no job id"))?;
    let client = client::open(Some(parent))
        .await
        .map_err(|error| format!("{parent}: {error}"))?;
    let memo = Memo {
        id,
        is_volatile: false,
        memo: Map::from_iter([("uri".to_owned(), uri.into())]),
    };
    let call = client.handle().call::<JobManagerMemo>(Dest::Any, &memo);
    call.await.map_err(|error| error.to_string())?;
    let Some(ranks) = critical else {
        return Ok(());
    };
    let ranks = CriticalRanks {
        id,
        ranks: ranks.to_string(),
    };
    let call = client
        .handle()
        .call::<JobExecCriticalRanks>(Dest::Any, &ranks);
    match call.await {
        // Instances of old have none that a job can lose.
        Err(error) if error.errno != Errno::ENOSYS => Err(error.to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_found_by_the_brokers_they_run() {
        let shells = |brokers: &str, mapping: &str| {
            shell_ranks(&brokers.parse().expect("an idset"), mapping).to_string()
        };
        assert_eq!(shells("0-2", "[[0,4,1,1]]"), "0-2");
        assert_eq!(shells("0-2", "[[0,2,2,1]]"), "0-1");
        assert_eq!(shells("0,3", "what"), "0,3");
    }
}
