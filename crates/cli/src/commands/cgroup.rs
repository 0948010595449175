//! `flux cgroup`: where the caller's control group is.

use std::path::PathBuf;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use types::Errno;

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};
use crate::outln;

use super::dispatch_forms;

const PROG: &str = "flux-cgroup";
const MOUNT: &str = "/sys/fs/cgroup";
const MEMBERSHIP: &str = "/proc/self/cgroup";

static PATH: Parser = Parser {
    name: "flux cgroup path",
    usage: "[OPTIONS]",
    about: "Print path to cgroup directory",
    family: Family::G,
    opts: &[],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let subs = &[("path", "[OPTIONS]", path as fn(&[String]) -> i32)];
    dispatch_forms("flux cgroup", "cgroup utility", subs, words)
}

fn path(words: &[String]) -> i32 {
    match PATH.parse(words) {
        Err(status) => status,
        Ok(args) if !args.words.is_empty() => fail::report(
            PROG,
            Err(Fail::new("this command does not accept free arguments")),
        ),
        Ok(_) => fail::report(
            PROG,
            own().map(|path| {
                outln!("{path}");
                0
            }),
        ),
    }
}

/// The kind of a mounted hierarchy, by which its line in [`MEMBERSHIP`] is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// Version 2.
    Unified,
    /// Version 1, the one without controllers that systemd keeps.
    Systemd,
}

/// The directory of the caller's control group.
fn own() -> Result<String, Fail> {
    let (mount, hierarchy) = find_mount()?;
    let text = std::fs::read_to_string(MEMBERSHIP)
        .map_err(|error| Fail::of(MEMBERSHIP, Errno::from_io(&error)))?;
    let path = membership(&text, hierarchy)
        .ok_or_else(|| Fail::of(MEMBERSHIP, "no control group of this process"))?;
    Ok(format!("{}{path}", mount.display()))
}

fn find_mount() -> Result<(PathBuf, Hierarchy), Fail> {
    let mount = PathBuf::from(MOUNT);
    let kind = statfs(&mount)
        .map_err(|errno| Fail::of(MOUNT, Errno(errno as i32)))?
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
    Err(Fail::of(MOUNT, "no control groups are mounted here"))
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
