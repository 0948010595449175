//! Summaries of messages as they pass: `module.trace` and `overlay.trace`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rpc;

/// The types of RFC 3 messages, as bits of a mask.
pub mod mask {
    /// Requests.
    pub const REQUEST: i32 = 1;
    /// Responses.
    pub const RESPONSE: i32 = 2;
    /// Events.
    pub const EVENT: i32 = 4;
    /// Control messages between brokers.
    pub const CONTROL: i32 = 8;
    /// All of them.
    pub const ANY: i32 = 15;
}

/// What a module is to be traced for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraceModules {
    /// The modules, which need not be loaded yet; none for all.
    pub names: Vec<String>,
    /// Which [`mask`].
    pub typemask: i32,
    /// Which topics, a shell pattern.
    pub topic_glob: String,
    /// Whether payloads are shown too, if they are JSON.
    #[serde(default)]
    pub full: bool,
}

/// What the overlay is to be traced for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraceOverlay {
    /// Which [`mask`].
    pub typemask: i32,
    /// Which topics, a shell pattern.
    pub topic_glob: String,
    /// Messages of this neighbour only, and those that go to all; -1 for any. The reference's
    /// programs send -1 unsigned.
    #[serde(default = "any_rank")]
    pub nodeid: i64,
    /// Whether payloads are shown too, if they are JSON.
    #[serde(default)]
    pub full: bool,
}

fn any_rank() -> i64 {
    -1
}

/// A message that passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When, in seconds since the epoch.
    pub timestamp: f64,
    /// `tx` if sent by the module or this broker, `rx` if received.
    pub prefix: String,
    /// The neighbour it came from or went to; -1 for all of them, and in modules.
    pub rank: i64,
    /// The module; null in the overlay.
    pub name: Option<String>,
    /// One of [`mask`].
    #[serde(rename = "type")]
    pub kind: i32,
    /// Its topic; of a control message, its name and number.
    pub topic: String,
    /// The size of its payload in bytes, 0 for errors.
    pub payload_size: i64,
    /// Its payload, where that was asked for and is an object.
    pub payload: Option<Value>,
    /// Of a response, its error number, or 0.
    pub errnum: i32,
    /// The text that came with it, or empty.
    pub errstr: String,
}

rpc! {
    /// Follows the messages of modules on this broker.
    ModuleTrace: "module", "trace", Stream, Owner, TraceModules => TraceRecord
}
rpc! {
    /// Follows the messages between this broker and its neighbours.
    OverlayTrace: "overlay", "trace", Stream, Owner, TraceOverlay => TraceRecord
}
