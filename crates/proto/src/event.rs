//! Events: service `event`.

use serde::{Deserialize, Serialize};

use crate::{Empty, rpc};

/// An event to publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// The topic.
    pub topic: String,
    /// Message flags; only 0 or private (0x20).
    pub flags: i32,
    /// The payload in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// A published event's number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The number, from 1.
    pub seq: i64,
}

/// A subscription.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// A prefix of topics; empty for all.
    pub topic: String,
}

rpc! {
    /// Publishes an event and tells its number; rank 0 only.
    EventPublish: "event", "publish", Single, User, Publish => Published
}
rpc! {
    /// Starts the flow of events whose topic has the prefix.
    EventSubscribe: "event", "subscribe", Single, Any, Subscription => Empty
}
rpc! {
    /// Ends it. Errors: `ENOENT` not subscribed.
    EventUnsubscribe: "event", "unsubscribe", Single, Any, Subscription => Empty
}
