//! Every RPC and event of the system, one type each: the only place where topics and payload keys
//! are spelled.
//!
//! An RPC is a marker type that implements [`Rpc`]; service, client and command all name it.
//! Adding one: see `docs/recipes/add-an-rpc.md`.

mod payload;

pub mod attr;
pub mod broker;
pub mod config;
pub mod content;
pub mod cron;
pub mod event;
pub mod job_exec;
pub mod job_info;
pub mod job_ingest;
pub mod job_list;
pub mod job_manager;
pub mod jobtap;
pub mod kvs;
pub mod log;
pub mod module;
pub mod overlay;
pub mod resource;
pub mod rexec;
pub mod sched;
pub mod sdbus;
pub mod service;
pub mod shell;
pub mod start;
pub mod terminus;
pub mod trace;

pub use payload::{Empty, Payload, PayloadError, Raw, json_payload};

use types::RoleMask;

/// The version of the interfaces: that of the reference they are compatible with. Brokers and
/// clients compare it, so it is not the version of this program.
pub const VERSION: &str = "0.88.0";

/// How many responses a request gets (RFC 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Exactly one.
    Single,
    /// Any number, ended by an error; `ENODATA` is the good end.
    Stream,
    /// None.
    NoResponse,
    /// One, or a stream of them if the request carries the streaming flag.
    SingleOrStream,
}

/// Who may call (RFC 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The instance owner only.
    Owner,
    /// The instance owner and guests.
    User,
    /// Any sender with a role at all.
    Any,
}

impl Access {
    /// The roles of which a sender needs one.
    pub fn allowed(self) -> RoleMask {
        match self {
            Access::Owner => RoleMask::OWNER,
            Access::User => RoleMask::OWNER | RoleMask::USER,
            Access::Any => RoleMask::ALL,
        }
    }
}

/// A remote procedure call (RFC 6).
pub trait Rpc: 'static {
    /// The service's default name.
    const SERVICE: &'static str;
    /// The method: all of the topic after the first dot.
    const METHOD: &'static str;
    /// How many responses there are.
    const FLOW: Flow;
    /// Who may call.
    const ACCESS: Access;
    /// What the request carries.
    type Request: Payload;
    /// What each response carries.
    type Response: Payload;

    /// The full topic under the default service name.
    fn topic() -> String {
        Self::topic_of(Self::SERVICE)
    }

    /// The full topic under another service name.
    fn topic_of(service: &str) -> String {
        if Self::METHOD.is_empty() {
            service.to_owned()
        } else {
            format!("{service}.{}", Self::METHOD)
        }
    }
}

/// Declares RPC marker types: name, topic parts, flow, access, request and response.
#[macro_export]
macro_rules! rpc {
    ($(#[$doc:meta])* $name:ident: $service:literal, $method:literal, $flow:ident, $access:ident,
     $request:ty => $response:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl $crate::Rpc for $name {
            const SERVICE: &'static str = $service;
            const METHOD: &'static str = $method;
            const FLOW: $crate::Flow = $crate::Flow::$flow;
            const ACCESS: $crate::Access = $crate::Access::$access;
            type Request = $request;
            type Response = $response;
        }
    };
}

/// The text of the dispatcher's refusals , which scripts match.
pub mod refusal {
    /// A handler wants the owner.
    pub const OWNER: &str = "Request requires owner credentials";
    /// A handler wants another role.
    pub const PRIVILEGE: &str = "Request rejected due to insufficient privilege";

    /// No such service anywhere on the path. The text is cut as the reference cuts it.
    pub fn no_service(topic: &str) -> String {
        let mut text = format!("No service matching {topic} is registered");
        if text.len() > 63 {
            let cut = (0..=63)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            text.truncate(cut);
        }
        text
    }

    /// The service exists, the method does not.
    pub fn no_method(topic: &str) -> String {
        format!("Unknown service method '{topic}'")
    }
}
