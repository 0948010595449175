//! The XML of hwloc 2: machine, packages, cores, processing units, one memory node.

use std::fmt::Write;

use types::IdSet;

use crate::Topology;

/// Numbers objects, whose indexes must be unique within a document.
#[derive(Default)]
struct Writer {
    text: String,
    index: u32,
}

/// A set as hwloc writes it: words of 32 bits in hexadecimal, the highest first.
fn mask(units: &IdSet) -> String {
    let words = units.last().map_or(1, |last| last as usize / 32 + 1);
    let mut bits = vec![0u32; words];
    for unit in units.iter() {
        bits[unit as usize / 32] |= 1 << (unit % 32);
    }
    let words: Vec<_> = bits
        .iter()
        .rev()
        .map(|word| format!("0x{word:08x}"))
        .collect();
    words.join(",")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

impl Writer {
    fn open(&mut self, kind: &str, os_index: Option<u32>, units: &IdSet, close: &str) {
        self.index += 1;
        let os_index = os_index.map_or(String::new(), |index| format!(" os_index=\"{index}\""));
        let (mask, index) = (mask(units), self.index);
        // Writing to memory cannot fail.
        let _infallible = writeln!(
            self.text,
            "<object type=\"{kind}\"{os_index} cpuset=\"{mask}\" complete_cpuset=\"{mask}\" \
             nodeset=\"0x00000001\" complete_nodeset=\"0x00000001\" gp_index=\"{index}\"{close}"
        );
    }

    fn close(&mut self) {
        self.text.push_str("</object>\n");
    }
}

/// The document.
pub(crate) fn encode(topology: &Topology, hostname: &str) -> String {
    let all = topology.units_of(&topology.core_ids());
    let mut out = Writer::default();
    out.text.push_str(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n\
         <topology version=\"2.0\">\n",
    );
    out.index += 1;
    let set = mask(&all);
    let _infallible = writeln!(
        out.text,
        "<object type=\"Machine\" os_index=\"0\" cpuset=\"{set}\" complete_cpuset=\"{set}\" \
         allowed_cpuset=\"{set}\" nodeset=\"0x00000001\" complete_nodeset=\"0x00000001\" \
         allowed_nodeset=\"0x00000001\" gp_index=\"1\">\n<info name=\"OSName\" value=\"Linux\"/>\n\
         <info name=\"HostName\" value=\"{}\"/>",
        escape(hostname)
    );
    out.open("NUMANode", Some(0), &all, " local_memory=\"0\"/>");
    let mut packages: Vec<u32> = topology.cores.iter().map(|core| core.package).collect();
    packages.dedup();
    for package in packages {
        let cores: Vec<_> = topology
            .cores
            .iter()
            .filter(|core| core.package == package)
            .collect();
        let mut units = IdSet::new();
        cores.iter().for_each(|core| units.insert_all(&core.units));
        out.open("Package", Some(package), &units, ">");
        for core in cores {
            out.open("Core", core.units.first(), &core.units, ">");
            for unit in core.units.iter() {
                out.open("PU", Some(unit), &IdSet::from_range(unit, unit), "/>");
            }
            out.close();
        }
        out.close();
    }
    for gpu in 0..topology.gpus {
        out.index += 1;
        let _infallible = writeln!(
            out.text,
            "<object type=\"OSDev\" gp_index=\"{}\" name=\"cuda{gpu}\" subtype=\"CUDA\" \
             osdev_type=\"5\">\n<info name=\"Backend\" value=\"CUDA\"/>\n</object>",
            out.index
        );
    }
    out.close();
    out.text.push_str("</topology>\n");
    out.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_words_highest_first() {
        let check = |set: &str, expect: &str| {
            assert_eq!(mask(&set.parse().expect("an idset")), expect);
        };
        check("0-1", "0x00000003");
        check("31-32", "0x00000001,0x80000000");
        check("", "0x00000000");
    }
}
