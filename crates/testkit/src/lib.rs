//! Private instances for tests.

mod local;

pub use local::Local;
