//! Slices as Python writes them: `[start:stop:step]` or `[index]`.

/// Parses a slice, brackets included, and applies it to a list of `len` items.
/// `None` if this is no slice. An index out of range gives nothing.
pub fn indices(text: &str, len: usize) -> Option<Vec<usize>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let len = i64::try_from(len).ok()?;
    let fields: Vec<Option<i64>> = inner
        .split(':')
        .map(|field| match field.trim() {
            "" => Some(None),
            field => field.parse().ok().map(Some),
        })
        .collect::<Option<_>>()?;
    let (start, stop, step) = match fields[..] {
        [Some(index)] => {
            let at = if index < 0 { index + len } else { index };
            let found = (0..len).contains(&at).then_some(at as usize);
            return Some(found.into_iter().collect());
        }
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step.unwrap_or(1)),
        _ => return None,
    };
    if step == 0 {
        return None;
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |value: i64| {
        let value = if value < 0 {
            value.saturating_add(len)
        } else {
            value
        };
        value.clamp(low, high)
    };
    let start = start.map_or(if step > 0 { low } else { high }, clamp);
    let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
    let mut at = start;
    let mut found = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        found.push(at as usize);
        at = at.saturating_add(step);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&[usize]>) {
        assert_eq!(indices(text, 5).as_deref(), expect, "{text}");
    }

    #[test]
    fn slices_read_as_in_python() {
        check("[:]", Some(&[0, 1, 2, 3, 4]));
        check("[0]", Some(&[0]));
        check("[-1]", Some(&[4]));
        check("[9]", Some(&[]));
        check("[:2]", Some(&[0, 1]));
        check("[3:]", Some(&[3, 4]));
        check("[-2:]", Some(&[3, 4]));
        check("[::-1]", Some(&[4, 3, 2, 1, 0]));
        check("[1:4:2]", Some(&[1, 3]));
        check("[3:1:-1]", Some(&[3, 2]));
        for bad in ["", "0", "[", "[]", "[a]", "[::0]", "[1:2:3:4]"] {
            check(bad, None);
        }
    }
}
