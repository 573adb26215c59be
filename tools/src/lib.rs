//! fkv-tools
