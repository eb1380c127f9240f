//! One envelope of 500 bytes, beside the X25519 operations that it is made of.
fn main() {}
