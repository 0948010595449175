//! Leaving out all but the last lines of what a job has written so far.

use std::iter;

use client::Client;
use proto::job_info::{JobInfoLookup, Lookup};
use rpc::Dest;
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use types::{Errno, JobId};

use super::data_of;
use crate::fail::Fail;

/// The lines yet to be left out.
#[derive(Debug, Default)]
pub(super) struct Tail {
    left: u64,
}

impl Tail {
    /// Leaves out what is in the eventlog now, except for the last `lines`.
    pub(super) async fn find(
        client: &Client,
        id: JobId,
        key: &str,
        lines: u64,
    ) -> Result<Tail, Fail> {
        let request = Lookup {
            id,
            keys: vec![key.to_owned()],
            flags: 0,
        };
        let found = match client
            .handle()
            .call::<JobInfoLookup>(Dest::Any, &request)
            .await
        {
            Ok(found) => found,
            // Nothing was written yet.
            Err(error) if error.errno == Errno::ENOENT => return Ok(Tail::default()),
            Err(error) => return Err(Fail::of(key, error)),
        };
        let text = found.get(key).and_then(Value::as_str).unwrap_or_default();
        let entries = spec::eventlog::decode(text.as_bytes());
        let entries = entries.map_err(|error| Fail::of(key, error))?;
        let mut encodings = Map::new();
        let mut total = 0;
        for entry in &entries {
            match (entry.name.as_str(), &entry.context, entry.get("encoding")) {
                ("header", _, Some(Value::Object(found))) => encodings = found.clone(),
                ("data", Some(context), _) => {
                    if let Some(data) = data_of(context, &encodings) {
                        total += count(&data) * data.repeat;
                    }
                }
                _ => {}
            }
        }
        Ok(Tail {
            left: total.saturating_sub(lines),
        })
    }

    /// What there is to show of a piece of output.
    pub(super) fn cut(&mut self, mut data: StreamData) -> impl Iterator<Item = StreamData> {
        let lines = count(&data);
        let copies = match lines {
            0 => 0,
            lines => data.repeat.min(self.left / lines),
        };
        self.left -= copies * lines;
        data.repeat -= copies;
        let begun = self.left > 0 && data.repeat > 0 && lines > 0;
        let part = begun.then(|| {
            data.repeat -= 1;
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            self.left = 0;
            StreamData {
                data: data.data.as_ref().map(|bytes| {
                    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
                    lines.skip(left).flatten().copied().collect()
                }),
                repeat: 1,
                ..data.clone()
            }
        });
        part.into_iter()
            .chain(iter::once(data).filter(|data| data.repeat > 0))
    }
}

/// The lines of one copy of a piece.
fn count(data: &StreamData) -> u64 {
    let bytes = data.data.as_deref().unwrap_or_default();
    bytes.split_inclusive(|byte| *byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_through_pieces_and_repetitions() {
        let piece = |text: &str, repeat| StreamData {
            repeat,
            ..StreamData::new("stdout", 0, text.as_bytes())
        };
        let pieces = [
            piece("a\nb\n", 3),
            StreamData::eof("stdout", 1),
            piece("c\nd", 1),
        ];
        for (left, expect) in [
            (0, "a\nb\na\nb\na\nb\nc\nd"),
            (1, "b\na\nb\na\nb\nc\nd"),
            (4, "a\nb\nc\nd"),
            (5, "b\nc\nd"),
            (6, "c\nd"),
            (7, "d"),
            (9, ""),
        ] {
            let mut tail = Tail { left };
            let mut shown = Vec::new();
            for data in pieces
                .iter()
                .cloned()
                .flat_map(|data| tail.cut(data).collect::<Vec<_>>())
            {
                for _ in 0..data.repeat {
                    shown.extend_from_slice(data.data.as_deref().unwrap_or_default());
                }
            }
            assert_eq!(String::from_utf8(shown).expect("text"), expect, "{left}");
        }
    }
}
