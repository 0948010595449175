//! The bridge to systemd's D-Bus: service `sdbus`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rpc;

/// A method call. What is not told is that of systemd's manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodCall {
    /// The object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The method.
    pub member: String,
    /// Its arguments. A variant is an array of type and value.
    pub params: Vec<Value>,
}

/// What a method returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodReturn {
    /// The values.
    pub params: Vec<Value>,
}

rpc! {
    /// Calls a method. Errors: the bus's, as the nearest errno.
    SdbusCall: "sdbus", "call", Single, Owner, MethodCall => MethodReturn
}
