//! Links bootable images: what an appliance's build script calls.
//!
//! An image is an ordinary binary of the host's own target. What makes it bootable is how it is linked: no start-up
//! files, no libraries, no relocation, and the addresses of `image.ld`. Cargo passes such arguments only from the build
//! script of the binary itself:
//!
//! ```text
//! fn main() {                               // build.rs
//!     rumpuser_baremetal_image::link();
//! }
//! ```

use std::path::Path;
use std::{env, fs};

const SCRIPT: &str = include_str!("image.ld");

/// Tells cargo how to link the binaries of the package whose build script calls this.
///
/// # Panics
/// Outside of a build script, or if the linker script cannot be written: a build script has no
/// better way to say so.
pub fn link() {
    let directory = env::var_os("OUT_DIR").expect("called by a build script");
    let script = Path::new(&directory).join("image.ld");
    fs::write(&script, SCRIPT).expect("the linker script can be written to OUT_DIR");
    println!("cargo::rerun-if-changed=build.rs");
    let script = format!("-Wl,-T,{}", script.display());
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        &script,
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
