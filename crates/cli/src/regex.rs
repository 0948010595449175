//! A small backtracking matcher for the regular expressions commands accept: literals, `.`,
//! classes, groups, `|`, `^`, `$`, `*`, `+`, `?`.
//!
//! Patterns come from the user's own command line, so that their cost is the user's own.

/// Whether a pattern matches at the start of a text.
pub(crate) fn matches_at_start(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    alternatives(&pattern)
        .iter()
        .any(|branch| run(branch, &text, 0, &mut |_| true))
}

/// Whether a pattern matches anywhere in a text.
pub(crate) fn search(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    (0..=text.len()).any(|at| {
        alternatives(&pattern)
            .iter()
            .any(|branch| run(branch, &text, at, &mut |_| true))
    })
}

/// The branches of a pattern, split at the bars outside groups.
fn alternatives(pattern: &[char]) -> Vec<&[char]> {
    let mut branches = Vec::new();
    let (mut depth, mut start, mut at) = (0usize, 0, 0);
    while at < pattern.len() {
        match pattern[at] {
            '\\' => at += 1,
            '[' => at += class_length(&pattern[at..]).saturating_sub(1),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                branches.push(&pattern[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    branches.push(&pattern[start.min(pattern.len())..]);
    branches
}

fn class_length(pattern: &[char]) -> usize {
    let skip = if pattern.get(1) == Some(&'^') { 3 } else { 2 };
    pattern
        .iter()
        .skip(skip)
        .position(|c| *c == ']')
        .map_or(pattern.len(), |at| at + skip + 1)
}

/// The length of the first atom.
fn atom_length(pattern: &[char]) -> usize {
    match pattern[0] {
        '\\' => 2.min(pattern.len()),
        '[' => class_length(pattern),
        '(' => {
            let (mut depth, mut at) = (0usize, 0);
            while at < pattern.len() {
                match pattern[at] {
                    '\\' => at += 1,
                    '[' => at += class_length(&pattern[at..]).saturating_sub(1),
                    '(' => depth += 1,
                    ')' => {
                        depth -= 1;
                        if depth == 0 {
                            return at + 1;
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
            pattern.len()
        }
        _ => 1,
    }
}

type Next<'a> = &'a mut dyn FnMut(usize) -> bool;

/// Matches a branch from `at` and calls `next` with where it ended.
fn run(pattern: &[char], text: &[char], at: usize, next: Next<'_>) -> bool {
    if pattern.is_empty() {
        return next(at);
    }
    match pattern[0] {
        '^' => return at == 0 && run(&pattern[1..], text, at, next),
        '$' if pattern.len() == 1 => return at == text.len() && next(at),
        _ => {}
    }
    let length = atom_length(pattern);
    let atom = &pattern[..length];
    let rest = &pattern[length..];
    let (min, max, rest) = match rest.first() {
        Some('*') => (0, usize::MAX, &rest[1..]),
        Some('+') => (1, usize::MAX, &rest[1..]),
        Some('?') => (0, 1, &rest[1..]),
        _ => (1, 1, rest),
    };
    repeat(atom, min, max, rest, text, at, next)
}

fn repeat(
    atom: &[char],
    min: usize,
    max: usize,
    rest: &[char],
    text: &[char],
    at: usize,
    next: Next<'_>,
) -> bool {
    if max > 0 {
        let again = one(atom, text, at, &mut |end| {
            // An empty repetition would go on forever.
            (end > at || min > 0)
                && repeat(atom, min.saturating_sub(1), max - 1, rest, text, end, next)
        });
        if again {
            return true;
        }
    }
    min == 0 && run(rest, text, at, next)
}

fn one(atom: &[char], text: &[char], at: usize, next: Next<'_>) -> bool {
    if atom[0] == '(' {
        let end = if atom.last() == Some(&')') {
            atom.len() - 1
        } else {
            atom.len()
        };
        let mut inner = &atom[1..end];
        if inner.starts_with(&['?', ':']) {
            inner = &inner[2..];
        }
        return alternatives(inner)
            .iter()
            .any(|branch| run(branch, text, at, next));
    }
    let Some(&c) = text.get(at) else {
        return false;
    };
    let matched = match atom[0] {
        '.' => true,
        '[' => in_class(atom, c),
        '\\' => match atom.get(1) {
            Some('d') => c.is_ascii_digit(),
            Some('D') => !c.is_ascii_digit(),
            Some('w') => c.is_alphanumeric() || c == '_',
            Some('W') => !(c.is_alphanumeric() || c == '_'),
            Some('s') => c.is_whitespace(),
            Some('S') => !c.is_whitespace(),
            Some(literal) => *literal == c,
            None => c == '\\',
        },
        literal => literal == c,
    };
    matched && next(at + 1)
}

fn in_class(atom: &[char], c: char) -> bool {
    let negate = atom.get(1) == Some(&'^');
    let start = if negate { 2 } else { 1 };
    let end = if atom.last() == Some(&']') {
        atom.len() - 1
    } else {
        atom.len()
    };
    types::glob::is_in_set(&atom[start.min(end)..end], c) != negate
}

#[cfg(test)]
mod tests {
    use super::{matches_at_start, search};

    #[test]
    fn expressions() {
        for (pattern, text, expect) in [
            ("a.c", "xabc", true),
            ("^abc$", "abc", true),
            ("^b", "abc", false),
            ("(foo|ba[rz])+$", "xfoobaz", true),
            ("a*b", "aaab", true),
            ("(a*)*b", "aac", false),
            ("x?y", "y", true),
            ("\\d+", "ab12", true),
        ] {
            assert_eq!(search(pattern, text), expect, "{pattern} {text}");
        }
        assert!(matches_at_start("FLUX_.*|PATH", "FLUX_URI"));
        assert!(!matches_at_start("URI", "FLUX_URI"));
    }
}
