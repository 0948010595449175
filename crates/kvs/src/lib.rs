//! The key-value store engine: tree, lookup, transactions, watches.
