//! Reading hwloc's XML: what a document says there is to schedule.
//!
//! Only the nesting of objects and a few attributes matter, so this is no XML reader in general.
//! Documents come from files people name; nothing in one makes this panic or loop.

use std::collections::HashMap;

/// The backends of hwloc whose devices programs compute with.
const GPU_BACKENDS: &[&str] = &["CUDA", "NVML", "OpenCL", "RSMI"];

/// What a document describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The host it was made on, if it says so.
    pub hostname: Option<String>,
    /// How many cores there are.
    pub cores: u32,
    /// How many GPUs there are.
    pub gpus: u32,
}

/// A text that is no topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Objects do not nest, or a tag has no end.
    #[error("malformed XML")]
    Malformed,
    /// It has no cores.
    #[error("no cores found in XML")]
    NoCores,
}

/// An object whose end has not come yet.
#[derive(Default)]
struct Object {
    kind: String,
    /// What made a device known.
    backend: Option<String>,
    /// On a PCI device: the backend whose devices count.
    counted: Option<String>,
}

/// Reads a document.
///
/// One GPU is often known to several backends. Those of the backend that comes first count for
/// each PCI device, unless `every_backend`, as `FLUX_HWLOC_GPU_NO_DEDUP` asks.
pub fn summarize(xml: &str, every_backend: bool) -> Result<Summary, XmlError> {
    let mut summary = Summary::default();
    let mut open: Vec<Object> = Vec::new();
    for piece in xml.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').ok_or(XmlError::Malformed)?;
        if tag.starts_with("object ") {
            let kind = attribute(tag, "type").unwrap_or_default();
            summary.cores += u32::from(kind == "Core");
            open.push(Object {
                backend: attribute(tag, "subtype").filter(|_| kind == "OSDev"),
                kind,
                counted: None,
            });
            if tag.ends_with('/') {
                close(&mut open, &mut summary, every_backend)?;
            }
        } else if tag == "/object" {
            close(&mut open, &mut summary, every_backend)?;
        } else if tag.starts_with("info ") {
            let value = attribute(tag, "value");
            match (attribute(tag, "name").as_deref(), open.last_mut()) {
                (Some("HostName"), Some(object)) if object.kind == "Machine" => {
                    summary.hostname = value;
                }
                (Some("Backend"), Some(object)) if object.kind == "OSDev" => object.backend = value,
                _ => {}
            }
        }
    }
    if !open.is_empty() {
        return Err(XmlError::Malformed);
    }
    if summary.cores == 0 {
        return Err(XmlError::NoCores);
    }
    Ok(summary)
}

fn close(open: &mut Vec<Object>, summary: &mut Summary, every: bool) -> Result<(), XmlError> {
    let object = open.pop().ok_or(XmlError::Malformed)?;
    let Some(backend) = object
        .backend
        .filter(|backend| GPU_BACKENDS.contains(&backend.as_str()))
    else {
        return Ok(());
    };
    let device = open.iter_mut().rev().find(|above| above.kind == "PCIDev");
    let counts = match device {
        Some(device) => *device.counted.get_or_insert_with(|| backend.clone()) == backend,
        None => true,
    };
    summary.gpus += u32::from(every || counts);
    Ok(())
}

/// An attribute of a tag, without the escapes of XML.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    let mut found = HashMap::new();
    while let Some((before, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        let key = before.split_whitespace().next_back()?;
        found.entry(key).or_insert(value);
        rest = after;
    }
    let value = found.get(name)?;
    Some(
        value
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

/// Feeds bytes to the reader, for `fuzz`.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Any answer will do as long as there is one.
    let _either = summarize(&text, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = r#"<object type="PCIDev"><object type="OSDev" name="opencl0d1"><info name="Backend" value="OpenCL"/></object><object type="OSDev" name="cuda1"><info name="Backend" value="CUDA"/></object><object type="OSDev" name="eth0"/></object>"#;
    const PARTS: &str = r#"<object type="PCIDev"><object type="OSDev" name="rsmi0" subtype="RSMI"/><object type="OSDev" name="rsmi1" subtype="RSMI"/></object>"#;

    #[test]
    fn devices_count_once() {
        let check = |inside: &str, every: bool, gpus: u32| {
            let xml = format!(
                r#"<?xml version="1.0"?><topology><object type="Machine"><info name="HostName" value="a&amp;b"/><object type="Core"><object type="PU"/></object>{inside}</object></topology>"#
            );
            let expect = Summary {
                hostname: Some("a&b".to_owned()),
                cores: 1,
                gpus,
            };
            assert_eq!(summarize(&xml, every), Ok(expect));
        };
        check(DEVICE, false, 1);
        check(DEVICE, true, 2);
        check(PARTS, false, 2);
        check(r#"<object type="OSDev" subtype="CUDA"/>"#, false, 1);
        check("", false, 0);
    }

    #[test]
    fn what_is_written_is_read() {
        let topology = crate::Topology {
            cores: vec![crate::Core {
                package: 0,
                units: types::IdSet::first_n(2),
            }],
            gpus: 2,
        };
        let summary = summarize(&topology.to_xml("h"), false).expect("own XML");
        assert_eq!((summary.cores, summary.gpus), (1, 2));
        assert_eq!(summary.hostname.as_deref(), Some("h"));
    }

    #[test]
    fn other_texts_are_refused() {
        for (xml, expect) in [
            ("", XmlError::NoCores),
            ("<object type=\"Core\"", XmlError::Malformed),
            ("</object>", XmlError::Malformed),
            ("<object type=\"Core\">", XmlError::Malformed),
        ] {
            assert_eq!(summarize(xml, false), Err(expect), "{xml}");
        }
    }
}
