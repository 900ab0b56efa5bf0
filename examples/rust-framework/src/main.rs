//! examples/rust-framework
fn main() {}
