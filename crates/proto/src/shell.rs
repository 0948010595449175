//! What a job shell is handed at its start in environment variables, so that it need not ask. Each
//! may be absent: shells ask then.

/// The signed jobspec.
pub const J: &str = "FLUX_SHELL_J";
/// R.
pub const R: &str = "FLUX_SHELL_R";
/// The [`ATTRIBUTES`] of its broker that have a value, as a JSON object.
pub const ATTRIBUTES_VARIABLE: &str = "FLUX_SHELL_ATTRIBUTES";

/// The broker attributes a shell needs. None changes while a job could notice.
pub const ATTRIBUTES: &[&str] = &[
    "rank",
    "security.owner",
    "jobid-path",
    "instance-level",
    "tbon.interface-hint",
    "rundir",
    "conf.shell_initrc",
    "conf.shell_pluginpath",
];
