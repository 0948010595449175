//! ZMTP 3.1 with CURVE: a sans-I/O codec and a tokio transport.
