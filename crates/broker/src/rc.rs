//! The instance's own start and end: loading the modules in order, and unloading them again.
//!
//! This is what `flux modprobe rc1` and `rc3` stand for. It runs inside the broker, without a
//! process, because every module is compiled in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use modprobe::{Catalog, Conditions, Finder};
use module::Severity;
use proto::module::Load;
use tokio::process::Command;
use types::{Rank, installation};

use crate::broker::Broker;
use crate::{fake_resources, modules, persist, runat, services};

/// Loads the modules. Returns an exit code.
pub(crate) async fn start(broker: &Rc<Broker>) -> i32 {
    let leader = broker.router.rank() == Rank::LEADER;
    let catalog = match catalog(broker) {
        // What a file or the configuration says later changes nothing.
        Ok(catalog) => broker.catalog.get_or_init(|| catalog),
        Err(text) => return fail(broker, &text),
    };
    let order = match catalog.start_order() {
        Ok(order) => order,
        Err(text) => return fail(broker, &text),
    };
    let restore = match persist::source(broker) {
        Ok(source) => source.filter(|_| leader),
        Err(text) => return fail(broker, &text),
    };
    let fake = match fake_resources::read(&broker.config.borrow()) {
        Ok(fake) => fake,
        Err(text) => return fail(broker, &text),
    };
    for entry in order.into_iter().filter(|entry| is_here(broker, entry)) {
        let name = entry.name.as_str();
        let stores = entry.provides.iter().any(|name| name == "content-backing");
        let mut args = entry.args.clone();
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
                return fail(broker, &format!("fake resources: {error}"));
            }
        }
        let load = Load {
            path: entry.module.clone(),
            name: (entry.module != entry.name).then(|| entry.name.clone()),
            loader: None,
            args,
            exec: entry.exec,
        };
        if let Err(error) = services::load_module(broker, load).await {
            return fail(broker, &format!("{name}: {error}"));
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
    if leader {
        crate::slurm::follow(broker).await;
    }
    let code = run_python(broker).await;
    if code != 0 {
        return code;
    }
    run_scripts(broker, "rc1").await
}

/// Runs the tasks of files in Python, among modules that are loaded already. Returns an exit code.
async fn run_python(broker: &Rc<Broker>) -> i32 {
    match python_files("rc1").is_empty() {
        true => 0,
        false => runat::run_logged(broker, "rc1", 0, "flux modprobe rc1").await,
    }
}

fn python_files(rc: &str) -> Vec<PathBuf> {
    Finder { say: &|_, _| {} }.rc_files(rc)
}

/// Runs the scripts the site and the user have for the start (`rc1`) or the end (`rc3`), whatever
/// comes of those before. Returns an exit code.
async fn run_scripts(broker: &Rc<Broker>, list: &str) -> i32 {
    let extra = std::env::var("FLUX_RC_EXTRA").unwrap_or_default();
    let site = installation::get("confdir").unwrap_or_default();
    let directories = std::iter::once(site.as_str()).chain(extra.split(':'));
    let mut code = 0;
    for directory in directories.filter(|directory| !directory.is_empty()) {
        let directory = Path::new(directory).join(format!("{list}.d"));
        let files = match regular_files(&directory) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                let text = format!("{list}: {}: {error}", directory.display());
                broker.log(Severity::Err, &text);
                code = 1;
                continue;
            }
        };
        for file in files.iter().filter(|file| is_executable(file)) {
            let name = file.display();
            broker.log(Severity::Info, &format!("{list}.0: running {name}"));
            let ended = runat::run_command(broker, &format!("{list}.0"), Command::new(file)).await;
            let failure = match ended.and_then(std::convert::identity) {
                Ok(status) if status.success() => continue,
                Ok(status) => format!("failed with exit code {}", runat::exit_code(status)),
                Err(error) => format!("failed: {error}"),
            };
            broker.log(Severity::Err, &format!("{list}.0: {name} {failure}"));
            code = 1;
        }
    }
    if code != 0 {
        let text = format!("{list}.0: one or more {list}.d scripts failed");
        broker.log(Severity::Err, &text);
    }
    code
}

fn is_executable(file: &Path) -> bool {
    nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
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

/// The modules there are, with all that chooses among them.
fn catalog(broker: &Broker) -> Result<Catalog, String> {
    let files = Finder { say: &|_, _| {} }.module_files();
    let mut catalog = Catalog::read(&files)?;
    catalog.configure(&broker.config.borrow())?;
    catalog.apply(&Known { broker });
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    catalog.disable_all(&env(modprobe::DISABLE));
    catalog.choose_scheduler(&env(modprobe::SCHED_MODULE))?;
    if let Some(store) = persist::attr(broker, modprobe::BACKING_MODULE) {
        catalog.choose_store(&store)?;
    }
    Ok(catalog)
}

/// What conditions of modules are held against.
struct Known<'a> {
    broker: &'a Broker,
}

impl Conditions for Known<'_> {
    fn has_config(&self, key: &str) -> bool {
        let config = self.broker.config.borrow();
        let mut keys = key.split('.');
        let first = keys.next().and_then(|key| config.get(key));
        keys.fold(first, |value, key| value?.get(key))
            .is_some_and(|value| !value.is_null())
    }

    fn has_attr(&self, name: &str) -> bool {
        self.broker.attrs.borrow().get(name).is_some()
    }

    fn has_env(&self, name: &str) -> bool {
        std::env::var_os(name).is_some()
    }
}

fn is_here(broker: &Broker, entry: &modprobe::Entry) -> bool {
    // The ranks were checked when they were read.
    modprobe::on_rank(&entry.ranks, broker.router.rank().0).unwrap_or(false)
}

fn fail(broker: &Broker, text: &str) -> i32 {
    broker.log(Severity::Err, &format!("rc1: {text}"));
    1
}

/// Unloads whatever is loaded, those first that nobody knows, then in reverse of the order to load
/// them: a module that was reloaded meanwhile is still needed by those after it. Returns an exit
/// code.
pub(crate) async fn stop(broker: &Rc<Broker>) -> i32 {
    for file in python_files("rc3") {
        let name = file.display();
        let text = format!("rc3: {name}: tasks in Python are not run at the end yet");
        broker.log(Severity::Err, &text);
    }
    let mut code = run_scripts(broker, "rc3").await;
    let leader = broker.router.rank() == Rank::LEADER;
    let mut names = broker.modules.names();
    if let Some(catalog) = broker.catalog.get() {
        let known = catalog.entries().iter().map(|entry| entry.name.as_str());
        // Without an order, those loaded last go first.
        let order = catalog.sorted(known.collect()).unwrap_or_default();
        let place = |name: &String| order.iter().position(|entry| entry.name == *name);
        names.sort_by_key(|name| place(name).unwrap_or(order.len()));
    }
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
