//! Compiled-in settings: where the installation keeps its parts.
//!
//! Everything lies relative to the executable, so that an installation can be moved.

use std::path::{Path, PathBuf};

/// The version commands and attributes report: the level of the reference we follow.
pub(crate) const VERSION: &str = "0.88.0";

/// The directory of the running executable.
pub(crate) fn executable_dir() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| PathBuf::from("/usr/bin"))
}

fn prefix() -> PathBuf {
    let dir = executable_dir();
    match dir.parent() {
        Some(parent) if dir.ends_with("bin") => parent.to_path_buf(),
        _ => dir,
    }
}

/// A compiled-in setting, `None` if there is no such key.
pub(crate) fn get(key: &str) -> Option<String> {
    let prefix = prefix();
    let under = |path: &str| prefix.join(path).display().to_string();
    Some(match key {
        "confdir" => "/etc/flux".to_owned(),
        "libexecdir" => under("libexec/flux"),
        "datadir" => under("share/flux"),
        "lua_cpath_add" => under("lib/lua/5.4/?.so"),
        "lua_path_add" => under("share/lua/5.4/?.lua"),
        "python_path" => under("lib/flux/python"),
        "python_wrapper" => under("libexec/flux/flux-python-wrapper"),
        "man_path" => under("share/man"),
        "exec_path" => under("libexec/flux/cmd"),
        "connector_path" => under("lib/flux/connectors"),
        "module_path" => under("lib/flux/modules"),
        "rc1_path" => "flux modprobe rc1".to_owned(),
        "rc3_path" => "flux modprobe rc3".to_owned(),
        "cmdhelp_pattern" => under("share/flux/help.d/*.json"),
        "pmi_library_path" => under("lib/flux/libpmi.so"),
        "shell_path" => executable_dir().join("flux-shell").display().to_string(),
        "shell_pluginpath" => under("lib/flux/shell/plugins"),
        "shell_initrc" => "/etc/flux/shell/initrc.lua".to_owned(),
        "jobtap_pluginpath" => under("lib/flux/job-manager/plugins"),
        "upmi_pluginpath" => under("lib/flux/upmi/plugins"),
        "no_docs_path" => under("share/flux/.nodocs"),
        "rundir" => "/run/flux".to_owned(),
        _ => return None,
    })
}
