//! Configuration: service `config`.

use serde_json::{Map, Value};

use crate::{Empty, rpc};

/// A whole configuration.
pub type Config = Map<String, Value>;

rpc! {
    /// Reads the configuration; as a stream, every new one too.
    ConfigGet: "config", "get", SingleOrStream, User, Empty => Config
}
rpc! {
    /// Replaces the configuration. Errors: `EINVAL` not rank 0, or a module refuses it.
    ConfigLoad: "config", "load", Single, Owner, Config => Empty
}
rpc! {
    /// Reads the configuration files again.
    ConfigReload: "config", "reload", Single, Owner, Empty => Empty
}
rpc! {
    /// Hands a module the new configuration. Every module has it; its refusal aborts the reload.
    ModuleConfigReload: "config", "config-reload", Single, Owner, Config => Empty
}
