//! Service `groups`: named sets of brokers, gathered up the tree.
//!
//! Each broker knows the members in its own subtree and passes changes on to its parent, gathered
//! over one turn of the loop; the leader thus knows all and answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use module::Severity;
use proto::overlay::{
    Group, GroupMembers, GroupsChange, GroupsGet, GroupsJoin, GroupsLeave, GroupsUpdate,
};
use proto::{Access, Empty};
use rpc::{Dest, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use types::{Errno, IdSet, Rank, RoleMask};
use wire::{Message, RouteId};

use crate::broker::Broker;
use crate::internal::ServiceRoutes;
use crate::lifecycle::State;

/// The group of brokers that have come up.
pub(crate) const ONLINE: &str = "broker.online";
/// The group of brokers that have fallen silent.
pub(crate) const TORPID: &str = "broker.torpid";

type Shared = Rc<Broker>;

/// A change: these ranks are members now, or no longer.
struct Change {
    group: String,
    ranks: IdSet,
    member: bool,
}

/// The groups, as far as this subtree goes.
#[derive(Default)]
pub(crate) struct Groups {
    members: RefCell<BTreeMap<String, IdSet>>,
    /// The local clients that made this broker a member.
    joined_by: RefCell<Vec<(RouteId, String)>>,
    outgoing: RefCell<Vec<Change>>,
    scheduled: Cell<bool>,
    followers: RefCell<Vec<(String, Request<GroupsGet>)>>,
}

impl Groups {
    /// Makes this broker a member. Errors: `EEXIST`.
    pub(crate) fn join(&self, broker: &Shared, name: &str) -> Result<(), RpcError> {
        let rank = broker.router.rank();
        if self.contains(name, rank) {
            let text = format!("rank {rank} is already a member of {name}");
            return Err(RpcError::new(Errno::EEXIST, text));
        }
        self.apply(broker, name, &IdSet::from_range(rank.0, rank.0), true);
        Ok(())
    }

    /// Ends it. Errors: `ENOENT`.
    pub(crate) fn leave(&self, broker: &Shared, name: &str) -> Result<(), RpcError> {
        let rank = broker.router.rank();
        if !self.contains(name, rank) {
            let text = format!("rank {rank} is not a member of {name}");
            return Err(RpcError::new(Errno::ENOENT, text));
        }
        self.apply(broker, name, &IdSet::from_range(rank.0, rank.0), false);
        Ok(())
    }

    fn contains(&self, name: &str, rank: Rank) -> bool {
        self.members
            .borrow()
            .get(name)
            .is_some_and(|members| members.contains(rank.0))
    }

    /// The members of a group.
    pub(crate) fn members(&self, name: &str) -> IdSet {
        self.members.borrow().get(name).cloned().unwrap_or_default()
    }

    /// Takes a change of any origin: applies it here, tells followers, passes it on.
    fn apply(&self, broker: &Shared, name: &str, ranks: &IdSet, member: bool) {
        let changed = {
            let mut groups = self.members.borrow_mut();
            let members = groups.entry(name.to_owned()).or_default();
            if member {
                let new = ranks.difference(members);
                members.insert_all(&new);
                new
            } else {
                let gone = ranks.intersection(members);
                members.remove_all(&gone);
                gone
            }
        };
        if changed.is_empty() {
            return;
        }
        let change = Change {
            group: name.to_owned(),
            ranks: changed,
            member,
        };
        self.outgoing.borrow_mut().push(change);
        if !self.scheduled.replace(true) {
            let broker = broker.clone();
            // After whatever else this turn brings, so that a burst travels as one message.
            tokio::task::spawn_local(async move {
                tokio::task::yield_now().await;
                broker.groups.flush(&broker);
            });
        }
    }

    fn flush(&self, broker: &Shared) {
        self.scheduled.set(false);
        let changes = self.outgoing.take();
        if broker.router.rank() == Rank::LEADER {
            self.on_leader(broker, &changes);
        } else {
            let mut update = Map::new();
            for change in changes {
                let item = json!({"ranks": change.ranks.to_string(), "set": change.member});
                match update.entry(change.group).or_insert_with(|| json!([])) {
                    Value::Array(items) => items.push(item),
                    _ => unreachable!("only arrays are inserted"),
                }
            }
            let handle = broker.router.handle();
            handle.notify::<GroupsUpdate>(Dest::Upstream, &GroupsChange { update });
        }
    }

    fn on_leader(&self, broker: &Shared, changes: &[Change]) {
        let mut names: Vec<_> = changes.iter().map(|change| change.group.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let members = self.members(name).to_string();
            for (group, follower) in self.followers.borrow().iter() {
                if group == name {
                    follower.reply(&GroupMembers {
                        members: members.clone(),
                    });
                }
            }
        }
        for change in changes.iter().filter(|change| change.group == ONLINE) {
            let hosts = broker.hosts(&change.ranks);
            let ranks = &change.ranks;
            if change.member {
                broker.log(Severity::Info, &format!("online: {hosts} (ranks {ranks})"));
            } else if matches!(broker.machine.state(), State::Run | State::Cleanup) {
                let word = if ranks.len() == 1 { "rank" } else { "ranks" };
                broker.log(
                    Severity::Err,
                    &format!("dead to Flux: {hosts} ({word} {ranks})"),
                );
            }
        }
        broker.check_quorum();
    }

    /// A child and all below it have left every group.
    pub(crate) fn on_subtree_gone(&self, broker: &Shared, child: Rank) {
        let topology = broker.router.topology();
        let ranks: IdSet = topology
            .subtree_ranks(child)
            .iter()
            .map(|rank| rank.0)
            .collect();
        let names: Vec<_> = self.members.borrow().keys().cloned().collect();
        for name in names {
            self.apply(broker, &name, &ranks, false);
        }
    }

    /// A child fell silent, or speaks again.
    pub(crate) fn on_torpid(&self, broker: &Shared, child: Rank, torpid: bool) {
        self.apply(broker, TORPID, &IdSet::from_range(child.0, child.0), torpid);
    }

    fn on_disconnect(&self, broker: &Shared, notice: &Message) {
        self.followers
            .borrow_mut()
            .retain(|(_, follower)| !follower.is_from_sender_of(notice));
        let Some(sender) = notice.sender() else {
            return;
        };
        let mut left = Vec::new();
        self.joined_by.borrow_mut().retain(|(client, name)| {
            if client == sender {
                left.push(name.clone());
            }
            client != sender
        });
        for name in left {
            // It may have left by itself before it went away.
            let _left_already = self.leave(broker, &name);
        }
    }
}

fn local_only(message: &Message, what: &str) -> Result<(), RpcError> {
    if message.cred.rolemask.intersects(RoleMask::LOCAL) {
        return Ok(());
    }
    let text = format!("groups.{what} is restricted to the local broker");
    Err(RpcError::new(Errno::EPROTO, text))
}

pub(crate) fn routes() -> ServiceRoutes {
    Routes::new()
        .on::<GroupsJoin>(|broker: &mut Shared, request, group: Group| {
            let result = local_only(request.message(), "join")
                .and_then(|()| broker.groups.join(broker, &group.name));
            if result.is_ok()
                && let Some(sender) = request.message().sender()
            {
                broker
                    .groups
                    .joined_by
                    .borrow_mut()
                    .push((sender.clone(), group.name));
            }
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<GroupsLeave>(|broker, request, group: Group| {
            let result = local_only(request.message(), "leave")
                .and_then(|()| broker.groups.leave(broker, &group.name));
            if result.is_ok() {
                let sender = request.message().sender();
                broker
                    .groups
                    .joined_by
                    .borrow_mut()
                    .retain(|(client, name)| Some(client) != sender || *name != group.name);
            }
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<GroupsGet>(|broker, request, group: Group| {
            if broker.router.rank() != Rank::LEADER {
                let text = "this RPC is only available on rank 0";
                return request.fail(RpcError::new(Errno::EPROTO, text));
            }
            let members = broker.groups.members(&group.name).to_string();
            request.reply(&GroupMembers { members });
            if request.is_streaming() {
                broker
                    .groups
                    .followers
                    .borrow_mut()
                    .push((group.name, request));
            }
        })
        .on::<GroupsUpdate>(|broker, _, change: GroupsChange| {
            for (name, items) in change.update {
                for item in items.as_array().into_iter().flatten() {
                    let ranks = item["ranks"].as_str().and_then(|text| text.parse().ok());
                    if let (Some(ranks), Some(member)) = (ranks, item["set"].as_bool()) {
                        broker.groups.apply(broker, &name, &ranks, member);
                    }
                }
            }
        })
        .on::<proto::broker::ServiceStats>(|broker, request, Empty {}| {
            let groups = broker.groups.members.borrow();
            let subtree: Map<_, _> = groups
                .iter()
                .map(|(name, members)| (name.clone(), Value::String(members.to_string())))
                .collect();
            request.reply(&Map::from_iter([(
                "subtree".to_owned(),
                Value::Object(subtree),
            )]));
        })
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker.groups.on_disconnect(broker, &notice);
        })
}
