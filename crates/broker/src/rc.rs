//! The instance's own start and end: loading the modules in order, and unloading them again.
//!
//! This is what `flux modprobe rc1` and `rc3` stand for. It runs inside the broker, without a
//! process, because every module is compiled in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use module::Severity;
use proto::module::{STANDARD, Standard};
use types::Rank;

use crate::broker::Broker;
use crate::modules::{self, Program};
use crate::{fake_resources, persist, runat};

/// Loads the standard modules. Returns an exit code.
pub(crate) async fn start(broker: &Rc<Broker>) -> i32 {
    let leader = broker.router.rank() == Rank::LEADER;
    let disabled = std::env::var("FLUX_MODPROBE_DISABLE").unwrap_or_default();
    let scheduler = std::env::var("FLUX_SCHED_MODULE").ok();
    let store = persist::attr(broker, "content.backing-module");
    let restore = match persist::source(broker) {
        Ok(source) => source.filter(|_| leader),
        Err(text) => {
            broker.log(Severity::Err, &format!("rc1: {text}"));
            return 1;
        }
    };
    let fake = match fake_resources::read(&broker.config.borrow()) {
        Ok(fake) => fake,
        Err(text) => {
            broker.log(Severity::Err, &format!("rc1: {text}"));
            return 1;
        }
    };
    for module in STANDARD.iter().filter(|module| leader || !module.leader) {
        if disabled
            .split([',', ':', ' '])
            .any(|name| name == module.name)
        {
            continue;
        }
        let mut name = module.name;
        if name == "sched-simple"
            && let Some(other) = &scheduler
        {
            name = other;
        }
        if name == "none" {
            continue;
        }
        let stores = module.provides.contains(&"content-backing");
        if stores && let Some(other) = &store {
            name = other;
        }
        let Some(builtin) = broker.builtin(name) else {
            let text = if stores {
                format!("rc1: no module {name} provides content-backing")
            } else {
                format!("rc1: {name}: module not found in search path")
            };
            broker.log(Severity::Err, &text);
            return 1;
        };
        let mut args: Vec<String> = module.args.iter().map(|arg| (*arg).to_owned()).collect();
        if stores && let Some(source) = &restore {
            let code = persist::check_archive(broker, source).await;
            if code != 0 {
                return code;
            }
            args.push("truncate".to_owned());
        }
        if name == "resource"
            && let Some(set) = &fake
        {
            args.extend(fake_resources::RESOURCE_ARGS.map(str::to_owned));
            let installed = match leader {
                true => fake_resources::install(broker, set).await,
                false => Ok(()),
            };
            if let Err(error) = installed {
                broker.log(Severity::Err, &format!("rc1: fake resources: {error}"));
                return 1;
            }
        }
        if let Err(error) = modules::load(broker, Program::builtin(builtin, name, name, args)).await
        {
            broker.log(Severity::Err, &format!("rc1: {name}: {error}"));
            return 1;
        }
        let code = match (&restore, name) {
            (Some(source), _) if stores => persist::restore(broker, source).await,
            (None, _) if stores => persist::check(broker).await,
            (_, "kvs") if leader => persist::log_start(broker).await,
            _ => 0,
        };
        if code != 0 {
            return code;
        }
    }
    if leader {
        let code = load_crontabs(broker).await;
        if code != 0 {
            return code;
        }
    }
    if leader && std::env::var_os("FLUX_DISABLE_JOB_CLEANUP").is_none() {
        crate::cleanup::push(broker);
    }
    0
}

/// Makes entries of the crontabs in the directory that `cron.directory` names. Returns an exit
/// code.
async fn load_crontabs(broker: &Rc<Broker>) -> i32 {
    let Some(directory) = persist::attr(broker, "cron.directory") else {
        return 0;
    };
    if !broker.modules.names().iter().any(|name| name == "cron") {
        return 0;
    }
    let files = match regular_files(Path::new(&directory)) {
        Ok(files) => files,
        // Installations name one that sites may fill.
        Err(error) if error.kind() == ErrorKind::NotFound => return 0,
        Err(error) => {
            broker.log(
                Severity::Err,
                &format!("rc1: cron.directory {directory}: {error}"),
            );
            return 1;
        }
    };
    for file in files {
        let command = format!("flux cron tab {}", persist::quote(&file));
        if runat::run_logged(broker, "rc1", 0, &command).await != 0 {
            broker.log(
                Severity::Err,
                &format!("rc1: could not load crontab: {}", file.display()),
            );
            return 1;
        }
    }
    0
}

/// The files in a directory, by name.
fn regular_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The place of a module in the standard order. Its store and scheduler may be others than the
/// standard ones. What is not of the standard set comes last.
fn place(name: &str, store: Option<&str>, scheduler: Option<&str>) -> usize {
    let is = |module: &Standard| {
        let stands_in = |service| module.provides.contains(&service);
        module.name == name
            || store == Some(name) && stands_in("content-backing")
            || scheduler == Some(name) && stands_in("sched")
    };
    STANDARD.iter().position(is).unwrap_or(STANDARD.len())
}

/// Unloads whatever is loaded, in reverse of the standard order: a module that was reloaded meanwhile
/// is still needed by those after it. Returns an exit code.
pub(crate) async fn stop(broker: &Rc<Broker>) -> i32 {
    let mut code = 0;
    let leader = broker.router.rank() == Rank::LEADER;
    let store = persist::attr(broker, "content.backing-module");
    let scheduler = std::env::var("FLUX_SCHED_MODULE").ok();
    let mut names = broker.modules.names();
    names.sort_by_key(|name| place(name, store.as_deref(), scheduler.as_deref()));
    for name in names.into_iter().rev() {
        if name == "rexec" {
            continue;
        }
        if leader && name == "kvs" {
            code |= persist::log_finish(broker).await;
        }
        if let Err(error) = modules::remove(broker, &name, false).await {
            broker.log(Severity::Err, &format!("rc3: {name}: {error}"));
            code = 1;
        }
        if leader && name == "kvs" {
            code |= persist::save(broker).await;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_keep_their_place_whatever_they_are_called() {
        let place = |name| place(name, Some("content-files"), Some("other-sched"));
        assert_eq!(place("content-files"), place("content-sqlite"));
        assert_eq!(place("other-sched"), place("sched-simple"));
        assert!(place("content") < place("content-files"));
        assert!(place("content-files") < place("kvs"));
        assert!(place("mine") > place("sched-simple"));
    }
}
