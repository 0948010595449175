//! Spawning processes and carrying their standard I/O.
