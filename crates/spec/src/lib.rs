//! Documents of the RFCs: R, jobspec, eventlog, treeobj, blobref, constraint, taskmap, ranges.

pub mod blobref;
pub mod eventlog;
#[doc(hidden)]
pub mod fuzz;
pub mod treeobj;

pub use blobref::{BlobRef, HashKind};
pub use eventlog::Entry;
pub use treeobj::TreeObj;
