//! Slices: see `fkv_fuzz::slice`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fkv_fuzz::slice::run(bytes));
