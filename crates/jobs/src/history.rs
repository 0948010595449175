//! What is stored of inactive jobs beside their eventlogs, so that a start need not read those.
//!
//! The tree of the KVS names its directories by their contents (RFC 10, RFC 11), and the directory
//! of a job that is over does not change. So a summary says of which contents it is one, and is
//! believed only while these are what is there: after a crash, after a purge, or after another
//! program used the store, what differs is read anew. A summary that is lost or not understood
//! costs time, never jobs.
//!
//! A [`Slice`] is the directory `job.AAAA.BBBB`: the jobs submitted within a quarter of a second.

use spec::BlobRef;
use types::JobId;

use crate::record::{Reader, Record, Writer};

/// What a stored summary begins with: its kind and version.
const MAGIC: &[u8] = b"flux job history 1\n";

/// Names a slice: the upper half of its jobs' ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId(pub u32);

impl SliceId {
    /// The slice a job is in.
    pub fn of(id: JobId) -> SliceId {
        SliceId((id.0 >> 32) as u32)
    }

    /// The lowest and the highest id in it.
    pub fn range(self) -> std::ops::RangeInclusive<JobId> {
        let first = u64::from(self.0) << 32;
        JobId(first)..=JobId(first | u64::from(u32::MAX))
    }

    /// The names of its directory and of the one above, below `job`.
    pub fn names(self) -> (String, String) {
        let (upper, lower) = (self.0 >> 16, self.0 & 0xffff);
        (format!("{upper:04x}"), format!("{lower:04x}"))
    }

    /// The slice whose directory has these names; `None` if none has.
    pub fn from_names(upper: &str, lower: &str) -> Option<SliceId> {
        let number = |name: &str| match name.len() {
            4 => u32::from_str_radix(name, 16).ok(),
            _ => None,
        };
        let slice = SliceId(number(upper)? << 16 | number(lower)?);
        // There is one way to write each, and no other is ours.
        (slice.names() == (upper.to_owned(), lower.to_owned())).then_some(slice)
    }
}

/// The jobs of a directory in which all are over.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Which.
    pub id: SliceId,
    /// The directory these are the jobs of.
    pub blobref: BlobRef,
    /// They, by id.
    pub records: Vec<Record>,
}

/// Writes a summary, slice by slice.
pub struct Summary(Writer);

impl Default for Summary {
    fn default() -> Self {
        Summary(Writer(MAGIC.to_vec()))
    }
}

impl Summary {
    /// Adds a slice.
    pub fn push(&mut self, slice: &Slice) {
        self.0.number(slice.id.0.into());
        self.0.bytes(slice.blobref.to_string().as_bytes());
        self.0.number(slice.records.len() as u64);
        for record in &slice.records {
            self.0.bytes(record.bytes());
        }
    }

    /// How long it is.
    pub fn size(&self) -> usize {
        self.0.0.len()
    }

    /// The bytes to store.
    pub fn finish(self) -> Vec<u8> {
        self.0.0
    }

    /// Reads a summary; `None` if it is none, or one of another version.
    pub fn decode(bytes: &[u8]) -> Option<Vec<Slice>> {
        let mut reader = Reader(bytes.strip_prefix(MAGIC)?);
        let mut slices = Vec::new();
        while !reader.0.is_empty() {
            let id = SliceId(u32::try_from(reader.number()?).ok()?);
            let blobref = std::str::from_utf8(reader.bytes()?).ok()?.parse().ok()?;
            let mut records = Vec::new();
            let mut last = None;
            for _ in 0..reader.number()? {
                let record = Record::from_bytes(reader.bytes()?)?;
                let job = record.outline().id;
                if SliceId::of(job) != id || last.is_some_and(|last| last >= job) {
                    return None;
                }
                last = Some(job);
                records.push(record);
            }
            slices.push(Slice {
                id,
                blobref,
                records,
            });
        }
        Some(slices)
    }
}

/// Reads bytes as a summary, and all there is in it.
#[doc(hidden)]
pub fn fuzz_summary(bytes: &[u8]) {
    let Some(slices) = Summary::decode(bytes) else {
        return;
    };
    let mut again = Summary::default();
    for slice in &slices {
        for record in &slice.records {
            let job = record.job();
            assert_eq!(record.outline().id, job.id);
            assert!(Record::from_bytes(Record::new(&job).bytes()).is_some());
        }
        again.push(slice);
    }
    assert_eq!(Summary::decode(&again.finish()), Some(slices));
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use spec::HashKind;
    use types::UserId;

    use super::*;
    use crate::Object;
    use crate::fold::{Exception, Fold, State};
    use crate::list::{Described, Listed, Placed};

    fn text() -> impl Strategy<Value = Option<Box<str>>> {
        option::of(any::<String>().prop_map(String::into_boxed_str))
    }

    fn annotations() -> impl Strategy<Value = Option<Box<Object>>> {
        let object = |(name, x): (String, i64)| match json!({name: {"x": x}, "y": ["\u{0}", 1.5]}) {
            Value::Object(object) => Box::new(object),
            _ => Box::default(),
        };
        option::of(any::<(String, i64)>().prop_map(object))
    }

    prop_compose! {
        fn fold()(
            numbers in any::<(u32, i32, i32, u32, u32, Option<u32>, Option<i32>)>(),
            flags in any::<[bool; 6]>(),
            times in any::<[u32; 7]>(),
            annotations in annotations(),
            exception in option::of(any::<(String, i32, String)>()),
            expiration in option::of(0.0..1e10),
        ) -> Fold {
            let (userid, urgency, submit, prologs, epilogs, priority, status) = numbers;
            let [has_resources, bypass, immutable, debug, started, freed] = flags;
            let exception = exception.map(|(kind, severity, note)| {
                let (kind, note) = (kind.into(), note.into());
                Box::new(Exception { kind, severity, note })
            });
            Fold {
                state: State::Inactive, userid: UserId(userid), urgency, flags: submit, priority,
                has_resources, bypass, immutable, debug, started, freed, prologs, epilogs, status,
                dependencies: Vec::new(), annotations, exception, expiration,
                times: times.map(|time| f64::from(time) / 7.0),
            }
        }
    }

    prop_compose! {
        fn job()(
            id in any::<u64>(),
            fold in fold(),
            texts in [text(), text(), text(), text(), text()],
            numbers in any::<(Option<u64>, Option<u64>, Option<u64>)>(),
            duration in option::of(0.0..1e10),
            placed in option::of(any::<(String, String, u64, u64)>()),
            expiration in option::of(0.0..1e10),
        ) -> Listed {
            let [name, cwd, queue, project, bank] = texts;
            let (ntasks, ncores, nnodes) = numbers;
            let described = Described {
                name, cwd, queue, project, bank, ntasks, ncores, nnodes, tasks_per: None,
                duration: duration.map(f64::to_bits), dependencies: Vec::new(),
            };
            let placed = placed.map(|(ranks, nodelist, ncores, nnodes)| {
                Rc::new(Placed { ranks: ranks.into(), nodelist: nodelist.into(), ncores, nnodes })
            });
            Listed { id: JobId(id), fold, described: Rc::new(described), placed, expiration }
        }
    }

    fn same(one: &Listed, other: &Listed) -> bool {
        (
            one.id,
            &one.fold,
            &one.described,
            &one.placed,
            one.expiration,
        ) == (
            other.id,
            &other.fold,
            &other.described,
            &other.placed,
            other.expiration,
        )
    }

    /// The jobs as slices.
    fn slices(mut jobs: Vec<Listed>) -> Vec<Slice> {
        jobs.sort_by_key(|job| job.id);
        jobs.dedup_by_key(|job| job.id);
        let slice = |jobs: &[Listed]| Slice {
            id: SliceId::of(jobs[0].id),
            blobref: BlobRef::hash(HashKind::Sha1, &jobs[0].id.0.to_le_bytes()),
            records: jobs.iter().map(Record::new).collect(),
        };
        jobs.chunk_by(|a, b| SliceId::of(a.id) == SliceId::of(b.id))
            .map(slice)
            .collect()
    }

    fn encode(slices: &[Slice]) -> Vec<u8> {
        let mut summary = Summary::default();
        slices.iter().for_each(|slice| summary.push(slice));
        summary.finish()
    }

    proptest! {
        #[test]
        fn records_say_all_of_a_job(job in job()) {
            let record = Record::new(&job);
            prop_assert!(same(&record.job(), &job));
            prop_assert_eq!(Record::from_bytes(record.bytes()), Some(record.clone()));
            let mut outline = job;
            outline.fold.annotations = None;
            prop_assert!(same(&record.outline(), &outline));
        }

        #[test]
        fn summaries_come_back_or_are_refused(
            jobs in vec(job(), 0..4),
            flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let slices = slices(jobs);
            let bytes = encode(&slices);
            prop_assert_eq!(Summary::decode(&bytes), Some(slices));
            let mut damaged = bytes.clone();
            damaged[flip.0.index(bytes.len())] ^= flip.1;
            fuzz_summary(&damaged);
            fuzz_summary(&bytes[..flip.0.index(bytes.len())]);
        }
    }

    #[test]
    fn other_versions_are_refused() {
        assert_eq!(Summary::decode(b"flux job history 1\n"), Some(Vec::new()));
        for other in ["", "flux job history 2\n", "flux job history 1", "{}"] {
            assert_eq!(Summary::decode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn slices_have_names() {
        let id: JobId = "job.0001.00ab.0003.0004".parse().expect("an id");
        let slice = SliceId::of(id);
        assert_eq!(slice.names(), ("0001".to_owned(), "00ab".to_owned()));
        assert_eq!(SliceId::from_names("0001", "00ab"), Some(slice));
        assert!(slice.range().contains(&id));
        for (upper, lower) in [
            ("1", "00ab"),
            ("0001", "00AB"),
            ("+001", "00ab"),
            ("x", "y"),
        ] {
            assert_eq!(SliceId::from_names(upper, lower), None, "{upper} {lower}");
        }
    }
}
