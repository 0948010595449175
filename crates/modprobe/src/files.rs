//! Where what `flux modprobe` reads is kept.

use std::path::{Path, PathBuf};

use types::{Errno, installation};

/// What holds instead of the standard directories, and what follows them.
const OVERRIDE: &str = "FLUX_MODPROBE_PATH";
const APPEND: &str = "FLUX_MODPROBE_PATH_APPEND";

/// The directories to look in: those of the packages, kept under the first setting, and the site's.
fn search_path(packages: &str) -> Vec<PathBuf> {
    let standard = || {
        let keys = [packages, "confdir"].into_iter();
        keys.filter_map(installation::get)
            .map(|dir| format!("{dir}/modprobe"))
            .collect::<Vec<_>>()
            .join(":")
    };
    let path = std::env::var(OVERRIDE).unwrap_or_else(|_| standard());
    let more = std::env::var(APPEND).unwrap_or_default();
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in path.split(':').chain(more.split(':')) {
        if !dir.is_empty() && !dirs.iter().any(|known| known == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    dirs
}

/// Files that are there, of those looked for.
pub struct Finder<'a> {
    /// Is told where it looks (`checking`) and what it finds (`loading`).
    pub say: &'a dyn Fn(&str, &Path),
}

impl Finder<'_> {
    /// What describes modules: the site's `modprobe.toml` and what is in `modprobe.d`.
    pub fn module_files(&self) -> Vec<PathBuf> {
        self.files("modprobe.toml", "datadir", "modprobe.d", "toml")
    }

    /// What `rc1` or `rc3` consists of.
    pub fn rc_files(&self, rc: &str) -> Vec<PathBuf> {
        self.files(&format!("{rc}.py"), "libexecdir", &format!("{rc}.d"), "py")
    }

    fn files(&self, main: &str, packages: &str, directory: &str, extension: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Some(confdir) = installation::get("confdir") {
            let file = PathBuf::from(confdir).join("modprobe").join(main);
            (self.say)("checking", &file);
            if file.is_file() {
                files.push(file);
            }
        }
        for dir in search_path(packages) {
            let dir = dir.join(directory);
            (self.say)("checking", &dir.join(format!("*.{extension}")));
            let Ok(entries) = dir.read_dir() else {
                continue;
            };
            let mut found: Vec<PathBuf> = entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|file| file.extension().is_some_and(|ext| ext == extension))
                .collect();
            found.sort();
            files.extend(found);
        }
        for file in &files {
            (self.say)("loading", file);
        }
        files
    }
}

/// A file's text.
///
/// # Errors
///
/// It cannot be read; the text names it.
pub fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file)
        .map_err(|error| format!("{}: {}", file.display(), Errno::from_io(&error)))
}
