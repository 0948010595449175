//! The `[ingest]` table.

use jobs::RequireInstance;
use jobs::policy::Policy;
use serde_json::{Map, Value};
use types::cli_plugins;

/// What is configured.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Policy and queues.
    pub(super) policy: Policy,
    /// How many jobs a batch has at most.
    pub(super) batch_count: Option<usize>,
    /// The validators and their arguments, as given.
    pub(super) validator: String,
    /// Whether jobspecs are checked.
    pub(super) validate: bool,
    /// Whether jobspecs are filled in.
    pub(super) frobnicate: bool,
    /// Whether the scheduler is asked if a job could ever run.
    pub(super) feasibility: bool,
    /// The only version of jobspecs accepted.
    pub(super) require_version: Option<i64>,
    pub(super) require_instance: Option<RequireInstance>,
    /// What the commands are told that fill in and check jobspecs, if that takes plugins which are
    /// not built in.
    pub(super) frobnicator_worker: Option<Vec<String>>,
    pub(super) validator_worker: Option<Vec<String>>,
    /// The size of their input buffers.
    pub(super) buffer_size: Option<String>,
}

/// Module arguments, which prevail over the `[ingest]` table.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    /// Keys of the table itself.
    ingest: Map<String, Value>,
    /// Keys of its `validator` table.
    validator: Map<String, Value>,
}

impl Overrides {
    /// Takes an argument. False if it is none of these.
    pub(super) fn take(&mut self, arg: &str) -> bool {
        let words = |list: &str| list.split(',').map(Value::from).collect::<Vec<_>>().into();
        let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
        match (key, value) {
            ("batch-count", count) => {
                let count = count.parse::<i64>().map_or(count.into(), Value::from);
                self.ingest.insert(key.into(), count);
            }
            ("buffer-size", size) => drop(self.ingest.insert(key.into(), size.into())),
            ("validator-plugins", list) => {
                self.validator.insert("plugins".into(), words(list));
            }
            ("validator-args", list) => {
                self.validator.insert("args".into(), words(list));
            }
            ("disable-validator", "") => {
                self.validator.insert("disable".into(), true.into());
            }
            _ => return false,
        }
        true
    }

    /// Puts them over a configuration.
    fn apply(&self, config: &mut Map<String, Value>) {
        if self.ingest.is_empty() && self.validator.is_empty() {
            return;
        }
        let ingest = config
            .entry("ingest")
            .or_insert_with(|| Value::Object(Map::new()));
        let Some(ingest) = ingest.as_object_mut() else {
            return;
        };
        ingest.extend(self.ingest.clone());
        let validator = ingest
            .entry("validator")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(validator) = validator.as_object_mut() {
            validator.extend(self.validator.clone());
        }
    }
}

impl Config {
    /// Reads a configuration with arguments over it. Errors are texts for people.
    pub(super) fn parse(
        config: &Map<String, Value>,
        overrides: &Overrides,
    ) -> Result<Config, String> {
        let mut config = config.clone();
        overrides.apply(&mut config);
        let mut parsed = Config {
            policy: Policy::parse(&config)?,
            batch_count: None,
            validator: "plugins=(null), args=(null)".to_owned(),
            validate: true,
            frobnicate: true,
            feasibility: false,
            require_version: Some(1),
            require_instance: None,
            frobnicator_worker: None,
            validator_worker: None,
            buffer_size: None,
        };
        // The plugins of the submission commands, which are in Python, check jobspecs too.
        let directories = cli_plugins::directories().unwrap_or_default();
        if !cli_plugins::files(&directories).is_empty() {
            parsed.validator_worker = Some(Vec::new());
        }
        let Some(ingest) = config.get("ingest") else {
            return Ok(parsed);
        };
        let ingest = ingest.as_object().ok_or("[ingest] is not a table")?;
        for (key, value) in ingest {
            match key.as_str() {
                "batch-count" => {
                    let count = value.as_u64().filter(|count| *count > 0);
                    let count = count.ok_or("ingest.batch-count must be > 0")?;
                    parsed.batch_count = usize::try_from(count).ok();
                }
                "buffer-size" => parsed.buffer_size = Some(size(value)?),
                "validator" => parsed.read_validator(value)?,
                "frobnicator" => {
                    parsed.frobnicate = !flag(value, "disable");
                    let (plugins, args) = (strings(value, "plugins")?, strings(value, "args")?);
                    let builtin =
                        |name: &String| matches!(name.as_str(), "defaults" | "constraints");
                    if args.is_some() || !plugins.iter().flatten().all(builtin) {
                        parsed.frobnicator_worker = Some(words(&plugins, &args));
                    }
                }
                other => return Err(format!("[ingest]: unknown key '{other}'")),
            }
        }
        Ok(parsed)
    }

    fn read_validator(&mut self, table: &Value) -> Result<(), String> {
        self.validate = !flag(table, "disable");
        let limits = table.get("require-instance");
        let limit = |key: &str| limits.and_then(|limits| limits.get(key)?.as_u64());
        let mut instance = RequireInstance {
            minnodes: limit("minnodes"),
            mincores: limit("mincores"),
        };
        let (plugins, args) = (strings(table, "plugins")?, strings(table, "args")?);
        let shown = |list: &Option<Vec<String>>| match list {
            Some(list) => list.join(","),
            None => "(null)".to_owned(),
        };
        self.validator = format!("plugins={}, args={}", shown(&plugins), shown(&args));
        if self.validator_worker.is_some() {
            self.validator_worker = Some(words(&plugins, &args));
        }
        for plugin in plugins.iter().flatten() {
            match plugin.as_str() {
                "jobspec" | "schema" => {}
                "feasibility" => self.feasibility = true,
                "require-instance" => self.require_instance = Some(instance),
                _ => {
                    self.validator_worker = Some(words(&plugins, &args));
                    return Ok(());
                }
            }
        }
        for arg in args.iter().flatten() {
            let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
            let invalid = || format!("ingest.validator: invalid argument {arg}");
            match name {
                "--require-version" if value == "any" => self.require_version = None,
                "--require-version" => {
                    self.require_version = Some(value.parse().map_err(|_| invalid())?);
                }
                "--require-instance-minnodes" => {
                    instance.minnodes = Some(value.parse().map_err(|_| invalid())?);
                }
                "--require-instance-mincores" => {
                    instance.mincores = Some(value.parse().map_err(|_| invalid())?);
                }
                _ => return Err(format!("ingest.validator: unknown argument {arg}")),
            }
        }
        if let Some(limits) = &mut self.require_instance {
            *limits = instance;
        }
        Ok(())
    }
}

/// The words of a worker's command line after its name.
fn words(plugins: &Option<Vec<String>>, args: &Option<Vec<String>>) -> Vec<String> {
    let plugins = plugins
        .as_ref()
        .map(|plugins| format!("--plugins={}", plugins.join(",")));
    plugins
        .into_iter()
        .chain(args.iter().flatten().cloned())
        .collect()
}

fn flag(table: &Value, key: &str) -> bool {
    table.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn strings(table: &Value, key: &str) -> Result<Option<Vec<String>>, String> {
    let Some(value) = table.get(key) else {
        return Ok(None);
    };
    serde_json::from_value(value.clone())
        .map(Some)
        .map_err(|_| format!("ingest: {key} must be an array of strings"))
}

/// A size such as `10M` that fits a C integer.
fn size(value: &Value) -> Result<String, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => Some(1u64),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        _ => None,
    };
    let size = digits
        .parse::<f64>()
        .ok()
        .zip(factor)
        .map(|(n, factor)| n * factor as f64);
    match size {
        Some(size) if size >= 0.0 && size <= f64::from(i32::MAX) => Ok(text),
        _ => Err(format!("Invalid buffer-size: '{text}'")),
    }
}
