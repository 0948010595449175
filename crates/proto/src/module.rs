//! Broker modules: service `module`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::{Empty, rpc};

/// A module to load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Its name or path.
    pub path: String,
    /// The name it gets, if another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program that loads it, if another than its suffix tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<String>,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Whether it runs as a process of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exec: bool,
}

/// The name a module gets from its path: the file's, without its suffix.
pub fn name_of(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split_once(".so")
        .or_else(|| file.split_once(".py"))
        .map_or(file, |(name, _)| name)
}

/// A module to remove.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remove {
    /// Its name or path.
    pub name: String,
    /// Whether to stop it without asking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// A loaded module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Where it came from; `builtin` for the broker's own.
    pub path: String,
    /// Whole seconds since its last message.
    pub idle: i64,
    /// 0 initialising, 1 running, 2 finalising, 3 exited.
    pub status: i32,
    /// The services it has, its own name included.
    pub services: Vec<String>,
    /// Messages waiting from it.
    #[serde(default)]
    pub sendqueue: i64,
    /// Messages waiting for it.
    #[serde(default)]
    pub recvqueue: i64,
}

/// The loaded modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// The modules.
    pub mods: Vec<Module>,
}

/// What a module in a process of its own is told first, in a request with the topic `welcome`
/// that wants no answer (RFC 5).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// Its name.
    pub name: String,
    /// Its id in routes.
    pub uuid: String,
    /// Its arguments.
    pub args: Option<Vec<String>>,
    /// The broker attributes that do not change.
    pub attrs: Map<String, Value>,
    /// The configuration.
    pub conf: Config,
}

/// A module's state, as it reports it itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// As in [`Module::status`].
    pub status: i32,
    /// With 3, why it ended; 0 or absent if all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errnum: Option<i32>,
}

rpc! {
    /// Reports a module's state; from modules only.
    ModuleStatus: "module", "status", Single, Any, Report => Empty
}
rpc! {
    /// Loads a module; answered once it runs.
    ModuleLoad: "module", "load", Single, Owner, Load => Empty
}
rpc! {
    /// Removes a module; answered once it is gone. Errors: `ENOENT` no such module.
    ModuleRemove: "module", "remove", Single, Owner, Remove => Empty
}
rpc! {
    /// Lists modules.
    ModuleList: "module", "list", Single, User, Empty => List
}
