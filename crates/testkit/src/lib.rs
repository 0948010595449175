//! Private instances for tests, and what tests them.

mod local;
pub mod storm;

pub use local::Local;
