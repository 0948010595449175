//! The modules there are, from `modprobe.toml`, `modprobe.d` and the broker's configuration, and
//! which of them are chosen.
//!
//! Modules stand for the services they provide, too. Of those that provide the same one, the
//! highest priority counts, then the last defined, unless an alternative is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use types::IdSet;

/// The modules every instance has, in the form of `modprobe.toml` but as JSON: every broker reads
/// it when it starts, and TOML takes ten times as long.
const STANDARD: &str = include_str!("../assets/modules.json");

const PRIORITY_DEFAULT: i64 = 100;

/// A module that may be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What to load under that name.
    pub module: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The ranks it belongs on, as [`on_rank`] has it.
    pub ranks: String,
    /// Services it stands for.
    pub provides: Vec<String>,
    /// Modules and services that are loaded with it.
    pub requires: Vec<String>,
    /// Modules and services without which it is not used.
    pub needs: Vec<String>,
    /// Modules and services it is loaded before.
    pub before: Vec<String>,
    /// Modules and services it is loaded after.
    pub after: Vec<String>,
    /// Keys of the configuration without which it is not used; with `!`, with which.
    pub needs_config: Vec<String>,
    /// Broker attributes, likewise.
    pub needs_attrs: Vec<String>,
    /// Environment variables, likewise.
    pub needs_env: Vec<String>,
    /// Of those that provide the same service, the one with the highest is used.
    pub priority: i64,
    /// Whether it is not used.
    pub disabled: bool,
    /// Whether it runs in a process of its own.
    pub exec: bool,
}

impl Entry {
    fn new(name: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            module: name.to_owned(),
            args: Vec::new(),
            ranks: "all".to_owned(),
            provides: Vec::new(),
            requires: Vec::new(),
            needs: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            needs_config: Vec::new(),
            needs_attrs: Vec::new(),
            needs_env: Vec::new(),
            priority: PRIORITY_DEFAULT,
            disabled: false,
            exec: false,
        }
    }

    /// Takes the keys of a table. Errors are texts for people.
    fn update(&mut self, table: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in table {
            let wrong = || format!("{}: invalid value of config key {key}", self.name);
            let text = || value.as_str().map(str::to_owned).ok_or_else(wrong);
            let list = || {
                let items = value.as_array().ok_or_else(wrong)?;
                let items = items.iter().map(|item| item.as_str().map(str::to_owned));
                items.collect::<Option<Vec<_>>>().ok_or_else(wrong)
            };
            let flag = || value.as_bool().ok_or_else(wrong);
            match key.as_str() {
                "name" => self.name = text()?,
                "module" => self.module = text()?,
                "ranks" => {
                    let ranks = text()?;
                    on_rank(&ranks, 0)?;
                    self.ranks = ranks;
                }
                "args" => self.args = list()?,
                "provides" => self.provides = list()?,
                "requires" => self.requires = list()?,
                "needs" => self.needs = list()?,
                "before" => self.before = list()?,
                "after" => self.after = list()?,
                "needs-config" => self.needs_config = list()?,
                "needs-attrs" => self.needs_attrs = list()?,
                "needs-env" => self.needs_env = list()?,
                "priority" => self.priority = value.as_i64().ok_or_else(wrong)?,
                "disabled" => self.disabled = flag()?,
                "exec" => self.exec = flag()?,
                _ => return Err(format!("{}: invalid config key {key}", self.name)),
            }
        }
        Ok(())
    }

    fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.provides.iter().any(|provided| provided == name)
    }

    /// As `show` prints it.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "module": self.module,
            "args": self.args,
            "ranks": self.ranks,
            "provides": self.provides,
            "requires": self.requires,
            "needs": self.needs,
            "before": self.before,
            "after": self.after,
            "priority": self.priority,
            "disabled": self.disabled,
            "exec": self.exec,
        })
    }
}

/// Whether a rank is among those a text means: `all`, `>N`, `<N` or an idset. Errors are texts for
/// people.
pub fn on_rank(ranks: &str, rank: u32) -> Result<bool, String> {
    let number = |text: &str| -> Result<u32, String> {
        text.parse().map_err(|_| format!("invalid ranks '{ranks}'"))
    };
    if ranks == "all" {
        return Ok(true);
    }
    if let Some(text) = ranks.strip_prefix('>') {
        return Ok(rank > number(text)?);
    }
    if let Some(text) = ranks.strip_prefix('<') {
        return Ok(rank < number(text)?);
    }
    let ids: IdSet = ranks
        .parse()
        .map_err(|_| format!("invalid idset '{ranks}'"))?;
    Ok(ids.contains(rank))
}

/// What conditions of modules are held against.
pub trait Conditions {
    /// Whether a dotted key of the configuration is set.
    fn has_config(&self, key: &str) -> bool;
    /// Whether a broker attribute is set.
    fn has_attr(&self, name: &str) -> bool;
    /// Whether an environment variable is set.
    fn has_env(&self, name: &str) -> bool;
}

/// All modules, in the order they were defined.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    entries: Vec<Entry>,
    /// What an instance is made of: modules, and services that some module provides.
    parts: Vec<String>,
    /// The module that is to provide a service.
    alternatives: BTreeMap<String, String>,
    /// Names of modules and services that shall not be used.
    disabled: BTreeSet<String>,
    /// Modules whose conditions do not hold.
    unmet: BTreeSet<String>,
}

impl Catalog {
    /// The modules every instance has.
    ///
    /// # Errors
    ///
    /// What a file says is wrong; the text names it.
    pub fn standard() -> Result<Catalog, String> {
        let mut catalog = Catalog::default();
        let standard: Map<String, Value> =
            serde_json::from_str(STANDARD).map_err(|error| error.to_string())?;
        catalog.add(standard)?;
        let parts = catalog.entries.iter().flat_map(|entry| {
            let named = std::slice::from_ref(&entry.name);
            let provides = Some(entry.provides.as_slice()).filter(|list| !list.is_empty());
            provides.unwrap_or(named).iter().cloned()
        });
        catalog.parts = parts.collect();
        Ok(catalog)
    }

    /// The modules every instance has, and what files say of them and others.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or what it says is wrong; the text names it.
    pub fn read(files: &[PathBuf]) -> Result<Catalog, String> {
        let mut catalog = Catalog::standard()?;
        for file in files {
            let text = crate::read(file)?;
            catalog
                .add_toml(&text)
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(catalog)
    }

    /// Does as the configuration's `[modules]` table says, if there is one.
    ///
    /// # Errors
    ///
    /// It is wrong; the text names it.
    pub fn configure(&mut self, config: &Map<String, Value>) -> Result<(), String> {
        let Some(modules) = config.get("modules") else {
            return Ok(());
        };
        let table = modules.as_object().ok_or("[modules] is not a table")?;
        self.update(table)
            .map_err(|error| format!("[modules]: {error}"))
    }

    /// Chooses the scheduler as [`SCHED_MODULE`](crate::SCHED_MODULE) says: a module, `none`, or
    /// nothing, which leaves it as it is.
    ///
    /// # Errors
    ///
    /// The module is none; the text names it.
    pub fn choose_scheduler(&mut self, module: &str) -> Result<(), String> {
        let result = match module {
            "" => Ok(()),
            "none" => self.disable("sched"),
            module => self.set_alternative("sched", module),
        };
        result.map_err(|error| format!("{}: {error}", crate::SCHED_MODULE))
    }

    /// Chooses the backing store as [`BACKING_MODULE`](crate::BACKING_MODULE) says.
    ///
    /// # Errors
    ///
    /// The module is none; the text names it.
    pub fn choose_store(&mut self, module: &str) -> Result<(), String> {
        self.set_alternative("content-backing", module)
    }

    /// Keeps from being used what a list says, names with commas between them. Names of tasks, which
    /// may be there too, are passed over.
    pub fn disable_all(&mut self, list: &str) {
        for name in list.split(',').filter(|name| !name.is_empty()) {
            let _task = self.disable(name);
        }
    }

    /// Adds what a file says. Errors are texts for people.
    pub fn add_toml(&mut self, text: &str) -> Result<(), String> {
        self.add(spec::config::from_toml(text)?)
    }

    fn add(&mut self, mut table: Map<String, Value>) -> Result<(), String> {
        let modules = table.shift_remove("modules").unwrap_or_else(|| json!([]));
        let modules = modules.as_array().ok_or("modules is not an array")?;
        for module in modules {
            let module = module.as_object().ok_or("a module is not a table")?;
            let name = module
                .get("name")
                .and_then(Value::as_str)
                .ok_or("missing required config key name")?;
            let mut entry = Entry::new(name);
            entry.update(module)?;
            self.entries.retain(|known| known.name != entry.name);
            self.entries.push(entry);
        }
        self.update(&table)
    }

    /// Changes modules, by name, and alternatives. Errors are texts for people.
    pub fn update(&mut self, table: &Map<String, Value>) -> Result<(), String> {
        let tables = |value: &Value, key: &str| {
            let table = value.as_object().cloned();
            table.ok_or_else(|| format!("{key} is not a table"))
        };
        for (key, value) in table.iter().filter(|(key, _)| *key != "alternatives") {
            let updates = tables(value, key)?;
            let name = self.resolve(key).map(|entry| entry.name.clone());
            let name = name.ok_or_else(|| format!("no such module {key}"))?;
            let entry = self.entries.iter_mut().find(|entry| entry.name == name);
            if let Some(entry) = entry {
                entry.update(&updates)?;
            }
        }
        if let Some(alternatives) = table.get("alternatives") {
            for (service, module) in &tables(alternatives, "alternatives")? {
                let module = module
                    .as_str()
                    .ok_or_else(|| format!("alternatives.{service} is not a string"))?;
                self.set_alternative(service, module)?;
            }
        }
        Ok(())
    }

    /// Chooses the module that provides a service, and with it all that the two modules both
    /// provide. Errors are texts for people.
    pub fn set_alternative(&mut self, service: &str, module: &str) -> Result<(), String> {
        let entry = self.named(module);
        let entry = entry.filter(|entry| entry.answers_to(service));
        let entry = entry.ok_or_else(|| format!("no module {module} provides {service}"))?;
        let services = entry.provides.clone();
        let service = [service.to_owned()];
        for service in services.into_iter().chain(service) {
            self.alternatives.insert(service, module.to_owned());
        }
        Ok(())
    }

    /// Keeps a module, or all that provide a service, from being used. Errors are texts for people.
    pub fn disable(&mut self, name: &str) -> Result<(), String> {
        if !self.entries.iter().any(|entry| entry.answers_to(name)) {
            return Err(format!("no such module or task '{name}'"));
        }
        self.disabled.insert(name.to_owned());
        Ok(())
    }

    /// Finds out which modules' conditions hold.
    pub fn apply(&mut self, conditions: &dyn Conditions) {
        let holds = |key: &String, has: &dyn Fn(&str) -> bool| match key.strip_prefix('!') {
            Some(key) => !has(key),
            None => has(key),
        };
        let unmet = self.entries.iter().filter(|entry| {
            let config = |key: &str| conditions.has_config(key);
            let attr = |key: &str| conditions.has_attr(key);
            let env = |key: &str| conditions.has_env(key);
            !(entry.needs_config.iter().all(|key| holds(key, &config))
                && entry.needs_attrs.iter().all(|key| holds(key, &attr))
                && entry.needs_env.iter().all(|key| holds(key, &env)))
        });
        self.unmet = unmet.map(|entry| entry.name.clone()).collect();
    }

    /// Every module.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A module by its own name.
    pub fn named(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Whether a module may be used.
    pub fn is_enabled(&self, entry: &Entry) -> bool {
        self.is_viable(entry, &mut Vec::new())
    }

    fn is_viable<'a>(&'a self, entry: &'a Entry, below: &mut Vec<&'a str>) -> bool {
        if entry.disabled
            || self.is_unmet(entry)
            || self.disabled.iter().any(|name| entry.answers_to(name))
            || below.contains(&entry.name.as_str())
        {
            return false;
        }
        below.push(&entry.name);
        let viable = entry.needs.iter().all(|name| {
            let mut providers = self.entries.iter().filter(|e| e.answers_to(name));
            providers.any(|provider| self.is_viable(provider, below))
        });
        below.pop();
        viable
    }

    /// The module that a name of a module or service stands for. One that may not be used is
    /// better than none.
    pub fn resolve(&self, name: &str) -> Option<&Entry> {
        if let Some(entry) = self.named(name) {
            return Some(entry);
        }
        let providers: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.answers_to(name))
            .collect();
        let chosen = self.alternatives.get(name);
        let chosen = providers
            .iter()
            .find(|entry| chosen.is_some_and(|chosen| entry.name == *chosen));
        if let Some(entry) = chosen.filter(|entry| self.is_enabled(entry)) {
            return Some(entry);
        }
        // The last of equals counts.
        let viable = providers.iter().filter(|entry| self.is_enabled(entry));
        let best = viable.max_by_key(|entry| entry.priority);
        let any = providers.iter().max_by_key(|entry| entry.priority);
        best.or(any).copied()
    }

    /// Whether a module's conditions do not hold.
    pub fn is_unmet(&self, entry: &Entry) -> bool {
        self.unmet.contains(&entry.name)
    }

    /// Whether a module requires another.
    pub fn requires(&self, entry: &Entry, name: &str) -> bool {
        self.named(name)
            .is_some_and(|other| entry.requires.iter().any(|name| other.answers_to(name)))
    }

    /// The modules to load when an instance starts, in order: those it is made of and what they
    /// require, as far as they may be used. Others that files add wait until they are asked for.
    ///
    /// # Errors
    ///
    /// Some come after each other.
    pub fn start_order(&self) -> Result<Vec<&Entry>, String> {
        let parts = self.parts.iter().filter_map(|name| self.resolve(name));
        let mut order = self.load_order(parts.map(|entry| entry.name.as_str()))?;
        order.retain(|entry| self.is_enabled(entry));
        Ok(order)
    }

    /// The modules that a module requires, by name.
    pub fn requirements<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        entry.requires.iter().filter_map(|name| self.resolve(name))
    }

    /// Modules and all they require, in the order to load them.
    ///
    /// # Errors
    ///
    /// Some come after each other.
    pub fn load_order<'a>(
        &'a self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&'a Entry>, String> {
        let mut wanted = BTreeSet::new();
        let mut next: Vec<&str> = names.into_iter().collect();
        while let Some(name) = next.pop() {
            if let Some(entry) = self.named(name)
                && wanted.insert(name)
            {
                next.extend(self.requirements(entry).map(|entry| entry.name.as_str()));
            }
        }
        self.sorted(wanted)
    }

    /// Sorts modules so that each comes after those it is to come after.
    ///
    /// # Errors
    ///
    /// Some come after each other.
    pub fn sorted<'a>(&'a self, mut wanted: BTreeSet<&str>) -> Result<Vec<&'a Entry>, String> {
        let mut order: Vec<&Entry> = Vec::new();
        while !wanted.is_empty() {
            let waits = |entry: &Entry| {
                let after = entry.after.iter().filter_map(|name| self.resolve(name));
                let named = after.map(|other| other.name.as_str());
                let behind = self.entries.iter().filter(|other| {
                    let mut before = other.before.iter().filter_map(|name| self.resolve(name));
                    before.any(|later| later.name == entry.name)
                });
                named
                    .chain(behind.map(|other| other.name.as_str()))
                    .any(|other| wanted.contains(other) && other != entry.name)
            };
            let ready = self
                .entries
                .iter()
                .find(|entry| wanted.contains(entry.name.as_str()) && !waits(entry));
            let Some(ready) = ready else {
                let names: Vec<&str> = wanted.into_iter().collect();
                return Err(format!("nodes are in a cycle: {}", names.join(", ")));
            };
            wanted.remove(ready.name.as_str());
            order.push(ready);
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULERS: &str = r#"
        [[modules]]
        name = "advanced"
        priority = 500
        ranks = "0"
        provides = ["sched", "feasibility"]
        requires = ["job-manager"]
        [[modules]]
        name = "basic"
        provides = ["sched", "feasibility"]
    "#;

    fn catalog(text: &str) -> Catalog {
        let mut catalog = Catalog::standard().expect("valid");
        catalog.add_toml(text).expect("valid");
        catalog
    }

    fn provider<'a>(catalog: &'a Catalog, name: &str) -> &'a str {
        catalog.resolve(name).map_or("", |entry| &entry.name)
    }

    #[test]
    fn an_instance_has_these_modules_in_this_order() {
        let catalog = catalog("[[modules]]\nname = 'other'\nrequires = ['kvs']");
        let order = catalog.start_order().expect("no cycle");
        let shown = order.iter().map(|entry| {
            let mark = if entry.ranks == "0" { "*" } else { "" };
            format!("{}{mark}", entry.name)
        });
        let shown: Vec<String> = shown.collect();
        assert_eq!(
            shown.join(" "),
            "heartbeat content cron* content-sqlite* kvs kvs-watch resource job-manager* job-info \
             job-list* job-ingest job-exec* sched-simple*"
        );
    }

    #[test]
    fn schedulers_and_stores_are_chosen_by_name() {
        let mut catalog = Catalog::standard().expect("valid");
        let config = json!({"modules": {
            "alternatives": {"sched": "sched-backfill"},
            "sched-backfill": {"args": ["queue-depth=5"]},
            "cron": {"disabled": true},
        }});
        catalog
            .configure(config.as_object().expect("a table"))
            .expect("valid");
        let names = |catalog: &Catalog| -> Vec<String> {
            let order = catalog.start_order().expect("no cycle");
            order.iter().map(|entry| entry.name.clone()).collect()
        };
        assert!(names(&catalog).contains(&"sched-backfill".to_owned()));
        assert!(!names(&catalog).contains(&"cron".to_owned()));
        assert_eq!(catalog.choose_store("content-files"), Ok(()));
        assert_eq!(catalog.choose_scheduler("none"), Ok(()));
        assert_eq!(catalog.choose_scheduler(""), Ok(()));
        assert!(names(&catalog).contains(&"content-files".to_owned()));
        assert!(!names(&catalog).iter().any(|name| name.starts_with("sched")));
        assert_eq!(
            catalog.choose_scheduler("nosuch"),
            Err("FLUX_SCHED_MODULE: no module nosuch provides sched".to_owned())
        );
    }

    #[test]
    fn priority_then_order_then_choice() {
        let mut catalog = catalog(SCHEDULERS);
        assert_eq!(provider(&catalog, "sched"), "advanced");
        catalog.disable("advanced").expect("known");
        assert_eq!(provider(&catalog, "sched"), "basic");
        catalog
            .set_alternative("sched", "sched-simple")
            .expect("known");
        assert_eq!(provider(&catalog, "feasibility"), "sched-simple");
        assert_eq!(
            catalog.set_alternative("sched", "kvs"),
            Err("no module kvs provides sched".to_owned())
        );
        assert_eq!(provider(&catalog, "content-backing"), "content-sqlite");
    }

    #[test]
    fn modules_need_others() {
        let catalog = catalog(
            "[[modules]]\nname = 'a'\nprovides = ['s']\npriority = 500\nneeds = ['nobody']\n\
             [[modules]]\nname = 'b'\nprovides = ['s']\n",
        );
        assert_eq!(provider(&catalog, "s"), "b");
    }

    #[test]
    fn modules_come_after_others() {
        let catalog = catalog(SCHEDULERS);
        let order = catalog.load_order(["kvs-watch"]).expect("no cycle");
        let names: Vec<&str> = order.iter().map(|entry| entry.name.as_str()).collect();
        let expect = ["heartbeat", "content", "content-sqlite", "kvs", "kvs-watch"];
        assert_eq!(names, expect);
        let mut cyclic = catalog.clone();
        cyclic
            .add_toml("heartbeat.after = ['content']\ncontent.after = ['heartbeat']")
            .expect("valid");
        assert!(cyclic.load_order(["content"]).is_err());
    }

    #[test]
    fn bad_files_are_refused_in_words() {
        for (text, expect) in [
            (
                "[[modules]]\nranks = '0'",
                "missing required config key name",
            ),
            (
                "[[modules]]\nname = 'a'\nbad = 1",
                "a: invalid config key bad",
            ),
            (
                "[[modules]]\nname = 'a'\nargs = 1",
                "a: invalid value of config key args",
            ),
            (
                "[[modules]]\nname = 'a'\nranks = '=1'",
                "invalid idset '=1'",
            ),
            ("nosuch.ranks = '0'", "no such module nosuch"),
        ] {
            let mut catalog = Catalog::default();
            assert_eq!(catalog.add_toml(text), Err(expect.to_owned()));
        }
    }

    #[test]
    fn ranks_are_compared_or_listed() {
        for (ranks, rank, expect) in [
            ("all", 3, true),
            (">0", 0, false),
            ("<1", 0, true),
            ("0,4", 4, true),
        ] {
            assert_eq!(on_rank(ranks, rank), Ok(expect), "{ranks}");
        }
    }
}
