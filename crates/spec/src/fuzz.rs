//! Entry points that feed arbitrary bytes to every decoder of this crate. Each panics if a decoder
//! panics or if what it accepted does not survive a round trip.

use crate::{BlobRef, Constraint, ResourceSet, TreeObj, eventlog};

/// Blobrefs (RFC 10).
pub fn fuzz_blobref(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(blobref) = text.parse::<BlobRef>()
    {
        assert_eq!(blobref.to_string(), text);
    }
}

/// Event logs (RFC 18).
pub fn fuzz_eventlog(data: &[u8]) {
    if let Ok(entries) = eventlog::decode(data) {
        let again = eventlog::decode(eventlog::encode(&entries).as_bytes());
        assert_eq!(again.expect("an encoded log decodes"), entries);
    }
}

/// Tree objects (RFC 11).
pub fn fuzz_treeobj(data: &[u8]) {
    if let Ok(object) = TreeObj::decode(data) {
        let again = TreeObj::decode(object.encode().as_bytes());
        assert_eq!(again.expect("an encoded object decodes"), object);
    }
}

/// Constraints (RFC 31).
pub fn fuzz_constraint(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice(data) {
        let _ = Constraint::from_value(&value);
    }
}

/// Resource sets (RFC 20).
pub fn fuzz_r(data: &[u8]) {
    if let Ok(set) = ResourceSet::decode(data) {
        let again = ResourceSet::decode(set.encode().as_bytes());
        assert_eq!(again.expect("an encoded R decodes"), set);
    }
}
