//! Documents of the RFCs: R, jobspec, eventlog, treeobj, blobref, constraint, taskmap, ranges.

pub mod archive;
pub mod blobref;
pub mod config;
pub mod constraint;
pub mod crontab;
pub mod eventlog;
#[doc(hidden)]
pub mod fuzz;
pub mod jobspec;
pub mod proctable;
pub mod r;
pub mod range;
pub mod shape;
pub mod stdio;
pub mod taskmap;
pub mod treeobj;

pub use blobref::{BlobRef, HashKind};
pub use constraint::Constraint;
pub use eventlog::Entry;
pub use jobspec::Jobspec;
pub use r::{Children, ResourceSet};
pub use range::{Count, Range};
pub use taskmap::Taskmap;
pub use treeobj::TreeObj;
