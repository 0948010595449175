//! Options into a jobspec (RFC 14, version 1).

use std::os::unix::fs::MetadataExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use types::Errno;

use super::{constraint, environment};
use crate::fail::{self, Fail};
use crate::options::Args;
use crate::{datetime, err};

type Object = Map<String, Value>;

/// The label of slots.
const LABEL: &str = "task";

const OPTIONS: &str = "attributes.system.shell.options";

/// What a command makes of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tasks.
    Tasks,
    /// An instance that runs a script.
    Batch,
    /// An instance for interactive use.
    Alloc,
}

/// Builds the jobspec.
pub(crate) fn build(args: &Args, kind: Kind, command: &[String]) -> Result<Value, Fail> {
    let mut options = Object::new();
    let (resources, count) = match given_resources(args)? {
        Some(list) => (list, json!({"per_slot": 1})),
        None => {
            let (one, count) = match kind {
                Kind::Tasks => task_resources(args, &mut options)?,
                Kind::Batch | Kind::Alloc => instance_resources(args)?,
            };
            (vec![one], count)
        }
    };
    let mut system = Object::new();
    let duration = match args.get("time-limit") {
        Some(text) => json!(time_limit(text)?),
        None => json!(0),
    };
    system.insert("duration".into(), duration);
    let (env, expand) = environment::environment(args)?;
    system.insert("environment".into(), env.into());
    let cwd = match args.get("cwd") {
        Some(cwd) => cwd.to_owned(),
        None => crate::current_dir("--cwd")?,
    };
    system.insert("cwd".into(), cwd.into());
    if let Some(name) = args.get("job-name") {
        system.insert("job".into(), json!({ "name": name }));
    }
    if !expand.is_empty() {
        options.insert("env-expand".into(), expand.into());
    }
    let limits = environment::limits(args)?;
    if !limits.is_empty() {
        options.insert("rlimit".into(), limits.into());
    }
    stdio(args, kind, &mut options)?;
    if let Some(text) = args.get("signal") {
        options.insert("signal".into(), signal(text)?);
    }
    if let Some(text) = args.get("taskmap") {
        let (scheme, value) = text.split_once(':').unwrap_or((text, ""));
        options.insert("taskmap".into(), json!({"scheme": scheme, "value": value}));
    }
    if kind != Kind::Tasks {
        options.insert("per-resource".into(), json!({"type": "node"}));
        options.insert("mpi".into(), "none".into());
        options.insert("exit-timeout".into(), "none".into());
    }
    for text in args.all("setopt") {
        let (key, value) = key_value("--setopt", text)?;
        set(OPTIONS, &mut options, &key, value)?;
    }
    if !options.is_empty() {
        system.insert("shell".into(), json!({ "options": options }));
    }
    for key in ["queue", "bank"] {
        if let Some(value) = args.get(key) {
            system.insert(key.into(), value.into());
        }
    }
    let dependencies = dependencies(args)?;
    if !dependencies.is_empty() {
        system.insert("dependencies".into(), dependencies.into());
    }
    let requires: Vec<&str> = args.all("requires").chain(args.all("require")).collect();
    if !requires.is_empty() {
        let text = requires.join(" ");
        let constraints = constraint::parse(&text)
            .map_err(|reason| Fail::new(format!("--requires='{text}': {reason}")))?;
        system.insert("constraints".into(), constraints);
    }
    let mut files = Object::new();
    for text in args.all("add-file") {
        add_file(&mut files, text)?;
    }
    if !files.is_empty() {
        system.insert("files".into(), files.into());
    }
    let mut attributes = Object::new();
    attributes.insert("system".into(), system.into());
    for text in args.all("setattr") {
        let (key, value) = key_value("--setattr", text)?;
        let key = match key.strip_prefix('.') {
            Some(key) => key.to_owned(),
            None => match key.strip_prefix("attributes.") {
                Some(key) => key.to_owned(),
                None if key.starts_with("user.") || key.starts_with("system.") => key,
                None => format!("system.{key}"),
            },
        };
        set("attributes", &mut attributes, &key, value)?;
    }
    Ok(json!({
        "resources": resources,
        "tasks": [{"command": command, "slot": LABEL, "count": count}],
        "attributes": attributes,
        "version": 1,
    }))
}

/// Seconds of a time limit: minutes unless there is a unit.
fn time_limit(text: &str) -> Result<f64, Fail> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes.is_finite() && minutes >= 0.0 => Ok(minutes * 60.0),
        Ok(_) => Err(fail::invalid_duration(text)),
        Err(_) => fail::duration(text),
    }
}

fn number(args: &Args, key: &str) -> Result<Option<i64>, Fail> {
    let Some(text) = args.get(key) else {
        return Ok(None);
    };
    let number = text
        .parse()
        .map_err(|_| Fail::new(format!("--{key}: invalid int value '{text}'")))?;
    Ok(Some(number))
}

fn positive(args: &Args, key: &str, what: &str) -> Result<Option<i64>, Fail> {
    match number(args, key)? {
        Some(number) if number <= 0 => Err(Fail::new(format!("{what} must be > 0"))),
        number => Ok(number),
    }
}

fn slot(count: i64, cores: i64, gpus: Option<i64>) -> Value {
    let mut with = vec![json!({"type": "core", "count": cores})];
    if let Some(gpus) = gpus.filter(|gpus| *gpus > 0) {
        with.push(json!({"type": "gpu", "count": gpus}));
    }
    json!({"type": "slot", "count": count, "with": with, "label": LABEL})
}

fn node(count: i64, exclusive: bool, slot: Value) -> Value {
    let mut node = Object::new();
    node.insert("type".into(), "node".into());
    node.insert("count".into(), count.into());
    if exclusive {
        node.insert("exclusive".into(), true.into());
    }
    node.insert("with".into(), json!([slot]));
    node.into()
}

fn task_resources(args: &Args, options: &mut Object) -> Result<(Value, Value), Fail> {
    let per_resource = ["cores", "tasks-per-node", "tasks-per-core", "gpus-per-node"];
    let per_task = ["ntasks", "cores-per-task", "gpus-per-task"];
    if per_resource.iter().any(|key| args.has(key)) {
        if per_task.iter().any(|key| args.has(key)) {
            return Err(Fail::new(
                "Per-resource options can't be used with per-task options. (See --help for details)",
            ));
        }
        return resource_shape(args, options);
    }
    let nodes = positive(args, "nodes", "node count")?;
    let ntasks = match number(args, "ntasks")? {
        Some(0) => None,
        Some(count) if count < 0 => return Err(Fail::new("ntasks must be a positive integer")),
        count => count,
    };
    let cores = positive(args, "cores-per-task", "cores per task")?.unwrap_or(1);
    let gpus = number(args, "gpus-per-task")?;
    if args.has("exclusive") && nodes.is_none() {
        return Err(Fail::new("exclusive can only be set with a node count"));
    }
    let Some(nodes) = nodes else {
        let slot = slot(ntasks.unwrap_or(1), cores, gpus);
        return Ok((slot, json!({"per_slot": 1})));
    };
    let exclusive = args.has("exclusive") || ntasks.is_none();
    let ntasks = ntasks.unwrap_or(nodes);
    if nodes > ntasks {
        return Err(Fail::new("node count must not be greater than task count"));
    }
    let slots = (ntasks + nodes - 1) / nodes;
    let count = if ntasks % nodes == 0 {
        json!({"per_slot": 1})
    } else {
        json!({"total": ntasks})
    };
    Ok((node(nodes, exclusive, slot(slots, cores, gpus)), count))
}

/// Resources given by totals, with tasks spread over them.
fn resource_shape(args: &Args, options: &mut Object) -> Result<(Value, Value), Fail> {
    let nodes = positive(args, "nodes", "nnodes")?;
    let cores = positive(args, "cores", "ncores")?;
    let gpus = number(args, "gpus-per-node")?;
    if gpus.is_some() && nodes.is_none() {
        return Err(Fail::new("--gpus-per-node requires --nodes"));
    }
    if args.has("exclusive") && nodes.is_none() {
        return Err(Fail::new("exclusive can only be set with a node count"));
    }
    let per_node = positive(args, "tasks-per-node", "tasks per node")?;
    let per_core = positive(args, "tasks-per-core", "tasks per core")?;
    let per_resource = match (per_node, per_core) {
        (Some(_), Some(_)) => {
            return Err(Fail::new(
                "Do not specify both the number of tasks per node and per core",
            ));
        }
        (Some(count), None) => Some(("node", count)),
        (None, Some(count)) => Some(("core", count)),
        (None, None) => None,
    };
    if let Some((kind, count)) = per_resource {
        options.insert("per-resource".into(), json!({"type": kind, "count": count}));
    }
    let resources = match (nodes, cores) {
        (Some(nodes), Some(cores)) => {
            if cores % nodes != 0 {
                return Err(Fail::new(
                    "number of cores must be evenly divisible by node count",
                ));
            }
            node(nodes, args.has("exclusive"), slot(1, cores / nodes, gpus))
        }
        (Some(nodes), None) => node(nodes, true, slot(1, 1, gpus)),
        (None, Some(cores)) => slot(cores, 1, None),
        (None, None) => {
            return Err(Fail::new(
                "must specify node or core count with per_resource",
            ));
        }
    };
    Ok((resources, json!({"per_slot": 1})))
}

/// Resources as they are given, if they are.
fn given_resources(args: &Args) -> Result<Option<Vec<Value>>, Fail> {
    let file = match (args.get("resources-shape"), args.get("resources-json")) {
        (None, None) => return Ok(None),
        (Some(shape), None) => {
            let list = spec::shape::parse(shape, LABEL).map_err(Fail::new)?;
            return Ok(Some(list));
        }
        (None, Some(file)) => file,
        (Some(_), Some(_)) => {
            return Err(Fail::new(
                "`--resources-shape` and `--resources-json` are mutually exclusive arguments. \
                 Use only one.",
            ));
        }
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Fail::new(format!("{}: '{file}'", Errno::from_io(&error))))?;
    let mut json: Value = serde_json::from_str(&text)
        .map_err(|error| Fail::new(format!("Expecting JSON in '{file}': {error}")))?;
    if let Some(resources) = json.get_mut("resources") {
        json = resources.take();
    }
    match json {
        Value::Array(list) => Ok(Some(list)),
        _ => Err(Fail::new(format!("'{file}' has no list of 'resources'"))),
    }
}

fn instance_resources(args: &Args) -> Result<(Value, Value), Fail> {
    let nodes = positive(args, "nodes", "node count")?;
    let slots = positive(args, "nslots", "nslots")?;
    let cores = positive(args, "cores-per-slot", "cores per slot")?.unwrap_or(1);
    let gpus = number(args, "gpus-per-slot")?;
    if args.has("exclusive") && nodes.is_none() {
        return Err(Fail::new("--exclusive can only be set with a node count"));
    }
    let per_slot = json!({"per_slot": 1});
    let Some(nodes) = nodes else {
        let slots =
            slots.ok_or_else(|| Fail::new("Number of slots to allocate must be specified"))?;
        return Ok((slot(slots, cores, gpus), per_slot));
    };
    let exclusive = args.has("exclusive") || slots.is_none();
    let slots = slots.unwrap_or(nodes);
    if nodes > slots {
        return Err(Fail::new("node count must not be greater than slot count"));
    }
    let slot = slot((slots + nodes - 1) / nodes, cores, gpus);
    Ok((node(nodes, exclusive, slot), per_slot))
}

fn stdio(args: &Args, kind: Kind, options: &mut Object) -> Result<(), Fail> {
    let file = |path: &str| json!({"type": "file", "path": path});
    let wanted = |path: &&str| *path != "none" && *path != "kvs";
    let is_ids = |path: &&str| *path == "all" || path.parse::<types::IdSet>().is_ok();
    match args.get("input") {
        // Ranks that get standard input, not a file; `flux run` hands them to attach.
        Some(path) if kind == Kind::Tasks && is_ids(&path) && args.parser().name == "flux run" => {}
        Some(path) if kind == Kind::Tasks && is_ids(&path) => {
            return Err(Fail::new("per-task input not supported for submit"));
        }
        Some(path) if wanted(&path) => set(OPTIONS, options, "input.stdin", file(path))?,
        _ => {}
    }
    let default = (kind == Kind::Batch).then_some("flux-{{id}}.out");
    let mut set = |key: &str, value| set(OPTIONS, options, key, value);
    for (key, stream, default) in [("output", "stdout", default), ("error", "stderr", None)] {
        let path = args.get(key).or(default).filter(wanted);
        if let Some(path) = path {
            set(&format!("output.{stream}"), file(path))?;
            if args.has("label-io") {
                set(&format!("output.{stream}.label"), true.into())?;
            }
        }
    }
    if args.has("unbuffered") {
        for stream in ["stdout", "stderr"] {
            set(&format!("output.{stream}.buffer.type"), "none".into())?;
        }
        set("output.batch-timeout", json!(0.05))?;
        set("input.batch-timeout", json!(0.0))?;
    }
    Ok(())
}

fn signal(text: &str) -> Result<Value, Fail> {
    let (name, time) = match text.split_once('@') {
        Some((name, time)) => (name, Some(time)),
        None => (text, None),
    };
    let invalid = |why: &dyn std::fmt::Display| Fail::new(format!("--signal={text}: {why}"));
    let signum = match name {
        "" => libc::SIGUSR1,
        name if name.parse::<i64>().is_ok_and(|number| number <= 0) => {
            return Err(invalid(&"signal must be > 0"));
        }
        name => crate::signal::parse(name)
            .ok_or_else(|| invalid(&format_args!("signal '{name}' is invalid")))?,
    };
    let timeleft = match time {
        None | Some("") => 60.0,
        Some(time) => fail::duration(time).map_err(|why| invalid(&why.text))?,
    };
    Ok(json!({"signum": signum, "timeleft": timeleft}))
}

fn dependencies(args: &Args) -> Result<Vec<Value>, Fail> {
    let mut list = Vec::new();
    for uri in args.all("dependency") {
        let (scheme, rest) = uri.split_once(':').unwrap_or((uri, ""));
        let (value, query) = rest.split_once('?').unwrap_or((rest, ""));
        if scheme == "after" {
            err!("Warning: dependency scheme 'after' is deprecated, use 'afterstart'");
        }
        let mut entry = Object::new();
        entry.insert("scheme".into(), scheme.into());
        entry.insert("value".into(), value.into());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = match value.parse::<i64>() {
                Ok(number) => json!(number),
                Err(_) => match value.parse::<f64>() {
                    Ok(number) => json!(number),
                    Err(_) => json!(value),
                },
            };
            match entry.get_mut(key) {
                Some(Value::Array(list)) => list.push(value),
                Some(old) => *old = json!([old.take(), value]),
                None => drop(entry.insert(key.into(), value)),
            }
        }
        list.push(entry.into());
    }
    if let Some(text) = args.get("begin-time") {
        let time = datetime::parse(text)
            .ok_or_else(|| Fail::new(format!("Invalid datetime: \"{text}\"")))?;
        list.push(json!({"scheme": "begin-time", "value": format!("{time}")}));
    }
    Ok(list)
}

/// Splits `KEY=JSON`, `KEY` (1) or `^KEY=FILE`, the value of `option`.
fn key_value(option: &str, text: &str) -> Result<(String, Value), Fail> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if let Some(key) = key.strip_prefix('^') {
        let path = value.ok_or_else(|| Fail::new(format!("{text}: a file is required")))?;
        let bytes = std::fs::read(path).map_err(|error| Fail::of(path, Errno::from_io(&error)))?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Fail::of(format!("{option}: {path}"), error))?;
        return Ok((key.to_owned(), value));
    }
    let value = match value {
        None => json!(1),
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    Ok((key.to_owned(), value))
}

/// Sets a dotted key below `root`, making objects on the way.
fn set(root: &str, object: &mut Object, key: &str, value: Value) -> Result<(), Fail> {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    spec::jobspec::set_path(object, key, value)
        .map_err(|error| Fail::new(format!("failed to set {root}.{key} to {text}: {error}")))
}

fn add_file(files: &mut Object, text: &str) -> Result<(), Fail> {
    let fail = |reason: &dyn std::fmt::Display| Fail::new(format!("--add-file={text}: {reason}"));
    let (name, data) = match text.split_once('=') {
        Some((name, data)) => (Some(name), data),
        None => (None, text),
    };
    let (name, perms) = match name.and_then(|name| Some((name, name.rsplit_once(':')?))) {
        Some((name, (base, perms))) => match u32::from_str_radix(perms, 8) {
            Ok(perms) => (Some(base), Some(perms)),
            Err(_) => (Some(name), None),
        },
        None => (name, None),
    };
    let data = data.replace("\\n", "\n");
    if data.contains('\n') {
        let name = name.ok_or_else(|| fail(&"file name missing"))?;
        let mode = 0o100_000 | perms.unwrap_or(0o600);
        files.insert(
            name.to_owned(),
            json!({"mode": mode, "data": data, "encoding": "utf-8"}),
        );
        return Ok(());
    }
    let meta = std::fs::metadata(&data).map_err(|error| fail(&Errno::from_io(&error)))?;
    if !meta.is_file() {
        return Err(fail(&"not a regular file"));
    }
    let bytes = std::fs::read(&data).map_err(|error| fail(&Errno::from_io(&error)))?;
    let name = match name {
        Some(name) => name,
        None => data.rsplit('/').next().unwrap_or(&data),
    };
    let mode = perms.map_or(meta.mode(), |perms| 0o100_000 | perms);
    files.insert(
        name.to_owned(),
        file_object(mode, &bytes, Some(meta.size())),
    );
    Ok(())
}

/// A file object (RFC 37) that holds its data.
pub(crate) fn file_object(mode: u32, bytes: &[u8], size: Option<u64>) -> Value {
    let mut object = Object::new();
    object.insert("mode".into(), mode.into());
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            object.insert("data".into(), text.into());
            object.insert("encoding".into(), "utf-8".into());
        }
        Err(_) => {
            object.insert("data".into(), BASE64.encode(bytes).into());
            object.insert("encoding".into(), "base64".into());
        }
    }
    if let Some(size) = size {
        object.insert("size".into(), size.into());
    }
    object.into()
}

/// The submit flags a command line asks for.
pub(crate) fn flags(args: &Args) -> Result<i32, Fail> {
    let mut flags = 0;
    for name in args.all("flags").flat_map(|list| list.split(',')) {
        flags |= match name {
            "debug" => proto::job_ingest::flags::DEBUG,
            "waitable" => proto::job_ingest::flags::WAITABLE,
            "novalidate" => proto::job_ingest::flags::NOVALIDATE,
            _ => return Err(Fail::new(format!("--flags: Unknown flag {name}"))),
        };
    }
    Ok(flags)
}

/// The urgency with this name or number; range is the server's matter.
pub(crate) fn urgency(text: Option<&str>) -> Result<i32, Fail> {
    match text.map(str::to_lowercase).as_deref() {
        None | Some("default") => Ok(16),
        Some("hold") => Ok(0),
        Some("expedite") => Ok(31),
        Some(number) => number
            .parse()
            .map_err(|_| Fail::new(format!("--urgency: invalid value: {number}"))),
    }
}
