//! The flux commands.
