//! `flux kvs eventlog`.

use std::time::Duration;

use client::Client;
use client::kvs::{Txn, treeobj as decode};
use proto::kvs::{Found, KvsLookup, KvsWatchCancel, KvsWatchLookup, Lookup, flags};
use rpc::{Dest, Stream};
use spec::eventlog::Decoder;
use spec::{Entry, TreeObj};
use types::Errno;

use super::{NAMESPACE, PROG, namespace_of};
use crate::color;
use crate::events::EventFormat;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Opt, Parser, arg, flag, maybe};
use crate::timefmt::{self, TimeFormat};
use crate::{outln, output};

const WAITCREATE: Opt = flag('W', "waitcreate", "Wait until the eventlog exists");
const UNFORMATTED: Opt = flag('u', "unformatted", "Show the events as they are stored");
const HUMAN: Opt = flag('H', "human", "Show times for people");
const COLOR: Opt = maybe('L', "color", "WHEN", "Use colour: never, always or auto");

pub(super) fn run(words: &[String]) -> i32 {
    crate::commands::dispatch_forms(
        "flux-kvs eventlog",
        "Manipulate a KVS eventlog",
        &[
            ("append", APPEND.usage, append),
            ("get", GET.usage, get),
            ("wait-event", WAIT.usage, wait_event),
        ],
        words,
    )
}

static APPEND: Parser = Parser {
    name: "flux-kvs eventlog append",
    usage: "[-N ns] [-t SECONDS] key name [context ...]",
    about: "Append to eventlog",
    family: Family::G,
    opts: &[
        NAMESPACE,
        arg(
            't',
            "timestamp",
            "SECONDS",
            "The event's time, instead of now",
        ),
    ],
};

fn append(words: &[String]) -> i32 {
    let args = match APPEND.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [key, name, context @ ..] = args.words.as_slice() else {
        return APPEND.wrong_words();
    };
    let timestamp = match args.float("timestamp") {
        Ok(given) => given.filter(|seconds| *seconds != 0.0),
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let timestamp = timestamp.unwrap_or_else(timefmt::now);
        // Such an entry would make the whole log unreadable.
        if name.is_empty() || !timestamp.is_finite() || timestamp < 0.0 {
            return Err(Fail::of("eventlog_entry_create", Errno::EINVAL));
        }
        let mut entry = Entry::new(timestamp, name.clone());
        if !context.is_empty() {
            let object = serde_json::from_str(&context.join(" "));
            entry.context =
                Some(object.map_err(|_| Fail::of("eventlog_entry_create", Errno::EINVAL))?);
        }
        super::named(key).map_err(|errno| Fail::of("flux_kvs_txn_put", errno))?;
        let client = fail::connect().await?;
        let mut txn = Txn::new();
        txn.append(key, entry.encode().as_bytes());
        txn.commit(client.handle(), &namespace_of(&args), 0)
            .await
            .map_err(|error| Fail::of("flux_kvs_commit", error.errno))?;
        Ok(0)
    })
}

static GET: Parser = Parser {
    name: "flux-kvs eventlog get",
    usage: "[-N ns] [-u] [-W] [-w] [-c COUNT] [-H] [-S]  [-L auto|always|never] key",
    about: "Get eventlog",
    family: Family::G,
    opts: &[
        NAMESPACE,
        WAITCREATE,
        flag('w', "watch", "Follow the eventlog"),
        arg('c', "count", "COUNT", "End after so many events"),
        UNFORMATTED,
        HUMAN,
        COLOR,
        flag('S', "stream", "Read a large eventlog piece by piece"),
    ],
};

fn format(args: &Args) -> Result<EventFormat, Fail> {
    let colored = args.get("color") == Some("always");
    if args.has("unformatted") && (args.has("human") || colored) {
        return Err(Fail::new(
            "Do not specify --unformatted with --human or --color=always",
        ));
    }
    let time = if args.has("human") {
        TimeFormat::Human
    } else {
        TimeFormat::Raw
    };
    Ok(EventFormat::new(
        time,
        args.has("unformatted"),
        color::wanted_g(args)?,
    ))
}

fn request(args: &Args, key: &str, bits: i32) -> Lookup {
    let bits = if args.has("waitcreate") {
        bits | flags::WAITCREATE
    } else {
        bits
    };
    Lookup {
        key: key.to_owned(),
        flags: bits,
        namespace: Some(namespace_of(args)),
        rootdir: None,
        rootseq: None,
    }
}

fn improper() -> Fail {
    Fail::new("cannot decode improperly formatted eventlog")
}

fn bytes(found: &Found) -> Result<Vec<u8>, Fail> {
    match decode(&found.val)? {
        TreeObj::Val(bytes) => Ok(bytes),
        _ => Err(improper()),
    }
}

fn get(words: &[String]) -> i32 {
    let args = match GET.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let count = match args.int("count") {
        Ok(count) => count.unwrap_or(0),
        Err(status) => return status,
    };
    let [key] = args.words.as_slice() else {
        return GET.wrong_words();
    };
    fail::run(PROG, async {
        let mut format = format(&args)?;
        let client = fail::connect().await?;
        let get_failed = |error: rpc::RpcError| Fail::of("flux_kvs_lookup_get", error.errno);
        let streaming = args.has("watch") || args.has("stream");
        if !streaming {
            let request = request(&args, key, 0);
            let found = if request.flags == 0 {
                client.handle().call::<KvsLookup>(Dest::Any, &request).await
            } else {
                let call = client.handle().call::<KvsWatchLookup>(Dest::Any, &request);
                call.await
            };
            let log = bytes(&found.map_err(get_failed)?)?;
            let entries = spec::eventlog::decode(&log).map_err(|_| improper())?;
            for entry in &entries {
                outln!("{}", format.line(entry));
            }
            return Ok(0);
        }
        let mut bits = 0;
        if args.has("watch") {
            bits |= flags::WATCH | flags::WATCH_APPEND;
        }
        if args.has("stream") {
            bits |= flags::STREAM;
        }
        let request = request(&args, key, bits);
        let mut watch = client
            .handle()
            .stream::<KvsWatchLookup>(Dest::Any, &request);
        let mut decoder = Decoder::default();
        let mut seen = 0;
        while let Some(found) = watch.next().await.map_err(get_failed)? {
            decoder.push(&bytes(&found)?);
            for entry in decoder.by_ref() {
                let entry = entry.map_err(|_| improper())?;
                if args.has("watch") && count > 0 && seen >= count {
                    break;
                }
                outln!("{}", format.line(&entry));
                seen += 1;
                if args.has("watch") && seen == count {
                    cancel(&client, &watch);
                }
            }
            // Each answer to a watch has whole lines, if it is a log at all.
            let all_seen = count > 0 && seen >= count;
            if args.has("watch") && !all_seen && !decoder.is_empty() {
                return Err(improper());
            }
            output::flush();
        }
        if !args.has("watch") && !decoder.is_empty() {
            return Err(improper());
        }
        Ok(0)
    })
}

fn cancel(client: &Client, watch: &Stream<Found>) {
    let request = proto::log::Cancel {
        matchtag: watch.matchtag().0,
    };
    client
        .handle()
        .notify::<KvsWatchCancel>(Dest::Any, &request);
}

static WAIT: Parser = Parser {
    name: "flux-kvs eventlog wait-event",
    usage: "[-N ns] [-t seconds] [-u] [-W] [-q] [-v] [-L auto|always|never] key event",
    about: "Wait for an event",
    family: Family::G,
    opts: &[
        NAMESPACE,
        WAITCREATE,
        arg('t', "timeout", "DURATION", "Give up after this time"),
        UNFORMATTED,
        flag('q', "quiet", "Do not show the event"),
        flag('v', "verbose", "Show the events before it too"),
        HUMAN,
        COLOR,
    ],
};

fn wait_event(words: &[String]) -> i32 {
    let args = match WAIT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let timeout = match args.duration("timeout") {
        Ok(timeout) => timeout.filter(|seconds| seconds.is_finite()),
        Err(status) => return status,
    };
    let [key, name] = args.words.as_slice() else {
        return WAIT.wrong_words();
    };
    fail::run(PROG, async {
        let format = format(&args)?;
        let client = fail::connect().await?;
        let request = request(&args, key, flags::WATCH | flags::WATCH_APPEND);
        let watch = client
            .handle()
            .stream::<KvsWatchLookup>(Dest::Any, &request);
        let wait = wait_for(&args, key, name, watch, format);
        match timeout {
            None => wait.await,
            Some(seconds) => tokio::time::timeout(Duration::from_secs_f64(seconds), wait)
                .await
                .unwrap_or_else(|_| {
                    Err(Fail::new(format!("wait-event timeout on event '{name}'")))
                }),
        }
    })
}

async fn wait_for(
    args: &Args,
    key: &str,
    name: &str,
    mut watch: Stream<Found>,
    mut format: EventFormat,
) -> Result<i32, Fail> {
    let mut decoder = Decoder::default();
    loop {
        let found = match watch.next().await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(Fail::new(format!("event '{name}' never received"))),
            Err(error) if error.errno == Errno::ENOENT => {
                return Err(Fail::new(format!("eventlog path {key} not found")));
            }
            Err(error) => return Err(Fail::of("flux_kvs_lookup_get", error.errno)),
        };
        decoder.push(&bytes(&found)?);
        for entry in decoder.by_ref() {
            let entry = entry.map_err(|_| improper())?;
            let wanted = entry.name == name;
            let shown = if wanted {
                !args.has("quiet")
            } else {
                args.has("verbose")
            };
            if shown {
                outln!("{}", format.line(&entry));
                output::flush();
            } else {
                format.skip(&entry);
            }
            if wanted {
                return Ok(0);
            }
        }
        // Each answer has whole lines, if it is a log at all.
        if !decoder.is_empty() {
            return Err(improper());
        }
    }
}
