//! An inactive job in few bytes: all that its listing and its manager need, decoded when asked for.
//!
//! A record says what the eventlog, jobspec and R of a job say, and nothing else: whoever has those
//! can make it again. The manager keeps one for each inactive job and shares it with the listing;
//! [`crate::history`] stores them.

use std::rc::Rc;

use serde_json::Value;
use types::{JobId, UserId};

use crate::Object;
use crate::fold::{Exception, Fold, State};
use crate::list::{Described, Listed, Placed};

/// An inactive job. Two are equal if they say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(Rc<[u8]>);

/// What a job was, in bits.
mod bit {
    pub(super) const HAS_RESOURCES: u64 = 1;
    pub(super) const BYPASS: u64 = 1 << 1;
    pub(super) const IMMUTABLE: u64 = 1 << 2;
    pub(super) const DEBUG: u64 = 1 << 3;
    pub(super) const STARTED: u64 = 1 << 4;
    pub(super) const FREED: u64 = 1 << 5;
    pub(super) const PLACED: u64 = 1 << 6;
    pub(super) const EXCEPTION: u64 = 1 << 7;
}

impl Record {
    /// The record of a job that is over.
    pub fn new(job: &Listed) -> Record {
        let fold = &job.fold;
        let mut writer = Writer::default();
        writer.number(job.id.0);
        let bits = [
            (fold.has_resources, bit::HAS_RESOURCES),
            (fold.bypass, bit::BYPASS),
            (fold.immutable, bit::IMMUTABLE),
            (fold.debug, bit::DEBUG),
            (fold.started, bit::STARTED),
            (fold.freed, bit::FREED),
            (job.placed.is_some(), bit::PLACED),
            (fold.exception.is_some(), bit::EXCEPTION),
        ];
        let set = bits.iter().filter(|(is, _)| *is);
        writer.number(set.fold(0, |all, (_, bit)| all | bit));
        writer.number(fold.userid.0.into());
        writer.signed(fold.urgency);
        writer.signed(fold.flags);
        for time in fold.times {
            writer.real(time);
        }
        writer.optional(fold.priority.map(u64::from));
        writer.number(fold.prologs.into());
        writer.number(fold.epilogs.into());
        // As `wait(2)` has it: the sign bit is never set but would survive.
        writer.optional(fold.status.map(|status| u64::from(status as u32)));
        writer.optional_real(fold.expiration);
        writer.optional_real(job.expiration);
        let described = &*job.described;
        for text in [
            &described.name,
            &described.cwd,
            &described.queue,
            &described.project,
            &described.bank,
        ] {
            writer.optional_text(text.as_deref());
        }
        writer.optional(job.ntasks());
        writer.optional(described.ncores);
        writer.optional(described.nnodes);
        writer.optional_real(described.duration());
        if let Some(placed) = &job.placed {
            writer.text(&placed.ranks);
            writer.text(&placed.nodelist);
            writer.number(placed.ncores);
            writer.number(placed.nnodes);
        }
        if let Some(exception) = &fold.exception {
            writer.text(&exception.kind);
            writer.signed(exception.severity);
            writer.text(&exception.note);
        }
        // An object of JSON values always has a text.
        let annotations = fold.annotations.as_ref();
        let annotations = annotations.and_then(|object| serde_json::to_string(object).ok());
        writer.optional_text(annotations.as_deref());
        Record(writer.0.into())
    }

    /// A record as it was stored; `None` if that is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let mut reader = Reader(bytes);
        let (_, annotations) = reader.job()?;
        if let Some(text) = annotations {
            serde_json::from_str::<&serde_json::value::RawValue>(text).ok()?;
        }
        reader.0.is_empty().then(|| Record(bytes.into()))
    }

    /// The stored form.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The job, but for its annotations.
    pub fn outline(&self) -> Listed {
        let job = Reader(&self.0).job();
        // Records are made of jobs, or were read when they came.
        job.map_or_else(empty, |(job, _)| job)
    }

    /// The job.
    pub fn job(&self) -> Listed {
        let Some((mut job, annotations)) = Reader(&self.0).job() else {
            return empty();
        };
        let annotations = annotations.map(serde_json::from_str::<Value>);
        if let Some(Ok(Value::Object(annotations))) = annotations {
            job.fold.annotations = Some(Box::new(annotations));
        }
        job
    }
}

fn empty() -> Listed {
    debug_assert!(false, "a record is sound");
    Listed {
        id: JobId(0),
        fold: blank(UserId(0)),
        described: Rc::default(),
        placed: None,
        expiration: None,
    }
}

/// An inactive job of which nothing is known.
fn blank(userid: UserId) -> Fold {
    Fold {
        state: State::Inactive,
        userid,
        urgency: 0,
        flags: 0,
        priority: None,
        has_resources: false,
        bypass: false,
        immutable: false,
        debug: false,
        started: false,
        freed: false,
        prologs: 0,
        epilogs: 0,
        status: None,
        dependencies: Vec::new(),
        annotations: None::<Box<Object>>,
        exception: None,
        expiration: None,
        times: [0.0; 7],
    }
}

/// Writes numbers seven bits a byte, the lowest first; lengths before texts; one more than a
/// number that may be missing, as 0 says that it is.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn signed(&mut self, number: i32) {
        self.number(u64::from(((number << 1) ^ (number >> 31)) as u32));
    }

    fn real(&mut self, real: f64) {
        self.0.extend_from_slice(&real.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn optional(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        if let Some(number) = number {
            self.number(number);
        }
    }

    fn optional_real(&mut self, real: Option<f64>) {
        self.number(u64::from(real.is_some()));
        if let Some(real) = real {
            self.real(real);
        }
    }

    fn optional_text(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }
}

/// Reads what [`Writer`] wrote; `None` wherever that cannot have been.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits.checked_shl(shift)? >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i32> {
        let number = u32::try_from(self.number()?).ok()?;
        Some((number >> 1) as i32 ^ -((number & 1) as i32))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn real(&mut self) -> Option<f64> {
        let bytes = self.take(size_of::<f64>())?;
        Some(f64::from_le_bytes(bytes.try_into().ok()?))
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        self.take(count)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Whether something optional is there, and that.
    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.number()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    /// A job, and the text of its annotations.
    fn job(&mut self) -> Option<(Listed, Option<&'a str>)> {
        let id = JobId(self.number()?);
        let bits = self.number()?;
        let is = |bit: u64| bits & bit != 0;
        let mut fold = blank(UserId(u32::try_from(self.number()?).ok()?));
        fold.has_resources = is(bit::HAS_RESOURCES);
        fold.bypass = is(bit::BYPASS);
        fold.immutable = is(bit::IMMUTABLE);
        fold.debug = is(bit::DEBUG);
        fold.started = is(bit::STARTED);
        fold.freed = is(bit::FREED);
        fold.urgency = self.signed()?;
        fold.flags = self.signed()?;
        for time in &mut fold.times {
            *time = self.real()?;
        }
        let priority = self.optional(Self::number)?;
        fold.priority = priority.map(u32::try_from).transpose().ok()?;
        fold.prologs = u32::try_from(self.number()?).ok()?;
        fold.epilogs = u32::try_from(self.number()?).ok()?;
        let status = self.optional(Self::number)?.map(u32::try_from);
        fold.status = status.transpose().ok()?.map(|status| status as i32);
        fold.expiration = self.optional(Self::real)?;
        let expiration = self.optional(Self::real)?;
        fn text(reader: &mut Reader<'_>) -> Option<Option<Box<str>>> {
            Some(reader.optional(Reader::text)?.map(Box::from))
        }
        let described = Described {
            name: text(self)?,
            cwd: text(self)?,
            queue: text(self)?,
            project: text(self)?,
            bank: text(self)?,
            ntasks: self.optional(Self::number)?,
            tasks_per: None,
            ncores: self.optional(Self::number)?,
            nnodes: self.optional(Self::number)?,
            duration: self.optional(Self::real)?.map(f64::to_bits),
            dependencies: Vec::new(),
        };
        let mut placed = None;
        if is(bit::PLACED) {
            placed = Some(Rc::new(Placed {
                ranks: self.text()?.into(),
                nodelist: self.text()?.into(),
                ncores: self.number()?,
                nnodes: self.number()?,
            }));
        }
        if is(bit::EXCEPTION) {
            fold.exception = Some(Box::new(Exception {
                kind: self.text()?.into(),
                severity: self.signed()?,
                note: self.text()?.into(),
            }));
        }
        let annotations = self.optional(Self::text)?;
        let described = Rc::new(described);
        let job = Listed {
            id,
            fold,
            described,
            placed,
            expiration,
        };
        Some((job, annotations))
    }
}
