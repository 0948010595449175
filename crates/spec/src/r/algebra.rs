//! Set operations on R, and renumbering of ranks and cores.

use std::collections::{BTreeMap, HashMap, VecDeque};

use types::{Errno, Hostlist, IdSet};

use super::{Node, ResourceSet};
use crate::constraint::{Constraint, Target};

/// Two sets that should be disjoint share resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("R objects '{left}' and '{right}' overlap")]
pub struct OverlapError {
    /// The first set in short form.
    pub left: String,
    /// The second set in short form.
    pub right: String,
}

impl OverlapError {
    /// The error number C programs report: `EEXIST`.
    pub fn errno(&self) -> Errno {
        Errno::EEXIST
    }
}

/// Why ranks could not be assigned by host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RerankError {
    /// A host that is not in the set.
    #[error("failed to find one or more provided hosts in R")]
    UnknownHost,
    /// More hosts than ranks.
    #[error("Too many hosts specified (expected {0})")]
    TooMany(usize),
    /// Fewer hosts than ranks.
    #[error("Too few hosts specified (expected {0})")]
    TooFew(usize),
}

impl RerankError {
    /// The error number C programs report.
    pub fn errno(&self) -> Errno {
        match self {
            RerankError::UnknownHost => Errno::ENOENT,
            RerankError::TooMany(_) => Errno::EOVERFLOW,
            RerankError::TooFew(_) => Errno::ENOSPC,
        }
    }
}

impl ResourceSet {
    /// Adds a disjoint set. Errors: [`OverlapError`] if they share resources; nothing is added.
    pub fn append(&mut self, other: &ResourceSet) -> Result<(), OverlapError> {
        if self.overlaps(other) {
            return Err(OverlapError {
                left: self.to_string(),
                right: other.to_string(),
            });
        }
        self.add(other);
        Ok(())
    }

    /// Adds the resources of another set; ranks present in both keep their host name.
    pub fn add(&mut self, other: &ResourceSet) {
        for (&rank, theirs) in &other.nodes {
            match self.nodes.get_mut(&rank) {
                Some(node) => node.children = node.children.union(&theirs.children),
                None => {
                    self.nodes.insert(rank, theirs.clone());
                }
            }
        }
        for (name, ranks) in &other.properties {
            self.properties
                .entry(name.clone())
                .or_default()
                .insert_all(ranks);
        }
    }

    /// Removes the resources of another set, and ranks that have none left.
    pub fn subtract(&mut self, other: &ResourceSet) {
        for (rank, theirs) in &other.nodes {
            if let Some(node) = self.nodes.get_mut(rank)
                && same_host(node, theirs)
            {
                node.children = node.children.difference(&theirs.children);
                if node.children.is_empty() {
                    self.nodes.remove(rank);
                }
            }
        }
        self.drop_stale_properties();
    }

    /// Whether the sets share a resource.
    pub fn overlaps(&self, other: &ResourceSet) -> bool {
        self.nodes.iter().any(|(rank, node)| {
            let theirs = other.nodes.get(rank);
            theirs.is_some_and(|theirs| node.children.intersects(&theirs.children))
        })
    }

    /// Whether every resource of this set is in `other`.
    pub fn is_subset(&self, other: &ResourceSet) -> bool {
        self.nodes.iter().all(|(rank, node)| {
            let theirs = other.nodes.get(rank);
            theirs.is_some_and(|theirs| node.children.difference(&theirs.children).is_empty())
        })
    }

    /// What either set has. Times and scheduling data are this set's.
    pub fn union(&self, other: &ResourceSet) -> ResourceSet {
        let mut result = self.clone();
        result.add(other);
        result
    }

    /// What this set has and `other` has not.
    pub fn difference(&self, other: &ResourceSet) -> ResourceSet {
        let mut result = self.clone();
        result.subtract(other);
        result
    }

    /// What both sets have. Ranks on different hosts share nothing.
    pub fn intersection(&self, other: &ResourceSet) -> ResourceSet {
        let mut result = self.with_nodes(self.nodes.iter().filter_map(|(&rank, node)| {
            let theirs = other
                .nodes
                .get(&rank)
                .filter(|theirs| same_host(node, theirs))?;
            let children = node.children.intersection(&theirs.children);
            let hostname = node.hostname.clone();
            (!children.is_empty()).then_some((rank, Node { hostname, children }))
        }));
        result.properties.retain(|name, ranks| {
            *ranks = match other.properties.get(name) {
                Some(theirs) => ranks.intersection(theirs),
                None => IdSet::new(),
            };
            !ranks.is_empty()
        });
        result
    }

    /// The part on the given ranks.
    pub fn copy_ranks(&self, ranks: &IdSet) -> ResourceSet {
        let wanted = self.nodes.iter().filter(|(rank, _)| ranks.contains(**rank));
        self.with_nodes(wanted.map(|(&rank, node)| (rank, node.clone())))
    }

    /// Removes ranks.
    pub fn remove_ranks(&mut self, ranks: &IdSet) {
        self.nodes.retain(|&rank, _| !ranks.contains(rank));
        self.drop_stale_properties();
    }

    /// The part on ranks for which a constraint holds.
    pub fn copy_constraint(&self, constraint: &Constraint) -> ResourceSet {
        self.copy_ranks(&self.ranks_matching(constraint))
    }

    /// The ranks for which a constraint holds.
    pub fn ranks_matching(&self, constraint: &Constraint) -> IdSet {
        let nodes = self.nodes.iter().filter(|&(&rank, node)| {
            constraint.matches(&RankTarget {
                set: self,
                rank,
                node,
            })
        });
        nodes.map(|(&rank, _)| rank).collect()
    }

    /// Renumbers ranks and cores from 0. GPU ids are kept, because they name devices.
    pub fn remap(&mut self) {
        self.renumber(
            (0..)
                .zip(self.ranks().iter())
                .map(|(new, old)| (old, new))
                .collect(),
        );
        for node in self.nodes.values_mut() {
            node.children.cores = IdSet::first_n(node.children.cores.len() as u32);
        }
    }

    /// Gives each rank the position of its host in a list. Where hosts repeat, their ranks are
    /// taken in ascending order.
    ///
    /// Errors: [`RerankError`] unless the list names each rank's host once.
    pub fn rerank(&mut self, hosts: &Hostlist) -> Result<(), RerankError> {
        let expected = self.nodes.len();
        match hosts.len() {
            count if count > expected => return Err(RerankError::TooMany(expected)),
            count if count < expected => return Err(RerankError::TooFew(expected)),
            _ => {}
        }
        let mut ranks: HashMap<&str, VecDeque<u32>> = HashMap::new();
        for (&rank, node) in &self.nodes {
            if let Some(host) = node.hostname.as_deref() {
                ranks.entry(host).or_default().push_back(rank);
            }
        }
        let mut numbers = BTreeMap::new();
        for (new, host) in (0..).zip(hosts.iter()) {
            let old = ranks.get_mut(host.as_str()).and_then(VecDeque::pop_front);
            numbers.insert(old.ok_or(RerankError::UnknownHost)?, new);
        }
        self.renumber(numbers);
        Ok(())
    }

    /// Replaces rank numbers; `numbers` maps every old rank to its new one.
    fn renumber(&mut self, numbers: BTreeMap<u32, u32>) {
        let nodes = std::mem::take(&mut self.nodes).into_iter();
        self.nodes = nodes
            .filter_map(|(old, node)| Some((*numbers.get(&old)?, node)))
            .collect();
        for ranks in self.properties.values_mut() {
            *ranks = ranks
                .iter()
                .filter_map(|old| numbers.get(&old).copied())
                .collect();
        }
    }

    /// This set with other nodes, and properties cut down to them.
    fn with_nodes(&self, nodes: impl Iterator<Item = (u32, Node)>) -> ResourceSet {
        let mut result = ResourceSet {
            nodes: nodes.collect(),
            properties: self.properties.clone(),
            starttime: self.starttime,
            expiration: self.expiration,
            nslots: self.nslots,
            scheduling: self.scheduling.clone(),
        };
        result.drop_stale_properties();
        result
    }

    /// Removes ranks the set no longer has from the properties.
    fn drop_stale_properties(&mut self) {
        let ranks = self.ranks();
        self.properties.retain(|_, having| {
            *having = having.intersection(&ranks);
            !having.is_empty()
        });
    }
}

fn same_host(a: &Node, b: &Node) -> bool {
    match (&a.hostname, &b.hostname) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// One rank of a set, as constraints see it.
struct RankTarget<'a> {
    set: &'a ResourceSet,
    rank: u32,
    node: &'a Node,
}

impl Target for RankTarget<'_> {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn hostname(&self) -> Option<&str> {
        self.node.hostname.as_deref()
    }

    fn has_property(&self, name: &str) -> bool {
        let having = self.set.properties.get(name);
        having.is_some_and(|ranks| ranks.contains(self.rank))
    }
}
