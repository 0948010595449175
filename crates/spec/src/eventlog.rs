//! Event logs: JSON lines of timestamped events (RFC 18).
//!
//! The order of keys in a context is kept, because commands print it.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use types::Errno;

/// Why bytes are not an event or an event log (RFC 18).
#[derive(Debug, thiserror::Error)]
pub enum EventlogError {
    /// Not the JSON of an event object.
    #[error("invalid event: {0}")]
    Json(#[from] serde_json::Error),
    /// A log whose last event has no newline.
    #[error("eventlog does not end with a newline")]
    Truncated,
}

impl EventlogError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// One event (RFC 18).
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Seconds since the Unix epoch.
    pub timestamp: f64,
    /// What happened.
    pub name: String,
    /// Details, if the event has any.
    pub context: Option<Map<String, Value>>,
}

impl Entry {
    /// An event without details.
    pub fn new(timestamp: f64, name: impl Into<String>) -> Entry {
        Entry {
            timestamp,
            name: name.into(),
            context: None,
        }
    }

    /// An event with details.
    pub fn with_context(
        timestamp: f64,
        name: impl Into<String>,
        context: Map<String, Value>,
    ) -> Entry {
        Entry {
            timestamp,
            name: name.into(),
            context: Some(context),
        }
    }

    /// A detail by key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.context.as_ref()?.get(key)
    }

    /// A detail that is a string.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// A detail that is an integer.
    pub fn get_i64(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_i64()
    }

    /// A detail that is a number.
    pub fn get_f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// Decodes one event, with or without its newline.
    ///
    /// Errors: [`EventlogError::Json`] if this is not a JSON object with a non-negative
    /// `timestamp`, a non-empty `name`, and a `context` that is an object if it is there. Other
    /// keys are ignored.
    pub fn decode(line: &[u8]) -> Result<Entry, EventlogError> {
        Ok(serde_json::from_slice(line)?)
    }

    /// The event as one line with its newline.
    pub fn encode(&self) -> String {
        let mut line = self.to_string();
        line.push('\n');
        line
    }

    /// The event as a JSON value, as RPC payloads carry it.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("timestamp".into(), self.timestamp.into());
        object.insert("name".into(), self.name.clone().into());
        if let Some(context) = &self.context {
            object.insert("context".into(), Value::Object(context.clone()));
        }
        Value::Object(object)
    }

    /// The event in a JSON value. Errors: as [`Entry::decode`].
    pub fn from_value(value: &Value) -> Result<Entry, EventlogError> {
        Ok(Entry::deserialize(value)?)
    }
}

impl fmt::Display for Entry {
    /// Compact JSON without a newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &self.timestamp)?;
        object.serialize_entry("name", &self.name)?;
        if let Some(context) = &self.context {
            object.serialize_entry("context", context)?;
        }
        object.end()
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        use serde::de::Error;

        #[derive(Deserialize)]
        struct Fields {
            timestamp: f64,
            name: String,
            // An explicit null is not an object, so it must not read as an absent context.
            #[serde(default, deserialize_with = "present")]
            context: Option<Map<String, Value>>,
        }
        fn present<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Map<String, Value>>, D::Error> {
            Map::deserialize(deserializer).map(Some)
        }

        let fields = Fields::deserialize(deserializer)?;
        if !fields.timestamp.is_finite() || fields.timestamp < 0.0 {
            return Err(D::Error::custom("timestamp must not be negative"));
        }
        if fields.name.is_empty() {
            return Err(D::Error::custom("event name must not be empty"));
        }
        Ok(Entry {
            timestamp: fields.timestamp,
            name: fields.name,
            context: fields.context,
        })
    }
}

/// Decodes a whole log.
///
/// Errors: [`EventlogError::Truncated`] if the last line has no newline, otherwise as
/// [`Entry::decode`].
pub fn decode(log: &[u8]) -> Result<Vec<Entry>, EventlogError> {
    let mut decoder = Decoder::default();
    decoder.push(log);
    let entries = decoder.by_ref().collect::<Result<_, _>>()?;
    match decoder.is_empty() {
        true => Ok(entries),
        false => Err(EventlogError::Truncated),
    }
}

/// Adds an event with details to the text of a log, without making an [`Entry`] of it. `context`
/// has to be an object in JSON.
pub fn append(log: &mut Vec<u8>, timestamp: f64, name: &str, context: &impl Serialize) {
    #[derive(Serialize)]
    struct Line<'a, C> {
        timestamp: f64,
        name: &'a str,
        context: &'a C,
    }
    let line = Line {
        timestamp,
        name,
        context,
    };
    // Writing JSON to memory does not fail.
    if serde_json::to_writer(&mut *log, &line).is_ok() {
        log.push(b'\n');
    }
}

/// The text of a log.
pub fn encode<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    entries.into_iter().map(Entry::encode).collect()
}

/// Decodes a log that arrives in pieces, as a watch delivers it: push bytes, then take events
/// until there is none. An incomplete last line waits for its rest.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the next line begins in `buffer`.
    start: usize,
}

impl Decoder {
    /// Adds bytes of the log.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether no incomplete line waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}

impl Iterator for Decoder {
    type Item = Result<Entry, EventlogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let waiting = &self.buffer[self.start..];
        let end = waiting.iter().position(|&byte| byte == b'\n')?;
        let entry = Entry::decode(&waiting[..end]);
        self.start += end + 1;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 18, with the quotes it forgot around the third event's `context`.
    const EXAMPLE: &str = r#"{"timestamp":1552593348.073045,"name":"submit","context":{"urgency":16,"userid":5588,"flags":0}}
{"timestamp":1552593547.411336,"name":"urgency","context":{"urgency":0,"userid":5588}}
{"timestamp":1552593348.088391,"name":"alloc","context":{"note":"rank0/core[0-1]"}}
{"timestamp":1552593348.093541,"name":"free"}
{"timestamp":1552593348.089787,"name":"start"}
{"timestamp":1552593348.09283,"name":"release","context":{"ranks":"all","final":true}}
{"timestamp":1552593348.090927,"name":"finish","context":{"status":0}}
{"timestamp":1552593348.104432,"name":"clean"}
"#;

    #[test]
    fn the_example_of_rfc_18_round_trips() {
        let entries = decode(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(entries.len(), 8);
        assert_eq!(entries[0].get_i64("userid"), Some(5588));
        assert_eq!(entries[2].get_str("note"), Some("rank0/core[0-1]"));
        assert_eq!(encode(&entries), EXAMPLE);
        for entry in &entries {
            assert_eq!(&Entry::from_value(&entry.to_value()).unwrap(), entry);
        }
    }

    #[test]
    fn decodes_in_any_pieces() {
        let whole = decode(EXAMPLE.as_bytes()).unwrap();
        for size in [1, 7, 64, 1000] {
            let mut decoder = Decoder::default();
            let mut entries = Vec::new();
            for piece in EXAMPLE.as_bytes().chunks(size) {
                decoder.push(piece);
                entries.extend(decoder.by_ref().map(Result::unwrap));
            }
            assert!(decoder.is_empty());
            assert_eq!(entries, whole);
        }
    }

    #[test]
    fn refuses_what_is_not_an_event() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"timestamp":1}"#,
            r#"{"name":"a"}"#,
            r#"{"timestamp":"1","name":"a"}"#,
            r#"{"timestamp":-1,"name":"a"}"#,
            r#"{"timestamp":1,"name":""}"#,
            r#"{"timestamp":1,"name":2}"#,
            r#"{"timestamp":1,"name":"a","context":[]}"#,
            r#"{"timestamp":1,"name":"a","context":null}"#,
            r#"{"timestamp":1,"name":"a"} x"#,
        ] {
            assert!(Entry::decode(line.as_bytes()).is_err(), "{line}");
        }
        let cut = &EXAMPLE.as_bytes()[..EXAMPLE.len() - 1];
        assert!(matches!(decode(cut), Err(EventlogError::Truncated)));
        assert!(decode(b"").unwrap().is_empty());
    }

    #[test]
    fn appended_events_read_as_entries_do() {
        let entries = decode(EXAMPLE.as_bytes()).unwrap();
        let mut log = Vec::new();
        for entry in entries.iter().filter(|entry| entry.context.is_some()) {
            append(&mut log, entry.timestamp, &entry.name, &entry.context);
            assert!(log.ends_with(entry.encode().as_bytes()));
        }
    }

    #[test]
    fn integers_read_as_timestamps() {
        let entry = Entry::decode(br#"{"timestamp":42,"name":"a"}"#).unwrap();
        assert_eq!(entry.encode(), "{\"timestamp\":42.0,\"name\":\"a\"}\n");
    }

    proptest! {
        #[test]
        fn round_trips(timestamp in 0f64..1e12, name in "[a-z.-]{1,12}", context: Option<Vec<(String, i64)>>) {
            let context = context.map(|c| c.into_iter().map(|(k, v)| (k, v.into())).collect());
            let entry = Entry { timestamp, name, context };
            prop_assert_eq!(decode(entry.encode().as_bytes()).unwrap(), [entry]);
        }
    }
}
