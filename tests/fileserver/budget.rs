//! Eight megabytes of memory in all.

use std::fs;
use std::path::Path;
use std::thread::scope;

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest};
use rump_tests::http::Connection;
use rump_tests::tree::fingerprint;

use crate::{assert_sane, fileserver};

fn serve_in_8_mib(disk: &Disk) -> Guest {
    Boot::new(fileserver())
        .memory("8")
        .disk(&disk.image)
        .start()
        .serving()
}

fn fill_with_a_large_file(files: &Path) {
    write_random(&files.join("64m.bin"), 64 << 20);
    write_random(&files.join("1k.bin"), 1024);
}

#[test]
fn a_file_of_64_mib_is_served_to_several_clients() {
    let disk = Disk::of(Format::UFS2, fill_with_a_large_file);
    let guest = serve_in_8_mib(&disk);
    scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(
                    fingerprint(&guest.get("/64m.bin").body),
                    disk.tree.nodes["64m.bin"]
                )
            });
        }
    });
    assert_sane(&guest);
}

#[test]
fn a_directory_of_ten_thousand_entries_is_shown_whole() {
    let disk = Disk::of(Format::UFS2, |files| {
        fs::create_dir(files.join("many")).expect("a folder under target");
        for number in 0..10_000 {
            fs::write(
                files.join(format!("many/file-{number:05}.txt")),
                number.to_string(),
            )
            .expect("a file under target");
        }
    });
    let guest = serve_in_8_mib(&disk);
    let page = guest.get("/many/").text();
    for number in 0..10_000 {
        assert!(
            page.contains(&format!("file-{number:05}.txt\"")),
            "{number} is missing"
        );
    }
    let mut connection = Connection::open(guest.address()).expect("a connection");
    for number in (0..10_000).step_by(7) {
        let response = connection
            .exchange("GET", &format!("/many/file-{number:05}.txt"), &[])
            .expect("an answer");
        assert_eq!(response.text(), number.to_string());
    }
    assert_sane(&guest);
}
