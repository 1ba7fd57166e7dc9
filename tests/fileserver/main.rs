//! The file server, from outside: what a client sees, whatever the disk, the memory, the network and other clients are like.

mod arguments;
mod budget;
mod clients;
mod crowds;
mod disks;
mod frames;
mod full;
mod halting;
mod hostile_disks;
mod killing;
mod metrics;
mod programs;
mod requests;
mod webdav;

use std::path::PathBuf;

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest};
use rump_tests::http::{Connection, Response};
use rump_tests::image::image;
use rump_tests::namespace::Namespace;
use rump_tests::setup;

/// The appliance's image.
fn fileserver() -> PathBuf {
    image("fileserver")
}

/// A guest that serves a disk.
fn serve(disk: &Disk) -> Guest {
    Boot::new(fileserver()).disk(&disk.image).start().serving()
}

/// A guest among many clients.
///
/// On a tap device where that may be: QEMU's user network takes new connections one at a time, and a second each.
struct Town {
    guest: Guest,
    namespace: Option<Namespace>,
}

impl Town {
    fn around(boot: Boot<'_>) -> Self {
        if setup::is_root() {
            let namespace = Namespace::new();
            let guest = boot.on_tap(&namespace).start().serving();
            return Self {
                guest,
                namespace: Some(namespace),
            };
        }
        Self {
            guest: boot.start().serving(),
            namespace: None,
        }
    }

    /// A new connection, if the server takes one.
    fn try_connect(&self) -> anyhow::Result<Connection> {
        let address = self.guest.address();
        match &self.namespace {
            Some(namespace) => namespace.enter(|| Connection::open(address)),
            None => Connection::open(address),
        }
    }

    fn connect(&self) -> Connection {
        self.try_connect().expect("a connection")
    }

    fn connections(&self, count: usize) -> Vec<Connection> {
        (0..count).map(|_| self.connect()).collect()
    }

    fn get(&self, target: &str) -> Response {
        let answer = self
            .connect()
            .exchange("GET", target, &["Connection: close"]);
        answer.unwrap_or_else(|error| panic!("GET {target}: {error:#}"))
    }
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

/// How many pages are free, as the answer to a GET of `/.metrics` says.
fn free_pages(metrics: &Response) -> u64 {
    metrics::values(metrics)["rump_uvm_free_pages"]
}
