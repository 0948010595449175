//! What a site or a user adds to the shell: start-up scripts in Lua (flux-shell-initrc(5)), the
//! plugins these define or load (flux-shell-plugins(7)), and MPI personalities.
//!
//! Most jobs have none of it, so that is found out first, and an interpreter is made only for those
//! that have. [`state`] is what scripts and plugins see of the shell; [`lua`] runs them. What they
//! change is taken over by the shell after the scripts have run, and after each topic.

mod lua;
pub(crate) mod native;
mod state;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};
use types::JobId;
use types::glob::matches;

use crate::fatal::Fatal;
use crate::job::Job;
use crate::log::Log;

pub(crate) use state::{Current, Environment};
use state::{Facts, State};

/// Where the first script is unless told otherwise, and the others below.
const DIRECTORY: &str = "/etc/flux/shell";

/// What is done where no site's script says what to do. The user's own comes after it.
const STOCK: &str = r#"
plugin.load ("*.so")
shell.source_rcpath ("*.lua")
shell.source_rcpath_option ("mpi")
"#;

/// Where administrators put things: values of broker attributes, empty if unset.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// `conf.shell_initrc`.
    pub(crate) initrc: String,
    /// `conf.shell_pluginpath`.
    pub(crate) pluginpath: String,
}

/// What the shell knows of itself when the scripts run.
pub(crate) struct Origin<'a> {
    pub(crate) job: &'a Job,
    pub(crate) rank: u32,
    pub(crate) service: &'a str,
    pub(crate) owner: u32,
    pub(crate) log: Rc<Log>,
}

/// What a plugin does on topics.
enum Handlers {
    /// Patterns of topics, with functions.
    Lua(Vec<(String, mlua::Function)>),
    /// A plugin in C.
    Native(native::Loaded),
}

impl Handlers {
    fn want(&self, topic: &str) -> bool {
        match self {
            Handlers::Lua(handlers) => handlers.iter().any(|(pattern, _)| matches(pattern, topic)),
            Handlers::Native(loaded) => loaded.wants(topic),
        }
    }
}

/// Something that is told of topics.
struct Plugin {
    name: String,
    handlers: Handlers,
}

/// All plugins, in the order they are called.
type Registry = Rc<RefCell<Vec<Rc<Plugin>>>>;

/// Adds a plugin. One of the same name is gone.
fn add(plugins: &Registry, plugin: Plugin) {
    let mut plugins = plugins.borrow_mut();
    plugins.retain(|other| other.name != plugin.name);
    plugins.push(Rc::new(plugin));
}

/// Scripts and plugins of a job that has some.
pub(crate) struct Extensions {
    state: Rc<State>,
    plugins: Registry,
    /// Lives as long as the plugins whose functions are in it.
    _lua: mlua::Lua,
}

/// Runs the scripts of a job. `None` if it has none, which costs next to nothing.
///
/// Errors name the script and what is wrong with it.
pub(crate) fn load(origin: &Origin<'_>, site: &Site) -> Result<Option<Extensions>, Fatal> {
    let script = initrc(origin.job, site);
    let rcdirs = rcdirs(origin.job, script.as_deref());
    if script.is_none() && !stock_has_work(origin.job, site, &rcdirs) {
        return Ok(None);
    }
    let facts = facts(origin, script.as_deref(), &rcdirs);
    let job = origin.job;
    let options = job.jobspec.shell_options().cloned().unwrap_or_default();
    let searchpath = site.pluginpath.clone();
    let log = origin.log.clone();
    let state = State::new(facts, options, job.environment(), log, searchpath);
    let state = Rc::new(state);
    let plugins = Registry::default();
    let failed = |name: &str, text: String| Fatal::new(format!("loading rc file {name}: {text}"));
    let lua = lua::interpreter(&state, &plugins).map_err(|text| failed("", text))?;
    let load = |name: &str, run: &dyn Fn() -> Result<(), String>| {
        origin.log.debug(format!("Loading {name}"));
        let result = run();
        match state.fatal.take() {
            Some(fatal) => Err(fatal),
            None => result.map_err(|text| failed(name, text)),
        }
    };
    match &script {
        Some(path) => load(&path.display().to_string(), &|| lua::run_file(&lua, path))?,
        None => {
            let stock = || lua::run(&lua, "=initrc.lua", STOCK.as_bytes());
            load("initrc.lua (built in)", &stock)?;
            if let Some(user) = state.option("userrc").as_ref().and_then(Value::as_str) {
                load(user, &|| lua::source(&lua, user))?;
            }
        }
    }
    Ok(Some(Extensions {
        state,
        plugins,
        _lua: lua,
    }))
}

/// The script that runs first, if it is not the stock one.
fn initrc(job: &Job, site: &Site) -> Option<PathBuf> {
    if let Some(path) = job.option("initrc").and_then(Value::as_str) {
        return Some(path.into());
    }
    if !site.initrc.is_empty() {
        return Some(PathBuf::from(&site.initrc));
    }
    let default = Path::new(DIRECTORY).join("initrc.lua");
    // One that cannot be read is passed over.
    std::fs::File::open(&default).is_ok().then_some(default)
}

/// The directories further scripts are looked for in.
fn rcdirs(job: &Job, script: Option<&Path>) -> Vec<PathBuf> {
    let mut directories = vec![rcpath(script).join("lua.d")];
    let env = job.jobspec.environment();
    let more = env.and_then(|env| env.get("FLUX_SHELL_RC_PATH")?.as_str());
    let more = std::env::split_paths(more.unwrap_or_default());
    directories.extend(more.filter(|path| !path.as_os_str().is_empty()));
    directories
}

fn rcpath(script: Option<&Path>) -> &Path {
    match script.map(|path| path.parent().unwrap_or(path)) {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new(DIRECTORY),
    }
}

/// Whether the stock script would do anything.
fn stock_has_work(job: &Job, site: &Site, rcdirs: &[PathBuf]) -> bool {
    let option = |name: &str| {
        job.option(name)
            .filter(|value| **value != Value::Bool(false))
    };
    option("userrc").is_some()
        || option("mpi").is_some_and(|value| value.as_str() != Some("none"))
        || std::env::split_paths(&site.pluginpath).any(|directory| has(&directory, "so"))
        || rcdirs.iter().any(|directory| has(directory, "lua"))
}

/// Whether a directory has a file with this extension.
fn has(directory: &Path, extension: &str) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| path.extension().is_some_and(|found| found == extension))
}

fn facts(origin: &Origin<'_>, script: Option<&Path>, rcdirs: &[PathBuf]) -> Facts {
    let job = origin.job;
    let JobId(id) = job.id;
    let info = serde_json::json!({
        "jobid": id,
        "rank": origin.rank,
        "instance_owner": origin.owner,
        "size": job.size(),
        "ntasks": job.ntasks,
        "service": origin.service,
        "jobspec": serde_json::from_str::<Value>(&job.jobspec.encode()).unwrap_or_default(),
        "R": job.resources.to_value(),
    });
    let directories: Vec<_> = rcdirs.iter().map(|path| path.to_string_lossy()).collect();
    Facts {
        info: info.as_object().cloned().unwrap_or_default(),
        ranks: (0..job.size()).map(|rank| job.rank_info(rank)).collect(),
        rank: origin.rank,
        jobspec_info: jobspec_info(job),
        rcpath: rcpath(script).display().to_string(),
        rcdirs: directories.join(":"),
    }
}

/// What plugins see of the jobspec without reading it.
fn jobspec_info(job: &Job) -> Value {
    let slots = job.jobspec.slots().ok();
    let fixed = |range: Option<u64>| range.map_or(-1, |number| i64::try_from(number).unwrap_or(-1));
    let nnodes = job.jobspec.nnodes();
    let per_node = nnodes.and_then(|nodes| u64::from(job.nslots).checked_div(nodes));
    let gpus = slots.as_ref().and_then(|slots| slots.gpus.fixed());
    serde_json::json!({
        "version": 1,
        "ntasks": job.ntasks,
        "nslots": job.nslots,
        "cores_per_slot": job.cores_per_slot,
        "gpus_per_slot": gpus.unwrap_or(0),
        "nnodes": fixed(nnodes),
        "slots_per_node": fixed(per_node),
        "node_exclusive": slots.is_some_and(|slots| slots.exclusive),
    })
}

impl Extensions {
    /// The shell options as the scripts left them.
    pub(crate) fn options(&self) -> Value {
        self.state.options.borrow().clone()
    }

    /// The job's environment as the scripts left it.
    pub(crate) fn environment(&self) -> Environment {
        self.state.env.borrow().clone()
    }

    /// Whether any plugin wants to know of a topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        let plugins = self.plugins.borrow();
        plugins.iter().any(|plugin| plugin.handlers.want(topic))
    }

    /// Calls all handlers of a topic. `env` is the environment of all tasks, `task` the one the
    /// topic is about; handlers may change both.
    ///
    /// Returns whether all are content; the log tells which are not. Errors: a handler ended the job.
    pub(crate) fn call(
        &self,
        topic: &str,
        env: &RefCell<Environment>,
        task: Option<&mut Current>,
    ) -> Result<bool, Fatal> {
        self.state.env.swap(env);
        let given = task.as_deref().cloned();
        let outer = self.state.task.replace(given);
        let result = run_topic(&self.state, &self.plugins, topic, None);
        native::take_command();
        let after = self.state.task.replace(outer);
        self.state.env.swap(env);
        if let (Some(task), Some(after)) = (task, after) {
            *task = after;
        }
        result
    }

    /// Asks plugins how the tasks are to be distributed by a scheme the shell does not know.
    /// `None` if none of them knows it. Errors: one of them failed.
    pub(crate) fn map_tasks(
        &self,
        scheme: &str,
        given: &Map<String, Value>,
    ) -> Result<Option<Value>, Fatal> {
        let topic = format!("taskmap.{scheme}");
        for plugin in self.plugins.borrow().clone() {
            let Handlers::Native(loaded) = &plugin.handlers else {
                continue;
            };
            if !loaded.wants(&topic) {
                continue;
            }
            let failed = || Fatal::new(format!("failed to map tasks with taskmap={scheme}"));
            let (good, mut out) = loaded.call(&topic, given).map_err(Fatal::new)?;
            if let Some(fatal) = self.state.fatal.take() {
                return Err(fatal);
            }
            return match (good, out.shift_remove("taskmap")) {
                (true, Some(taskmap)) => Ok(Some(taskmap)),
                _ => Err(failed()),
            };
        }
        Ok(None)
    }

    /// What plugins add to an event's context.
    pub(crate) fn context(&self, event: &str) -> Map<String, Value> {
        let mut contexts = self.state.contexts.borrow_mut();
        contexts.remove(event).unwrap_or_default()
    }
}

/// Calls all handlers of a topic, with arguments of a plugin in C if that is who calls.
fn run_topic(
    state: &State,
    plugins: &Registry,
    topic: &str,
    args: Option<foreign::flux::Args>,
) -> Result<bool, Fatal> {
    let plugins = plugins.borrow().clone();
    let mut good = true;
    for plugin in plugins {
        if !plugin.handlers.want(topic) {
            continue;
        }
        let results = match &plugin.handlers {
            Handlers::Lua(handlers) => handlers
                .iter()
                .filter(|(pattern, _)| matches(pattern, topic))
                .map(|(_, function)| lua::handle(function, topic))
                .collect(),
            Handlers::Native(loaded) => vec![match args {
                Some(args) => loaded.call_with(topic, args),
                None => loaded.call(topic, &Map::new()).map(|(good, _)| good),
            }],
        };
        if let Some(fatal) = state.fatal.take() {
            return Err(fatal);
        }
        let name = &plugin.name;
        for result in results {
            good &= matches!(result, Ok(true));
            match result {
                Ok(true) => {}
                Ok(false) => state.log.error(format!("plugin '{name}': {topic} failed")),
                Err(text) => {
                    let text = format!("plugin '{name}': {topic} failed: {text}");
                    state.log.error(text);
                }
            }
        }
    }
    Ok(good)
}

/// Writes out what scripts have printed, which would be lost when the process becomes another.
pub(crate) fn flush_streams() {
    // SAFETY: flushing all streams takes no pointer.
    #[expect(unsafe_code, reason = "streams of the C library")]
    unsafe {
        libc::fflush(std::ptr::null_mut());
    }
}
