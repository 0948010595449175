//! What ends a job before its time.

use rpc::RpcError;

/// A failure that ends the shell, and with it the job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fatal {
    /// What the user is told.
    pub(crate) message: String,
    /// The shell's exit code.
    pub(crate) code: i32,
    /// Whether somebody else has told the user already.
    pub(crate) silent: bool,
}

impl Fatal {
    pub(crate) fn new(message: impl Into<String>) -> Fatal {
        Fatal {
            message: message.into(),
            code: 1,
            silent: false,
        }
    }

    pub(crate) fn silent() -> Fatal {
        Fatal {
            silent: true,
            ..Fatal::new("")
        }
    }

    pub(crate) fn with_code(mut self, code: i32) -> Fatal {
        self.code = code;
        self
    }

    /// A failed call.
    pub(crate) fn call(what: &str, error: &RpcError) -> Fatal {
        Fatal::new(format!("{what}: {error}"))
    }
}
