//! RFC 3 messages: codec, route stack, stream framing.
