//! Broker attributes: service `attr`.

use serde::{Deserialize, Serialize};

use crate::{Empty, rpc};

/// Names an attribute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    /// The attribute.
    pub name: String,
}

/// An attribute's value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value {
    /// The value.
    pub value: String,
    /// Bit 0: it never changes, so clients may keep it.
    #[serde(default)]
    pub flags: i32,
}

/// A new value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Set {
    /// The attribute.
    pub name: String,
    /// Its new value.
    pub value: String,
    /// Also where the attribute is not meant to change at run time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Every attribute's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Names {
    /// The names, those without a value included.
    pub names: Vec<String>,
}

rpc! {
    /// Reads an attribute. Errors: `ENOENT` unknown or without value.
    AttrGet: "attr", "get", Single, Any, Name => Value
}
rpc! {
    /// Lists attribute names.
    AttrList: "attr", "list", Single, Any, Empty => Names
}
rpc! {
    /// Changes an attribute. Errors: `ENOENT` unknown, `EINVAL` not meant to change, `EPERM`
    /// immutable.
    AttrSet: "attr", "set", Single, Owner, Set => Empty
}
rpc! {
    /// Removes an attribute. Errors: `EPERM` immutable.
    AttrRemove: "attr", "rm", Single, Owner, Name => Empty
}
