//! How files and sockets behave: cases that are written once, over the API of `rump`, and run on every host.
//!
//! - [`files`]: cases for a file system, each in an empty directory of its own, which is its working directory;
//! - [`sockets`]: cases for sockets, over the loopback interface;
//! - [`play`]: runs everything and says what came of it, a line for each case.
//!
//! A case is a function in a plain table ([`Case`]). Its name is a sentence; it answers `Ok`, or what is otherwise than it
//! should be, and where. It knows no host: `tests/suite.rs` runs all of them in a Linux process and in the simulator, and the
//! image `suite` on bare metal, in QEMU.
//!
//! To add a case: write the function, and name it in the table at the end of its file. To add a file system: a line in
//! [`PLACES`], and a disk with it wherever the suite is run.
//!
//! Sources: POSIX.1-2017, System Interfaces; NetBSD's manual pages of section 2 where POSIX leaves it open.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[macro_use]
mod judge;
pub mod files;
pub mod sockets;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rump::{Component, Errno, Kernel, MountSpec, fs, sys};

/// What came of a case: `Err` says what is otherwise than it should be.
pub type Outcome = Result<(), String>;

/// A case.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence, with underscores.
    pub name: &'static str,
    /// Does it.
    pub run: fn() -> Outcome,
}

/// Makes the table of the cases of a file.
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        /// The cases of this file.
        pub const CASES: &[$crate::Case] = &[
            $($crate::Case { name: stringify!($name), run: $name }),+
        ];
    };
}
pub(crate) use cases;

/// What the kernel is made of that the suite runs on.
pub const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// Where the file systems are: the name of each, the disk that it is on, where that is mounted.
pub const PLACES: [(&str, &str, &str); 2] = [("ffs2", "ld0", "/"), ("ffs1", "ld1", "/ffs1")];

/// What the sockets' cases go by instead of a file system's name.
pub const SOCKETS: &str = "net";

/// Memory for the kernel that runs the suite, in bytes, and for each disk.
pub const MEMORY: usize = 24 << 20;
/// Bytes of each disk.
pub const DISK: u64 = 24 << 20;

/// Every case: by what it goes (a file system's name, or [`SOCKETS`]), and the case.
pub fn all() -> Vec<(&'static str, Case)> {
    let files = PLACES.iter().flat_map(|(name, ..)| {
        let cases = files::TABLES.iter().flat_map(|table| table.iter());
        cases.map(|case| (*name, *case))
    });
    let sockets = sockets::TABLES.iter().flat_map(|table| table.iter());
    files.chain(sockets.map(|case| (SOCKETS, *case))).collect()
}

/// What is to be mounted at boot: the first of [`PLACES`].
pub fn mounts() -> Vec<MountSpec> {
    [MountSpec::root()].into()
}

/// Mounts everything. The thread must be an lwp of a kernel of [`COMPONENTS`] that was told of [`mounts`].
///
/// # Errors
/// What cannot be mounted.
pub fn prepare(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let vfs = kernel.get::<rumpvfs::Vfs>().ok_or(Errno::ENOSYS)?;
    if fs::mount_configured()? != 1 {
        return Err(Errno::ENXIO);
    }
    for (_, device, path) in &PLACES[1..] {
        fs::create_dir(path)?;
        let request = rumpvfs::vfs::MountRequest {
            device,
            path,
            fstype: Some("ffs"),
            options: "",
        };
        vfs.mount(&Arc::new(sys::Cred::root()), &request)?;
    }
    Ok(())
}

/// Runs one case, in a process of its own; one of a file system's in an empty directory, which is gone afterwards.
pub fn run(kernel: &Arc<Kernel>, of: &str, case: &Case) -> Outcome {
    let _process = fine!(kernel.attach(case.name));
    let Some((_, _, mounted)) = PLACES.iter().find(|(name, ..)| *name == of) else {
        return (case.run)();
    };
    let slash = if mounted.ends_with('/') { "" } else { "/" };
    let directory = format!("{mounted}{slash}{}", case.name);
    fine!(fs::create_dir(&directory));
    fine!(sys::chdir(directory.as_bytes()));
    let outcome = (case.run)();
    fine!(sys::setcred(sys::Cred::root()));
    fine!(sys::chdir(b"/"));
    let cleared = files::remove_all(directory.as_bytes());
    outcome?;
    fine!(cleared);
    Ok(())
}

/// The name of a case as reports have it.
pub fn full_name(host: &str, of: &str, case: &Case) -> String {
    format!("{host}::{of}::{}", case.name)
}

/// Runs everything, and says of each case what came of it.
pub fn play(kernel: &Arc<Kernel>, say: &mut dyn FnMut(&'static str, &Case, Outcome)) {
    for (of, case) in all() {
        say(of, &case, run(kernel, of, &case));
    }
}

/// The line that tells what came of a case, for those who read a console.
pub fn line(of: &str, case: &Case, outcome: &Outcome) -> String {
    match outcome {
        Ok(()) => format!("suite: {of}::{}: ok", case.name),
        // On one line, whatever the message.
        Err(why) => format!(
            "suite: {of}::{}: FAILED: {}",
            case.name,
            why.replace('\n', " ")
        ),
    }
}
