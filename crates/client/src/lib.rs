//! Connecting to a broker through its local socket.
