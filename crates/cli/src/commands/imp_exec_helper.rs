//! `flux imp_exec_helper`: what the IMP reads before it starts a job's shell (RFC 15).
//!
//! Prints the signed jobspec and, where systemd started the IMP in a unit of its own, the devices
//! that unit may use, as one JSON object.

use client::Client;
use proto::job_info::{JobInfoLookup, Lookup};
use proto::sdbus::{MethodCall, SdbusCall};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value, json};
use types::{Errno, JobId};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, flag};
use crate::{json as text, out};

const PROG: &str = "imp_exec_helper";

static PARSER: Parser = Parser {
    name: "flux imp_exec_helper",
    usage: "[JOBID]",
    about: "Emit IMP exec helper JSON for JOBID",
    family: Family::G,
    opts: &[flag(
        '\0',
        "test-nojob",
        "Skip J lookup, emit options only (for testing)",
    )],
};

/// The properties of a unit that the IMP wants to know.
const PROPERTIES: [&str; 2] = ["DevicePolicy", "DeviceAllow"];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let no_job = args.has("test-nojob");
    let word = match args.words.as_slice() {
        [] => None,
        [_] if no_job => {
            let text = "--test-nojob cannot be used with JOBID argument";
            return fail::report(PROG, Err(Fail::new(text)));
        }
        [id] => Some(id.clone()),
        _ => return PARSER.wrong_words(),
    };
    fail::run(PROG, async {
        let id = if no_job { None } else { Some(job_id(word)?) };
        let invocation = invocation()?;
        let client = fail::connect().await?;
        let mut object = Map::new();
        if let Some(id) = id {
            object.insert("J".to_owned(), signed_jobspec(&client, id).await?);
        }
        if let Some(invocation) = invocation {
            object.insert("options".to_owned(), options(&client, &invocation).await?);
        }
        out!("{}", text::compact(&Value::Object(object)));
        Ok(0)
    })
}

fn job_id(word: Option<String>) -> Result<JobId, Fail> {
    let id = word
        .or_else(|| std::env::var("FLUX_JOB_ID").ok())
        .ok_or_else(|| Fail::new("Unable to determine jobid"))?;
    id.parse()
        .map_err(|_| Fail::new(format!("invalid jobid: {id}: {}", Errno::EINVAL)))
}

async fn signed_jobspec(client: &Client, id: JobId) -> Result<Value, Fail> {
    let request = Lookup {
        id,
        keys: vec!["J".to_owned()],
        flags: 0,
    };
    let found = client
        .handle()
        .call::<JobInfoLookup>(Dest::Any, &request)
        .await
        .map_err(|error| Fail::of("error looking up J", error))?;
    found
        .get("J")
        .cloned()
        .ok_or_else(|| Fail::of("error looking up J", Errno::EPROTO))
}

/// The id systemd gave this run of the unit, if it started one.
fn invocation() -> Result<Option<Vec<u8>>, Fail> {
    match std::env::var("INVOCATION_ID") {
        Ok(text) => match bytes(&text) {
            Some(id) => Ok(Some(id)),
            None => Err(Fail::new(format!("invalid INVOCATION_ID: {text}"))),
        },
        Err(_) => Ok(None),
    }
}

/// The bytes of 32 hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() == 32)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// The unit's device properties, as `options` of RFC 15.
async fn options(client: &Client, invocation: &[u8]) -> Result<Value, Fail> {
    let unit = call(
        client,
        MethodCall {
            path: None,
            interface: None,
            member: "GetUnitByInvocationID".to_owned(),
            params: vec![json!(invocation)],
        },
    )
    .await
    .map_err(|error| Fail::of("GetUnitByInvocationID", error))?;
    let mut options = Map::new();
    for name in PROPERTIES {
        let request = MethodCall {
            path: unit.as_str().map(str::to_owned),
            interface: Some("org.freedesktop.DBus.Properties".to_owned()),
            member: "Get".to_owned(),
            params: vec![json!("org.freedesktop.systemd1.Service"), json!(name)],
        };
        let value = call(client, request).await;
        let value = value.map_err(|error| Fail::of(format!("Get {name}"), error))?;
        // A variant: the type, then the value.
        let value = value
            .get(1)
            .ok_or_else(|| Fail::of(format!("Get {name}"), Errno::EPROTO))?;
        options.insert(name.to_owned(), value.clone());
    }
    Ok(Value::Object(options))
}

/// Calls a method of systemd's and returns the first thing it answers.
async fn call(client: &Client, request: MethodCall) -> Result<Value, RpcError> {
    let reply = client
        .handle()
        .call::<SdbusCall>(Dest::Any, &request)
        .await?;
    let first = reply.params.into_iter().next();
    first.ok_or_else(|| Errno::EPROTO.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocation_ids_are_sixteen_bytes() {
        let id = bytes("00ff0000000000000000000000000aB1").expect("hexadecimal");
        assert_eq!(id.len(), 16);
        assert_eq!((id[1], id[14], id[15]), (0xff, 0x0a, 0xb1));
        assert_eq!(bytes("00ff"), None);
        assert_eq!(bytes("GGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGG"), None);
        assert_eq!(bytes("ééééééééééééééééé"), None);
    }
}
