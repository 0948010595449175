//! The processors and GPUs of this host, as the kernel shows them.
//!
//! Cores are numbered as hwloc numbers them logically: packages in the order of their first
//! processing unit, cores within a package likewise, from 0. Only what this process may run on
//! counts, unless asked otherwise, so that an instance inside a container or a job takes no more
//! than it was given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use types::IdSet;

pub mod cgroup;
mod hwloc;
mod xml;

#[doc(hidden)]
pub use hwloc::fuzz;
pub use hwloc::{Summary, XmlError, parse_mask, read_xml};

/// The environment variable that names a document to be believed in place of the host.
const XMLFILE: &str = "FLUX_HWLOC_XMLFILE";

/// The environment variable that says it is of another host.
const NOT_THISSYSTEM: &str = "FLUX_HWLOC_XMLFILE_NOT_THISSYSTEM";

/// Why the topology could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file of the kernel's could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of the kernel's does not hold what it should.
    #[error("{}: unexpected content '{content}'", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// A document says nothing of use.
    #[error("{}: {source}", path.display())]
    Xml {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: XmlError,
    },
    /// The process's own binding could not be read.
    #[error("sched_getaffinity: {0}")]
    Affinity(nix::errno::Errno),
}

/// A core: the processing units that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// The kernel's number of the package the core is in.
    pub package: u32,
    /// The kernel's numbers of its processing units.
    pub units: IdSet,
}

/// The processors and GPUs of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The cores, by logical number.
    pub cores: Vec<Core>,
    /// How many GPUs there are.
    pub gpus: u32,
}

impl Topology {
    /// The topology of this host, or what `FLUX_HWLOC_XMLFILE` names in its place, and the same as a
    /// document. With `restrict`, only what this process may run on, unless it is of another host.
    pub fn local(restrict: bool, hostname: &str) -> Result<(Topology, String), TopologyError> {
        let Some(path) = std::env::var_os(XMLFILE).map(PathBuf::from) else {
            let topology = Topology::discover(restrict)?;
            let xml = topology.to_xml(hostname);
            return Ok((topology, xml));
        };
        let xml = match fs::read_to_string(&path) {
            Ok(xml) => xml,
            Err(source) => return Err(TopologyError::Read { path, source }),
        };
        let topology = match read_xml(&xml) {
            Ok(summary) => summary.topology,
            Err(source) => return Err(TopologyError::Xml { path, source }),
        };
        if !restrict || std::env::var_os(NOT_THISSYSTEM).is_some() {
            return Ok((topology, xml));
        }
        let topology = topology.restricted_to(&own_units()?);
        let xml = topology.to_xml(hostname);
        Ok((topology, xml))
    }

    /// The part that has some of these processing units.
    pub fn restricted_to(&self, units: &IdSet) -> Topology {
        let cores = self.cores.iter().map(|core| Core {
            package: core.package,
            units: core.units.intersection(units),
        });
        Topology {
            cores: cores.filter(|core| !core.units.is_empty()).collect(),
            gpus: self.gpus,
        }
    }

    /// Reads this host's topology. With `restrict`, only what this process may run on.
    pub fn discover(restrict: bool) -> Result<Topology, TopologyError> {
        let allowed = if restrict { Some(own_units()?) } else { None };
        let mut topology = Topology::read(Path::new("/sys"), allowed.as_ref())?;
        topology.gpus = count_gpus(Path::new("/"));
        Ok(topology)
    }

    /// Reads the processors below a mounted sysfs.
    fn read(sys: &Path, allowed: Option<&IdSet>) -> Result<Topology, TopologyError> {
        let cpus = sys.join("devices/system/cpu");
        let online = read_set(&cpus.join("online"))?;
        let mut cores: Vec<Core> = Vec::new();
        for unit in online.iter() {
            if allowed.is_some_and(|allowed| !allowed.contains(unit)) {
                continue;
            }
            let dir = cpus.join(format!("cpu{unit}/topology"));
            // A kernel that shows no topology has cores of one unit each.
            let (package, siblings) = if dir.exists() {
                let package = read_number(&dir.join("physical_package_id"))?;
                (package, siblings(&dir)?)
            } else {
                (0, IdSet::from_range(unit, unit))
            };
            let known = cores
                .iter_mut()
                .find(|core| core.package == package && core.units.intersects(&siblings));
            match known {
                Some(core) => {
                    core.units.insert(unit);
                }
                None => cores.push(Core {
                    package,
                    units: IdSet::from_range(unit, unit),
                }),
            }
        }
        let first_of = |package: u32| {
            cores
                .iter()
                .filter(|core| core.package == package)
                .filter_map(|c| c.units.first())
                .min()
        };
        let mut keyed: Vec<_> = cores
            .iter()
            .map(|core| ((first_of(core.package), core.units.first()), core.clone()))
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        let cores = keyed.into_iter().map(|(_, core)| core).collect();
        Ok(Topology { cores, gpus: 0 })
    }

    /// The logical numbers of all cores.
    pub fn core_ids(&self) -> IdSet {
        IdSet::first_n(self.cores.len() as u32)
    }

    /// The numbers of all GPUs.
    pub fn gpu_ids(&self) -> IdSet {
        IdSet::first_n(self.gpus)
    }

    /// The processing units of these cores. Cores that do not exist are ignored.
    pub fn units_of(&self, cores: &IdSet) -> IdSet {
        let mut units = IdSet::new();
        for core in cores.iter().filter_map(|id| self.cores.get(id as usize)) {
            units.insert_all(&core.units);
        }
        units
    }

    /// The topology in the XML of hwloc 2, as far as programs of the system need it.
    pub fn to_xml(&self, hostname: &str) -> String {
        xml::encode(self, hostname)
    }
}

/// The processing units this process may run on.
fn own_units() -> Result<IdSet, TopologyError> {
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(TopologyError::Affinity)?;
    Ok((0..CpuSet::count())
        .filter(|unit| set.is_set(*unit).unwrap_or(false))
        .map(|unit| unit as u32)
        .collect())
}

/// The units that share a core, under the name this kernel has for the file.
fn siblings(dir: &Path) -> Result<IdSet, TopologyError> {
    let new = dir.join("core_cpus_list");
    if new.exists() {
        read_set(&new)
    } else {
        read_set(&dir.join("thread_siblings_list"))
    }
}

fn read(path: &Path) -> Result<String, TopologyError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(TopologyError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_set(path: &Path) -> Result<IdSet, TopologyError> {
    let text = read(path)?;
    text.parse().map_err(|_| TopologyError::Content {
        path: path.to_owned(),
        content: text,
    })
}

fn read_number(path: &Path) -> Result<u32, TopologyError> {
    let text = read(path)?;
    // -1 stands for unknown.
    let number: i64 = text.parse().map_err(|_| TopologyError::Content {
        path: path.to_owned(),
        content: text,
    })?;
    Ok(u32::try_from(number).unwrap_or(0))
}

/// Counts the GPUs whose drivers are loaded: NVIDIA's by its own list, AMD's by the compute
/// driver's nodes that have SIMD units.
fn count_gpus(root: &Path) -> u32 {
    let entries = |path: &str| {
        fs::read_dir(root.join(path))
            .into_iter()
            .flatten()
            .flatten()
    };
    let nvidia = entries("proc/driver/nvidia/gpus").count();
    let amd = entries("sys/class/kfd/kfd/topology/nodes")
        .filter(|node| {
            fs::read_to_string(node.path().join("properties")).is_ok_and(|text| {
                text.lines().any(|line| {
                    line.strip_prefix("simd_count ")
                        .is_some_and(|count| count.trim() != "0")
                })
            })
        })
        .count();
    (nvidia + amd) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a sysfs of units given as `(package, siblings)`.
    fn check(name: &str, units: &[(u32, &str)], allowed: Option<&str>, expect: &[(u32, &str)]) {
        let root = std::env::temp_dir().join(format!("topology-{name}-{}", std::process::id()));
        let cpus = root.join("devices/system/cpu");
        for (unit, (package, siblings)) in units.iter().enumerate() {
            let dir = cpus.join(format!("cpu{unit}/topology"));
            fs::create_dir_all(&dir).expect("temporary directory");
            fs::write(dir.join("physical_package_id"), format!("{package}\n")).expect("writable");
            fs::write(dir.join("core_cpus_list"), format!("{siblings}\n")).expect("writable");
        }
        fs::write(cpus.join("online"), format!("0-{}\n", units.len() - 1)).expect("writable");
        let allowed = allowed.map(|text| text.parse().expect("an idset"));
        let topology = Topology::read(&root, allowed.as_ref()).expect("readable");
        fs::remove_dir_all(&root).expect("own directory");
        let cores: Vec<_> = topology
            .cores
            .iter()
            .map(|core| (core.package, core.units.to_list()))
            .collect();
        let expect: Vec<_> = expect
            .iter()
            .map(|(package, units)| (*package, (*units).to_owned()))
            .collect();
        assert_eq!(cores, expect);
    }

    #[test]
    fn cores_are_numbered_by_package_and_first_unit() {
        check("plain", &[(0, "0"), (0, "1")], None, &[(0, "0"), (0, "1")]);
        let threads = [(0, "0,2"), (0, "1,3"), (0, "0,2"), (0, "1,3")];
        check("smt", &threads, None, &[(0, "0,2"), (0, "1,3")]);
        check("bound", &threads, Some("1,2"), &[(0, "1"), (0, "2")]);
        let packages = [(1, "0"), (0, "1"), (1, "2"), (0, "3")];
        check(
            "packages",
            &packages,
            None,
            &[(1, "0"), (1, "2"), (0, "1"), (0, "3")],
        );
    }

    #[test]
    fn this_host_has_a_core() {
        let topology = Topology::discover(true).expect("readable");
        assert!(!topology.cores.is_empty());
        assert!(!topology.units_of(&topology.core_ids()).is_empty());
        assert!(topology.to_xml("host").contains("<object type=\"PU\""));
    }
}
