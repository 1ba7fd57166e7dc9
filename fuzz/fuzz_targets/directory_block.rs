//! libFuzzer on `fuzz_targets::directory_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::directory_block::run(data));
