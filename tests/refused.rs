//! One page of memory after another is refused while files are made, written, renamed and removed: nobody is told worse than `ENOMEM`,
//! the guest goes on, and what was refused leaves nothing on the volume.
//!
//! In a guest everything that the kernel keeps comes from these pages, slabs as well; what a Linux process does about
//! them is `rumpvfs/tests/failing_memory.rs`.

use std::time::Duration;

use rump_tests::disk::Format;
use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::{scratch, volume};

const LONG: Duration = Duration::from_secs(300);

fn refused(name: &str, options: &str, format: Format) {
    let disk = scratch("refused").join(name);
    volume::make(&disk, format, 16 << 20);
    let mut guest = Boot::new(image("refused"))
        .disk(&disk)
        .keeping_writes()
        .without_network()
        .append(&format!("mount=ld0:/:ffs{options} memlimit=2M"))
        .limit(LONG)
        .start();
    assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
    println!("{}", guest.line_with("refused: ").expect("a last line"));
    volume::assert_consistent(&disk);
}

#[test]
fn without_a_log() {
    refused("plain", "", Format::UFS2);
}

#[test]
fn with_a_log() {
    refused("log", ":log", Format::UFS2);
}
