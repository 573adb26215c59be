//! Whole packs: see `fkv_fuzz::pack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fkv_fuzz::pack::run(bytes));
