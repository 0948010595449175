//! Option `stage-in`: files from archives in the key-value store, before any task starts (RFC 37).

use std::path::{Path, PathBuf};
use std::time::Instant;

use client::archive;
use proto::kvs::PRIMARY;
use rpc::Handle;
use serde_json::Value;
use types::Errno;

use crate::fatal::Fatal;
use crate::job::Job;
use crate::log::{Level, Log};

const NAME: &str = "stage-in";

/// What the option asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct StageIn {
    names: Vec<String>,
    pattern: Option<String>,
    /// Where to, if not the job's temporary directory.
    destination: Option<PathBuf>,
    /// Only the first shell extracts: all see the same directory.
    is_global: bool,
    /// The deprecated name of an option was used.
    has_tags: bool,
}

impl StageIn {
    /// Reads the job's option; `None` if it has none. Errors: it makes no sense.
    pub(crate) fn new(job: &Job) -> Result<Option<StageIn>, Fatal> {
        let parsed = job.option(NAME).map(StageIn::parse).transpose();
        parsed.map_err(|text| Fatal::new(format!("{NAME}: {text}")))
    }

    fn parse(option: &Value) -> Result<StageIn, String> {
        let mut names = None;
        let mut tags = None;
        let mut pattern = None;
        let mut destination = None;
        // Anything else than an object just turns it on.
        for (key, value) in option.as_object().into_iter().flatten() {
            let target = match key.as_str() {
                "names" => &mut names,
                "tags" => &mut tags,
                "pattern" => &mut pattern,
                "destination" => &mut destination,
                _ => {
                    return Err(format!(
                        "Error parsing stage_in shell option: unknown key {key}"
                    ));
                }
            };
            let text = value.as_str().map(str::to_owned);
            *target = Some(text.ok_or_else(|| {
                format!("Error parsing stage_in shell option: {key} must be a string")
            })?);
        }
        let (is_global, destination) = match destination.as_deref() {
            None => (false, None),
            Some(text) => match text.split_once(':') {
                None => (false, Some(text)),
                Some(("local", path)) => (false, Some(path)),
                Some(("global", path)) => (true, Some(path)),
                Some(_) => return Err("destination prefix must be local: or global:".to_owned()),
            },
        };
        let has_tags = tags.is_some();
        let names = tags.or(names).unwrap_or_else(|| "main".to_owned());
        let names = names.split(',').filter(|name| !name.is_empty());
        Ok(StageIn {
            names: names.map(str::to_owned).collect(),
            pattern,
            destination: destination.map(PathBuf::from),
            is_global,
            has_tags,
        })
    }

    /// Extracts the files.
    pub(crate) async fn run(
        &self,
        handle: &Handle,
        log: &Log,
        shell_rank: u32,
        tmpdir: &Path,
    ) -> Result<(), Fatal> {
        let say = |level, text: &str| log.write(level, Some(NAME), text);
        let fail = |text: String| Err(Fatal::new(format!("{NAME}: {text}")));
        if self.has_tags && shell_rank == 0 {
            let text = "Setting stage-in.names to the value of deprecated option stage-in.tags.";
            say(Level::Warn, text);
        }
        if self.is_global && shell_rank != 0 {
            return Ok(());
        }
        let directory = self.destination.as_deref().unwrap_or(tmpdir);
        if let Err(error) = directory.read_dir() {
            let errno = Errno::from_io(&error);
            return fail(format!("chdir {}: {errno}", directory.display()));
        }
        say(Level::Debug, &format!("=> {}", directory.display()));
        let started = Instant::now();
        let mut count = 0;
        let mut size = 0;
        for name in &self.names {
            let key = archive::key(name);
            let found = archive::lookup(handle, PRIMARY, name, false).await;
            let value = match found {
                Ok(value) => value,
                Err(error) => {
                    let text = format!("could not lookup {key} in primary KVS namespace: {error}");
                    return fail(text);
                }
            };
            let files = match spec::archive::decode(&value) {
                Ok(files) => archive::choose(files, self.pattern.as_deref()),
                Err(error) => return fail(format!("{key}: {error}")),
            };
            let on_file = |file: &spec::archive::File| {
                say(Level::Trace, &file.to_string());
                count += 1;
                size += file.size();
            };
            let done = archive::extract(handle, &files, directory, true, on_file).await;
            if let Err(error) = done {
                return fail(format!("{key}: {error}"));
            }
        }
        let rate = size as f64 / 1e6 / started.elapsed().as_secs_f64().max(1e-6);
        say(Level::Debug, &format!("{count} files {rate:.1}MB/s"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(option: Value, expect: Result<(&[&str], Option<&str>, bool), &str>) {
        let parsed = StageIn::parse(&option);
        let got = parsed.as_ref().map(|stage_in| {
            let names: Vec<&str> = stage_in.names.iter().map(String::as_str).collect();
            let destination = stage_in.destination.as_deref().and_then(Path::to_str);
            (names, destination, stage_in.is_global)
        });
        let expect = expect.map(|(names, path, is_global)| (names.to_vec(), path, is_global));
        assert_eq!(got.map_err(String::as_str), expect, "{option}");
    }

    #[test]
    fn the_option_has_parts_or_none() {
        check(json!(1), Ok((&["main"], None, false)));
        check(json!("x"), Ok((&["main"], None, false)));
        check(json!({"names": "a,b"}), Ok((&["a", "b"], None, false)));
        check(json!({"tags": "a"}), Ok((&["a"], None, false)));
        check(
            json!({"destination": "/x"}),
            Ok((&["main"], Some("/x"), false)),
        );
        check(
            json!({"destination": "local:/x"}),
            Ok((&["main"], Some("/x"), false)),
        );
        check(
            json!({"destination": "global:/x"}),
            Ok((&["main"], Some("/x"), true)),
        );
        check(
            json!({"destination": "else:/x"}),
            Err("destination prefix must be local: or global:"),
        );
        check(
            json!({"names": 7}),
            Err("Error parsing stage_in shell option: names must be a string"),
        );
        check(
            json!({"foo": "x"}),
            Err("Error parsing stage_in shell option: unknown key foo"),
        );
    }
}
