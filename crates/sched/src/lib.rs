//! The scheduling engine: what is free, what fits, and who is next.
//!
//! [`Pool`] keeps the resources of the instance and places requests on them, worst fit: the nodes
//! with most free cores first. [`Queue`] holds the requests, highest priority first, and hands
//! them to the pool in order.
//!
//! Pure: no clock, message or task. Time comes in as an argument.

mod pool;
mod queue;
mod request;

pub use pool::{AllocError, Pool};
pub use queue::{Decision, Pending, Queue};
pub use request::{Request, RequestError};
