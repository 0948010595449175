//! Broker modules: the glue between engines and messages.
