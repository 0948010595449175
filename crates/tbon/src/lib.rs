//! The overlay engine: topology, routing, health.
