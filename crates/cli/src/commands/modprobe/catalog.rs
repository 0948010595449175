//! The modules there are, from `modprobe.toml`, `modprobe.d` and the broker's configuration, and
//! which of them are chosen.
//!
//! Modules stand for the services they provide, too. Of those that provide the same one, the
//! highest priority counts, then the last defined, unless an alternative is set.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use types::IdSet;

use crate::config::from_toml;
use crate::fail::Fail;

/// The modules every instance has.
const STANDARD: &str = include_str!("../../../assets/modprobe.toml");

const PRIORITY_DEFAULT: i64 = 100;

/// A module that may be loaded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// What to load under that name.
    pub(super) module: String,
    pub(super) args: Vec<String>,
    /// The ranks it belongs on, as [`on_rank`] has it.
    pub(super) ranks: String,
    pub(super) provides: Vec<String>,
    pub(super) requires: Vec<String>,
    pub(super) needs: Vec<String>,
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
    pub(super) needs_config: Vec<String>,
    pub(super) needs_attrs: Vec<String>,
    pub(super) needs_env: Vec<String>,
    pub(super) priority: i64,
    pub(super) disabled: bool,
    pub(super) exec: bool,
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
    pub(super) fn to_json(&self) -> Value {
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
pub(super) fn on_rank(ranks: &str, rank: u32) -> Result<bool, String> {
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
pub(super) trait Conditions {
    fn has_config(&self, key: &str) -> bool;
    fn has_attr(&self, name: &str) -> bool;
    fn has_env(&self, name: &str) -> bool;
}

/// All modules, in the order they were defined.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    entries: Vec<Entry>,
    /// The module that is to provide a service.
    alternatives: BTreeMap<String, String>,
    /// Names of modules and services that shall not be used.
    disabled: BTreeSet<String>,
    /// Modules whose conditions do not hold.
    unmet: BTreeSet<String>,
}

impl Catalog {
    /// The modules every instance has.
    pub(super) fn standard() -> Result<Catalog, Fail> {
        let mut catalog = Catalog::default();
        catalog.add_toml(STANDARD).map_err(Fail::new)?;
        Ok(catalog)
    }

    /// Adds what a file says. Errors are texts for people.
    pub(super) fn add_toml(&mut self, text: &str) -> Result<(), String> {
        let Value::Object(mut table) = from_toml(text)? else {
            return Err("not a table".to_owned());
        };
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
    pub(super) fn update(&mut self, table: &Map<String, Value>) -> Result<(), String> {
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
    pub(super) fn set_alternative(&mut self, service: &str, module: &str) -> Result<(), String> {
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
    pub(super) fn disable(&mut self, name: &str) -> Result<(), String> {
        if !self.entries.iter().any(|entry| entry.answers_to(name)) {
            return Err(format!("no such module or task '{name}'"));
        }
        self.disabled.insert(name.to_owned());
        Ok(())
    }

    /// Finds out which modules' conditions hold.
    pub(super) fn apply(&mut self, conditions: &dyn Conditions) {
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
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A module by its own name.
    pub(super) fn named(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Whether a module may be used.
    pub(super) fn is_enabled(&self, entry: &Entry) -> bool {
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
    pub(super) fn resolve(&self, name: &str) -> Option<&Entry> {
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
    pub(super) fn is_unmet(&self, entry: &Entry) -> bool {
        self.unmet.contains(&entry.name)
    }

    /// Whether a module requires another.
    pub(super) fn requires(&self, entry: &Entry, name: &str) -> bool {
        self.named(name)
            .is_some_and(|other| entry.requires.iter().any(|name| other.answers_to(name)))
    }

    /// The modules an instance has: those that may be used, and are the ones for something they
    /// provide if they provide anything.
    pub(super) fn chosen(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| {
            let mut provides = entry.provides.iter();
            let is_the_one = |name: &String| {
                let provider = self.resolve(name);
                provider.is_some_and(|provider| provider.name == entry.name)
            };
            self.is_enabled(entry) && (entry.provides.is_empty() || provides.any(is_the_one))
        })
    }

    /// The modules that a module requires, by name.
    pub(super) fn requirements<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        entry.requires.iter().filter_map(|name| self.resolve(name))
    }

    /// Modules and all they require, in the order to load them.
    ///
    /// # Errors
    ///
    /// Some come after each other.
    pub(super) fn load_order<'a>(
        &'a self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&'a Entry>, Fail> {
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
    pub(super) fn sorted<'a>(&'a self, mut wanted: BTreeSet<&str>) -> Result<Vec<&'a Entry>, Fail> {
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
                let text = format!("nodes are in a cycle: {}", names.join(", "));
                return Err(Fail::new(text));
            };
            wanted.remove(ready.name.as_str());
            order.push(ready);
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use proto::module::STANDARD as STANDARD_MODULES;

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
    fn the_standard_modules_are_those_the_broker_loads() {
        let catalog = Catalog::standard().expect("valid");
        let chosen: BTreeSet<(&str, bool)> = catalog
            .chosen()
            .map(|entry| (entry.name.as_str(), entry.ranks == "0"))
            .collect();
        let expect = STANDARD_MODULES
            .iter()
            .map(|module| (module.name, module.leader));
        assert_eq!(chosen, expect.collect());
        for module in STANDARD_MODULES {
            for service in module.provides {
                assert_eq!(provider(&catalog, service), module.name);
            }
        }
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
