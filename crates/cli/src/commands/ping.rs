//! `flux ping`: round trips to a service.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::broker::{Ping, ServicePing};
use rpc::{Call, Dest, RpcError};
use serde_json::json;
use types::{Errno, Rank};

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Family, Parser, arg, flag};
use crate::{err, out, outln, output};

static PARSER: Parser = Parser {
    name: "flux-ping",
    usage: "[OPTIONS] TARGET",
    about: "",
    family: Family::G,
    opts: &[
        arg('r', "rank", "RANK", "Ask the service of this broker"),
        arg(
            'p',
            "pad",
            "SIZE",
            "Send so many bytes more in each request",
        ),
        arg('i', "interval", "N", "Seconds between requests"),
        arg(
            'c',
            "count",
            "N",
            "How many requests to send; 0, the default, for no end",
        ),
        flag('b', "batch", "Send all requests before reading answers"),
        flag('u', "userid", "Show user and roles too"),
    ],
};

struct Target {
    node: String,
    service: String,
    dest: Dest,
}

/// Reads `SERVICE`, `RANK`, `RANK!SERVICE`, `any!SERVICE` or `upstream!SERVICE`.
fn target(word: &str, rank: Option<&str>) -> Result<Target, Fail> {
    let (node, service) = match word.split_once('!') {
        Some((node, service)) => (node.to_owned(), service.to_owned()),
        None => match word.parse::<u32>() {
            Ok(rank) => (rank.to_string(), "broker".to_owned()),
            Err(_) => match word {
                "any" | "upstream" => (word.to_owned(), "broker".to_owned()),
                _ => ("any".to_owned(), word.to_owned()),
            },
        },
    };
    let node = rank.map_or(node, str::to_owned);
    let dest = match node.as_str() {
        "any" => Dest::Any,
        "upstream" => Dest::Upstream,
        number => {
            Dest::Rank(Rank(number.parse().map_err(|_| {
                Fail::new(format!("invalid nodeid/host: '{number}'"))
            })?))
        }
    };
    Ok(Target {
        node,
        service,
        dest,
    })
}

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let options = (|| {
        let pad = args.size("pad", None)?.unwrap_or(0);
        let count = args.int("count")?.unwrap_or(0);
        let interval = args.duration("interval")?.unwrap_or(1.0);
        Ok((pad, count, interval))
    })();
    let (pad, count, interval) = match options {
        Ok(options) => options,
        Err(status) => return status,
    };
    let [word] = args.words.as_slice() else {
        return PARSER.wrong_words();
    };
    let Ok(count) = u64::try_from(count) else {
        err!("flux-ping: count must be >= 0");
        return 1;
    };
    if args.has("batch") && count == 0 {
        err!("flux-ping: --batch should only be used with --count");
        return 1;
    }
    fail::run("flux-ping", async {
        let target = target(word, args.get("rank"))?;
        let client = fail::connect().await?;
        if target.dest == Dest::Upstream {
            client.rank().await?;
        }
        outln!("flux-ping {}!{}", target.node, target.service);
        output::flush();
        let session = Session {
            client: &client,
            target: &target,
            pad: usize::try_from(pad).map_err(|_| Fail::of("pad", Errno::EOVERFLOW))?,
            userid: args.has("userid"),
        };
        let count = if count == 0 { u64::MAX } else { count };
        session
            .run(
                count,
                Duration::from_secs_f64(interval.min(1e9)),
                args.has("batch"),
            )
            .await
    })
}

struct Session<'a> {
    client: &'a client::Client,
    target: &'a Target,
    pad: usize,
    userid: bool,
}

impl Session<'_> {
    async fn run(&self, count: u64, interval: Duration, batch: bool) -> Outcome {
        let mut sent = HashMap::new();
        for seq in 0..count {
            if seq > 0 && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            let start = Instant::now();
            let call = self.send(seq);
            if batch {
                sent.insert(seq, (start, call));
            } else {
                self.show(seq, start, call.await)?;
            }
        }
        for seq in 0..sent.len() as u64 {
            if let Some((start, call)) = sent.remove(&seq) {
                self.show(seq, start, call.await)?;
            }
        }
        Ok(0)
    }

    fn send(&self, seq: u64) -> Call<Ping> {
        let mut request = Ping::new();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        request.insert("seq".into(), json!(seq));
        request.insert("time.tv_sec".into(), json!(now.as_secs()));
        request.insert("time.tv_nsec".into(), json!(now.subsec_nanos()));
        request.insert("pad".into(), json!("p".repeat(self.pad)));
        self.client.handle().call_service::<ServicePing>(
            &self.target.service,
            self.target.dest,
            &request,
        )
    }

    fn show(&self, seq: u64, start: Instant, reply: Result<Ping, RpcError>) -> Result<(), Fail> {
        let service = &self.target.service;
        let reply = reply.map_err(|error| {
            let node = match self.target.dest {
                Dest::Rank(_) | Dest::Upstream => format!("{}!", self.target.node),
                Dest::Any => String::new(),
            };
            Fail::of(format!("{node}{service}.ping"), error.errno)
        })?;
        let rank = &reply["rank"];
        out!("{rank}!{service}.ping pad={}", self.pad);
        if self.userid {
            let rolemask = reply["rolemask"].as_u64().unwrap_or_default();
            out!(" userid={} rolemask={rolemask:#x}", reply["userid"]);
        }
        let time = start.elapsed().as_secs_f64() * 1e3;
        let route = reply["route"].as_str().unwrap_or_default();
        outln!(" seq={seq} time={time:.3} ms ({route})");
        output::flush();
        Ok(())
    }
}
