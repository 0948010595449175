//! Job specifications: canonical (RFC 14) and version 1 (RFC 25).
//!
//! A [`Jobspec`] keeps the document it came from, with unknown attributes and key order, next to
//! the typed resources and tasks. `resources` has the request, `validate` the checks a submitted
//! document must pass, `attributes` the accessors.

mod attributes;
mod resources;
mod validate;

use serde_json::Value;
use types::{Errno, Hostlist};

use crate::constraint::Constraint;
use crate::range::RangeError;

pub use attributes::set_path;
pub use resources::{Slots, Vertex};

/// Why JSON is not a jobspec. The texts are those users of the reference see.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JobspecError {
    /// Not JSON.
    #[error("{0}")]
    Json(String),
    /// The document, a task or a dependency lacks a key.
    #[error("Missing key ({0})")]
    Missing(String),
    /// The document has a key it must not have.
    #[error("Extraneous key ({0})")]
    Extraneous(String),
    /// A value has the wrong type.
    #[error("{key} must be {expected}")]
    Type {
        /// The key.
        key: String,
        /// What its value must be.
        expected: &'static str,
    },
    /// A resource lacks a key.
    #[error("{0} is a required key for resources")]
    ResourceKey(&'static str),
    /// A slot without a label.
    #[error("slots must have labels")]
    Label,
    /// A count that is no count.
    #[error(transparent)]
    Count(#[from] RangeError),
    /// A count of zero or less.
    #[error("node, slot, or core count must be > 0")]
    CountZero,
    /// A range without its minimum.
    #[error("min must be in range")]
    RangeMin,
    /// A range with only one of operator and operand.
    #[error("operand and operator must both be in range if either is")]
    RangeHalf,
    /// An operator that does not exist.
    #[error("operator must be one of ['+', '*', '^']")]
    Operator,
    /// Version 1 allows fixed counts only.
    #[error("resource count must be an integer for type '{kind}' (got '{got}')")]
    CountV1 {
        /// The resource's type.
        kind: String,
        /// What its count is: `dict` or `str`.
        got: &'static str,
    },
    /// A version below 1.
    #[error("version must be >= 1")]
    Version,
    /// The document requires another version than the site.
    #[error("jobspec version {got} is not supported, expected {expected}")]
    VersionMismatch {
        /// The document's version.
        got: i64,
        /// The version that is required.
        expected: i64,
    },
    /// A task without a command.
    #[error("command array cannot have length of zero")]
    EmptyCommand,
    /// A task count with no or several keys.
    #[error("count must have exactly one key set")]
    TaskCountKeys,
    /// A task count with an unknown key.
    #[error("count per_slot, per_resource, or total must be set")]
    TaskCount,
    /// A task count version 1 does not allow.
    #[error("count per_slot or total must be set")]
    TaskCountV1,
    /// A task count of zero or less.
    #[error("count {0} must be > 0")]
    TaskCountZero(&'static str),
    /// An attribute that must be there.
    #[error("{0} is a required key")]
    Attribute(&'static str),
    /// Bad constraints.
    #[error("{0}")]
    Constraint(String),
    /// Hosts in a constraint that the instance does not have.
    #[error("host constraint contains invalid hosts: {0} not found")]
    UnknownHosts(String),
    /// A resource request that has no slot, or several.
    #[error("Unable to determine slot count")]
    Slots,
    /// Resources nested too deeply.
    #[error("resources are nested too deeply")]
    Depth,
}

impl JobspecError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// How many tasks to start (RFC 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskCount {
    /// So many per slot.
    PerSlot(u64),
    /// So many per resource of a type in the slot.
    PerResource {
        /// The resource type.
        kind: String,
        /// Tasks for each.
        count: u64,
    },
    /// So many in all.
    Total(u64),
}

/// What to run in the slots (RFC 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The command and its arguments; never empty.
    pub command: Vec<String>,
    /// The label of the slot it runs in.
    pub slot: String,
    /// How many tasks.
    pub count: TaskCount,
}

/// A job specification.
#[derive(Clone, Debug, PartialEq)]
pub struct Jobspec {
    document: Value,
    /// The version: 1 for RFC 25, any other for RFC 14.
    pub version: i64,
    /// The requested resources.
    pub resources: Vec<Vertex>,
    /// The tasks.
    pub tasks: Vec<Task>,
}

impl Jobspec {
    /// Decodes and validates a document. Errors: see [`JobspecError`].
    pub fn decode(json: &[u8]) -> Result<Jobspec, JobspecError> {
        let document = serde_json::from_slice(json);
        Jobspec::from_value(document.map_err(|error| JobspecError::Json(error.to_string()))?)
    }

    /// Validates a JSON value. Errors: see [`JobspecError`].
    pub fn from_value(document: Value) -> Result<Jobspec, JobspecError> {
        let (version, resources, tasks) = validate::document(&document)?;
        Ok(Jobspec {
            document,
            version,
            resources,
            tasks,
        })
    }

    /// Checks the version a site requires.
    ///
    /// Errors: [`JobspecError::VersionMismatch`].
    pub fn require_version(&self, expected: i64) -> Result<(), JobspecError> {
        match self.version {
            got if got == expected => Ok(()),
            got => Err(JobspecError::VersionMismatch { got, expected }),
        }
    }

    /// The constraint, if it names hosts, for [`check_hosts`](Self::check_hosts).
    pub fn host_constraint(&self) -> Option<Constraint> {
        let constraint = Constraint::from_value(self.system("constraints")?).ok()?;
        (!constraint.unknown_hosts(&|_| false).is_empty()).then_some(constraint)
    }

    /// Checks that an instance has the hosts a constraint names.
    ///
    /// Errors: [`JobspecError::UnknownHosts`].
    pub fn check_hosts(constraint: &Constraint, known: &Hostlist) -> Result<(), JobspecError> {
        let unknown = constraint.unknown_hosts(&|host| known.contains(host));
        let names: Vec<&str> = unknown.into_iter().collect();
        match names.as_slice() {
            [] => Ok(()),
            [host] => Err(JobspecError::UnknownHosts(format!("host '{host}'"))),
            _ => Err(JobspecError::UnknownHosts(format!(
                "hosts '{}'",
                names.join(",")
            ))),
        }
    }

    /// The document.
    pub fn as_value(&self) -> &Value {
        &self.document
    }

    /// The document, given up.
    pub fn into_value(self) -> Value {
        self.document
    }

    /// The document as compact JSON text.
    pub fn encode(&self) -> String {
        self.document.to_string()
    }

    /// The command of the first task, empty if there are no tasks.
    pub fn command(&self) -> &[String] {
        self.tasks.first().map_or(&[], |task| &task.command)
    }

    /// The number of tasks of the first task entry, if the request fixes it.
    pub fn ntasks(&self) -> Option<u64> {
        let task = self.tasks.first()?;
        match &task.count {
            TaskCount::Total(count) => Some(*count),
            TaskCount::PerSlot(count) => self.nslots()?.checked_mul(*count),
            TaskCount::PerResource { kind, count } => {
                let slot = resources::find_slot(&self.resources, Some(&task.slot))?;
                let each = resources::count_below(slot, kind)?;
                self.nslots()?.checked_mul(each)?.checked_mul(*count)
            }
        }
    }

    /// The number of slots, if the request fixes it.
    pub fn nslots(&self) -> Option<u64> {
        let slots = self.slots().ok()?;
        let per_node = slots.count.fixed()?;
        match &slots.nodes {
            Some(nodes) if !slots.node_in_slot => nodes.fixed()?.checked_mul(per_node),
            _ => Some(per_node),
        }
    }

    /// The number of nodes, if the request names nodes and fixes their number.
    pub fn nnodes(&self) -> Option<u64> {
        let slots = self.slots().ok()?;
        let nodes = slots.nodes?.fixed()?;
        match slots.node_in_slot {
            true => nodes.checked_mul(slots.count.fixed()?),
            false => Some(nodes),
        }
    }

    /// The number of cores, if the request fixes it.
    pub fn ncores(&self) -> Option<u64> {
        self.nslots()?
            .checked_mul(self.slots().ok()?.cores.fixed()?)
    }

    /// The request reduced to nodes, slots, cores and GPUs.
    ///
    /// Errors: [`JobspecError::Slots`] unless there is exactly one slot.
    pub fn slots(&self) -> Result<Slots, JobspecError> {
        resources::slots(&self.resources)
    }
}

#[cfg(test)]
mod tests;
