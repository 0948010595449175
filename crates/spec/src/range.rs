//! Ranges of resource counts and their string form (RFC 14, RFC 45): `3-30`, `1-8:2:*`, `4+`.

use std::fmt;
use std::str::FromStr;

use types::{Errno, IdSet};

/// Why text is not a count (RFC 14, RFC 45).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither an idset nor a range.
    #[error("count string must be a valid idset or range")]
    Syntax,
    /// The minimum is 0.
    #[error("min must be > 0")]
    Min,
    /// The maximum is below the minimum.
    #[error("max must be >= min")]
    Max,
    /// The operand is 0.
    #[error("operand must be > 0")]
    Operand,
    /// Multiplying by or raising to 1 leads nowhere.
    #[error("operand must be > 1 for '*' or '^' operator")]
    UnitOperand,
    /// Powers of 1 lead nowhere.
    #[error("min must be > 1 for '^' operator")]
    UnitMin,
    /// A set of counts that has 0 in it, or nothing.
    #[error("count must be > 0")]
    Zero,
}

impl RangeError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// How a range goes from one acceptable count to the next (RFC 14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operator {
    /// Add the operand.
    #[default]
    Add,
    /// Multiply by the operand.
    Multiply,
    /// Raise to the power of the operand.
    Power,
}

impl Operator {
    /// The operator's character.
    pub fn as_str(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Multiply => "*",
            Operator::Power => "^",
        }
    }

    /// The operator with that character.
    pub fn from_text(text: &str) -> Option<Operator> {
        match text {
            "+" => Some(Operator::Add),
            "*" => Some(Operator::Multiply),
            "^" => Some(Operator::Power),
            _ => None,
        }
    }
}

/// A range of acceptable counts (RFC 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The smallest acceptable count.
    pub min: u64,
    /// The largest acceptable count; `None` for no limit.
    pub max: Option<u64>,
    /// What `operator` is applied with.
    pub operand: u64,
    /// The step from one acceptable count to the next.
    pub operator: Operator,
}

impl Range {
    /// All counts from `min` to `max`.
    ///
    /// Errors: [`RangeError::Min`], [`RangeError::Max`].
    pub fn new(min: u64, max: Option<u64>) -> Result<Range, RangeError> {
        Range::stepped(min, max, 1, Operator::Add)
    }

    /// The counts reached from `min` by an operator.
    ///
    /// Errors: see [`RangeError`].
    pub fn stepped(
        min: u64,
        max: Option<u64>,
        operand: u64,
        operator: Operator,
    ) -> Result<Range, RangeError> {
        if min == 0 {
            return Err(RangeError::Min);
        }
        if max.is_some_and(|max| max < min) {
            return Err(RangeError::Max);
        }
        if operand == 0 {
            return Err(RangeError::Operand);
        }
        if operator != Operator::Add && operand == 1 {
            return Err(RangeError::UnitOperand);
        }
        if operator == Operator::Power && min == 1 {
            return Err(RangeError::UnitMin);
        }
        Ok(Range {
            min,
            max,
            operand,
            operator,
        })
    }

    /// The acceptable counts, ascending. Without a maximum this ends only at the limit of the type.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let range = *self;
        let step = move |&count: &u64| {
            let next = match range.operator {
                Operator::Add => count.checked_add(range.operand),
                Operator::Multiply => count.checked_mul(range.operand),
                Operator::Power => u32::try_from(range.operand)
                    .ok()
                    .and_then(|operand| count.checked_pow(operand)),
            };
            next.filter(|&next| range.max.is_none_or(|max| next <= max))
        };
        std::iter::successors(Some(range.min), step)
    }

    /// The largest acceptable count that is at most `available`.
    pub fn largest_within(&self, available: u64) -> Option<u64> {
        let limit = self.max.map_or(available, |max| max.min(available));
        if self.operator == Operator::Add {
            // Directly, because the range may have any number of steps.
            let above = limit.checked_sub(self.min)?;
            return Some(self.min + above - above % self.operand);
        }
        self.iter().take_while(|&count| count <= limit).last()
    }

    /// Whether a count is acceptable.
    pub fn contains(&self, count: u64) -> bool {
        self.largest_within(count) == Some(count)
    }
}

impl fmt::Display for Range {
    /// The shortest form: operator and operand are left out where they are the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            Some(max) => write!(f, "{}-{max}", self.min)?,
            None => write!(f, "{}+", self.min)?,
        }
        match (self.operator, self.operand) {
            (Operator::Add, 1) => Ok(()),
            (Operator::Add, operand) => write!(f, ":{operand}"),
            (operator, operand) => write!(f, ":{operand}:{}", operator.as_str()),
        }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Range, RangeError> {
        let mut parts = unbracket(text)?.split(':');
        let limits = parts.next().ok_or(RangeError::Syntax)?;
        let operand = parts.next().map(number).transpose()?.unwrap_or(1);
        let operator = match parts.next() {
            Some(text) => Operator::from_text(text).ok_or(RangeError::Syntax)?,
            None => Operator::Add,
        };
        if parts.next().is_some() {
            return Err(RangeError::Syntax);
        }
        let (min, max) = match (limits.strip_suffix('+'), limits.split_once('-')) {
            (Some(min), _) => (number(min)?, None),
            (None, Some((min, max))) => (number(min)?, Some(number(max)?)),
            (None, None) => return Err(RangeError::Syntax),
        };
        Range::stepped(min, max, operand, operator)
    }
}

fn unbracket(text: &str) -> Result<&str, RangeError> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or(RangeError::Syntax),
        None => Ok(text),
    }
}

/// A decimal number without leading zeros.
fn number(digits: &str) -> Result<u64, RangeError> {
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !decimal || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(RangeError::Syntax);
    }
    digits.parse().map_err(|_| RangeError::Syntax)
}

/// How many of a resource are wanted (RFC 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Count {
    /// Exactly this many.
    Fixed(u64),
    /// One of the counts of a range.
    Range(Range),
    /// One of these counts.
    Set(IdSet),
}

impl Count {
    /// The smallest acceptable count.
    pub fn min(&self) -> u64 {
        match self {
            Count::Fixed(count) => *count,
            Count::Range(range) => range.min,
            Count::Set(set) => set.first().unwrap_or(0).into(),
        }
    }

    /// The largest acceptable count; `None` for no limit.
    pub fn max(&self) -> Option<u64> {
        match self {
            Count::Fixed(count) => Some(*count),
            Count::Range(range) => range.max,
            Count::Set(set) => set.last().map(u64::from),
        }
    }

    /// The count, if only one is acceptable.
    pub fn fixed(&self) -> Option<u64> {
        match self.max() {
            Some(max) if max == self.min() => Some(max),
            _ => None,
        }
    }

    /// The largest acceptable count that is at most `available`.
    pub fn largest_within(&self, available: u64) -> Option<u64> {
        match self {
            Count::Fixed(count) => (*count <= available).then_some(*count),
            Count::Range(range) => range.largest_within(available),
            Count::Set(set) => {
                // By range, because one range may hold billions of counts.
                let within = |(lo, hi): (u32, u32)| {
                    (u64::from(lo) <= available).then(|| available.min(hi.into()))
                };
                set.ranges().filter_map(within).last()
            }
        }
    }

    /// Whether a count is acceptable.
    pub fn contains(&self, count: u64) -> bool {
        self.largest_within(count) == Some(count)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Fixed(count) => count.fmt(f),
            Count::Range(range) => range.fmt(f),
            Count::Set(set) => set.fmt(f),
        }
    }
}

impl FromStr for Count {
    type Err = RangeError;

    /// Decodes a plain number, a range or an idset, with or without brackets.
    fn from_str(text: &str) -> Result<Count, RangeError> {
        match number(unbracket(text)?) {
            Ok(0) => return Err(RangeError::Zero),
            Ok(count) => return Ok(Count::Fixed(count)),
            Err(_) => {}
        }
        match text.parse::<Range>() {
            Err(RangeError::Syntax) => {}
            result => return result.map(Count::Range),
        }
        let set: IdSet = text.parse().map_err(|_| RangeError::Syntax)?;
        match set.first() {
            None | Some(0) => Err(RangeError::Zero),
            Some(only) if set.len() == 1 => Ok(Count::Fixed(only.into())),
            Some(_) => Ok(Count::Set(set)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_the_examples_of_rfc_45() {
        for (text, shortest, counts) in [
            ("1-5:2:+", "1-5:2", vec![1, 3, 5]),
            ("1-5:2", "1-5:2", vec![1, 3, 5]),
            ("1-4:1:+", "1-4", vec![1, 2, 3, 4]),
            ("1-4", "1-4", vec![1, 2, 3, 4]),
            ("[1-4:2:*]", "1-4:2:*", vec![1, 2, 4]),
            ("[100+]", "100+", vec![100, 101, 102]),
            ("2-300:2:^", "2-300:2:^", vec![2, 4, 16, 256]),
            ("1+:3:*", "1+:3:*", vec![1, 3, 9]),
        ] {
            let range: Range = text.parse().unwrap();
            assert_eq!(range.to_string(), shortest);
            assert_eq!(range.iter().take(counts.len()).collect::<Vec<_>>(), counts);
        }
    }

    #[test]
    fn refuses_other_text_with_a_reason() {
        for (text, error) in [
            ("", RangeError::Syntax),
            ("1", RangeError::Syntax),
            ("1-x", RangeError::Syntax),
            ("01-3", RangeError::Syntax),
            ("[1-3", RangeError::Syntax),
            ("1-3:", RangeError::Syntax),
            ("1-3:2:x", RangeError::Syntax),
            ("1-3:2:+:", RangeError::Syntax),
            ("0-3", RangeError::Min),
            ("3-1", RangeError::Max),
            ("1-3:0", RangeError::Operand),
            ("2-8:1:*", RangeError::UnitOperand),
            ("1-8:2:^", RangeError::UnitMin),
        ] {
            assert_eq!(text.parse::<Range>(), Err(error), "{text}");
        }
    }

    #[test]
    fn counts_are_numbers_ranges_or_sets() {
        for (text, min, max, within_20) in [
            ("4", 4, Some(4), Some(4)),
            ("3-30", 3, Some(30), Some(20)),
            ("2+", 2, None, Some(20)),
            ("4,9,16,25", 4, Some(25), Some(16)),
            ("[4,9]", 4, Some(9), Some(9)),
            ("30+", 30, None, None),
            (",5", 5, Some(5), Some(5)),
        ] {
            let count: Count = text.parse().unwrap();
            assert_eq!((count.min(), count.max()), (min, max));
            assert_eq!(count.largest_within(20), within_20);
        }
        for text in ["", "0", "0,2", "x", "1-x", "[]"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(min in 2u64..50, above in 0u64..200, operand in 2u64..5, op in 0usize..3, open: bool, limit in 0u64..300) {
            let operator = [Operator::Add, Operator::Multiply, Operator::Power][op];
            let max = (!open).then_some(min + above);
            let range = Range::stepped(min, max, operand, operator).unwrap();
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            prop_assert_eq!(range.largest_within(limit), range.iter().take_while(|&c| c <= limit).last());
        }
    }
}
