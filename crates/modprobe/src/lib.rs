//! The modules an instance has: which there are, what they need, and in which order they are loaded
//! (flux-modprobe(1)).
//!
//! The broker loads them by this when it starts, `flux modprobe` whenever it is asked to.

mod catalog;
mod files;

pub use catalog::{Catalog, Conditions, Entry, on_rank};
pub use files::{Finder, read};

/// The environment variable that names the scheduler's module, `none` for none.
pub const SCHED_MODULE: &str = "FLUX_SCHED_MODULE";

/// The environment variable that lists modules and tasks not to be used.
pub const DISABLE: &str = "FLUX_MODPROBE_DISABLE";

/// The broker attribute that names the backing store's module.
pub const BACKING_MODULE: &str = "content.backing-module";
