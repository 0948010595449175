//! What the shell knows about its job: jobspec, resources, which task runs where.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use spec::jobspec::TaskCount;
use spec::{Jobspec, ResourceSet, Taskmap};
use types::{Hostlist, IdSet, JobId};

use crate::distribute;
use crate::fatal::Fatal;
use crate::rc::Environment;
use crate::rc::Extensions;

/// One shell's node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) broker_rank: u32,
    pub(crate) host: String,
    pub(crate) cores: IdSet,
    pub(crate) gpus: IdSet,
    pub(crate) taskids: IdSet,
}

/// A job as its shells see it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// The id as users see it.
    pub(crate) f58: String,
    pub(crate) jobspec: Jobspec,
    pub(crate) resources: ResourceSet,
    /// By shell rank.
    pub(crate) nodes: Vec<Node>,
    pub(crate) ntasks: u32,
    pub(crate) nslots: u32,
    pub(crate) cores_per_slot: u32,
    pub(crate) taskmap: Taskmap,
    /// What the user should be told about the resources.
    pub(crate) warnings: Vec<String>,
}

/// The jobspec inside a signed request. The job manager checked the signature on submission.
///
/// Errors name what is wrong with the envelope.
pub(crate) fn unwrap_signed(signed: &str) -> Result<Jobspec, Fatal> {
    let bad = |text: &str| Fatal::new(format!("failed to unwrap J: {text}"));
    if signed.trim_start().starts_with('{') {
        return parse_jobspec(signed.as_bytes());
    }
    let payload = signed.split('.').nth(1).ok_or_else(|| bad("no payload"))?;
    let json = BASE64
        .decode(payload)
        .map_err(|_| bad("payload decode error"))?;
    parse_jobspec(json.strip_suffix(b"\0").unwrap_or(&json))
}

fn parse_jobspec(json: &[u8]) -> Result<Jobspec, Fatal> {
    let bad = |text: &str| Fatal::new(format!("error parsing jobspec: {text}"));
    let jobspec = Jobspec::decode(json).map_err(|error| bad(&error.to_string()))?;
    match jobspec.system("environment") {
        Some(value) if !value.is_object() => {
            Err(bad("attributes.system.environment is not object type"))
        }
        _ => Ok(jobspec),
    }
}

/// The `per-resource` option: so many tasks for each node or core.
fn per_resource(jobspec: &Jobspec, nodes: &[Node]) -> Result<Option<Vec<u32>>, Fatal> {
    let Some(option) = jobspec.shell_option("per-resource") else {
        return Ok(None);
    };
    let invalid = |text: &str| Fatal::new(format!("invalid per-resource section: {text}"));
    let kind = option.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| invalid("Object item not found: type"))?;
    let count = match option.get("count") {
        None => 1,
        Some(count) => count.as_i64().ok_or_else(|| invalid("Expected integer"))?,
    };
    let count = u32::try_from(count)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| Fatal::new("per-resource.count must be > 0"))?;
    let tasks = |node: &Node| match kind {
        "node" => Ok(count),
        "core" => Ok(count.saturating_mul(node.cores.len() as u32)),
        _ => Err(Fatal::new(format!(
            "error distributing {count} tasks per-{kind} over R"
        ))),
    };
    nodes.iter().map(tasks).collect::<Result<_, _>>().map(Some)
}

impl Job {
    /// Puts a job together and distributes its tasks.
    pub(crate) fn new(
        id: JobId,
        f58: String,
        jobspec: Jobspec,
        resources: ResourceSet,
    ) -> Result<Job, Fatal> {
        let node = |(rank, node): (u32, &spec::r::Node)| Node {
            broker_rank: rank,
            host: node.hostname.as_deref().unwrap_or("localhost").to_owned(),
            cores: node.children.cores.clone(),
            gpus: node.children.gpus.clone(),
            taskids: IdSet::new(),
        };
        let mut nodes: Vec<Node> = resources.nodes().map(node).collect();
        let ncores: usize = nodes.iter().map(|node| node.cores.len()).sum();
        let slots = jobspec.slots().ok();
        let (nslots, cores_per_slot) = match resources.nslots {
            Some(nslots) if nslots > 0 => (nslots, ncores as u64 / nslots),
            _ => (
                jobspec.nslots().unwrap_or(1),
                slots
                    .as_ref()
                    .and_then(|slots| slots.cores.fixed())
                    .unwrap_or(0),
            ),
        };
        let count = jobspec.tasks.first().map(|task| &task.count);
        let mut ntasks = match count {
            Some(TaskCount::Total(total)) => *total,
            Some(TaskCount::PerSlot(1)) | None => nslots,
            Some(_) => return Err(Fatal::new("error parsing jobspec: per_slot must be 1")),
        } as u32;
        let mut warnings = Vec::new();
        let by_resource = per_resource(&jobspec, &nodes)?;
        let explicit = by_resource.is_some();
        let per_node = match by_resource {
            Some(tasks) => tasks,
            None => {
                let cores: Vec<u32> = nodes.iter().map(|node| node.cores.len() as u32).collect();
                distribute::by_cores(&cores, cores_per_slot as u32, ntasks).ok_or_else(|| {
                    Fatal::new("error distributing tasks over R: Invalid argument")
                })?
            }
        };
        if explicit {
            ntasks = per_node.iter().sum();
        }
        let exclusive = slots.as_ref().is_some_and(|slots| slots.exclusive);
        if jobspec.version == 1
            && nodes.len() > 1
            && !exclusive
            && !explicit
            && nslots > u64::from(ntasks)
        {
            trim(
                &mut nodes,
                &per_node,
                cores_per_slot as usize,
                &mut warnings,
            );
        }
        let taskmap = Taskmap::block(&per_node).map_err(unmappable)?;
        let mut job = Job {
            id,
            f58,
            resources,
            nodes,
            ntasks,
            nslots: nslots as u32,
            cores_per_slot: cores_per_slot as u32,
            taskmap: taskmap.clone(),
            warnings,
            jobspec,
        };
        job.set_taskmap(taskmap);
        Ok(job)
    }

    /// Distributes the tasks as the `taskmap` option asks. Plugins may know more schemes.
    pub(crate) fn map_tasks(&mut self, extensions: Option<&Extensions>) -> Result<(), Fatal> {
        let tasks = |node: &Node| node.taskids.len() as u32;
        let per_node: Vec<u32> = self.nodes.iter().map(tasks).collect();
        let option = self.jobspec.shell_option("taskmap");
        if let Some(extensions) = extensions
            && let Some(scheme) = option.and_then(|option| option.get("scheme")?.as_str())
        {
            let value = option.and_then(|option| option.get("value"));
            let mut given = Map::new();
            given.insert(
                "taskmap".into(),
                self.taskmap.to_wrapped().to_string().into(),
            );
            given.insert("value".into(), value.cloned().unwrap_or_else(|| "".into()));
            if let Some(taskmap) = extensions.map_tasks(scheme, &given)? {
                let taskmap = mapped(scheme, &taskmap, &per_node)?;
                self.set_taskmap(taskmap);
                return Ok(());
            }
        }
        if let Some(taskmap) = taskmap(&self.jobspec, &self.nodes, &per_node)? {
            self.set_taskmap(taskmap);
        }
        Ok(())
    }

    fn set_taskmap(&mut self, taskmap: Taskmap) {
        for (rank, node) in (0..).zip(&mut self.nodes) {
            node.taskids = taskmap.taskids(rank);
        }
        self.taskmap = taskmap;
    }

    /// Replaces all shell options.
    pub(crate) fn set_options(&mut self, options: Value) -> Result<(), Fatal> {
        let changed = self
            .jobspec
            .with_path("attributes.system.shell.options", options);
        self.jobspec =
            changed.map_err(|error| Fatal::new(format!("setting shell options: {error}")))?;
        Ok(())
    }

    /// The environment the job was submitted with.
    pub(crate) fn environment(&self) -> Environment {
        let given = self.jobspec.environment().into_iter().flatten();
        let variable =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        given.filter_map(variable).collect()
    }

    /// The number of shells.
    pub(crate) fn size(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// A shell option by dotted path.
    pub(crate) fn option(&self, path: &str) -> Option<&Value> {
        self.jobspec.shell_options().and_then(|options| {
            let mut parts = path.split('.');
            let first = options.get(parts.next()?)?;
            parts.try_fold(first, |value, key| value.get(key))
        })
    }

    /// A shell option that is a switch: present, and neither false nor zero.
    pub(crate) fn switch(&self, path: &str) -> bool {
        match self.option(path) {
            None | Some(Value::Null) | Some(Value::Bool(false)) => false,
            Some(Value::Number(number)) => number.as_i64() != Some(0),
            Some(_) => true,
        }
    }

    /// The job's name.
    pub(crate) fn name(&self) -> &str {
        self.jobspec.name().unwrap_or("unknown")
    }

    /// What the rank info object says of a node.
    pub(crate) fn rank_info(&self, rank: u32) -> Map<String, Value> {
        let Some(node) = self.nodes.get(rank as usize) else {
            return Map::new();
        };
        let mut resources = json!({
            "ncores": node.cores.len(),
            "cores": node.cores.to_string(),
        });
        if !node.gpus.is_empty() {
            resources["gpus"] = node.gpus.to_string().into();
        }
        let info = json!({
            "id": rank,
            "name": node.host,
            "broker_rank": node.broker_rank,
            "ntasks": node.taskids.len(),
            "taskids": node.taskids.to_string(),
            "resources": resources,
        });
        match info {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Leaves each node only what its tasks use: a version 1 job may have been given more.
fn trim(nodes: &mut [Node], per_node: &[u32], cores_per_slot: usize, warnings: &mut Vec<String>) {
    for (node, tasks) in nodes.iter_mut().zip(per_node) {
        let keep = cores_per_slot * *tasks as usize;
        if keep == 0 || keep >= node.cores.len() {
            continue;
        }
        if let Some(kept) = node.cores.clone().take_lowest(keep) {
            let text = format!(
                "{}: adjusted cores from {} to {kept}",
                node.host, node.cores
            );
            warnings.push(text);
            node.cores = kept;
        }
    }
}

fn unmappable(error: spec::taskmap::TaskmapError) -> Fatal {
    Fatal::new(format!("failed to map tasks: {error}"))
}

/// The map the `taskmap` option asks for, if that is not the one there is anyway.
/// What a plugin answers for a scheme: a task map as text or document, of the same tasks.
fn mapped(scheme: &str, answer: &Value, per_node: &[u32]) -> Result<Taskmap, Fatal> {
    let failed =
        |text: String| Fatal::new(format!("failed to map tasks with scheme={scheme}: {text}"));
    let text = match answer {
        Value::String(text) => text.clone(),
        document => document.to_string(),
    };
    let map: Taskmap = text
        .parse()
        .map_err(|error| failed(format!("invalid taskmap: {error}")))?;
    let total: u64 = per_node.iter().copied().map(u64::from).sum();
    match map.ntasks() == total && map.nnodes() as usize <= per_node.len() {
        true => Ok(map),
        false => Err(failed(format!(
            "supplied map has {} total tasks, expected {total}",
            map.ntasks()
        ))),
    }
}

fn taskmap(jobspec: &Jobspec, nodes: &[Node], per_node: &[u32]) -> Result<Option<Taskmap>, Fatal> {
    let Some(option) = jobspec.shell_option("taskmap") else {
        return Ok(None);
    };
    let scheme = option.get("scheme").and_then(Value::as_str).unwrap_or("");
    let value = option.get("value").and_then(Value::as_str);
    let failed =
        |text: String| Fatal::new(format!("failed to map tasks with scheme={scheme}: {text}"));
    match scheme {
        "block" => match value {
            Some(value) if !value.is_empty() => Err(Fatal::new(format!(
                "block taskmap does not accept a value (got {value})"
            ))),
            _ => Ok(None),
        },
        "cyclic" => {
            let stride = match value {
                None | Some("") => 1,
                Some(text) => text
                    .parse::<u32>()
                    .ok()
                    .filter(|stride| *stride > 0)
                    .ok_or_else(|| Fatal::new(format!("invalid cyclic stride: {text}")))?,
            };
            let map = Taskmap::cyclic(per_node, stride).map_err(unmappable)?;
            Ok(Some(map))
        }
        "hostfile" => {
            let path = value.unwrap_or_default();
            // The shell itself enters the job's directory only later.
            let whole = std::path::Path::new(jobspec.cwd().unwrap_or_default()).join(path);
            let text = std::fs::read_to_string(whole)
                .map_err(|error| failed(format!("{path}: {}", types::Errno::from_io(&error))))?;
            let mut hosts = Hostlist::new();
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let more: Hostlist = line
                    .trim()
                    .parse()
                    .map_err(|_| failed(format!("invalid hostlist: {line}")))?;
                hosts.append(&more);
            }
            let mut names = Hostlist::new();
            for node in nodes {
                names.push(&node.host);
            }
            if let Some(missing) = hosts.iter().find(|host| !names.contains(host)) {
                let text = format!("host {missing} not found in job nodelist");
                return Err(Fatal::new(text));
            }
            let map = Taskmap::hostfile(&hosts, &names, per_node);
            map.map(Some).map_err(|error| failed(error.to_string()))
        }
        "manual" => {
            let text = value.unwrap_or_default();
            let known: Result<Taskmap, _> = text.parse();
            if known.is_ok_and(|map| map.is_unknown()) {
                return Err(Fatal::new("invalid taskmap: mapping is unknown"));
            }
            let map = mapped(scheme, &text.into(), per_node)?;
            Ok(Some(map))
        }
        _ => Err(Fatal::new(format!(
            "failed to map tasks with scheme={scheme}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_answers_a_map_of_the_same_tasks() {
        let map = |answer: Value| mapped("mine", &answer, &[2, 2]).map_err(|fatal| fatal.message);
        let reversed = map("[[1,1,2,1],[0,1,2,1]]".into()).expect("four tasks on two nodes");
        assert_eq!(reversed.taskids(1).to_string(), "0-1");
        let wrapped = serde_json::json!({"version": 1, "map": [[0, 2, 2, 1]]});
        assert_eq!(map(wrapped).expect("a document does too").ntasks(), 4);
        let text =
            "failed to map tasks with scheme=mine: supplied map has 1 total tasks, expected 4";
        assert_eq!(map("[[0,1,1,1]]".into()), Err(text.to_owned()));
        assert!(map("[[2,1,4,1]]".into()).is_err());
        assert!(map(7.into()).is_err());
    }

    #[test]
    fn an_environment_is_an_object() {
        let jobspec = |environment: &str| {
            let json = format!(
                r#"{{"version": 1, "resources": [{{"type": "slot", "count": 1, "label": "a",
                "with": [{{"type": "core", "count": 1}}]}}],
                "tasks": [{{"command": ["a"], "slot": "a", "count": {{"per_slot": 1}}}}],
                "attributes": {{"system": {{"duration": 0, "environment": {environment}}}}}}}"#
            );
            parse_jobspec(json.as_bytes()).map_err(|fatal| fatal.message)
        };
        assert!(jobspec("{}").is_ok());
        let text = "error parsing jobspec: attributes.system.environment is not object type";
        assert_eq!(jobspec("1").map(drop), Err(text.to_owned()));
    }
}
