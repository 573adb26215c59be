//! fkv-datasvr
