//! Compiled-in settings: where the installation keeps its parts.
//!
//! There is one executable, so most of what the reference looks for in directories is inside it.
//! What there may be besides lies relative to the executable, so that an installation can be moved:
//! `PREFIX/bin/flux` has further commands in `PREFIX/libexec/flux/cmd`. Configuration does not
//! move.

use std::path::{Path, PathBuf};

/// The running executable.
fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/flux"))
}

/// The directory of the running executable.
pub fn executable_dir() -> PathBuf {
    let parent = executable().parent().map(Path::to_path_buf);
    parent.unwrap_or_default()
}

fn prefix() -> PathBuf {
    let dir = executable_dir();
    match dir.parent() {
        Some(parent) if dir.ends_with("bin") => parent.to_path_buf(),
        _ => dir,
    }
}

/// A compiled-in setting, `None` if there is no such key.
pub fn get(key: &str) -> Option<String> {
    let prefix = prefix();
    let under = |path: &str| prefix.join(path).display().to_string();
    Some(match key {
        "confdir" => "/etc/flux".to_owned(),
        "libexecdir" => under("libexec/flux"),
        "datadir" => under("share/flux"),
        "lua_cpath_add" => under("lib/lua/5.4/?.so"),
        "lua_path_add" => under("share/lua/5.4/?.lua"),
        "python_path" => under("lib/flux/python"),
        "python_wrapper" => under("libexec/flux/cmd/py-runner.py"),
        "man_path" => under("share/man"),
        "exec_path" => under("libexec/flux/cmd"),
        "connector_path" => under("lib/flux/connectors"),
        "module_path" => under("lib/flux/modules"),
        "rc1_path" => "flux modprobe rc1".to_owned(),
        "rc3_path" => "flux modprobe rc3".to_owned(),
        "cmdhelp_pattern" => under("share/flux/help.d/*.json"),
        "pmi_library_path" => under("lib/flux/libpmi.so"),
        "shell_path" => executable().display().to_string(),
        "shell_pluginpath" => under("lib/flux/shell/plugins"),
        "shell_initrc" => "/etc/flux/shell/initrc.lua".to_owned(),
        "jobtap_pluginpath" => under("lib/flux/job-manager/plugins"),
        "upmi_pluginpath" => under("lib/flux/upmi/plugins"),
        "no_docs_path" => under("share/flux/.nodocs"),
        _ => return None,
    })
}
