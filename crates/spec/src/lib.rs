//! Documents of the RFCs: R, jobspec, eventlog, treeobj, blobref, constraint, taskmap, ranges.

pub mod blobref;
pub mod constraint;
pub mod eventlog;
#[doc(hidden)]
pub mod fuzz;
pub mod r;
pub mod treeobj;

pub use blobref::{BlobRef, HashKind};
pub use constraint::Constraint;
pub use eventlog::Entry;
pub use r::ResourceSet;
pub use treeobj::TreeObj;
