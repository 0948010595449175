//! The log: service `log`. Records are RFC 5424 lines.

use serde::{Deserialize, Serialize};

use crate::{Empty, Raw, rpc};

/// Which records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dmesg {
    /// Whether to go on with new ones.
    pub follow: bool,
    /// Whether to leave out old ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nobacklog: bool,
}

/// A followed stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancel {
    /// The request's matchtag.
    pub matchtag: u32,
}

/// A log attribute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetAttr {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

rpc! {
    /// Adds a record: `<PRI>1 TIMESTAMP RANK APPNAME PROCID - - TEXT`.
    LogAppend: "log", "append", NoResponse, Owner, Raw => Empty
}
rpc! {
    /// Reads the records kept, one a response.
    LogDmesg: "log", "dmesg", Stream, Owner, Dmesg => Raw
}
rpc! {
    /// Ends a followed stream.
    LogCancel: "log", "cancel", NoResponse, Owner, Cancel => Empty
}
rpc! {
    /// Forgets the records kept.
    LogClear: "log", "clear", Single, Owner, Empty => Empty
}
rpc! {
    /// Changes a `log-` attribute. Errors: `EINVAL` bad level, `ENOENT` unknown attribute.
    LogSetAttr: "log", "setattr", Single, Owner, SetAttr => Empty
}
