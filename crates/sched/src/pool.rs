//! The resources of the instance: what there is, what is up, what is free.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use spec::r::Children;
use spec::{Count, ResourceSet};
use types::IdSet;

use crate::Request;

/// Why a request gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// Not now.
    #[error("insufficient resources")]
    Insufficient,
    /// Never. The text is shown to users.
    #[error("unsatisfiable request: {0}")]
    Unsatisfiable(String),
}

/// What a job has of each rank.
pub(crate) type Share = Vec<(u32, Children)>;

/// One rank's resources.
#[derive(Clone, Debug)]
struct Node {
    total: Children,
    free: Children,
    up: bool,
}

/// The order in which nodes are tried: most free cores, most free GPUs, lowest rank.
type Key = (Reverse<usize>, Reverse<usize>, u32);

/// The resources, and which of them are free.
///
/// Nodes that are up and have something free are kept in the order they are tried, so placing a
/// job looks only at as many nodes as it takes (more where a constraint rules nodes out).
#[derive(Clone, Debug, Default)]
pub struct Pool {
    resources: ResourceSet,
    nodes: BTreeMap<u32, Node>,
    order: BTreeSet<Key>,
}

impl Pool {
    /// A pool of these resources, all down.
    pub fn new(resources: ResourceSet) -> Pool {
        let nodes = resources
            .nodes()
            .map(|(rank, node)| {
                let total = node.children.clone();
                (
                    rank,
                    Node {
                        free: total.clone(),
                        total,
                        up: false,
                    },
                )
            })
            .collect();
        Pool {
            resources,
            nodes,
            order: BTreeSet::new(),
        }
    }

    /// All the resources.
    pub fn resources(&self) -> &ResourceSet {
        &self.resources
    }

    /// When the resources end, in seconds since the epoch; 0 for never.
    pub fn expiration(&self) -> f64 {
        self.resources.expiration
    }

    /// Moves the end.
    pub fn set_expiration(&mut self, expiration: f64) {
        self.resources.expiration = expiration;
    }

    fn key(rank: u32, node: &Node) -> Option<Key> {
        let cores = node.free.cores.len();
        let gpus = node.free.gpus.len();
        (node.up && cores + gpus > 0).then_some((Reverse(cores), Reverse(gpus), rank))
    }

    /// Changes a node, keeping the order right. Unknown ranks are ignored.
    fn change(&mut self, rank: u32, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&rank) else {
            return;
        };
        if let Some(key) = Pool::key(rank, node) {
            self.order.remove(&key);
        }
        change(node);
        if let Some(key) = Pool::key(rank, node) {
            self.order.insert(key);
        }
    }

    /// Marks ranks up or down.
    pub fn set_up(&mut self, ranks: &IdSet, up: bool) {
        for rank in ranks.iter() {
            self.change(rank, |node| node.up = up);
        }
    }

    /// Takes ranks away for good.
    pub fn shrink(&mut self, ranks: &IdSet) {
        self.set_up(ranks, false);
        for rank in ranks.iter() {
            self.nodes.remove(&rank);
        }
        self.resources.remove_ranks(ranks);
    }

    /// What is up and free.
    pub fn free_resources(&self) -> ResourceSet {
        self.select(|node| node.up.then(|| node.free.clone()))
    }

    /// What is in use, up or not.
    pub fn allocated_resources(&self) -> ResourceSet {
        self.select(|node| Some(node.total.difference(&node.free)))
    }

    /// What is down.
    pub fn down_resources(&self) -> ResourceSet {
        self.select(|node| (!node.up).then(|| node.total.clone()))
    }

    fn select(&self, pick: impl Fn(&Node) -> Option<Children>) -> ResourceSet {
        let mut set = ResourceSet::new();
        for (rank, node) in &self.nodes {
            if let Some(children) = pick(node).filter(|children| !children.is_empty()) {
                set.insert(*rank, self.resources.hostname(*rank), &children);
            }
        }
        set
    }

    /// Marks resources as in use by a job that runs already. Returns whether all were free.
    pub fn claim(&mut self, resources: &ResourceSet) -> bool {
        let free = resources.nodes().all(|(rank, wanted)| {
            self.nodes.get(&rank).is_some_and(|node| {
                wanted.children.cores.is_subset(&node.free.cores)
                    && wanted.children.gpus.is_subset(&node.free.gpus)
            })
        });
        if free {
            self.take(&share(resources));
        }
        free
    }

    /// Takes resources back. What is not the pool's (any more) is ignored.
    pub fn free(&mut self, resources: &ResourceSet) {
        self.give(&share(resources));
    }

    /// Places a request and marks its resources as in use.
    ///
    /// Errors: [`AllocError::Insufficient`] if it has to wait, [`AllocError::Unsatisfiable`] if no
    /// wait will help.
    pub fn alloc(&mut self, request: &Request) -> Result<ResourceSet, AllocError> {
        match self.alloc_now(request) {
            Some(set) => Ok(set),
            None => {
                self.check(request)?;
                Err(AllocError::Insufficient)
            }
        }
    }

    /// Like [`Pool::alloc`], without asking whether a wait would help.
    pub(crate) fn alloc_now(&mut self, request: &Request) -> Option<ResourceSet> {
        let (share, nslots) = self.place(request)?;
        self.take(&share);
        let mut set = ResourceSet::new();
        for (rank, children) in &share {
            set.insert(*rank, self.resources.hostname(*rank), children);
        }
        set.nslots = Some(nslots);
        set.copy_properties_from(&self.resources);
        // Properties that begin with a plus are this instance's own.
        set.retain_properties(|name| !name.starts_with('+'));
        Some(set)
    }

    /// Marks as in use.
    pub(crate) fn take(&mut self, share: &Share) {
        for (rank, children) in share {
            self.change(*rank, |node| node.free = node.free.difference(children));
        }
    }

    /// Marks as free what was in use and is the pool's.
    pub(crate) fn give(&mut self, share: &Share) {
        for (rank, children) in share {
            self.change(*rank, |node| {
                let own = children.intersection(&node.total);
                node.free = node.free.union(&own);
            });
        }
    }

    /// Chooses resources; `None` if there are not enough. Returns them with the number of slots.
    pub(crate) fn place(&self, request: &Request) -> Option<(Share, u64)> {
        let allowed = request
            .constraint
            .as_ref()
            .map(|constraint| self.resources.ranks_matching(constraint));
        let candidates = self.order.iter().map(|(_, _, rank)| *rank).filter(|rank| {
            allowed
                .as_ref()
                .is_none_or(|allowed| allowed.contains(*rank))
        });
        match &request.nodes {
            Some(count) => self.place_nodes(request, count, candidates),
            None => self.place_slots(request, candidates),
        }
    }

    fn place_nodes(
        &self,
        request: &Request,
        count: &Count,
        candidates: impl Iterator<Item = u32>,
    ) -> Option<(Share, u64)> {
        let most = count.max().unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        let mut nslots = 0;
        for rank in candidates {
            if taken.len() as u64 >= most {
                break;
            }
            let node = &self.nodes[&rank];
            if let Some((children, slots)) = fit_node(request, node) {
                taken.push((rank, children, slots));
            } else if !request.exclusive && request.gpus == 0 {
                // Those that follow have no more cores.
                break;
            }
        }
        let wanted = count.largest_within(taken.len() as u64)?;
        taken.truncate(wanted as usize);
        let set = taken
            .into_iter()
            .map(|(rank, children, slots)| {
                nslots += slots;
                (rank, children)
            })
            .collect();
        Some((set, nslots))
    }

    fn place_slots(
        &self,
        request: &Request,
        candidates: impl Iterator<Item = u32>,
    ) -> Option<(Share, u64)> {
        let most = request.slots.max().unwrap_or(u64::MAX);
        let mut available = 0;
        let mut fits = Vec::new();
        for rank in candidates {
            let slots = slots_in(request, &self.nodes[&rank].free).min(most - available);
            if slots > 0 {
                fits.push((rank, slots));
                available += slots;
            }
            if available >= most {
                break;
            }
        }
        let wanted = request.slots.largest_within(available)?;
        let mut left = wanted;
        let mut taken = Vec::new();
        for (rank, slots) in fits {
            let slots = slots.min(left);
            if slots == 0 {
                break;
            }
            left -= slots;
            taken.push((rank, take(request, &self.nodes[&rank].free, slots)?));
        }
        Some((taken, wanted))
    }

    /// Whether a request could be placed if everything were up and free.
    ///
    /// Errors: [`AllocError::Unsatisfiable`] with what is wanting.
    pub fn check(&self, request: &Request) -> Result<(), AllocError> {
        let mut empty = self.clone();
        empty.order.clear();
        for (rank, node) in &mut empty.nodes {
            node.free = node.total.clone();
            node.up = true;
            if let Some(key) = Pool::key(*rank, node) {
                empty.order.insert(key);
            }
        }
        if empty.place(request).is_some() {
            return Ok(());
        }
        Err(AllocError::Unsatisfiable(empty.shortfall(request)))
    }

    /// What an empty pool lacks for a request, in words.
    fn shortfall(&self, request: &Request) -> String {
        let allowed = |rank: &u32| {
            request
                .constraint
                .as_ref()
                .is_none_or(|constraint| self.resources.ranks_matching(constraint).contains(*rank))
        };
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .filter(|(rank, _)| allowed(rank))
            .map(|(_, node)| node)
            .collect();
        let (cores, gpus) = (request.cores, request.gpus);
        if let Some(count) = &request.nodes {
            let want = count.min();
            let eligible = nodes
                .iter()
                .filter(|node| fit_node(request, node).is_some())
                .count();
            if request.exclusive {
                return format!("need {want} exclusive node(s), only {eligible} eligible");
            }
            let cores = cores * request.slots.min();
            let mut each = format!("{cores} cores");
            if gpus > 0 {
                each += &format!(" and {} GPUs", gpus * request.slots.min());
            }
            return format!("need {want} node(s) with {each} each, only {eligible} eligible");
        }
        let want = request.slots.min();
        let total_gpus: usize = nodes.iter().map(|node| node.total.gpus.len()).sum();
        let total_cores: usize = nodes.iter().map(|node| node.total.cores.len()).sum();
        let slots: u64 = nodes
            .iter()
            .map(|node| slots_in(request, &node.total))
            .sum();
        if gpus > 0 && (total_gpus as u64) < want * gpus {
            return format!(
                "need {want} slot(s) with {gpus} GPU(s) each, only {slots} available \
                 (total GPUs: {total_gpus})"
            );
        }
        format!(
            "need {want} slot(s) of {cores} core(s), only {slots} such slot(s) available \
             (total cores: {total_cores})"
        )
    }
}

/// What a set has of each rank.
pub(crate) fn share(set: &ResourceSet) -> Share {
    let nodes = set.nodes();
    nodes
        .map(|(rank, node)| (rank, node.children.clone()))
        .collect()
}

/// How many slots fit into these resources.
fn slots_in(request: &Request, free: &Children) -> u64 {
    let by_cores = match request.cores {
        0 => u64::MAX,
        cores => free.cores.len() as u64 / cores,
    };
    match request.gpus {
        0 => by_cores,
        gpus => by_cores.min(free.gpus.len() as u64 / gpus),
    }
}

/// The lowest ids for so many slots; `None` if there are not enough.
fn take(request: &Request, free: &Children, slots: u64) -> Option<Children> {
    let lowest = |ids: &IdSet, count: u64| ids.clone().take_lowest(usize::try_from(count).ok()?);
    let cores = lowest(&free.cores, request.cores * slots)?;
    let gpus = lowest(&free.gpus, request.gpus * slots)?;
    Some(Children::new(cores, gpus))
}

/// What a request takes of one node, and how many slots that is; `None` if the node does not fit.
fn fit_node(request: &Request, node: &Node) -> Option<(Children, u64)> {
    let slots = request
        .slots
        .largest_within(slots_in(request, &node.free))?;
    if request.exclusive {
        return (node.free == node.total).then(|| (node.total.clone(), slots));
    }
    Some((take(request, &node.free, slots)?, slots))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spec::Jobspec;

    use super::*;

    fn pool(ranks: u32, cores: u32, gpus: u32) -> Pool {
        let mut set = ResourceSet::new();
        let ids = |count: u32| IdSet::first_n(count);
        for rank in 0..ranks {
            set.insert(rank, Some("host"), &Children::new(ids(cores), ids(gpus)));
        }
        let mut pool = Pool::new(set);
        pool.set_up(&IdSet::first_n(ranks), true);
        pool
    }

    /// A request of the form `NODES[x] SLOTS CORES GPUS`, nodes 0 meaning none named.
    fn request(text: &str) -> Request {
        let words: Vec<_> = text.split(' ').collect();
        let number = |at: usize| {
            words
                .get(at)
                .and_then(|word| word.parse().ok())
                .unwrap_or(0u64)
        };
        let nodes: u64 = words[0].trim_end_matches('x').parse().expect("a number");
        Request {
            nodes: (nodes > 0).then_some(Count::Fixed(nodes)),
            exclusive: words[0].ends_with('x'),
            slots: Count::Fixed(number(1)),
            cores: number(2),
            gpus: number(3),
            constraint: None,
            duration: 0.0,
        }
    }

    fn check(pool: &mut Pool, text: &str, expect: &str) {
        let shown = match pool.alloc(&request(text)) {
            Ok(set) => set.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expect, "{text}");
    }

    #[test]
    fn slots_fill_the_emptiest_nodes_in_order() {
        // As the reference places them on four nodes of two cores.
        for (wanted, expect) in [
            ("0 1 1", "rank0/core0"),
            ("0 2 1", "rank0/core[0-1]"),
            ("0 3 1", "rank0/core[0-1] rank1/core0"),
            ("0 5 1", "rank[0-1]/core[0-1] rank2/core0"),
            ("0 8 1", "rank[0-3]/core[0-1]"),
            ("0 2 2", "rank[0-1]/core[0-1]"),
            ("2 1 1", "rank[0-1]/core0"),
            ("2 2 1", "rank[0-1]/core[0-1]"),
            ("3x 1 1", "rank[0-2]/core[0-1]"),
        ] {
            check(&mut pool(4, 2, 0), wanted, expect);
        }
        let mut used = pool(4, 2, 0);
        check(&mut used, "0 3 1", "rank0/core[0-1] rank1/core0");
        let then = |wanted: &str, expect: &str| check(&mut used.clone(), wanted, expect);
        then("0 1 1", "rank2/core0");
        then("0 3 1", "rank2/core[0-1] rank3/core0");
        then("2 1 1", "rank[2-3]/core0");
        then("3x 1 1", "insufficient resources");
    }

    #[test]
    fn what_can_never_be_is_said_so() {
        let mut pool = pool(4, 2, 0);
        for (wanted, expect) in [
            (
                "0 9 1",
                "need 9 slot(s) of 1 core(s), only 8 such slot(s) available (total cores: 8)",
            ),
            ("5x 1 1", "need 5 exclusive node(s), only 4 eligible"),
            (
                "0 1 3",
                "need 1 slot(s) of 3 core(s), only 0 such slot(s) available (total cores: 8)",
            ),
            (
                "0 1 1 1",
                "need 1 slot(s) with 1 GPU(s) each, only 0 available (total GPUs: 0)",
            ),
            ("2 1 3", "need 2 node(s) with 3 cores each, only 0 eligible"),
        ] {
            check(
                &mut pool,
                wanted,
                &format!("unsatisfiable request: {expect}"),
            );
        }
    }

    #[test]
    fn nodes_that_are_down_are_not_used_but_count_as_possible() {
        let mut pool = pool(2, 1, 0);
        pool.set_up(&IdSet::from_range(0, 0), false);
        check(&mut pool, "0 1 1", "rank1/core0");
        check(&mut pool, "0 1 1", "insufficient resources");
        pool.shrink(&IdSet::from_range(0, 0));
        check(
            &mut pool,
            "0 2 1",
            "unsatisfiable request: need 2 slot(s) of 1 core(s), only 1 such slot(s) available \
             (total cores: 1)",
        );
    }

    #[test]
    fn jobspecs_become_requests() {
        let text = r#"{"version":1,"resources":[{"type":"node","count":2,"exclusive":true,
            "with":[{"type":"slot","count":3,"label":"t","with":[{"type":"core","count":4}]}]}],
            "tasks":[{"command":["a"],"slot":"t","count":{"per_slot":1}}],
            "attributes":{"system":{"duration":1.5}}}"#;
        let jobspec = Jobspec::decode(text.as_bytes()).expect("valid");
        let request = Request::from_jobspec(&jobspec).expect("valid");
        assert_eq!(request.nodes, Some(Count::Fixed(2)));
        assert!(request.exclusive);
        assert_eq!(
            (request.slots, request.cores, request.gpus),
            (Count::Fixed(3), 4, 0)
        );
        assert_eq!(request.duration, 1.5);
    }

    proptest! {
        /// Whatever is asked and given back, nothing is given twice and nothing is lost.
        #[test]
        fn allocations_never_overlap_and_all_comes_back(
            wanted in proptest::collection::vec((0u64..3, 1u64..4, 1u64..3, 0u64..2, any::<bool>()), 1..40),
        ) {
            let mut pool = pool(4, 4, 1);
            let all = pool.resources().clone();
            let mut held: Vec<ResourceSet> = Vec::new();
            for (nodes, slots, cores, gpus, release) in wanted {
                let text = format!("{nodes} {slots} {cores} {gpus}");
                if let Ok(set) = pool.alloc(&request(&text)) {
                    for other in &held {
                        prop_assert!(!other.overlaps(&set));
                    }
                    held.push(set);
                }
                if release && !held.is_empty() {
                    let set = held.remove(0);
                    pool.free(&set);
                }
                let mut sum = pool.free_resources();
                for set in &held {
                    sum.add(set);
                }
                prop_assert_eq!(sum.to_string(), all.to_string());
            }
        }
    }
}
