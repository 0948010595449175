//! `flux job-validator` and `flux job-frobnicator`: what happens to jobspecs on submission, as
//! filters.
//!
//! Both read one JSON request a line and write one JSON answer a line. The instance itself does
//! not need them for the plugins built in; it runs them as workers for plugins in Python, which
//! they load through the Python bindings. They are also for trying a configuration out.

mod frobnicator;
mod validator;

use std::io::BufRead;
use std::path::Path;

use client::Client;
use proto::config::ConfigGet;
use rpc::Dest;
use serde_json::{Map, Value, json};
use types::Errno;

use super::python;
use crate::driver;
use crate::fail::{Fail, Outcome};
use crate::options::{Args, Parser};
use crate::{err, json as text, outln, output};

pub(crate) use frobnicator::run as frobnicator;
pub(crate) use validator::run as validator;

/// Runs plugins in Python; its first argument says which kind.
const PLUGIN_HOST: &str = include_str!("../../../assets/ingest_plugins.py");

/// What the two commands differ in.
struct Kind {
    /// `validator` or `frobnicator`.
    name: &'static str,
    /// The plugins built in, and what they do.
    builtin: &'static [(&'static str, &'static str)],
    /// The plugins if none are named.
    default: &'static [&'static str],
    /// Whether the exit status tells of jobspecs it complains about.
    judges: bool,
}

impl Kind {
    /// The command line, if there is work to do. Errors: the exit status, once all is done or said.
    fn args(&self, parser: &'static Parser, words: &[String]) -> Result<Args, i32> {
        if let Some(status) = self.hand_over(words) {
            return Err(status);
        }
        let args = parser.parse(words)?;
        match args.has("list-plugins") {
            true => Err(self.list_plugins()),
            false => Ok(args),
        }
    }

    fn list_plugins(&self) -> i32 {
        outln!("Available plugins:");
        for (name, about) in self.builtin {
            outln!("{name:<20}  {about}");
        }
        0
    }

    /// The plugins that were asked for.
    fn plugins<'a>(&self, args: &'a Args) -> Vec<&'a str> {
        let named: Vec<&str> = args
            .all("plugins")
            .flat_map(|list| list.split(','))
            .filter(|name| !name.is_empty())
            .collect();
        if named.is_empty() {
            return self.default.to_vec();
        }
        named
    }

    fn is_builtin(&self, plugin: &str) -> bool {
        self.builtin.iter().any(|(name, _)| *name == plugin)
    }

    /// Hands over to Python if a word of the command line names a plugin in a file. This comes
    /// before options are looked at, because the plugin may have some of its own.
    fn hand_over(&self, words: &[String]) -> Option<i32> {
        let values = words.iter().enumerate().filter_map(|(at, word)| {
            let rest = word.strip_prefix("--plugin")?;
            let rest = rest.strip_prefix('s').unwrap_or(rest);
            match rest.strip_prefix('=') {
                Some(value) => Some(value),
                None if rest.is_empty() => words.get(at + 1).map(String::as_str),
                None => None,
            }
        });
        let mut names = values.flat_map(|list| list.split(','));
        names.find(|name| !self.is_builtin(name) && Path::new(name).is_file())?;
        let mut command = python::interpreter_command();
        command.args(["-c", PLUGIN_HOST, self.name]).args(words);
        let error = driver::exec(&mut command);
        err!("{}: ERROR: python: {}", self.prog(), Errno::from_io(&error));
        Some(1)
    }

    fn prog(&self) -> String {
        format!("flux-job-{}", self.name)
    }

    fn critical(&self, text: &str) -> Fail {
        err!("{}: CRITICAL: {text}", self.prog());
        Fail::silent(1)
    }
}

/// Answers the lines of standard input until it ends; `answer` takes jobspecs.
async fn filter(
    kind: &Kind,
    jobspec_only: bool,
    mut answer: impl AsyncFnMut(Value) -> Result<Option<Value>, (Errno, String)>,
) -> Outcome {
    let mut status = 0;
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line.map_err(|error| Fail::of("standard input", Errno::from_io(&error)))?;
        let mut request: Value =
            serde_json::from_slice(&line).map_err(|error| Fail::of("input is not JSON", error))?;
        if jobspec_only {
            request = json!({"jobspec": request, "userid": 0, "urgency": 0, "flags": 0});
        }
        let missing = ["jobspec", "userid", "urgency", "flags"]
            .into_iter()
            .find(|key| request.get(key).is_none());
        if let Some(key) = missing {
            return Err(kind.critical(&format!(
                "Missing keys in input: {key}. Did you mean to use --jobspec-only?"
            )));
        }
        let jobspec = request["jobspec"].take();
        let mut reply = Map::new();
        match answer(jobspec).await {
            Ok(data) => {
                reply.insert("errnum".into(), 0.into());
                if let Some(data) = data {
                    reply.insert("data".into(), data);
                }
            }
            Err((errno, text)) => {
                if jobspec_only && kind.judges {
                    status = 1;
                }
                reply.insert("errnum".into(), errno.0.into());
                reply.insert("errstr".into(), text.into());
            }
        }
        outln!("{}", text::python(&reply, true));
        output::flush();
    }
    Ok(status)
}

/// The configuration of the instance.
async fn config(client: &Client) -> Result<Map<String, Value>, Fail> {
    let call = client
        .handle()
        .call::<ConfigGet>(Dest::Any, &proto::Empty {});
    let config = call.await.map_err(|error| Fail::of("config.get", error))?;
    Ok(config)
}
