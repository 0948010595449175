//! Service `overlay`: health and shape of the tree, as clients see it.

use std::rc::Rc;

use proto::overlay::{
    ChildHealth, Health, OfRank, OverlayDisconnectParent, OverlayDisconnectSubtree, OverlayHealth,
    OverlayStats, OverlayTopology, Reason, Topology,
};
use proto::trace::OverlayTrace;
use proto::{Access, Empty};
use rpc::{Routes, RpcError};
use serde_json::json;
use types::Rank;

use crate::broker::Broker;
use crate::internal::ServiceRoutes;

type Shared = Rc<Broker>;

pub(crate) fn routes() -> ServiceRoutes {
    Routes::new()
        .on::<OverlayHealth>(|broker: &mut Shared, request, Empty {}| {
            request.reply(&health(broker));
            if request.is_streaming() {
                broker.overlay.health_followers.borrow_mut().push(request);
            }
        })
        .on::<OverlayTopology>(|broker, request, of: OfRank| {
            let subtree = broker
                .overlay
                .read(|engine, _| engine.subtree(Rank(of.rank)));
            let result = subtree
                .map(|subtree| topology(&subtree))
                .map_err(|error| RpcError::new(error.errno(), error.to_string()));
            request.reply_result(&result);
        })
        .on::<OverlayDisconnectSubtree>(|broker, request, of: OfRank| {
            let result = broker
                .overlay
                .with_engine(|engine, now, out| engine.disconnect_child(now, Rank(of.rank), out));
            let result = result.map_err(|error| RpcError::new(error.errno(), error.to_string()));
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<OverlayDisconnectParent>(|broker, _, reason: Reason| {
            broker
                .overlay
                .with_engine(|engine, _, out| engine.disconnect_parent(&reason.reason, out));
        })
        .on::<OverlayStats>(|broker, request, Empty {}| {
            let connected = broker.overlay.connected();
            let rank = broker.router.rank();
            let topology = broker.router.topology();
            let (parent_rpc, child_rpc) = broker.overlay.unanswered();
            let stats = json!({
                "child-count": topology.children(rank).len(),
                "child-connected": connected,
                "parent-count": i32::from(rank != Rank::LEADER),
                "parent-rpc": parent_rpc, "child-rpc": child_rpc,
                "interthread": {"sendq": 0, "recvq": 0},
            });
            request.reply(&stats.as_object().cloned().unwrap_or_default());
        })
        .on::<OverlayTrace>(|broker, request, wanted| broker.overlay.traces.follow(request, wanted))
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker.overlay.traces.forget(&notice);
            broker
                .overlay
                .health_followers
                .borrow_mut()
                .retain(|follower| !follower.is_from_sender_of(&notice));
        })
}

/// Tells the followers of `overlay.health`.
pub(crate) fn tell_health(broker: &Broker) {
    let followers = broker.overlay.health_followers.borrow();
    if followers.is_empty() {
        return;
    }
    let health = health(broker);
    for follower in followers.iter() {
        follower.reply(&health);
    }
}

fn health(broker: &Broker) -> Health {
    let health = broker.overlay.read(|engine, now| engine.health(now));
    Health {
        rank: health.rank.0,
        status: health.status.name().to_owned(),
        duration: health.duration.as_secs_f64(),
        children: health
            .children
            .into_iter()
            .map(|child| ChildHealth {
                rank: child.rank.0,
                status: child.status.name().to_owned(),
                duration: child.duration.as_secs_f64(),
                error: child.error,
            })
            .collect(),
    }
}

fn topology(subtree: &tbon::Subtree) -> Topology {
    Topology {
        rank: subtree.rank.0,
        size: subtree.size,
        children: subtree.children.iter().map(topology).collect(),
    }
}
