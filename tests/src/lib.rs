//! fkv-tests
