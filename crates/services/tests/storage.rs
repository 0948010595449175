//! content, kvs and kvs-watch together, as clients see them.

use std::future::Future;
use std::rc::Rc;

use proto::content::{ContentFlush, ContentLoad, ContentStore};
use proto::kvs::{
    Commit, Found, KvsCommit, KvsLookup, KvsNamespaceCreate, KvsNamespaceRemove, KvsWaitVersion,
    KvsWatchCancel, KvsWatchLookup, Lookup, Namespace, NamespaceCreate, Op, WaitVersion,
    commit_flags, flags,
};
use proto::log::Cancel;
use proto::{Empty, Raw};
use rpc::{Dest, Handle, RpcError};
use spec::{BlobRef, HashKind, TreeObj};
use testkit::Local;
use types::{Cred, Errno, RoleMask, UserId};

const GUEST: Cred = Cred {
    userid: UserId(4242),
    rolemask: RoleMask::USER,
};

fn run<F: Future>(body: impl FnOnce(Rc<Local>) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let local = Local::new();
        for builtin in services::builtins() {
            if ["content", "kvs", "kvs-watch"].contains(&builtin.name) {
                local.load(builtin, &[]);
                // The next one reads what this one sets up.
                tokio::task::yield_now().await;
            }
        }
        body(local).await
    })
}

fn put(key: &str, value: &str) -> Op {
    Op {
        key: key.to_owned(),
        flags: 0,
        dirent: TreeObj::Val(value.as_bytes().to_vec()).to_raw(),
    }
}

fn append(key: &str, value: &str) -> Op {
    Op {
        flags: flags::APPEND,
        ..put(key, value)
    }
}

async fn commit(handle: &Handle, namespace: &str, ops: Vec<Op>) -> Result<i64, Errno> {
    let commit = Commit {
        ops,
        namespace: namespace.to_owned(),
        flags: 0,
    };
    let committed = handle.call::<KvsCommit>(Dest::Any, &commit).await;
    committed
        .map(|committed| committed.rootseq)
        .map_err(|error| error.errno)
}

fn query(namespace: &str, key: &str, flags: i32) -> Lookup {
    Lookup {
        key: key.to_owned(),
        flags,
        namespace: Some(namespace.to_owned()),
        rootdir: None,
        rootseq: None,
    }
}

fn text(found: &Found) -> String {
    match TreeObj::decode(found.val.get().as_bytes()) {
        Ok(TreeObj::Val(bytes)) => String::from_utf8(bytes).expect("test values are text"),
        other => panic!("{other:?} is no value"),
    }
}

async fn get(handle: &Handle, namespace: &str, key: &str) -> Result<String, Errno> {
    let call = handle.call::<KvsLookup>(Dest::Any, &query(namespace, key, 0));
    let found = call.await.map_err(|error| error.errno)?;
    Ok(text(&found))
}

#[test]
fn what_is_committed_is_seen_at_once() {
    run(async |local| {
        let client = local.client(None);
        let long = "x".repeat(1000);
        let ops = vec![put("a.b", "1"), put("long", &long)];
        assert_eq!(commit(&client, "primary", ops).await, Ok(1));
        assert_eq!(get(&client, "primary", "a.b").await, Ok("1".to_owned()));
        assert_eq!(get(&client, "primary", "long").await, Ok(long));
        assert_eq!(get(&client, "primary", "a").await, Err(Errno::EISDIR));
        assert_eq!(get(&client, "nope", "a").await, Err(Errno::ENOTSUP));
        // Commits that come together are merged, and all see the result.
        let both = tokio::join!(
            commit(&client, "primary", vec![append("log", "1")]),
            commit(&client, "primary", vec![append("log", "2")]),
        );
        assert_eq!(both, (Ok(2), Ok(2)));
        assert_eq!(get(&client, "primary", "log").await, Ok("12".to_owned()));
        // Only the guilty member of a merged batch fails.
        let mixed = tokio::join!(
            commit(&client, "primary", vec![append("a", "1")]),
            commit(&client, "primary", vec![put("c", "3")]),
        );
        assert_eq!(mixed, (Err(Errno::EISDIR), Ok(3)));
        let sync = Commit {
            ops: Vec::new(),
            namespace: "primary".to_owned(),
            flags: commit_flags::SYNC,
        };
        let error = client.call::<KvsCommit>(Dest::Any, &sync).await;
        assert_eq!(error.map(drop), Err(not_flushed(Errno::ENOSYS)));
    });
}

/// The commit's answer names the number only.
fn not_flushed(errno: Errno) -> RpcError {
    errno.into()
}

#[test]
fn namespaces_belong_to_their_owners() {
    run(async |local| {
        let (owner, guest) = (local.client(None), local.client(Some(GUEST)));
        let create = NamespaceCreate {
            namespace: "job-1".to_owned(),
            rootref: BlobRef::hash(HashKind::Sha1, TreeObj::empty_dir().encode().as_bytes())
                .to_string(),
            owner: 4242,
            flags: 0,
        };
        let made = owner.call::<KvsNamespaceCreate>(Dest::Any, &create).await;
        assert!(made.is_ok());
        assert_eq!(commit(&guest, "job-1", vec![put("x", "1")]).await, Ok(1));
        let denied = commit(&guest, "primary", vec![put("x", "1")]).await;
        assert_eq!(denied, Err(Errno::EPERM));
        let link = Op {
            key: "l".to_owned(),
            flags: 0,
            dirent: TreeObj::Symlink {
                namespace: None,
                target: "x".to_owned(),
            }
            .to_raw(),
        };
        assert_eq!(commit(&guest, "job-1", vec![link]).await, Err(Errno::EPERM));
        let wait = WaitVersion {
            rootseq: 9,
            namespace: "job-1".to_owned(),
        };
        let waiting = guest.call::<KvsWaitVersion>(Dest::Any, &wait);
        let gone = Namespace {
            namespace: "job-1".to_owned(),
        };
        let removed = owner.call::<KvsNamespaceRemove>(Dest::Any, &gone).await;
        assert!(removed.is_ok());
        assert_eq!(waiting.await.map(drop), Err(Errno::ENOTSUP.into()));
        assert_eq!(get(&guest, "job-1", "x").await, Err(Errno::ENOTSUP));
        let again = owner.call::<KvsNamespaceCreate>(Dest::Any, &create).await;
        assert!(again.is_ok(), "the name is free as soon as nothing is left");
    });
}

#[test]
fn watchers_see_changes_in_order() {
    run(async |local| {
        let client = local.client(None);
        let follow = flags::WATCH | flags::WATCH_APPEND | flags::WAITCREATE;
        let mut log = client.stream::<KvsWatchLookup>(Dest::Any, &query("primary", "log", follow));
        let wait = query("primary", "later", flags::WAITCREATE);
        let later = client.call::<KvsWatchLookup>(Dest::Any, &wait);
        let mut uniq = client.stream::<KvsWatchLookup>(
            Dest::Any,
            &query(
                "primary",
                "u",
                flags::WATCH | flags::WATCH_UNIQ | flags::WAITCREATE,
            ),
        );
        for op in [
            append("log", "1"),
            put("u", "a"),
            append("log", "2"),
            put("u", "a"),
            put("later", "now"),
            put("u", "b"),
        ] {
            commit(&client, "primary", vec![op])
                .await
                .expect("committed");
        }
        for expect in ["1", "2"] {
            let found = log.next().await.expect("goes on").expect("a piece");
            assert_eq!(text(&found), expect);
        }
        assert_eq!(text(&later.await.expect("exists now")), "now");
        for expect in ["a", "b"] {
            let found = uniq.next().await.expect("goes on").expect("a value");
            assert_eq!(text(&found), expect);
        }
        let cancel = Cancel {
            matchtag: log.matchtag().0,
        };
        client.notify::<KvsWatchCancel>(Dest::Any, &cancel);
        assert!(log.next().await.expect("a good end").is_none());
        let unlink = Op {
            dirent: serde_json::value::RawValue::NULL.to_owned(),
            ..put("u", "")
        };
        commit(&client, "primary", vec![unlink])
            .await
            .expect("committed");
        let end = uniq.next().await.map(drop);
        assert_eq!(end, Err(Errno::ENOENT.into()));
    });
}

#[test]
fn blobs_are_stored_by_digest() {
    run(async |local| {
        let client = local.client(None);
        let blob = Raw("hello".into());
        let digest = client
            .call::<ContentStore>(Dest::Any, &blob)
            .await
            .expect("stored");
        let loaded = client.call::<ContentLoad>(Dest::Any, &digest).await;
        assert_eq!(loaded, Ok(blob));
        let load = |digest: &'static [u8]| {
            let call = client.call::<ContentLoad>(Dest::Any, &Raw(digest.into()));
            async { call.await.map_err(|error| error.errno).map(drop) }
        };
        assert_eq!(load(&[1; 20]).await, Err(Errno::ENOENT));
        assert_eq!(load(b"short").await, Err(Errno::EPROTO));
        let flush = client.call::<ContentFlush>(Dest::Any, &Empty {}).await;
        assert_eq!(flush.map(drop), Err(Errno::ENOSYS.into()));
        let guest = local.client(Some(GUEST));
        let refused = guest.call::<ContentStore>(Dest::Any, &digest).await;
        assert_eq!(refused.map(drop).map_err(|e| e.errno), Err(Errno::EPERM));
    });
}

#[test]
fn unloading_fails_what_waits() {
    run(async |local| {
        let client = local.client(None);
        let wait = WaitVersion {
            rootseq: 9,
            namespace: "primary".to_owned(),
        };
        let waiting = client.call::<KvsWaitVersion>(Dest::Any, &wait);
        assert_eq!(
            get(&client, "primary", "x").await,
            Err(Errno::ENOENT),
            "the module has taken what came before"
        );
        let end = local.unload("kvs").await.expect("is loaded");
        assert!(end.is_ok());
        assert_eq!(waiting.await.map(drop), Err(Errno::ENOSYS.into()));
    });
}
