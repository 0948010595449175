//! The job engine: life cycle, queues, listing.
