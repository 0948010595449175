//! Reading hwloc's XML: what a document says there is to schedule.
//!
//! Only the nesting of objects and a few attributes matter, so this is no XML reader in general.
//! Documents come from files people name; nothing in one makes this panic or loop.

use std::collections::HashMap;

use types::IdSet;

use crate::{Core, Topology};

/// The backends of hwloc whose devices programs compute with.
const GPU_BACKENDS: &[&str] = &["CUDA", "NVML", "OpenCL", "RSMI"];

/// What a document describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The host it was made on, if it says so.
    pub hostname: Option<String>,
    /// What is in it. Cores without a set of processing units have none.
    pub topology: Topology,
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
    number: u32,
    /// What made a device known.
    backend: Option<String>,
    /// On a PCI device: the backend whose devices count.
    counted: Option<String>,
}

/// The environment variable that has devices of every backend counted.
const NO_DEDUP: &str = "FLUX_HWLOC_GPU_NO_DEDUP";

/// Reads a document, as the environment says.
pub fn read_xml(xml: &str) -> Result<Summary, XmlError> {
    summarize(xml, std::env::var_os(NO_DEDUP).is_some())
}

/// A set of numbers as hwloc writes it: words of 32 bits in hexadecimal, most significant first,
/// with commas between them. `None` if it is something else.
pub fn parse_mask(text: &str) -> Option<IdSet> {
    let words = text.split(',').map(|word| match word {
        "" => Some(0),
        word => u32::from_str_radix(word.strip_prefix("0x")?, 16).ok(),
    });
    let words: Vec<u32> = words.collect::<Option<_>>()?;
    let mut set = IdSet::new();
    for (at, word) in (0u32..).zip(words.into_iter().rev()) {
        for bit in (0..32).filter(|bit| word & (1 << bit) != 0) {
            set.insert(at.checked_mul(32)?.checked_add(bit)?);
        }
    }
    Some(set)
}

/// Reads a document.
///
/// One GPU is often known to several backends. Those of the backend that comes first count for
/// each PCI device, unless `every_backend`, as `FLUX_HWLOC_GPU_NO_DEDUP` asks.
fn summarize(xml: &str, every_backend: bool) -> Result<Summary, XmlError> {
    let mut summary = Summary::default();
    let mut open: Vec<Object> = Vec::new();
    for piece in xml.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').ok_or(XmlError::Malformed)?;
        if tag.starts_with("object ") {
            let kind = attribute(tag, "type").unwrap_or_default();
            if kind == "Core" {
                let package = open.iter().rev().find(|above| above.kind == "Package");
                summary.topology.cores.push(Core {
                    package: package.map_or(0, |package| package.number),
                    units: attribute(tag, "cpuset")
                        .and_then(|mask| parse_mask(&mask))
                        .unwrap_or_default(),
                });
            }
            open.push(Object {
                backend: attribute(tag, "subtype").filter(|_| kind == "OSDev"),
                number: attribute(tag, "os_index")
                    .and_then(|number| number.parse().ok())
                    .unwrap_or(0),
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
    if summary.topology.cores.is_empty() {
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
    summary.topology.gpus += u32::from(every || counts);
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
                r#"<?xml version="1.0"?><topology><object type="Machine"><info name="HostName" value="a&amp;b"/><object type="Package" os_index="3"><object type="Core" cpuset="0x00000002,0x00000003"><object type="PU"/></object></object>{inside}</object></topology>"#
            );
            let expect = Summary {
                hostname: Some("a&b".to_owned()),
                topology: Topology {
                    cores: vec![Core {
                        package: 3,
                        units: "0-1,33".parse().expect("an idset"),
                    }],
                    gpus,
                },
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
        let topology = Topology {
            cores: vec![Core {
                package: 0,
                units: IdSet::first_n(2),
            }],
            gpus: 2,
        };
        let summary = summarize(&topology.to_xml("h"), false).expect("own XML");
        assert_eq!(summary.topology, topology);
        assert_eq!(summary.hostname.as_deref(), Some("h"));
    }

    #[test]
    fn masks_have_words_of_32_bits() {
        let check = |text: &str| parse_mask(text).map(|set| set.to_string());
        assert_eq!(check("0xf0000000,,0x1"), Some("0,92-95".to_owned()));
        assert_eq!(check("0x0"), Some(String::new()));
        for text in ["f", "0xg", "0x1ffffffff", "0-3"] {
            assert_eq!(check(text), None, "{text}");
        }
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
