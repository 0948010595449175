//! Entry points that feed arbitrary bytes to every decoder of this crate. Each panics if a decoder
//! panics or if what it accepted does not survive a round trip.

use crate::{Hostlist, IdSet, JobId, fsd};

/// Idsets (RFC 22).
pub fn fuzz_idset(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(set) = text.parse::<IdSet>()
    {
        assert_eq!(set.to_string().parse(), Ok(set));
    }
}

/// Hostlists (RFC 29).
pub fn fuzz_hostlist(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(list) = text.parse::<Hostlist>()
        && list.len() < 10_000
    {
        let again = list.to_string().parse::<Hostlist>();
        let again = again.expect("an encoded hostlist decodes");
        assert!(again.iter().eq(list.iter()));
    }
}

/// Durations (RFC 23).
pub fn fuzz_fsd(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(seconds) = fsd::parse(text)
    {
        assert!(seconds >= 0.0);
        assert!(fsd::parse(&fsd::format_compiled(seconds, 6)).is_ok());
        assert!(fsd::parse(&fsd::format_scripted(seconds)).is_ok());
    }
}

/// Job ids in any form (RFC 19).
pub fn fuzz_fluid(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = text.parse::<JobId>()
    {
        for form in [id.f58(), id.dothex(), id.words(), id.emoji()] {
            assert_eq!(form.parse(), Ok(id));
        }
    }
}
