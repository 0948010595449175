//! The life of jobs, as pure engines: states, queues, dependencies and listing.
//!
//! - [`fold`]: what an eventlog says about a job. Written once, for every reader of eventlogs.
//! - [`Jobs`]: what happens next to each job (RFC 21), with the links to the scheduler (RFC 27)
//!   and the exec service (RFC 32).
//! - [`housekeeping`]: what holds resources between jobs.
//! - [`perilog`]: what sites run before a job's tasks and after them.
//! - [`Record`] and [`history`]: inactive jobs in memory and in store.
//! - [`policy`] and [`RequireInstance`]: what sites demand of jobs and fill in.
//! - [`plugins`]: what of all this can be turned off and on; [`Call`]: what plugins in files are
//!   asked, and what they may ask in return.
//! - [`list`]: an index of all jobs that answers queries (RFC 35, RFC 43).
//!
//! Nothing here knows a clock, a socket or a task: callers hand in times and carry out
//! [`Effect`]s. JSON appears only where it is opaque data of a job: contexts of events, jobspec
//! and R, whose unknown keys and key order must survive.

pub mod event;
pub mod fold;
pub mod history;
pub mod housekeeping;
pub mod list;
pub mod perilog;
pub mod plugin_requests;
pub mod plugins;
pub mod policy;
pub mod queues;
pub mod slice;

mod alloc;
mod callbacks;
mod depend;
mod effect;
mod links;
mod manager;
mod past;
mod record;
mod requests;
mod require_instance;
mod submit;
mod update;

#[cfg(test)]
mod tests;

pub use alloc::SchedMode;
pub use callbacks::{Answer, Call, past_args};
pub use effect::{Attachment, Effect, Effects, Refusal, Reply, Token};
pub use fold::{Fold, Outcome, State};
pub use manager::{Job, Jobs};
pub use past::Past;
pub use record::Record;
pub use requests::{Selection, wait_result};
pub use require_instance::RequireInstance;
pub use submit::NewJob;
pub use update::apply_updates;

/// A JSON object.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// Bits of a job's submit flags.
pub mod flags {
    /// Post debug events.
    pub const DEBUG: i32 = 2;
    /// Keep the result until it is waited for.
    pub const WAITABLE: i32 = 4;
}

/// The highest priority, which only urgency 31 gives.
pub const PRIORITY_MAX: u32 = u32::MAX;
/// The urgency jobs have if nobody says otherwise.
pub const URGENCY_DEFAULT: i32 = 16;
/// The highest urgency.
pub const URGENCY_MAX: i32 = 31;
