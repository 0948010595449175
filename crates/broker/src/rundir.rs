//! The broker's directories: `rundir` for sockets, `statedir` for what outlives the broker.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use types::Errno;

use crate::attrs::Attrs;
use crate::connector::SOCKET_PATH_MAX;

/// The longest path of a directory to make others in, in bytes.
const PARENT_MAX: usize = 1000;

/// Makes a directory `flux-XXXXXX` of a name of its own.
pub(crate) fn make_unique(parent: &Path) -> std::io::Result<PathBuf> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    loop {
        let random = uuid::Uuid::new_v4();
        let suffix: String = random.as_bytes()[..6]
            .iter()
            .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
            .collect();
        let path = parent.join(format!("flux-{suffix}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Directories made at start, to be removed at the end.
#[derive(Debug, Default)]
pub(crate) struct Cleanup(Vec<PathBuf>);

impl Cleanup {
    /// Removes them with all that is in them. Returns what could not be removed.
    pub(crate) fn run(self) -> Vec<String> {
        let mut failures = Vec::new();
        for path in self.0 {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    failures.push(format!("{}: {}", path.display(), Errno::from_io(&error)));
                }
                _ => {}
            }
        }
        failures
    }
}

/// Makes or checks `rundir` and, on rank 0, `statedir`; sets `local-uri`.
pub(crate) fn prepare(attrs: &mut Attrs, rank: u32, cleanup: &mut Cleanup) -> Result<(), String> {
    directory(attrs, "rundir", "/tmp", cleanup)?;
    if rank == 0 {
        directory(attrs, "statedir", "/var/tmp", cleanup)?;
    } else {
        attrs.clear("statedir");
    }
    let rundir = attrs.get("rundir").unwrap_or_default().to_owned();
    link_executable(Path::new(&rundir))?;
    attrs.put_default("local-uri", format!("local://{rundir}/local-{rank}"));
    let uri = attrs.get("local-uri").unwrap_or_default();
    let path = uri
        .strip_prefix("local://")
        .ok_or("local-uri is malformed")?;
    if path.len() > SOCKET_PATH_MAX {
        let length = path.len();
        return Err(format!(
            "local-uri length of {length} bytes exceeds max {SOCKET_PATH_MAX} AF_UNIX socket path length"
        ));
    }
    Ok(())
}

fn directory(
    attrs: &mut Attrs,
    name: &str,
    default_parent: &str,
    cleanup: &mut Cleanup,
) -> Result<(), String> {
    let cleanup_name = format!("{name}-cleanup");
    let (path, made) = match attrs.get(name) {
        None => {
            let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| default_parent.into());
            let parent = PathBuf::from(parent);
            let length = parent.as_os_str().len();
            if length > PARENT_MAX {
                return Err(format!(
                    "{name} buffer overflow: TMPDIR has {length} bytes, more than {PARENT_MAX}"
                ));
            }
            let path = make_unique(&parent).map_err(|error| {
                format!(
                    "cannot create directory in {}: {}",
                    parent.display(),
                    Errno::from_io(&error)
                )
            })?;
            (path, true)
        }
        Some(path) => existing(Path::new(path))?,
    };
    let text = path.to_string_lossy().into_owned();
    // A socket `NAME/local-N` must fit, whatever the rank.
    let max = SOCKET_PATH_MAX - "/local-1234567".len();
    if name == "rundir" && text.len() > max {
        let length = text.len();
        return Err(format!(
            "rundir length of {length} bytes exceeds max {max} to allow for AF_UNIX socket creation."
        ));
    }
    attrs.put(name, text);
    attrs.put_default(&cleanup_name, if made { "1" } else { "0" });
    if attrs.get(&cleanup_name).is_some_and(|value| value != "0") {
        cleanup.0.push(path);
    }
    Ok(())
}

/// The directory to use for a given path, and whether it is new.
fn existing(path: &Path) -> Result<(PathBuf, bool), String> {
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(|error| {
                    format!(
                        "cannot create directory {shown}: {}",
                        Errno::from_io(&error)
                    )
                })?;
            return Ok((path.to_owned(), true));
        }
        Err(error) => return Err(format!("cannot stat {shown}: {}", Errno::from_io(&error))),
    };
    if !meta.is_dir() {
        return Err(format!("{shown}: Not a directory"));
    }
    if meta.permissions().mode() & 0o1000 != 0 {
        let path = make_unique(path).map_err(|error| {
            format!(
                "cannot create directory in {shown}: {}",
                Errno::from_io(&error)
            )
        })?;
        return Ok((path, true));
    }
    if meta.uid() != nix::unistd::getuid().as_raw() {
        return Err(format!("{shown} is not owned by instance owner"));
    }
    if meta.permissions().mode() & 0o700 != 0o700 {
        return Err(format!("{shown} does not have owner=rwx permissions"));
    }
    Ok((path.to_owned(), false))
}

/// Makes `bin/flux` point at the running executable, so that programs of the instance find it.
fn link_executable(rundir: &Path) -> Result<(), String> {
    let bin = rundir.join("bin");
    let error = |error: std::io::Error| format!("{}: {}", bin.display(), Errno::from_io(&error));
    match fs::create_dir(&bin) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(error(e)),
        _ => {}
    }
    let executable = std::env::current_exe().map_err(error)?;
    match std::os::unix::fs::symlink(executable, bin.join("flux")) {
        // Other brokers of a test instance share the directory.
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(error(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_checked_and_removed() {
        let parent = make_unique(&std::env::temp_dir()).expect("a writable temporary directory");
        let file = parent.join("file");
        fs::write(&file, "").expect("writable");
        assert!(existing(&file).is_err_and(|e| e.ends_with("Not a directory")));
        let (path, made) = existing(&parent.join("new")).expect("can be made");
        assert!(made && path.is_dir());
        let (_, made) = existing(&path).expect("exists");
        assert!(!made);
        assert_eq!(Cleanup(vec![parent.clone()]).run(), Vec::<String>::new());
        assert!(!parent.exists());
    }
}
