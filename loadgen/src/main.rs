//! Load generator and verifier: being written.
fn main() {}
