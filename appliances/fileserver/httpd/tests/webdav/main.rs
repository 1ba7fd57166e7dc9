//! The file server writes: every method of WebDAV class 1 over real sockets, on an FFS.

mod client;
mod listing;
#[path = "../../../../../kernel/rumpvfs/tests/testfs/mod.rs"]
mod testfs;
mod trees;

use client::{Client, attach};
use rump::fs;
use testfs::pattern;

/// One request on a connection of its own: the status.
fn status(method: &str, path: &str, fields: &[&str], body: &[u8]) -> u16 {
    Client::connect().ask(method, path, fields, body).status
}

/// What is at `path`, if anything.
fn contents(path: &str) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

/// The names in a directory, hidden ones as well.
fn names(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| String::from_utf8_lossy(entry.expect("an entry").name()).into_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_put_is_there_and_replaces_what_was() {
    let _process = attach();
    let mut client = Client::connect();
    let large = pattern(1, 3_000_000);
    let first = client.ask("PUT", "/put-a.bin", &[], &large);
    assert_eq!(first.status, 201, "{}", first.head);
    let got = client.ask("GET", "/put-a.bin", &[], b"");
    assert!(got.body == large, "other bytes");
    assert_eq!(got.header("etag"), first.header("etag"));
    let second = client.ask("PUT", "/put-a.bin", &[], b"small");
    assert_eq!(second.status, 204);
    assert_eq!(client.ask("GET", "/put-a.bin", &[], b"").body, b"small");
    let empty = client.ask("PUT", "/put-a.bin", &["Content-Length: 0"], b"");
    assert_eq!(empty.status, 204);
    assert_eq!(contents("/put-a.bin").as_deref(), Some(&b""[..]));
}

#[test]
fn a_body_may_come_in_chunks_and_the_next_request_right_behind_it() {
    let _process = attach();
    let mut client = Client::connect();
    client.send(
        b"PUT /chunked.txt HTTP/1.1\r\nHost: disk\r\nTransfer-Encoding: chunked\r\n\r\n\
          5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\nA: b\r\n\r\nGET /chunked.txt HTTP/1.1\r\nHost: disk\r\n\r\n",
    );
    assert_eq!(client.answer().status, 201);
    assert_eq!(client.answer().body, b"hello, world");
    client.send(
        b"PUT /chunked.txt HTTP/1.1\r\nHost: disk\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nother\r\nzz\r\n",
    );
    let refused = client.answer();
    assert_eq!(refused.status, 400);
    assert_eq!(refused.header("connection"), Some("close"));
    assert_eq!(contents("/chunked.txt").unwrap(), b"hello, world");
}

#[test]
fn who_waits_to_be_told_is_told_or_refused_before_it_sends() {
    let _process = attach();
    let mut client = Client::connect();
    let expect = "Host: disk\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.send(format!("PUT /waited.txt HTTP/1.1\r\n{expect}").as_bytes());
    assert_eq!(client.answer().status, 100);
    client.send(b"hello");
    assert_eq!(client.answer().status, 201);
    client.send(format!("PUT /no/such.txt HTTP/1.1\r\n{expect}").as_bytes());
    let refused = client.answer();
    assert_eq!(refused.status, 409);
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(client.has_ended());
}

#[test]
fn a_broken_upload_leaves_the_old_file_and_nothing_else() {
    let _process = attach();
    assert_eq!(status("MKCOL", "/broken", &[], b""), 201);
    assert_eq!(status("PUT", "/broken/a", &[], b"old"), 201);
    let client = Client::connect();
    client.send(b"PUT /broken/a HTTP/1.1\r\nHost: disk\r\nContent-Length: 100000\r\n\r\nnew");
    while names("/broken").len() < 2 {
        rump::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(contents("/broken/a").unwrap(), b"old");
    let page = Client::connect().ask("GET", "/broken/", &[], b"").text();
    assert!(!page.contains("#rump"), "{page}");
    let hidden = format!("/broken/{}", names("/broken")[0].replace('#', "%23"));
    assert_eq!(status("GET", &hidden, &[], b""), 404);
    assert_eq!(status("PUT", &hidden, &[], b"x"), 403);
    drop(client);
    while names("/broken").len() > 1 {
        rump::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(contents("/broken/a").unwrap(), b"old");
}

#[test]
fn what_cannot_be_put_says_why() {
    let _process = attach();
    assert_eq!(status("MKCOL", "/why", &[], b""), 201);
    assert_eq!(status("PUT", "/why/file", &[], b"x"), 201);
    for (path, field, expected) in [
        ("/why", "X: y", 405),
        ("/why/", "X: y", 405),
        ("/why/new/", "X: y", 405),
        ("/why/none/a", "X: y", 409),
        ("/why/file/a", "X: y", 409),
        ("/.metrics", "X: y", 403),
        ("/why/../a", "X: y", 400),
        ("/why/part", "Content-Range: bytes 0-0/2", 400),
    ] {
        assert_eq!(status("PUT", path, &[field], b"x"), expected, "{path}");
    }
    assert_eq!(names("/why"), ["file"]);
    // A refused body that is short is read, and the connection goes on.
    let mut client = Client::connect();
    assert_eq!(client.ask("PUT", "/why/none/a", &[], b"body").status, 409);
    assert_eq!(client.ask("GET", "/why/file", &[], b"").body, b"x");
}

#[test]
fn conditions_guard_what_is_there() {
    let _process = attach();
    let mut client = Client::connect();
    let path = "/guarded";
    let any = ["If-Match: *"];
    let none = ["If-None-Match: *"];
    assert_eq!(client.ask("PUT", path, &any, b"1").status, 412);
    let made = client.ask("PUT", path, &none, b"1");
    assert_eq!(made.status, 201);
    assert_eq!(client.ask("PUT", path, &none, b"2").status, 412);
    let tag = format!("If-Match: {}", made.header("etag").unwrap());
    assert_eq!(client.ask("PUT", path, &[&tag], b"two").status, 204);
    assert_eq!(client.ask("PUT", path, &[&tag], b"3").status, 412);
    assert_eq!(client.ask("DELETE", path, &[&tag], b"").status, 412);
    assert_eq!(client.ask("GET", path, &[&tag], b"").status, 412);
    assert_eq!(contents(path).unwrap(), b"two");
    let past = ["If-Unmodified-Since: Sun, 06 Nov 1960 08:49:37 GMT"];
    assert_eq!(client.ask("DELETE", path, &past, b"").status, 412);
    assert_eq!(client.ask("DELETE", path, &["If: (<x>)"], b"").status, 412);
    assert_eq!(client.ask("DELETE", path, &any, b"").status, 204);
    assert_eq!(client.ask("DELETE", path, &[], b"").status, 404);
}

#[test]
fn options_say_what_there_is_and_what_is_not_is_405() {
    let _process = attach();
    let mut client = Client::connect();
    let options = client.ask("OPTIONS", "*", &[], b"");
    assert_eq!(options.status, 200);
    assert_eq!(options.header("dav"), Some("1"));
    for method in ["LOCK", "UNLOCK", "POST", "BREW", "put"] {
        let answer = client.ask(method, "/", &[], b"some body");
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), options.header("allow"));
    }
}

#[test]
fn what_does_not_fit_is_507_and_costs_nothing() {
    let _process = attach();
    let mut client = Client::connect();
    assert_eq!(client.ask("PUT", "/small/fits", &[], b"old").status, 201);
    client.send(b"PUT /small/fits HTTP/1.1\r\nHost: disk\r\nContent-Length: 100000000\r\n\r\n");
    assert_eq!(client.answer().status, 507);
    let mut client = Client::connect();
    client.send(b"PUT /small/fits HTTP/1.1\r\nHost: disk\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [&b"10000\r\n"[..], &pattern(3, 0x10000), b"\r\n"].concat();
    for _ in 0..100 {
        if !client.try_send(&chunk) {
            break;
        }
    }
    assert_eq!(client.answer().status, 507);
    assert_eq!(contents("/small/fits").unwrap(), b"old");
}

#[test]
fn a_mount_that_is_read_only_is_403_and_stays_as_it_was() {
    let _process = attach();
    let mut client = Client::connect();
    let to = ["Destination: /ro/new"];
    assert_eq!(client.ask("PUT", "/ro/a.txt", &[], b"new").status, 403);
    assert_eq!(client.ask("PUT", "/ro/new", &[], b"new").status, 403);
    assert_eq!(client.ask("DELETE", "/ro/a.txt", &[], b"").status, 403);
    assert_eq!(client.ask("DELETE", "/ro/d", &[], b"").status, 403);
    assert_eq!(client.ask("MKCOL", "/ro/e", &[], b"").status, 403);
    assert_eq!(client.ask("MOVE", "/ro/a.txt", &to, b"").status, 403);
    assert_eq!(client.ask("COPY", "/ro/a.txt", &to, b"").status, 403);
    assert_eq!(client.ask("DELETE", "/ro", &[], b"").status, 403);
    let out = ["Destination: /out-of-ro"];
    assert_eq!(client.ask("MOVE", "/ro/a.txt", &out, b"").status, 502);
    assert_eq!(client.ask("COPY", "/ro/a.txt", &out, b"").status, 201);
    assert_eq!(contents("/out-of-ro").unwrap(), b"as it was");
    assert_eq!(names("/ro"), ["a.txt", "d"]);
}
