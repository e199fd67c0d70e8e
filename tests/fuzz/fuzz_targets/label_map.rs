//! See `bodies::label_map`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmamba_fuzz::bodies::label_map(data);
});
