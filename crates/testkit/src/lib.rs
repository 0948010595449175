//! Private instances for tests.
