//! fkv-bench
