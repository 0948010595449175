//! The module on the ranks below the leader.

use proto::config::ModuleConfigReload;
use proto::resource::{
    ResourceExpirationUpdate, ResourceGet, ResourceMonitorWaitup, ResourceReload,
    ResourceSchedStatus, ResourceStatus, ResourceTopoGet, ResourceTopoReduce, TopoReduce,
};
use proto::{Access, Empty};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use spec::ResourceSet;
use types::Errno;

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
