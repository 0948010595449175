mod crashes;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;
use spec::{BlobRef, HashKind, TreeObj};
use types::{Cred, RoleMask, UserId};

use crate::*;

const OWNER: Cred = Cred {
    userid: UserId(1),
    rolemask: RoleMask::OWNER,
};

/// A store with everything it ever wrote, and a cache that may be empty.
struct Store {
    cache: Cache,
    disk: HashMap<BlobRef, Bytes>,
    root: BlobRef,
    namespaces: BTreeMap<String, Namespace>,
}

impl Store {
    fn new() -> Store {
        let bytes = Dir::default().encode();
        let root = BlobRef::hash(HashKind::Sha1, &bytes);
        Store {
            cache: Cache::new(),
            disk: HashMap::from([(root, bytes)]),
            root,
            namespaces: BTreeMap::new(),
        }
    }

    fn load(&mut self, blobrefs: Vec<BlobRef>) -> Result<(), Error> {
        for blobref in blobrefs {
            let bytes = self.disk.get(&blobref).ok_or(Error::NoEntry)?.clone();
            self.cache.insert(blobref, bytes, None);
        }
        Ok(())
    }

    fn commit(&mut self, ops: &[Op]) -> Result<usize, Error> {
        loop {
            match apply(
                &mut self.cache,
                HashKind::Sha1,
                "primary",
                self.root,
                ops.iter(),
            )? {
                Step::Blobs(blobrefs) => self.load(blobrefs)?,
                Step::Namespace(name) => panic!("commit asks for {name}"),
                Step::Done(applied) => {
                    let count = applied.blobs.len();
                    for blob in applied.blobs {
                        self.disk.insert(blob.blobref, blob.bytes.clone());
                        self.cache.insert(blob.blobref, blob.bytes, blob.dir);
                    }
                    self.root = applied.root;
                    return Ok(count);
                }
            }
        }
    }

    fn look(&mut self, key: &str, want: Want) -> Result<TreeObj, Error> {
        let query = Query {
            root: self.root,
            foreign_root: false,
            key,
            want,
            cred: OWNER,
        };
        loop {
            match lookup(&mut self.cache, &self.namespaces, query)? {
                Step::Blobs(blobrefs) => self.load(blobrefs)?,
                Step::Namespace(_) => return Err(Error::NoNamespace),
                Step::Done(found) => {
                    assert_eq!(
                        TreeObj::decode(found.json().as_bytes()).expect("valid"),
                        found.object()
                    );
                    return Ok(found.object());
                }
            }
        }
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>, Error> {
        match self.look(key, Want::Value)? {
            TreeObj::Val(value) => Ok(value),
            other => panic!("{other:?} is no value"),
        }
    }
}

fn put(key: &str, value: &[u8]) -> Op {
    Op::new(key, Change::Put(TreeObj::Val(value.to_vec())))
}

fn link(key: &str, namespace: Option<&str>, target: &str) -> Op {
    let link = TreeObj::Symlink {
        namespace: namespace.map(str::to_owned),
        target: target.to_owned(),
    };
    Op::new(key, Change::Put(link))
}

fn append(key: &str, value: &[u8]) -> Op {
    Op::new(key, Change::Append(value.to_vec()))
}

#[test]
fn keys_have_one_form() {
    for (key, expect) in [
        ("a", "a"),
        ("a.b.c", "a.b.c"),
        (".a", "a"),
        ("a.", "a"),
        ("a..b", "a.b"),
        ("...", "."),
        (".", "."),
        ("a/b", "a/b"),
        ("..a...b..", "a.b"),
    ] {
        assert_eq!(normalize(key), expect, "{key}");
    }
}

#[test]
fn the_empty_directory_is_where_clients_expect_it() {
    let bytes = Dir::default().encode();
    assert_eq!(
        BlobRef::hash(HashKind::Sha1, &bytes).to_string(),
        "sha1-c0a9faf907dda6216fd73bf81d0b3b21a1a8cb91"
    );
}

#[test]
fn long_values_leave_for_a_blob() {
    let mut store = Store::new();
    assert_eq!(store.commit(&[put("a", &[b'x'; 54])]), Ok(1));
    assert!(matches!(
        store.look("a", Want::Object),
        Ok(TreeObj::Val(value)) if value.len() == 54
    ));
    assert_eq!(store.commit(&[put("a", &[b'x'; 55])]), Ok(2));
    assert!(matches!(
        store.look("a", Want::Object),
        Ok(TreeObj::ValRef(refs)) if refs.len() == 1
    ));
    assert_eq!(store.get("a"), Ok(vec![b'x'; 55]));
}

#[test]
fn appending_keeps_pieces() {
    let mut store = Store::new();
    store
        .commit(&[append("a", b"1"), append("a", b"")])
        .expect("new key");
    store.commit(&[append("a", b"2")]).expect("valref");
    assert!(matches!(
        store.look("a", Want::Object),
        Ok(TreeObj::ValRef(refs)) if refs.len() == 3
    ));
    assert_eq!(store.get("a"), Ok(b"12".to_vec()));
    store
        .commit(&[put("d.x", b""), link("l", None, "a")])
        .expect("put");
    assert_eq!(store.commit(&[append("d", b"")]), Err(Error::IsDirectory));
    assert_eq!(store.commit(&[append("l", b"")]), Err(Error::AppendToLink));
}

#[test]
fn writes_replace_what_is_in_the_way_and_follow_links() {
    let mut store = Store::new();
    store
        .commit(&[put("a", b"1"), link("l", None, "dir.sub")])
        .expect("put");
    store
        .commit(&[put("a.b", b"2"), put("l.x", b"3")])
        .expect("through a value and a link");
    assert_eq!(store.get("a.b"), Ok(b"2".to_vec()));
    assert_eq!(store.get("dir.sub.x"), Ok(b"3".to_vec()));
    assert_eq!(store.commit(&[put(".", b"")]), Err(Error::BadKey));
    store
        .commit(&[link("n", Some("other"), "x"), link("loop", None, "loop")])
        .expect("links");
    assert_eq!(store.commit(&[put("n.x", b"")]), Err(Error::BadKey));
    assert_eq!(store.commit(&[put("loop.x", b"")]), Err(Error::Loop));
    // The link itself is replaced where it is the last name.
    store.commit(&[put("l", b"4")]).expect("put");
    assert_eq!(store.get("l"), Ok(b"4".to_vec()));
}

#[test]
fn removing_nothing_changes_nothing() {
    let mut store = Store::new();
    store.commit(&[put("a.b", b"1")]).expect("put");
    let root = store.root;
    for key in ["x", "a.x", "a.b.c", "x.y.z"] {
        assert_eq!(store.commit(&[Op::new(key, Change::Unlink)]), Ok(0));
    }
    assert_eq!(store.root, root);
    // The empty directory is in the store already.
    assert_eq!(store.commit(&[Op::new("a.b", Change::Unlink)]), Ok(1));
    assert_eq!(store.look("a", Want::Directory), Ok(TreeObj::empty_dir()));
}

#[test]
fn lookups_fail_as_clients_expect() {
    let mut store = Store::new();
    store
        .commit(&[
            put("a.b", b"1"),
            link("l", None, "a.b"),
            link("ll", None, "ll"),
            link("n", Some("other"), "x"),
        ])
        .expect("put");
    assert_eq!(store.look("a", Want::Value), Err(Error::IsDirectory));
    assert_eq!(store.look(".", Want::Value), Err(Error::IsDirectory));
    assert_eq!(store.look("a.b", Want::Directory), Err(Error::NotDirectory));
    assert_eq!(store.look("a.b", Want::Link), Err(Error::NotLink));
    assert_eq!(store.look("a.b.c", Want::Value), Err(Error::NoEntry));
    assert_eq!(store.look("x", Want::Object), Err(Error::NoEntry));
    assert_eq!(store.look("", Want::Object), Err(Error::NoEntry));
    assert_eq!(store.look(".", Want::Link), Err(Error::IsDirectory));
    assert_eq!(store.look("ll", Want::Value), Err(Error::Loop));
    assert_eq!(store.look("n", Want::Value), Err(Error::NoNamespace));
    assert_eq!(store.get("l"), Ok(b"1".to_vec()));
    assert_eq!(
        store.look(".", Want::Object),
        Ok(TreeObj::DirRef(store.root))
    );
}

#[test]
fn links_lead_into_other_namespaces() {
    let mut store = Store::new();
    store.commit(&[put("x", b"1")]).expect("put");
    let other = Namespace {
        owner: UserId(5),
        root: store.root,
        seq: 1,
        flags: 0,
        removed: false,
    };
    store.namespaces.insert("other".to_owned(), other);
    store
        .commit(&[put("x", b"2"), link("n", Some("other"), ".")])
        .expect("put");
    assert_eq!(store.get("n.x"), Ok(b"1".to_vec()));
    let guest = Cred {
        userid: UserId(6),
        rolemask: RoleMask::USER,
    };
    let query = Query {
        root: store.root,
        foreign_root: true,
        key: "n.x",
        want: Want::Value,
        cred: guest,
    };
    let denied = lookup(&mut store.cache, &store.namespaces, query);
    assert!(matches!(denied, Err(Error::Denied)));
}

#[test]
fn inline_directories_are_unrolled() {
    let mut store = Store::new();
    let json = br#"{"ver":1,"type":"dir","data":{"s":{"ver":1,"type":"dir","data":{}},
        "v":{"ver":1,"type":"val","data":"MQ=="}}}"#;
    let object = TreeObj::decode(json).expect("valid");
    // Root, `d`, and the empty directory, which counts as new to an empty cache.
    assert_eq!(store.commit(&[Op::new("d", Change::Put(object))]), Ok(2));
    assert!(matches!(
        store.look("d.s", Want::Object),
        Ok(TreeObj::DirRef(_))
    ));
    assert_eq!(store.get("d.v"), Ok(b"1".to_vec()));
}

#[test]
fn neighbours_merge_until_one_does_not() {
    let pending = |origin, mergeable, sync| Pending {
        origin,
        ops: Vec::new(),
        mergeable,
        sync,
    };
    let mut queue = Queue::default();
    for (origin, mergeable, sync) in [
        (1, true, false),
        (2, true, false),
        (3, false, false),
        (4, true, false),
        (5, true, true),
        (6, true, true),
        (7, true, false),
    ] {
        queue.push(pending(origin, mergeable, sync));
    }
    let origins = |batch: &Batch<i32>| -> Vec<i32> {
        batch.members.iter().map(|member| member.origin).collect()
    };
    let batch = queue.next_batch(true).expect("waiting");
    assert_eq!(origins(&batch), [1, 2]);
    queue.retry_singly(batch);
    for expect in [&[1][..], &[2], &[3], &[4], &[5, 6], &[7]] {
        let batch = queue.next_batch(true).expect("waiting");
        assert_eq!(origins(&batch), expect);
    }
    assert!(queue.next_batch(true).is_none());
}

/// The tree as a flat map: values by key, and directories that were made.
#[derive(Clone, Debug, PartialEq)]
enum Model {
    Value(Vec<u8>),
    Dir(BTreeMap<String, Model>),
}

impl Model {
    fn dir(&mut self) -> &mut BTreeMap<String, Model> {
        if matches!(self, Model::Value(_)) {
            *self = Model::Dir(BTreeMap::new());
        }
        match self {
            Model::Dir(map) => map,
            Model::Value(_) => unreachable!("replaced above"),
        }
    }

    /// Whether the operation is allowed.
    fn apply(&mut self, names: &[&str], action: &Action) -> bool {
        if let Action::Unlink = action
            && matches!(self, Model::Value(_))
        {
            return true;
        }
        let map = self.dir();
        if let [name] = names {
            let name = (*name).to_owned();
            match action {
                Action::Unlink => {
                    map.remove(&name);
                }
                Action::Put(value) => {
                    map.insert(name, Model::Value(value.clone()));
                }
                Action::Append(value) => {
                    match map.entry(name).or_insert(Model::Value(Vec::new())) {
                        Model::Value(old) => old.extend_from_slice(value),
                        Model::Dir(_) => return false,
                    }
                }
                Action::Mkdir => {
                    map.insert(name, Model::Dir(BTreeMap::new()));
                }
            }
            return true;
        }
        let next = match (map.contains_key(names[0]), action) {
            (false, Action::Unlink) => return true,
            _ => map
                .entry(names[0].to_owned())
                .or_insert(Model::Dir(BTreeMap::new())),
        };
        next.apply(&names[1..], action)
    }

    fn check(&self, store: &mut Store, path: &str) {
        match self {
            Model::Value(value) => assert_eq!(store.get(path), Ok(value.clone()), "{path}"),
            Model::Dir(map) => {
                let listed = match store.look(path, Want::Directory) {
                    Ok(TreeObj::Dir(listed)) => listed,
                    other => panic!("{path} is {other:?}"),
                };
                let names: Vec<_> = map.keys().collect();
                assert_eq!(listed.keys().collect::<Vec<_>>(), names, "{path}");
                for (name, child) in map {
                    child.check(store, &format!("{path}.{name}"));
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Put(Vec<u8>),
    Append(Vec<u8>),
    Unlink,
    Mkdir,
}

impl Action {
    fn op(&self, key: &str) -> Op {
        let change = match self {
            Action::Put(value) => Change::Put(TreeObj::Val(value.clone())),
            Action::Append(value) => Change::Append(value.clone()),
            Action::Unlink => Change::Unlink,
            Action::Mkdir => Change::Put(TreeObj::empty_dir()),
        };
        Op::new(key, change)
    }
}

fn action() -> impl Strategy<Value = Action> {
    let value = || {
        prop_oneof![
            Just(vec![b'v'; 60]),
            prop::collection::vec(any::<u8>(), 0..4)
        ]
    };
    prop_oneof![
        value().prop_map(Action::Put),
        value().prop_map(Action::Append),
        Just(Action::Unlink),
        Just(Action::Mkdir),
    ]
}

proptest! {
    #[test]
    fn transactions_agree_with_a_plain_tree(
        txns in prop::collection::vec(
            prop::collection::vec(("[ab](\\.[ab]){0,3}", action()), 0..5),
            0..12,
        ),
        forgetful in any::<bool>(),
    ) {
        let mut store = Store::new();
        let mut model = Model::Dir(BTreeMap::new());
        for txn in txns {
            let mut next = model.clone();
            let mut allowed = true;
            let mut ops = Vec::new();
            for (key, action) in &txn {
                let names: Vec<_> = key.split('.').collect();
                allowed = allowed && next.apply(&names, action);
                ops.push(action.op(key));
            }
            if forgetful {
                store.cache = Cache::new();
            }
            let done = store.commit(&ops);
            prop_assert_eq!(done.is_ok(), allowed, "{:?}", done);
            if allowed {
                model = next;
            }
            // Every directory is canonical: what is on disk decodes to what encodes to it.
            for bytes in store.disk.values() {
                if let Some(dir) = Dir::decode(bytes) {
                    prop_assert_eq!(&dir.encode(), bytes);
                }
            }
        }
        model.check(&mut store, ".");
    }
}
