//! libFuzzer on `fuzz_targets::ip_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::ip_frame::run(data));
