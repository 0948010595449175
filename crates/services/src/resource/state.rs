//! The state of every rank, on the leader: drained, excluded, online, silent.
//!
//! Pure: times come in as arguments, and what changes is returned as eventlog entries.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use spec::{Entry, ResourceSet};
use types::{Errno, Hostlist, IdSet};

/// Why and since when a rank is drained.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drained {
    pub(super) timestamp: f64,
    pub(super) reason: Option<String>,
}

/// How a drain request treats ranks that are drained already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They are an error.
    Strict,
    /// A reason is added where there is none.
    Update,
    /// The reason is replaced.
    Overwrite,
    /// Reason and time are replaced.
    ForceOverwrite,
}

impl Mode {
    /// Reads the request's word.
    pub(super) fn parse(mode: Option<&str>) -> Option<Mode> {
        match mode {
            None => Some(Mode::Strict),
            Some("update") => Some(Mode::Update),
            Some("overwrite") => Some(Mode::Overwrite),
            Some("force-overwrite") => Some(Mode::ForceOverwrite),
            Some(_) => None,
        }
    }

    fn number(self) -> i64 {
        match self {
            Mode::Strict | Mode::Update => 0,
            Mode::Overwrite => 1,
            Mode::ForceOverwrite => 2,
        }
    }
}

/// Why ranks could not be drained or undrained. The texts are part of the user interface.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RanksError {
    #[error("idset is empty")]
    Empty,
    #[error("idset is out of range")]
    OutOfRange,
    #[error("invalid targets: invalid hosts: {0}")]
    UnknownHosts(String),
    #[error("R is unavailable for mapping hostnames to ranks")]
    NoResources,
    #[error("{0} already drained")]
    AlreadyDrained(String),
    #[error("{0} already drained or excluded")]
    AlreadyDrainedOrExcluded(String),
    #[error("{0} excluded")]
    Excluded(String),
    #[error("{0} not drained")]
    NotDrained(String),
}

impl RanksError {
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::AlreadyDrained(_) | Self::AlreadyDrainedOrExcluded(_) | Self::NotDrained(_) => {
                Errno::EEXIST
            }
            _ => Errno::EINVAL,
        }
    }
}

/// `rank 1` or `ranks 1-2`.
fn name(ranks: &IdSet) -> String {
    let word = if ranks.len() == 1 { "rank" } else { "ranks" };
    format!("{word} {ranks}")
}

/// The state of every rank.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    pub(super) size: u32,
    pub(super) drained: BTreeMap<u32, Drained>,
    pub(super) exclude: IdSet,
    pub(super) online: IdSet,
    pub(super) torpid: IdSet,
    /// Were online and have left.
    pub(super) lost: IdSet,
}

impl Ranks {
    /// Reads ranks or hosts.
    pub(super) fn targets(
        &self,
        text: &str,
        hosts: Option<&Hostlist>,
    ) -> Result<IdSet, RanksError> {
        if text.is_empty() {
            return Err(RanksError::Empty);
        }
        if let Ok(ranks) = text.parse::<IdSet>() {
            return match ranks.last() {
                None => Err(RanksError::Empty),
                Some(last) if last >= self.size => Err(RanksError::OutOfRange),
                Some(_) => Ok(ranks),
            };
        }
        let known = hosts.ok_or(RanksError::NoResources)?;
        let unknown = || RanksError::UnknownHosts(text.to_owned());
        let wanted: Hostlist = text.parse().map_err(|_| unknown())?;
        let mut ranks = IdSet::new();
        let mut missing = Hostlist::new();
        for host in wanted.iter() {
            let before = ranks.len();
            known.positions(&host).for_each(|rank| {
                ranks.insert(rank as u32);
            });
            if ranks.len() == before && !known.contains(&host) {
                missing.push(&host);
            }
        }
        if missing.is_empty() {
            Ok(ranks)
        } else {
            Err(RanksError::UnknownHosts(missing.to_string()))
        }
    }

    /// Drains ranks. Returns the eventlog entry, which names all of them whatever changes.
    pub(super) fn drain(
        &self,
        now: f64,
        ranks: &IdSet,
        reason: Option<&str>,
        mode: Mode,
        hosts: &Hostlist,
    ) -> Result<Entry, RanksError> {
        if mode == Mode::Strict {
            let excluded = ranks.intersection(&self.exclude);
            let already: IdSet = ranks
                .iter()
                .filter(|rank| {
                    self.drained
                        .get(rank)
                        .is_some_and(|d| d.reason.is_some() || reason.is_none())
                })
                .collect();
            match (already.is_empty(), excluded.is_empty()) {
                (true, true) => {}
                (false, true) => return Err(RanksError::AlreadyDrained(name(&already))),
                (true, false) => return Err(RanksError::Excluded(name(&excluded))),
                (false, false) => {
                    let both = already.union(&excluded);
                    return Err(RanksError::AlreadyDrainedOrExcluded(name(&both)));
                }
            }
        }
        let mut context = Map::new();
        context.insert("idset".into(), ranks.to_string().into());
        context.insert("nodelist".into(), hosts.select(ranks).to_string().into());
        if let Some(reason) = reason {
            context.insert("reason".into(), reason.into());
        }
        context.insert("overwrite".into(), mode.number().into());
        Ok(Entry::with_context(now, "drain", context))
    }

    /// Undrains ranks. Returns the eventlog entry, `None` if nothing changes.
    pub(super) fn undrain(
        &self,
        now: f64,
        ranks: &IdSet,
        reason: Option<&str>,
        mode: Mode,
        hosts: &Hostlist,
    ) -> Result<Option<Entry>, RanksError> {
        let affected: IdSet = ranks
            .iter()
            .filter(|rank| self.drained.contains_key(rank))
            .collect();
        let not_drained = ranks.difference(&affected);
        if mode == Mode::Strict && !not_drained.is_empty() {
            return Err(RanksError::NotDrained(name(&not_drained)));
        }
        if affected.is_empty() {
            return Ok(None);
        }
        let mut context = Map::new();
        context.insert("idset".into(), affected.to_string().into());
        context.insert(
            "nodelist".into(),
            hosts.select(&affected).to_string().into(),
        );
        context.insert("overwrite".into(), mode.number().into());
        if let Some(reason) = reason {
            context.insert("reason".into(), reason.into());
        }
        Ok(Some(Entry::with_context(now, "undrain", context)))
    }

    /// Applies an eventlog entry, new or from an earlier run.
    pub(super) fn apply(&mut self, entry: &Entry) {
        let ranks = entry
            .get_str("idset")
            .and_then(|text| text.parse::<IdSet>().ok());
        let Some(ranks) = ranks else { return };
        match entry.name.as_str() {
            "drain" => self.apply_drain(entry, &ranks),
            "undrain" => self.drained.retain(|rank, _| !ranks.contains(*rank)),
            "online" => {
                self.online.insert_all(&ranks);
                self.lost.remove_all(&ranks);
            }
            "offline" => {
                self.online.remove_all(&ranks);
                self.lost.insert_all(&ranks);
            }
            "torpid" => self.torpid.insert_all(&ranks),
            "lively" => self.torpid.remove_all(&ranks),
            _ => {}
        }
    }

    fn apply_drain(&mut self, entry: &Entry, ranks: &IdSet) {
        let reason = entry.get_str("reason").map(str::to_owned);
        let overwrite = entry.get_i64("overwrite").unwrap_or(0);
        for rank in ranks.iter().filter(|rank| *rank < self.size) {
            let new = Drained {
                timestamp: entry.timestamp,
                reason: reason.clone(),
            };
            match self.drained.get_mut(&rank) {
                None => {
                    self.drained.insert(rank, new);
                }
                Some(old) if overwrite == 2 => *old = new,
                Some(old) if overwrite == 1 || old.reason.is_none() => old.reason = reason.clone(),
                Some(_) => {}
            }
        }
    }

    /// The ranks a scheduler may use now.
    pub(super) fn up(&self) -> IdSet {
        let mut up = self.online.difference(&self.torpid);
        up.remove_all(&self.exclude);
        for rank in self.drained.keys() {
            up.remove(*rank);
        }
        up
    }

    /// Drained ranks grouped by time and reason, as `resource.status` shows them.
    pub(super) fn drain_groups(&self) -> Map<String, Value> {
        let mut keys: Vec<(f64, &str)> = Vec::new();
        let mut groups: Vec<IdSet> = Vec::new();
        for (rank, drained) in &self.drained {
            let key = (
                drained.timestamp,
                drained.reason.as_deref().unwrap_or_default(),
            );
            match keys.iter().position(|known| *known == key) {
                Some(at) => {
                    groups[at].insert(*rank);
                }
                None => {
                    keys.push(key);
                    groups.push(IdSet::from_range(*rank, *rank));
                }
            }
        }
        let value = |(timestamp, reason): &(f64, &str)| serde_json::json!({"timestamp": timestamp, "reason": reason});
        groups
            .iter()
            .zip(&keys)
            .map(|(ranks, key)| (ranks.to_string(), value(key)))
            .collect()
    }
}

/// What discovery has gathered from this rank and all below it.
#[derive(Debug, Default)]
pub(super) struct Reduction {
    pub(super) resources: ResourceSet,
    pub(super) ranks: BTreeSet<u32>,
}

impl Reduction {
    /// Adds what a rank or a subtree found. What is known already is ignored.
    pub(super) fn add(&mut self, resources: &ResourceSet) {
        self.ranks.extend(resources.ranks().iter());
        self.resources.add(resources);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks() -> (Ranks, Hostlist) {
        let hosts: Hostlist = "a,b,b,c".parse().expect("a hostlist");
        (
            Ranks {
                size: 4,
                online: IdSet::first_n(4),
                ..Ranks::default()
            },
            hosts,
        )
    }

    fn set(text: &str) -> IdSet {
        text.parse().expect("an idset")
    }

    fn drain(
        state: &mut Ranks,
        now: f64,
        targets: &str,
        reason: Option<&str>,
        mode: Mode,
    ) -> String {
        let hosts = ranks().1;
        match state.drain(now, &set(targets), reason, mode, &hosts) {
            Ok(entry) => {
                state.apply(&entry);
                entry.get_str("idset").unwrap_or_default().to_owned()
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn targets_are_ranks_or_hosts() {
        let (state, hosts) = ranks();
        let check = |text: &str| {
            state
                .targets(text, Some(&hosts))
                .map(|set| set.to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(check("1-2"), Ok("1-2".into()));
        assert_eq!(check("b"), Ok("1-2".into()));
        assert_eq!(check("a,c"), Ok("0,3".into()));
        assert_eq!(check(""), Err("idset is empty".into()));
        assert_eq!(check("9"), Err("idset is out of range".into()));
        assert_eq!(
            check("a,x"),
            Err("invalid targets: invalid hosts: x".into())
        );
    }

    #[test]
    fn the_mode_decides_what_happens_to_drained_ranks() {
        let (mut state, _) = ranks();
        assert_eq!(drain(&mut state, 1.0, "0-1", None, Mode::Strict), "0-1");
        assert_eq!(
            drain(&mut state, 2.0, "1", None, Mode::Strict),
            "rank 1 already drained"
        );
        assert_eq!(drain(&mut state, 2.0, "1", Some("x"), Mode::Strict), "1");
        assert_eq!(
            state.drained[&1],
            Drained {
                timestamp: 1.0,
                reason: Some("x".into())
            }
        );
        assert_eq!(
            drain(&mut state, 3.0, "0-2", Some("y"), Mode::Update),
            "0-2"
        );
        assert_eq!(
            state.drained[&0],
            Drained {
                timestamp: 1.0,
                reason: Some("y".into())
            }
        );
        assert_eq!(drain(&mut state, 4.0, "1", Some("z"), Mode::Update), "1");
        assert_eq!(state.drained[&1].reason.as_deref(), Some("x"));
        assert_eq!(drain(&mut state, 4.0, "1", Some("z"), Mode::Overwrite), "1");
        assert_eq!(
            state.drained[&1],
            Drained {
                timestamp: 1.0,
                reason: Some("z".into())
            }
        );
        assert_eq!(drain(&mut state, 5.0, "1", None, Mode::ForceOverwrite), "1");
        assert_eq!(
            state.drained[&1],
            Drained {
                timestamp: 5.0,
                reason: None
            }
        );
        state.exclude = set("3");
        assert_eq!(
            drain(&mut state, 6.0, "3", None, Mode::Strict),
            "rank 3 excluded"
        );
        assert_eq!(
            drain(&mut state, 6.0, "0,3", None, Mode::Strict),
            "ranks 0,3 already drained or excluded"
        );
        assert_eq!(state.up().to_string(), "");
    }

    #[test]
    fn undrain_takes_only_what_is_drained() {
        let (mut state, hosts) = ranks();
        drain(&mut state, 1.0, "0-1", None, Mode::Strict);
        let error = state.undrain(2.0, &set("1-2"), None, Mode::Strict, &hosts);
        assert_eq!(
            error.map_err(|e| e.to_string()),
            Err("rank 2 not drained".into())
        );
        let entry = state.undrain(2.0, &set("1-2"), None, Mode::Update, &hosts);
        state.apply(&entry.expect("allowed").expect("a change"));
        assert_eq!(state.drained.keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!(state.up().to_string(), "1-3");
        assert_eq!(state.drain_groups().len(), 1);
    }
}
