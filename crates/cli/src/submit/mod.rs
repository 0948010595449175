//! `flux run`, `submit`, `batch` and `alloc`: from words to jobs.

mod bulk;
mod constraint;
mod directives;
mod environment;
mod jobspec;
mod options;
mod plugins;
mod sinks;
mod watch;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::Client;
use proto::job_ingest::{JobIngestSubmit, Submit, Submitted};
use proto::job_manager::{JobManagerRaise, Raise};
use rpc::{Call, Dest, RpcError};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use types::{Errno, IdSet, JobId};

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Parser};
use crate::{attach, err, json, out, outln, output};

pub(crate) use bulk::bulksubmit;
use jobspec::Kind;
pub(crate) use jobspec::urgency;
use plugins::Plugins;
pub(crate) use plugins::Validators;
use sinks::Files;
pub(crate) use sinks::Sinks;
pub(crate) use watch::{Wanted, Watcher};

/// Wraps a jobspec as the instance owner may submit it (RFC 15, mechanism `none`).
pub(crate) fn sign(jobspec: &str) -> String {
    let header = format!(
        "version\0i1\0userid\0i{}\0mechanism\0snone\0",
        nix::unistd::getuid()
    );
    format!("{}.{}.none", BASE64.encode(header), BASE64.encode(jobspec))
}

fn submit_call(client: &Client, jobspec: &str, urgency: i32, flags: i32) -> Call<Submitted> {
    let request = Submit {
        signed: sign(jobspec),
        urgency,
        flags,
    };
    client.handle().call::<JobIngestSubmit>(Dest::Any, &request)
}

/// The words of the command: an introducing `--` is dropped.
fn command(args: &Args) -> Result<Vec<String>, Fail> {
    let words = match args.words.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => &args.words[..],
    };
    if words.is_empty() {
        return Err(Fail::new("job command and arguments are missing"));
    }
    Ok(words.to_vec())
}

/// Parses a command line, plugins' options included. The error is the exit status where that is
/// all there is to do.
fn early(parser: &'static Parser, words: &[String]) -> Result<(Args, Plugins), i32> {
    let prefix = format!("{}: ERROR", parser.name.replace(' ', "-"));
    let report = |fail| fail::report(&prefix, Err(fail));
    let mut plugins = Plugins::load(parser).map_err(report)?;
    let args = plugins.parser().parse(words)?;
    if args.has("help") {
        return Err(match args.get("help") {
            None => {
                output::write(plugins.parser().help_text().as_bytes());
                0
            }
            Some(topic) => plugins.tell(topic).map_or_else(report, |()| 0),
        });
    }
    if args.has("list-plugins") {
        plugins.list();
        return Err(0);
    }
    Ok((args, plugins))
}

fn is_dry(args: &Args) -> bool {
    args.has("dry-run") || args.has("dry")
}

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let (mut args, mut plugins) = match early(&options::RUN, words) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    fail::run("flux-run: ERROR", async {
        plugins.preinit(&mut args)?;
        let command = command(&args)?;
        let jobspec = plugins.modify(jobspec::build(&args, Kind::Tasks, &command)?)?;
        let flags = jobspec::flags(&args)?;
        let urgency = urgency(args.get("urgency"))?;
        if is_dry(&args) {
            outln!("{}", json::python(&jobspec, false));
            return Ok(0);
        }
        let client = fail::connect_p().await?;
        let id = submit_call(&client, &jobspec.to_string(), urgency, flags)
            .await?
            .id;
        let verbose = args.count("verbose");
        if verbose > 0 {
            err!("jobid: {id}");
        }
        // What is no idset is a file.
        let input = args.get("input").and_then(|text| text.parse().ok());
        let options = attach::Options {
            events: verbose > 1,
            exec: verbose > 2,
            label: args.has("label-io"),
            stdin_ranks: input,
            wait_event: args.get("wait-event").map(str::to_owned),
            ..attach::Options::default()
        };
        let outcome = attach::attach(&client, id, &options).await;
        output::flush();
        Ok(fail::report("flux-job", outcome))
    })
}

/// The ids of copies a command line asks for.
fn copies(args: &Args) -> Result<Option<Vec<u32>>, Fail> {
    let text = match (args.get("cc"), args.get("bcc")) {
        (Some(_), Some(_)) => return Err(Fail::new("specify only one of --cc or --bcc")),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => return Ok(None),
    };
    let ids: IdSet = text
        .parse()
        .map_err(|error| Fail::of(format!("--cc={text}"), error))?;
    Ok(Some(ids.iter().collect()))
}

/// Replaces `{cc}` but not inside double braces.
fn substitute(text: &str, cc: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{cc}") {
        let guarded = rest[..at].ends_with('{') && rest[at + 4..].starts_with('}');
        out.push_str(&rest[..at]);
        out.push_str(if guarded { "{cc}" } else { cc });
        rest = &rest[at + 4..];
    }
    out.push_str(rest);
    out
}

/// A jobspec to submit, with what goes beside it, and which copy it is.
struct Job {
    jobspec: Value,
    cc: Option<u32>,
    urgency: i32,
    flags: i32,
    sinks: Sinks,
}

impl Job {
    fn new(args: &Args, files: &mut Files, jobspec: Value, cc: Option<u32>) -> Result<Job, Fail> {
        let urgency = urgency(args.get("urgency"))?;
        Ok(Job {
            jobspec,
            cc,
            urgency,
            flags: jobspec::flags(args)?,
            sinks: files.sinks(args)?,
        })
    }
}

/// The jobs a command line asks for.
fn jobs(
    args: &Args,
    plugins: &mut Plugins,
    files: &mut Files,
    command: &[String],
) -> Result<Vec<Job>, Fail> {
    let Some(copies) = copies(args)? else {
        let jobspec = plugins.modify(jobspec::build(args, Kind::Tasks, command)?)?;
        return Ok(vec![Job::new(args, files, jobspec, None)?]);
    };
    let varies = args
        .given()
        .filter_map(|(_, value)| value)
        .chain(command.iter().map(String::as_str))
        .any(|text| text.contains("{cc}"));
    let common = if varies {
        None
    } else {
        Some(plugins.modify(jobspec::build(args, Kind::Tasks, command)?)?)
    };
    copies
        .into_iter()
        .map(|cc| {
            let text = cc.to_string();
            let filled = args.map_values(|value| substitute(value, &text));
            let mut jobspec = match &common {
                Some(common) => common.clone(),
                None => {
                    let command: Vec<String> =
                        command.iter().map(|word| substitute(word, &text)).collect();
                    plugins.modify(jobspec::build(&filled, Kind::Tasks, &command)?)?
                }
            };
            if args.has("cc") {
                jobspec["attributes"]["system"]["environment"]["FLUX_JOB_CC"] =
                    cc.to_string().into();
            }
            Job::new(&filled, files, jobspec, Some(cc))
        })
        .collect()
}

pub(crate) fn submit(_: &Invocation<'_>, words: &[String]) -> i32 {
    let (mut args, mut plugins) = match early(&options::SUBMIT, words) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    fail::run("flux-submit: ERROR", async {
        plugins.preinit(&mut args)?;
        let command = command(&args)?;
        let jobs = jobs(&args, &mut plugins, &mut Files::default(), &command)?;
        if is_dry(&args) {
            for job in &jobs {
                outln!("{}", json::python(&job.jobspec, false));
            }
            return Ok(0);
        }
        let client = fail::connect_p().await?;
        submit_all(&client, &args, &jobs).await
    })
}

/// Submits jobs, all requests travelling together, and waits for them if asked to.
async fn submit_all(client: &Client, args: &Args, jobs: &[Job]) -> Outcome {
    let watcher = match Wanted::from_args(args)? {
        Some(wanted) => Some(Watcher::open(client, wanted).await?),
        None => None,
    };
    let mut calls = Vec::with_capacity(jobs.len());
    for job in jobs {
        calls.push(submit_call(
            client,
            &job.jobspec.to_string(),
            job.urgency,
            job.flags,
        ));
        client.drained().await;
    }
    let quiet = args.has("quiet");
    let mut status = 0;
    let mut ids = Vec::new();
    let mut following = Vec::new();
    for (job, call) in jobs.iter().zip(calls) {
        match call.await {
            Ok(submitted) => {
                ids.push(submitted.id);
                if !quiet {
                    job.sinks.line(&submitted.id.to_string())?;
                }
                if let Some(watcher) = watcher.as_ref().filter(|watcher| watcher.one_by_one()) {
                    following.push(watcher.follow(submitted.id, job.sinks.clone()));
                }
            }
            Err(error) => {
                complain(job, &error)?;
                status = 1;
            }
        }
    }
    output::flush();
    for task in following {
        let ended = task.await.map_err(|error| Fail::new(error.to_string()))??;
        status = status.max(ended);
    }
    if let Some(watcher) = watcher
        && !watcher.one_by_one()
    {
        status = status.max(watcher.journal(&ids).await?);
    }
    Ok(status)
}

fn complain(job: &Job, error: &RpcError) -> Result<(), Fail> {
    let text = fail::python_text(error);
    match job.cc {
        Some(cc) => job.sinks.error_line(&format!("cc={cc}: {text}")),
        None => job.sinks.error_line(&text),
    }
}

/// The command of a new instance.
fn broker_command(args: &Args, rest: &[String]) -> Vec<String> {
    let mut command = vec!["flux".to_owned(), "broker".to_owned()];
    for list in args.all("broker-opts").chain(args.all("broker-opt")) {
        command.extend(list.split(',').map(str::to_owned));
    }
    if args.has("dump") {
        let file = args.get("dump").unwrap_or("flux-{{jobid}}-dump.tgz");
        command.push(format!("-Scontent.dump={file}"));
    }
    if args.has("conf") || args.has("add-brokers") {
        command.push("-c{{tmpdir}}/conf.json".to_owned());
    }
    command.extend_from_slice(rest);
    command
}

/// Adds a file object (RFC 37) to the jobspec.
fn add_file(jobspec: &mut Value, name: &str, file: Value) {
    if let Value::Object(system) = &mut jobspec["attributes"]["system"] {
        let files = system
            .entry("files")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        files[name] = file;
    }
}

fn configure(args: &Args, jobspec: &mut Value) -> Result<(), Fail> {
    let mut config = crate::config::merge(args.all("conf"))?;
    if let Some(count) = args.get("add-brokers") {
        let count = count.parse().ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| Fail::new("--add-brokers must be a positive number"))?;
        let nodes = args.get("nodes").and_then(|nodes| nodes.parse().ok());
        let nodes = nodes.ok_or_else(|| Fail::new("--add-brokers requires --nodes"))?;
        add_brokers(jobspec, &mut config, nodes, count)?;
    } else if !args.has("conf") {
        return Ok(());
    }
    // Data that is no text is written out as JSON.
    let file = serde_json::json!({"mode": 0o100_600, "data": config});
    add_file(jobspec, "conf.json", file);
    Ok(())
}

/// Gives the first of an instance's nodes further brokers, which no job uses.
fn add_brokers(
    jobspec: &mut Value,
    config: &mut Value,
    nodes: u32,
    count: u32,
) -> Result<(), Fail> {
    let too_many = || Fail::new("--add-brokers: too many brokers");
    let total = nodes.checked_add(count).ok_or_else(too_many)?;
    let mut map = vec![[0, 1, 1 + count, 1]];
    if nodes > 1 {
        map.push([1, nodes - 1, 1, 1]);
    }
    jobspec["tasks"][0]["count"] = serde_json::json!({ "total": total });
    if let Value::Object(options) = &mut jobspec["attributes"]["system"]["shell"]["options"] {
        options.shift_remove("per-resource");
        let map = serde_json::json!(map).to_string();
        options.insert(
            "taskmap".into(),
            serde_json::json!({"scheme": "manual", "value": map}),
        );
    }
    let exclude = &mut config["resource"]["exclude"];
    let own = IdSet::from_range(1, count);
    let all = match &*exclude {
        Value::Null => own,
        given => {
            // On the command line a single rank looks like a number.
            let text = given
                .as_str()
                .map_or_else(|| given.to_string(), str::to_owned);
            let ids: IdSet = text
                .parse()
                .map_err(|_| Fail::new(format!("--add-brokers: cannot exclude '{text}' too")))?;
            ids.union(&own)
        }
    };
    *exclude = all.to_string().into();
    Ok(())
}

pub(crate) fn batch(_: &Invocation<'_>, words: &[String]) -> i32 {
    let (args, mut plugins) = match early(&options::BATCH, words) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    fail::run("flux-batch: ERROR", async {
        let script = Script::load(&args)?;
        // Options in the script come first, so that the command line's prevail.
        let mut all = Vec::new();
        for (line, words) in directives::parse(&script.name, &script.text)? {
            if let Err(status) = plugins.parser().parse(&words) {
                err!(
                    "flux-batch: ERROR: argument parsing failed at {} line {line}",
                    script.name
                );
                return Ok(status);
            }
            all.extend(words);
        }
        all.extend_from_slice(words);
        let mut args = plugins.parser().parse(&all)?;
        plugins.preinit(&mut args)?;
        let mut rest = vec!["{{tmpdir}}/script".to_owned()];
        rest.extend_from_slice(args.words.get(1..).unwrap_or_default());
        if args.has("wrap") {
            rest.truncate(1);
            rest.extend_from_slice(args.words.get(1..).unwrap_or_default());
        }
        let mut jobspec = jobspec::build(&args, Kind::Batch, &broker_command(&args, &rest))?;
        if !args.has("job-name") {
            jobspec["attributes"]["system"]["job"] = serde_json::json!({"name": script.name});
        }
        let file = jobspec::file_object(0o100_700, script.text.as_bytes(), None);
        add_file(&mut jobspec, "script", file);
        configure(&args, &mut jobspec)?;
        let jobspec = plugins.modify(jobspec)?;
        let flags = jobspec::flags(&args)?;
        let urgency = urgency(args.get("urgency"))?;
        if is_dry(&args) {
            outln!("{}", json::python(&jobspec, false));
            return Ok(0);
        }
        let client = fail::connect_p().await?;
        let id = submit_call(&client, &jobspec.to_string(), urgency, flags)
            .await?
            .id;
        if !args.has("quiet") {
            outln!("{id}");
        }
        Ok(0)
    })
}

struct Script {
    name: String,
    text: String,
}

impl Script {
    fn load(args: &Args) -> Result<Script, Fail> {
        let stdin = || {
            std::io::read_to_string(std::io::stdin())
                .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))
        };
        if args.has("wrap") {
            let (name, body) = match args.words.first() {
                Some(first) => (first.clone(), args.words.join(" ") + "\n"),
                None => ("batch".to_owned(), stdin()?),
            };
            return Ok(Script {
                name,
                text: format!("#!/bin/sh\n{body}"),
            });
        }
        let (name, text) = match args.words.first() {
            None => ("batch".to_owned(), stdin()?),
            Some(path) => {
                let bytes = std::fs::read(path)
                    .map_err(|error| Fail::new(format!("{}: '{path}'", Errno::from_io(&error))))?;
                let text = String::from_utf8(bytes).map_err(|_| {
                    Fail::new(format!(
                        "{path} does not appear to be a script, or failed to encode as utf-8"
                    ))
                })?;
                (path.clone(), text)
            }
        };
        if !text.starts_with("#!") {
            return Err(Fail::new(format!(
                "{name} does not appear to start with '#!'"
            )));
        }
        Ok(Script { name, text })
    }
}

pub(crate) fn alloc(_: &Invocation<'_>, words: &[String]) -> i32 {
    use std::io::IsTerminal;
    let (mut args, mut plugins) = match early(&options::ALLOC, words) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    fail::run("flux-alloc: ERROR", async {
        plugins.preinit(&mut args)?;
        let mut rest = args.words.clone();
        if args.introduced {
            // Words of the command may look like options of the broker.
            rest.insert(0, "--".to_owned());
        }
        let background = args.has("bg");
        if background && rest.is_empty() {
            rest.push("-Sbroker.rc2_none=1".to_owned());
        }
        let mut jobspec = jobspec::build(&args, Kind::Alloc, &broker_command(&args, &rest))?;
        configure(&args, &mut jobspec)?;
        let options = &mut jobspec["attributes"]["system"]["shell"]["options"];
        if background {
            options["pty"] = serde_json::json!({"capture": 1});
        } else if std::io::stdin().is_terminal() {
            options["pty"] = serde_json::json!({"interactive": 1});
        }
        let jobspec = plugins.modify(jobspec)?;
        let flags = jobspec::flags(&args)?;
        let urgency = urgency(args.get("urgency"))?;
        if is_dry(&args) {
            outln!("{}", json::python(&jobspec, false));
            return Ok(0);
        }
        let client = fail::connect_p().await?;
        let id = submit_call(&client, &jobspec.to_string(), urgency, flags)
            .await?
            .id;
        if background {
            return in_background(&client, id, args.has("verbose")).await;
        }
        if args.has("verbose") {
            err!("jobid: {id}");
        }
        let outcome = attach::attach(&client, id, &attach::Options::default()).await;
        output::flush();
        Ok(fail::report("flux-job", outcome))
    })
}

/// Waits until a new instance is ready and shows its id. An interrupt cancels the job.
async fn in_background(client: &Client, id: JobId, verbose: bool) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Fail::new(e.to_string()))?;
    tokio::select! {
        outcome = instance_ready(client, id, verbose) => outcome,
        _ = interrupt.recv() => {
            err!("{id}: Interrupt: canceling job");
            let request = Raise {
                id,
                severity: 0,
                kind: "cancel".to_owned(),
                note: None,
                wait_status: None,
            };
            client.handle().call::<JobManagerRaise>(Dest::Any, &request).await?;
            Ok(1)
        }
    }
}

async fn instance_ready(client: &Client, id: JobId, verbose: bool) -> Outcome {
    let start = std::time::Instant::now();
    let say = |text: &str| {
        if verbose {
            err!("{id}: {:6.3}s: {text}", start.elapsed().as_secs_f64());
        }
    };
    say("waiting for resources");
    let mut events = attach::watch(client, id, "eventlog", 0);
    while let Some(entry) = events.next().await? {
        match entry.name.as_str() {
            "alloc" => say("resources allocated"),
            "memo" => {
                let Some(uri) = entry.get_str("uri") else {
                    continue;
                };
                say("waiting for instance");
                // Most often it is on this host.
                let uri = crate::resolve::nearest(uri)?;
                let failed = |_| Fail::new(format!("{id}: instance startup failed"));
                let instance = match client::open(Some(&uri)).await {
                    Ok(instance) => instance,
                    // On this host, it is gone already.
                    Err(error) if uri.starts_with("local:") => return Err(failed(error)),
                    Err(error) => {
                        return Err(Fail::new(format!("Unable to connect to {id}: {error}")));
                    }
                };
                let call = instance
                    .handle()
                    .call::<proto::broker::StateWait>(Dest::Any, &proto::Empty {});
                call.await.map_err(|error| failed(error.into()))?;
                say("ready");
                out!("{id}\n");
                return Ok(0);
            }
            "finish" => break,
            "exception" if entry.get_i64("severity") == Some(0) => break,
            _ => {}
        }
    }
    // What came of the job says why.
    let options = attach::Options {
        read_only: true,
        ..attach::Options::default()
    };
    let outcome = attach::attach(client, id, &options).await;
    output::flush();
    fail::report("flux-job", outcome);
    Err(Fail::new(format!("{id}: unexpectedly exited")))
}
