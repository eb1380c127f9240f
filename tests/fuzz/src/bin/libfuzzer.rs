//! libFuzzer around one target, which the environment variable `FUZZ_TARGET` names. `scripts/fuzz` starts it.

#![no_main]
#![allow(clippy::panic, reason = "a wrong name ends the run")]

use std::sync::OnceLock;

use beacon_fuzz::{Form, Target, mutate, target};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        target(&name).unwrap_or_else(|| panic!("got FUZZ_TARGET={name:?}, expected a target"))
    })
}

fuzz_target!(
    init: {
        // libfuzzer-sys ends the process at the first panic, even one that the store catches on purpose. One that gets
        // out of a target ends the process all the same.
        let _ = std::panic::take_hook();
        let _ = chosen();
    },
    |data: &[u8]| (chosen().run)(data)
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let form = chosen().form;
    if form == Form::Bytes || seed.is_multiple_of(4) {
        return fuzzer_mutate(data, size, max_size);
    }
    let mutated = mutate::mutate(&data[..size], form, max_size, u64::from(seed));
    data[..mutated.len()].copy_from_slice(&mutated);
    mutated.len()
});
