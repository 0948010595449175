//! The broker process and `flux start`.
//!
//! One process a node: the router, the sockets of clients and neighbours, the module host and the
//! life cycle. Everything shares one thread; nothing here blocks it.

// `eprintln!` panics where nobody reads: see `types::complain!`.
#![warn(clippy::print_stderr)]

mod args;
mod attrs;
mod boot;
mod boot_config;
mod broker;
mod cleanup;
mod config;
mod connector;
mod external;
mod fake_resources;
mod groups;
mod internal;
mod lifecycle;
mod log;
mod modules;
mod overlay;
mod overlay_service;
mod panics;
mod parent;
mod persist;
mod place;
mod rc;
mod router;
mod run;
mod runat;
mod rundir;
mod services;
mod settings;
mod signals;
mod slurm;
mod start;
mod states;
mod tbon_settings;
mod trace;

pub use run::broker_main;
pub use start::start_main;
