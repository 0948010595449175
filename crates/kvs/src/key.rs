//! Keys: names joined by dots.

use std::borrow::Cow;

/// A key's normal form: runs of dots collapse, one leading and one trailing dot go, and the root
/// is `.`.
pub fn normalize(key: &str) -> Cow<'_, str> {
    let is_normal = !key.is_empty()
        && !key.starts_with('.')
        && !key.ends_with('.')
        && !key.as_bytes().windows(2).any(|pair| pair == b"..");
    if is_normal || key == "." || key.is_empty() {
        return Cow::Borrowed(key);
    }
    let mut normal = String::with_capacity(key.len());
    for name in components(key) {
        if !normal.is_empty() {
            normal.push('.');
        }
        normal.push_str(name);
    }
    if normal.is_empty() {
        normal.push('.');
    }
    Cow::Owned(normal)
}

/// The names in a key; none for the root.
pub fn components(key: &str) -> impl DoubleEndedIterator<Item = &str> {
    key.split('.').filter(|name| !name.is_empty())
}
