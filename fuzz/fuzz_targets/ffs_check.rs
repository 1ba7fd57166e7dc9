//! libFuzzer on `fuzz_targets::ffs_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::ffs_check::run(data));
