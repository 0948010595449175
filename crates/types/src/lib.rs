//! Base types every other crate names: error numbers, ids, roles, sets, shell patterns; and the holes
//! of files.

pub mod cli_plugins;
pub mod environ;
mod errno;
pub mod extent;
pub mod fluid;
pub mod fsd;
#[doc(hidden)]
pub mod fuzz;
pub mod glob;
pub mod hostlist;
mod ids;
pub mod idset;
pub mod installation;
mod role;
mod signal;
#[doc(hidden)]
pub mod stderr;

pub use errno::Errno;
pub use hostlist::Hostlist;
pub use ids::{JobId, Matchtag, Rank, UserId};
pub use idset::IdSet;
pub use role::{Cred, RoleMask};
pub use signal::describe_signal;
