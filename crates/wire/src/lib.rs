//! RFC 3 messages: the in-memory form, the multipart codec and the stream framing.
//!
//! A [`Message`] owns reference-counted buffers, so routing and fan-out copy no payload. Payloads
//! are opaque here: whoever needs the JSON decodes it (`rpc`, `proto`).
//!
//! Facts that differ from the letter of RFC 3, because deployed clients speak this way: topic and
//! route parts carry no trailing NUL, events may carry routes, and the stream header's length
//! excludes the header itself.

mod codec;
#[doc(hidden)]
pub mod fuzz;
mod message;
mod output;
mod stream;

pub use codec::{DecodeError, Parts};
pub use message::{Flags, Kind, Message, RouteId, Target, Topic};
pub use output::StreamOutput;
pub use stream::{MESSAGE_LENGTH_MAX, STREAM_MAGIC, StreamDecoder, StreamError, encode_stream};
