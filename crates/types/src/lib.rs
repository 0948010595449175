//! Base types every other crate names: error numbers, ids, roles, sets.

mod errno;
mod ids;
mod role;

pub use errno::Errno;
pub use ids::{JobId, Matchtag, Rank, UserId};
pub use role::{Cred, RoleMask};
