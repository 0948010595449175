//! A leader that may end between any two of its effects, against a plain tree.
//!
//! Its effects are those of the `kvs` module: each blob of a batch is stored, the checkpoint is
//! written if there is to be one, then the root moves on and the batch is answered. What is stored
//! outlives the leader; its queue, its cache and the root it had do not.

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A transaction arrives.
    Arrives {
        actions: Vec<(String, Action)>,
        mergeable: bool,
        sync: bool,
    },
    /// So many effects take place.
    Effects(usize),
    /// The store refuses what it is given next.
    Refusal,
    /// The cache loses everything.
    Forgets,
    /// The leader ends, and another one begins with the checkpoint.
    Crash,
    /// Somebody reads a root that was published once.
    LooksBack(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    let actions = prop::collection::vec(("[ab](\\.[ab]){0,2}", action()), 0..4);
    let arrives = (actions, any::<bool>(), prop::bool::weighted(0.3)).prop_map(
        |(actions, mergeable, sync)| Event::Arrives {
            actions,
            mergeable,
            sync,
        },
    );
    prop_oneof![
        6 => arrives,
        6 => (1..6_usize).prop_map(Event::Effects),
        1 => Just(Event::Refusal),
        1 => Just(Event::Forgets),
        1 => Just(Event::Crash),
        2 => any::<prop::sample::Index>().prop_map(Event::LooksBack),
    ]
}

/// Whose a transaction is, and what the model does for it.
#[derive(Clone, Debug)]
struct Origin {
    number: usize,
    actions: Vec<(String, Action)>,
}

/// A batch on its way into the store.
struct Active {
    batch: Batch<Origin>,
    root: BlobRef,
    unstored: Vec<NewBlob>,
    stored: Vec<NewBlob>,
    replaced: Vec<BlobRef>,
    checkpointed: bool,
    /// The tree once it is done.
    model: Model,
}

struct Leader {
    store: Store,
    queue: Queue<Origin>,
    active: Option<Active>,
    /// The tree under the root.
    model: Model,
    checkpoint: (BlobRef, Model),
    published: Vec<(BlobRef, Model)>,
    arrived: usize,
    /// The last transaction that was answered.
    answered: usize,
    /// What watchers of some keys saw last.
    seen: BTreeMap<&'static str, Option<Vec<u8>>>,
}

const WATCHED: [&str; 4] = ["a", "a.b", "b", "b.a.b"];

/// Whether a change of `key` can be one of `watched`.
fn concerns(key: &str, watched: &str) -> bool {
    components(key)
        .zip(components(watched))
        .all(|(a, b)| a == b)
}

impl Model {
    fn apply_all(&mut self, actions: &[(String, Action)]) -> bool {
        let mut apply = |(key, action): &(String, Action)| {
            self.apply(&key.split('.').collect::<Vec<_>>(), action)
        };
        actions.iter().all(&mut apply)
    }

    fn value(&self, key: &str) -> Option<Vec<u8>> {
        let mut here = self;
        for name in components(key) {
            here = match here {
                Model::Dir(map) => map.get(name)?,
                Model::Value(_) => return None,
            };
        }
        match here {
            Model::Value(value) => Some(value.clone()),
            Model::Dir(_) => None,
        }
    }
}

impl Leader {
    fn new() -> Leader {
        let store = Store::new();
        let empty = (store.root, Model::Dir(BTreeMap::new()));
        Leader {
            store,
            queue: Queue::default(),
            active: None,
            model: empty.1.clone(),
            checkpoint: empty.clone(),
            published: vec![empty],
            arrived: 0,
            answered: 0,
            seen: BTreeMap::new(),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrives {
                actions,
                mergeable,
                sync,
            } => {
                self.arrived += 1;
                let ops = actions.iter().map(|(key, action)| action.op(key)).collect();
                let number = self.arrived;
                self.queue.push(Pending {
                    origin: Origin { number, actions },
                    ops,
                    mergeable,
                    sync,
                });
            }
            Event::Effects(count) => (0..count).for_each(|_| self.effect()),
            Event::Refusal => {
                if let Some(active) = self.active.take() {
                    self.fail(active.batch);
                }
            }
            Event::Forgets => self.store.cache = Cache::new(),
            Event::Crash => self.crash(),
            Event::LooksBack(index) => {
                let (root, model) = index.get(&self.published).clone();
                self.check(root, &model);
            }
        }
    }

    fn check(&mut self, root: BlobRef, model: &Model) {
        let own = std::mem::replace(&mut self.store.root, root);
        model.check(&mut self.store, ".");
        self.store.root = own;
    }

    fn crash(&mut self) {
        self.store.cache = Cache::new();
        self.queue = Queue::default();
        self.active = None;
        (self.store.root, self.model) = self.checkpoint.clone();
        self.answered = self.arrived;
        self.seen.clear();
        self.check(self.store.root, &self.model.clone());
    }

    /// The next effect, if there is anything to do.
    fn effect(&mut self) {
        let Some(mut active) = self.active.take() else {
            return self.begin();
        };
        if let Some(blob) = active.unstored.pop() {
            let bytes = blob.bytes.clone();
            self.store.disk.insert(blob.blobref, bytes);
            active.stored.push(blob);
        } else if active.batch.sync() && !active.checkpointed {
            self.checkpoint = (active.root, active.model.clone());
            active.checkpointed = true;
        } else {
            return self.publish(active);
        }
        self.active = Some(active);
    }

    /// Applies the next batch.
    fn begin(&mut self) {
        let Some(batch) = self.queue.next_batch(true) else {
            return;
        };
        let mut model = self.model.clone();
        let mut members = batch.members.iter();
        let allowed = members.all(|member| model.apply_all(&member.origin.actions));
        let applied = loop {
            let (cache, root) = (&mut self.store.cache, self.store.root);
            match apply(cache, HashKind::Sha1, "primary", root, batch.ops()) {
                Ok(Step::Blobs(missing)) => self.store.load(missing).expect("all is stored"),
                Ok(Step::Namespace(name)) => panic!("a transaction asks for {name}"),
                Ok(Step::Done(applied)) => break Some(applied),
                Err(_) => break None,
            }
        };
        assert_eq!(applied.is_some(), allowed, "{batch:?}");
        match applied {
            None => self.fail(batch),
            Some(applied) => {
                self.active = Some(Active {
                    batch,
                    root: applied.root,
                    unstored: applied.blobs,
                    stored: Vec::new(),
                    replaced: applied.replaced,
                    checkpointed: false,
                    model,
                });
            }
        }
    }

    fn fail(&mut self, batch: Batch<Origin>) {
        if batch.members.len() > 1 {
            self.queue.retry_singly(batch);
        } else {
            self.answer(&batch);
        }
    }

    fn publish(&mut self, active: Active) {
        for blob in active.stored {
            self.store.cache.insert(blob.blobref, blob.bytes, blob.dir);
        }
        self.store.cache.replace(active.replaced);
        self.store.root = active.root;
        self.model = active.model;
        self.published.push((active.root, self.model.clone()));
        self.answer(&active.batch);
        self.wake_watchers(&active.batch);
    }

    /// Each is answered once, in the order of arrival.
    fn answer(&mut self, batch: &Batch<Origin>) {
        for member in &batch.members {
            assert_eq!(member.origin.number, self.answered + 1);
            self.answered += 1;
        }
    }

    /// Those who watch a key that the batch names look again. Nobody misses a change that way.
    fn wake_watchers(&mut self, batch: &Batch<Origin>) {
        for watched in WATCHED {
            let first = !self.seen.contains_key(watched);
            let seen = self.seen.entry(watched).or_default();
            if first || batch.ops().any(|op| concerns(op.key(), watched)) {
                *seen = self.store.get(watched).ok();
            }
            assert_eq!(*seen, self.model.value(watched), "{watched}");
        }
    }
}

proptest! {
    #[test]
    fn a_leader_that_ends_at_any_time_loses_nothing_it_answered_for(
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut leader = Leader::new();
        for event in events {
            leader.on_event(event);
        }
        for (root, model) in leader.published.clone() {
            leader.check(root, &model);
        }
        // Whatever is under way ends, and the last checkpoint is whole.
        while leader.active.is_some() || !leader.queue.is_empty() {
            leader.effect();
        }
        prop_assert_eq!(leader.answered, leader.arrived);
        leader.crash();
    }
}
