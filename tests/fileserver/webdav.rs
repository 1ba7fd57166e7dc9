//! WebDAV (RFC 4918) on a disk that may not be written: programs find what is there, and nobody changes it.

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest};
use rump_tests::http::{Connection, Response};
use rump_tests::tree::fingerprint;

use crate::{assert_sane, fileserver, small_disk};

/// A guest that serves a disk read-only.
fn serve_read_only(disk: &Disk) -> Guest {
    Boot::new(fileserver())
        .disk(&disk.image)
        .append("mount=ld0:/:ffs:ro")
        .start()
        .serving()
}

fn ask(guest: &Guest, method: &str, target: &str, fields: &[&str], body: &str) -> Response {
    let mut connection = Connection::open(guest.address()).expect("a connection");
    let length = format!("Content-Length: {}", body.len());
    let fields = [fields, &[&*length]].concat();
    connection
        .request(method, target, &fields)
        .and_then(|()| connection.send(body.as_bytes()))
        .and_then(|()| connection.response(method))
        .unwrap_or_else(|error| panic!("{method} {target} {fields:?}: {error:#}"))
}

#[test]
fn a_disk_that_is_read_only_answers_403_and_stays_as_it_is() {
    let disk = small_disk();
    let guest = serve_read_only(&disk);
    let to = "Destination: /new";
    for (method, target, field, body) in [
        ("PUT", "/new.txt", "X: y", "new"),
        ("PUT", "/1k.bin", "X: y", "new"),
        ("PUT", "/new.txt", "X: y", ""),
        ("DELETE", "/1k.bin", "X: y", ""),
        ("DELETE", "/folder", "X: y", ""),
        ("MKCOL", "/new", "X: y", ""),
        ("MOVE", "/1k.bin", to, ""),
        ("COPY", "/1k.bin", to, ""),
        ("COPY", "/folder/", to, ""),
    ] {
        let answer = ask(&guest, method, target, &[field], body);
        assert_eq!(answer.status, 403, "{method} {target}");
    }
    for name in ["1k.bin", "folder/inside.txt"] {
        let got = guest.get(&format!("/{name}"));
        assert_eq!(fingerprint(&got.body), disk.tree.nodes[name], "{name}");
    }
    assert_sane(&guest);
}

#[test]
fn a_client_finds_the_class_the_methods_and_ten_thousand_entries() {
    const ENTRIES: usize = 10_000;
    let disk = Disk::of(Format::UFS2, |files| {
        std::fs::create_dir(files.join("many")).expect("a folder under target");
        for number in 0..ENTRIES {
            write_random(&files.join(format!("many/entry {number}")), 1);
        }
    });
    let guest = serve_read_only(&disk);
    let options = ask(&guest, "OPTIONS", "/", &[], "");
    assert_eq!((options.status, options.header("dav")), (200, Some("1")));
    let allow = options.header("allow").unwrap_or_default();
    assert!(allow.contains("PROPFIND") && !allow.contains("LOCK"));
    let question = "<?xml version='1.0'?><D:propfind xmlns:D='DAV:'><D:prop><D:getcontentlength/></D:prop></D:propfind>";
    let found = ask(&guest, "PROPFIND", "/many", &["Depth: 1"], question);
    assert_eq!(found.status, 207);
    let text = found.text();
    let one = "<D:getcontentlength>1</D:getcontentlength>";
    assert_eq!(text.matches(one).count(), ENTRIES);
    for number in 0..ENTRIES {
        let href = format!("<D:href>/many/entry%20{number}</D:href>");
        assert!(text.contains(&href), "entry {number}");
    }
    let deep = ask(&guest, "PROPFIND", "/", &["Depth: infinity"], "");
    assert_eq!(deep.status, 403);
    assert!(deep.text().contains("propfind-finite-depth"));
    assert_sane(&guest);
}
