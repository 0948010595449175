//! The shape of the tree based overlay network.
//!
//! A [`Topology`] is computed once from a [`Scheme`] and the instance size; every broker computes
//! the same one. Ranks are numbered in depth-first order internally, so "is it below me" is a
//! comparison and "which child leads there" a binary search.
//!
//! Invariants: rank 0 is the root, every other rank has exactly one parent, there are no cycles,
//! and children are listed in ascending order.

use std::str::FromStr;

use thiserror::Error;
use types::Rank;

/// The widest fanout that `mincrit` without a number allows while it can.
const MINCRIT_FANOUT_MAX: u32 = 1024;

/// Why a topology could not be made. The texts are part of the user interface.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// The word before the colon names no scheme.
    #[error("unknown topology scheme '{0}'")]
    UnknownScheme(String),
    /// `kary` needs a non-negative fanout.
    #[error("kary k value must be an integer >= 0")]
    BadKary,
    /// `mincrit` takes an optional non-negative number of routers.
    #[error("mincrit k value must be an integer >= 0")]
    BadMincrit,
    /// `binomial` takes no argument.
    #[error("unknown binomial topology directive: '{0}'")]
    BadBinomial(String),
    /// `custom` takes no argument.
    #[error("unknown custom topology directive: '{0}'")]
    BadCustom(String),
    /// An instance has at least one broker.
    #[error("topology size must be at least 1")]
    Empty,
    /// A configured parent is outside the instance.
    #[error("rank {rank} has parent {parent}, which is out of range")]
    ParentOutOfRange {
        /// The rank whose parent is wrong.
        rank: Rank,
        /// The configured parent.
        parent: Rank,
    },
    /// A rank cannot be reached from rank 0: its line of parents runs in a circle.
    #[error("rank {0} is not connected to rank 0")]
    Disconnected(Rank),
}

/// A rule that gives each rank its parent: the value of `tbon.topo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `kary:K`: a complete K-ary tree; 1 is a chain, 0 puts everything under rank 0.
    Kary(u32),
    /// `mincrit[:K]`: ranks 1 to K route for all others; without K, as few routers as keep the
    /// fanout at 1024 or below.
    Mincrit(Option<u32>),
    /// `binomial`: a binomial tree of the least order that fits.
    Binomial,
    /// `custom`: parents come from `[bootstrap]`, and are rank 0 where none is given.
    Custom,
}

impl Default for Scheme {
    fn default() -> Self {
        Scheme::Kary(32)
    }
}

impl FromStr for Scheme {
    type Err = TopologyError;

    /// Parses `kary:K`, `mincrit`, `mincrit:K`, `binomial` or `custom`.
    fn from_str(text: &str) -> Result<Self, TopologyError> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let given = argument.filter(|a| !a.is_empty());
        match name {
            "kary" => given
                .and_then(|k| k.parse().ok())
                .map(Scheme::Kary)
                .ok_or(TopologyError::BadKary),
            "mincrit" => match given {
                None => Ok(Scheme::Mincrit(None)),
                Some(k) => {
                    let k = k.parse().map_err(|_| TopologyError::BadMincrit)?;
                    Ok(Scheme::Mincrit(Some(k)))
                }
            },
            "binomial" => match given {
                None => Ok(Scheme::Binomial),
                Some(a) => Err(TopologyError::BadBinomial(a.to_owned())),
            },
            "custom" => match given {
                None => Ok(Scheme::Custom),
                Some(a) => Err(TopologyError::BadCustom(a.to_owned())),
            },
            _ => Err(TopologyError::UnknownScheme(name.to_owned())),
        }
    }
}

impl Scheme {
    /// The parent of rank `i`, for `i` in `1..size`.
    fn parent(self, i: u32, size: u32) -> u32 {
        match self {
            Scheme::Kary(0) | Scheme::Custom => 0,
            Scheme::Kary(k) => (i - 1) / k,
            Scheme::Mincrit(k) => {
                let routers = k.unwrap_or_else(|| mincrit_routers(size));
                if routers == 0 || i <= routers {
                    0
                } else {
                    (i - routers - 1) % routers + 1
                }
            }
            Scheme::Binomial => i & (i - 1),
        }
    }
}

/// The number of routers that keeps every fanout at [`MINCRIT_FANOUT_MAX`] or below; beyond about
/// a million ranks no three-level tree can, and rank 0 takes the excess.
fn mincrit_routers(size: u32) -> u32 {
    let others = size - 1;
    if others <= MINCRIT_FANOUT_MAX {
        return 0;
    }
    // Each router accounts for itself and its leaves.
    others.div_ceil(MINCRIT_FANOUT_MAX + 1).max(2)
}

/// One broker and everything below it, as `overlay.topology` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtree {
    /// The broker at the top of this subtree.
    pub rank: Rank,
    /// The number of brokers in it, the top included.
    pub size: u32,
    /// The subtrees below, in ascending rank order.
    pub children: Vec<Subtree>,
}

/// The tree: answers every question about who is where. Ranks outside it have no parent, no
/// children and no descendants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Parent of each rank; that of rank 0 is 0 and never used.
    parents: Vec<u32>,
    /// Children of all ranks, one run per rank.
    children: Vec<Rank>,
    /// Where each rank's run in `children` starts; one longer than the tree.
    child_start: Vec<u32>,
    level: Vec<u32>,
    /// Ranks in depth-first order: each subtree is one run.
    order: Vec<Rank>,
    /// Where each rank stands in `order`.
    position: Vec<u32>,
    /// Number of brokers in each rank's subtree, itself included.
    subtree_size: Vec<u32>,
    maxlevel: u32,
}

impl Topology {
    /// Makes the tree that `scheme` gives for `size` brokers. `custom` puts all under rank 0; use
    /// [`Topology::from_parents`] when parents are configured.
    /// Errors: [`TopologyError::Empty`].
    pub fn new(scheme: Scheme, size: u32) -> Result<Topology, TopologyError> {
        Topology::build(
            (0..size)
                .map(|i| if i == 0 { 0 } else { scheme.parent(i, size) })
                .collect(),
        )
    }

    /// Makes the tree with the given parent for each rank; `None` means rank 0. What is given for
    /// rank 0 itself is ignored.
    /// Errors: no ranks, a parent out of range, or a cycle.
    pub fn from_parents(parents: &[Option<Rank>]) -> Result<Topology, TopologyError> {
        let size = parents.len();
        for (i, parent) in parents.iter().enumerate().skip(1) {
            if let Some(parent) = parent
                && parent.0 as usize >= size
            {
                return Err(TopologyError::ParentOutOfRange {
                    rank: Rank(i as u32),
                    parent: *parent,
                });
            }
        }
        let parents = parents.iter().enumerate();
        Topology::build(
            parents
                .map(|(i, p)| {
                    if i == 0 {
                        0
                    } else {
                        p.map_or(0, |rank| rank.0)
                    }
                })
                .collect(),
        )
    }

    fn build(parents: Vec<u32>) -> Result<Topology, TopologyError> {
        let size = parents.len();
        if size == 0 {
            return Err(TopologyError::Empty);
        }
        let (children, child_start) = group_by_parent(&parents);
        let mut topology = Topology {
            parents,
            children,
            child_start,
            level: vec![0; size],
            order: Vec::with_capacity(size),
            position: vec![u32::MAX; size],
            subtree_size: vec![1; size],
            maxlevel: 0,
        };
        topology.walk();
        if let Some(rank) = topology.position.iter().position(|p| *p == u32::MAX) {
            return Err(TopologyError::Disconnected(Rank(rank as u32)));
        }
        for &rank in topology.order.iter().skip(1).rev() {
            let parent = topology.parents[rank.0 as usize] as usize;
            topology.subtree_size[parent] += topology.subtree_size[rank.0 as usize];
        }
        Ok(topology)
    }

    /// Visits the tree depth first (with a stack of its own: a chain may be very deep).
    fn walk(&mut self) {
        let mut stack = vec![Rank::LEADER];
        while let Some(rank) = stack.pop() {
            let i = rank.0 as usize;
            self.position[i] = self.order.len() as u32;
            self.order.push(rank);
            if i != 0 {
                self.level[i] = self.level[self.parents[i] as usize] + 1;
                self.maxlevel = self.maxlevel.max(self.level[i]);
            }
            let run = self.child_start[i] as usize..self.child_start[i + 1] as usize;
            stack.extend(self.children[run].iter().rev());
        }
    }

    /// The number of brokers.
    pub fn size(&self) -> u32 {
        self.parents.len() as u32
    }

    /// The parent of `rank`; rank 0 has none.
    pub fn parent(&self, rank: Rank) -> Option<Rank> {
        if rank == Rank::LEADER {
            return None;
        }
        self.parents.get(rank.0 as usize).map(|p| Rank(*p))
    }

    /// The children of `rank`, in ascending order.
    pub fn children(&self, rank: Rank) -> &[Rank] {
        let i = rank.0 as usize;
        if i >= self.parents.len() {
            return &[];
        }
        &self.children[self.child_start[i] as usize..self.child_start[i + 1] as usize]
    }

    /// The distance from rank 0 (`tbon.level`).
    pub fn level(&self, rank: Rank) -> Option<u32> {
        self.level.get(rank.0 as usize).copied()
    }

    /// The greatest level in the tree (`tbon.maxlevel`).
    pub fn maxlevel(&self) -> u32 {
        self.maxlevel
    }

    /// The number of brokers below `rank`, not counting itself (`tbon.descendants`).
    pub fn descendants(&self, rank: Rank) -> u32 {
        self.subtree_size
            .get(rank.0 as usize)
            .map_or(0, |size| size - 1)
    }

    /// `rank` and everything below it, depth first.
    pub fn subtree_ranks(&self, rank: Rank) -> &[Rank] {
        let i = rank.0 as usize;
        if i >= self.parents.len() {
            return &[];
        }
        let start = self.position[i] as usize;
        &self.order[start..start + self.subtree_size[i] as usize]
    }

    /// Whether `target` is `top` itself or somewhere below it.
    pub fn in_subtree(&self, top: Rank, target: Rank) -> bool {
        let (Some(&start), Some(&at)) = (
            self.position.get(top.0 as usize),
            self.position.get(target.0 as usize),
        ) else {
            return false;
        };
        at >= start && at - start < self.subtree_size[top.0 as usize]
    }

    /// The child of `from` through which `target` is reached, or `None` when `target` is not
    /// below `from`: then the way leads to the parent (or nowhere, if it is `from` itself).
    pub fn child_toward(&self, from: Rank, target: Rank) -> Option<Rank> {
        if from == target || !self.in_subtree(from, target) {
            return None;
        }
        let at = self.position[target.0 as usize];
        let children = self.children(from);
        // Children stand in `order` as they stand in the list, so the last one that does not come
        // after the target holds it.
        let after = children.partition_point(|c| self.position[c.0 as usize] <= at);
        after.checked_sub(1).map(|i| children[i])
    }

    /// The recursive form of the subtree at `rank`. The nesting is as deep as the tree.
    pub fn subtree(&self, rank: Rank) -> Option<Subtree> {
        let ranks = self.subtree_ranks(rank);
        let offset = *self.position.get(rank.0 as usize)? as usize;
        let mut built: Vec<Option<Subtree>> = vec![None; ranks.len()];
        // Depth-first order reversed: children are ready before their parent.
        for (i, &at) in ranks.iter().enumerate().rev() {
            let children = self.children(at).iter();
            let children = children
                .filter_map(|c| built[self.position[c.0 as usize] as usize - offset].take())
                .collect();
            let size = self.subtree_size[at.0 as usize];
            built[i] = Some(Subtree {
                rank: at,
                size,
                children,
            });
        }
        built.into_iter().next().flatten()
    }
}

/// Lists every rank's children in one vector, with the start of each rank's run.
fn group_by_parent(parents: &[u32]) -> (Vec<Rank>, Vec<u32>) {
    let mut start = vec![0u32; parents.len() + 1];
    for &parent in &parents[1..] {
        start[parent as usize + 1] += 1;
    }
    for i in 1..start.len() {
        start[i] += start[i - 1];
    }
    let mut next = start.clone();
    let mut children = vec![Rank::LEADER; parents.len() - 1];
    for (i, &parent) in parents.iter().enumerate().skip(1) {
        let slot = &mut next[parent as usize];
        children[*slot as usize] = Rank(i as u32);
        *slot += 1;
    }
    (children, start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topology(scheme: &str, size: u32) -> Topology {
        Topology::new(scheme.parse().unwrap(), size).unwrap()
    }

    fn show(tree: &Subtree) -> String {
        let children: Vec<String> = tree.children.iter().map(show).collect();
        match children.is_empty() {
            true => tree.rank.to_string(),
            false => format!("{}({})", tree.rank, children.join(" ")),
        }
    }

    #[test]
    fn schemes_parse() {
        let check = |text: &str, expect: Scheme| assert_eq!(text.parse(), Ok(expect), "{text}");
        check("kary:2", Scheme::Kary(2));
        check("kary:0", Scheme::Kary(0));
        check("mincrit", Scheme::Mincrit(None));
        check("mincrit:", Scheme::Mincrit(None));
        check("mincrit:7", Scheme::Mincrit(Some(7)));
        check("binomial", Scheme::Binomial);
        check("custom", Scheme::Custom);
    }

    #[test]
    fn bad_schemes_say_why() {
        let check = |text: &str, expect: &str| {
            assert_eq!(text.parse::<Scheme>().unwrap_err().to_string(), expect);
        };
        for text in ["kary", "kary:", "kary:x", "kary:-1", "kary:1.5", "kary:2x"] {
            check(text, "kary k value must be an integer >= 0");
        }
        check("mincrit:x", "mincrit k value must be an integer >= 0");
        check("foo", "unknown topology scheme 'foo'");
        check("", "unknown topology scheme ''");
        check("binomial:2", "unknown binomial topology directive: '2'");
        check("custom:1", "unknown custom topology directive: '1'");
    }

    #[test]
    fn shapes_are_the_documented_ones() {
        let check = |scheme: &str, expect: &str| {
            let tree = topology(scheme, 9).subtree(Rank(0)).unwrap();
            assert_eq!(show(&tree), expect, "{scheme}");
        };
        check("kary:3", "0(1(4 5 6) 2(7 8) 3)");
        check("kary:1", "0(1(2(3(4(5(6(7(8))))))))");
        check("kary:0", "0(1 2 3 4 5 6 7 8)");
        check("binomial", "0(1 2(3) 4(5 6(7)) 8)");
        check("mincrit", "0(1 2 3 4 5 6 7 8)");
        check("mincrit:2", "0(1(3 5 7) 2(4 6 8))");
        check("mincrit:7", "0(1(8) 2 3 4 5 6 7)");
        check("mincrit:10", "0(1 2 3 4 5 6 7 8)");
    }

    #[test]
    fn mincrit_without_k_bounds_the_fanout() {
        for size in [1025, 1026, 2000, 3075, 3077, 16384, 100_000] {
            let tree = topology("mincrit", size);
            let widest = (0..size)
                .map(|r| tree.children(Rank(r)).len())
                .max()
                .unwrap();
            assert!(widest <= 1024, "size {size}: fanout {widest}");
            assert_eq!(tree.maxlevel(), if size <= 1025 { 1 } else { 2 });
        }
        assert_eq!(topology("mincrit", 1026).children(Rank(0)).len(), 2);
    }

    #[test]
    fn custom_parents() {
        let parents = [None, Some(Rank(2)), None, Some(Rank(1))];
        let tree = Topology::from_parents(&parents).unwrap();
        assert_eq!(show(&tree.subtree(Rank(0)).unwrap()), "0(2(1(3)))");
        assert_eq!(tree.maxlevel(), 3);
        assert_eq!(tree.child_toward(Rank(0), Rank(3)), Some(Rank(2)));

        let looped = Topology::from_parents(&[None, Some(Rank(2)), Some(Rank(1))]);
        assert_eq!(looped, Err(TopologyError::Disconnected(Rank(1))));
        let own = Topology::from_parents(&[None, Some(Rank(1))]);
        assert_eq!(own, Err(TopologyError::Disconnected(Rank(1))));
        let outside = Topology::from_parents(&[None, Some(Rank(9))]);
        assert!(matches!(
            outside,
            Err(TopologyError::ParentOutOfRange { .. })
        ));
        assert_eq!(Topology::from_parents(&[]), Err(TopologyError::Empty));
    }

    #[test]
    fn ranks_outside_have_nothing() {
        let tree = topology("kary:2", 3);
        assert_eq!(tree.parent(Rank(3)), None);
        assert!(tree.children(Rank(3)).is_empty());
        assert_eq!(tree.descendants(Rank(u32::MAX)), 0);
        assert_eq!(tree.child_toward(Rank(0), Rank(3)), None);
        assert_eq!(tree.subtree(Rank(3)), None);
        assert_eq!(tree.level(Rank(3)), None);
    }

    #[test]
    fn a_deep_chain_does_not_exhaust_the_stack() {
        let tree = topology("kary:1", 1 << 20);
        assert_eq!(tree.maxlevel(), (1 << 20) - 1);
        assert_eq!(tree.child_toward(Rank(5), Rank(1 << 19)), Some(Rank(6)));
    }

    /// What must hold for any tree.
    fn assert_sound(tree: &Topology) {
        let size = tree.size();
        assert_eq!(tree.descendants(Rank(0)), size - 1);
        let mut seen = vec![0; size as usize];
        for rank in (0..size).map(Rank) {
            let children = tree.children(rank);
            assert!(children.is_sorted());
            let below: u32 = children.iter().map(|c| tree.descendants(*c) + 1).sum();
            assert_eq!(tree.descendants(rank), below);
            assert_eq!(tree.subtree_ranks(rank).len() as u32, below + 1);
            for child in children {
                seen[child.0 as usize] += 1;
                assert_eq!(tree.parent(*child), Some(rank));
                assert_eq!(tree.level(*child), Some(tree.level(rank).unwrap() + 1));
            }
            // Walking down towards a rank arrives there.
            let mut at = Rank(0);
            while let Some(next) = tree.child_toward(at, rank) {
                assert_eq!(tree.parent(next), Some(at));
                assert!(tree.in_subtree(at, rank));
                at = next;
            }
            assert_eq!(at, rank);
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|n| *n == 1));
    }

    #[test]
    fn every_scheme_is_sound_at_every_size() {
        for size in 1..=300 {
            for scheme in [
                "kary:0",
                "kary:1",
                "kary:2",
                "kary:3",
                "kary:32",
                "mincrit",
                "mincrit:4",
                "binomial",
            ] {
                assert_sound(&topology(scheme, size));
            }
        }
    }

    proptest! {
        #[test]
        fn random_parents_are_sound(choices in proptest::collection::vec(any::<u32>(), 0..299)) {
            let mut parents = vec![None];
            for (i, choice) in choices.iter().enumerate() {
                parents.push(Some(Rank(choice % (i as u32 + 1))));
            }
            assert_sound(&Topology::from_parents(&parents).unwrap());
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = text.parse::<Scheme>();
        }
    }
}
