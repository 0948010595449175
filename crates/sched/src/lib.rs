//! The scheduling engine: what is free, what fits, and who is next.
//!
//! [`Pool`] keeps the resources of the instance and places requests on them, worst fit: the nodes
//! with most free cores first. [`Scheduler`] holds the requests, highest priority first, hands them
//! to the pool as its [`Policy`] says, and foretells when those that wait will start.
//!
//! Pure: no clock, message or task. Time comes in as an argument.

mod pool;
mod queue;
mod request;
mod running;
mod scheduler;

pub use pool::{AllocError, Pool};
pub use queue::Pending;
pub use request::{Request, RequestError};
pub use scheduler::{Decision, Policy, Scheduler};
