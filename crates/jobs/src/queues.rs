//! Job queues: whether they take jobs and whether their jobs are scheduled.

use std::collections::BTreeMap;

use types::Errno;

use crate::Refusal;
use crate::policy::Policy;

/// A queue's administrative state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Whether it takes jobs.
    pub enabled: bool,
    /// Why not.
    pub disable_reason: Option<String>,
    /// Whether its jobs are scheduled.
    pub started: bool,
    /// Why not.
    pub stop_reason: Option<String>,
    /// What a restart shall find: the last wish that was to be remembered.
    pub saved_start: (bool, Option<String>),
    /// The queue whose resources it uses.
    pub parent: Option<String>,
}

impl Queue {
    fn new(started: bool, parent: Option<String>) -> Queue {
        Queue {
            enabled: true,
            disable_reason: None,
            started,
            stop_reason: None,
            saved_start: (started, None),
            parent,
        }
    }
}

/// All queues: one without a name, or any number of named ones.
#[derive(Clone, Debug)]
pub struct Queues {
    anonymous: Queue,
    named: BTreeMap<String, Queue>,
}

impl Default for Queues {
    fn default() -> Self {
        Queues {
            anonymous: Queue::new(true, None),
            named: BTreeMap::new(),
        }
    }
}

impl Queues {
    /// Adds and removes queues as configured; the others keep their state. Named queues are
    /// stopped at first.
    pub fn configure(&mut self, policy: &Policy) {
        self.named
            .retain(|name, _| policy.queues.contains_key(name));
        for (name, config) in &policy.queues {
            let queue = self
                .named
                .entry(name.clone())
                .or_insert_with(|| Queue::new(false, None));
            queue.parent = config.parent.clone();
        }
    }

    /// The names of named queues.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// Every queue, with its name.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, &Queue)> {
        let anonymous = self.named.is_empty().then_some((None, &self.anonymous));
        let named = self
            .named
            .iter()
            .map(|(name, queue)| (Some(name.as_str()), queue));
        anonymous.into_iter().chain(named)
    }

    /// Whether queues have names.
    pub fn is_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// A queue. Errors: `EINVAL`.
    pub fn find(&self, name: Option<&str>) -> Result<&Queue, Refusal> {
        match name {
            None if self.is_named() => {
                Err(Refusal::new(Errno::EINVAL, "a named queue is required"))
            }
            None => Ok(&self.anonymous),
            Some(name) => self.named.get(name).ok_or_else(|| unknown(name)),
        }
    }

    /// The queues a request means: one by name, the only one, or all of them.
    fn targets(&mut self, name: Option<&str>, all: bool) -> Result<Vec<&mut Queue>, Refusal> {
        match name {
            Some(name) => match self.named.get_mut(name) {
                Some(queue) => Ok(vec![queue]),
                None => Err(unknown(name)),
            },
            None if !self.is_named() => Ok(vec![&mut self.anonymous]),
            None if all => Ok(self.named.values_mut().collect()),
            None => Err(Refusal::new(
                Errno::EINVAL,
                "Use --all to apply this command to all queues",
            )),
        }
    }

    /// Opens or closes queues for jobs. Errors: `EINVAL`.
    pub fn enable(
        &mut self,
        name: Option<&str>,
        enable: bool,
        reason: Option<&str>,
        all: bool,
    ) -> Result<(), Refusal> {
        if !enable && reason.is_none() {
            return Err(Refusal::new(
                Errno::EINVAL,
                "reason is required for disable",
            ));
        }
        for queue in self.targets(name, all)? {
            queue.enabled = enable;
            queue.disable_reason = reason.filter(|_| !enable).map(str::to_owned);
        }
        Ok(())
    }

    /// Starts or stops scheduling. Errors: `EINVAL`.
    pub fn start(
        &mut self,
        name: Option<&str>,
        start: bool,
        reason: Option<&str>,
        all: bool,
        save: bool,
    ) -> Result<(), Refusal> {
        for queue in self.targets(name, all)? {
            queue.started = start;
            queue.stop_reason = reason.filter(|_| !start).map(str::to_owned);
            if save {
                queue.saved_start = (start, queue.stop_reason.clone());
            }
        }
        Ok(())
    }

    /// Puts back what was stored; unknown queues are ignored.
    pub fn restore(
        &mut self,
        name: Option<&str>,
        enabled: bool,
        disable_reason: Option<String>,
        started: bool,
        stop_reason: Option<String>,
    ) {
        let queue = match name {
            None => &mut self.anonymous,
            Some(name) => match self.named.get_mut(name) {
                Some(queue) => queue,
                None => return,
            },
        };
        queue.enabled = enabled;
        queue.disable_reason = disable_reason;
        queue.started = started;
        queue.stop_reason = stop_reason.clone();
        queue.saved_start = (started, stop_reason);
    }

    /// Whether a queue takes a job. Errors: `EINVAL`.
    pub fn accept(&self, name: Option<&str>) -> Result<(), Refusal> {
        let queue = match name {
            // A name is harmless where queues have none only if it is not there.
            Some(name) if !self.is_named() => return Err(unknown(name)),
            name => self.find(name)?,
        };
        if queue.enabled {
            return Ok(());
        }
        let to = name.map(|name| format!(" to {name}")).unwrap_or_default();
        let reason = queue.disable_reason.as_deref().unwrap_or_default();
        let text = format!("job submission{to} is disabled: {reason}");
        Err(Refusal::new(Errno::EINVAL, text))
    }

    /// Whether jobs of a queue are scheduled: it and its parent are started.
    pub fn schedules(&self, name: Option<&str>) -> bool {
        let Ok(queue) = self.find(name) else {
            return false;
        };
        let parent = queue.parent.as_deref();
        queue.started
            && parent.is_none_or(|parent| self.find(Some(parent)).is_ok_and(|q| q.started))
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(Errno::EINVAL, format!("'{name}' is not a valid queue"))
}
