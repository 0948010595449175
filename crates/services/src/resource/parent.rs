//! What an enclosing instance has given this one: R of the job this instance is.
//!
//! The job's R is asked for by update-watch, so that its expiration is followed for as long as the
//! instance runs. Whatever goes wrong leaves the instance with what it can discover.

use client::Client;
use proto::job_info::{JobInfoLookup, JobInfoUpdateWatch, Lookup, Update, lookup_flags};
use rpc::{Dest, RpcError, Stream};
use serde_json::{Map, Value};
use spec::ResourceSet;
use tokio::sync::mpsc;
use types::{Errno, Hostlist, JobId};

use super::service::Posted;

const KEY: &str = "R";

/// A watch over the R of the job this instance is.
pub(super) struct Parent {
    client: Client,
    updates: Stream<Map<String, Value>>,
}

/// Asks for the R of `jobid` where `uri` leads, to be watched if so wished and if it can be: an
/// instance of old knows no such request.
pub(super) async fn ask(
    uri: &str,
    jobid: &str,
    watch: bool,
) -> Result<(ResourceSet, Option<Parent>), String> {
    let id: JobId = jobid.parse().map_err(|_| format!("{jobid}: no job id"))?;
    let mut client = client::open(Some(uri))
        .await
        .map_err(|error| format!("{uri}: {error}"))?;
    if watch {
        let mut parent = Parent::watch(client, id);
        match parent.next().await.ok_or("R of this job is not known")? {
            Ok(set) => return Ok((set, Some(parent))),
            Err(error) if error.errno != Errno::ENOSYS => return Err(error.to_string()),
            Err(_) => client = parent.client,
        }
    }
    let wanted = Lookup {
        id,
        keys: vec![KEY.to_owned()],
        flags: lookup_flags::JSON_DECODE | lookup_flags::CURRENT,
    };
    let found = client.handle().call::<JobInfoLookup>(Dest::Any, &wanted);
    let found = found.await.and_then(|found| resources(&found));
    found
        .map(|set| (set, None))
        .map_err(|error| error.to_string())
}

fn resources(found: &Map<String, Value>) -> Result<ResourceSet, RpcError> {
    let bad = |text: String| RpcError::new(Errno::EPROTO, text);
    let set = found.get(KEY).ok_or_else(|| bad("no R".to_owned()))?;
    ResourceSet::from_value(set).map_err(|error| bad(error.to_string()))
}

impl Parent {
    fn watch(client: Client, id: JobId) -> Parent {
        let wanted = Update {
            id,
            key: KEY.to_owned(),
            flags: 0,
        };
        let updates = client
            .handle()
            .stream::<JobInfoUpdateWatch>(Dest::Any, &wanted);
        Parent { client, updates }
    }

    /// R as it has become; `None` once there is no more to come.
    async fn next(&mut self) -> Option<Result<ResourceSet, RpcError>> {
        let found = self.updates.next().await.transpose()?;
        Some(found.and_then(|found| resources(&found)))
    }

    /// Posts the expiration whenever it changes.
    pub(super) fn follow(mut self, mut expiration: f64, posts: mpsc::UnboundedSender<Posted>) {
        tokio::task::spawn_local(async move {
            // The job has ended, or the parent has: nothing more will change.
            while let Some(Ok(set)) = self.next().await {
                if set.expiration == expiration {
                    continue;
                }
                expiration = set.expiration;
                if posts.send(Posted::Expiration(expiration)).is_err() {
                    break;
                }
            }
        });
    }
}

/// R of a job as the instance numbers it: ranks in the order of its hosts, cores from 0.
///
/// `None` if there is not one rank for each broker.
pub(super) fn renumbered(mut set: ResourceSet, hosts: &Hostlist) -> Option<ResourceSet> {
    if set.nnodes() != hosts.len() {
        return None;
    }
    let mut names: Vec<String> = hosts.iter().collect();
    names.sort();
    names.dedup();
    // Where brokers share hosts, their order says nothing. Where hosts go by other names here, the
    // ranks keep their order.
    if names.len() == hosts.len() {
        let mut ordered = set.clone();
        if ordered.rerank(hosts).is_ok() {
            set = ordered;
        }
    }
    set.remap();
    set.nslots = None;
    // It speaks of the numbers there were.
    set.scheduling = None;
    Some(set)
}

#[cfg(test)]
mod tests {
    use spec::r::Children;

    use super::*;

    #[test]
    fn ranks_follow_the_hosts_and_cores_start_at_zero() {
        let check = |hosts: &str, expect: Option<&str>| {
            let mut set = ResourceSet::new();
            let ids = |text: &str| text.parse().expect("an idset");
            set.insert(3, Some("b"), &Children::new(ids("4-5"), ids("1")));
            set.insert(7, Some("a"), &Children::new(ids("0"), ids("")));
            set.add_property("p", &ids("7")).expect("a property");
            set.expiration = 5.0;
            let hosts = hosts.parse().expect("a hostlist");
            let found = renumbered(set, &hosts).map(|set| {
                assert_eq!(set.expiration, 5.0);
                let property = set.properties()["p"].to_string();
                format!("{set} on {} p={property}", set.nodelist())
            });
            assert_eq!(found.as_deref(), expect, "{hosts}");
        };
        check("a,b", Some("rank0/core0 rank1/core[0-1],gpu1 on a,b p=0"));
        check("b,a", Some("rank0/core[0-1],gpu1 rank1/core0 on b,a p=1"));
        check("x,x", Some("rank0/core[0-1],gpu1 rank1/core0 on b,a p=1"));
        check("a", None);
    }
}
