//! Where plugins of the submission commands are looked for (flux-environment(7)).

use std::path::{Path, PathBuf};

use crate::installation;

/// The directories of plugins; `None` if there are none but what comes with the commands.
pub fn directories() -> Option<Vec<PathBuf>> {
    let list = |text: String| {
        let parts = text.split(':').filter(|part| !part.is_empty());
        parts.map(PathBuf::from).collect::<Vec<_>>()
    };
    if let Ok(text) = std::env::var("FLUX_CLI_PLUGINPATH_OVERRIDE") {
        return Some(list(text)).filter(|dirs| !dirs.is_empty());
    }
    let mut dirs = std::env::var("FLUX_CLI_PLUGINPATH")
        .map(list)
        .unwrap_or_default();
    for place in ["confdir", "libexecdir"] {
        let place = installation::get(place).unwrap_or_default();
        dirs.push(Path::new(&place).join("cli/plugins"));
    }
    Some(dirs)
}

/// The plugins in directories, those of each by name. A directory that is not there has none.
pub fn files(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in directories {
        let entries = dir.read_dir().into_iter().flatten().flatten();
        let mut scripts: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
            .collect();
        scripts.sort();
        files.extend(scripts);
    }
    files
}
