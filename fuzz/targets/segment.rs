#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    kafscale::fuzzing::segment_object(data);
});
