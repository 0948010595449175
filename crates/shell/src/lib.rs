//! The job shell: starts and serves the tasks of one job on one node.
