//! Keys and records of the metadata store: see `fkv_fuzz::metadata`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fkv_fuzz::metadata::run(bytes));
