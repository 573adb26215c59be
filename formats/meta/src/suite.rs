//! The contract of a metadata store, as tests.
