//! Control groups: where this process's own is.

use std::path::PathBuf;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use types::Errno;

const MOUNT: &str = "/sys/fs/cgroup";
const MEMBERSHIP: &str = "/proc/self/cgroup";

/// The kind of a mounted hierarchy, by which its line in [`MEMBERSHIP`] is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// Version 2.
    Unified,
    /// Version 1, the one without controllers that systemd keeps.
    Systemd,
}

/// Why there is no control group to tell of.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct CgroupError {
    path: &'static str,
    problem: String,
}

fn failure(path: &'static str, problem: impl ToString) -> CgroupError {
    let problem = problem.to_string();
    CgroupError { path, problem }
}

/// The directory of this process's control group.
///
/// Errors: none is mounted, or the kernel does not tell which it is.
pub fn own() -> Result<PathBuf, CgroupError> {
    let (mount, hierarchy) = find_mount()?;
    let text = std::fs::read_to_string(MEMBERSHIP)
        .map_err(|error| failure(MEMBERSHIP, Errno::from_io(&error)))?;
    let path = membership(&text, hierarchy)
        .ok_or_else(|| failure(MEMBERSHIP, "no control group of this process"))?;
    // As the kernel writes it, with the slash of the root.
    Ok(format!("{}{path}", mount.display()).into())
}

fn find_mount() -> Result<(PathBuf, Hierarchy), CgroupError> {
    let mount = PathBuf::from(MOUNT);
    let kind = statfs(&mount)
        .map_err(|errno| failure(MOUNT, Errno(errno as i32)))?
        .filesystem_type();
    if kind == CGROUP2_SUPER_MAGIC {
        return Ok((mount, Hierarchy::Unified));
    }
    let unified = mount.join("unified");
    if kind == TMPFS_MAGIC {
        if statfs(&unified).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok((unified, Hierarchy::Unified));
        }
        let systemd = mount.join("systemd");
        if systemd.is_dir() {
            return Ok((systemd, Hierarchy::Systemd));
        }
    }
    Err(failure(MOUNT, "no control groups are mounted here"))
}

/// The path in a hierarchy that the text of [`MEMBERSHIP`] tells of. What lies outside the
/// caller's namespace begins with `/..`, of which nothing is mounted.
fn membership(text: &str, hierarchy: Hierarchy) -> Option<&str> {
    let mut path = text.lines().find_map(|line| {
        let (id, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let found = match hierarchy {
            Hierarchy::Unified => id == "0" && controllers.is_empty(),
            Hierarchy::Systemd => controllers == "name=systemd",
        };
        found.then_some(path)
    })?;
    while let Some(rest) = path.strip_prefix("/..")
        && (rest.is_empty() || rest.starts_with('/'))
    {
        path = rest;
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_of_their_hierarchy() {
        let text = "9:name=systemd:/old\n8:pids:/\n0::/user.slice/a:b\n";
        assert_eq!(
            membership(text, Hierarchy::Unified),
            Some("/user.slice/a:b")
        );
        assert_eq!(membership(text, Hierarchy::Systemd), Some("/old"));
        assert_eq!(membership("0::/../../x\n", Hierarchy::Unified), Some("/x"));
        assert_eq!(membership("junk\n", Hierarchy::Unified), None);
    }
}
