//! Loading, removing and asking plugins, by request and by `[job-manager] plugins`.
//!
//! The engine knows the plugins that come with the program. A plugin in a file is foreign code,
//! which never runs in the broker; there is no process for it yet, so it is refused.

use std::path::Path;

use proto::job_manager::{JobManagerJobtap, JobManagerJobtapQuery, Jobtap, Plugins};
use rpc::{Routes, RpcError};
use serde_json::Value;
use spec::config::wrong_type;
use types::Errno;

use super::service::refused;
use super::{State, now};

/// The plugin that has tables of its own.
const PERILOG: &str = "perilog.so";

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
            if wish.query_only != Some(true)
                && let Err(error) = state.change_plugins(wish)
            {
                return request.fail(error);
            }
            let names = state.jobs.plugins().names().map(str::to_owned);
            request.reply(&Plugins {
                plugins: names.collect(),
            });
        })
        .on::<JobManagerJobtapQuery>(|state, request, plugin| {
            let data = state.jobs.query_plugin(now(), &plugin.name);
            request.reply_result(&data.map_err(refused));
        })
}

impl State {
    /// Does what the configuration says of plugins.
    pub(super) fn configure_plugins(&mut self) -> Result<(), RpcError> {
        for wish in std::mem::take(&mut self.config.plugins) {
            self.change_plugins(wish).map_err(|error| {
                let errno = error.errno;
                RpcError::new(errno, format!("[job-manager.plugins]: {error}"))
            })?;
        }
        Ok(())
    }

    /// Removes plugins, then loads one. Errors: `ENOENT`, `EEXIST`; `ENOSYS` for one in a file.
    fn change_plugins(&mut self, wish: Jobtap) -> Result<(), RpcError> {
        if let Some(pattern) = &wish.remove {
            self.jobs.remove_plugins(pattern).map_err(refused)?;
        }
        let Some(name) = wish.load else {
            return Ok(());
        };
        let conf = wish.conf.unwrap_or_default();
        let loaded = self.with_jobs(|jobs, now, out| jobs.load_plugin(now, &name, conf, out));
        loaded.map_err(|refusal| match refusal.errno {
            Errno::ENOENT if name.contains('/') && Path::new(&name).is_file() => foreign(&name),
            _ => refused(refusal),
        })?;
        if name != PERILOG {
            return Ok(());
        }
        let tables = self.config.tables.clone();
        self.configure_perilog(&tables).or_else(|text| {
            self.jobs.remove_plugins(&name).map_err(refused)?;
            Err(RpcError::new(Errno::EINVAL, text))
        })
    }
}

/// Why a plugin in a file is not loaded.
fn foreign(path: &str) -> RpcError {
    let text = format!("{path}: plugins in files are not supported by this version");
    RpcError::new(Errno::ENOSYS, text)
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
