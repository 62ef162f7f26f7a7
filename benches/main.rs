//! Benches of the parts that every message goes through. Being written together with those parts.

fn main() {}
