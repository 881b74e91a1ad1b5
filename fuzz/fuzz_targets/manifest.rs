#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| akvfs::fuzzing::class_manifest(bytes));
