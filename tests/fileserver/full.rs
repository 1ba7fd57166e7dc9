//! A volume without room: what does not fit is refused with 507 (RFC 4918 §11.5), and nothing is lost for it.

use rump_tests::disk::Format;
use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::http::{Connection, Response};
use rump_tests::random::Random;
use rump_tests::readers::Reader;
use rump_tests::tree::{Node, Tree, fingerprint};
use rump_tests::{scratch, volume};

use crate::{assert_sane, fileserver};

/// A client, and what it knows to be on the volume.
struct Client<'a> {
    guest: &'a Guest,
    connection: Connection,
    tree: Tree,
}

impl<'a> Client<'a> {
    fn of(guest: &'a Guest) -> Self {
        Self {
            guest,
            connection: Connection::open(guest.address()).expect("a connection"),
            tree: Tree::default(),
        }
    }

    fn ask(&mut self, method: &str, target: &str, field: &str, body: &[u8]) -> Response {
        let length = format!("Content-Length: {}", body.len());
        let connection = &mut self.connection;
        let answer = connection
            .request(method, target, &[field, &length])
            .and_then(|()| connection.send(body))
            .and_then(|()| connection.response(method));
        let answer = answer.unwrap_or_else(|error| panic!("{method} {target}: {error:#}"));
        if !answer.keeps_open() {
            self.connection = Connection::open(self.guest.address()).expect("a connection");
        }
        answer
    }

    fn status(&mut self, method: &str, target: &str, field: &str) -> u16 {
        self.ask(method, target, field, b"").status
    }

    fn make_collection(&mut self, target: &str) {
        assert_eq!(self.status("MKCOL", target, "X: y"), 201, "{target}");
        self.tree
            .nodes
            .insert(target[1..].to_owned(), Node::Directory);
    }

    /// The status of an upload, which is refused before it is sent where it cannot fit.
    fn put(&mut self, target: &str, bytes: &[u8]) -> u16 {
        let length = format!("Content-Length: {}", bytes.len());
        let connection = &mut self.connection;
        let fields = ["Expect: 100-continue", &length];
        let mut answer = connection
            .exchange("PUT", target, &fields)
            .expect("an answer");
        if answer.status == 100 {
            // It may be refused, and the connection closed, before all of it is sent.
            let _ = connection.send(bytes);
            answer = connection.response("PUT").expect("an answer");
        }
        if !answer.keeps_open() {
            self.connection = Connection::open(self.guest.address()).expect("a connection");
        }
        if answer.status == 201 {
            let node = fingerprint(bytes);
            self.tree.nodes.insert(target[1..].to_owned(), node);
        }
        answer.status
    }

    /// Fills the collection `/fill` until not one fragment is free.
    fn fill(&mut self) {
        let mut random = Random::new(1);
        for size in [1 << 20, 64 << 10, 8192, 1024] {
            for number in 0.. {
                let target = format!("/fill/{size}-{number}");
                match self.put(&target, &random.bytes(size)) {
                    201 => {}
                    status => {
                        assert_eq!(status, 507, "{target}");
                        break;
                    }
                }
            }
        }
    }

    fn delete(&mut self, target: &str) {
        assert_eq!(self.status("DELETE", target, "X: y"), 204, "{target}");
        self.tree.nodes.remove(&target[1..]).expect("it was there");
    }

    /// An upload whose length is not known before.
    fn put_in_chunks(&mut self, target: &str, bytes: &[u8]) -> u16 {
        let connection = &mut self.connection;
        let fields = ["Transfer-Encoding: chunked"];
        connection
            .request("PUT", target, &fields)
            .expect("it takes it");
        let size = format!("{:x}\r\n", bytes.len());
        for part in [size.as_bytes(), bytes, b"\r\n0\r\n\r\n"] {
            let _ = connection.send(part);
        }
        let answer = connection.response("PUT").expect("an answer");
        self.connection = Connection::open(self.guest.address()).expect("a connection");
        answer.status
    }

    /// All is as it was, and nothing else is there.
    fn verify(&self) {
        let compared = self.tree.compare_over_http(self.guest.address());
        compared.unwrap_or_else(|differences| panic!("{differences:#}"));
    }
}

/// What needs room, and cannot have it.
fn refuse_all(client: &mut Client<'_>) {
    for (method, target, field) in [
        ("MKCOL", "/new", "X: y"),
        ("MKCOL", "/tree/new", "X: y"),
        ("COPY", "/one.bin", "Destination: /new.bin"),
        ("COPY", "/one.bin", "Destination: /tree/new.bin"),
        ("COPY", "/one.bin", "Destination: /old.bin"),
        ("COPY", "/one.bin", "Destination: /other"),
        ("COPY", "/tree", "Destination: /new"),
        ("COPY", "/tree", "Destination: /other"),
        ("COPY", "/tree", "Destination: /old.bin"),
    ] {
        let status = client.status(method, target, field);
        assert_eq!(status, 507, "{method} {target} {field}");
    }
    client.verify();
}

fn serve_a_full_volume(name: &str, options: &str) {
    let disk = scratch("full").join(name);
    volume::make(&disk, Format::UFS2, 16 << 20);
    let mut guest = Boot::new(fileserver())
        .disk(&disk)
        .keeping_writes()
        .append(&format!("mount=ld0:/:ffs:{options}"))
        .start()
        .serving();
    let mut client = Client::of(&guest);
    for target in ["/tree", "/tree/sub", "/other", "/fill"] {
        client.make_collection(target);
    }
    let mut random = Random::new(2);
    for (target, size) in [
        ("/one.bin", 100_000),
        ("/old.bin", 3),
        ("/other/file", 10),
        ("/tree/1.bin", 20_000),
        ("/tree/sub/2.bin", 90_000),
        ("/tree/sub/3.bin", 500),
    ] {
        assert_eq!(client.put(target, &random.bytes(size)), 201, "{target}");
    }
    client.fill();
    refuse_all(&mut client);
    let shallow = ["Destination: /new", "Depth: 0"].join("\r\n");
    assert_eq!(client.status("COPY", "/tree", &shallow), 507);
    // A name needs no room.
    assert_eq!(
        client.status("MOVE", "/one.bin", "Destination: /moved"),
        201
    );
    assert_eq!(
        client.status("MOVE", "/moved", "Destination: /one.bin"),
        201
    );
    client.verify();
    // With some room a copy is begun, and what there was of it goes.
    client.delete("/fill/65536-0");
    for (target, field) in [
        ("/one.bin", "Destination: /new.bin"),
        ("/one.bin", "Destination: /old.bin"),
        ("/tree", "Destination: /new"),
        ("/tree", "Destination: /other"),
    ] {
        assert_eq!(
            client.status("COPY", target, field),
            507,
            "{target} {field}"
        );
        client.verify();
    }
    assert_eq!(client.put_in_chunks("/old.bin", &[7; 100_000]), 507);
    client.verify();
    assert_eq!(client.put("/fits.bin", &random.bytes(64 << 10)), 201);
    refuse_all(&mut client);
    let tree = client.tree;
    assert_sane(&guest);
    guest.type_text("halt\n");
    assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
    volume::assert_clean(&disk);
    let found = Reader::Dissect.tree(&disk).expect("a volume");
    if let Err(differences) = tree.compare(&found) {
        panic!("{differences:#}");
    }
    std::fs::remove_file(&disk).expect("our own file");
}

#[test]
fn what_does_not_fit_is_507_and_nothing_is_lost_or_left() {
    serve_a_full_volume("plain", "rw");
}

#[test]
fn what_does_not_fit_is_507_and_nothing_is_lost_or_left_with_a_log() {
    serve_a_full_volume("log", "log");
}
