//! How commands fail.

use client::{Client, OpenError};
use rpc::RpcError;
use types::Errno;

use crate::err;

/// Why a command stops, and with which status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fail {
    /// What to say; empty if all is said.
    pub(crate) text: String,
    /// The exit status.
    pub(crate) status: i32,
}

impl Fail {
    /// Stops with a message and status 1.
    pub(crate) fn new(text: impl Into<String>) -> Fail {
        Fail {
            text: text.into(),
            status: 1,
        }
    }

    /// Stops with a status, everything having been said.
    pub(crate) fn silent(status: i32) -> Fail {
        Fail {
            text: String::new(),
            status,
        }
    }

    /// With `what` in front of the text.
    pub(crate) fn of(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Fail {
        Fail::new(format!("{what}: {error}"))
    }

    /// With another status.
    pub(crate) fn with_status(mut self, status: i32) -> Fail {
        self.status = status;
        self
    }
}

impl From<dumpfile::Error> for Fail {
    fn from(error: dumpfile::Error) -> Fail {
        Fail::new(error.to_string())
    }
}

impl From<RpcError> for Fail {
    fn from(error: RpcError) -> Fail {
        Fail::new(error.to_string())
    }
}

impl From<Errno> for Fail {
    fn from(error: Errno) -> Fail {
        Fail::new(error.to_string())
    }
}

/// A parser has said all.
impl From<i32> for Fail {
    fn from(status: i32) -> Fail {
        Fail::silent(status)
    }
}

/// What a command's body comes to: its exit status.
pub(crate) type Outcome = Result<i32, Fail>;

/// Reports a failure after `prefix` and returns the exit status.
pub(crate) fn report(prefix: &str, outcome: Outcome) -> i32 {
    match outcome {
        Ok(status) => status,
        Err(fail) => {
            if !fail.text.is_empty() {
                err!("{prefix}: {}", fail.text);
            }
            fail.status
        }
    }
}

/// Runs a command's body and reports its failure after `prefix`.
pub(crate) fn run(prefix: &str, body: impl Future<Output = Outcome>) -> i32 {
    match client::run(body) {
        Ok(outcome) => report(prefix, outcome),
        Err(error) => report(prefix, Err(Fail::new(error.to_string()))),
    }
}

/// Connects as the programs of family G do, which name the call that failed.
pub(crate) async fn connect() -> Result<Client, Fail> {
    client::open(None)
        .await
        .map_err(|error| Fail::of("flux_open", naming(&error)))
}

/// Why there is no connection, and to what.
fn naming(error: &OpenError) -> String {
    match std::env::var("FLUX_URI") {
        Ok(uri) => format!("{} (FLUX_URI={uri})", error.errno),
        Err(_) => error.errno.to_string(),
    }
}

/// Connects as the builtins do, which fail under the driver's name.
pub(crate) async fn connect_builtin() -> Result<Client, Fail> {
    client::open(None).await.map_err(|error| {
        err!("flux: flux_open: {}", naming(&error));
        Fail::silent(1)
    })
}

/// Connects as the commands of family P do.
pub(crate) async fn connect_p() -> Result<Client, Fail> {
    client::open(None).await.map_err(unable)
}

fn unable(error: OpenError) -> Fail {
    Fail::of("Unable to connect to Flux", error)
}

/// Seconds of a duration (RFC 23).
pub(crate) fn duration(text: &str) -> Result<f64, Fail> {
    types::fsd::parse(text).map_err(|_| invalid_duration(text))
}

/// What is said of a text that is no duration.
pub(crate) fn invalid_duration(text: &str) -> Fail {
    Fail::new(format!("invalid Flux standard duration '{text}'"))
}

/// The text of an error as Python shows the exception object.
pub(crate) fn python_text(error: &RpcError) -> String {
    format!("[Errno {}] {error}", error.errno.0)
}
