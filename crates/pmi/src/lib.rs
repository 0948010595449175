//! PMI-1 wire protocol: server and client.
