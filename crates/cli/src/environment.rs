//! The environment `flux` prepares for what it runs.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;

use types::installation;

/// What `execvp(3)` searches where there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The variables `flux` manages. Values are kept here and set for the process only once.
pub(crate) struct Environment {
    vars: Vec<(String, Option<String>)>,
}

/// Adds `values` in front of each other and drops repetitions and empty elements.
fn join(separator: char, values: &[Option<String>]) -> String {
    let mut seen = HashSet::new();
    let mut joined = Vec::new();
    for value in values.iter().flatten() {
        for element in value.split(separator) {
            if !element.is_empty() && seen.insert(element.to_owned()) {
                joined.push(element.to_owned());
            }
        }
    }
    joined.join(&separator.to_string())
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Environment {
    /// The environment for commands: what the caller had, with the installation's own places in
    /// front. `argv0` is how `flux` was called.
    pub(crate) fn prepare(argv0: &OsStr) -> Environment {
        let mut vars = Vec::new();
        for (name, key) in [
            ("FLUX_EXEC_PATH", "exec_path"),
            ("FLUX_CONNECTOR_PATH", "connector_path"),
            ("FLUX_MODULE_PATH", "module_path"),
        ] {
            let values = [
                var(&format!("{name}_PREPEND")),
                installation::get(key),
                var(name),
            ];
            vars.push((name.to_owned(), Some(join(':', &values))));
        }
        for (name, key) in [("LUA_PATH", "lua_path_add"), ("LUA_CPATH", "lua_cpath_add")] {
            let values = [
                var(&format!("FLUX_{name}_PREPEND")),
                installation::get(key),
                var(name),
            ];
            vars.push((name.to_owned(), Some(join(';', &values) + ";;;")));
        }
        if let Some(prepend) = var("FLUX_PYTHONPATH_PREPEND") {
            let values = [Some(prepend), var("PYTHONPATH")];
            vars.push(("PYTHONPATH".to_owned(), Some(join(':', &values))));
        }
        let man = match var("MANPATH") {
            Some(path) => {
                join(':', &[installation::get("man_path"), Some(path.clone())])
                    + if path.ends_with(':') { ":" } else { "" }
            }
            // A trailing colon keeps the system's own pages in reach.
            None => installation::get("man_path").unwrap_or_default() + ":",
        };
        vars.push(("MANPATH".to_owned(), Some(man)));
        for name in ["FLUX_RC_EXTRA", "FLUX_SHELL_RC_PATH"] {
            if let Some(value) = var(name) {
                vars.push((name.to_owned(), Some(join(':', &[Some(value)]))));
            }
        }
        if let Some(uri) = var("FLUX_URI") {
            vars.push(("FLUX_URI".to_owned(), Some(uri)));
        }
        if argv0 != "flux" {
            let path = var("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
            let path = search_path(&installation::executable_dir(), &path);
            vars.push(("PATH".to_owned(), Some(path)));
        }
        Environment { vars }
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.put(name, Some(value));
    }

    /// Unsets a variable.
    pub(crate) fn unset(&mut self, name: &str) {
        self.put(name, None);
    }

    fn put(&mut self, name: &str, value: Option<String>) {
        match self.vars.iter_mut().find(|(var, _)| var == name) {
            Some((_, slot)) => *slot = value,
            None => self.vars.push((name.to_owned(), value)),
        }
    }

    /// A variable as commands will see it.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        match self.vars.iter().find(|(var, _)| var == name) {
            Some((_, value)) => value.clone(),
            None => var(name),
        }
    }

    /// The managed variables that are set.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.vars
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
    }

    /// Sets the process's own environment. Called once, before there is a second thread.
    #[allow(unsafe_code, reason = "std::env::set_var")]
    pub(crate) fn apply(&self) {
        for (name, value) in &self.vars {
            match value {
                // SAFETY: the driver runs this before anything starts a thread.
                Some(value) => unsafe { std::env::set_var(name, value) },
                // SAFETY: as above.
                None => unsafe { std::env::remove_var(name) },
            }
        }
    }
}

/// The search path with this executable's directory ahead of any other that holds a `flux`.
fn search_path(own: &Path, path: &str) -> String {
    let own_text = own.display().to_string();
    let mut elements: Vec<&str> = match path {
        "" => Vec::new(),
        path => path.split(':').collect(),
    };
    let first = elements
        .iter()
        .position(|dir| !dir.is_empty() && Path::new(dir).join("flux").is_file());
    match first {
        Some(index) if Path::new(elements[index]) == own => {}
        Some(index) => elements.insert(index, &own_text),
        None if elements.iter().any(|dir| Path::new(dir) == own) => {}
        None => elements.push(&own_text),
    }
    elements.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_repetitions_and_holes() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(join(':', &[some("a::b"), None, some("b:c:a")]), "a:b:c");
    }

    #[test]
    fn own_directory_goes_ahead_of_another_flux() {
        assert_eq!(search_path(Path::new("/none"), "/bin:/x"), "/bin:/x:/none");
        assert_eq!(search_path(Path::new("/x"), "/bin:/x"), "/bin:/x");
        assert_eq!(search_path(Path::new("/x"), ""), "/x");
    }
}
