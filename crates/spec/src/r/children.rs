//! The resources of one rank.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};
use types::IdSet;

use super::ResourceError;

/// Sets of resource ids by type. Types other than core and GPU are carried along.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Children {
    /// Logical core ids.
    pub cores: IdSet,
    /// Logical GPU ids.
    pub gpus: IdSet,
    /// Ids of other types.
    pub others: BTreeMap<String, IdSet>,
}

impl Children {
    /// Cores and GPUs only.
    pub fn new(cores: IdSet, gpus: IdSet) -> Children {
        Children {
            cores,
            gpus,
            others: BTreeMap::new(),
        }
    }

    /// The ids of a type.
    pub fn get(&self, kind: &str) -> Option<&IdSet> {
        match kind {
            "core" => Some(&self.cores),
            "gpu" => Some(&self.gpus),
            _ => self.others.get(kind),
        }
    }

    /// The types that have ids, with them: cores, GPUs, then others by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &IdSet)> + '_ {
        let known = [("core", &self.cores), ("gpu", &self.gpus)];
        let others = self.others.iter().map(|(kind, ids)| (kind.as_str(), ids));
        known
            .into_iter()
            .chain(others)
            .filter(|(_, ids)| !ids.is_empty())
    }

    /// Whether there are no ids of any type.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// What either has.
    pub fn union(&self, other: &Children) -> Children {
        let mut others = self.others.clone();
        for (kind, ids) in &other.others {
            others.entry(kind.clone()).or_default().insert_all(ids);
        }
        Children {
            cores: self.cores.union(&other.cores),
            gpus: self.gpus.union(&other.gpus),
            others,
        }
    }

    /// What this has and `other` has not.
    pub fn difference(&self, other: &Children) -> Children {
        self.combine(other, IdSet::difference)
    }

    /// What both have.
    pub fn intersection(&self, other: &Children) -> Children {
        self.combine(other, IdSet::intersection)
    }

    /// Whether they share an id of any type.
    pub fn intersects(&self, other: &Children) -> bool {
        self.iter()
            .any(|(kind, ids)| other.get(kind).is_some_and(|o| ids.intersects(o)))
    }

    fn combine(&self, other: &Children, op: fn(&IdSet, &IdSet) -> IdSet) -> Children {
        let none = IdSet::new();
        let others = self.others.iter().map(|(kind, ids)| {
            let theirs = other.others.get(kind).unwrap_or(&none);
            (kind.clone(), op(ids, theirs))
        });
        Children {
            cores: op(&self.cores, &other.cores),
            gpus: op(&self.gpus, &other.gpus),
            others: others.filter(|(_, ids)| !ids.is_empty()).collect(),
        }
    }

    pub(super) fn from_value(value: &Value) -> Result<Children, ResourceError> {
        let mut children = Children::default();
        for (kind, ids) in value.as_object().ok_or(ResourceError::Type("children"))? {
            let ids: IdSet = ids
                .as_str()
                .ok_or(ResourceError::Type("children"))?
                .parse()?;
            match kind.as_str() {
                "core" => children.cores = ids,
                "gpu" => children.gpus = ids,
                _ if ids.is_empty() => {}
                _ => {
                    children.others.insert(kind.clone(), ids);
                }
            }
        }
        Ok(children)
    }

    pub(super) fn to_value(&self) -> Value {
        let entries = self
            .iter()
            .map(|(kind, ids)| (kind.to_string(), ids.to_string().into()));
        entries.collect::<Map<String, Value>>().into()
    }
}

impl fmt::Display for Children {
    /// The short form, `core[0-3],gpu0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, ids)) in self.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{kind}{}", ids.to_bracketed())?;
        }
        Ok(())
    }
}
