//! What guests wrote, read by programs that nobody here wrote; and what makefs wrote, so that it is known that these can tell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rump_tests::disk::{Disk, Format};
use rump_tests::guest::{Boot, SOON};
use rump_tests::http::{Connection, target_of};
use rump_tests::image::image;
use rump_tests::random::Random;
use rump_tests::readers::{self, Reader};
use rump_tests::tree::{Node, Tree, fingerprint};
use rump_tests::{scratch, volume};

/// Bytes of a volume that a guest fills.
const VOLUME: u64 = 48 << 20;

/// How long writing everything back may take.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_reader_shows_what_is_there_and_tells_what_is_not() {
    let disk = Disk::of_everything(Format::UFS2);
    let mut expected = disk.tree.clone();
    let read = readers::compare(&disk.image, &expected).expect("makefs' volume");
    assert_eq!(read, [Reader::Dissect]);
    let missing = expected.nodes.insert("more".to_owned(), Node::Directory);
    assert!(missing.is_none());
    let path = expected.nodes.keys().find(|path| path.ends_with("1.bin"));
    let path = path.expect("a file").clone();
    expected.nodes.insert(path.clone(), fingerprint(b"other"));
    let told = readers::compare(&disk.image, &expected).expect_err("two differences");
    let told = format!("{told:#}");
    assert!(told.contains("\"more\"") && told.contains(&path), "{told}");
}

/// What a client puts: lengths around the borders of fragments, blocks and levels of indirection, many small files, a deep folder.
fn files(format: Format) -> Vec<(String, Vec<u8>)> {
    let Format {
        block, fragment, ..
    } = format;
    let mut random = Random::new(block as u64);
    let mut lengths = vec![0, 1, fragment - 1, fragment, fragment + 1, 5 << 20];
    lengths.extend([block - 1, block, block + 1, 12 * block, 12 * block + 1]);
    let mut files = Vec::new();
    for length in lengths {
        files.push((format!("sizes/{length}.bin"), random.bytes(length)));
    }
    for number in 0..150 {
        let length = random.below(3 * fragment);
        let path = format!("many/a name of some length {number}");
        files.push((path, random.bytes(length)));
    }
    files.push(("a/b/c/d/e/ümläut 日本".to_owned(), random.bytes(100)));
    files
}

/// Has a guest write the volume: folders made, files put, replaced, moved and deleted. Answers what must be there.
fn fill(connection: &mut Connection, format: Format) -> Tree {
    let mut tree = Tree::default();
    let mut ask = |method: &str, path: &str, field: &str, body: &[u8], status: u16| {
        let length = format!("Content-Length: {}", body.len());
        let answer = connection
            .request(method, &target_of(path), &[field, &length])
            .and_then(|()| connection.send(body))
            .and_then(|()| connection.response(method));
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error:#}"));
        assert_eq!(answer.status, status, "{method} {path}");
    };
    for folder in ["sizes", "many", "a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/e"] {
        ask("MKCOL", folder, "X: y", b"", 201);
        tree.nodes.insert(folder.to_owned(), Node::Directory);
    }
    for (number, (path, bytes)) in files(format).into_iter().enumerate() {
        ask("PUT", &path, "X: y", &bytes, 201);
        match number % 10 {
            7 => ask("DELETE", &path, "X: y", b"", 204),
            8 => {
                let moved = format!("a/moved {number}");
                let field = format!("Destination: {}", target_of(&moved));
                ask("MOVE", &path, &field, b"", 201);
                tree.nodes.insert(moved, fingerprint(&bytes));
            }
            9 => {
                ask("PUT", &path, "X: y", b"replaced", 204);
                tree.nodes.insert(path, fingerprint(b"replaced"));
            }
            _ => {
                tree.nodes.insert(path, fingerprint(&bytes));
            }
        }
    }
    ask("COPY", "sizes", "Destination: /a/copy", b"", 201);
    let copied: Vec<(String, Node)> = tree
        .nodes
        .iter()
        .filter_map(|(path, node)| {
            let rest = path.strip_prefix("sizes")?;
            Some((format!("a/copy{rest}"), node.clone()))
        })
        .collect();
    tree.nodes.extend(copied);
    tree
}

/// Where the volume has a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    None,
    /// In a file of its own.
    Inside,
    /// On the rest of the disk.
    Behind,
}

/// A volume that a guest in QEMU wrote and unmounted, and what is on it.
fn written_by_a_guest(name: &str, format: Format, log: Log) -> (PathBuf, Tree) {
    let disk = scratch("readers").join(format!("{name}-{log:?}"));
    volume::make(&disk, format, VOLUME);
    let (option, behind) = match log {
        Log::None => ("rw", 0),
        Log::Inside => ("log", 0),
        Log::Behind => ("log", 2 << 20),
    };
    let file = std::fs::OpenOptions::new().write(true).open(&disk);
    let lengthened = file.and_then(|file| file.set_len(VOLUME + behind));
    lengthened.expect("our own file");
    let mut guest = Boot::new(image("fileserver"))
        .memory("16")
        .disk(&disk)
        .keeping_writes()
        .append(&format!("mount=ld0:/:ffs:{option}"))
        .start()
        .serving();
    assert_eq!(guest.line_with("a log of").is_some(), log != Log::None);
    let mut connection = Connection::open(guest.address()).expect("a connection");
    let tree = fill(&mut connection, format);
    drop(connection);
    guest.type_text("halt\n");
    assert_eq!(guest.exit_status(LONG.max(SOON)), 0, "{}", guest.console());
    volume::assert_clean(&disk);
    (disk, tree)
}

fn assert_read(disk: &Path, tree: &Tree, by: &[Reader]) {
    let read = match readers::compare(disk, tree) {
        Ok(read) => read,
        Err(error) => panic!("{}: {error:#}", disk.display()),
    };
    let here: Vec<Reader> = by.iter().copied().filter(|by| by.is_here()).collect();
    assert_eq!(read, here);
    std::fs::remove_file(disk).expect("our own file");
}

/// Lets a guest write a volume, and others read it.
fn others_read(name: &str, format: Format, log: Log, by: &[Reader]) {
    let (disk, tree) = written_by_a_guest(name, format, log);
    assert_read(&disk, &tree, by);
}

const UFS1: Format = Format {
    version: 1,
    big_endian: false,
    block: 8192,
    fragment: 1024,
};
const BIG_ENDIAN_UFS1: Format = Format {
    version: 1,
    big_endian: true,
    block: 16_384,
    fragment: 2048,
};
const UFS2: Format = Format {
    version: 2,
    big_endian: false,
    block: 32_768,
    fragment: 4096,
};
const BIG_ENDIAN_UFS2: Format = Format {
    version: 2,
    big_endian: true,
    block: 16_384,
    fragment: 2048,
};

#[test]
fn what_a_guest_writes_to_ufs1_others_read() {
    let by = [Reader::Dissect, Reader::Linux];
    others_read("ufs1-little", UFS1, Log::None, &by);
}

#[test]
fn what_a_guest_writes_to_big_endian_ufs1_others_read() {
    others_read("ufs1-big", BIG_ENDIAN_UFS1, Log::None, &[Reader::Linux]);
}

#[test]
fn what_a_guest_writes_to_ufs2_others_read() {
    others_read("ufs2-little", UFS2, Log::None, &Reader::ALL);
}

#[test]
fn what_a_guest_writes_to_big_endian_ufs2_others_read() {
    let by = [Reader::FuseUfs, Reader::Linux];
    others_read("ufs2-big", BIG_ENDIAN_UFS2, Log::None, &by);
}

#[test]
fn what_a_guest_writes_to_ufs1_with_a_log_others_read() {
    let by = [Reader::Dissect, Reader::Linux];
    others_read("ufs1-little", UFS1, Log::Behind, &by);
}

#[test]
fn what_a_guest_writes_to_big_endian_ufs1_with_a_log_others_read() {
    others_read("ufs1-big", BIG_ENDIAN_UFS1, Log::Inside, &[Reader::Linux]);
}

#[test]
fn what_a_guest_writes_to_ufs2_with_a_log_others_read() {
    others_read("ufs2-little", UFS2, Log::Inside, &Reader::ALL);
}

#[test]
fn what_a_guest_writes_to_big_endian_ufs2_with_a_log_others_read() {
    let by = [Reader::FuseUfs, Reader::Linux];
    others_read("ufs2-big", BIG_ENDIAN_UFS2, Log::Behind, &by);
}
