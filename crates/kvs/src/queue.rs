//! Transactions of a namespace in arrival order, and which are committed together.

use std::collections::VecDeque;

use crate::Op;

/// A transaction that waits. `T` says whose it is.
#[derive(Clone, Debug)]
pub struct Pending<T> {
    /// Whose it is.
    pub origin: T,
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// Whether it may be committed together with its neighbours.
    pub mergeable: bool,
    /// Whether a checkpoint comes with it.
    pub sync: bool,
}

/// Transactions committed as one; never empty.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// Its members, in order.
    pub members: Vec<Pending<T>>,
}

impl<T> Batch<T> {
    /// Whether a checkpoint comes with it.
    pub fn sync(&self) -> bool {
        self.members.iter().any(|member| member.sync)
    }

    /// All operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.members.iter().flat_map(|member| &member.ops)
    }
}

/// Transactions that wait.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: VecDeque<Pending<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            waiting: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Adds a transaction.
    pub fn push(&mut self, pending: Pending<T>) {
        self.waiting.push_back(pending);
    }

    /// The number that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The transactions that wait.
    pub fn iter(&self) -> impl Iterator<Item = &Pending<T>> {
        self.waiting.iter()
    }

    /// Takes everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Pending<T>> + '_ {
        self.waiting.drain(..)
    }

    /// Takes the first transaction and, if `merge`, the adjacent ones that go with it. Those that
    /// want a checkpoint share one, so that durable commits cost no more than others when many
    /// come together.
    pub fn next_batch(&mut self, merge: bool) -> Option<Batch<T>> {
        let first = self.waiting.pop_front()?;
        let sync = first.sync;
        let joins = |pending: &Pending<T>| merge && pending.mergeable && pending.sync == sync;
        let more = joins(&first);
        let mut members = vec![first];
        while more && self.waiting.front().is_some_and(joins) {
            members.extend(self.waiting.pop_front());
        }
        Some(Batch { members })
    }

    /// Puts a batch that failed back to the head, to be tried one by one, so that only the guilty
    /// member fails.
    pub fn retry_singly(&mut self, batch: Batch<T>) {
        for mut member in batch.members.into_iter().rev() {
            member.mergeable = false;
            self.waiting.push_front(member);
        }
    }
}
