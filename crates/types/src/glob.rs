//! Shell patterns, as `fnmatch(3)` without flags.

/// Whether a name matches a pattern with `*`, `?` and `[...]`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star does not match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&pattern[p..], name[n]),
            Some('\\') if p + 1 < pattern.len() => (pattern[p + 1] == name[n]).then_some(2),
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((at, taken))) => {
                p = at + 1;
                n = taken + 1;
                star = Some((at, n));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The length of a bracket expression that matches a character.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let negate = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negate { 2 } else { 1 };
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|c| *c == ']')?;
    (is_in_set(&pattern[start..end], c) != negate).then_some(end + 1)
}

/// Whether a character is in what stands between brackets: characters, and ranges such as `a-z`.
fn is_in_set(set: &[char], c: char) -> bool {
    let mut found = false;
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == '-' {
            found |= (set[at]..=set[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= set[at] == c;
            at += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expect) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("*.so*", "foo.so.1", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }
}
