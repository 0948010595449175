//! Broker modules: the glue between engines and messages, one folder a module.

use module::Builtin;

pub mod heartbeat;
pub mod rexec;

/// The modules that come with the program, in no particular order.
pub fn builtins() -> Vec<Builtin> {
    vec![
        heartbeat::builtin(),
        rexec::builtin(),
        // One line a module.
    ]
}
