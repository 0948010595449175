//! What an instance tells the instance it is a job of.

use std::rc::Rc;

use module::Severity;
use proto::job_manager::{JobManagerMemo, Memo};
use rpc::Dest;
use serde_json::Map;
use types::JobId;

use crate::broker::Broker;

/// Tells the parent where this instance can be reached: a memo on the job (RFC 21) that tools
/// look up. A parent that cannot be told is logged; the instance goes on without.
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
    let broker = broker.clone();
    tokio::task::spawn_local(async move {
        if let Err(text) = tell(&parent, &jobid, uri).await {
            let text = format!("cannot tell the enclosing instance where this one is: {text}");
            broker.log(Severity::Warning, &text);
        }
    });
}

async fn tell(parent: &str, jobid: &str, uri: String) -> Result<(), String> {
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
    Ok(())
}
