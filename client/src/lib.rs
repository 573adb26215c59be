//! fkv-client
