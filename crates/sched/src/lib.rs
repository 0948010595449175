//! The scheduling engine: resource sets, matching, queue policy.
