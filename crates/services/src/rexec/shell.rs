//! The built-in job shell: how it is started, and the warm copy its processes are forked from.
//!
//! A command that starts it and nothing else means a process of the broker's user running the
//! broker's own program, whoever sent it, so forking comes to the same as executing it.

use std::ffi::OsString;
use std::sync::OnceLock;

use module::Host;
use proto::shell::{ATTRIBUTES, ATTRIBUTES_VARIABLE};
use serde_json::{Map, Value};
use subprocess::forkserver::ForkServer;
use types::JobId;

/// The command of the broker's own program that is the job shell.
const COMMAND: &str = "shell";

/// The broker's own program.
pub(crate) fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = std::env::current_exe();
        path.map_or_else(
            |_| "flux".into(),
            |path| path.to_string_lossy().into_owned(),
        )
    })
}

/// The words that start the built-in job shell. The job id follows.
pub(crate) fn command() -> Vec<String> {
    vec![program().into(), COMMAND.into()]
}

/// Whether a command starts the built-in job shell.
pub(super) fn is_builtin(cmdline: &[String]) -> bool {
    let [path, word, id] = cmdline else {
        return false;
    };
    word == COMMAND && id.parse::<JobId>().is_ok() && path == program()
}

/// The warm copy, which is started with the first job.
pub(super) fn fork_server() -> ForkServer {
    let mut words = command();
    words.push(subprocess::forkserver::OPTION.into());
    ForkServer::new(words)
}

/// What a shell would ask the broker first of all, as a variable of its environment.
pub(super) fn attributes(broker: &dyn Host) -> (OsString, OsString) {
    let value = |name: &&str| Some(((*name).to_owned(), broker.attr(name)?.into()));
    let values: Map<String, Value> = ATTRIBUTES.iter().filter_map(value).collect();
    let text = Value::Object(values).to_string();
    (ATTRIBUTES_VARIABLE.into(), text.into())
}
