//! libFuzzer on `fuzz_targets::wapbl_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::wapbl_log::run(data));
