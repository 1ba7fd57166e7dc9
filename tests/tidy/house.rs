//! The rules of the house. A rule that fails names every place.

use std::fmt::Write as _;

use tidy::code::{without_tests, without_words, words};
use tidy::manifest::Manifest;
use tidy::project::{SourceFile, files, is_test_module, rust_files};

/// Where code may be unsafe: files, or folders with a `/` at their end. Each says in its documentation what it guarantees.
const MAY_BE_UNSAFE: [&str; 26] = [
    // The hypercall line: buffers go by address.
    "kernel/rumpuser/src/bio.rs",
    "kernel/rumpuser/src/host.rs",
    "kernel/rumpuser/src/iovec.rs",
    "kernel/rumpuser/src/memory.rs",
    "kernel/rumpuser/src/net.rs",
    // What safe code above is made of: locks, threads, the allocator, pages, buffers that a device fills.
    "kernel/rumpkern/src/kmem/",
    "kernel/rumpkern/src/locks/",
    "kernel/rumpkern/src/lwp.rs",
    "kernel/rumpkern/src/uvm/cluster.rs",
    "kernel/rumpkern/src/uvm/dma/",
    "kernel/rumpkern/src/uvm/page.rs",
    // A packet device that does what a test tells it.
    "kernel/net/virtif/tests/device.rs",
    // Hosts and machines.
    "platform/",
    "rumpuser-baremetal/",
    "rumpuser-hosted/",
    "rumpuser-sim/src/bio/disk.rs",
    "rumpuser-sim/src/memory.rs",
    "rumpuser-sim/src/net/port.rs",
    "rumpuser-sim/src/scheduler.rs",
    "rumpuser-sim/tests/host.rs",
    // Images that test the hypercalls and the machine itself.
    "tests/images/",
    // Signals, namespaces and packet sockets of the tests.
    "tests/src/frame.rs",
    "tests/src/guest.rs",
    "tests/src/namespace.rs",
    "tests/src/setup.rs",
    // The words themselves.
    "tests/tidy/",
];

/// Lines that a file should not have more of, and those that it must not: it usually holds two concepts.
const LONG: usize = 600;
const TOO_LONG: usize = 1000;

/// Collects what breaks a rule, and fails with all of it.
#[derive(Default)]
struct Breaches(String);

impl Breaches {
    fn add(&mut self, place: impl AsRef<str>, what: impl AsRef<str>) {
        writeln!(self.0, "  {}: {}", place.as_ref(), what.as_ref()).expect("a string takes it");
    }
}

impl Drop for Breaches {
    fn drop(&mut self) {
        assert!(
            self.0.is_empty() || std::thread::panicking(),
            "\n{}",
            self.0
        );
    }
}

fn is_kernel(file: &SourceFile) -> bool {
    file.path.starts_with("kernel/")
}

#[test]
fn only_listed_code_is_unsafe() {
    let mut breaches = Breaches::default();
    for file in rust_files() {
        if MAY_BE_UNSAFE.iter().any(|listed| {
            file.path == *listed || (listed.ends_with('/') && file.path.starts_with(listed))
        }) {
            continue;
        }
        for offset in words(&without_words(&file.text), "unsafe") {
            breaches.add(file.place(offset), "unsafe code; the list is MAY_BE_UNSAFE");
        }
    }
}

#[test]
fn every_file_that_may_be_unsafe_is_there() {
    let files = files();
    let mut breaches = Breaches::default();
    for listed in MAY_BE_UNSAFE {
        if !files.iter().any(|file| file.path.starts_with(listed)) {
            breaches.add("MAY_BE_UNSAFE", listed);
        }
    }
}

#[test]
fn every_kernel_crate_is_no_std_and_forbids_unsafe_code() {
    let mut breaches = Breaches::default();
    for file in rust_files()
        .iter()
        .filter(|file| is_kernel(file) && file.path.ends_with("/src/lib.rs"))
    {
        if !file.text.contains("#![no_std]")
            && !file.text.contains("#![cfg_attr(not(test), no_std)]")
        {
            breaches.add(&file.path, "no #![no_std]");
        }
        // These two hold the modules that the list names; the rule about words watches the rest of them.
        let has_listed = ["kernel/rumpuser/", "kernel/rumpkern/"]
            .iter()
            .any(|folder| file.path.starts_with(folder));
        if !has_listed && !file.text.contains("#![forbid(unsafe_code)]") {
            breaches.add(&file.path, "no #![forbid(unsafe_code)]");
        }
    }
}

#[test]
fn the_kernel_knows_no_host_and_no_machine() {
    let mut breaches = Breaches::default();
    let all = rust_files();
    let kernel = all.iter().filter(|file| is_kernel(file));
    for file in kernel.filter(|file| !is_test_module(file, &all)) {
        let code = without_tests(&file.text);
        for word in [
            "std::",
            "asm!",
            "global_asm!",
            "naked_asm!",
            "target_arch",
            "target_os",
            "core::arch",
            "platform_x86_64",
            "platform_virtio",
        ] {
            for offset in words(&code, word) {
                breaches.add(file.place(offset), word);
            }
        }
    }
}

/// What goes by it cannot be refused by a test on every host.
#[test]
fn room_that_may_be_refused_is_asked_of_kmem() {
    let mut breaches = Breaches::default();
    let files = rust_files();
    let asks = |file: &&SourceFile| file.path.contains("/src/") && file.name() != "fallible.rs";
    let all = files.iter().filter(asks);
    for file in all.filter(|file| is_kernel(file) || file.path.starts_with("appliances/")) {
        let code = without_words(&file.text);
        for word in ["try_reserve", "try_reserve_exact"] {
            for offset in words(&code, word) {
                let line = code[..offset].rsplit('\n').next().unwrap_or_default();
                if !line.contains("room_by(") {
                    breaches.add(file.place(offset), "kmem::Room, or kmem::room_by");
                }
            }
        }
    }
}

#[test]
fn nothing_is_left_half_done() {
    let mut breaches = Breaches::default();
    for file in rust_files()
        .iter()
        .filter(|file| file.path != "tests/tidy/house.rs")
    {
        let code = without_words(&file.text);
        for word in ["todo!", "unimplemented!", "dbg!", "#[ignore]", "#[ignore ="] {
            for offset in words(&code, word) {
                breaches.add(file.place(offset), word);
            }
        }
        for word in ["FIXME", "TODO", "XXX"] {
            for offset in words(&file.text, word) {
                breaches.add(file.place(offset), word);
            }
        }
    }
}

#[test]
fn file_names_say_what_is_inside() {
    let mut breaches = Breaches::default();
    for file in files() {
        let stem = file.name().split('.').next().unwrap_or_default();
        let folders = file.path.split('/').rev().skip(1);
        for part in folders.chain([stem]) {
            if [
                "utils",
                "util",
                "common",
                "helpers",
                "helper",
                "misc",
                "constants",
                "consts",
                "types",
            ]
            .contains(&part)
            {
                breaches.add(&file.path, format!("the name {part:?} says nothing"));
            }
        }
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut breaches = Breaches::default();
    // A module of tests is about the module that it belongs to.
    for file in rust_files()
        .iter()
        .filter(|file| !file.name().ends_with("tests.rs"))
    {
        if !file.text.starts_with("//!") {
            breaches.add(&file.path, "does not begin with //!");
        }
    }
}

#[test]
fn no_file_holds_two_concepts() {
    let mut breaches = Breaches::default();
    for file in rust_files() {
        let lines = file.text.lines().count();
        if lines > TOO_LONG {
            breaches.add(&file.path, format!("{lines} lines"));
        } else if lines > LONG {
            println!("note: {} has {lines} lines", file.path);
        }
    }
}

#[test]
fn nothing_names_this_machine_or_a_registry() {
    // Written in two pieces, so that this file passes.
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tm", "p/"),
        concat!("deb.deb", "ian.org"),
        concat!("static.cra", "tes.io"),
        concat!("index.cra", "tes.io"),
        concat!("pypi.", "org"),
        concat!("registry.np", "mjs.org"),
    ];
    let mut breaches = Breaches::default();
    for file in files() {
        for word in words {
            for (offset, _) in file.text.match_indices(word) {
                breaches.add(file.place(offset), word);
            }
        }
    }
}

/// How far up a crate of ours stands; a crate depends on crates below it, or on those that [`MAY_USE_ITS_EQUAL`] lists.
fn height(name: &str, path: &str) -> Option<u32> {
    Some(match path.split('/').collect::<Vec<_>>()[..] {
        ["platform", ..] => 0,
        ["kernel", "rumpuser", ..] => 1,
        ["kernel", "rumpkern", ..] => 2,
        ["kernel", "rump", ..] => 5,
        ["kernel", "fs" | "net" | "dev", ..] => 4,
        ["kernel", ..] if name.starts_with("rump") => 3,
        _ => return None,
    })
}

/// Where NetBSD's component uses its equal, ours may: (user, used).
const MAY_USE_ITS_EQUAL: [(&str, &str); 4] = [
    ("rumpdev", "rumpvfs"),
    ("rumpnet_netinet", "rumpnet_net"),
    ("rumpnet_virtif", "rumpnet_net"),
    ("platform_virtio", "platform_x86_64"),
];

#[test]
fn dependencies_point_down() {
    let files = files();
    let crates: Vec<(&SourceFile, Manifest<'_>)> = files
        .iter()
        .filter(|file| file.name() == "Cargo.toml")
        .map(|file| (file, Manifest::of(&file.text)))
        .collect();
    let height_of = |name: &str| {
        let (file, _) = crates
            .iter()
            .find(|(_, manifest)| manifest.value("package", "name") == Some(name))?;
        height(name, &file.path)
    };
    let is_ours = |name: &str| {
        crates
            .iter()
            .any(|(_, manifest)| manifest.value("package", "name") == Some(name))
    };
    let mut breaches = Breaches::default();
    for (file, manifest) in &crates {
        let Some(name) = manifest.value("package", "name") else {
            continue;
        };
        for used in manifest
            .dependencies()
            .into_iter()
            .filter(|used| is_ours(used))
        {
            let is_below = match (height(name, &file.path), height_of(used)) {
                // Hosts know the machine and the hypercall line; appliances and tools know all.
                (None, Some(above)) => !name.starts_with("rumpuser_") || above <= 1,
                (None, None) => true,
                (Some(_), None) => false,
                // The kernel does not know the machine.
                (Some(own), Some(0)) => own == 0 && MAY_USE_ITS_EQUAL.contains(&(name, used)),
                (Some(own), Some(above)) => {
                    above < own && own > 0 || MAY_USE_ITS_EQUAL.contains(&(name, used))
                }
            };
            if !is_below {
                breaches.add(&file.path, format!("{name} depends on {used}"));
            }
        }
    }
}

#[test]
fn components_bear_netbsds_library_names() {
    // NetBSD sys/rump/{fs,net,dev}/lib.
    const FS: [&str; 23] = [
        "cd9660",
        "efs",
        "ext2fs",
        "fdesc",
        "ffs",
        "hfs",
        "kernfs",
        "lfs",
        "mfs",
        "msdos",
        "nfs",
        "nfsserver",
        "null",
        "ntfs",
        "ptyfs",
        "smbfs",
        "syspuffs",
        "sysvbfs",
        "tmpfs",
        "udf",
        "umap",
        "union",
        "v7fs",
    ];
    const NET: [&str; 24] = [
        "agr", "altq", "bridge", "bpfjit", "gif", "ipsec", "l2tp", "lagg", "local", "net",
        "net80211", "netbt", "netcan", "netinet", "netinet6", "netmpls", "npf", "pppoe", "shmif",
        "sockin", "tap", "tun", "vlan", "virtif",
    ];
    const DEV: [&str; 24] = [
        "audio",
        "bpf",
        "cgd",
        "disk",
        "dm",
        "drvctl",
        "fss",
        "hdaudio_pci",
        "md",
        "miiphy",
        "netsmb",
        "pad",
        "pci",
        "putter",
        "raidframe",
        "rnd",
        "scsipi",
        "sysmon",
        "umass",
        "usb",
        "uhub",
        "ucom",
        "vnd",
        "wscons",
    ];
    let mut breaches = Breaches::default();
    for file in files().iter().filter(|file| file.name() == "Cargo.toml") {
        let (kind, names, folder) = match file.path.split('/').collect::<Vec<_>>()[..] {
            ["kernel", "fs", folder, _] => ("rumpfs", &FS[..], folder),
            ["kernel", "net", folder, _] => ("rumpnet", &NET[..], folder),
            ["kernel", "dev", folder, _] => ("rumpdev", &DEV[..], folder),
            _ => continue,
        };
        if !names.contains(&folder) {
            breaches.add(&file.path, format!("NetBSD has no library {kind}_{folder}"));
        }
        let name = Manifest::of(&file.text)
            .value("package", "name")
            .unwrap_or_default()
            .to_owned();
        if name != format!("{kind}_{folder}") {
            breaches.add(&file.path, format!("the crate is called {name}"));
        }
    }
}

#[test]
fn manifests_take_versions_and_lints_from_the_workspace() {
    let mut breaches = Breaches::default();
    for file in files()
        .iter()
        .filter(|file| file.name() == "Cargo.toml" && file.path != "Cargo.toml")
    {
        let manifest = Manifest::of(&file.text);
        if manifest.value("lints", "workspace") != Some("true") {
            breaches.add(&file.path, "no `[lints] workspace = true`");
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in manifest.entries(section) {
                if !key.ends_with(".workspace")
                    && !value.contains("workspace = true")
                    && key != "features"
                {
                    breaches.add(
                        &file.path,
                        format!("{key} does not come from the workspace"),
                    );
                }
            }
        }
    }
}
