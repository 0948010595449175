//! A small backtracking matcher for the regular expressions commands accept: literals, `.`,
//! classes, groups, `|`, `^`, `$`, `*`, `+`, `?`, `{m,n}`.
//!
//! Patterns come from the user's own command line, so that their cost is the user's own.

/// Whether a pattern is one.
///
/// # Errors
///
/// What is wrong and where, in the words of Python's `re`.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    let pattern: Vec<char> = pattern.chars().collect();
    let wrong = |what: &str, at: usize| Err(format!("{what} at position {at}"));
    let mut open = Vec::new();
    // Whether there is something to repeat before, and whether it is repeated already.
    let (mut atom, mut repeated) = (false, false);
    let mut at = 0;
    while at < pattern.len() {
        let here = at;
        let bounds = bounds(&pattern[at..]);
        at += bounds.as_ref().map_or(1, |(_, length)| *length);
        if let Some(((min, max), _)) = bounds {
            if !atom {
                let what = if repeated {
                    "multiple repeat"
                } else {
                    "nothing to repeat"
                };
                return wrong(what, here);
            }
            if min > max {
                return wrong("min repeat greater than max repeat", here + 1);
            }
            (atom, repeated) = (false, true);
            continue;
        }
        (atom, repeated) = (!matches!(pattern[here], '(' | '|' | '^'), false);
        match pattern[here] {
            '\\' if at == pattern.len() => return wrong("bad escape (end of pattern)", here),
            '\\' => at += 1,
            '[' => match class_length(&pattern[here..]) {
                Some(length) => at = here + length,
                None => return wrong("unterminated character set", here),
            },
            '(' => {
                open.push(here);
                if pattern.get(at) == Some(&'?') {
                    if pattern.get(at + 1) != Some(&':') {
                        return wrong("unsupported extension", here);
                    }
                    at += 2;
                }
            }
            ')' if open.pop().is_none() => return wrong("unbalanced parenthesis", here),
            _ => {}
        }
    }
    match open.pop() {
        Some(at) => wrong("missing ), unterminated subpattern", at),
        None => Ok(()),
    }
}

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
            '[' => at += class(&pattern[at..]).saturating_sub(1),
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

/// The length of a class; one without an end reaches to the end of the pattern.
fn class(pattern: &[char]) -> usize {
    class_length(pattern).unwrap_or(pattern.len())
}

fn class_length(pattern: &[char]) -> Option<usize> {
    let skip = if pattern.get(1) == Some(&'^') { 3 } else { 2 };
    pattern
        .iter()
        .skip(skip)
        .position(|c| *c == ']')
        .map(|at| at + skip + 1)
}

/// How often the atom before may occur, if a repetition begins here, and the repetition's length.
fn bounds(pattern: &[char]) -> Option<((usize, usize), usize)> {
    let (bounds, mut length) = match pattern.first()? {
        '*' => ((0, usize::MAX), 1),
        '+' => ((1, usize::MAX), 1),
        '?' => ((0, 1), 1),
        '{' => {
            let end = pattern.iter().position(|c| *c == '}')?;
            let text: String = pattern[1..end].iter().collect();
            let number = |text: &str, default: usize| match text {
                "" => Some(default),
                text => text.parse().ok(),
            };
            let bounds = match text.split_once(',') {
                Some((min, max)) => (number(min, 0)?, number(max, usize::MAX)?),
                None => text.parse().map(|count| (count, count)).ok()?,
            };
            (bounds, end + 1)
        }
        _ => return None,
    };
    // Whether a match is greedy does not matter to whether there is one.
    if pattern.get(length) == Some(&'?') {
        length += 1;
    }
    Some((bounds, length))
}

/// The length of the first atom.
fn atom_length(pattern: &[char]) -> usize {
    match pattern[0] {
        '\\' => 2.min(pattern.len()),
        '[' => class(pattern),
        '(' => {
            let (mut depth, mut at) = (0usize, 0);
            while at < pattern.len() {
                match pattern[at] {
                    '\\' => at += 1,
                    '[' => at += class(&pattern[at..]).saturating_sub(1),
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
    let ((min, max), skip) = bounds(rest).unwrap_or(((1, 1), 0));
    let rest = &rest[skip..];
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
    use super::{check, matches_at_start, search};

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
            ("^a{2}$", "aa", true),
            ("^a{2}$", "aaa", false),
            ("^a{2,}$", "aaa", true),
            ("^a{,1}$", "aa", false),
            ("a{x}", "a{x}", true),
            ("^a*?$", "aa", true),
        ] {
            assert_eq!(search(pattern, text), expect, "{pattern} {text}");
        }
        assert!(matches_at_start("FLUX_.*|PATH", "FLUX_URI"));
        assert!(!matches_at_start("URI", "FLUX_URI"));
    }

    #[test]
    fn what_is_no_expression_is_told_as_python_tells_it() {
        for (pattern, expect) in [
            ("a[", "unterminated character set at position 1"),
            ("[]", "unterminated character set at position 0"),
            ("*a", "nothing to repeat at position 0"),
            ("a|*", "nothing to repeat at position 2"),
            ("a**", "multiple repeat at position 2"),
            ("(a", "missing ), unterminated subpattern at position 0"),
            ("a)", "unbalanced parenthesis at position 1"),
            ("a{3,2}", "min repeat greater than max repeat at position 2"),
            ("a\\", "bad escape (end of pattern) at position 1"),
            ("(?P<", "unsupported extension at position 0"),
        ] {
            assert_eq!(check(pattern), Err(expect.to_owned()), "{pattern}");
        }
        for pattern in ["", "a[]x]", "(?:a|b)*?", "a\\[", "a{x}", "^$", "x{1,2}"] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }
}
