//! Broker modules: the glue between engines and messages, one folder a module.

use module::Builtin;

mod backing;
pub mod content;
pub mod content_files;
pub mod content_sqlite;
pub mod cron;
mod errands;
pub mod heartbeat;
pub mod job_exec;
pub mod job_info;
pub mod job_ingest;
pub mod job_list;
pub mod job_manager;
pub mod kvs;
pub mod kvs_watch;
mod memory;
mod process;
pub mod resource;
pub mod rexec;
pub mod sched;
mod statsd;
mod store;
pub mod tally;

/// The modules that come with the program, in no particular order.
pub fn builtins() -> Vec<Builtin> {
    let mut builtins = vec![
        heartbeat::builtin(),
        content::builtin(),
        content_files::builtin(),
        content_sqlite::builtin(),
        cron::builtin(),
        kvs::builtin(),
        kvs_watch::builtin(),
        resource::builtin(),
        rexec::builtin(),
        job_exec::builtin(),
        job_info::builtin(),
        job_ingest::builtin(),
        job_list::builtin(),
        job_manager::builtin(),
        // One line a module.
    ];
    builtins.extend(sched::builtins());
    builtins
}
