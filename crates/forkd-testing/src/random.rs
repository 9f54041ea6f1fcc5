//! Chance that is the same on every run, and how much of it.

/// Numbers that are the same on every run (splitmix64).
pub fn pseudo_random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// How often to try something at random: so often in the ordinary tests, so often where `FORKD_DEEP` is set.
#[must_use]
pub fn often(ordinary: usize, deep: usize) -> usize {
    if std::env::var_os("FORKD_DEEP").is_some() { deep } else { ordinary }
}
