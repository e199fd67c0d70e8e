//! See `bodies::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmamba_fuzz::bodies::image(data);
});
