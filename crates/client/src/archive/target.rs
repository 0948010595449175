//! The directory that files are extracted to: where each goes, and what may be in its way.

use std::collections::HashSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use super::{ExtractError, failed};

/// A directory to extract to.
///
/// Archives come from others too: nothing they name is written outside of it. Symbolic links that
/// were there before are its owner's, and are followed; those of the archive are not.
pub(super) struct Target<'a> {
    directory: &'a Path,
    overwrite: bool,
    /// Permissions that no file gets.
    mask: u32,
    /// The archive's symbolic links.
    links: HashSet<PathBuf>,
}

impl<'a> Target<'a> {
    /// `overwrite` says whether files that are in the way are replaced.
    pub(super) fn new(directory: &'a Path, overwrite: bool) -> Target<'a> {
        // There is no other way to read it, and nobody else creates files meanwhile.
        let mask = umask(Mode::empty());
        umask(mask);
        Target {
            directory,
            overwrite,
            mask: mask.bits(),
            links: HashSet::new(),
        }
    }

    /// Where a file of this name goes. Makes the directories above it.
    pub(super) fn place(&self, name: &str) -> Result<PathBuf, ExtractError> {
        let Some(inner) = normalize(name) else {
            return Err(ExtractError(format!("{name}: unsafe path")));
        };
        if let Some(link) = self.link_above(&inner) {
            let link = link.display();
            let text = format!("{name}: unsafe path: {link} is a symbolic link in the archive");
            return Err(ExtractError(text));
        }
        let path = self.directory.join(&inner);
        match path.parent() {
            // That of a name that is only the directory itself is nobody's business.
            Some(parent) if !inner.as_os_str().is_empty() => self.make_above(name, parent)?,
            _ => {}
        }
        Ok(path)
    }

    fn link_above<'p>(&self, inner: &'p Path) -> Option<&'p Path> {
        let mut above = inner.ancestors().skip(1);
        above.find(|path| self.links.contains(*path))
    }

    fn make_above(&self, name: &str, parent: &Path) -> Result<(), ExtractError> {
        let Err(error) = fs::create_dir_all(parent) else {
            return Ok(());
        };
        let below = |path: &Path| path.strip_prefix(self.directory).map(Path::to_path_buf);
        let in_way = parent.ancestors().find(|path| path.is_file());
        match in_way.map(|path| (path, below(path))) {
            Some((path, Ok(_))) if self.overwrite => fs::remove_file(path)
                .and_then(|()| fs::create_dir_all(parent))
                .map_err(|error| failed(name, &error)),
            Some((_, Ok(inner))) => {
                let inner = inner.display();
                let text = format!("{name}: Can't create directory '{inner}'");
                Err(ExtractError(text))
            }
            _ => Err(failed(name, &error)),
        }
    }

    /// Makes a directory, or gives one that is there these permissions.
    pub(super) fn put_directory(
        &mut self,
        name: &str,
        path: &Path,
        permissions: u32,
    ) -> Result<(), ExtractError> {
        let failed = |error: io::Error| failed(name, &error);
        let inner = path.strip_prefix(self.directory).unwrap_or(path);
        // Of a link of the archive the permissions would be those of what it leads to.
        if self.links.contains(inner) {
            return Err(ExtractError(format!(
                "{name}: Attempt to overwrite existing file"
            )));
        }
        match fs::create_dir(path) {
            // What a link of the owner's leads to keeps its permissions.
            Err(_) if path.is_symlink() && path.is_dir() => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.overwrite => {
                fs::remove_file(path).map_err(failed)?;
                fs::create_dir(path).map_err(failed)?;
            }
            done => done.map_err(failed)?,
        }
        fs::set_permissions(path, self.permitted(permissions)).map_err(failed)
    }

    /// Makes a symbolic link to `target`.
    pub(super) fn put_link(
        &mut self,
        name: &str,
        path: &Path,
        target: &str,
    ) -> Result<(), ExtractError> {
        self.clear(name, path)?;
        symlink(target, path).map_err(|error| failed(name, &error))?;
        let inner = path.strip_prefix(self.directory).unwrap_or(path);
        self.links.insert(inner.to_path_buf());
        Ok(())
    }

    /// Creates a file that only its owner can use until [`Target::permitted`] is set.
    pub(super) fn create(&mut self, name: &str, path: &Path) -> Result<fs::File, ExtractError> {
        self.clear(name, path)?;
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        options.open(path).map_err(|error| failed(name, &error))
    }

    /// The permissions a file gets for those in the archive.
    pub(super) fn permitted(&self, permissions: u32) -> Permissions {
        Permissions::from_mode(permissions & !self.mask)
    }

    /// Makes room for a file.
    fn clear(&mut self, name: &str, path: &Path) -> Result<(), ExtractError> {
        let Ok(there) = path.symlink_metadata() else {
            return Ok(());
        };
        if !self.overwrite {
            let text = format!("{name}: write: Attempt to overwrite existing file");
            return Err(ExtractError(text));
        }
        let removed = match there.is_dir() {
            true => fs::remove_dir(path),
            false => fs::remove_file(path),
        };
        removed.map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty => ExtractError(format!(
                "{name}: Can't replace existing directory with non-directory"
            )),
            _ => failed(name, &error),
        })?;
        if let Ok(inner) = path.strip_prefix(self.directory) {
            self.links.remove(inner);
        }
        Ok(())
    }
}

/// A name in its plainest form; `None` if it leads elsewhere.
fn normalize(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = |part: Component<'_>| match part {
        Component::CurDir => Some(PathBuf::new()),
        Component::Normal(part) => Some(PathBuf::from(part)),
        _ => None,
    };
    if name.is_empty() {
        return None;
    }
    path.components().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, expect) in [
            ("a", Some("a")),
            ("./a//b/", Some("a/b")),
            (".", Some("")),
            ("../a", None),
            ("a/../../b", None),
            ("/a", None),
            ("", None),
        ] {
            assert_eq!(normalize(name), expect.map(PathBuf::from), "{name}");
        }
    }
}
