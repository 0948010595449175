//! Remote procedure calls (RFC 6) over any message transport.
//!
//! [`Handle`] makes calls and answers them; whoever owns the transport gives it a [`Transport`] to
//! send through and passes arriving responses to [`Handle::on_response`]. The same handle thus
//! serves a module inside the broker, a job shell and a command.
//!
//! [`Routes`] dispatches requests by RPC type, checks roles and payloads, and refuses the rest
//! with the texts scripts know.
//!
//! Everything here lives on one thread: handles are cheap clones of one `Rc`.

mod disconnect;
mod error;
mod handle;
mod pending;
mod routes;

pub use disconnect::Disconnects;
pub use error::{RpcError, ToErrno};
pub use handle::{Dest, Handle, Transport};
pub use pending::{Call, RawCall, RawStream, Stream};
pub use routes::{Request, Routes};
