//! What a site or a user adds to the shell: start-up scripts, plugins and MPI personalities.
//!
//! The scripts are Lua and the plugins C, and this shell runs neither yet. So that no job runs
//! without something it was meant to have, scripts that were asked for by name end the job unless
//! there is nothing in them; what merely lies where it would be looked for is warned of.

use std::path::{Path, PathBuf};

use serde_json::Value;
use types::Errno;

use crate::fatal::Fatal;
use crate::job::Job;

/// Where administrators put things: values of broker attributes, empty if unset.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// `conf.shell_initrc`.
    pub(crate) initrc: String,
    /// `conf.shell_pluginpath`.
    pub(crate) pluginpath: String,
}

/// Looks at everything that would be loaded. Returns what the user should be told.
///
/// Errors name the script or personality the job cannot have.
pub(crate) fn check(job: &Job, site: &Site) -> Result<Vec<String>, Fatal> {
    let option = |name: &str| job.option(name).and_then(Value::as_str);
    let initrc = option("initrc").unwrap_or(&site.initrc);
    for path in [initrc, option("userrc").unwrap_or_default()] {
        if !path.is_empty() {
            check_script(Path::new(path))?;
        }
    }
    let mut warnings = Vec::new();
    for directory in std::env::split_paths(&site.pluginpath) {
        for plugin in files_in(&directory, "so") {
            let plugin = plugin.display();
            warnings.push(format!(
                "{plugin}: plugins are not supported by this shell yet"
            ));
        }
    }
    let directories = rc_directories(job);
    for directory in &directories {
        for script in files_in(&directory.join("lua.d"), "lua") {
            let script = script.display();
            warnings.push(format!("{script}: Lua is not supported by this shell yet"));
        }
    }
    if let Some(name) = option("mpi").filter(|name| *name != "none") {
        let scripts = |directory: &PathBuf| directory.join(format!("lua.d/mpi/{name}.lua"));
        let has_script = directories
            .iter()
            .map(scripts)
            .any(|script| script.exists());
        // The one personality that comes with the reference.
        if has_script || name.starts_with("spectrum") {
            return Err(Fatal::new(format!(
                "shell option 'mpi={name}' is not supported by this shell yet"
            )));
        }
        warnings.push(format!("mpi={name}: there is no such MPI personality"));
    }
    Ok(warnings)
}

/// Accepts a script that says nothing, such as `/dev/null`.
fn check_script(path: &Path) -> Result<(), Fatal> {
    let failed = |why: &str| Fatal::new(format!("loading rc file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|error| failed(&Errno::from_io(&error).to_string()))?;
    let says_something = |line: &str| {
        let line = line.trim();
        // A long comment may end anywhere, so it counts as something.
        !line.is_empty() && (!line.starts_with("--") || line.starts_with("--["))
    };
    match text.lines().any(says_something) {
        true => Err(failed("Lua is not supported by this shell yet")),
        false => Ok(()),
    }
}

/// The directories a job's environment adds.
fn rc_directories(job: &Job) -> Vec<PathBuf> {
    let env = job.jobspec.environment();
    let path = env.and_then(|env| env.get("FLUX_SHELL_RC_PATH")?.as_str());
    let directories = std::env::split_paths(path.unwrap_or_default());
    directories
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

/// The files of a directory with this extension; none if it cannot be read.
fn files_in(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}
