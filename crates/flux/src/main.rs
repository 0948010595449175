//! The `flux` executable: every program of the system, chosen by `argv[0]` or the first word.

fn main() {}
