//! Standard I/O of tasks as it travels in RPCs and eventlogs (RFC 24).
//!
//! Text goes as it is; bytes that are not UTF-8 go as base64 and are marked so.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};
use types::Errno;

/// Why JSON is not an I/O object (RFC 24).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StdioError {
    /// A required key is missing or has the wrong type.
    #[error("I/O object: bad or missing {0}")]
    Field(&'static str),
    /// An encoding that does not exist.
    #[error("I/O object: unknown encoding '{0}'")]
    Encoding(String),
    /// The data is not what the encoding says.
    #[error("I/O object: data is not base64")]
    Base64,
    /// Neither data nor end of stream.
    #[error("I/O object: neither data nor eof")]
    Empty,
}

impl StdioError {
    /// The error number C programs report: `EPROTO`.
    pub fn errno(&self) -> Errno {
        Errno::EPROTO
    }
}

/// A piece of one stream: data, its end, or both (RFC 24).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamData {
    /// The stream: `stdin`, `stdout`, `stderr` or a channel.
    pub stream: String,
    /// Whose stream: an idset, or `all`.
    pub rank: String,
    /// The bytes; `None` if the object only tells the end.
    pub data: Option<Vec<u8>>,
    /// Whether the stream ends here.
    pub eof: bool,
    /// How many times the data is repeated; 1 unless consecutive copies were joined.
    pub repeat: u64,
}

impl StreamData {
    /// A piece of data.
    pub fn new(stream: &str, rank: impl ToString, data: &[u8]) -> StreamData {
        StreamData {
            stream: stream.into(),
            rank: rank.to_string(),
            data: Some(data.into()),
            eof: false,
            repeat: 1,
        }
    }

    /// The end of a stream.
    pub fn eof(stream: &str, rank: impl ToString) -> StreamData {
        StreamData {
            stream: stream.into(),
            rank: rank.to_string(),
            data: None,
            eof: true,
            repeat: 1,
        }
    }

    /// Decodes the object. `default_encoding` is what the header event gives for the stream;
    /// UTF-8 if it is not `base64`.
    ///
    /// Errors: see [`StdioError`].
    pub fn decode(
        object: &Map<String, Value>,
        default_encoding: &str,
    ) -> Result<StreamData, StdioError> {
        let text = |key: &'static str| match object.get(key) {
            Some(value) => value.as_str().map(Some).ok_or(StdioError::Field(key)),
            None => Ok(None),
        };
        let eof = match object.get("eof") {
            Some(Value::Bool(eof)) => *eof,
            // The RFC's own example has the boolean as a string.
            Some(Value::String(eof)) => eof == "true",
            Some(_) => return Err(StdioError::Field("eof")),
            None => false,
        };
        let encoding = text("encoding")?;
        let data = match text("data")? {
            Some(data) => Some(decode_data(data, encoding.unwrap_or(default_encoding))?),
            None => None,
        };
        if data.is_none() && !eof {
            return Err(StdioError::Empty);
        }
        Ok(StreamData {
            stream: text("stream")?.ok_or(StdioError::Field("stream"))?.into(),
            rank: text("rank")?.ok_or(StdioError::Field("rank"))?.into(),
            data,
            eof,
            repeat: match object.get("repeat") {
                Some(repeat) => repeat.as_u64().ok_or(StdioError::Field("repeat"))?,
                None => 1,
            },
        })
    }

    /// The object. Bytes that are not UTF-8 are marked `"encoding":"base64"`.
    pub fn encode(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            // It has nothing but strings, numbers and booleans.
            Ok(_) | Err(_) => unreachable!("an I/O object is a JSON object"),
        }
    }
}

impl Serialize for StreamData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("stream", &self.stream)?;
        object.serialize_entry("rank", &self.rank)?;
        if let Some(data) = &self.data {
            match std::str::from_utf8(data) {
                Ok(text) => object.serialize_entry("data", text)?,
                Err(_) => {
                    object.serialize_entry("encoding", "base64")?;
                    object.serialize_entry("data", &BASE64.encode(data))?;
                }
            }
        }
        if self.repeat > 1 {
            object.serialize_entry("repeat", &self.repeat)?;
        }
        if self.eof {
            object.serialize_entry("eof", &true)?;
        }
        object.end()
    }
}

fn decode_data(data: &str, encoding: &str) -> Result<Vec<u8>, StdioError> {
    match encoding {
        "base64" => BASE64.decode(data).map_err(|_| StdioError::Base64),
        text if text.eq_ignore_ascii_case("utf-8") => Ok(data.into()),
        other => Err(StdioError::Encoding(other.into())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn decode(value: Value, encoding: &str) -> Result<StreamData, StdioError> {
        StreamData::decode(value.as_object().unwrap(), encoding)
    }

    #[test]
    fn decodes_the_example_of_rfc_24() {
        let example = json!({"stream": "stdout", "rank": "31", "data": "bWVlcAo=", "eof": "true"});
        let mut expect = StreamData::new("stdout", 31, b"meep\n");
        expect.eof = true;
        assert_eq!(decode(example, "base64"), Ok(expect));
    }

    #[test]
    fn text_stays_readable_and_bytes_are_marked() {
        let object = |data: &[u8]| Value::Object(StreamData::new("stderr", 0, data).encode());
        assert_eq!(
            object("é\n".as_bytes()),
            json!({"stream":"stderr","rank":"0","data":"é\n"})
        );
        let bytes = json!({"stream":"stderr","rank":"0","encoding":"base64","data":"/w=="});
        assert_eq!(object(b"\xff"), bytes);
        let eof = Value::Object(StreamData::eof("stdin", "all").encode());
        assert_eq!(eof, json!({"stream":"stdin","rank":"all","eof":true}));
    }

    #[test]
    fn refuses_other_objects() {
        for (object, error) in [
            (json!({"rank":"0","eof":true}), StdioError::Field("stream")),
            (
                json!({"stream":"stdout","eof":true}),
                StdioError::Field("rank"),
            ),
            (json!({"stream":"stdout","rank":"0"}), StdioError::Empty),
            (
                json!({"stream":"stdout","rank":"0","eof":false}),
                StdioError::Empty,
            ),
            (
                json!({"stream":"stdout","rank":"0","data":1}),
                StdioError::Field("data"),
            ),
            (
                json!({"stream":"stdout","rank":"0","data":"*","encoding":"base64"}),
                StdioError::Base64,
            ),
            (
                json!({"stream":"stdout","rank":"0","data":"","encoding":"x"}),
                StdioError::Encoding("x".into()),
            ),
        ] {
            assert_eq!(decode(object, "UTF-8"), Err(error));
        }
    }

    proptest! {
        #[test]
        fn round_trips(data: Option<Vec<u8>>, repeat in 1u64..3) {
            let eof = data.is_none();
            let piece = StreamData { stream: "stdout".into(), rank: "0-3".into(), data, eof, repeat };
            prop_assert_eq!(StreamData::decode(&piece.encode(), "UTF-8"), Ok(piece));
        }
    }
}
