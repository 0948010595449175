//! `flux kvs namespace`.

use proto::Empty;
use proto::kvs::{
    KvsNamespaceCreate, KvsNamespaceList, KvsNamespaceRemove, Namespace, NamespaceCreate,
};
use rpc::Dest;
use spec::{BlobRef, HashKind, TreeObj};
use types::{Errno, Rank};

use super::PROG;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg};
use crate::outln;

pub(super) fn run(words: &[String]) -> i32 {
    crate::commands::dispatch_forms(
        "flux-kvs namespace",
        "Perform KVS namespace operations",
        &[
            ("create", "[-o owner] [-r rootref] name [name...]", create),
            ("remove", "name [name...]", remove),
            ("list", "[OPTIONS]", list),
        ],
        words,
    )
}

static CREATE: Parser = Parser {
    name: "flux-kvs namespace create",
    usage: "[-o owner] [-r rootref] name [name...]",
    about: "Create a KVS namespace",
    family: Family::G,
    opts: &[
        arg('o', "owner", "UID", "Give it to this user"),
        arg('r', "rootref", "BLOBREF", "Start from this root"),
    ],
};

fn create(words: &[String]) -> i32 {
    let args = match CREATE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return CREATE.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let owner = match args.get("owner") {
            Some(text) => text
                .parse::<u32>()
                .map_err(|_| Fail::of("--owner requires an unsigned integer argument", text))?,
            None => u32::MAX,
        };
        let rootref = match args.get("rootref") {
            Some(text) => text.to_owned(),
            None => {
                let hash = client.attr("content.hash").await?;
                let hash = HashKind::from_name(&hash).ok_or(Errno::EINVAL)?;
                BlobRef::hash(hash, TreeObj::empty_dir().encode().as_bytes()).to_string()
            }
        };
        for name in &args.words {
            let request = NamespaceCreate {
                namespace: name.clone(),
                rootref: rootref.clone(),
                // A user id that travels as a signed number.
                owner: i64::from(owner as i32),
                flags: 0,
            };
            let call = client
                .handle()
                .call::<KvsNamespaceCreate>(Dest::Rank(Rank::LEADER), &request);
            call.await.map_err(|error| Fail::of(name, error))?;
        }
        Ok(0)
    })
}

static REMOVE: Parser = Parser {
    name: "flux-kvs namespace remove",
    usage: "name [name...]",
    about: "Remove a KVS namespace",
    family: Family::G,
    opts: &[],
};

fn remove(words: &[String]) -> i32 {
    let args = match REMOVE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() {
        return REMOVE.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        for name in &args.words {
            let request = Namespace {
                namespace: name.clone(),
            };
            let call = client
                .handle()
                .call::<KvsNamespaceRemove>(Dest::Rank(Rank::LEADER), &request);
            call.await.map_err(|error| Fail::of(name, error.errno))?;
        }
        Ok(0)
    })
}

static LIST: Parser = Parser {
    name: "flux-kvs namespace list",
    usage: "",
    about: "List namespaces on local rank",
    family: Family::G,
    opts: &[],
};

fn list(words: &[String]) -> i32 {
    match LIST.parse(words) {
        Err(status) => return status,
        Ok(args) if !args.words.is_empty() => return LIST.wrong_words(),
        Ok(_) => {}
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let call = client
            .handle()
            .call::<KvsNamespaceList>(Dest::Any, &Empty {});
        let list = call
            .await
            .map_err(|error| Fail::of("kvs.namespace-list", error.errno))?;
        outln!("NAMESPACE                                 OWNER      FLAGS");
        for namespace in list.namespaces {
            outln!(
                "{:<36} {:>10} 0x{:08X}",
                namespace.namespace,
                namespace.owner as u32,
                namespace.flags
            );
        }
        Ok(0)
    })
}
