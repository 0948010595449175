//! KVS tree objects (RFC 11).
//!
//! Directories are stored as compact JSON with sorted keys. That form is canonical: clients
//! compute the address of the empty directory on their own and expect to find it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use types::Errno;

use crate::BlobRef;

/// Directories nested deeper than this inside one object are refused, so that decoding cannot
/// exhaust the stack. Commits put at most a path's worth of inline directories into an object.
pub const DEPTH_MAX: usize = 128;

/// Why JSON is not a tree object (RFC 11).
#[derive(Debug, thiserror::Error)]
pub enum TreeObjError {
    /// Not JSON, or not an object with exactly `ver`, `type` and `data` of the right types.
    #[error("invalid tree object: {0}")]
    Json(#[from] serde_json::Error),
    /// A version other than 1.
    #[error("unsupported tree object version {0}")]
    Version(i64),
    /// A type that does not exist, or `hdir`, which was never implemented.
    #[error("unknown tree object type '{0}'")]
    Type(String),
    /// The value of a `val` is not base64.
    #[error("invalid base64 in tree object")]
    Base64,
    /// A `valref` or `dirref` without blobrefs, or a `dirref` with several.
    #[error("wrong number of blobrefs in tree object")]
    RefCount,
    /// More than [`DEPTH_MAX`] directories inside each other.
    #[error("tree object is nested too deeply")]
    Depth,
}

impl TreeObjError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// A node of the KVS tree (RFC 11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeObj {
    /// A value held inline.
    Val(Vec<u8>),
    /// A value held in one or more blobs.
    ValRef(Vec<BlobRef>),
    /// A directory held inline.
    Dir(BTreeMap<String, TreeObj>),
    /// A directory held in a blob.
    DirRef(BlobRef),
    /// A link to another key.
    Symlink {
        /// The namespace of the target, if it is not the link's own.
        namespace: Option<String>,
        /// The target key.
        target: String,
    },
}

/// The outer shape; keys may come in any order, and no others may come.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer<'a> {
    ver: i64,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    namespace: Option<String>,
    target: String,
}

impl TreeObj {
    /// The empty directory.
    pub fn empty_dir() -> TreeObj {
        TreeObj::Dir(BTreeMap::new())
    }

    /// The name of the object's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            TreeObj::Val(_) => "val",
            TreeObj::ValRef(_) => "valref",
            TreeObj::Dir(_) => "dir",
            TreeObj::DirRef(_) => "dirref",
            TreeObj::Symlink { .. } => "symlink",
        }
    }

    /// Decodes an object from JSON text. Errors: see [`TreeObjError`].
    pub fn decode(json: &[u8]) -> Result<TreeObj, TreeObjError> {
        let text = std::str::from_utf8(json)
            .map_err(|_| serde::de::Error::custom("tree object is not UTF-8"))
            .map_err(TreeObjError::Json)?;
        decode_at(text, 0)
    }

    /// Decodes an object from a JSON value. Errors: see [`TreeObjError`].
    pub fn from_value(value: &serde_json::Value) -> Result<TreeObj, TreeObjError> {
        decode_at(&value.to_string(), 0)
    }

    /// The canonical form: compact JSON, keys sorted bytewise.
    pub fn encode(&self) -> String {
        let mut json = String::new();
        self.write(&mut json);
        json
    }

    /// The canonical form of a `val`, without making one.
    pub fn encode_val(value: &[u8]) -> String {
        let mut json = String::with_capacity(value.len() / 3 * 4 + 40);
        json.push_str("{\"data\":\"");
        BASE64.encode_string(value, &mut json);
        json.push_str("\",\"type\":\"val\",\"ver\":1}");
        json
    }

    /// The object as JSON text that is passed on as it is.
    pub fn to_raw(&self) -> Box<RawValue> {
        // The canonical form is valid JSON by construction.
        RawValue::from_string(self.encode()).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// The object as a JSON value.
    pub fn to_value(&self) -> serde_json::Value {
        // The canonical form is valid JSON by construction.
        serde_json::from_str(&self.encode()).unwrap_or_default()
    }

    /// Writes the canonical form at the end of `json`.
    pub fn write(&self, json: &mut String) {
        json.push_str("{\"data\":");
        match self {
            TreeObj::Val(value) => {
                json.push('"');
                BASE64.encode_string(value, json);
                json.push('"');
            }
            TreeObj::ValRef(refs) => write_refs(json, refs),
            TreeObj::DirRef(blobref) => write_refs(json, std::slice::from_ref(blobref)),
            TreeObj::Dir(entries) => {
                json.push('{');
                for (i, (name, entry)) in entries.iter().enumerate() {
                    if i > 0 {
                        json.push(',');
                    }
                    write_string(json, name);
                    json.push(':');
                    entry.write(json);
                }
                json.push('}');
            }
            TreeObj::Symlink { namespace, target } => {
                json.push('{');
                if let Some(namespace) = namespace {
                    json.push_str("\"namespace\":");
                    write_string(json, namespace);
                    json.push(',');
                }
                json.push_str("\"target\":");
                write_string(json, target);
                json.push('}');
            }
        }
        json.push_str(",\"type\":\"");
        json.push_str(self.type_name());
        json.push_str("\",\"ver\":1}");
    }
}

fn write_refs(json: &mut String, refs: &[BlobRef]) {
    json.push('[');
    for (i, blobref) in refs.iter().enumerate() {
        if i > 0 {
            json.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(json, "\"{blobref}\"");
    }
    json.push(']');
}

/// Writes a JSON string as C programs do: control characters in upper-case hexadecimal, everything
/// else as it is.
pub fn write_string(json: &mut String, text: &str) {
    json.push('"');
    // Nearly every name is like this, and large directories have very many.
    if !text
        .bytes()
        .any(|byte| byte < b' ' || byte == b'"' || byte == b'\\')
    {
        json.push_str(text);
        json.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04X}", c as u32);
            }
            c => json.push(c),
        }
    }
    json.push('"');
}

/// Reads a JSON string, quotes included; `None` if it is none.
pub fn read_string(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let Text(text) = serde_json::from_str(json).ok()?;
    Some(text)
}

fn decode_at(json: &str, depth: usize) -> Result<TreeObj, TreeObjError> {
    if depth > DEPTH_MAX {
        return Err(TreeObjError::Depth);
    }
    let outer: Outer<'_> = serde_json::from_str(json)?;
    if outer.ver != 1 {
        return Err(TreeObjError::Version(outer.ver));
    }
    let data = outer.data.get();
    match &*outer.kind {
        "val" => {
            let text: Cow<'_, str> = from_str(data)?;
            let value = BASE64.decode(&*text).map_err(|_| TreeObjError::Base64)?;
            Ok(TreeObj::Val(value))
        }
        "valref" => match from_str::<Vec<BlobRef>>(data)? {
            refs if refs.is_empty() => Err(TreeObjError::RefCount),
            refs => Ok(TreeObj::ValRef(refs)),
        },
        "dirref" => match from_str::<Vec<BlobRef>>(data)?[..] {
            [blobref] => Ok(TreeObj::DirRef(blobref)),
            _ => Err(TreeObjError::RefCount),
        },
        "dir" => {
            let entries: BTreeMap<String, &RawValue> = from_str(data)?;
            let entries = entries
                .into_iter()
                .map(|(name, entry)| Ok((name, decode_at(entry.get(), depth + 1)?)));
            entries.collect::<Result<_, _>>().map(TreeObj::Dir)
        }
        "symlink" => {
            let Link { namespace, target } = from_str(data)?;
            Ok(TreeObj::Symlink { namespace, target })
        }
        other => Err(TreeObjError::Type(other.into())),
    }
}

fn from_str<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, TreeObjError> {
    Ok(serde_json::from_str(json)?)
}

impl Serialize for TreeObj {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw = RawValue::from_string(self.encode()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TreeObj {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TreeObj, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        decode_at(raw.get(), 0).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::HashKind;

    const A: &str = "sha1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha1-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn blobref(text: &str) -> BlobRef {
        text.parse().unwrap()
    }

    #[test]
    fn the_empty_directory_has_the_address_clients_expect() {
        let json = TreeObj::empty_dir().encode();
        assert_eq!(json, r#"{"data":{},"type":"dir","ver":1}"#);
        assert_eq!(
            BlobRef::hash(HashKind::Sha1, json.as_bytes()).to_string(),
            "sha1-c0a9faf907dda6216fd73bf81d0b3b21a1a8cb91"
        );
    }

    #[test]
    fn decodes_the_examples_of_rfc_11() {
        let valref = TreeObj::ValRef(vec![blobref(A), blobref(B)]);
        let val = TreeObj::Val(b"422\n".to_vec());
        let link = |namespace: Option<&str>, target: &str| TreeObj::Symlink {
            namespace: namespace.map(Into::into),
            target: target.into(),
        };
        let dir = [
            ("a", TreeObj::DirRef(blobref(A))),
            ("b", val.clone()),
            ("c", valref.clone()),
            ("d", TreeObj::empty_dir()),
        ];
        let dir = TreeObj::Dir(dir.map(|(name, entry)| (name.to_string(), entry)).into());
        for (json, expect) in [
            (
                format!(r#"{{ "ver":1, "type":"valref", "data":["{A}","{B}"] }}"#),
                valref,
            ),
            (r#"{"ver":1,"type":"val","data":"NDIyCg=="}"#.into(), val),
            (
                format!(r#"{{"ver":1,"type":"dirref","data":["{A}"]}}"#),
                TreeObj::DirRef(blobref(A)),
            ),
            (
                format!(
                    r#"{{"ver":1,"type":"dir","data":{{"d":{{"ver":1,"type":"dir","data":{{}}}},"a":{{"ver":1,"type":"dirref","data":["{A}"]}},"b":{{"ver":1,"type":"val","data":"NDIyCg=="}},"c":{{"ver":1,"type":"valref","data":["{A}","{B}"]}}}}}}"#
                ),
                dir,
            ),
            (
                r#"{"ver":1,"type":"symlink","data":{"target":"a.a"}}"#.into(),
                link(None, "a.a"),
            ),
            (
                r#"{"ver":1,"type":"symlink","data":{"namespace":"a","target":"b.b"}}"#.into(),
                link(Some("a"), "b.b"),
            ),
        ] {
            let decoded = TreeObj::decode(json.as_bytes()).unwrap();
            assert_eq!(decoded, expect);
            assert_eq!(
                TreeObj::decode(decoded.encode().as_bytes()).unwrap(),
                expect
            );
            assert_eq!(TreeObj::from_value(&decoded.to_value()).unwrap(), expect);
        }
    }

    #[test]
    fn directories_are_canonical_whatever_the_order_they_came_in() {
        let json = r#"{"ver":1,"type":"dir","data":{"é/":{"ver":1,"type":"val","data":""},"A\u001f":{"type":"val","ver":1,"data":"YQ=="}}}"#;
        assert_eq!(
            TreeObj::decode(json.as_bytes()).unwrap().encode(),
            r#"{"data":{"A\u001F":{"data":"YQ==","type":"val","ver":1},"é/":{"data":"","type":"val","ver":1}},"type":"dir","ver":1}"#
        );
    }

    #[test]
    fn refuses_other_json() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"ver":2,"type":"val","data":""}"#,
            r#"{"ver":"1","type":"val","data":""}"#,
            r#"{"ver":1,"type":"foo","data":""}"#,
            r#"{"ver":1,"type":"hdir","data":{}}"#,
            r#"{"ver":1,"type":"val"}"#,
            r#"{"ver":1,"type":"val","data":"","x":1}"#,
            r#"{"ver":1,"type":"val","data":"*"}"#,
            r#"{"ver":1,"type":"val","data":5}"#,
            r#"{"ver":1,"type":"valref","data":[]}"#,
            r#"{"ver":1,"type":"valref","data":["foo"]}"#,
            r#"{"ver":1,"type":"dirref","data":[]}"#,
            r#"{"ver":1,"type":"dir","data":[]}"#,
            r#"{"ver":1,"type":"dir","data":{"a":1}}"#,
            r#"{"ver":1,"type":"symlink","data":"a"}"#,
            r#"{"ver":1,"type":"symlink","data":{"namespace":"a"}}"#,
            r#"{"ver":1,"type":"symlink","data":{"namespace":1,"target":"a"}}"#,
        ] {
            assert!(TreeObj::decode(json.as_bytes()).is_err(), "{json}");
        }
        let two = format!(r#"{{"ver":1,"type":"dirref","data":["{A}","{B}"]}}"#);
        assert!(matches!(
            TreeObj::decode(two.as_bytes()),
            Err(TreeObjError::RefCount)
        ));
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let level = r#"{"ver":1,"type":"dir","data":{"a":"#;
        let json = level.repeat(10_000);
        assert!(TreeObj::decode(json.as_bytes()).is_err());
        let depth = 2000;
        let json =
            level.repeat(depth) + r#"{"ver":1,"type":"dir","data":{}}"# + &"}}".repeat(depth);
        assert!(matches!(
            TreeObj::decode(json.as_bytes()),
            Err(TreeObjError::Depth)
        ));
    }

    fn tree() -> impl Strategy<Value = TreeObj> {
        let leaf = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(TreeObj::Val),
            proptest::collection::vec(any::<[u8; 20]>().prop_map(BlobRef::Sha1), 1..4)
                .prop_map(TreeObj::ValRef),
            any::<[u8; 32]>().prop_map(|digest| TreeObj::DirRef(BlobRef::Sha256(digest))),
            (any::<Option<String>>(), any::<String>())
                .prop_map(|(namespace, target)| TreeObj::Symlink { namespace, target }),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            proptest::collection::btree_map(any::<String>(), inner, 0..6).prop_map(TreeObj::Dir)
        })
    }

    proptest! {
        #[test]
        fn round_trips(object in tree()) {
            prop_assert_eq!(&TreeObj::decode(object.encode().as_bytes()).unwrap(), &object);
            prop_assert_eq!(&serde_json::from_str::<TreeObj>(&serde_json::to_string(&object).unwrap()).unwrap(), &object);
        }
    }
}
