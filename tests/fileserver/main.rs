//! The file server, from outside: what a client sees, whatever the disk, the memory, the network and other clients are like.

mod arguments;
mod budget;
mod clients;
mod disks;
mod frames;
mod hostile_disks;
mod requests;

use std::path::PathBuf;

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest};
use rump_tests::image::image;

/// The appliance's image.
fn fileserver() -> PathBuf {
    image("fileserver")
}

/// A guest that serves a disk.
fn serve(disk: &Disk) -> Guest {
    Boot::new(fileserver()).disk(&disk.image).start().serving()
}

/// A disk with a few files of known names and lengths.
fn small_disk() -> Disk {
    Disk::of(Format::UFS2, |files| {
        std::fs::create_dir(files.join("folder")).expect("a folder under target");
        for (name, size) in [
            ("1k.bin", 1024),
            ("100k.bin", 100 << 10),
            ("empty.txt", 0),
            ("folder/inside.txt", 100),
            ("page.html", 300),
            ("style.css", 20),
        ] {
            write_random(&files.join(name), size);
        }
    })
}

/// Fails if the guest has met a bug of its own, whatever else it did.
fn assert_sane(guest: &Guest) {
    let console = guest.console();
    for word in ["panicked at", "fatal:"] {
        assert!(!console.contains(word), "{word:?} on the console");
    }
}
