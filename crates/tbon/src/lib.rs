//! The overlay engine: topology, health of peers, groups.
//!
//! Everything here is a pure state machine. Inputs are values (messages already decoded, and the
//! time as `now`); outputs are effects that the broker's glue carries out. There is deliberately
//! no socket, clock, task or JSON in this crate, so whole trees of brokers can be simulated.
//!
//! - [`topology`]: who is whose parent, from `tbon.topo` or configured parents

pub mod topology;

pub use topology::{Scheme, Subtree, Topology, TopologyError};
