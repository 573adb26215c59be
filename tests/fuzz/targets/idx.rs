//! Parts of idx tables: see `fkv_fuzz::part`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fkv_fuzz::part::run(2, bytes));
