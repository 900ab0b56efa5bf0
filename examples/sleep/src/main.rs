//! examples/sleep
fn main() {}
