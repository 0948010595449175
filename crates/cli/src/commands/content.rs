//! `flux content`: blobs by digest.

use std::io::Read;

use proto::content::{
    BackingCheckpointPut, BackingLoad, BackingStore, Checkpoint, ContentCheckpointGet,
    ContentDropcache, ContentFlush, ContentLoad, ContentStore, PutCheckpoint,
};
use proto::kvs::{KvsGetroot, Namespace, PRIMARY};
use proto::{Empty, Raw};
use rpc::{Call, Dest};
use spec::{BlobRef, HashKind};
use types::{Errno, Rank};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag};
use crate::{outln, output, timefmt};

const PROG: &str = "flux-content";
const LEADER: Dest = Dest::Rank(Rank::LEADER);

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux content",
        "Access content-addressable storage",
        &[
            ("load", "[--bypass-cache] BLOBREF ...", load),
            ("store", "[--bypass-cache] [--chunksize=N]", store),
            ("flush", "[OPTIONS]", flush),
            ("dropcache", "[OPTIONS]", dropcache),
            ("checkpoint", "COMMAND [OPTIONS]", checkpoint),
        ],
        words,
    )
}

static LOAD: Parser = Parser {
    name: "flux content load",
    usage: "[--bypass-cache] BLOBREF ...",
    about: "Load blobs by reference",
    family: Family::G,
    opts: &[flag('b', "bypass-cache", "Ask the backing store directly")],
};

fn load(words: &[String]) -> i32 {
    let args = match LOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let mut refs = args.words.clone();
        if refs.is_empty() {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
            refs = text.split_whitespace().map(str::to_owned).collect();
        }
        if refs.is_empty() {
            return Err(Fail::new("no blobrefs were specified"));
        }
        let mut calls = Vec::new();
        for blobref in &refs {
            let blobref: BlobRef = blobref
                .parse()
                .map_err(|_| Fail::new(format!("error loading blob: {}", Errno::EINVAL)))?;
            let digest = Raw(blobref.digest().to_vec().into());
            calls.push(if args.has("bypass-cache") {
                client.handle().call::<BackingLoad>(LEADER, &digest)
            } else {
                client.handle().call::<ContentLoad>(Dest::Any, &digest)
            });
        }
        for call in calls {
            let Raw(blob) = call
                .await
                .map_err(|error| Fail::of("error loading blob", error))?;
            output::write(&blob);
        }
        Ok(0)
    })
}

static STORE: Parser = Parser {
    name: "flux content store",
    usage: "[--bypass-cache] [--chunksize=N]",
    about: "Store blob from stdin, print BLOBREF on stdout",
    family: Family::G,
    opts: &[
        flag('b', "bypass-cache", "Store on the backing store directly"),
        arg('\0', "chunksize", "N", "Store blobs of at most N bytes"),
    ],
};

fn store(words: &[String]) -> i32 {
    let args = match STORE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let chunk = match args.int("chunksize") {
        Ok(chunk) => chunk.unwrap_or(0),
        Err(status) => return status,
    };
    if !args.words.is_empty() || chunk < 0 {
        return STORE.wrong_words();
    }
    fail::run(PROG, async {
        let mut data = Vec::new();
        std::io::stdin()
            .read_to_end(&mut data)
            .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
        let client = fail::connect_builtin().await?;
        let hash = client.attr("content.hash").await?;
        let hash = HashKind::from_name(&hash).ok_or(Errno::EINVAL)?;
        let data = bytes::Bytes::from(data);
        let size = match chunk {
            0 => data.len().max(1),
            size => usize::try_from(size).unwrap_or(usize::MAX),
        };
        let mut calls: Vec<Call<Raw>> = Vec::new();
        let mut start = 0;
        // Empty input is one empty blob.
        while start < data.len() || calls.is_empty() {
            let end = data.len().min(start.saturating_add(size));
            let blob = Raw(data.slice(start..end));
            calls.push(if args.has("bypass-cache") {
                client.handle().call::<BackingStore>(LEADER, &blob)
            } else {
                client.handle().call::<ContentStore>(Dest::Any, &blob)
            });
            client.drained().await;
            start = end;
        }
        for call in calls {
            let Raw(digest) = call
                .await
                .map_err(|error| Fail::of("error storing blob", error))?;
            let blobref = BlobRef::from_digest(hash, &digest)
                .map_err(|error| Fail::new(error.to_string()))?;
            outln!("{blobref}");
        }
        Ok(0)
    })
}

static FLUSH: Parser = Parser {
    name: "flux content flush",
    usage: "[OPTIONS]",
    about: "Flush dirty entries from local content cache",
    family: Family::G,
    opts: &[],
};

fn flush(words: &[String]) -> i32 {
    match FLUSH.parse(words) {
        Err(status) => return status,
        Ok(args) if !args.words.is_empty() => return FLUSH.wrong_words(),
        Ok(_) => {}
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let call = client.handle().call::<ContentFlush>(Dest::Any, &Empty {});
        call.await
            .map_err(|error| Fail::of("content.flush", error.errno))?;
        Ok(0)
    })
}

static DROPCACHE: Parser = Parser {
    name: "flux content dropcache",
    usage: "[OPTIONS]",
    about: "Drop non-essential entries from local content cache",
    family: Family::G,
    opts: &[],
};

fn dropcache(words: &[String]) -> i32 {
    match DROPCACHE.parse(words) {
        Err(status) => return status,
        Ok(args) if !args.words.is_empty() => return DROPCACHE.wrong_words(),
        Ok(_) => {}
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let call = client
            .handle()
            .call::<ContentDropcache>(Dest::Any, &Empty {});
        call.await
            .map_err(|error| Fail::of("content.dropcache", error.errno))?;
        Ok(0)
    })
}

fn checkpoint(words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux content checkpoint",
        "Manage checkpoints",
        &[
            ("list", "[OPTIONS]", checkpoint_list),
            ("update", "BLOBREF", checkpoint_update),
        ],
        words,
    )
}

static LIST: Parser = Parser {
    name: "flux content checkpoint list",
    usage: "[OPTIONS]",
    about: "List checkpoints",
    family: Family::G,
    opts: &[
        flag('n', "no-header", "Leave out the header"),
        flag('j', "json", "Show the objects, one a line"),
    ],
};

fn checkpoint_list(words: &[String]) -> i32 {
    let args = match LIST.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return LIST.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let call = client
            .handle()
            .call::<ContentCheckpointGet>(Dest::Any, &Empty {});
        let found = call
            .await
            .map_err(|error| Fail::of("kvs_checkpoint_lookup", error.errno))?;
        let list = match found.value {
            serde_json::Value::Array(list) => list,
            one => vec![one],
        };
        if !args.has("no-header") && !args.has("json") {
            outln!(
                "{:<10} {:<10} {:<20} {}",
                "Index",
                "Sequence",
                "Time",
                "Rootref"
            );
        }
        for (index, value) in list.iter().enumerate() {
            if args.has("json") {
                outln!("{value}");
                continue;
            }
            let checkpoint: Checkpoint = serde_json::from_value(value.clone())
                .map_err(|error| Fail::new(error.to_string()))?;
            let sequence = checkpoint.sequence.unwrap_or(0);
            let time = match checkpoint.timestamp {
                Some(time) => timefmt::utc("%Y-%m-%dT%H:%M:%SZ", time),
                None => "N/A".to_owned(),
            };
            outln!(
                "{index:<10} {sequence:<10} {time:<20} {}",
                checkpoint.rootref
            );
        }
        Ok(0)
    })
}

static UPDATE: Parser = Parser {
    name: "flux content checkpoint update",
    usage: "BLOBREF",
    about: "Set the newest checkpoint",
    family: Family::G,
    opts: &[],
};

fn checkpoint_update(words: &[String]) -> i32 {
    let args = match UPDATE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [blobref] = args.words.as_slice() else {
        return UPDATE.wrong_words();
    };
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let namespace = Namespace {
            namespace: PRIMARY.to_owned(),
        };
        let root = client.handle().call::<KvsGetroot>(LEADER, &namespace).await;
        if !matches!(root, Err(error) if error.errno == Errno::ENOSYS) {
            return Err(Fail::new(
                "please unload kvs module before updating checkpoint",
            ));
        }
        if blobref.parse::<BlobRef>().is_err() {
            return Err(Fail::of("invalid blobref specified", Errno::EINVAL));
        }
        let checkpoint = Checkpoint {
            version: 1,
            rootref: blobref.clone(),
            sequence: Some(0),
            timestamp: Some(timefmt::now()),
        };
        let value =
            serde_json::to_value(checkpoint).map_err(|error| Fail::new(error.to_string()))?;
        let request = PutCheckpoint { value };
        let call = client
            .handle()
            .call::<BackingCheckpointPut>(LEADER, &request);
        call.await
            .map_err(|error| Fail::of("checkpoint update failed", error.errno))?;
        Ok(0)
    })
}
