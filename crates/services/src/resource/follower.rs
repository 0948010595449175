//! The module on the ranks below the leader.

use std::rc::Rc;

use module::{Host, Severity};
use proto::config::ModuleConfigReload;
use proto::resource::{
    Drain, ResourceDrain, ResourceExpirationUpdate, ResourceGet, ResourceMonitorWaitup,
    ResourceReload, ResourceSchedStatus, ResourceStatus, ResourceTopoGet, ResourceTopoReduce,
    TopoReduce,
};
use proto::{Access, Empty};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use spec::ResourceSet;
use types::{Errno, Rank};

use super::config::Verification;
use super::service::{decode_object, object, reconfigure, text};
use super::state::Reduction;

/// The module on the other ranks: it passes on what this rank and those below it find.
pub(super) struct Follower {
    reduction: Reduction,
    xml: String,
    /// How many ranks there are in this subtree.
    count: usize,
    reported: bool,
}

impl Follower {
    pub(super) fn new(own: ResourceSet, xml: String, descendants: u32) -> Follower {
        let mut reduction = Reduction::default();
        reduction.add(&own);
        Follower {
            reduction,
            xml,
            count: descendants as usize + 1,
            reported: false,
        }
    }

    /// Passes the subtree's resources on once all of it has reported.
    pub(super) fn report(&mut self, handle: &Handle) {
        if self.reported || self.reduction.ranks.len() < self.count {
            return;
        }
        self.reported = true;
        let reduce = TopoReduce {
            count: self.count as i64,
            resource: object(&self.reduction.resources),
        };
        handle.notify::<ResourceTopoReduce>(Dest::Upstream, &reduce);
    }
}

/// Compares this rank with its share of R and drains it if they differ.
pub(super) async fn verify(
    handle: Handle,
    host: Rc<dyn Host>,
    rank: Rank,
    verification: Verification,
    configured: Option<ResourceSet>,
    own: ResourceSet,
) {
    let expected = match configured {
        Some(set) => Ok(Some((set, "configuration".to_owned()))),
        None => known_upstream(&handle).await,
    };
    let result = async {
        let Some((set, method)) = expected? else {
            return Ok(());
        };
        let Some(modes) = verification.of(&method) else {
            return Ok(());
        };
        let Err(error) = set.verify(&own, &modes) else {
            return Ok(());
        };
        let reason = error.to_string();
        host.log(Severity::Err, "resource", &format!("draining: {reason}"));
        let drain = Drain {
            targets: rank.to_string(),
            reason: Some(reason),
            mode: Some("update".to_owned()),
        };
        let call = handle.call::<ResourceDrain>(Rank::LEADER, &drain);
        call.await.map(drop)
    };
    if let Err(error) = result.await {
        host.log(Severity::Err, "resource", &format!("verify: {error}"));
    }
}

/// R and where it came from; `None` while it is to be discovered.
async fn known_upstream(handle: &Handle) -> Result<Option<(ResourceSet, String)>, RpcError> {
    match handle.call::<ResourceGet>(Rank::LEADER, &Empty {}).await {
        Ok(found) => Ok(Some((decode_object(found.resources)?, found.method))),
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOSYS) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why requests about all ranks are refused here.
fn only_leader() -> RpcError {
    RpcError::new(Errno::EPROTO, "this RPC only works on rank 0")
}

pub(super) fn routes() -> Routes<Follower> {
    Routes::new()
        .on_message(
            "topo-reduce",
            Access::Owner,
            |follower: &mut Follower, handle, message| {
                let reduce = <TopoReduce as proto::Payload>::decode(message.payload.as_ref());
                if let Ok(found) = reduce
                    .map_err(|error| RpcError::from(error.errno()))
                    .and_then(|reduce| decode_object(reduce.resource))
                {
                    follower.reduction.add(&found);
                    follower.report(handle);
                }
            },
        )
        .on::<ResourceTopoGet>(|follower, request, Empty {}| request.reply(&text(&follower.xml)))
        .on::<ResourceStatus>(|_, request, Empty {}| request.fail(only_leader()))
        .on::<ResourceSchedStatus>(|_, request, Empty {}| request.fail(only_leader()))
        .on::<ResourceMonitorWaitup>(|_, request, _| request.fail(only_leader()))
        .on::<ResourceReload>(|_, request, _| {
            let text = "resource.reload is only available on rank 0";
            request.fail(RpcError::new(Errno::ENOSYS, text));
        })
        .on::<ResourceExpirationUpdate>(|_, request, _| {
            let text = "resource.expiration-update is only available on rank 0";
            request.fail(RpcError::new(Errno::ENOSYS, text));
        })
        .on::<ModuleConfigReload>(|_, request, config| {
            if reconfigure(&request, &config).is_some() {
                request.reply(&Empty {});
            }
        })
        .on::<ResourceGet>(|_, request: Request<ResourceGet>, Empty {}| {
            debug_assert!(request.message().is_request());
            request.fail(Errno::ENOENT);
        })
}
