//! Resource sets, R (RFC 20 version 1).
//!
//! A [`ResourceSet`] holds concrete resources: which cores and GPUs of which ranks. This file has
//! the document; `children` what one rank holds, `algebra` set operations and renumbering, `config`
//! resources named in a configuration, `verify` the comparison of what a rank has with what it
//! should have.

mod algebra;
mod children;
mod config;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use types::{Errno, Hostlist, IdSet};

use crate::constraint::{self, ConstraintError};

pub use algebra::{OverlapError, RerankError};
pub use children::Children;
pub use config::ConfigError;
pub use verify::{VerifyConfig, VerifyError, VerifyMode};

/// Ranks one R may have. Far above any instance, and low enough that a short hostile string cannot
/// exhaust memory.
pub const RANKS_MAX: usize = 1 << 20;

/// Why JSON is not an R (RFC 20).
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// Not JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A required key is missing.
    #[error("Object item not found: {0}")]
    Missing(&'static str),
    /// A key has a value of the wrong type.
    #[error("{0} has the wrong type")]
    Type(&'static str),
    /// A version other than 1.
    #[error("invalid version={0}")]
    Version(i64),
    /// A bad set of ranks or resources.
    #[error(transparent)]
    IdSet(#[from] types::idset::IdSetError),
    /// A bad nodelist.
    #[error(transparent)]
    Hostlist(#[from] types::hostlist::HostlistError),
    /// The nodelist has another length than there are ranks.
    #[error("nodelist has {hosts} hosts for {ranks} ranks")]
    HostCount {
        /// Hosts in the nodelist.
        hosts: usize,
        /// Ranks in `R_lite`.
        ranks: usize,
    },
    /// More than [`RANKS_MAX`] ranks.
    #[error("too many ranks")]
    TooManyRanks,
    /// A property's ranks are not a string.
    #[error("properties value '{0}' not a string")]
    PropertyType(Value),
    /// A property names ranks the set does not have.
    #[error("{} not found in target resource list", rank_text(.0))]
    PropertyRanks(IdSet),
    /// A property's name has a forbidden character.
    #[error(transparent)]
    PropertyName(#[from] ConstraintError),
}

impl ResourceError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// What one rank holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The host name, if the document has a nodelist.
    pub hostname: Option<Arc<str>>,
    /// Its resources.
    pub children: Children,
}

/// A set of concrete resources (RFC 20), known as R.
#[doc(alias = "R")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceSet {
    nodes: BTreeMap<u32, Node>,
    properties: BTreeMap<String, IdSet>,
    /// Seconds since the epoch from which the set is valid; 0 if unset.
    pub starttime: f64,
    /// Seconds since the epoch after which the set is invalid; 0 if unset.
    pub expiration: f64,
    /// Task slots, if a scheduler allocated this set.
    pub nslots: Option<u64>,
    /// What the scheduler that made the set wrote for itself.
    pub scheduling: Option<Value>,
}

impl ResourceSet {
    /// The empty set.
    pub fn new() -> ResourceSet {
        ResourceSet::default()
    }

    /// Adds resources to a rank. A host name given here replaces an earlier one.
    pub fn insert(&mut self, rank: u32, hostname: Option<&str>, children: &Children) {
        let node = self.nodes.entry(rank).or_default();
        node.children = node.children.union(children);
        if let Some(name) = hostname {
            node.hostname = Some(name.into());
        }
    }

    /// Whether the set has no ranks.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The ranks.
    pub fn ranks(&self) -> IdSet {
        self.nodes.keys().copied().collect()
    }

    /// The number of ranks.
    pub fn nnodes(&self) -> usize {
        self.nodes.len()
    }

    /// What a rank holds.
    pub fn node(&self, rank: u32) -> Option<&Node> {
        self.nodes.get(&rank)
    }

    /// Ranks with what they hold, ascending.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (u32, &Node)> + '_ {
        self.nodes.iter().map(|(&rank, node)| (rank, node))
    }

    /// The cores of a rank.
    pub fn cores(&self, rank: u32) -> Option<&IdSet> {
        self.nodes.get(&rank).map(|node| &node.children.cores)
    }

    /// The GPUs of a rank.
    pub fn gpus(&self, rank: u32) -> Option<&IdSet> {
        self.nodes.get(&rank).map(|node| &node.children.gpus)
    }

    /// The host name of a rank.
    pub fn hostname(&self, rank: u32) -> Option<&str> {
        self.nodes.get(&rank)?.hostname.as_deref()
    }

    /// The host names in order of rank.
    pub fn nodelist(&self) -> Hostlist {
        self.nodes
            .values()
            .filter_map(|node| node.hostname.as_deref())
            .collect()
    }

    /// The ranks on hosts of a list. Hosts the set does not have are ignored.
    pub fn ranks_of(&self, hosts: &Hostlist) -> IdSet {
        let wanted: std::collections::HashSet<String> = hosts.iter().collect();
        let on_host = |node: &Node| node.hostname.as_deref().is_some_and(|h| wanted.contains(h));
        self.nodes()
            .filter(|(_, node)| on_host(node))
            .map(|(rank, _)| rank)
            .collect()
    }

    /// Gives host names to ranks in ascending order.
    ///
    /// Errors: [`ResourceError::HostCount`] unless there is one host for each rank.
    pub fn assign_hosts(&mut self, hosts: &Hostlist) -> Result<(), ResourceError> {
        if hosts.len() != self.nodes.len() {
            return Err(ResourceError::HostCount {
                hosts: hosts.len(),
                ranks: self.nodes.len(),
            });
        }
        let mut last: Option<Arc<str>> = None;
        for (node, host) in self.nodes.values_mut().zip(hosts.iter()) {
            // Brokers that share a host share its name.
            let shared = last.take().filter(|name| **name == *host);
            let name = shared.unwrap_or_else(|| host.into());
            node.hostname = Some(name.clone());
            last = Some(name);
        }
        Ok(())
    }

    /// How many resources of a type there are: `node`, `core`, `gpu` or any other type.
    pub fn count(&self, kind: &str) -> usize {
        match kind {
            "node" => self.nodes.len(),
            _ => self
                .nodes
                .values()
                .filter_map(|node| node.children.get(kind))
                .map(IdSet::len)
                .sum(),
        }
    }

    /// The properties with the ranks that have them.
    pub fn properties(&self) -> &BTreeMap<String, IdSet> {
        &self.properties
    }

    /// Adds a property to ranks.
    ///
    /// Errors: [`ResourceError::PropertyName`] for a forbidden character,
    /// [`ResourceError::PropertyRanks`] for ranks the set does not have.
    pub fn add_property(&mut self, name: &str, ranks: &IdSet) -> Result<(), ResourceError> {
        constraint::check_property_name(name)?;
        let unknown = ranks.difference(&self.ranks());
        if !unknown.is_empty() {
            return Err(ResourceError::PropertyRanks(unknown));
        }
        if !ranks.is_empty() {
            self.properties
                .entry(name.into())
                .or_default()
                .insert_all(ranks);
        }
        Ok(())
    }

    /// Removes the properties for which `keep` says no, for example instance-local ones (`+`)
    /// before R is given to a job.
    pub fn retain_properties(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.properties.retain(|name, _| keep(name));
    }

    /// Takes over the properties another set gives to ranks this set has.
    pub fn copy_properties_from(&mut self, other: &ResourceSet) {
        let ranks = self.ranks();
        for (name, having) in &other.properties {
            let having = having.intersection(&ranks);
            if !having.is_empty() {
                self.properties
                    .entry(name.clone())
                    .or_default()
                    .insert_all(&having);
            }
        }
    }

    /// Decodes a document. Errors: see [`ResourceError`].
    pub fn decode(json: &[u8]) -> Result<ResourceSet, ResourceError> {
        ResourceSet::from_value(&serde_json::from_slice(json)?)
    }

    /// Decodes a JSON value. Unknown keys are ignored. Errors: see [`ResourceError`].
    pub fn from_value(value: &Value) -> Result<ResourceSet, ResourceError> {
        let document = value.as_object().ok_or(ResourceError::Type("R"))?;
        let version = field(document, "version")?;
        let version = version.as_i64().ok_or(ResourceError::Type("version"))?;
        let execution = field(document, "execution")?;
        let execution = execution
            .as_object()
            .ok_or(ResourceError::Type("execution"))?;
        if version != 1 {
            return Err(ResourceError::Version(version));
        }
        let mut set = ResourceSet {
            starttime: time(execution, "starttime")?,
            expiration: time(execution, "expiration")?,
            nslots: match execution.get("nslots") {
                Some(count) => Some(count.as_u64().ok_or(ResourceError::Type("nslots"))?),
                None => None,
            },
            scheduling: document.get("scheduling").cloned(),
            ..ResourceSet::default()
        };
        set.decode_r_lite(field(execution, "R_lite")?)?;
        if let Some(nodelist) = execution.get("nodelist") {
            set.decode_nodelist(nodelist)?;
        }
        // Ranks without any resources say nothing, but count for the nodelist.
        set.nodes.retain(|_, node| !node.children.is_empty());
        if let Some(properties) = execution.get("properties") {
            set.decode_properties(properties)?;
        }
        Ok(set)
    }

    fn decode_r_lite(&mut self, value: &Value) -> Result<(), ResourceError> {
        // The empty set is also written as an object (RFC 20 says array; the reference takes both).
        if value.as_object().is_some_and(Map::is_empty) {
            return Ok(());
        }
        for entry in value.as_array().ok_or(ResourceError::Type("R_lite"))? {
            let entry = entry.as_object().ok_or(ResourceError::Type("R_lite"))?;
            let ranks = field(entry, "rank")?;
            let ranks: IdSet = ranks.as_str().ok_or(ResourceError::Type("rank"))?.parse()?;
            let children = Children::from_value(field(entry, "children")?)?;
            if self.nodes.len() + ranks.len() > RANKS_MAX {
                return Err(ResourceError::TooManyRanks);
            }
            for rank in ranks.iter() {
                self.insert(rank, None, &children);
            }
        }
        Ok(())
    }

    fn decode_nodelist(&mut self, value: &Value) -> Result<(), ResourceError> {
        let mut hosts = Hostlist::new();
        for item in value.as_array().ok_or(ResourceError::Type("nodelist"))? {
            let text = item.as_str().ok_or(ResourceError::Type("nodelist"))?;
            hosts.append(&text.parse()?);
        }
        self.assign_hosts(&hosts)
    }

    fn decode_properties(&mut self, value: &Value) -> Result<(), ResourceError> {
        for (name, ranks) in value.as_object().ok_or(ResourceError::Type("properties"))? {
            let text = ranks.as_str();
            let text = text.ok_or_else(|| ResourceError::PropertyType(ranks.clone()))?;
            self.add_property(name, &text.parse()?)?;
        }
        Ok(())
    }

    /// The document. Key order and the form of numbers are those scripts compare with.
    pub fn to_value(&self) -> Value {
        let mut execution = Map::new();
        let r_lite = self.groups().into_iter().map(
            |(ranks, children)| json!({"rank": ranks.to_string(), "children": children.to_value()}),
        );
        execution.insert("R_lite".into(), r_lite.collect());
        if let Some(nslots) = self.nslots {
            execution.insert("nslots".into(), nslots.into());
        }
        execution.insert("starttime".into(), self.starttime.into());
        execution.insert("expiration".into(), self.expiration.into());
        if self.nodes.values().all(|node| node.hostname.is_some()) {
            execution.insert("nodelist".into(), json!([self.nodelist().to_string()]));
        }
        if !self.properties.is_empty() {
            execution.insert("properties".into(), json!(self.properties));
        }
        let mut document = Map::new();
        document.insert("version".into(), 1.into());
        document.insert("execution".into(), execution.into());
        if let Some(scheduling) = &self.scheduling {
            document.insert("scheduling".into(), scheduling.clone());
        }
        document.into()
    }

    /// The document as compact JSON text.
    pub fn encode(&self) -> String {
        self.to_value().to_string()
    }

    /// Ranks with identical children, ordered by lowest rank.
    pub fn groups(&self) -> Vec<(IdSet, &Children)> {
        let mut groups: Vec<(IdSet, &Children)> = Vec::new();
        let mut index: HashMap<&Children, usize> = HashMap::new();
        for (rank, node) in self.nodes() {
            let at = *index.entry(&node.children).or_insert_with(|| {
                groups.push((IdSet::new(), &node.children));
                groups.len() - 1
            });
            groups[at].0.insert(rank);
        }
        groups
    }
}

/// Ranks with the word that goes before them.
fn rank_text(ranks: &IdSet) -> String {
    let plural = if ranks.len() > 1 { "s" } else { "" };
    format!("rank{plural} {ranks}")
}

fn field<'a>(
    object: &'a Map<String, Value>,
    key: &'static str,
) -> Result<&'a Value, ResourceError> {
    object.get(key).ok_or(ResourceError::Missing(key))
}

fn time(object: &Map<String, Value>, key: &'static str) -> Result<f64, ResourceError> {
    match object.get(key) {
        Some(value) => value.as_f64().ok_or(ResourceError::Type(key)),
        None => Ok(0.0),
    }
}

impl fmt::Display for ResourceSet {
    /// The short form, `rank[0-1]/core[0-3],gpu0 rank2/core0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (ranks, children)) in self.groups().into_iter().enumerate() {
            let blank = if i > 0 { " " } else { "" };
            write!(f, "{blank}rank{}/{children}", ranks.to_bracketed())?;
        }
        Ok(())
    }
}

impl Serialize for ResourceSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ResourceSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ResourceSet, D::Error> {
        let value = Value::deserialize(deserializer)?;
        ResourceSet::from_value(&value).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
