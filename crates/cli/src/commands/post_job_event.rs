//! `flux post-job-event`: an event of the instance owner's in a job's eventlog.

use proto::job_manager::{JobManagerPostEvent, PostEvent};
use rpc::Dest;
use serde_json::{Map, Value};
use types::{Errno, JobId};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};

static PARSER: Parser = Parser {
    name: "flux-job-post-event",
    usage: "[-h] id name ...",
    about: "",
    family: Family::P,
    opts: &[],
};

const PREFIX: &str = "flux-job-post-event: ERROR";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let (id, name, context) = match args.words.as_slice() {
        [] => return PARSER.usage_error("the following arguments are required: id, name, context"),
        [_] => return PARSER.usage_error("the following arguments are required: name, context"),
        [id, name, context @ ..] => (id, name, context),
    };
    fail::run(PREFIX, async {
        let wrong = || Fail::new(format!("{id} is not a valid Flux jobid"));
        let job = id.parse::<JobId>().map_err(|_| wrong())?;
        let request = PostEvent {
            id: job,
            name: name.clone(),
            context: parse_context(context)?,
        };
        let client = fail::connect_p().await?;
        client
            .handle()
            .call::<JobManagerPostEvent>(Dest::Any, &request)
            .await
            .map_err(|error| match error.errno {
                Errno::ENOENT => Fail::new(format!("No such job {id}")),
                _ => error.into(),
            })?;
        Ok(0)
    })
}

/// The context `KEY=VALUE` words make; values that are not JSON are strings.
fn parse_context(words: &[String]) -> Result<Option<Map<String, Value>>, Fail> {
    let mut context = Map::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Fail::new(format!("Missing required value for key {word}")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        context.insert(key.to_owned(), value);
    }
    Ok((!context.is_empty()).then_some(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_or_strings() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            parse_context(&words)
        };
        let context = parse(&["a=1", "b=x", "c={\"d\":1}", "e=f=g"]).expect("context");
        let context = Value::Object(context.expect("not empty"));
        assert_eq!(
            context,
            serde_json::json!({"a": 1, "b": "x", "c": {"d": 1}, "e": "f=g"})
        );
        assert_eq!(parse(&[]), Ok(None));
        assert!(parse(&["a"]).is_err());
    }
}
