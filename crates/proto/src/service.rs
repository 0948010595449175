//! Dynamic services: service `service` (RFC 5).

use serde::{Deserialize, Serialize};

use crate::{Empty, rpc};

/// A service name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// The name, without a dot.
    pub service: String,
}

rpc! {
    /// Directs a service's requests to the caller. Errors: `EEXIST`, `EINVAL`, `EPERM`.
    ServiceAdd: "service", "add", Single, User, Service => Empty
}
rpc! {
    /// Ends it. Errors: `ENOENT`, `EINVAL` not the caller's.
    ServiceRemove: "service", "remove", Single, User, Service => Empty
}
