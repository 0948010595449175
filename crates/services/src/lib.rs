//! Broker modules: the glue between engines and messages, one folder a module.

use module::Builtin;

pub mod content;
pub mod content_sqlite;
pub mod heartbeat;
pub mod kvs;
pub mod kvs_watch;
pub mod resource;
pub mod rexec;
pub mod sched_simple;
mod store;
pub mod tally;

/// The modules that come with the program, in no particular order.
pub fn builtins() -> Vec<Builtin> {
    vec![
        heartbeat::builtin(),
        content::builtin(),
        content_sqlite::builtin(),
        kvs::builtin(),
        kvs_watch::builtin(),
        resource::builtin(),
        rexec::builtin(),
        sched_simple::builtin(),
        // One line a module.
    ]
}
