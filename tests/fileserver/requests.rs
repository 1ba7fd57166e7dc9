//! HTTP/1.1 as the server speaks it (RFC 9110, RFC 9112).

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::Guest;
use rump_tests::http::{Connection, Response};
use rump_tests::tree::{Node, fingerprint};

use crate::{assert_sane, serve, small_disk};

fn connect(guest: &Guest) -> Connection {
    Connection::open(guest.address()).expect("a connection")
}

/// One request on a connection of its own.
fn ask(guest: &Guest, method: &str, target: &str, headers: &[&str]) -> Response {
    connect(guest)
        .exchange(method, target, headers)
        .unwrap_or_else(|error| panic!("{method} {target} {headers:?}: {error:#}"))
}

#[test]
fn thousands_of_requests_go_over_one_connection() {
    let disk = small_disk();
    let guest = serve(&disk);
    let mut connection = connect(&guest);
    for _ in 0..3000 {
        let response = connection
            .exchange("GET", "/1k.bin", &[])
            .expect("an answer");
        assert_eq!((response.status, response.body.len()), (200, 1024));
    }
    assert_sane(&guest);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let disk = small_disk();
    let guest = serve(&disk);
    let mut connection = connect(&guest);
    let names = [
        "1k.bin",
        "empty.txt",
        "folder/inside.txt",
        "not-there",
        "100k.bin",
        "page.html",
    ];
    for _ in 0..20 {
        let all: String = names
            .iter()
            .map(|name| format!("GET /{name} HTTP/1.1\r\nHost: guest\r\n\r\n"))
            .collect();
        connection.send(all.as_bytes()).expect("it takes them");
        for name in names {
            let response = connection.response("GET").expect("an answer");
            match disk.tree.nodes.get(name) {
                Some(expected) => assert_eq!(fingerprint(&response.body), *expected, "{name}"),
                None => assert_eq!(response.status, 404),
            }
        }
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let disk = small_disk();
    let guest = serve(&disk);
    let mut connection = connect(&guest);
    for byte in b"GET /1k.bin HTTP/1.1\r\nHost: guest\r\nX-Y: z\r\n\r\n" {
        connection.send(&[*byte]).expect("it takes it");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(connection.response("GET").expect("an answer").status, 200);
}

#[test]
fn head_tells_what_get_would_and_sends_no_body() {
    let disk = small_disk();
    let guest = serve(&disk);
    let mut connection = connect(&guest);
    for target in ["/100k.bin", "/empty.txt", "/page.html"] {
        let head = connection.exchange("HEAD", target, &[]).expect("an answer");
        let get = connection.exchange("GET", target, &[]).expect("an answer");
        assert_eq!(head.status, 200);
        for header in ["content-length", "content-type", "etag", "last-modified"] {
            assert_eq!(
                head.header(header),
                get.header(header),
                "{target}: {header}"
            );
            assert!(get.header(header).is_some(), "{target}: {header}");
        }
    }
}

#[test]
fn ranges_are_served_as_asked() {
    let disk = small_disk();
    let guest = serve(&disk);
    let whole = ask(&guest, "GET", "/100k.bin", &[]).body;
    let size = whole.len();
    for (range, first, end) in [
        ("0-9", 0, 10),
        ("0-0", 0, 1),
        ("1000-", 1000, size),
        ("-7", size - 7, size),
        ("102399-", size - 1, size),
        ("50000-999999999", 50_000, size),
        ("-999999999", 0, size),
        ("4090-4100", 4090, 4101),
    ] {
        let response = ask(
            &guest,
            "GET",
            "/100k.bin",
            &[&format!("Range: bytes={range}")],
        );
        assert_eq!(response.status, 206, "{range}");
        assert_eq!(
            response.header("content-range"),
            Some(format!("bytes {first}-{}/{size}", end - 1).as_str()),
            "{range}"
        );
        assert!(response.body == whole[first..end], "{range}: other bytes");
    }
    for range in ["102400-", "999999999-", "-0"] {
        let response = ask(
            &guest,
            "GET",
            "/100k.bin",
            &[&format!("Range: bytes={range}")],
        );
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(
            response.header("content-range"),
            Some(format!("bytes */{size}").as_str()),
            "{range}"
        );
    }
    for range in [
        "Range: lines=1-2",
        "Range: bytes=9-1",
        "Range: bytes=x",
        "Range: bytes=",
    ] {
        let response = ask(&guest, "GET", "/100k.bin", &[range]);
        assert_eq!(
            (response.status, response.body.len()),
            (200, size),
            "{range}: to be ignored"
        );
    }
}

#[test]
fn what_a_client_has_already_is_not_sent_again() {
    let disk = small_disk();
    let guest = serve(&disk);
    let first = ask(&guest, "GET", "/1k.bin", &[]);
    let tag = first.header("etag").expect("an ETag");
    let modified = first.header("last-modified").expect("a date");
    for condition in [
        format!("If-None-Match: {tag}"),
        format!("If-None-Match: \"x\", {tag}"),
        format!("If-Modified-Since: {modified}"),
    ] {
        let response = ask(&guest, "GET", "/1k.bin", &[&condition]);
        assert_eq!(
            (response.status, response.body.len()),
            (304, 0),
            "{condition}"
        );
        assert_eq!(response.header("etag"), Some(tag), "{condition}");
    }
    let old = "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
    for condition in [
        "If-None-Match: \"other\"",
        old,
        "If-Modified-Since: not a date",
    ] {
        assert_eq!(
            ask(&guest, "GET", "/1k.bin", &[condition]).status,
            200,
            "{condition}"
        );
    }
    let stale = ["Range: bytes=0-1", "If-Range: \"other\""];
    assert_eq!(
        ask(&guest, "GET", "/1k.bin", &stale).status,
        200,
        "a range of another version"
    );
}

#[test]
fn content_types_are_those_of_the_names() {
    let names = [
        ("a.html", "text/html"),
        ("a.txt", "text/plain"),
        ("a.css", "text/css"),
        ("a.js", "text/javascript"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.JPG", "image/jpeg"),
        ("a.svg", "image/svg+xml"),
        ("a.pdf", "application/pdf"),
        ("a.b.wasm", "application/wasm"),
        ("a", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
    ];
    let disk = Disk::of(Format::UFS2, |files| {
        names
            .iter()
            .for_each(|(name, _)| write_random(&files.join(name), 10))
    });
    let guest = serve(&disk);
    for (name, kind) in names {
        let response = ask(&guest, "HEAD", &format!("/{name}"), &[]);
        let said = response.header("content-type").unwrap_or_default();
        assert!(
            said == kind || said.starts_with(&format!("{kind};")),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_directory_shows_a_page_and_its_name_without_a_slash_leads_there() {
    let disk = small_disk();
    let guest = serve(&disk);
    let page = ask(&guest, "GET", "/", &[]);
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    let text = page.text();
    for needed in [
        "<title>",
        "1k.bin",
        "folder/",
        "1 KiB",
        "100 KiB",
        "prefers-color-scheme",
    ] {
        assert!(text.contains(needed), "no {needed:?} in the page");
    }
    let moved = ask(&guest, "GET", "/folder", &[]);
    assert!(
        matches!(moved.status, 301 | 302 | 307 | 308),
        "status {}",
        moved.status
    );
    assert_eq!(moved.header("location"), Some("/folder/"));
}

#[test]
fn names_that_need_quoting_are_links_that_work() {
    let disk = Disk::of_everything(Format::UFS2);
    let guest = serve(&disk);
    let page = ask(&guest, "GET", "/names/", &[]).text();
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|link| !link.starts_with(".."))
        .collect();
    let mut followed = 0;
    for link in links {
        let target = link
            .strip_prefix("./")
            .map_or_else(|| link.to_owned(), |name| format!("/names/{name}"));
        assert_eq!(ask(&guest, "GET", &target, &[]).status, 200, "{link}");
        followed += 1;
    }
    assert!(
        followed >= disk.tree.names_in("names").len(),
        "only {followed} links"
    );
}

#[test]
fn what_is_not_there_is_404() {
    let disk = small_disk();
    let guest = serve(&disk);
    for target in [
        "/nothing",
        "/folder/nothing",
        "/1k.bin/below",
        "/nothing/",
        "/%C0%AF",
        "/1k.bin%20",
    ] {
        let response = ask(&guest, "GET", target, &[]);
        assert_eq!(response.status, 404, "{target}");
        assert!(response.body.len() < 4096, "{target}: a short body");
    }
}

#[test]
fn a_slash_after_a_file_is_not_the_file() {
    let disk = small_disk();
    let guest = serve(&disk);
    assert_eq!(ask(&guest, "GET", "/1k.bin/", &[]).status, 404);
}

#[test]
fn no_path_leaves_the_tree() {
    let disk = small_disk();
    let guest = serve(&disk);
    let long_name = format!("/{}", "a".repeat(300));
    let long_path = "/a".repeat(2000);
    for target in [
        "/..",
        "/../",
        "/folder/../1k.bin",
        "/folder/%2e%2e/1k.bin",
        "/%2E%2e",
        "/..%2f..%2fetc",
        "/1k.bin%00.txt",
        "/%",
        "/%4",
        "/%zz",
        &long_name,
        &long_path,
    ] {
        let response = ask(&guest, "GET", target, &[]);
        assert_eq!(response.status, 400, "{}", &target[..target.len().min(40)]);
    }
}

#[test]
fn what_the_server_does_not_do_is_405_and_what_is_no_request_is_400() {
    let disk = small_disk();
    let guest = serve(&disk);
    for method in ["POST", "LOCK", "UNLOCK", "TRACE", "BREW"] {
        let response = ask(&guest, method, "/1k.bin", &["Content-Length: 0"]);
        assert_eq!(response.status, 405, "{method}");
        let allow = response.header("allow").unwrap_or_default();
        assert!(
            allow.contains("GET") && allow.contains("HEAD"),
            "{method}: {allow:?}"
        );
    }
    for nonsense in [
        "\x16\x03\x01\x02\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET /1k.bin\r\n\r\n",
        "GET /1k.bin HTTP/1.1\r\nno colon\r\n\r\n",
    ] {
        let mut connection = connect(&guest);
        connection.send(nonsense.as_bytes()).expect("it takes it");
        let response = connection
            .response("GET")
            .unwrap_or_else(|error| panic!("{nonsense:?}: {error:#}"));
        assert_eq!(response.status, 400, "{nonsense:?}");
        assert!(
            connection.is_closed_by_server(),
            "{nonsense:?}: nothing after it can be trusted"
        );
    }
    let without_host = {
        let mut connection = connect(&guest);
        connection
            .send(b"GET /1k.bin HTTP/1.1\r\n\r\n")
            .expect("it takes it");
        connection.response("GET").expect("an answer").status
    };
    assert_eq!(without_host, 400, "RFC 9112 section 3.2");
    assert_eq!(
        ask(&guest, "GET", "/1k.bin", &[]).status,
        200,
        "and goes on"
    );
}

#[test]
fn a_head_that_is_too_long_is_431() {
    let disk = small_disk();
    let guest = serve(&disk);
    let long = format!("X: {}", "y".repeat(100_000));
    let many = vec!["X: y"; 1000];
    for headers in [vec![long.as_str()], many] {
        let mut connection = connect(&guest);
        // The server may answer and close before all of it is sent.
        let _ = connection.request("GET", "/1k.bin", &headers);
        assert_eq!(connection.response("GET").expect("an answer").status, 431);
    }
}

#[test]
fn a_body_that_nobody_asked_for_does_not_become_a_request() {
    let disk = small_disk();
    let guest = serve(&disk);
    let mut connection = connect(&guest);
    let body = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    connection
        .send(
            format!(
                "GET /1k.bin HTTP/1.1\r\nHost: guest\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
        .expect("it takes it");
    let first = connection.response("GET").expect("an answer");
    // Either it skips the body or it refuses and closes; it never answers 404 to what the body says.
    if first.keeps_open() && !connection.is_closed_by_server() {
        panic!(
            "answered what the body said: {:?}",
            connection.response("GET").map(|second| second.status)
        );
    }
}

#[test]
fn http_1_0_and_connection_close_end_the_connection() {
    let disk = small_disk();
    let guest = serve(&disk);
    for request in [
        "GET /1k.bin HTTP/1.0\r\n\r\n",
        "GET /1k.bin HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n",
    ] {
        let mut connection = connect(&guest);
        connection.send(request.as_bytes()).expect("it takes it");
        let response = connection.response("GET").expect("an answer");
        assert_eq!((response.status, response.body.len()), (200, 1024));
        assert!(connection.is_closed_by_server(), "{request:?}");
    }
}

#[test]
fn the_date_is_the_hosts() {
    let disk = small_disk();
    let guest = serve(&disk);
    let said = ask(&guest, "GET", "/1k.bin", &[])
        .header("date")
        .expect("a date")
        .to_owned();
    let year = std::process::Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:"])
        .env("LC_ALL", "C")
        .output()
        .expect("date runs");
    let year = String::from_utf8(year.stdout).expect("ASCII");
    let before_the_hour = std::process::Command::new("date")
        .args(["-u", "-d", "1 minute ago", "+%a, %d %b %Y %H:"])
        .env("LC_ALL", "C")
        .output();
    let before_the_hour =
        String::from_utf8(before_the_hour.expect("date runs").stdout).expect("ASCII");
    assert!(
        said.starts_with(year.trim()) || said.starts_with(before_the_hour.trim()),
        "{said}, here it is {year}"
    );
}

#[test]
fn an_empty_file_is_a_file() {
    let disk = small_disk();
    let guest = serve(&disk);
    let response = ask(&guest, "GET", "/empty.txt", &[]);
    assert_eq!(
        (response.status, response.header("content-length")),
        (200, Some("0"))
    );
    assert!(matches!(
        disk.tree.nodes["empty.txt"],
        Node::File { size: 0, .. }
    ));
}
