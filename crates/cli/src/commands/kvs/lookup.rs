//! Reading: `get`, `readlink`, `version`, `wait`, `getroot`.

use client::Client;
use client::kvs::treeobj as decode;
use proto::kvs::{
    Found, KvsLookup, KvsWaitVersion, KvsWatchCancel, KvsWatchLookup, Lookup, WaitVersion, flags,
};
use rpc::{Dest, Stream};
use spec::TreeObj;
use types::Errno;

use super::{NAMESPACE, PROG, dirref, namespace_of, root};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, out, outln, output};

static GET: Parser = Parser {
    name: "flux-kvs get",
    usage: "[-N ns] [-r|-t] [-a treeobj] [-l] [-W] [-w] [-u] [-A] [-f] [-S] [-c COUNT] key [key...]",
    about: "Get value stored under key",
    family: Family::G,
    opts: &[
        NAMESPACE,
        flag('r', "raw", "Show the value's bytes only"),
        flag('t', "treeobj", "Show the tree object"),
        arg('a', "at", "TREEOBJ", "Look below this root"),
        flag('l', "label", "Show the key too"),
        flag('W', "waitcreate", "Wait until the key exists"),
        flag('w', "watch", "Follow the key"),
        flag('u', "uniq", "Only values that differ from the one before"),
        flag('A', "append", "Only what is added to the value"),
        flag('f', "full", "Look at every commit"),
        arg('c', "count", "COUNT", "End after so many values"),
        flag('S', "stream", "Read a large value piece by piece"),
    ],
};

fn request(args: &Args, key: &str, bits: i32) -> Result<Lookup, Fail> {
    let invalid = || Fail::of(format!("'{key}'"), Errno::EINVAL);
    super::named(key).map_err(|_| invalid())?;
    let rootdir = super::rootdir(args, key)?;
    // What is watched is a name in a namespace.
    let watches = flags::WATCH | flags::WAITCREATE | flags::STREAM;
    if rootdir.is_some() && bits & watches != 0 {
        return Err(Fail::of(key, Errno::EINVAL));
    }
    Ok(Lookup {
        key: key.to_owned(),
        flags: bits,
        namespace: rootdir.is_none().then(|| namespace_of(args)),
        rootdir,
        rootseq: None,
    })
}

/// The lookup flags the options of `get` ask for.
fn get_flags(args: &Args) -> i32 {
    let mut bits = 0;
    for (option, flag) in [
        ("treeobj", flags::TREEOBJ),
        ("waitcreate", flags::WAITCREATE),
        ("watch", flags::WATCH),
        ("stream", flags::STREAM),
    ] {
        if args.has(option) {
            bits |= flag;
        }
    }
    if args.has("watch") {
        for (option, flag) in [
            ("uniq", flags::WATCH_UNIQ),
            ("append", flags::WATCH_APPEND),
            ("full", flags::WATCH_FULL),
        ] {
            if args.has(option) {
                bits |= flag;
            }
        }
    }
    bits
}

fn show(args: &Args, key: &str, object: &TreeObj) -> Result<(), Fail> {
    if args.has("label") {
        out!("{key}=");
    }
    match object {
        _ if args.has("treeobj") => outln!("{}", object.encode()),
        TreeObj::Val(bytes) => {
            output::write(bytes);
            if !args.has("raw") && !bytes.is_empty() {
                outln!();
            }
        }
        _ => return Err(Fail::new(format!("{key}: Is a directory"))),
    }
    Ok(())
}

pub(super) fn get(words: &[String]) -> i32 {
    let args = match GET.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let count = match args.int("count") {
        Ok(count) => count.unwrap_or(0),
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return GET.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let bits = get_flags(&args);
        if args.has("watch") {
            return watch(&client, &args, bits, count).await;
        }
        for key in &args.words {
            if args.has("stream") {
                stream(&client, &args, key, bits).await?;
                continue;
            }
            let request = request(&args, key, bits)?;
            let found = if bits & flags::WAITCREATE != 0 {
                let call = client.handle().call::<KvsWatchLookup>(Dest::Any, &request);
                call.await
            } else {
                client.handle().call::<KvsLookup>(Dest::Any, &request).await
            };
            let found = found.map_err(|error| Fail::of(key, error.errno))?;
            let object = decode(&found.val).map_err(|error| Fail::of(key, error.errno))?;
            show(&args, key, &object)?;
        }
        Ok(0)
    })
}

async fn stream(client: &Client, args: &Args, key: &str, bits: i32) -> Result<(), Fail> {
    let request = request(args, key, bits)?;
    let mut pieces = client
        .handle()
        .stream::<KvsWatchLookup>(Dest::Any, &request);
    if args.has("label") {
        out!("{key}=");
    }
    let mut total = 0;
    while let Some(found) = pieces
        .next()
        .await
        .map_err(|error| Fail::of(key, error.errno))?
    {
        match decode(&found.val)? {
            object if args.has("treeobj") => outln!("{}", object.encode()),
            TreeObj::Val(bytes) => {
                total += bytes.len();
                output::write(&bytes);
            }
            _ => return Err(Fail::of(key, Errno::EPROTO)),
        }
    }
    if !args.has("raw") && total > 0 {
        outln!();
    }
    Ok(())
}

/// Follows every key; all must have ended before the command does.
async fn watch(client: &Client, args: &Args, bits: i32, count: i64) -> Result<i32, Fail> {
    let mut watchers = Vec::new();
    for key in &args.words {
        let request = request(args, key, bits)?;
        let stream = client
            .handle()
            .stream::<KvsWatchLookup>(Dest::Any, &request);
        watchers.push(follow(client, args, key, stream, count));
    }
    let mut tasks: Vec<_> = watchers.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        let mut at = 0;
        while at < tasks.len() {
            match tasks[at].as_mut().poll(cx) {
                std::task::Poll::Ready(Ok(())) => drop(tasks.swap_remove(at)),
                std::task::Poll::Ready(Err(fail)) => return std::task::Poll::Ready(Err(fail)),
                std::task::Poll::Pending => at += 1,
            }
        }
        if tasks.is_empty() {
            std::task::Poll::Ready(Ok(0))
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

async fn follow(
    client: &Client,
    args: &Args,
    key: &str,
    mut stream: Stream<Found>,
    count: i64,
) -> Result<(), Fail> {
    let mut seen = 0;
    while let Some(found) = stream
        .next()
        .await
        .map_err(|error| Fail::of(key, error.errno))?
    {
        if count > 0 && seen >= count {
            continue;
        }
        show(args, key, &decode(&found.val)?)?;
        output::flush();
        seen += 1;
        if seen == count {
            let cancel = proto::log::Cancel {
                matchtag: stream.matchtag().0,
            };
            client.handle().notify::<KvsWatchCancel>(Dest::Any, &cancel);
        }
    }
    Ok(())
}

static READLINK: Parser = Parser {
    name: "flux-kvs readlink",
    usage: "[-N ns] [-a treeobj] [ -o | -k ] key [key...]",
    about: "Retrieve the key a link refers to",
    family: Family::G,
    opts: &[
        NAMESPACE,
        arg('a', "at", "TREEOBJ", "Look below this root"),
        flag('o', "namespace-only", "Show the namespace only"),
        flag('k', "key-only", "Show the key only"),
    ],
};

pub(super) fn readlink(words: &[String]) -> i32 {
    let args = match READLINK.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return READLINK.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        for key in &args.words {
            let request = request(&args, key, flags::READLINK)?;
            let call = client.handle().call::<KvsLookup>(Dest::Any, &request);
            let found = call.await.map_err(|error| Fail::of(key, error.errno))?;
            match decode(&found.val)? {
                TreeObj::Symlink { namespace, target } => match namespace {
                    Some(namespace) if args.has("namespace-only") => outln!("{namespace}"),
                    _ if args.has("key-only") => outln!("{target}"),
                    Some(namespace) => outln!("{namespace}::{target}"),
                    None => outln!("{target}"),
                },
                _ => return Err(Fail::of(key, Errno::EINVAL)),
            }
        }
        Ok(0)
    })
}

static VERSION: Parser = Parser {
    name: "flux-kvs version",
    usage: "[-N ns]",
    about: "Display current KVS version",
    family: Family::G,
    opts: &[NAMESPACE],
};

pub(super) fn version(words: &[String]) -> i32 {
    let args = match VERSION.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let root = root(&client, &namespace_of(&args))
            .await
            .map_err(|error| Fail::of("flux_kvs_get_version", error.errno))?;
        outln!("{}", root.rootseq);
        Ok(0)
    })
}

static WAIT: Parser = Parser {
    name: "flux-kvs wait",
    usage: "[-N ns] version",
    about: "Block until the KVS reaches version",
    family: Family::G,
    opts: &[NAMESPACE],
};

pub(super) fn wait(words: &[String]) -> i32 {
    let args = match WAIT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [version] = args.words.as_slice() else {
        return super::wrong_count("wait: specify a version");
    };
    let Ok(rootseq) = version.parse() else {
        err!("{PROG}: invalid version: {version}");
        return 1;
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let request = WaitVersion {
            rootseq,
            namespace: namespace_of(&args),
        };
        let call = client.handle().call::<KvsWaitVersion>(Dest::Any, &request);
        call.await
            .map_err(|error| Fail::of("flux_kvs_wait_version", error.errno))?;
        Ok(0)
    })
}

static GETROOT: Parser = Parser {
    name: "flux-kvs getroot",
    usage: "[-N ns] [-s | -o | -b]",
    about: "Get KVS root treeobj",
    family: Family::G,
    opts: &[
        NAMESPACE,
        flag('s', "sequence", "Show the sequence number"),
        flag('o', "owner", "Show the owner"),
        flag('b', "blobref", "Show the blobref"),
    ],
};

pub(super) fn getroot(words: &[String]) -> i32 {
    let args = match GETROOT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return GETROOT.wrong_words();
    }
    let what = ["owner", "sequence", "blobref"]
        .into_iter()
        .find(|option| args.has(option))
        .unwrap_or("treeobj");
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let root = root(&client, &namespace_of(&args))
            .await
            .map_err(|error| Fail::of(format!("flux_kvs_getroot_get_{what}"), error.errno))?;
        match what {
            // A user id that travels as a signed number.
            "owner" => outln!("{}", root.owner as u32),
            "sequence" => outln!("{}", root.rootseq),
            "blobref" => outln!("{}", root.rootref),
            _ => outln!("{}", dirref(&root.rootref)),
        }
        Ok(0)
    })
}
