//! Ordered lists of host names and their compact string form (RFC 29).
//!
//! Hosts are kept as runs: a prefix and an ascending range of numbers with a minimum digit count.
//! `host[0-4095]` is one run. A name that does not end in a number is a run of its own.
//!
//! Leading zeros: RFC 29 would carry those of the first id of a bracket over to the others, so
//! that `[005,4]` meant `005,004`. Every existing writer instead emits each id as it stands and
//! reads it back so (`foo00,foo1` is written `foo[00,1]`), and stored R objects depend on it. We do
//! as they do; within a hyphenated range the width of its first id counts.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Errno, IdSet};

/// The largest number of hosts one bracketed range may stand for. Far above any cluster, and low
/// enough that a short hostile string cannot exhaust memory.
pub const RANGE_HOSTS_MAX: u64 = 1 << 22;

/// Digits that still fit the number of a host; longer digit strings count as part of the name.
const DIGITS_MAX: usize = 18;

/// The text is not a hostlist (RFC 29).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid hostlist '{0}'")]
pub struct HostlistError(pub String);

impl HostlistError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Consecutive hosts of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    prefix: Arc<str>,
    /// First number, last number and minimum digit count; `None` for a plain name.
    numbers: Option<(u64, u64, usize)>,
}

impl Run {
    fn len(&self) -> usize {
        self.numbers.map_or(1, |(lo, hi, _)| (hi - lo) as usize + 1)
    }

    fn host(&self, offset: usize) -> String {
        match self.numbers {
            Some((lo, _, width)) => format!("{}{:0width$}", self.prefix, lo + offset as u64),
            None => self.prefix.to_string(),
        }
    }

    /// Where in this run the split host name is.
    fn position(&self, host: &Split<'_>) -> Option<usize> {
        if *self.prefix != *host.prefix {
            return None;
        }
        match (self.numbers, host.number) {
            (None, None) => Some(0),
            (Some((lo, hi, width)), Some((value, digits))) => {
                let written = decimal_len(value).max(width);
                (lo <= value && value <= hi && written == digits).then(|| (value - lo) as usize)
            }
            _ => None,
        }
    }
}

/// A host name taken apart: everything before its trailing digits, and those digits.
struct Split<'a> {
    prefix: &'a str,
    /// The value and the number of digits it is written with.
    number: Option<(u64, usize)>,
}

fn split(host: &str) -> Split<'_> {
    let digits = host.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, tail) = host.split_at(host.len() - digits);
    match tail.parse() {
        Ok(value) if digits <= DIGITS_MAX => Split {
            prefix,
            number: Some((value, digits)),
        },
        _ => Split {
            prefix: host,
            number: None,
        },
    }
}

fn decimal_len(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// An ordered list of hosts, which may repeat (RFC 29).
///
/// ```
/// use types::Hostlist;
/// let hosts: Hostlist = "foo[1-3],bar".parse().unwrap();
/// assert_eq!(hosts.len(), 4);
/// assert_eq!(hosts.nth(2).as_deref(), Some("foo3"));
/// assert_eq!(hosts.find("bar"), Some(3));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hostlist {
    runs: Vec<Run>,
}

impl Hostlist {
    /// The empty list.
    pub fn new() -> Hostlist {
        Hostlist::default()
    }

    /// The number of hosts.
    pub fn len(&self) -> usize {
        self.runs.iter().map(Run::len).sum()
    }

    /// Whether the list has no hosts.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Appends one host, taken literally.
    pub fn push(&mut self, host: &str) {
        let parts = split(host);
        match parts.number {
            Some((value, digits)) => self.push_run(parts.prefix, value, value, digits),
            None => self.runs.push(Run {
                prefix: parts.prefix.into(),
                numbers: None,
            }),
        }
    }

    /// Appends numbered hosts, extending the last run where that says the same.
    fn push_run(&mut self, prefix: &str, lo: u64, hi: u64, digits: usize) {
        if let Some(last) = self.runs.last_mut()
            && *last.prefix == *prefix
            && let Some((_, end, width)) = &mut last.numbers
            && *end + 1 == lo
            && decimal_len(lo).max(*width) == digits
        {
            *end = hi;
            return;
        }
        let prefix = match self.runs.last() {
            Some(last) if *last.prefix == *prefix => last.prefix.clone(),
            _ => prefix.into(),
        };
        self.runs.push(Run {
            prefix,
            numbers: Some((lo, hi, digits)),
        });
    }

    /// Appends the hosts of another list.
    pub fn append(&mut self, other: &Hostlist) {
        for run in &other.runs {
            match run.numbers {
                Some((lo, hi, width)) => {
                    // A run whose first number is longer than its minimum keeps the number's width.
                    self.push_run(&run.prefix, lo, hi, decimal_len(lo).max(width));
                }
                None => self.runs.push(run.clone()),
            }
        }
    }

    /// The hosts in order.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.runs
            .iter()
            .flat_map(|run| (0..run.len()).map(|offset| run.host(offset)))
    }

    /// The host at a position, counting from 0.
    pub fn nth(&self, index: usize) -> Option<String> {
        let mut left = index;
        for run in &self.runs {
            if left < run.len() {
                return Some(run.host(left));
            }
            left -= run.len();
        }
        None
    }

    /// The first position of a host.
    pub fn find(&self, host: &str) -> Option<usize> {
        self.positions(host).next()
    }

    /// Whether the host is in the list.
    pub fn contains(&self, host: &str) -> bool {
        self.find(host).is_some()
    }

    /// Every position of a host, ascending. A host name can be on several ranks when brokers share
    /// a node.
    pub fn positions<'a>(&'a self, host: &'a str) -> impl Iterator<Item = usize> + 'a {
        let parts = split(host);
        let mut start = 0;
        self.runs.iter().filter_map(move |run| {
            let found = run.position(&parts).map(|offset| start + offset);
            start += run.len();
            found
        })
    }

    /// The hosts at the positions in `indices`, in list order. Positions past the end are ignored.
    pub fn select(&self, indices: &IdSet) -> Hostlist {
        let hosts = self.iter().zip(0u32..);
        hosts
            .filter(|&(_, at)| indices.contains(at))
            .map(|(host, _)| host)
            .collect()
    }

    /// Removes every occurrence of the hosts in `gone`; returns how many hosts were removed.
    pub fn delete(&mut self, gone: &Hostlist) -> usize {
        let before = self.len();
        let gone: HashSet<String> = gone.iter().collect();
        *self = self.iter().filter(|host| !gone.contains(host)).collect();
        before - self.len()
    }

    /// Sorts by prefix, then by number of digits, then by number.
    pub fn sort(&mut self) {
        let mut hosts: Vec<(Arc<str>, usize, u64)> = Vec::with_capacity(self.len());
        for run in &self.runs {
            match run.numbers {
                Some((lo, hi, width)) => hosts
                    .extend((lo..=hi).map(|n| (run.prefix.clone(), decimal_len(n).max(width), n))),
                // No digits: before every numbered host of the same prefix.
                None => hosts.push((run.prefix.clone(), 0, 0)),
            }
        }
        hosts.sort_unstable();
        self.runs.clear();
        for (prefix, digits, value) in hosts {
            if digits == 0 {
                self.runs.push(Run {
                    prefix,
                    numbers: None,
                });
            } else {
                self.push_run(&prefix, value, value, digits);
            }
        }
    }

    /// Sorts and removes duplicates.
    pub fn uniq(&mut self) {
        self.sort();
        let mut last = None;
        let mut unique = Hostlist::new();
        for host in self.iter() {
            if last.as_ref() != Some(&host) {
                unique.push(&host);
                last = Some(host);
            }
        }
        *self = unique;
    }
}

impl fmt::Display for Hostlist {
    /// The compact form, `foo[1-3,5],bar`; `FromStr` gives the same list back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        while let Some(first) = self.runs.get(at) {
            if at > 0 {
                f.write_str(",")?;
            }
            let same = |run: &Run| run.numbers.is_some() && run.prefix == first.prefix;
            let group = match first.numbers {
                Some(_) => self.runs[at..].iter().take_while(|run| same(run)).count(),
                None => 1,
            };
            write_group(f, &self.runs[at..at + group])?;
            at += group;
        }
        Ok(())
    }
}

/// Writes runs of one prefix: `foo`, `foo1` or `foo[1-3,5]`.
fn write_group(f: &mut fmt::Formatter<'_>, runs: &[Run]) -> fmt::Result {
    let Some(first) = runs.first() else {
        return Ok(());
    };
    f.write_str(&first.prefix)?;
    let single = runs.len() == 1 && first.len() == 1;
    if single || first.numbers.is_none() {
        if let Some((lo, _, width)) = first.numbers {
            write!(f, "{lo:0width$}")?;
        }
        return Ok(());
    }
    f.write_str("[")?;
    for (i, run) in runs.iter().enumerate() {
        if i > 0 {
            f.write_str(",")?;
        }
        if let Some((lo, hi, width)) = run.numbers {
            write!(f, "{lo:0width$}")?;
            if hi > lo {
                write!(f, "-{hi:0width$}")?;
            }
        }
    }
    f.write_str("]")
}

impl FromStr for Hostlist {
    type Err = HostlistError;

    /// Decodes a hostlist. Expressions are separated by commas or blanks; empty ones are skipped.
    fn from_str(text: &str) -> Result<Hostlist, HostlistError> {
        let mut list = Hostlist::new();
        for expression in expressions(text) {
            parse_expression(&mut list, expression).ok_or_else(|| HostlistError(text.into()))?;
        }
        Ok(list)
    }
}

/// The expressions of a hostlist: separated by commas and blanks that are not inside brackets.
fn expressions(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c: char| {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        !inside && (c == ',' || c.is_ascii_whitespace())
    })
    .filter(|expression| !expression.is_empty())
}

fn parse_expression(list: &mut Hostlist, expression: &str) -> Option<()> {
    let Some((prefix, rest)) = expression.split_once('[') else {
        if expression.contains(']') {
            return None;
        }
        list.push(expression);
        return Some(());
    };
    let (ids, suffix) = rest.split_once(']')?;
    if prefix.contains(']') || ids.contains('[') || suffix.contains(['[', ']']) {
        return None;
    }
    for item in ids.split(',') {
        let (lo, hi) = item.split_once('-').unwrap_or((item, item));
        let digits = lo.len();
        let (lo, hi) = (parse_number(lo)?, parse_number(hi)?);
        if hi < lo || hi - lo >= RANGE_HOSTS_MAX {
            return None;
        }
        // Digits right before the bracket become part of the number, so that hosts compare equal
        // however they were written: `n1[0-9]` is `n[10-19]`.
        if suffix.is_empty() && !prefix.ends_with(|c: char| c.is_ascii_digit()) {
            list.push_run(prefix, lo, hi, digits);
        } else {
            for number in lo..=hi {
                list.push(&format!("{prefix}{number:0digits$}{suffix}"));
            }
        }
    }
    Some(())
}

fn parse_number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.len() <= DIGITS_MAX;
    let valid = valid && digits.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| digits.parse().ok()).flatten()
}

impl<S: AsRef<str>> FromIterator<S> for Hostlist {
    fn from_iter<I: IntoIterator<Item = S>>(hosts: I) -> Hostlist {
        let mut list = Hostlist::new();
        list.extend(hosts);
        list
    }
}

impl<S: AsRef<str>> Extend<S> for Hostlist {
    fn extend<I: IntoIterator<Item = S>>(&mut self, hosts: I) {
        for host in hosts {
            self.push(host.as_ref());
        }
    }
}

impl Serialize for Hostlist {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hostlist {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hostlist, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Hostlist {
        text.parse().unwrap()
    }

    fn expand(text: &str) -> String {
        list(text).iter().collect::<Vec<_>>().join(",")
    }

    #[test]
    fn expands_the_vectors_of_rfc_29() {
        for (text, hosts) in [
            ("", ""),
            ("foox,fooy,fooz", "foox,fooy,fooz"),
            ("[1-3,5-6]", "1,2,3,5,6"),
            ("foo[1-5]", "foo1,foo2,foo3,foo4,foo5"),
            (
                "foo[0-4]-eth2",
                "foo0-eth2,foo1-eth2,foo2-eth2,foo3-eth2,foo4-eth2",
            ),
            ("foo1,foo1,foo1", "foo1,foo1,foo1"),
            ("[00-02]", "00,01,02"),
            ("[00-2]", "00,01,02"),
            ("foo[1,1,2,1]", "foo1,foo1,foo2,foo1"),
            // Examples of the RFC's text.
            ("[5,4,10,11,12,13]", "5,4,10,11,12,13"),
            ("[5,4,11-13]", "5,4,11,12,13"),
            ("[2,2,2]", "2,2,2"),
            (
                "host[0-10,12]",
                "host0,host1,host2,host3,host4,host5,host6,host7,host8,host9,host10,host12",
            ),
        ] {
            assert_eq!(expand(text), hosts);
        }
        assert_eq!(list("prefix[0-1024]").len(), 1025);
    }

    #[test]
    fn leading_zeros_are_not_carried_over_because_no_writer_does() {
        assert_eq!(expand("[005,4,11-13]"), "005,4,11,12,13");
        assert_eq!(
            list("foo0,foo00,foo000,foo1,foo01").to_string(),
            "foo[0,00,000,1,01]"
        );
    }

    #[test]
    fn encodes_compactly() {
        for (text, compact) in [
            ("foo1,foo2,foo3", "foo[1-3]"),
            ("foo1,foo3,foo2", "foo[1,3,2]"),
            ("1,2,3", "[1-3]"),
            ("foo9,foo10,foo11", "foo[9-11]"),
            ("foo09,foo10", "foo[09-10]"),
            ("foo009,foo10", "foo[009,10]"),
            ("foo98,foo99,foo100", "foo[98-100]"),
            ("foo08,foo09,foo10,foo11,foo100", "foo[08-11,100]"),
            ("foo1,foo1,foo1", "foo[1,1,1]"),
            ("foo[1,1,2,1]", "foo[1,1-2,1]"),
            ("foo[1-2]a,foo[3]a", "foo1a,foo2a,foo3a"),
            ("foo1-eth,foo2-eth", "foo1-eth,foo2-eth"),
            ("a1b2,a1b3", "a1b[2-3]"),
            ("foo,,bar", "foo,bar"),
            ("foo bar,", "foo,bar"),
            ("foo1", "foo1"),
            ("foo4294967295,foo4294967296", "foo[4294967295-4294967296]"),
            ("foo,foo", "foo,foo"),
            ("foo99999999999999999999", "foo99999999999999999999"),
        ] {
            assert_eq!(list(text).to_string(), compact);
        }
    }

    #[test]
    fn refuses_what_is_not_a_hostlist() {
        for text in [
            "foo[1",
            "foo1]",
            "foo[]",
            "foo[3-1]",
            "foo[1,]",
            "foo[a]",
            "foo[0-99999999]",
            "a[[1]]",
            "[]",
            "a[-1]",
            "a[1--2]",
            "a[1-2-3]",
            "foo[1-2][3-4]",
            "foo[ 1-2]",
        ] {
            assert!(text.parse::<Hostlist>().is_err(), "{text}");
        }
    }

    #[test]
    fn finds_and_deletes() {
        let mut hosts = list("foo[1-3],bar,foo[02-3],foo2");
        assert_eq!(hosts.positions("foo2").collect::<Vec<_>>(), [1, 6]);
        assert_eq!(hosts.find("foo03"), Some(5));
        assert_eq!(hosts.find("foo003"), None);
        assert_eq!(hosts.nth(3).as_deref(), Some("bar"));
        assert_eq!(hosts.nth(7), None);
        assert_eq!(
            hosts.select(&"0,3".parse().unwrap()).to_string(),
            "foo1,bar"
        );
        assert_eq!(hosts.delete(&list("foo2,bar,none")), 3);
        assert_eq!(hosts.to_string(), "foo[1,3,02-03]");
    }

    #[test]
    fn sorts_by_prefix_then_digits_then_number() {
        for (text, sorted) in [
            ("foo10,foo2,bar,foo1", "bar,foo[1-2,10]"),
            ("foo01,foo1,foo2,foo02,foo10", "foo[1-2,01-02,10]"),
            ("10,9,a1,b", "[9-10],a1,b"),
        ] {
            let mut hosts = list(text);
            hosts.sort();
            assert_eq!(hosts.to_string(), sorted);
        }
        let mut hosts = list("foo2,foo1,foo2");
        hosts.uniq();
        assert_eq!(hosts.to_string(), "foo[1-2]");
    }

    #[test]
    fn large_lists_stay_small() {
        let hosts: Hostlist = (0..100_000).map(|n| format!("node{n}")).collect();
        assert_eq!(hosts.runs.len(), 1);
        assert_eq!(hosts.find("node99999"), Some(99999));
    }

    proptest! {
        #[test]
        fn round_trips(hosts in proptest::collection::vec("[ab]{0,1}[0-2]{0,1}x?0{0,2}[0-9]{1,3}|[ab]{1,2}", 0..20)) {
            let built: Hostlist = hosts.iter().collect();
            prop_assert_eq!(built.iter().collect::<Vec<_>>(), hosts.clone());
            prop_assert_eq!(built.len(), hosts.len());
            let again: Hostlist = built.to_string().parse().unwrap();
            prop_assert_eq!(again.iter().collect::<Vec<_>>(), hosts.clone());
            let mut doubled = built.clone();
            doubled.append(&built);
            prop_assert_eq!(doubled.iter().collect::<Vec<_>>(), [hosts.clone(), hosts.clone()].concat());
            for host in &hosts {
                prop_assert_eq!(built.find(host), hosts.iter().position(|h| h == host));
            }
        }
    }
}
