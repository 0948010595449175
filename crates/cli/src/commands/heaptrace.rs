//! `flux heaptrace`: heap profiles of a broker that has a profiler.

use proto::Empty;
use proto::broker::{HeapDump, HeapStart, HeapTraceDump, HeapTraceStart, HeapTraceStop};
use rpc::Dest;

use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};

const USAGE: &str = "\
Usage: flux heaptrace start FILENAME
   or: flux heaptrace dump REASON
   or: flux heaptrace stop";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fail::run("flux", async {
        let client = match words.as_slice() {
            ["start", _] | ["dump", _] | ["stop"] => fail::connect_builtin().await?,
            ["-h" | "--help"] => {
                err!("{USAGE}");
                return Ok(0);
            }
            _ => {
                err!("{USAGE}");
                return Ok(1);
            }
        };
        let handle = client.handle();
        let result = match words.as_slice() {
            ["start", filename] => {
                let start = HeapStart {
                    filename: (*filename).to_owned(),
                };
                handle.call::<HeapTraceStart>(Dest::Any, &start).await
            }
            ["dump", reason] => {
                let dump = HeapDump {
                    reason: (*reason).to_owned(),
                };
                handle.call::<HeapTraceDump>(Dest::Any, &dump).await
            }
            _ => handle.call::<HeapTraceStop>(Dest::Any, &Empty {}).await,
        };
        let word = words[0];
        result.map_err(|error| Fail::of(format!("heaptrace.{word}"), error))?;
        Ok(0)
    })
}
