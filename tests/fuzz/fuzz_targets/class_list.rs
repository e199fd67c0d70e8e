//! See `bodies::class_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmamba_fuzz::bodies::class_list(data);
});
