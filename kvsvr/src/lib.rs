//! fkv-kvsvr
