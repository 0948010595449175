//! Resources from hwloc documents: a directory with one for each rank, named `RANK.xml`.

use std::path::Path;

use spec::ResourceSet;
use spec::r::Children;
use types::IdSet;

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
    let every_backend = std::env::var_os("FLUX_HWLOC_GPU_NO_DEDUP").is_some();
    let found = topology::summarize(&text, every_backend).map_err(|error| fail(&error))?;
    let children = Children::new(IdSet::first_n(found.cores), IdSet::first_n(found.gpus));
    Ok((found.hostname, children))
}
