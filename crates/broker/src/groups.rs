//! Service `groups`: named sets of brokers, gathered up the tree by the `tbon` engine.

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
use tbon::Topology;
use tbon::groups::{Change, Effect, Effects, GroupError, Update, WatchId};
use types::{Errno, IdSet, Rank, RoleMask};
use wire::Message;

use crate::broker::Broker;
use crate::internal::ServiceRoutes;
use crate::lifecycle::State;

/// The group of brokers that have come up.
pub(crate) const ONLINE: &str = "broker.online";
/// The group of brokers that have fallen silent.
pub(crate) const TORPID: &str = "broker.torpid";

type Shared = Rc<Broker>;

/// The groups, as far as this subtree goes, and those who follow them.
pub(crate) struct Groups {
    engine: RefCell<tbon::Groups>,
    followers: RefCell<BTreeMap<WatchId, Request<GroupsGet>>>,
    next_watch: Cell<u64>,
}

fn refusal(error: &GroupError) -> RpcError {
    RpcError::new(error.errno(), error.to_string())
}

impl Groups {
    pub(crate) fn new(rank: Rank, topology: Rc<Topology>) -> Groups {
        Groups {
            engine: RefCell::new(tbon::Groups::new(rank, topology)),
            followers: RefCell::default(),
            next_watch: Cell::new(0),
        }
    }

    /// Gives the engine an input and carries out what follows.
    fn with_engine<T>(
        &self,
        broker: &Shared,
        input: impl FnOnce(&mut tbon::Groups, &mut Effects) -> T,
    ) -> T {
        let mut effects = Effects::new();
        let result = input(&mut self.engine.borrow_mut(), &mut effects);
        for effect in effects {
            self.carry_out(broker, effect);
        }
        result
    }

    fn carry_out(&self, broker: &Shared, effect: Effect) {
        match effect {
            Effect::StartTimer => {
                let broker = broker.clone();
                // After whatever else this turn of the loop brings, so that a burst travels as
                // one message, and yet at once.
                tokio::task::spawn_local(async move {
                    tokio::task::yield_now().await;
                    broker.groups.with_engine(&broker, tbon::Groups::flush);
                });
            }
            Effect::SendParent(update) => {
                let update = GroupsChange {
                    update: encode(&update),
                };
                broker
                    .router
                    .handle()
                    .notify::<GroupsUpdate>(Dest::Upstream, &update);
            }
            Effect::Respond(id, members) => {
                if let Some(follower) = self.followers.borrow().get(&id) {
                    follower.reply(&GroupMembers {
                        members: members.to_string(),
                    });
                }
            }
            Effect::Changed { name, joined, left } if name == ONLINE => {
                self.on_online(broker, &joined, &left);
            }
            Effect::Changed { .. } => {}
        }
    }

    fn on_online(&self, broker: &Shared, joined: &IdSet, left: &IdSet) {
        if !joined.is_empty() {
            let hosts = broker.hosts(joined);
            broker.log(Severity::Info, &format!("online: {hosts} (ranks {joined})"));
        }
        if !left.is_empty() && matches!(broker.machine.state(), State::Run | State::Cleanup) {
            let hosts = broker.hosts(left);
            broker.log(
                Severity::Err,
                &format!("dead to Flux: {hosts} (rank {left})"),
            );
        }
        broker.check_quorum();
    }

    /// Makes this broker a member on its own account. Errors: `EEXIST`.
    pub(crate) fn join(&self, broker: &Shared, name: &str) -> Result<(), RpcError> {
        self.with_engine(broker, |engine, out| engine.join(name, None, out))
            .map_err(|error| refusal(&error))
    }

    /// The members of a group; only the leader knows.
    pub(crate) fn members(&self, name: &str) -> IdSet {
        self.engine.borrow().members(name).unwrap_or_default()
    }

    /// A child and all below it have left every group.
    pub(crate) fn on_subtree_gone(&self, broker: &Shared, child: Rank) {
        self.with_engine(broker, |engine, out| engine.on_subtree_gone(child, out));
    }

    /// A child fell silent, or speaks again.
    pub(crate) fn on_torpid(&self, broker: &Shared, child: Rank, torpid: bool) {
        self.with_engine(broker, |engine, out| {
            engine.set_member(TORPID, child, torpid, out)
        });
    }

    fn on_get(&self, request: Request<GroupsGet>, name: &str) {
        let id = WatchId(self.next_watch.get());
        self.next_watch.set(id.0 + 1);
        let members = if request.is_streaming() {
            self.engine.borrow_mut().watch(id, name)
        } else {
            self.engine.borrow().members(name)
        };
        match members {
            Ok(members) => {
                request.reply(&GroupMembers {
                    members: members.to_string(),
                });
                if request.is_streaming() {
                    self.followers.borrow_mut().insert(id, request);
                }
            }
            Err(error) => request.fail(refusal(&error)),
        }
    }

    fn on_disconnect(&self, broker: &Shared, notice: &Message) {
        self.followers.borrow_mut().retain(|id, follower| {
            let gone = follower.is_from_sender_of(notice);
            if gone {
                self.engine.borrow_mut().unwatch(*id);
            }
            !gone
        });
        if let Some(sender) = notice.sender() {
            let client = sender.to_string();
            self.with_engine(broker, |engine, out| engine.on_disconnect(&client, out));
        }
    }
}

fn encode(update: &Update) -> Map<String, Value> {
    let change = |change: &Change| json!({"ranks": change.ranks.to_string(), "set": change.set});
    let changes = |changes: &Vec<Change>| changes.iter().map(change).collect::<Value>();
    update
        .iter()
        .map(|(name, list)| (name.clone(), changes(list)))
        .collect()
}

fn decode(update: Map<String, Value>) -> Option<Update> {
    let change = |item: &Value| {
        Some(Change {
            ranks: item.get("ranks")?.as_str()?.parse().ok()?,
            set: item.get("set")?.as_bool()?,
        })
    };
    update
        .into_iter()
        .map(|(name, list)| {
            let changes: Option<Vec<_>> = list.as_array()?.iter().map(change).collect();
            Some((name, changes?))
        })
        .collect()
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
            let client = request.message().sender().map(ToString::to_string);
            let result = local_only(request.message(), "join").and_then(|()| {
                broker
                    .groups
                    .with_engine(broker, |engine, out| {
                        engine.join(&group.name, client.as_deref(), out)
                    })
                    .map_err(|error| refusal(&error))
            });
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<GroupsLeave>(|broker, request, group: Group| {
            let result = local_only(request.message(), "leave").and_then(|()| {
                broker
                    .groups
                    .with_engine(broker, |engine, out| engine.leave(&group.name, out))
                    .map_err(|error| refusal(&error))
            });
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<GroupsGet>(|broker, request, group: Group| {
            broker.groups.on_get(request, &group.name);
        })
        .on::<GroupsUpdate>(|broker, request, change: GroupsChange| {
            let child = request
                .message()
                .next_hop()
                .and_then(|id| broker.overlay.child(id));
            match (child, decode(change.update)) {
                (Some(child), Some(update)) => broker
                    .groups
                    .with_engine(broker, |engine, out| engine.on_update(child, &update, out)),
                // The child has left meanwhile, and all it could say with it.
                (None, _) => {}
                (Some(_), None) => {
                    broker.log_as("groups", Severity::Err, "malformed groups.update request")
                }
            }
        })
        .on::<proto::broker::ServiceStats>(|broker, request, Empty {}| {
            let engine = broker.groups.engine.borrow();
            let subtree: Map<_, _> = engine
                .subtree_members()
                .map(|(name, members)| (name.to_owned(), Value::String(members.to_string())))
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
