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
//!
//! The table that gives the image's reports names for addresses must be made after the link and be inside of the image. So the C
//! compiler, which rustc links by, is told to use as its linker a script that calls the build script again, which calls the real
//! linker and then adds the table (`linker`). An optimised image is also stripped; what is taken out lies beside it,
//! in a file with `.debug` behind its name.

mod elf;
mod linker;
mod table;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

const SCRIPT: &str = include_str!("image.ld");

/// Set to the real linker when the build script is called as the linker.
const REAL_LINKER: &str = "RUMP_IMAGE_LINKER";
/// Set to `1` if the image is to be stripped.
const STRIP: &str = "RUMP_IMAGE_STRIP";

/// Tells cargo how to link the binaries of the package whose build script calls this.
///
/// # Panics
/// Outside of a build script, or if what the linker needs cannot be written: a build script has no
/// better way to say so.
pub fn link() {
    if let Some(real) = env::var_os(REAL_LINKER) {
        as_linker(&real);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("called by a build script"));
    let script = out.join("image.ld");
    fs::write(&script, SCRIPT).expect("the linker script can be written to OUT_DIR");
    let tools = write_wrapper(&out).expect("the linker's wrapper can be written to OUT_DIR");
    println!("cargo::rerun-if-changed=build.rs");
    let script = format!("-Wl,-T,{}", script.display());
    let tools = format!("-B{}", tools.display());
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        &script,
        // The C compiler looks for `ld.bfd` where `-B` says: there is the wrapper.
        &tools,
        "-fuse-ld=bfd",
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// Does the linker's work and ends the process.
fn as_linker(real: &OsString) -> ! {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let strip = env::var_os(STRIP).is_some_and(|strip| strip == "1");
    match linker::run(real, &arguments, strip) {
        Ok(status) => process::exit(status),
        Err(error) => {
            eprintln!("image: {error}");
            process::exit(1)
        }
    }
}

/// Writes the script that the C compiler takes for its linker. Returns the folder that it is in.
fn write_wrapper(out: &Path) -> std::io::Result<PathBuf> {
    let tools = out.join("linker");
    fs::create_dir_all(&tools)?;
    let path = tools.join("ld.bfd");
    let real = linker::real_linker();
    let strip = u8::from(env::var("OPT_LEVEL").is_ok_and(|level| level != "0"));
    let this = env::current_exe()?;
    let text = format!(
        "#!/bin/sh\n{REAL_LINKER}={} {STRIP}={strip} exec {} \"$@\"\n",
        quoted(&real),
        quoted(&this)
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(tools)
}

/// A path as a word of the shell's.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
