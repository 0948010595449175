//! Base types every other crate names: errno, ids, idset, hostlist, FSD, FLUID, roles.
