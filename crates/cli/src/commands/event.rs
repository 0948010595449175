//! `flux event pub` and `flux event sub`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto::event::{EventPublish, Publish};
use rpc::Dest;
use types::Rank;
use wire::{Flags, Kind, Message};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{out, outln, output};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux-event",
        "",
        &[
            ("pub", "[OPTIONS] topic [payload]", publish),
            ("sub", "[OPTIONS] [topic...]", subscribe),
        ],
        words,
    )
}

static PUB: Parser = Parser {
    name: "flux-event pub",
    usage: "[OPTIONS] topic [payload]",
    about: "",
    family: Family::G,
    opts: &[
        flag('r', "raw", "Send the payload as it is"),
        flag(
            's',
            "synchronous",
            "Wait for the event's number and show it",
        ),
        flag('l', "loopback", "Wait until the event has come back"),
        flag('p', "private", "Only for the instance owner and the sender"),
    ],
};

/// The payload's bytes: words joined by blanks, which must be a JSON object unless sent raw.
fn payload(args: &Args) -> Result<Vec<u8>, Fail> {
    let text = args.words[1..].join(" ");
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if args.has("raw") {
        return Ok(text.into_bytes());
    }
    let mut bytes = match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value @ serde_json::Value::Object(_)) => value.to_string().into_bytes(),
        _ => text.into_bytes(),
    };
    bytes.push(0);
    Ok(bytes)
}

fn publish(words: &[String]) -> i32 {
    let args = match PUB.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let Some(topic) = args.words.first() else {
        return PUB.wrong_words();
    };
    fail::run("flux-event", async {
        let client = fail::connect().await?;
        let bytes = payload(&args)?;
        let mut incoming = client.incoming();
        if args.has("loopback") {
            client.subscribe(topic).await?;
        }
        let private = args.has("private");
        if args.has("synchronous") || args.has("loopback") {
            let request = Publish {
                topic: topic.clone(),
                flags: i32::from(if private { Flags::PRIVATE.0 } else { 0 }),
                payload: (!bytes.is_empty()).then(|| BASE64.encode(&bytes)),
            };
            let call = client
                .handle()
                .call::<EventPublish>(Dest::Rank(Rank::LEADER), &request);
            let seq = call
                .await
                .map_err(|error| Fail::of("event.publish", error))?
                .seq;
            if args.has("synchronous") {
                outln!("seq={seq}");
            }
            while args.has("loopback") {
                let message = incoming
                    .recv()
                    .await
                    .ok_or_else(|| Fail::new("connection lost"))?;
                if matches!(message.kind, Kind::Event { sequence } if i64::from(sequence) == seq) {
                    break;
                }
            }
            return Ok(0);
        }
        let mut message = Message::event(topic.as_str().into()).with_payload(bytes.into());
        if private {
            message = message.with_flags(Flags::PRIVATE);
        }
        client.handle().send(message);
        client.flush().await;
        // The event is published once a later request is answered.
        client.attr("rank").await?;
        Ok(0)
    })
}

static SUB: Parser = Parser {
    name: "flux-event sub",
    usage: "[OPTIONS] [topic...]",
    about: "",
    family: Family::G,
    opts: &[arg('c', "count", "N", "End after N events")],
};

fn subscribe(words: &[String]) -> i32 {
    let args = match SUB.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let count = match args.int("count") {
        Ok(count) => count.unwrap_or(0),
        Err(status) => return status,
    };
    fail::run("flux-event", async {
        let client = fail::connect().await?;
        let mut incoming = client.incoming();
        if args.words.is_empty() {
            client.subscribe("").await?;
        }
        for topic in &args.words {
            client.subscribe(topic).await?;
        }
        let mut seen = 0;
        while count <= 0 || seen < count {
            let Some(message) = incoming.recv().await else {
                return Err(Fail::new("connection lost"));
            };
            if !matches!(message.kind, Kind::Event { .. }) {
                continue;
            }
            seen += 1;
            show(&message);
            output::flush();
        }
        Ok(0)
    })
}

fn show(message: &Message) {
    out!("{}\t", message.topic_str());
    match (message.text(), &message.payload) {
        (Some(text), _) => outln!("{text}"),
        (None, Some(bytes)) => {
            output::write(bytes);
            outln!();
        }
        (None, None) => outln!(),
    }
}
