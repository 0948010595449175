//! Documents of the RFCs: R, jobspec, eventlog, treeobj, blobref, constraint, taskmap, ranges.
