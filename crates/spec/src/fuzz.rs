//! Entry points that feed arbitrary bytes to every decoder of this crate. Each panics if a decoder
//! panics or if what it accepted does not survive a round trip.

use crate::crontab::{Field, Line};
use crate::stdio::StreamData;
use crate::{
    BlobRef, Constraint, Count, Jobspec, ResourceSet, Taskmap, TreeObj, eventlog, proctable, shape,
};

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

/// Crontab lines.
pub fn fuzz_crontab(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(Some(line)) = Line::parse(text)
    {
        for (field, text) in line.fields {
            if let Ok(set) = field.parse(text) {
                assert!(set.is_subset(&field.every()));
                assert_eq!(field.parse(&set.to_string()), Ok(set));
            }
        }
        let _ = Field::Year.parse(line.command);
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

/// Jobspecs (RFC 14, RFC 25).
pub fn fuzz_jobspec(data: &[u8]) {
    if let Ok(spec) = Jobspec::decode(data) {
        let _ = (spec.ntasks(), spec.nnodes(), spec.ncores(), spec.duration());
        let again = Jobspec::decode(spec.encode().as_bytes());
        assert_eq!(again.expect("an encoded jobspec decodes"), spec);
    }
}

/// Counts and ranges (RFC 45).
pub fn fuzz_count(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(count) = text.parse::<Count>()
    {
        let _ = count.largest_within(1000);
        // Not the same value: the set `,1-4` is written like the range `1-4`, and means the same.
        let again = count.to_string().parse::<Count>();
        assert_eq!(
            again.expect("an encoded count decodes").to_string(),
            count.to_string()
        );
    }
}

/// I/O objects (RFC 24).
pub fn fuzz_stdio(data: &[u8]) {
    if let Ok(object) = serde_json::from_slice(data)
        && let Ok(piece) = StreamData::decode(&object, "UTF-8")
    {
        let _ = StreamData::decode(&piece.encode(), "UTF-8");
    }
}

/// Task maps (RFC 34).
pub fn fuzz_taskmap(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(map) = text.parse::<Taskmap>()
        && map.ntasks() < 10_000
    {
        let json = map.to_value().to_string();
        let again = json.parse::<Taskmap>();
        assert_eq!(again.expect("an encoded task map decodes"), map);
    }
}

/// Tables of the processes of a job.
pub fn fuzz_proctable(data: &[u8]) {
    if let Ok(packed) = serde_json::from_slice::<proctable::Packed>(data)
        && let Ok(rows) = packed.unpack()
        && rows.len() < 10_000
    {
        let again = proctable::Packed::new(&rows).unpack();
        assert_eq!(again.expect("a packed table unpacks"), rows);
    }
}

/// Shapes (RFC 46).
pub fn fuzz_shape(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = shape::parse(text, "task");
    }
}
