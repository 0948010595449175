//! Sets of small non-negative integers and their string form (RFC 22).
//!
//! A set is kept as sorted, disjoint, non-adjacent inclusive ranges. Rank and core sets are nearly
//! always a handful of ranges, and a hostile string such as `0-2147483647` costs eight bytes
//! instead of a bitmap. Algebra is linear in the number of ranges.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::Errno;

/// The largest id the string form may hold; the limit C programs have.
pub const ID_MAX: u32 = i32::MAX as u32;

/// Why a string is not an idset (RFC 22).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdSetError {
    /// Not digits, hyphens, commas and one optional pair of brackets in the right places.
    #[error("invalid idset '{0}'")]
    Syntax(String),
    /// An id above [`ID_MAX`].
    #[error("idset '{0}' has an id out of range")]
    Range(String),
    /// Ids are not ascending, or appear twice.
    #[error("idset '{0}' is not in ascending order")]
    Order(String),
}

impl IdSetError {
    /// The error number C programs report: always `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// A set of ids such as `0-3,7` (RFC 22).
///
/// ```
/// use types::IdSet;
/// let set: IdSet = "[0-3,7]".parse().unwrap();
/// assert_eq!(set.len(), 5);
/// assert_eq!(set.to_string(), "0-3,7");
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdSet {
    ranges: SmallVec<[(u32, u32); 2]>,
}

impl IdSet {
    /// The empty set.
    pub fn new() -> IdSet {
        IdSet {
            ranges: SmallVec::new(),
        }
    }

    /// The ids `first` to `last`, both included; empty if `last` is smaller.
    pub fn from_range(first: u32, last: u32) -> IdSet {
        let mut set = IdSet::new();
        set.insert_range(first, last);
        set
    }

    /// The ids 0 to `count - 1`.
    pub fn first_n(count: u32) -> IdSet {
        match count.checked_sub(1) {
            Some(last) => IdSet::from_range(0, last),
            None => IdSet::new(),
        }
    }

    /// How many ids the set has.
    pub fn len(&self) -> usize {
        self.ranges
            .iter()
            .map(|&(lo, hi)| (hi - lo) as usize + 1)
            .sum()
    }

    /// Whether the set has no ids.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The smallest id.
    pub fn first(&self) -> Option<u32> {
        self.ranges.first().map(|&(lo, _)| lo)
    }

    /// The largest id.
    pub fn last(&self) -> Option<u32> {
        self.ranges.last().map(|&(_, hi)| hi)
    }

    /// The smallest id larger than `id`.
    pub fn next_after(&self, id: u32) -> Option<u32> {
        let after = id.checked_add(1)?;
        let at = self.ranges.partition_point(|&(_, hi)| hi < after);
        self.ranges.get(at).map(|&(lo, _)| lo.max(after))
    }

    /// The id at position `index`, counting from 0 in ascending order.
    pub fn nth(&self, index: usize) -> Option<u32> {
        let mut left = index;
        for &(lo, hi) in &self.ranges {
            let size = (hi - lo) as usize + 1;
            if left < size {
                return Some(lo + left as u32);
            }
            left -= size;
        }
        None
    }

    /// The position of `id` in ascending order, if it is in the set.
    pub fn position(&self, id: u32) -> Option<usize> {
        let mut before = 0;
        for &(lo, hi) in &self.ranges {
            if id < lo {
                return None;
            }
            if id <= hi {
                return Some(before + (id - lo) as usize);
            }
            before += (hi - lo) as usize + 1;
        }
        None
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: u32) -> bool {
        let at = self.ranges.partition_point(|&(_, hi)| hi < id);
        self.ranges.get(at).is_some_and(|&(lo, _)| lo <= id)
    }

    /// Adds an id; false if it was there already.
    pub fn insert(&mut self, id: u32) -> bool {
        if self.contains(id) {
            return false;
        }
        self.insert_range(id, id);
        true
    }

    /// Adds the ids `first` to `last`, both included; nothing if `last` is smaller.
    pub fn insert_range(&mut self, first: u32, last: u32) {
        if last < first {
            return;
        }
        // Every range that overlaps or touches the new one is merged into it.
        let from = self
            .ranges
            .partition_point(|&(_, hi)| hi.saturating_add(1) < first);
        let to = self
            .ranges
            .partition_point(|&(lo, _)| lo <= last.saturating_add(1));
        if from >= to {
            self.ranges.insert(from, (first, last));
            return;
        }
        let merged = (
            first.min(self.ranges[from].0),
            last.max(self.ranges[to - 1].1),
        );
        self.ranges[from] = merged;
        self.ranges.drain(from + 1..to);
    }

    /// Removes an id; false if it was not there.
    pub fn remove(&mut self, id: u32) -> bool {
        let at = self.ranges.partition_point(|&(_, hi)| hi < id);
        let Some(&(lo, hi)) = self.ranges.get(at).filter(|&&(lo, _)| lo <= id) else {
            return false;
        };
        match (lo == id, hi == id) {
            (true, true) => {
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at].0 = id + 1,
            (false, true) => self.ranges[at].1 = id - 1,
            (false, false) => {
                self.ranges[at].1 = id - 1;
                self.ranges.insert(at + 1, (id + 1, hi));
            }
        }
        true
    }

    /// Removes the ids `first` to `last`, both included.
    pub fn remove_range(&mut self, first: u32, last: u32) {
        *self = self.difference(&IdSet::from_range(first, last));
    }

    /// Removes and returns the `count` lowest ids, or leaves the set alone and returns `None` if
    /// it has fewer.
    pub fn take_lowest(&mut self, count: usize) -> Option<IdSet> {
        let mut taken = IdSet::new();
        let mut left = count;
        let mut whole = 0;
        let mut rest = None;
        for &(lo, hi) in &self.ranges {
            if left == 0 {
                break;
            }
            let size = (hi - lo) as usize + 1;
            whole += 1;
            if size <= left {
                taken.ranges.push((lo, hi));
                left -= size;
            } else {
                let last = lo + (left - 1) as u32;
                taken.ranges.push((lo, last));
                rest = Some((last + 1, hi));
                left = 0;
            }
        }
        if left > 0 {
            return None;
        }
        self.ranges.drain(..whole);
        if let Some(rest) = rest {
            self.ranges.insert(0, rest);
        }
        Some(taken)
    }

    /// Adds every id of `other`.
    pub fn insert_all(&mut self, other: &IdSet) {
        for &(lo, hi) in &other.ranges {
            self.insert_range(lo, hi);
        }
    }

    /// Removes every id of `other`.
    pub fn remove_all(&mut self, other: &IdSet) {
        if !other.is_empty() && !self.is_empty() {
            *self = self.difference(other);
        }
    }

    /// The ids in either set.
    pub fn union(&self, other: &IdSet) -> IdSet {
        let mut result = IdSet::new();
        let (mut a, mut b) = (
            self.ranges.iter().peekable(),
            other.ranges.iter().peekable(),
        );
        loop {
            let next = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x.0 <= y.0 => a.next(),
                (Some(_), None) => a.next(),
                (_, Some(_)) => b.next(),
                (None, None) => return result,
            };
            if let Some(&(lo, hi)) = next {
                result.push_ascending(lo, hi);
            }
        }
    }

    /// Appends a range whose start is not below any start already present.
    fn push_ascending(&mut self, lo: u32, hi: u32) {
        match self.ranges.last_mut() {
            Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
            _ => self.ranges.push((lo, hi)),
        }
    }

    /// The ids in both sets.
    pub fn intersection(&self, other: &IdSet) -> IdSet {
        let mut result = IdSet::new();
        let (mut i, mut j) = (0, 0);
        while let (Some(&a), Some(&b)) = (self.ranges.get(i), other.ranges.get(j)) {
            let (lo, hi) = (a.0.max(b.0), a.1.min(b.1));
            if lo <= hi {
                result.ranges.push((lo, hi));
            }
            if a.1 <= b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        result
    }

    /// The ids of this set that are not in `other`.
    pub fn difference(&self, other: &IdSet) -> IdSet {
        let mut result = IdSet::new();
        let mut j = 0;
        for &(lo, hi) in &self.ranges {
            let mut start = Some(lo);
            while other.ranges.get(j).is_some_and(|b| b.1 < lo) {
                j += 1;
            }
            let mut k = j;
            while let (Some(from), Some(&b)) = (start, other.ranges.get(k)) {
                if b.0 > hi {
                    break;
                }
                if b.0 > from {
                    result.ranges.push((from, b.0 - 1));
                }
                start = b.1.checked_add(1).filter(|&next| next <= hi);
                k += 1;
            }
            if let Some(from) = start {
                result.ranges.push((from, hi));
            }
        }
        result
    }

    /// Whether the sets share an id.
    pub fn intersects(&self, other: &IdSet) -> bool {
        let (mut i, mut j) = (0, 0);
        while let (Some(&a), Some(&b)) = (self.ranges.get(i), other.ranges.get(j)) {
            if a.0.max(b.0) <= a.1.min(b.1) {
                return true;
            }
            if a.1 <= b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        false
    }

    /// Whether every id of this set is in `other`.
    pub fn is_subset(&self, other: &IdSet) -> bool {
        self.ranges.iter().all(|&(lo, hi)| {
            let at = other.ranges.partition_point(|&(_, h)| h < lo);
            other.ranges.get(at).is_some_and(|b| b.0 <= lo && hi <= b.1)
        })
    }

    /// The ids in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|&(lo, hi)| lo..=hi)
    }

    /// The ranges the set consists of, ascending, both ends included.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().copied()
    }

    /// The form with brackets where there is more than one id: `7`, `[0-3,7]`. Empty for the
    /// empty set.
    pub fn to_bracketed(&self) -> String {
        match self.len() {
            0 | 1 => self.to_string(),
            _ => format!("[{self}]"),
        }
    }

    /// The ids separated by commas without ranges: `0,1,2,3,7`.
    pub fn to_list(&self) -> String {
        let ids: Vec<String> = self.iter().map(|id| id.to_string()).collect();
        ids.join(",")
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, &(lo, hi)) in self.ranges.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if lo == hi {
                write!(f, "{comma}{lo}")?;
            } else {
                write!(f, "{comma}{lo}-{hi}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl FromStr for IdSet {
    type Err = IdSetError;

    /// Decodes `0-3,7`, with or without brackets. The empty string is the empty set, and empty
    /// items between commas are skipped, as C programs do.
    fn from_str(text: &str) -> Result<IdSet, IdSetError> {
        let inner = match text.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .ok_or_else(|| IdSetError::Syntax(text.into()))?,
            None => text,
        };
        let mut set = IdSet::new();
        for item in inner.split(',').filter(|item| !item.is_empty()) {
            let (lo, hi) = match item.split_once('-') {
                Some((lo, hi)) => {
                    let (lo, hi) = (parse_id(lo, text)?, parse_id(hi, text)?);
                    if hi <= lo {
                        return Err(IdSetError::Order(text.into()));
                    }
                    (lo, hi)
                }
                None => {
                    let id = parse_id(item, text)?;
                    (id, id)
                }
            };
            if set.last().is_some_and(|last| lo <= last) {
                return Err(IdSetError::Order(text.into()));
            }
            set.push_ascending(lo, hi);
        }
        Ok(set)
    }
}

/// Decodes one id: decimal digits without leading zeros.
fn parse_id(digits: &str, whole: &str) -> Result<u32, IdSetError> {
    let valid = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    if !valid {
        return Err(IdSetError::Syntax(whole.into()));
    }
    match digits.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(id),
        _ => Err(IdSetError::Range(whole.into())),
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> IdSet {
        let mut set = IdSet::new();
        set.extend(ids);
        set
    }
}

impl Extend<u32> for IdSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl Serialize for IdSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IdSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IdSet, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> IdSet {
        text.parse().unwrap()
    }

    #[test]
    fn decodes_and_encodes() {
        for (text, canonical, ids) in [
            ("", "", vec![]),
            ("[]", "", vec![]),
            ("1,2,3,5,6,42", "1-3,5-6,42", vec![1, 2, 3, 5, 6, 42]),
            ("1-3,5-6,42", "1-3,5-6,42", vec![1, 2, 3, 5, 6, 42]),
            ("[1-3,5-6,42]", "1-3,5-6,42", vec![1, 2, 3, 5, 6, 42]),
            ("0", "0", vec![0]),
            ("1,,2", "1-2", vec![1, 2]),
            ("1,", "1", vec![1]),
            ("2147483647", "2147483647", vec![2147483647]),
        ] {
            let decoded = set(text);
            assert_eq!(decoded.to_string(), canonical);
            assert_eq!(decoded.iter().collect::<Vec<_>>(), ids);
            assert_eq!(decoded.len(), ids.len());
        }
    }

    #[test]
    fn refuses_what_is_not_an_idset() {
        for text in [
            "[1",
            "1]",
            "1-",
            "-1",
            "3-1",
            "1,1",
            "1-3,2-5",
            "5,1",
            "01",
            " 1",
            "1 ",
            "4294967295",
            "2147483648",
            "1-1",
            "[[1]]",
            "[1][2]",
            "[1],[2]",
            "a",
            "+1",
            "0-0",
            "00",
            "1-03",
        ] {
            assert!(text.parse::<IdSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn brackets_and_lists() {
        assert_eq!(set("").to_bracketed(), "");
        assert_eq!(set("7").to_bracketed(), "7");
        assert_eq!(set("0-3,7").to_bracketed(), "[0-3,7]");
        assert_eq!(set("0-3,7").to_list(), "0,1,2,3,7");
    }

    #[test]
    fn takes_the_lowest_or_nothing() {
        let mut free = set("2-3,5-9");
        assert_eq!(free.take_lowest(4), Some(set("2-3,5-6")));
        assert_eq!(free, set("7-9"));
        assert_eq!(free.take_lowest(4), None);
        assert_eq!(free.take_lowest(0), Some(set("")));
        assert_eq!(free.take_lowest(3), Some(set("7-9")));
        assert!(free.is_empty());
    }

    #[test]
    fn limits_do_not_overflow() {
        let mut all = IdSet::from_range(0, u32::MAX);
        assert!(all.contains(u32::MAX));
        assert!(all.remove(u32::MAX));
        assert!(all.insert(u32::MAX));
        assert_eq!(all.next_after(u32::MAX), None);
        assert!(all.difference(&IdSet::from_range(1, u32::MAX)).contains(0));
    }

    fn ids() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(0u32..60, 0..40)
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(a in ids(), b in ids(), id in 0u32..60, n in 0usize..50) {
            let (x, y): (IdSet, IdSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let list = |s: &IdSet| s.iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(&list(&x), &a);
            prop_assert_eq!(set(&x.to_string()), x.clone());
            prop_assert_eq!(list(&x.union(&y)), &a | &b);
            prop_assert_eq!(list(&x.intersection(&y)), &a & &b);
            prop_assert_eq!(list(&x.difference(&y)), &a - &b);
            prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.contains(id), a.contains(&id));
            prop_assert_eq!(x.nth(n), a.iter().nth(n).copied());
            prop_assert_eq!(x.position(id), a.iter().position(|&i| i == id));
            prop_assert_eq!(x.next_after(id), a.range(id + 1..).next().copied());
            let (mut removed, mut model) = (x.clone(), a.clone());
            prop_assert_eq!(removed.remove(id), model.remove(&id));
            prop_assert_eq!(&list(&removed), &model);
            prop_assert_eq!(removed.insert(id), model.insert(id));
            prop_assert_eq!(list(&removed), model);
            let mut rest = x.clone();
            match rest.take_lowest(n) {
                Some(taken) => {
                    prop_assert_eq!(taken.iter().collect::<Vec<_>>(), a.iter().copied().take(n).collect::<Vec<_>>());
                    prop_assert_eq!(taken.union(&rest), x);
                }
                None => prop_assert!(a.len() < n),
            }
        }
    }
}
