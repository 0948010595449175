//! Plugins of the job manager that come with the program, and which of them are loaded.
//!
//! The work of each is done where it belongs in the engine; here is only whether it is wanted.
//! Those with a leading dot are loaded from the start. Removing one turns off what it does for
//! whatever happens from then on: a job that waits for a dependency still gets what it waits for.
//!
//! Of plugins in files, which are foreign code, only the names are here; see [`crate::Call`].

use serde_json::{Value, json};
use spec::ResourceSet;
use types::{Errno, JobId};

use crate::fold::State;
use crate::manager::{Job, Work};
use crate::{Attachment, Effect, Effects, Jobs, Object, Refusal, event};

/// A plugin that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Gives jobs the priority of their urgency.
    PriorityDefault,
    /// Limits the resources a job asks for.
    LimitJobSize,
    /// Limits how long a job may run.
    LimitDuration,
    /// Dependencies on other jobs.
    DependencyAfter,
    /// One job of a name at a time.
    DependencySingleton,
    /// Jobs that begin at a time.
    BeginTime,
    /// Refuses jobs that would outlast the instance.
    ValidateDuration,
    /// Changes of a job's duration.
    UpdateDuration,
    /// Lists the jobs of a user.
    History,
    /// Posts events by request.
    PostEvent,
    /// Changes of a job's queue.
    UpdateQueue,
    /// Jobs that bring their resources along.
    AllocBypass,
    /// Stops jobs that are given what others have.
    AllocCheck,
    /// Holds every new job.
    SubmitHold,
    /// Prolog and epilog.
    Perilog,
}

use Plugin::{
    AllocBypass, AllocCheck, BeginTime, DependencyAfter, DependencySingleton, History,
    LimitDuration, LimitJobSize, Perilog, PostEvent, PriorityDefault, SubmitHold, UpdateDuration,
    UpdateQueue, ValidateDuration,
};

/// Every plugin with its name; those of the beginning first, in their order.
const NAMES: [(Plugin, &str); 15] = [
    (PriorityDefault, ".priority-default"),
    (LimitJobSize, ".limit-job-size"),
    (LimitDuration, ".limit-duration"),
    (DependencyAfter, ".dependency-after"),
    (DependencySingleton, ".dependency-singleton"),
    (BeginTime, ".begin-time"),
    (ValidateDuration, ".validate-duration"),
    (UpdateDuration, ".update-duration"),
    (History, ".history"),
    (PostEvent, ".post-event"),
    (UpdateQueue, ".update-queue"),
    (AllocBypass, "alloc-bypass.so"),
    (AllocCheck, "alloc-check.so"),
    (SubmitHold, "submit-hold.so"),
    (Perilog, "perilog.so"),
];

/// Whether a name is that of a plugin that comes with the program.
pub fn is_ours(name: &str) -> bool {
    Plugin::from_name(name).is_some()
}

impl Plugin {
    fn from_name(name: &str) -> Option<Plugin> {
        let found = NAMES.iter().find(|(_, known)| *known == name)?;
        Some(found.0)
    }

    fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(plugin, _)| *plugin == self)
            .map_or("", |(_, name)| name)
    }

    fn gives_priority(self) -> bool {
        matches!(self, PriorityDefault | SubmitHold)
    }
}

/// A loaded plugin.
#[derive(Clone, Debug)]
struct Loaded {
    /// `None` for one in a file.
    plugin: Option<Plugin>,
    name: Box<str>,
    conf: Object,
}

impl Loaded {
    fn ours(plugin: Plugin, conf: Object) -> Loaded {
        Loaded {
            plugin: Some(plugin),
            name: plugin.name().into(),
            conf,
        }
    }
}

/// The loaded plugins, in the order they were loaded.
#[derive(Clone, Debug)]
pub struct Plugins {
    loaded: Vec<Loaded>,
    /// What jobs hold, as far as [`Plugin::AllocCheck`] has worked it out.
    held: Option<ResourceSet>,
}

impl Default for Plugins {
    fn default() -> Plugins {
        let builtin = NAMES.iter().filter(|(_, name)| name.starts_with('.'));
        let loaded = builtin.map(|(plugin, _)| Loaded::ours(*plugin, Object::new()));
        Plugins {
            loaded: loaded.collect(),
            held: None,
        }
    }
}

impl Plugins {
    /// Whether a plugin is loaded.
    pub fn has(&self, plugin: Plugin) -> bool {
        self.loaded
            .iter()
            .any(|loaded| loaded.plugin == Some(plugin))
    }

    /// Refuses a request that is a plugin's to answer if it is not loaded. Errors: `ENOSYS`.
    pub(crate) fn require(&self, plugin: Plugin) -> Result<(), Refusal> {
        match self.has(plugin) {
            true => Ok(()),
            false => Err(Refusal::new(Errno::ENOSYS, "Unknown service method")),
        }
    }

    /// The names of those loaded, in that order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.loaded.iter().map(|loaded| &*loaded.name)
    }

    /// Whether some are in files.
    pub fn has_files(&self) -> bool {
        self.loaded.iter().any(|loaded| loaded.plugin.is_none())
    }

    /// Whether one of this name is in a file.
    pub fn is_file(&self, name: &str) -> bool {
        let file = |loaded: &&Loaded| loaded.plugin.is_none();
        self.loaded
            .iter()
            .filter(file)
            .any(|loaded| &*loaded.name == name)
    }

    /// Errors: `EEXIST`.
    fn require_new(&self, name: &str) -> Result<(), Refusal> {
        match self.names().any(|loaded| loaded == name) {
            true => {
                let text = format!("{name} already loaded");
                Err(Refusal::new(Errno::EEXIST, text))
            }
            false => Ok(()),
        }
    }

    fn conf(&self, plugin: Plugin) -> Option<&Object> {
        let loaded = self
            .loaded
            .iter()
            .find(|loaded| loaded.plugin == Some(plugin))?;
        Some(&loaded.conf)
    }

    /// Whether owners may change the duration of any job to anything. If not, they are held to
    /// what guests may do.
    pub(crate) fn owner_may_exceed_limits(&self) -> bool {
        let given = self
            .conf(UpdateDuration)
            .and_then(|conf| conf.get("owner-allow-any"));
        // A command's `owner-allow-any=0` is a number.
        !matches!(given, Some(Value::Bool(false))) && given.and_then(Value::as_i64) != Some(0)
    }

    /// The priority plugins give a job; `None` if none gives any. The last loaded decides.
    fn priority(&self, job: &Job) -> Option<u32> {
        let urgency = u32::try_from(job.fold.urgency).unwrap_or(0);
        let mut last = self.loaded.iter().rev().filter_map(|loaded| loaded.plugin);
        match last.find(|plugin| plugin.gives_priority())? {
            // Held once: a new urgency releases it.
            SubmitHold if job.fold.priority.is_none() => Some(0),
            _ => Some(urgency),
        }
    }
}

impl Jobs {
    /// The plugins.
    pub fn plugins(&self) -> &Plugins {
        &self.plugins
    }

    /// Loads a plugin by name. Errors: `ENOENT`, `EEXIST`.
    pub fn load_plugin(
        &mut self,
        now: f64,
        name: &str,
        conf: Object,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        let Some(plugin) = Plugin::from_name(name) else {
            let text = format!("{name}: No such plugin found");
            return Err(Refusal::new(Errno::ENOENT, text));
        };
        self.plugins.require_new(name)?;
        self.plugins.loaded.push(Loaded::ours(plugin, conf));
        if plugin.gives_priority() {
            // Without such a plugin jobs have been waiting for a priority.
            let waiting = self
                .active
                .values()
                .filter(|job| job.fold.state == State::Priority);
            for id in waiting.map(|job| job.id).collect::<Vec<_>>() {
                self.prioritize(now, id);
            }
            self.settle(now, out);
        }
        Ok(())
    }

    /// Notes that a plugin in a file is loaded. Errors: `EEXIST`.
    pub fn add_plugin_file(&mut self, name: &str) -> Result<(), Refusal> {
        self.plugins.require_new(name)?;
        self.plugins.loaded.push(Loaded {
            plugin: None,
            name: name.into(),
            conf: Object::new(),
        });
        Ok(())
    }

    /// Forgets a plugin in a file that is gone.
    pub fn forget_plugin_file(&mut self, name: &str) {
        let gone = |loaded: &Loaded| loaded.plugin.is_none() && &*loaded.name == name;
        self.plugins.loaded.retain(|loaded| !gone(loaded));
        self.calls.forget_plugin(name);
    }

    /// Removes plugins by name, by pattern, or `all`; those with a leading dot only by name or by a
    /// pattern that has it. Returns the names of those in files. Errors: `ENOENT`.
    pub fn remove_plugins(&mut self, pattern: &str) -> Result<Vec<String>, Refusal> {
        let pattern = if pattern == "all" { "*" } else { pattern };
        let before = self.plugins.loaded.len();
        let mut files = Vec::new();
        self.plugins.loaded.retain(|loaded| {
            let name = &*loaded.name;
            let hidden = name.starts_with('.') && !pattern.starts_with('.');
            let stays = hidden || !types::glob::matches(pattern, name);
            if !stays && loaded.plugin.is_none() {
                files.push(name.to_owned());
            }
            stays
        });
        for name in &files {
            self.calls.forget_plugin(name);
        }
        if self.plugins.loaded.len() == before && pattern != "*" {
            return Err(Refusal::new(
                Errno::ENOENT,
                "Failed to find plugin to remove",
            ));
        }
        if !self.plugins.has(AllocCheck) {
            self.plugins.held = None;
        }
        Ok(files)
    }

    /// What a plugin has to tell. Errors: `ENOENT`.
    pub fn query_plugin(&self, now: f64, name: &str) -> Result<Object, Refusal> {
        let plugin = Plugin::from_name(name).filter(|plugin| self.plugins.has(*plugin));
        let Some(plugin) = plugin else {
            let text = format!("{name}: plugin not found");
            return Err(Refusal::new(Errno::ENOENT, text));
        };
        let mut data = Object::new();
        data.insert("name".into(), name.into());
        data.insert("path".into(), "builtin".into());
        if plugin == DependencyAfter {
            let waiters = self.dependencies.waiters().map(|(depid, waiter)| {
                json!({
                    "id": waiter.id.0,
                    "depid": depid.0,
                    "type": waiter.after.label(),
                    "description": waiter.description,
                })
            });
            data.insert("dependencies".into(), waiters.collect());
        }
        if plugin == Perilog {
            self.query_perilog(now, &mut data);
        }
        Ok(data)
    }

    /// The priority of a job whose urgency leaves it to plugins.
    pub(crate) fn plugin_priority(&self, job: &Job) -> Option<u32> {
        self.plugins.priority(job)
    }

    /// The resources a new job brings along, if it may. Errors are texts for who submits it.
    pub(crate) fn own_resources(&self, job: &Job) -> Result<Option<Object>, String> {
        let Some(given) = job.system("alloc-bypass") else {
            return Ok(None);
        };
        if !self.plugins.has(AllocBypass) {
            return Ok(None);
        }
        if self.owner != Some(job.fold.userid) {
            return Err("Guest user cannot use alloc bypass".to_owned());
        }
        let missing = "alloc-bypass: invalid R: attributes.system.alloc-bypass.R is missing";
        let given = given.get("R").ok_or(missing)?;
        ResourceSet::from_value(given)
            .map_err(|error| format!("alloc-bypass: invalid R: {error}"))?;
        match given {
            Value::Object(resources) => Ok(Some(resources.clone())),
            _ => Err("alloc-bypass: invalid R: it is no object".to_owned()),
        }
    }

    /// Gives a job that does without the scheduler the resources it brought along.
    pub(crate) fn bypass(&mut self, now: f64, id: JobId) {
        let Some(job) = self.active.get_mut(&id) else {
            return;
        };
        let given = job.system("alloc-bypass").and_then(|given| given.get("R"));
        let Some(Value::Object(resources)) = given else {
            // Somebody set the flag and will say which resources it has.
            return;
        };
        let mut resources = resources.clone();
        resources.shift_remove("scheduling");
        let resources = std::rc::Rc::new(resources);
        job.resources = Some(resources.clone());
        let entry = event::alloc(now, job.fold.annotations.as_deref(), true);
        self.post_with(id, entry, true, Attachment::Resources(resources));
    }

    /// Stores the resources a job brought along: they are there before anybody hears of them.
    pub(crate) fn keep_own_resources(&mut self, now: f64, id: JobId, resources: Object) {
        self.post(id, event::set_flags(now, &["alloc-bypass"]));
        self.queue(id, Work::Effect(Effect::StoreResources { id, resources }));
    }

    /// Whether a job that has just been given resources may use them. If others have some of them,
    /// it gets an exception.
    pub(crate) fn check_alloc(&mut self, now: f64, id: JobId) -> bool {
        if !self.plugins.has(AllocCheck) {
            return true;
        }
        let Some(new) = self.active.get(&id).and_then(resources_of) else {
            return true;
        };
        let mut held = self.plugins.held.take().unwrap_or_else(|| {
            let mut held = ResourceSet::new();
            let others = self.active.values().filter(|job| job.id != id);
            for set in others.filter_map(resources_of) {
                held.add(&set);
            }
            held
        });
        if !held.overlaps(&new) {
            held.add(&new);
            self.plugins.held = Some(held);
            return true;
        }
        // What is held twice cannot be taken away once: it is worked out anew for the next job.
        let note = "resources already allocated";
        let owner = self.owner.unwrap_or(types::UserId(0));
        self.post(id, event::exception(now, "alloc-check", 0, owner, note));
        false
    }

    /// A job may have lost its resources without giving them back: what is held is to be worked
    /// out anew.
    pub(crate) fn forget_held(&mut self) {
        self.plugins.held = None;
    }

    /// A job no longer has its resources.
    pub(crate) fn note_free(&mut self, id: JobId) {
        if let Some(held) = &mut self.plugins.held
            && let Some(job) = self.active.get(&id)
            && let Some(freed) = parse_resources(job)
        {
            held.subtract(&freed);
        }
    }
}

/// What a job holds.
fn resources_of(job: &Job) -> Option<ResourceSet> {
    job.fold.has_resources.then(|| parse_resources(job))?
}

fn parse_resources(job: &Job) -> Option<ResourceSet> {
    let resources = job.resources.as_ref()?;
    // What a scheduler gave and cannot be read is no basis for stopping anybody.
    ResourceSet::from_value(&Value::Object((**resources).clone())).ok()
}
