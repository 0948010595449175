//! `flux job-frobnicator`: fills jobspecs in.

use jobs::policy::Policy;
use serde_json::Value;
use spec::Jobspec;
use types::Errno;

use super::Kind;
use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag};

static KIND: Kind = Kind {
    name: "frobnicator",
    builtin: &[
        (
            "constraints",
            "Add what the queue requires to the constraints",
        ),
        ("defaults", "Fill in the configured queue and duration"),
    ],
    default: &["defaults", "constraints"],
    judges: false,
};

static PARSER: Parser = Parser {
    name: "flux-job-frobnicator",
    usage: "[-h] [--jobspec-only] [--list-plugins] [--plugins PLUGINS]",
    about: "Fill in jobspecs, one JSON request a line on standard input",
    family: Family::P,
    opts: &[
        flag('\0', "jobspec-only", "Expect only jobspecs in the input"),
        flag('\0', "list-plugins", "List available plugins and exit"),
        arg('\0', "plugins", "PLUGINS", "Use these plugins"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match KIND.args(&PARSER, words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-job-frobnicator: ERROR", frobnicate(&args))
}

async fn frobnicate(args: &Args) -> Outcome {
    let plugins = KIND.plugins(args);
    if let Some(name) = plugins.iter().find(|name| !KIND.is_builtin(name)) {
        return Err(KIND.critical(&format!("frobnicator plugin '{name}' not found")));
    }
    let client = fail::connect_p().await?;
    let policy = Policy::parse(&super::config(&client).await?).map_err(Fail::new)?;
    let frob = |jobspec: Value| -> Result<Value, String> {
        let jobspec =
            Jobspec::from_value(jobspec).map_err(|error| format!("invalid jobspec: {error}"))?;
        let mut jobspec = jobspec.into_value();
        for plugin in &plugins {
            match *plugin {
                "defaults" => policy.fill_defaults(&mut jobspec)?,
                _ => policy.constrain(&mut jobspec)?,
            }
        }
        Ok(jobspec)
    };
    super::filter(&KIND, args.has("jobspec-only"), async |jobspec| {
        let data = frob(jobspec).map_err(|text| (Errno::EPERM, text))?;
        Ok(Some(data))
    })
    .await
}
