//! Compiled-in settings: where the parts of an installation are.
//!
//! There is one executable, so most of what the reference looks for in directories is inside it.
//! Paths are derived from where the executable is: `PREFIX/bin/flux` has its further commands in
//! `PREFIX/libexec/flux/cmd` and its configuration in `PREFIX/etc/flux`.

use std::path::PathBuf;

use crate::broker::Broker;

/// The directory above the one the executable is in.
fn prefix() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.to_owned()))
        .unwrap_or_else(|| PathBuf::from("/usr"))
}

fn below(path: &str) -> String {
    prefix().join(path).to_string_lossy().into_owned()
}

/// The setting with this name.
pub(crate) fn value(broker: &Broker, key: &str) -> Option<String> {
    let value = match key {
        "confdir" => below("etc/flux"),
        "libexecdir" => below("libexec/flux"),
        "datadir" => below("share/flux"),
        "lua_cpath_add" => below("lib/lua/5.4/?.so"),
        "lua_path_add" => below("share/lua/5.4/?.lua"),
        "python_path" => below("lib/flux/python"),
        "python_wrapper" => below("libexec/flux/cmd/py-runner.py"),
        "man_path" => below("share/man"),
        "exec_path" => below("libexec/flux/cmd"),
        "connector_path" => below("lib/flux/connectors"),
        "module_path" => below("lib/flux/modules"),
        "rc1_path" => "flux modprobe rc1".to_owned(),
        "rc3_path" => "flux modprobe rc3".to_owned(),
        "cmdhelp_pattern" => below("share/flux/help.d/*.json"),
        "pmi_library_path" => below("lib/flux/libpmi.so"),
        "shell_path" => shell_path(),
        "shell_pluginpath" => below("lib/flux/shell/plugins"),
        "shell_initrc" => below("etc/flux/shell/initrc.lua"),
        "jobtap_pluginpath" => below("lib/flux/job-manager/plugins"),
        "upmi_pluginpath" => below("lib/flux/upmi/plugins"),
        "no_docs_path" => below("share/flux/.nodocs"),
        "rundir" => broker
            .attrs
            .borrow()
            .get("rundir")
            .unwrap_or_default()
            .to_owned(),
        _ => return None,
    };
    Some(value)
}

/// The executable, under whatever name.
fn shell_path() -> String {
    std::env::current_exe()
        .map(|exe| exe.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "flux".into())
}
