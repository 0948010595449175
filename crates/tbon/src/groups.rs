//! Groups: named sets of ranks, gathered up the tree.
//!
//! A client joins a group on its own rank's broker. Each broker knows the membership within its
//! subtree and passes changes to its parent in batches, so rank 0 knows all of it; only there is
//! membership served. When a child leaves, its whole subtree leaves every group.
//!
//! A batch begins with [`Effect::StartTimer`] and ends when the glue calls [`Groups::flush`].
//! Changes that cancel out within a batch are not seen above.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use types::{Errno, IdSet, Rank};

use crate::topology::Topology;

/// How long changes are gathered before they travel up.
pub const BATCH_TIME: Duration = Duration::from_millis(100);

/// Why a group request cannot be served. The texts are part of the user interface.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// The rank has joined already.
    #[error("rank {0} is already a member of {1}")]
    AlreadyMember(Rank, String),
    /// The rank has not joined.
    #[error("rank {0} is not a member of {1}")]
    NotMember(Rank, String),
    /// Membership is served on rank 0 only.
    #[error("this RPC is only available on rank 0")]
    NotLeader,
}

impl GroupError {
    /// The error number of the answer.
    pub fn errno(&self) -> Errno {
        match self {
            GroupError::AlreadyMember(..) => Errno::EEXIST,
            GroupError::NotMember(..) => Errno::ENOENT,
            GroupError::NotLeader => Errno::EPROTO,
        }
    }
}

/// Ranks that joined a group, or left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who.
    pub ranks: IdSet,
    /// True for joined, false for left.
    pub set: bool,
}

/// Changes by group name, as `groups.update` carries them.
pub type Update = BTreeMap<String, Vec<Change>>;

/// A streaming `groups.get`, named by the glue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchId(pub u64);

/// What the broker's glue must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Call [`Groups::flush`] after [`BATCH_TIME`].
    StartTimer,
    /// Send this to the parent as `groups.update`.
    SendParent(Update),
    /// Send these members to a follower.
    Respond(WatchId, IdSet),
    /// On rank 0, a group changed. For `broker.online` this is what the log lines
    /// `online: ...` and `dead to Flux: ...` are made from.
    Changed {
        /// The group.
        name: String,
        /// Members that are new.
        joined: IdSet,
        /// Members that are gone.
        left: IdSet,
    },
}

/// Where effects are collected.
pub type Effects = Vec<Effect>;

enum Joiner {
    /// The broker itself: this is not undone when a client disconnects.
    Broker,
    /// The client with this uuid.
    Client(String),
}

#[derive(Default)]
struct Group {
    /// Members in this subtree, this rank included.
    members: IdSet,
    /// The members when the last batch was sent.
    flushed: IdSet,
    /// Who joined on this rank, while it is a member.
    local: Option<Joiner>,
}

/// The state of one broker.
pub struct Groups {
    rank: Rank,
    topology: Rc<Topology>,
    groups: BTreeMap<String, Group>,
    /// Groups that changed in this batch.
    dirty: BTreeSet<String>,
    watchers: BTreeMap<WatchId, String>,
    timer: bool,
}

impl Groups {
    /// The state of a broker of which nobody is a member of anything.
    pub fn new(rank: Rank, topology: Rc<Topology>) -> Groups {
        Groups {
            rank,
            topology,
            groups: BTreeMap::new(),
            dirty: BTreeSet::new(),
            watchers: BTreeMap::new(),
            timer: false,
        }
    }

    /// This rank joins, for a client (named by its connection's uuid) or for the broker itself.
    /// Errors: [`GroupError::AlreadyMember`].
    pub fn join(
        &mut self,
        name: &str,
        client: Option<&str>,
        out: &mut Effects,
    ) -> Result<(), GroupError> {
        let group = self.groups.entry(name.to_owned()).or_default();
        if group.local.is_some() {
            return Err(GroupError::AlreadyMember(self.rank, name.to_owned()));
        }
        group.local = Some(match client {
            Some(uuid) => Joiner::Client(uuid.to_owned()),
            None => Joiner::Broker,
        });
        group.members.insert(self.rank.0);
        self.touch(name, out);
        Ok(())
    }

    /// This rank leaves.
    /// Errors: [`GroupError::NotMember`].
    pub fn leave(&mut self, name: &str, out: &mut Effects) -> Result<(), GroupError> {
        let group = self
            .groups
            .get_mut(name)
            .filter(|group| group.local.is_some());
        let group = group.ok_or_else(|| GroupError::NotMember(self.rank, name.to_owned()))?;
        group.local = None;
        group.members.remove(self.rank.0);
        self.touch(name, out);
        Ok(())
    }

    /// A client is gone: its joins are undone. What it follows is the glue's to [`Groups::unwatch`].
    pub fn on_disconnect(&mut self, client: &str, out: &mut Effects) {
        let joined =
            |group: &Group| matches!(&group.local, Some(Joiner::Client(uuid)) if uuid == client);
        let names: Vec<String> = self
            .groups
            .iter()
            .filter(|(_, g)| joined(g))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            // It is a member, so leaving cannot fail.
            let _ = self.leave(&name, out);
        }
    }

    /// Sets whether a rank is a member on the broker's own account, for groups such as
    /// `broker.torpid` that describe other ranks. Nothing happens if it is so already.
    pub fn set_member(&mut self, name: &str, rank: Rank, member: bool, out: &mut Effects) {
        let group = self.groups.entry(name.to_owned()).or_default();
        let changed = if member {
            group.members.insert(rank.0)
        } else {
            group.members.remove(rank.0)
        };
        if changed {
            self.touch(name, out);
        } else {
            self.forget_if_unused(name);
        }
    }

    /// Changes in the subtree of a child. Ranks elsewhere are ignored.
    pub fn on_update(&mut self, child: Rank, update: &Update, out: &mut Effects) {
        let below = self.subtree(child);
        for (name, changes) in update {
            let group = self.groups.entry(name.clone()).or_default();
            let before = group.members.clone();
            for change in changes {
                let ranks = change.ranks.intersection(&below);
                if change.set {
                    group.members.insert_all(&ranks);
                } else {
                    group.members.remove_all(&ranks);
                }
            }
            if group.members == before {
                self.forget_if_unused(name);
            } else {
                self.touch(name, out);
            }
        }
    }

    /// A child is gone, and with it everything below.
    pub fn on_subtree_gone(&mut self, child: Rank, out: &mut Effects) {
        let below = self.subtree(child);
        let mut touched = Vec::new();
        for (name, group) in &mut self.groups {
            if group.members.intersects(&below) {
                group.members.remove_all(&below);
                touched.push(name.clone());
            }
        }
        for name in touched {
            self.touch(&name, out);
        }
    }

    /// Ends a batch: changes go to the parent, or on rank 0 to followers.
    pub fn flush(&mut self, out: &mut Effects) {
        self.timer = false;
        let mut update = Update::new();
        for name in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&name) else {
                continue;
            };
            let joined = group.members.difference(&group.flushed);
            let left = group.flushed.difference(&group.members);
            if joined.is_empty() && left.is_empty() {
                self.forget_if_unused(&name);
                continue;
            }
            group.flushed = group.members.clone();
            if self.rank == Rank::LEADER {
                for (id, _) in self
                    .watchers
                    .iter()
                    .filter(|(_, watched)| **watched == name)
                {
                    out.push(Effect::Respond(*id, group.members.clone()));
                }
                out.push(Effect::Changed {
                    name: name.clone(),
                    joined,
                    left,
                });
            } else {
                let both = [
                    Change {
                        ranks: joined,
                        set: true,
                    },
                    Change {
                        ranks: left,
                        set: false,
                    },
                ];
                let changes = both.into_iter().filter(|c| !c.ranks.is_empty()).collect();
                update.insert(name.clone(), changes);
            }
            self.forget_if_unused(&name);
        }
        if !update.is_empty() {
            out.push(Effect::SendParent(update));
        }
    }

    /// The members of a group; none if nobody ever joined. What is not yet flushed counts not.
    /// Errors: [`GroupError::NotLeader`].
    pub fn members(&self, name: &str) -> Result<IdSet, GroupError> {
        if self.rank != Rank::LEADER {
            return Err(GroupError::NotLeader);
        }
        Ok(self
            .groups
            .get(name)
            .map(|group| group.flushed.clone())
            .unwrap_or_default())
    }

    /// Follows a group: returns its members now, and [`Effect::Respond`] comes with each change.
    /// Errors: [`GroupError::NotLeader`].
    pub fn watch(&mut self, id: WatchId, name: &str) -> Result<IdSet, GroupError> {
        let members = self.members(name)?;
        self.watchers.insert(id, name.to_owned());
        Ok(members)
    }

    /// Stops following.
    pub fn unwatch(&mut self, id: WatchId) {
        self.watchers.remove(&id);
    }

    /// The membership within this subtree, for `groups.stats-get`.
    pub fn subtree_members(&self) -> impl Iterator<Item = (&str, &IdSet)> {
        self.groups
            .iter()
            .map(|(name, group)| (name.as_str(), &group.members))
    }

    fn subtree(&self, child: Rank) -> IdSet {
        if self.topology.parent(child) != Some(self.rank) {
            return IdSet::new();
        }
        self.topology
            .subtree_ranks(child)
            .iter()
            .map(|rank| rank.0)
            .collect()
    }

    fn touch(&mut self, name: &str, out: &mut Effects) {
        self.dirty.insert(name.to_owned());
        if !self.timer {
            self.timer = true;
            out.push(Effect::StartTimer);
        }
    }

    /// Names come from clients, so groups without members must not pile up.
    fn forget_if_unused(&mut self, name: &str) {
        let unused = |g: &Group| g.members.is_empty() && g.flushed.is_empty();
        if self.groups.get(name).is_some_and(unused) {
            self.groups.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topology::Scheme;

    fn topology(size: u32) -> Rc<Topology> {
        Rc::new(Topology::new(Scheme::Kary(2), size).unwrap())
    }

    fn ids(text: &str) -> IdSet {
        text.parse().unwrap()
    }

    #[test]
    fn errors_are_the_documented_ones() {
        let mut groups = Groups::new(Rank(1), topology(3));
        let out = &mut Vec::new();
        let error = groups.leave("g", out).unwrap_err();
        assert_eq!(
            (error.errno(), error.to_string().as_str()),
            (Errno::ENOENT, "rank 1 is not a member of g")
        );
        groups.join("g", Some("a"), out).unwrap();
        let error = groups.join("g", Some("b"), out).unwrap_err();
        assert_eq!(
            (error.errno(), error.to_string().as_str()),
            (Errno::EEXIST, "rank 1 is already a member of g")
        );
        let error = groups.members("g").unwrap_err();
        assert_eq!(
            (error.errno(), error.to_string().as_str()),
            (Errno::EPROTO, "this RPC is only available on rank 0")
        );
    }

    #[test]
    fn one_batch_carries_all_changes() {
        let mut groups = Groups::new(Rank(1), topology(7));
        let mut out = Vec::new();
        groups.join("g", None, &mut out).unwrap();
        groups.join("h", None, &mut out).unwrap();
        groups.leave("h", &mut out).unwrap();
        let from_child = Update::from([(
            "g".to_owned(),
            vec![Change {
                ranks: ids("3"),
                set: true,
            }],
        )]);
        groups.on_update(Rank(3), &from_child, &mut out);
        assert_eq!(out, [Effect::StartTimer]);
        out.clear();
        groups.flush(&mut out);
        let expect = Update::from([(
            "g".to_owned(),
            vec![Change {
                ranks: ids("1,3"),
                set: true,
            }],
        )]);
        assert_eq!(out, [Effect::SendParent(expect)]);
        assert_eq!(groups.subtree_members().count(), 1);
    }

    #[test]
    fn disconnect_undoes_that_clients_joins() {
        let mut groups = Groups::new(Rank(0), topology(1));
        let mut out = Vec::new();
        groups.join("a", Some("me"), &mut out).unwrap();
        groups.join("b", Some("you"), &mut out).unwrap();
        groups.join("c", None, &mut out).unwrap();
        groups.on_disconnect("me", &mut out);
        groups.flush(&mut out);
        let names: Vec<_> = groups
            .subtree_members()
            .map(|(name, _)| name.to_owned())
            .collect();
        assert_eq!(names, ["b", "c"]);
    }

    #[test]
    fn child_speaks_for_its_subtree_only() {
        let mut groups = Groups::new(Rank(0), topology(7));
        let mut out = Vec::new();
        let lie = Update::from([(
            "g".to_owned(),
            vec![Change {
                ranks: ids("0-9"),
                set: true,
            }],
        )]);
        groups.on_update(Rank(1), &lie, &mut out);
        groups.on_update(Rank(5), &lie, &mut out);
        groups.flush(&mut out);
        assert_eq!(groups.members("g").unwrap(), ids("1,3-4"));
    }

    #[test]
    fn names_without_members_are_forgotten() {
        let mut groups = Groups::new(Rank(0), topology(3));
        let mut out = Vec::new();
        let none = Update::from([(
            "g".to_owned(),
            vec![Change {
                ranks: ids("1"),
                set: false,
            }],
        )]);
        groups.on_update(Rank(1), &none, &mut out);
        groups.set_member("h", Rank(1), false, &mut out);
        assert!(out.is_empty());
        groups.join("i", None, &mut out).unwrap();
        groups.leave("i", &mut out).unwrap();
        groups.flush(&mut out);
        assert_eq!(out, [Effect::StartTimer]);
        assert_eq!(groups.subtree_members().count(), 0);
    }

    #[test]
    fn followers_see_each_change() {
        let mut groups = Groups::new(Rank(0), topology(3));
        let mut out = Vec::new();
        assert!(groups.watch(WatchId(1), "g").unwrap().is_empty());
        groups.join("g", None, &mut out).unwrap();
        groups.join("other", None, &mut out).unwrap();
        out.clear();
        groups.flush(&mut out);
        assert_eq!(out[0], Effect::Respond(WatchId(1), ids("0")));
        let responses = out.iter().filter(|e| matches!(e, Effect::Respond(..)));
        assert_eq!(responses.count(), 1);
        groups.unwatch(WatchId(1));
        out.clear();
        groups.leave("g", &mut out).unwrap();
        groups.flush(&mut out);
        let left = Effect::Changed {
            name: "g".into(),
            joined: IdSet::new(),
            left: ids("0"),
        };
        assert_eq!(out, [Effect::StartTimer, left]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u32),
        Leave(u32),
        Lose(u32),
        Flush(u32),
    }

    fn step(size: u32) -> impl Strategy<Value = Step> {
        (0..4, 0..size).prop_map(|(kind, rank)| match kind {
            0 => Step::Join(rank),
            1 => Step::Leave(rank),
            2 => Step::Lose(rank),
            _ => Step::Flush(rank),
        })
    }

    proptest! {
        /// After all batches have travelled, rank 0 knows exactly who is a member.
        #[test]
        fn leader_learns_everything(steps in proptest::collection::vec(step(12), 0..60)) {
            let tree = topology(12);
            let mut brokers: Vec<Groups> =
                (0..12).map(|rank| Groups::new(Rank(rank), tree.clone())).collect();
            let mut expect = IdSet::new();
            let mut lost = IdSet::new();
            let flush = |brokers: &mut Vec<Groups>, rank: u32| {
                let mut out = Vec::new();
                brokers[rank as usize].flush(&mut out);
                for effect in out {
                    if let Effect::SendParent(update) = effect {
                        let parent = tree.parent(Rank(rank)).unwrap();
                        brokers[parent.0 as usize].on_update(Rank(rank), &update, &mut Vec::new());
                    }
                }
            };
            for step in steps {
                let out = &mut Vec::new();
                let (Step::Join(rank) | Step::Leave(rank) | Step::Lose(rank) | Step::Flush(rank)) = step;
                if lost.contains(rank) {
                    continue;
                }
                match step {
                    Step::Join(_) => {
                        let joined = brokers[rank as usize].join("g", None, out).is_ok();
                        prop_assert_eq!(joined, expect.insert(rank));
                    }
                    Step::Leave(_) => {
                        let left = brokers[rank as usize].leave("g", out).is_ok();
                        prop_assert_eq!(left, expect.remove(rank));
                    }
                    Step::Lose(_) => {
                        let Some(parent) = tree.parent(Rank(rank)) else { continue };
                        brokers[parent.0 as usize].on_subtree_gone(Rank(rank), out);
                        for below in tree.subtree_ranks(Rank(rank)) {
                            expect.remove(below.0);
                            lost.insert(below.0);
                        }
                    }
                    Step::Flush(_) => flush(&mut brokers, rank),
                }
            }
            for rank in (0..12).rev().filter(|rank| !lost.contains(*rank)) {
                flush(&mut brokers, rank);
            }
            prop_assert_eq!(brokers[0].members("g").unwrap(), expect);
        }
    }
}
