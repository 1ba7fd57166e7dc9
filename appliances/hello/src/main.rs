//! The smallest appliance: boots, says hello, powers off.
fn main() {}
