//! fkv-rpc
