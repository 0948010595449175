//! The environment of this process.

use std::env;

/// Its variables that are text, which is what JSON can carry. `std::env::vars` panics on others.
pub fn text_vars() -> impl Iterator<Item = (String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
