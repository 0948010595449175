//! The `hwloc` option: a document of the host's topology for the hwloc of the tasks.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

use bytes::Bytes;
use proto::Empty;
use proto::resource::ResourceTopoGet;
use rpc::Dest;
use types::Errno;

use crate::affinity;
use crate::fatal::Fatal;
use crate::shell::Shell;

/// What tells hwloc where the document is.
const XMLFILE: &str = "HWLOC_XMLFILE";
/// What may keep hwloc from reading it.
const COMPONENTS: &str = "HWLOC_COMPONENTS";

/// Writes the document below the job's temporary directory and names it to the tasks, if the job
/// wants that: the host as the broker knows it, or only the cores the job has.
///
/// # Errors
///
/// There is no document, or it cannot be written.
pub(crate) async fn export(shell: &Rc<Shell>) -> Result<(), Fatal> {
    if !shell.job.switch("hwloc.xmlfile") {
        return Ok(());
    }
    let xml = match shell.job.switch("hwloc.restrict") {
        true => Bytes::from(restricted(shell)?),
        false => {
            let call = shell.handle.call::<ResourceTopoGet>(Dest::Any, &Empty {});
            let found = call.await;
            found
                .map_err(|error| Fatal::call("resource.topo-get", &error))?
                .0
        }
    };
    // What comes in a message is ended by a NUL.
    let xml = xml.strip_suffix(b"\0").unwrap_or(&xml);
    let path = shell.tmpdir.path().join("hwloc.xml");
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o640).open(&path);
    file.and_then(|mut file| file.write_all(xml))
        .map_err(|error| {
            let errno = Errno::from_io(&error);
            Fatal::new(format!("hwloc: {}: {errno}", path.display()))
        })?;
    let mut env = shell.env.borrow_mut();
    env.remove(COMPONENTS);
    env.entry(XMLFILE.into())
        .or_insert_with(|| path.to_string_lossy().into_owned());
    Ok(())
}

fn restricted(shell: &Shell) -> Result<String, Fatal> {
    let topology = affinity::topology().map_err(|error| Fatal::new(format!("hwloc: {error}")))?;
    let node = &shell.job.nodes[shell.rank as usize];
    let units = topology.units_of(&node.cores);
    Ok(topology.restricted_to(&units).to_xml(&node.host))
}
