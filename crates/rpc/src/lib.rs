//! RFC 6 remote procedure calls over any message transport: handle, streams, dispatch.
