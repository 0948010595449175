//! `flux job-validator`: checks jobspecs.

use std::cell::RefCell;

use client::Client;
use jobs::RequireInstance;
use proto::attr::{AttrGet, Name};
use proto::sched::{Feasibility, FeasibilityCheck};
use rpc::Dest;
use serde_json::Value;
use spec::Jobspec;
use types::{Errno, Hostlist};

use super::Kind;
use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::submit::Validators;

static KIND: Kind = Kind {
    name: "validator",
    builtin: &[
        ("feasibility", "Ask the scheduler if the job could ever run"),
        ("jobspec", "Check the jobspec"),
        ("require-instance", "Require that jobs are instances"),
        ("schema", "Check the jobspec against RFC 25"),
    ],
    default: &["jobspec"],
    judges: true,
};

static PARSER: Parser = Parser {
    name: "flux-job-validator",
    usage: "[-h] [--jobspec-only] [--list-plugins] [--plugins PLUGINS] [--require-version V] [--require-instance-minnodes N] [--require-instance-mincores N]",
    about: "Check jobspecs, one JSON request a line on standard input",
    family: Family::P,
    opts: &[
        flag('\0', "jobspec-only", "Expect only jobspecs in the input"),
        flag('\0', "list-plugins", "List available plugins and exit"),
        arg('\0', "plugins", "PLUGINS", "Use these plugins"),
        arg(
            '\0',
            "require-version",
            "V",
            "jobspec: require version V of jobspecs, or any",
        ),
        arg(
            '\0',
            "require-instance-minnodes",
            "N",
            "require-instance: only for jobs of N nodes or more",
        ),
        arg(
            '\0',
            "require-instance-mincores",
            "N",
            "require-instance: only for jobs of N cores or more",
        ),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match KIND.args(&PARSER, words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-job-validator: ERROR", validate(&args))
}

/// A plugin, ready for use.
enum Plugin {
    /// The version required, if one is.
    Jobspec(Option<i64>),
    /// What plugins of the submission commands check.
    Submission(RefCell<Validators>),
    Feasibility(Client),
    RequireInstance(RequireInstance),
}

async fn validate(args: &Args) -> Outcome {
    let mut plugins = Vec::new();
    for name in KIND.plugins(args) {
        plugins.push(match name {
            "jobspec" => Plugin::Jobspec(required_version(args)?),
            "schema" => Plugin::Jobspec(Some(1)),
            "feasibility" => Plugin::Feasibility(fail::connect_p().await?),
            "require-instance" => Plugin::RequireInstance(limits(args).await?),
            _ => return Err(KIND.critical(&format!("validator plugin '{name}' not found"))),
        });
        if name == "jobspec" {
            let validators =
                Validators::load("job-validator").map_err(|text| KIND.critical(&text))?;
            plugins.extend(validators.map(|loaded| Plugin::Submission(RefCell::new(loaded))));
        }
    }
    super::filter(&KIND, args.has("jobspec-only"), async |jobspec| {
        check(&plugins, jobspec).await.map(|()| None)
    })
    .await
}

fn required_version(args: &Args) -> Result<Option<i64>, Fail> {
    match args.get("require-version") {
        None => Ok(Some(1)),
        Some("any") => Ok(None),
        Some("1") => Ok(Some(1)),
        Some(_) => Err(KIND.critical("Invalid argument to --require-version")),
    }
}

/// What the command line says, or else the configuration if there is one.
async fn limits(args: &Args) -> Result<RequireInstance, Fail> {
    let count = |key| -> Result<Option<u64>, Fail> {
        let given = args.int(key)?;
        let invalid = |_| KIND.critical(&format!("Invalid argument to --{key}"));
        given.map(u64::try_from).transpose().map_err(invalid)
    };
    let given = RequireInstance {
        minnodes: count("require-instance-minnodes")?,
        mincores: count("require-instance-mincores")?,
    };
    if given != RequireInstance::default() {
        return Ok(given);
    }
    let Ok(client) = client::open(None).await else {
        return Ok(given);
    };
    let config = super::config(&client).await?;
    let table = config
        .get("ingest")
        .and_then(|ingest| ingest.get("validator")?.get("require-instance"));
    let limit = |key: &str| table.and_then(|table| table.get(key)?.as_u64());
    Ok(RequireInstance {
        minnodes: limit("minnodes"),
        mincores: limit("mincores"),
    })
}

/// Asks every plugin. Their complaints are joined.
async fn check(plugins: &[Plugin], jobspec: Value) -> Result<(), (Errno, String)> {
    let decoded = Jobspec::from_value(jobspec.clone());
    let mut worst = Errno(0);
    let mut texts: Vec<String> = Vec::new();
    for plugin in plugins {
        let result = match (plugin, &decoded) {
            (Plugin::Feasibility(client), _) => feasible(client, &jobspec).await,
            // The first of these has told why.
            (Plugin::Submission(_), Err(_)) => Ok(()),
            (_, Err(error)) => Err((Errno::EPERM, error.to_string())),
            (Plugin::Submission(validators), Ok(_)) => validators
                .borrow_mut()
                .check(&jobspec)
                .map_err(|text| (Errno::EPERM, text)),
            (Plugin::Jobspec(version), Ok(jobspec)) => valid(jobspec, *version)
                .await
                .map_err(|text| (Errno::EPERM, text)),
            (Plugin::RequireInstance(limits), Ok(jobspec)) => {
                limits.check(jobspec).map_err(|text| (Errno::EINVAL, text))
            }
        };
        if let Err((errno, text)) = result {
            worst = worst.max(errno);
            texts.push(text);
        }
    }
    if texts.is_empty() {
        return Ok(());
    }
    Err((worst, texts.join(", ")))
}

async fn valid(jobspec: &Jobspec, version: Option<i64>) -> Result<(), String> {
    if let Some(version) = version {
        let required = jobspec.require_version(version);
        required.map_err(|error| error.to_string())?;
    }
    let Some(constraint) = jobspec.host_constraint() else {
        return Ok(());
    };
    // Without an instance there is nothing to hold hosts against.
    match hosts().await {
        Some(known) => Jobspec::check_hosts(&constraint, &known).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

/// The hosts of the instance, if they can be told.
async fn hosts() -> Option<Hostlist> {
    let client = client::open(None).await.ok()?;
    let name = "hostlist".to_owned();
    let call = client.handle().call::<AttrGet>(Dest::Any, &Name { name });
    call.await.ok()?.value.parse().ok()
}

async fn feasible(client: &Client, jobspec: &Value) -> Result<(), (Errno, String)> {
    let jobspec = jobspec.as_object().cloned().unwrap_or_default();
    let request = Feasibility { jobspec };
    let call = client
        .handle()
        .call::<FeasibilityCheck>(Dest::Any, &request);
    match call.await {
        // A scheduler that cannot tell does not matter.
        Err(error) if error.errno == Errno::ENOSYS => Ok(()),
        Err(error) => Err((error.errno, error.to_string())),
        Ok(_) => Ok(()),
    }
}
