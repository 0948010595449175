//! `flux jobtap`: plugins of the job manager.

use proto::job_manager::{JobManagerJobtap, JobManagerJobtapQuery, Jobtap, Plugin, Plugins};
use rpc::Dest;
use serde_json::Value;
use types::Errno;

use super::dispatch_argparse;
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::outln;

const PROG: &str = "flux-jobtap: ERROR";

static LIST: Parser = Parser {
    name: "flux-jobtap list",
    usage: "[-h] [-a]",
    about: "",
    family: Family::P,
    opts: &[flag('a', "all", "List built-in plugins too")],
};

static LOAD: Parser = Parser {
    name: "flux-jobtap load",
    usage: "[-h] [-r NAME] plugin ...",
    opts: &[arg(
        'r',
        "remove",
        "NAME",
        "First remove what has this name or matches this pattern; \"all\" for all plugins",
    )],
    ..LIST
};

static REMOVE: Parser = Parser {
    name: "flux-jobtap remove",
    usage: "[-h] plugin",
    opts: &[],
    ..LIST
};

static QUERY: Parser = Parser {
    name: "flux-jobtap query",
    ..REMOVE
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_argparse(
        "flux-jobtap",
        &[
            ("load", load),
            ("remove", remove),
            ("list", list),
            ("query", query),
        ],
        words,
    )
}

/// The one word a subcommand takes.
fn plugin(parser: &'static Parser, args: &Args) -> Result<String, Fail> {
    match args.words.as_slice() {
        [plugin] => Ok(plugin.clone()),
        [] => {
            let text = "the following arguments are required: plugin";
            Err(parser.usage_error(text).into())
        }
        [_, more @ ..] => Err(parser.unrecognized(more).into()),
    }
}

async fn call(request: &Jobtap, named: &str) -> Result<Plugins, Fail> {
    let client = fail::connect_p().await?;
    let call = client.handle().call::<JobManagerJobtap>(Dest::Any, request);
    call.await.map_err(|error| match error.errno {
        Errno::ENOENT => Fail::new(format!("{named} not found")),
        _ => error.into(),
    })
}

fn load(words: &[String]) -> i32 {
    let args = match LOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let Some((plugin, settings)) = args.words.split_first() else {
            let text = "the following arguments are required: plugin, conf";
            return Err(LOAD.usage_error(text).into());
        };
        let request = Jobtap {
            load: Some(plugin.clone()),
            conf: conf(settings)?,
            remove: args.get("remove").map(str::to_owned),
            query_only: None,
        };
        call(&request, plugin).await?;
        Ok(0)
    })
}

/// The configuration that `key.key=value` words make; values are JSON, or else text.
fn conf(settings: &[String]) -> Result<Option<serde_json::Map<String, Value>>, Fail> {
    let mut conf = serde_json::Map::new();
    for word in settings {
        let (key, value) = match word.split_once('=') {
            Some((key, text)) => {
                let value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
                (key, value)
            }
            None => (word.as_str(), Value::from(1)),
        };
        spec::jobspec::set_path(&mut conf, key, value).map_err(|error| Fail::of(word, error))?;
    }
    Ok(Some(conf).filter(|conf| !conf.is_empty()))
}

fn remove(words: &[String]) -> i32 {
    let args = match REMOVE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let plugin = plugin(&REMOVE, &args)?;
        let request = Jobtap {
            remove: Some(plugin.clone()),
            ..Jobtap::default()
        };
        call(&request, &plugin).await?;
        Ok(0)
    })
}

fn list(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let request = Jobtap {
            query_only: Some(true),
            ..Jobtap::default()
        };
        for name in call(&request, "job-manager").await?.plugins {
            if args.has("all") || !name.starts_with('.') {
                outln!("{name}");
            }
        }
        Ok(0)
    })
}

fn query(words: &[String]) -> i32 {
    let args = match QUERY.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let request = Plugin {
            name: plugin(&QUERY, &args)?,
        };
        let client = fail::connect_p().await?;
        let call = client
            .handle()
            .call::<JobManagerJobtapQuery>(Dest::Any, &request);
        outln!("{}", Value::Object(call.await?));
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_make_a_configuration() {
        let words = ["foo.test=1", "foo.text=a b", "flag"].map(str::to_owned);
        let made = conf(&words).expect("valid").map(Value::Object);
        let wanted = serde_json::json!({"foo": {"test": 1, "text": "a b"}, "flag": 1});
        assert_eq!(made, Some(wanted));
        assert_eq!(conf(&[]).expect("valid"), None);
        assert!(conf(&["a=1", "a.b=2"].map(str::to_owned)).is_err());
    }
}
