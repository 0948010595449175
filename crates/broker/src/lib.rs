//! The broker process: boot, router, sockets, module host, life cycle.
