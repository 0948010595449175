//! Loading, removing and asking plugins, by request and by `[job-manager] plugins`.
//!
//! The engine knows the plugins that come with the program. A plugin in a file is foreign code,
//! which never runs in the broker (see `plugin_host`).

use std::path::Path;

use module::Context;
use proto::job_manager::{JobManagerJobtap, JobManagerJobtapQuery, Jobtap, Plugins};
use rpc::{Routes, RpcError};
use serde_json::Value;
use spec::config::wrong_type;
use types::Errno;
use wire::Message;

use super::plugin_host::Todo;
use super::service::refused;
use super::{State, now};

/// The plugin that has tables of its own.
const PERILOG: &str = "perilog.so";

/// The attribute with the directories of plugins.
const SEARCH_PATH: &str = "conf.jobtap_pluginpath";

/// Reads the `plugins` array. Errors are texts for people.
pub(super) fn parse_config(value: &Value) -> Result<Vec<Jobtap>, String> {
    let Value::Array(entries) = value else {
        return Err("[job-manager.plugins] config must be an array".to_owned());
    };
    entries.iter().enumerate().map(parse_entry).collect()
}

fn parse_entry((at, entry): (usize, &Value)) -> Result<Jobtap, String> {
    let fail = |text: String| format!("[job-manager.plugins][{at}]: {text}");
    let Value::Object(entry) = entry else {
        return Err(fail(wrong_type("object", entry)));
    };
    let mut wish = Jobtap::default();
    for (key, value) in entry {
        match (key.as_str(), value) {
            ("load", Value::String(name)) => wish.load = Some(name.clone()),
            ("remove", Value::String(name)) => wish.remove = Some(name.clone()),
            ("conf", Value::Object(conf)) => wish.conf = Some(conf.clone()),
            ("load" | "remove", _) => {
                return Err(fail(format!("{key}: {}", wrong_type("string", value))));
            }
            ("conf", _) => return Err(fail(format!("{key}: {}", wrong_type("object", value)))),
            _ => return Err(fail(format!("unknown key {key}"))),
        }
    }
    Ok(wish)
}

/// Adds the methods.
pub(super) fn routes(routes: Routes<State>) -> Routes<State> {
    routes
        .on::<JobManagerJobtap>(|state: &mut State, request, wish| {
            let message = request.message().clone();
            match wish.query_only {
                Some(true) => state.answer_jobtap(&message, Ok(())),
                _ => state.plugin_host.push(Todo::Jobtap(message, wish)),
            }
        })
        .on::<JobManagerJobtapQuery>(|state, request, plugin| {
            if state.jobs.plugins().is_file(&plugin.name) {
                let todo = Todo::Query(request.message().clone(), plugin.name);
                return state.plugin_host.push(todo);
            }
            let data = state.jobs.query_plugin(now(), &plugin.name);
            request.reply_result(&data.map_err(refused));
        })
}

impl State {
    /// Does what the configuration says of plugins.
    pub(super) async fn configure_plugins(
        &mut self,
        context: &mut Context,
    ) -> Result<(), RpcError> {
        for wish in std::mem::take(&mut self.config.plugins) {
            self.change_plugins(context, wish).await.map_err(|error| {
                let errno = error.errno;
                RpcError::new(errno, format!("[job-manager.plugins]: {error}"))
            })?;
        }
        Ok(())
    }

    /// Says what is loaded, or why it is not.
    pub(super) fn answer_jobtap(&self, message: &Message, result: Result<(), RpcError>) {
        if let Err(error) = result {
            return self.handle.respond_error(message, &error);
        }
        let names = self.jobs.plugins().names().map(str::to_owned);
        let plugins = Plugins {
            plugins: names.collect(),
        };
        self.handle.respond(message, &plugins);
    }

    /// Removes plugins, then loads one. Errors: `ENOENT`, `EEXIST`, `EINVAL`.
    pub(super) async fn change_plugins(
        &mut self,
        context: &mut Context,
        wish: Jobtap,
    ) -> Result<(), RpcError> {
        if let Some(pattern) = &wish.remove {
            for name in self.jobs.remove_plugins(pattern).map_err(refused)? {
                self.remove_file(context, &name).await;
            }
        }
        let Some(name) = wish.load else {
            return Ok(());
        };
        if let Some(path) = self.find_file(&name) {
            return self.load_file(context, &path, wish.conf).await;
        }
        let conf = wish.conf.unwrap_or_default();
        self.with_jobs(|jobs, now, out| jobs.load_plugin(now, &name, conf, out))
            .map_err(refused)?;
        if name != PERILOG {
            return Ok(());
        }
        let tables = self.config.tables.clone();
        self.configure_perilog(&tables).or_else(|text| {
            self.jobs.remove_plugins(&name).map_err(refused)?;
            Err(RpcError::new(Errno::EINVAL, text))
        })
    }

    /// The file of a plugin: its path, or one of its name where the site has its plugins. Those
    /// that come with the program need none.
    fn find_file(&self, name: &str) -> Option<String> {
        if name.contains('/') {
            return Path::new(name).is_file().then(|| name.to_owned());
        }
        if jobs::plugins::is_ours(name) {
            return None;
        }
        let path = self.host.attr(SEARCH_PATH)?;
        let found = path
            .split(':')
            .map(|directory| Path::new(directory).join(name))
            .find(|file| file.is_file())?;
        Some(found.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_plugins_array_is_read() {
        let entries = json!([{"remove": "all"}, {"load": "a.so", "conf": {"x": 1}}]);
        let wishes = parse_config(&entries).expect("valid");
        assert_eq!(wishes[0].remove.as_deref(), Some("all"));
        assert_eq!(wishes[1].load.as_deref(), Some("a.so"));
        let texts = [
            (
                json!({"load": "a.so"}),
                "[job-manager.plugins] config must be an array",
            ),
            (
                json!([{"load": 42}]),
                "[job-manager.plugins][0]: load: Expected string, got integer",
            ),
            (
                json!([{"load": "a.so", "conf": 1}]),
                "[job-manager.plugins][0]: conf: Expected object, got integer",
            ),
            (
                json!([{"lode": "a.so"}]),
                "[job-manager.plugins][0]: unknown key lode",
            ),
        ];
        for (entries, text) in texts {
            assert_eq!(parse_config(&entries).expect_err("invalid"), text);
        }
    }
}
