//! Which task runs on which node (RFC 34).
//!
//! Besides its own JSON form a map can be read from the PMI form `(vector,(0,4,4))` and from the
//! raw form, one idset of tasks a node, separated by semicolons.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Value, json};
use types::{Errno, Hostlist, IdSet};

/// Tasks a map may have, so that a short hostile map cannot exhaust memory or time.
pub const TASKS_MAX: u64 = 1 << 24;

/// Nodes a map may name, for the same reason.
pub const NODES_MAX: u64 = 1 << 20;

/// Why text is not a task map (RFC 34).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskmapError {
    /// Neither JSON, nor PMI, nor raw form.
    #[error("invalid taskmap: {0}")]
    Syntax(String),
    /// The wrapper lacks a key.
    #[error("Object item not found: {0}")]
    Missing(&'static str),
    /// Another version than 1.
    #[error("expected version=1, got {0}")]
    Version(i64),
    /// A block that is not an array.
    #[error("entry {0} in taskmap is not an array")]
    NotAnArray(usize),
    /// A block that is not four integers.
    #[error("error in taskmap entry: {0}")]
    Entry(String),
    /// A block with a negative number, or none where one is needed.
    #[error("invalid entry {0}")]
    Invalid(String),
    /// A bad idset in the raw form.
    #[error(transparent)]
    IdSet(#[from] types::idset::IdSetError),
    /// A task on two nodes.
    #[error("duplicate taskid specified: {0}")]
    Duplicate(u32),
    /// A gap in the task numbers.
    #[error("missing taskid: {0}")]
    MissingTask(u32),
    /// More tasks than [`TASKS_MAX`] or nodes than [`NODES_MAX`].
    #[error("taskmap is too large")]
    TooLarge,
    /// Hosts that do not give every task a node.
    #[error("host {0} has no free slot or is not in the job")]
    Host(String),
}

impl TaskmapError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Consecutive tasks on consecutive nodes, some number of times over (RFC 34).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first node.
    pub nodeid: u32,
    /// How many nodes.
    pub nnodes: u32,
    /// Tasks on each node.
    pub ppn: u32,
    /// How many times over.
    pub repeat: u32,
}

impl Block {
    fn ntasks(&self) -> u64 {
        u64::from(self.nnodes) * u64::from(self.ppn) * u64::from(self.repeat)
    }
}

/// A task map (RFC 34). Without blocks the mapping is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taskmap {
    blocks: Vec<Block>,
}

impl Taskmap {
    /// The map of which nothing is known.
    pub fn unknown() -> Taskmap {
        Taskmap::default()
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Adds tasks, joining them to the last block where that says the same.
    ///
    /// Errors: [`TaskmapError::Invalid`] if a number other than `nodeid` is 0,
    /// [`TaskmapError::TooLarge`].
    pub fn push(&mut self, block: Block) -> Result<(), TaskmapError> {
        self.push_block(block)?;
        if let [.., last, new] = &mut self.blocks[..] {
            let follows = last.nodeid.checked_add(last.nnodes) == Some(new.nodeid);
            let once = last.repeat == 1 && new.repeat == 1;
            if follows && once && last.ppn == new.ppn {
                last.nnodes += new.nnodes;
                self.blocks.pop();
            } else if (last.nodeid, last.nnodes, last.ppn) == (new.nodeid, new.nnodes, new.ppn) {
                last.repeat += new.repeat;
                self.blocks.pop();
            }
        }
        Ok(())
    }

    /// Adds a block as it is.
    fn push_block(&mut self, block: Block) -> Result<(), TaskmapError> {
        let Block {
            nodeid,
            nnodes,
            ppn,
            repeat,
        } = block;
        if nnodes == 0 || ppn == 0 || repeat == 0 {
            return Err(TaskmapError::Invalid(format!(
                "[{nodeid},{nnodes},{ppn},{repeat}]"
            )));
        }
        let wide = u64::from(nodeid) + u64::from(nnodes) > NODES_MAX;
        let per_round = u64::from(nnodes).saturating_mul(ppn.into());
        let tasks = per_round.checked_mul(repeat.into());
        match tasks.and_then(|tasks| tasks.checked_add(self.ntasks())) {
            Some(tasks) if tasks <= TASKS_MAX && !wide => {
                self.blocks.push(block);
                Ok(())
            }
            _ => Err(TaskmapError::TooLarge),
        }
    }

    /// The number of tasks.
    pub fn ntasks(&self) -> u64 {
        self.blocks.iter().map(Block::ntasks).sum()
    }

    /// The number of nodes: one more than the highest node in the map.
    pub fn nnodes(&self) -> u32 {
        let ends = self.blocks.iter().map(|block| block.nodeid + block.nnodes);
        ends.max().unwrap_or(0)
    }

    /// Runs of consecutive tasks in ascending order: node, first task, number of tasks.
    fn runs(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let nodes = self.blocks.iter().flat_map(|block| {
            let round = (block.nodeid..block.nodeid + block.nnodes).map(|node| (node, block.ppn));
            (0..block.repeat).flat_map(move |_| round.clone())
        });
        nodes.scan(0, |next, (node, count)| {
            let first = *next;
            *next += count;
            Some((node, first, count))
        })
    }

    /// The node of a task.
    pub fn nodeid(&self, task: u32) -> Option<u32> {
        let mut left = u64::from(task);
        for block in &self.blocks {
            if left < block.ntasks() {
                let in_round = left % (u64::from(block.nnodes) * u64::from(block.ppn));
                return Some(block.nodeid + (in_round / u64::from(block.ppn)) as u32);
            }
            left -= block.ntasks();
        }
        None
    }

    /// The tasks of a node; empty if it has none.
    pub fn taskids(&self, node: u32) -> IdSet {
        let mut tasks = IdSet::new();
        for (_, first, count) in self.runs().filter(|run| run.0 == node) {
            tasks.insert_range(first, first + count - 1);
        }
        tasks
    }

    /// The tasks of every node, indexed by node.
    pub fn all_taskids(&self) -> Vec<IdSet> {
        let mut nodes = vec![IdSet::new(); self.nnodes() as usize];
        for (node, first, count) in self.runs() {
            nodes[node as usize].insert_range(first, first + count - 1);
        }
        nodes
    }

    /// Tasks in blocks: each node's tasks are consecutive. `per_node` has the number of tasks of
    /// each node; nodes may have none.
    pub fn block(per_node: &[u32]) -> Result<Taskmap, TaskmapError> {
        let mut map = Taskmap::default();
        for (nodeid, &ppn) in (0..).zip(per_node).filter(|(_, ppn)| **ppn > 0) {
            map.push(one(nodeid, ppn))?;
        }
        Ok(map)
    }

    /// Tasks dealt out to the nodes in turn, `stride` at a time, until each has as many as
    /// `per_node` says.
    ///
    /// Errors: [`TaskmapError::Invalid`] if `stride` is 0.
    pub fn cyclic(per_node: &[u32], stride: u32) -> Result<Taskmap, TaskmapError> {
        if stride == 0 {
            return Err(TaskmapError::Invalid("stride 0".into()));
        }
        let mut left = per_node.to_vec();
        let mut map = Taskmap::default();
        while left.iter().any(|&tasks| tasks > 0) {
            // One round is one or more blocks; joining is left to the end because a round that
            // equals the one before becomes a repeat.
            let mut round = Taskmap::default();
            for (nodeid, tasks) in (0..).zip(&mut left).filter(|(_, tasks)| **tasks > 0) {
                let count = stride.min(*tasks);
                *tasks -= count;
                round.push(one(nodeid, count))?;
            }
            match (&mut map.blocks[..], &round.blocks[..]) {
                ([.., last], [only])
                    if (last.nodeid, last.nnodes, last.ppn)
                        == (only.nodeid, only.nnodes, only.ppn) =>
                {
                    last.repeat += 1;
                }
                _ => {
                    for block in round.blocks {
                        map.push_block(block)?;
                    }
                }
            }
        }
        Ok(map)
    }

    /// Task by task placement: the node of task 0, of task 1 and so on.
    pub fn manual(nodes: impl IntoIterator<Item = u32>) -> Result<Taskmap, TaskmapError> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for node in nodes {
            match runs.last_mut() {
                Some((same, count)) if *same == node => *count += 1,
                _ => runs.push((node, 1)),
            }
        }
        from_runs(&runs)
    }

    /// Placement by host name: task `i` goes to a node called `hosts[i]`, starting over when the
    /// list ends. `nodes` are the job's hosts by node, `per_node` the room on each; nodes sharing
    /// a name are filled in order.
    ///
    /// Errors: [`TaskmapError::Host`] if a host is not in the job or is full.
    pub fn hostfile(
        hosts: &Hostlist,
        nodes: &Hostlist,
        per_node: &[u32],
    ) -> Result<Taskmap, TaskmapError> {
        let mut left = per_node.to_vec();
        let total: u64 = per_node.iter().copied().map(u64::from).sum();
        let hosts: Vec<String> = hosts.iter().collect();
        let mut placed = Vec::new();
        for host in hosts.iter().cycle().take(total as usize) {
            let room = |&at: &usize| left.get(at).is_some_and(|&room| room > 0);
            let node = nodes.positions(host).find(room);
            let node = node.ok_or_else(|| TaskmapError::Host(host.clone()))?;
            left[node] -= 1;
            placed.push(node as u32);
        }
        Taskmap::manual(placed)
    }

    /// Decodes JSON: an array of blocks, or the object that wraps it.
    pub fn from_value(value: &Value) -> Result<Taskmap, TaskmapError> {
        let map = match value {
            Value::Object(object) => {
                let version = object
                    .get("version")
                    .ok_or(TaskmapError::Missing("version"))?;
                match version.as_i64() {
                    Some(1) => object.get("map").ok_or(TaskmapError::Missing("map"))?,
                    Some(other) => return Err(TaskmapError::Version(other)),
                    None => return Err(TaskmapError::Syntax("version is not an integer".into())),
                }
            }
            other => other,
        };
        let blocks = map.as_array();
        let blocks = blocks.ok_or_else(|| TaskmapError::Syntax("map is not an array".into()))?;
        let mut result = Taskmap::default();
        for (at, entry) in blocks.iter().enumerate() {
            let numbers = entry.as_array().ok_or(TaskmapError::NotAnArray(at))?;
            result.push_block(decode_block(numbers, entry)?)?;
        }
        Ok(result)
    }

    /// The array of blocks.
    pub fn to_value(&self) -> Value {
        let block = |b: &Block| json!([b.nodeid, b.nnodes, b.ppn, b.repeat]);
        self.blocks.iter().map(block).collect()
    }

    /// The object that wraps the array: `{"version":1,"map":[...]}`.
    pub fn to_wrapped(&self) -> Value {
        json!({"version": 1, "map": self.to_value()})
    }

    /// The PMI form `(vector,(0,4,4))`, empty for the unknown map.
    pub fn to_pmi(&self) -> String {
        if self.is_unknown() {
            return String::new();
        }
        let mut text = String::from("(vector");
        for block in &self.blocks {
            for _ in 0..block.repeat {
                // Writing to a string cannot fail.
                let _ = write!(text, ",({},{},{})", block.nodeid, block.nnodes, block.ppn);
            }
        }
        text + ")"
    }

    /// The raw form: the tasks of each node, separated by semicolons.
    pub fn to_raw(&self) -> String {
        let nodes: Vec<String> = self.all_taskids().iter().map(IdSet::to_string).collect();
        nodes.join(";")
    }

    fn from_pmi(text: &str) -> Result<Taskmap, TaskmapError> {
        let bad = || TaskmapError::Syntax(text.into());
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let body = compact.strip_prefix("(vector,").ok_or_else(bad)?;
        let body = body.strip_suffix(')').ok_or_else(bad)?;
        let mut map = Taskmap::default();
        if body.is_empty() {
            return Ok(map);
        }
        let body = body
            .strip_prefix('(')
            .and_then(|body| body.strip_suffix(')'));
        for block in body.ok_or_else(bad)?.split("),(") {
            let numbers = block
                .split(',')
                .map(|number| number.parse::<u32>().map_err(|_| bad()));
            let [nodeid, nnodes, ppn] = numbers.collect::<Result<Vec<_>, _>>()?[..] else {
                return Err(bad());
            };
            map.push(Block {
                nodeid,
                nnodes,
                ppn,
                repeat: 1,
            })?;
        }
        Ok(map)
    }

    fn from_raw(text: &str) -> Result<Taskmap, TaskmapError> {
        let mut runs = Vec::new();
        for (node, tasks) in (0u32..).zip(text.split(';')) {
            let tasks: IdSet = tasks.parse()?;
            runs.extend(tasks.ranges().map(|(first, last)| (first, last, node)));
        }
        runs.sort_unstable();
        let mut placed = Vec::new();
        let mut next = 0;
        for (first, last, node) in runs {
            if first < next {
                return Err(TaskmapError::Duplicate(first));
            }
            if first > next {
                return Err(TaskmapError::MissingTask(next));
            }
            placed.push((node, last - first + 1));
            next = last + 1;
        }
        from_runs(&placed)
    }
}

fn one(nodeid: u32, ppn: u32) -> Block {
    Block {
        nodeid,
        nnodes: 1,
        ppn,
        repeat: 1,
    }
}

/// Joins runs (node, tasks) to blocks over nodes, and equal neighbouring blocks to repeats.
fn from_runs(runs: &[(u32, u32)]) -> Result<Taskmap, TaskmapError> {
    let mut map = Taskmap::default();
    for &(node, ppn) in runs {
        map.push(one(node, ppn))?;
    }
    let mut joined = Taskmap::default();
    for block in map.blocks {
        joined.push(block)?;
    }
    Ok(joined)
}

fn decode_block(numbers: &[Value], entry: &Value) -> Result<Block, TaskmapError> {
    let number = |at: usize| -> Result<u32, TaskmapError> {
        let missing = || TaskmapError::Entry(format!("Array index {at} out of range"));
        let value = numbers.get(at).ok_or_else(missing)?;
        let wrong = || TaskmapError::Entry("Expected integer".into());
        let number = value.as_i64().ok_or_else(wrong)?;
        let invalid = || TaskmapError::Invalid(entry.to_string());
        let least = if at == 0 { 0 } else { 1 };
        u32::try_from(number)
            .ok()
            .filter(|n| *n >= least)
            .ok_or_else(invalid)
    };
    let block = Block {
        nodeid: number(0)?,
        nnodes: number(1)?,
        ppn: number(2)?,
        repeat: number(3)?,
    };
    match numbers.len() {
        4 => Ok(block),
        _ => Err(TaskmapError::Entry("Array has too many elements".into())),
    }
}

impl FromStr for Taskmap {
    type Err = TaskmapError;

    /// Decodes JSON, PMI or raw form; empty text is the unknown map.
    fn from_str(text: &str) -> Result<Taskmap, TaskmapError> {
        let text = text.trim();
        if text.starts_with(['[', '{']) && !text.contains(';') {
            let value = serde_json::from_str(text);
            return Taskmap::from_value(
                &value.map_err(|error| TaskmapError::Syntax(error.to_string()))?,
            );
        }
        match text.starts_with('(') {
            true => Taskmap::from_pmi(text),
            false => Taskmap::from_raw(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> Taskmap {
        text.parse().unwrap()
    }

    #[test]
    fn the_vectors_of_rfc_34() {
        for (raw, json) in [
            ("", "[]"),
            ("0", "[[0,1,1,1]]"),
            ("0;1", "[[0,2,1,1]]"),
            ("0-1", "[[0,1,2,1]]"),
            ("0-1;2-3", "[[0,2,2,1]]"),
            ("0,2;1,3", "[[0,2,1,2]]"),
            ("1;0", "[[1,1,1,1],[0,1,1,1]]"),
            ("0-3;4-7;8-11;12-15", "[[0,4,4,1]]"),
            ("0,4,8,12;1,5,9,13;2,6,10,14;3,7,11,15", "[[0,4,1,4]]"),
            ("0-1,8-9;2-3,10-11;4-5,12-13;6-7,14-15", "[[0,4,2,2]]"),
            ("0-1;2-3;4-5;6-7;8-11;12-15", "[[0,4,2,1],[4,2,4,1]]"),
            (
                "0,6;1,7;2,8;3,9;4,10,12,14;5,11,13,15",
                "[[0,6,1,2],[4,2,1,2]]",
            ),
            (
                "14-15;12-13;10-11;8-9;4-7;0-3",
                "[[5,1,4,1],[4,1,4,1],[3,1,2,1],[2,1,2,1],[1,1,2,1],[0,1,2,1]]",
            ),
            (
                "0-1;2-3;4-5;6-7;8-9;12-13;10-11;14-15",
                "[[0,5,2,1],[6,1,2,1],[5,1,2,1],[7,1,2,1]]",
            ),
            (
                "12-15;8-11;4-7;0-3",
                "[[3,1,4,1],[2,1,4,1],[1,1,4,1],[0,1,4,1]]",
            ),
        ] {
            assert_eq!(map(raw).to_value().to_string(), json, "{raw}");
            assert_eq!(map(json).to_raw(), raw);
            assert_eq!(Taskmap::from_value(&map(json).to_wrapped()), Ok(map(json)));
        }
    }

    #[test]
    fn the_distributions_of_rfc_34() {
        let (even, uneven) = ([4; 4], [2, 2, 2, 2, 4, 4]);
        for (built, json, pmi) in [
            (Taskmap::block(&even), "[[0,4,4,1]]", "(vector,(0,4,4))"),
            (
                Taskmap::cyclic(&even, 1),
                "[[0,4,1,4]]",
                "(vector,(0,4,1),(0,4,1),(0,4,1),(0,4,1))",
            ),
            (
                Taskmap::cyclic(&even, 2),
                "[[0,4,2,2]]",
                "(vector,(0,4,2),(0,4,2))",
            ),
            (
                Taskmap::block(&uneven),
                "[[0,4,2,1],[4,2,4,1]]",
                "(vector,(0,4,2),(4,2,4))",
            ),
            (
                Taskmap::cyclic(&uneven, 1),
                "[[0,6,1,2],[4,2,1,2]]",
                "(vector,(0,6,1),(0,6,1),(4,2,1),(4,2,1))",
            ),
            (
                Taskmap::cyclic(&uneven, 2),
                "[[0,6,2,1],[4,2,2,1]]",
                "(vector,(0,6,2),(4,2,2))",
            ),
        ] {
            let built = built.unwrap();
            assert_eq!(built.to_value().to_string(), json);
            assert_eq!(built.to_pmi(), pmi);
            assert_eq!(map(pmi).to_raw(), built.to_raw());
        }
        let large = Taskmap::cyclic(&[256; 4096], 2).unwrap();
        assert_eq!(large.to_value().to_string(), "[[0,4096,2,128]]");
        assert_eq!(large.to_wrapped()["map"][0][1], 4096);
        assert_eq!(
            (large.nodeid(8192), large.nodeid(8193), large.nodeid(8194)),
            (Some(0), Some(0), Some(1))
        );
    }

    #[test]
    fn placement_by_hand_and_by_host() {
        assert_eq!(Taskmap::manual([1, 1, 0]).unwrap().to_raw(), "2;0-1");
        let (hosts, nodes) = ("b,a,b".parse().unwrap(), "a,b,b".parse().unwrap());
        let built = Taskmap::hostfile(&hosts, &nodes, &[1, 1, 1]).unwrap();
        assert_eq!(built.to_raw(), "1;0;2");
        assert!(Taskmap::hostfile(&"c".parse().unwrap(), &nodes, &[1, 1, 1]).is_err());
        assert!(Taskmap::cyclic(&[1], 0).is_err());
    }

    #[test]
    fn refuses_other_text_with_a_reason() {
        for (text, error) in [
            ("vector", "invalid idset 'vector'"),
            ("()", "invalid taskmap: ()"),
            ("(vector,(0,2))", "invalid taskmap: (vector,(0,2))"),
            (
                "[[0,1]]",
                "error in taskmap entry: Array index 2 out of range",
            ),
            ("[1]", "entry 0 in taskmap is not an array"),
            ("[[0,-1,1,1]]", "invalid entry [0,-1,1,1]"),
            ("[[0,1,0,1]]", "invalid entry [0,1,0,1]"),
            (
                "[[0,1,\"1\",1]]",
                "error in taskmap entry: Expected integer",
            ),
            ("{\"version\":2,\"map\":[]}", "expected version=1, got 2"),
            ("{\"map\":[]}", "Object item not found: version"),
            ("{\"version\":1}", "Object item not found: map"),
            ("0;0", "duplicate taskid specified: 0"),
            ("0;2", "missing taskid: 1"),
            (
                "[[0,4294967295,4294967295,4294967295]]",
                "taskmap is too large",
            ),
        ] {
            assert_eq!(
                text.parse::<Taskmap>().unwrap_err().to_string(),
                error,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_form_says_the_same(nodes in proptest::collection::vec(0u32..5, 0..30)) {
            let built = Taskmap::manual(nodes.iter().copied()).unwrap();
            prop_assert_eq!(built.ntasks(), nodes.len() as u64);
            for (task, &node) in (0u32..).zip(&nodes) {
                prop_assert_eq!(built.nodeid(task), Some(node));
                prop_assert!(built.taskids(node).contains(task));
            }
            for text in [built.to_value().to_string(), built.to_pmi(), built.to_raw()] {
                prop_assert_eq!(map(&text).to_raw(), built.to_raw());
            }
        }
    }
}
