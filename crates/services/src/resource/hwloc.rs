//! Resources from hwloc documents: a directory with one for each rank, named `RANK.xml`.

use std::path::Path;

use spec::ResourceSet;
use spec::r::Children;

/// Reads a directory.
pub(super) fn read_directory(path: &str) -> Result<ResourceSet, String> {
    let entries = std::fs::read_dir(path).map_err(|error| format!("{path}: {error}"))?;
    let mut set = ResourceSet::new();
    for entry in entries.flatten() {
        let file = entry.path();
        if file.extension().is_none_or(|ext| ext != "xml") {
            continue;
        }
        let rank = file.file_stem().and_then(|stem| stem.to_str());
        let Some(rank) = rank.and_then(|rank| rank.parse::<u32>().ok()) else {
            return Err(format!("{}: name is not a rank", file.display()));
        };
        let (host, children) = read(&file)?;
        set.insert(rank, host.as_deref(), &children);
    }
    if set.is_empty() {
        return Err(format!(
            "{path}: invalid directory: no XML input files found"
        ));
    }
    Ok(set)
}

fn read(path: &Path) -> Result<(Option<String>, Children), String> {
    let fail = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
    let found = topology::read_xml(&text).map_err(|error| fail(&error))?;
    let children = Children::new(found.topology.core_ids(), found.topology.gpu_ids());
    Ok((found.hostname, children))
}
