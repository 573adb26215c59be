//! Parts of mem tables: see `fkv_fuzz::part`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fkv_fuzz::part::run(1, bytes));
