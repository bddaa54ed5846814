#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    kafscale::fuzzing::metadata_image(data);
});
