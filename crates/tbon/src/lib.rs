//! The overlay engine: topology, health of peers, groups.
//!
//! Everything here is a pure state machine. Inputs are values (messages already decoded, and the
//! time as `now`); outputs are effects that the broker's glue carries out. There is deliberately
//! no socket, clock, task or JSON in this crate, so whole trees of brokers can be simulated.
//!
//! - [`topology`]: who is whose parent, from `tbon.topo` or configured parents
//! - [`health`]: hello, goodbye and loss of peers; the status of subtrees; torpid brokers
//! - [`status`]: the words and control messages for that
//! - [`groups`]: who is a member of what, gathered up the tree

pub mod groups;
pub mod health;
pub mod status;
pub mod topology;

pub use groups::{GroupError, Groups};
pub use health::{Effect, Effects, Overlay};
pub use status::{Control, Status, Version};
pub use topology::{Scheme, Subtree, Topology, TopologyError};
