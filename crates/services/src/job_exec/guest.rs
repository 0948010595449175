//! The key-value namespace a job's guests write to: made when the job starts, left in the job's
//! directory when it ends or this broker does.

use proto::Raw;
use proto::content::ContentStore;
use proto::job_exec::Start;
use proto::kvs::{
    Commit, Committed, KvsCommit, KvsGetroot, KvsLookup, KvsNamespaceCreate, KvsNamespaceRemove,
    Lookup, Namespace, NamespaceCreate, PRIMARY, flags,
};
use rpc::{Call, Dest, RpcError};
use spec::{BlobRef, HashKind, TreeObj};
use tokio::sync::oneshot;
use types::{Errno, JobId, Rank};

use super::Shared;
use crate::store;

/// The name of a job's guest namespace.
pub(super) fn namespace(id: JobId) -> String {
    format!("job-{}", id.0)
}

/// Leads from the job's directory to the namespace. Nobody has to wait for it: the KVS keeps the
/// order.
pub(super) fn link(shared: &Shared, id: JobId) -> oneshot::Receiver<Result<(), RpcError>> {
    let link = TreeObj::Symlink {
        namespace: Some(namespace(id)),
        target: ".".into(),
    };
    let op = store::object(format!("{}.guest", id.kvs_path()), &link);
    shared.primary.write(vec![op])
}

/// Makes the guest namespace, with the exec eventlog begun: a root of its own costs less than a
/// commit.
pub(super) async fn create(shared: &Shared, start: &Start, log: &str) -> Result<(), RpcError> {
    let hash = shared
        .host
        .attr("content.hash")
        .and_then(|name| HashKind::from_name(&name))
        .unwrap_or(HashKind::Sha1);
    let store = |directory: TreeObj| {
        let blob = directory.encode().into_bytes();
        let blobref = BlobRef::hash(hash, &blob);
        let call = shared
            .handle
            .call::<ContentStore>(Dest::Any, &Raw(blob.into()));
        (blobref, call)
    };
    let directory = |name: &str, object| TreeObj::Dir([(name.to_owned(), object)].into());
    let log = TreeObj::Val(log.as_bytes().to_vec());
    let (exec, exec_stored) = store(directory("eventlog", log));
    let (root, root_stored) = store(directory("exec", TreeObj::DirRef(exec)));
    let created = new_namespace(shared, start, root);
    let (exec, root, created) = tokio::join!(exec_stored, root_stored, created);
    let failed = |error: RpcError| {
        let text = format!("failed to create guest namespace: {error}");
        RpcError::new(error.errno, text)
    };
    exec.map_err(failed)?;
    root.map_err(failed)?;
    created.map_err(failed)
}

/// Makes the guest namespace of a job that was there before this broker, with what
/// [`leave`] kept of it.
pub(super) async fn restore(shared: &Shared, start: &Start) -> Result<(), RpcError> {
    let lookup = Lookup {
        key: format!("{}.guest", start.id.kvs_path()),
        flags: flags::TREEOBJ,
        namespace: Some(PRIMARY.into()),
        rootdir: None,
        rootseq: None,
    };
    let found = shared.handle.call::<KvsLookup>(Dest::Any, &lookup).await?;
    match TreeObj::decode(found.val.get().as_bytes()) {
        Ok(TreeObj::DirRef(root)) => new_namespace(shared, start, root).await,
        _ => Err(RpcError::new(Errno::EPROTO, "guest directory is none")),
    }
}

/// Whether a job that ran before this module may be gone on with (RFC 50). Errors: why not.
pub(super) async fn check_recoverable(shared: &Shared, id: JobId) -> Result<(), String> {
    let key = format!("{}.guest.exec.eventlog", id.kvs_path());
    let found = store::get(&shared.handle, &key).await;
    let Some(log) = found.map_err(|error| format!("{key}: {error}"))? else {
        // What ran too short for one has nothing that could get lost.
        return Ok(());
    };
    let entries = spec::eventlog::decode(&log).map_err(|error| format!("{key}: {error}"))?;
    match entries.iter().any(|entry| entry.name == "recoverable") {
        true => Ok(()),
        false => Err("no recoverable event".to_owned()),
    }
}

async fn new_namespace(shared: &Shared, start: &Start, root: BlobRef) -> Result<(), RpcError> {
    let request = NamespaceCreate {
        namespace: namespace(start.id),
        rootref: root.to_string(),
        owner: i64::from(start.userid.0),
        flags: 0,
    };
    let created = shared
        .handle
        .call::<KvsNamespaceCreate>(Dest::Rank(Rank::LEADER), &request);
    match created.await {
        Err(error) if error.errno != Errno::EEXIST => Err(error),
        _ => Ok(()),
    }
}

/// Leaves what is in the namespace in the job's directory, with the end of the exec eventlog. Who
/// follows the eventlog goes on there once the namespace has gone.
pub(super) async fn graft(
    shared: &Shared,
    id: JobId,
    log: &str,
) -> Result<Call<Committed>, RpcError> {
    let request = Namespace {
        namespace: namespace(id),
    };
    let root = shared
        .handle
        .call::<KvsGetroot>(Dest::Rank(Rank::LEADER), &request)
        .await?;
    let root: BlobRef = root
        .rootref
        .parse()
        .map_err(|_| RpcError::new(Errno::EPROTO, "guest namespace root is no blobref"))?;
    let key = format!("{}.guest", id.kvs_path());
    let mut ops = vec![store::object(key.clone(), &TreeObj::DirRef(root))];
    if !log.is_empty() {
        ops.push(store::append(
            format!("{key}.exec.eventlog"),
            log.as_bytes(),
        ));
    }
    let commit = Commit {
        ops,
        namespace: PRIMARY.into(),
        flags: 0,
    };
    Ok(shared.handle.call::<KvsCommit>(Dest::Any, &commit))
}

/// Removes the namespace once its contents are elsewhere.
pub(super) async fn remove(
    shared: &Shared,
    id: JobId,
    grafted: Call<Committed>,
) -> Result<(), RpcError> {
    grafted.await?;
    let request = Namespace {
        namespace: namespace(id),
    };
    let removed = shared
        .handle
        .call::<KvsNamespaceRemove>(Dest::Rank(Rank::LEADER), &request);
    removed.await.map(drop)
}

/// Keeps what the guests of jobs that still run have written, since namespaces end with this
/// broker. Errors: the first one's.
pub(super) async fn leave(shared: &Shared, jobs: &[JobId]) -> Result<(), RpcError> {
    for &id in jobs {
        match graft(shared, id, "").await {
            Ok(grafted) => drop(grafted.await?),
            // Short mock jobs have none.
            Err(error) if error.errno == Errno::ENOTSUP => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
