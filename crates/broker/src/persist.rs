//! What the instance does about its stored state when it starts and ends: restore, check, dump,
//! and the log of starts.
//!
//! Whole trees are read and written by commands of their own, so that a slow disk or a broken
//! archive does not hold up the broker's thread. A first start runs none of them.

use std::path::PathBuf;
use std::rc::Rc;

use module::Severity;
use proto::Empty;
use proto::content::{BackingCheckpointGet, ContentFlush};
use proto::kvs::{self, Commit, KvsCommit, KvsLookup, Lookup, Op, PRIMARY, commit_flags};
use rpc::{Dest, RpcError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use spec::{Entry, TreeObj, eventlog};
use types::{Errno, Rank};

use crate::broker::Broker;
use crate::runat;

const LEADER: Dest = Dest::Rank(Rank::LEADER);

/// Where starts and ends are logged.
const STARTLOG: &str = "admin.eventlog";
/// The version of its events; others are left alone.
const STARTLOG_VERSION: i64 = 1;
/// The attributes that ask for an archive.
const RESTORE: &str = "content.restore";
const DUMP: &str = "content.dump";
/// The largest value that is restored.
const RESTORE_SIZE_LIMIT: &str = "100M";

/// An attribute's value, if it has one.
pub(crate) fn attr(broker: &Broker, name: &str) -> Option<String> {
    let attrs = broker.attrs.borrow();
    attrs
        .get(name)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// Where `auto` archives live: in a state directory that stays, or else where the broker started.
fn archives(broker: &Broker) -> PathBuf {
    let dir = match attr(broker, "statedir") {
        Some(dir) if attr(broker, "statedir-cleanup").as_deref() != Some("1") => dir,
        _ => ".".to_owned(),
    };
    PathBuf::from(dir).join("dump")
}

/// A path as the shell takes it.
pub(crate) fn quote(path: &std::path::Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// An archive to restore from.
pub(crate) struct Source {
    archive: PathBuf,
    /// The link that named it, which is used once.
    link: Option<PathBuf>,
}

/// The archive to restore from, if one is asked for. Errors: what is wrong with the link.
pub(crate) fn source(broker: &Broker) -> Result<Option<Source>, String> {
    let Some(text) = attr(broker, RESTORE) else {
        return Ok(None);
    };
    if text != "auto" {
        let archive = PathBuf::from(text);
        return Ok(Some(Source {
            archive,
            link: None,
        }));
    }
    let dir = archives(broker);
    let link = dir.join("RESTORE");
    match std::fs::read_link(&link) {
        Ok(target) => Ok(Some(Source {
            archive: dir.join(target),
            link: Some(link),
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", link.display())),
    }
}

/// Reads the archive from end to end, before the store is emptied for it: a broken archive must not
/// cost what is there. Returns an exit code.
pub(crate) async fn check_archive(broker: &Rc<Broker>, source: &Source) -> i32 {
    let command = format!("flux restore --check {}", quote(&source.archive));
    runat::run_logged(broker, "rc1", 0, &command).await
}

/// Restores into an empty store. Returns an exit code.
pub(crate) async fn restore(broker: &Rc<Broker>, source: &Source) -> i32 {
    let text = format!("restoring content from {}", source.archive.display());
    broker.log(Severity::Info, &text);
    let command = format!(
        "flux restore --quiet --checkpoint --size-limit={RESTORE_SIZE_LIMIT} {}",
        quote(&source.archive)
    );
    let code = runat::run_logged(broker, "rc1", 0, &command).await;
    if code != 0 {
        return code;
    }
    if let Some(link) = &source.link
        && let Err(error) = std::fs::remove_file(link)
    {
        broker.log(Severity::Err, &format!("{}: {error}", link.display()));
        return 1;
    }
    0
}

/// Checks what an earlier instance left. Returns an exit code.
///
/// A check that found errors fails the start once, even if it mended all of them: somebody should
/// look before jobs run. Nor is a damaged tree dumped over a good archive.
pub(crate) async fn check(broker: &Rc<Broker>) -> i32 {
    if attr(broker, "broker.recovery-mode").is_some_and(|mode| mode != "0") {
        return 0;
    }
    let handle = broker.router.handle();
    match handle.call::<BackingCheckpointGet>(LEADER, &Empty {}).await {
        Ok(_) => {}
        // A new store, or none.
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOSYS) => return 0,
        Err(error) => {
            broker.log(
                Severity::Err,
                &format!("error fetching checkpoints: {error}"),
            );
            return 1;
        }
    }
    let command = "flux fsck --repair --job-aware --quiet";
    let code = runat::run_logged(broker, "rc1", 0, command).await;
    if code != 0 {
        broker.attrs.borrow_mut().clear(DUMP);
    }
    code
}

/// Notes the start, and says so if the one before had no end. Returns an exit code.
pub(crate) async fn log_start(broker: &Rc<Broker>) -> i32 {
    let handle = broker.router.handle();
    let request = Lookup {
        key: STARTLOG.to_owned(),
        flags: 0,
        namespace: Some(PRIMARY.to_owned()),
        rootdir: None,
        rootseq: None,
    };
    let crashed = match handle.call::<KvsLookup>(LEADER, &request).await {
        Ok(found) => match TreeObj::decode(found.val.get().as_bytes()) {
            Ok(TreeObj::Val(log)) => has_open_end(&log),
            _ => false,
        },
        Err(_) => false,
    };
    if crashed {
        let text = "Flux was not shut down properly.  Data may have been lost.";
        broker.log(Severity::Err, text);
    }
    let mut context = version();
    let core = attr(broker, "version").unwrap_or_default();
    context.insert("core_version".into(), core.into());
    match post(broker, "start", context, commit_flags::SYNC).await {
        Ok(()) => 0,
        // Without a store there is nothing to look back on later.
        Err(error) if error.errno == Errno::ENOSYS => 0,
        Err(error) => {
            broker.log(Severity::Err, &format!("startlog: {error}"));
            1
        }
    }
}

/// Notes the end. Returns an exit code.
pub(crate) async fn log_finish(broker: &Rc<Broker>) -> i32 {
    match post(broker, "finish", version(), 0).await {
        Ok(()) => 0,
        Err(error) => {
            broker.log(Severity::Err, &format!("startlog: {error}"));
            1
        }
    }
}

fn version() -> Map<String, Value> {
    Map::from_iter([("version".to_owned(), STARTLOG_VERSION.into())])
}

fn has_open_end(log: &[u8]) -> bool {
    let Ok(entries) = eventlog::decode(log) else {
        return false;
    };
    let known = |entry: &&Entry| entry.get_i64("version") == Some(STARTLOG_VERSION);
    let last = entries.iter().rfind(known);
    last.is_some_and(|entry| entry.name == "start")
}

async fn post(
    broker: &Broker,
    name: &str,
    context: Map<String, Value>,
    flags: i32,
) -> Result<(), RpcError> {
    let now = jiff::Timestamp::now().as_nanosecond() as f64 / 1e9;
    let entry = Entry::with_context(now, name, context).encode();
    let value = TreeObj::encode_val(entry.as_bytes());
    let request = Commit {
        ops: vec![Op {
            key: STARTLOG.to_owned(),
            flags: kvs::flags::APPEND,
            dirent: RawValue::from_string(value).map_err(|_| Errno::EINVAL)?,
        }],
        namespace: PRIMARY.to_owned(),
        flags,
    };
    let handle = broker.router.handle();
    handle.call::<KvsCommit>(LEADER, &request).await?;
    Ok(())
}

/// Writes what is in memory to the store, and the archive that was asked for. The key-value store
/// has ended and left its checkpoint. Returns an exit code.
pub(crate) async fn save(broker: &Rc<Broker>) -> i32 {
    let handle = broker.router.handle();
    match handle.call::<ContentFlush>(LEADER, &Empty {}).await {
        Ok(_) => {}
        Err(error) if error.errno == Errno::ENOSYS => return 0,
        Err(error) => {
            broker.log(Severity::Err, &format!("content.flush: {error}"));
            return 1;
        }
    }
    let Some(text) = attr(broker, DUMP) else {
        return 0;
    };
    if text == "auto" {
        dump_auto(broker).await
    } else {
        dump(broker, &PathBuf::from(text)).await
    }
}

async fn dump(broker: &Rc<Broker>, archive: &std::path::Path) -> i32 {
    let text = format!("dumping content to {}", archive.display());
    broker.log(Severity::Info, &text);
    let command = format!(
        "flux dump --quiet --ignore-failed-read --no-cache --checkpoint {}",
        quote(archive)
    );
    runat::run_logged(broker, "rc3", 0, &command).await
}

async fn dump_auto(broker: &Rc<Broker>) -> i32 {
    let dir = archives(broker);
    let now = jiff::Zoned::now();
    let name = now.strftime("%Y%m%d_%H%M%S.tgz").to_string();
    if let Err(error) = std::fs::create_dir_all(&dir) {
        broker.log(Severity::Err, &format!("{}: {error}", dir.display()));
        return 1;
    }
    let code = dump(broker, &dir.join(&name)).await;
    if code != 0 {
        return code;
    }
    // The link changes in one step, so that there is an archive to restore at any moment.
    let (link, fresh) = (dir.join("RESTORE"), dir.join("RESTORE.new"));
    let linked = match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => {
            std::os::unix::fs::symlink(&name, &fresh).and_then(|()| std::fs::rename(&fresh, &link))
        }
    };
    match linked {
        Ok(()) => 0,
        Err(error) => {
            broker.log(Severity::Err, &format!("{}: {error}", link.display()));
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_without_end_shows() {
        let line = |name: &str, version: i64| {
            format!(
                "{{\"timestamp\":1.0,\"name\":\"{name}\",\"context\":{{\"version\":{version}}}}}\n"
            )
        };
        let check = |lines: &[(&str, i64)], expect| {
            let log: String = lines
                .iter()
                .map(|(name, version)| line(name, *version))
                .collect();
            assert_eq!(has_open_end(log.as_bytes()), expect, "{lines:?}");
        };
        check(&[], false);
        check(&[("start", 1)], true);
        check(&[("start", 1), ("finish", 1)], false);
        check(&[("start", 1), ("finish", 2)], true);
        check(&[("start", 1), ("finish", 1), ("start", 3)], false);
    }

    #[test]
    fn quotes_survive_the_shell() {
        assert_eq!(quote(std::path::Path::new("/a b'c")), "'/a b'\\''c'");
    }
}
