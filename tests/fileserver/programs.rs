//! WebDAV by programs that nobody here wrote, each with a disk of its own that it may write; at the end the disk holds what it should, as
//! another reader of FFS sees it, and is clean.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rump_tests::disk::{Format, write_random};
use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::readers::Reader;
use rump_tests::tree::{Node, Tree};
use rump_tests::{scratch, setup, volume};
use tempfile::TempDir;

use crate::{assert_sane, fileserver};

/// Seconds that a program may take.
const LONGEST: &str = "60";

/// A guest with an empty disk, and a folder with files for a client.
struct Served {
    guest: Guest,
    disk: PathBuf,
    folder: TempDir,
}

impl Served {
    fn new(name: &str) -> Self {
        let disk = scratch("programs").join(name);
        volume::make(&disk, Format::UFS2, 64 << 20);
        let boot = Boot::new(fileserver()).disk(&disk).keeping_writes();
        let folder = tempfile::tempdir_in(scratch("programs")).expect("a folder under target");
        let served = Self {
            guest: boot.start().serving(),
            disk,
            folder,
        };
        served.fill();
        served
    }

    /// The folder "files": a tree with what clients stumble over.
    fn fill(&self) {
        let files = self.files();
        for folder in ["sub/deep er", "empty"] {
            fs::create_dir_all(files.join(folder)).expect("a folder under target");
        }
        for (name, size) in [
            ("1.bin", 1),
            ("empty.txt", 0),
            ("a name & <more>.txt", 30_000),
            ("ümläut 日本", 4096),
            ("sub/100%.bin", 200_000),
            ("sub/deep er/3m.bin", 3 << 20),
        ] {
            write_random(&files.join(name), size);
        }
        for number in 0..40 {
            write_random(&files.join(format!("sub/{number}.txt")), 100 * number);
        }
    }

    fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    fn url(&self) -> String {
        format!("http://{}/", self.guest.address())
    }

    /// A program, in the folder, that may not take long.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", LONGEST, name]);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// What the folder "files" holds, as it should be at `prefix`.
    fn expected(&self, prefix: &str) -> Tree {
        let files = Tree::of_folder(&self.files()).expect("our own folder");
        let mut tree = Tree::default();
        tree.nodes.insert(prefix.to_owned(), Node::Directory);
        let moved = files.nodes.into_iter();
        tree.nodes
            .extend(moved.map(|(path, node)| (format!("{prefix}/{path}"), node)));
        tree
    }

    /// Halts the guest: the disk must hold just this.
    fn finish(mut self, expected: &Tree) {
        assert_sane(&self.guest);
        self.guest.type_text("halt\n");
        assert_eq!(self.guest.exit_status(SOON), 0);
        volume::assert_clean(&self.disk);
        let found = Reader::Dissect.tree(&self.disk).expect("a volume");
        if let Err(differences) = expected.compare(&found) {
            panic!("{differences:#}");
        }
        fs::remove_file(&self.disk).expect("our own file");
    }
}

fn said(output: &Output) -> String {
    let text = [&*output.stdout, b"\n", &*output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let said = said(&output);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// How the tests of one of litmus' suites ended, by their numbers and names.
fn litmus(served: &Served, suite: &str) -> BTreeMap<String, String> {
    let output = served
        .program("litmus")
        .args(["-k", &served.url()])
        .env("TESTS", suite)
        .output()
        .expect("litmus runs");
    let text = said(&output);
    // A line: "12. delete_coll........... pass"; what comes first is written over by a carriage return.
    let results: BTreeMap<String, String> = text
        .split(['\r', '\n'])
        .filter_map(|line| {
            let (name, result) = line.trim().split_once("... ")?;
            let name = name.trim_matches('.').to_owned();
            let result = result.split(' ').next()?.to_owned();
            (!name.is_empty()).then_some((name, result))
        })
        .collect();
    assert!(!results.is_empty(), "{text}");
    println!("{text}");
    results
}

/// The test suite for servers of WebDAV. Of `props`, what wants a server to keep properties of a client's own is refused, as RFC 4918
/// §9.2 allows: an FFS has no place for them.
#[test]
fn litmus_finds_nothing_wrong() {
    const KEEPS_PROPERTIES: [&str; 3] = ["6. propset", "26. propmanyns", "27. propget"];
    setup::need(&["litmus", "curl"]);
    let served = Served::new("litmus");
    let mut passed = 0;
    for suite in ["basic", "copymove", "props", "http"] {
        for (name, result) in litmus(&served, suite) {
            let is_refused = suite == "props" && KEEPS_PROPERTIES.contains(&&*name);
            match &*result {
                "pass" | "WARNING:" => passed += 1,
                // What depends on a refused one.
                "SKIPPED" if suite == "props" => {}
                "FAIL" if is_refused => {}
                other => panic!("{suite}: {name}: {other}"),
            }
        }
    }
    // 16, 13, 11 and 4; a test with a warning has its result on a line of its own.
    assert!(passed >= 40, "{passed}");
    // Its suites end with what they made last.
    run(served.program("curl").args([
        "-sS",
        "-f",
        "-X",
        "DELETE",
        &format!("{}litmus/", served.url()),
    ]));
    served.finish(&Tree::default());
}

#[test]
fn cadaver_puts_gets_lists_copies_moves_and_deletes() {
    setup::need(&["cadaver"]);
    let served = Served::new("cadaver");
    let script = "mkcol box\ncd box\nput files/sub/39.txt\nput \"files/a name & <more>.txt\" \"b & c\"\n\
        ls\ncopy 39.txt copy.txt\nmove copy.txt moved.txt\nmkcol inner\ncopy 39.txt inner/\nls inner\n\
        get 39.txt got.txt\ndelete 39.txt\npropnames moved.txt\nmkcol gone\nput files/1.bin gone/x\nrmcol gone\n\
        ls\nquit\n";
    let typed = served.folder.path().join("typed");
    fs::write(&typed, script).expect("a file under target");
    let mut cadaver = served.program("cadaver");
    cadaver.arg(served.url()).env("HOME", served.folder.path());
    cadaver.stdin(fs::File::open(&typed).expect("our own file"));
    let said = run(&mut cadaver);
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(said.matches("succeeded").count(), 16, "{said}");
    assert!(said.contains("b & c") && said.contains("getetag"), "{said}");
    let file = served.expected("x").nodes["x/sub/39.txt"].clone();
    let got = Tree::of_folder(served.folder.path()).expect("our own folder");
    assert_eq!(got.nodes["got.txt"], file);

    let mut tree = Tree::default();
    let other = got.nodes["files/a name & <more>.txt"].clone();
    for (path, node) in [
        ("box", Node::Directory),
        ("box/inner", Node::Directory),
        ("box/inner/39.txt", file.clone()),
        ("box/moved.txt", file),
        ("box/b & c", other),
    ] {
        tree.nodes.insert(path.to_owned(), node);
    }
    served.finish(&tree);
}

#[test]
fn rclone_makes_the_server_what_a_folder_is_and_finds_no_difference() {
    setup::need(&["rclone"]);
    let served = Served::new("rclone");
    let remote = format!(":webdav,url='{}',vendor=other:there", served.url());
    let rclone = |words: &[&str]| {
        let mut command = served.program("rclone");
        command
            .args(words)
            .env("RCLONE_CONFIG", served.folder.path().join("none"));
        run(&mut command)
    };
    let sync = [
        "sync",
        "--create-empty-src-dirs",
        "--ignore-times",
        "files",
        &remote,
    ];
    rclone(&sync);
    rclone(&["check", "--download", "files", &remote]);
    let files = served.files();
    fs::remove_dir_all(files.join("sub/deep er")).expect("our own folder");
    fs::rename(files.join("1.bin"), files.join("sub/renamed.bin")).expect("our own file");
    write_random(&files.join("empty.txt"), 5000);
    rclone(&sync);
    rclone(&["check", "--download", "files", &remote]);
    let moved = remote.replace("there", "elsewhere");
    rclone(&["moveto", &remote, &moved]);
    let listed = rclone(&["lsf", "-R", &moved]);
    assert!(listed.contains("sub/renamed.bin"), "{listed}");
    let tree = served.expected("elsewhere");
    served.finish(&tree);
}

/// Without locks, which the server does not have: `use_locks 0`.
#[test]
fn davfs2_mounts_the_server_as_a_file_system() {
    // `buf_size`: this davfs2's own default is less than what later kernels ask of it at once.
    const SETTINGS: &str = "use_locks 0\nask_auth 0\ndelay_upload 0\nbuf_size 256\n";
    if !setup::is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    setup::need(&["mount.davfs"]);
    let served = Served::new("davfs");
    // It does not stay root, and must find its way through the folder.
    fs::set_permissions(served.folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let at = |name: &str| served.folder.path().join(name);
    for folder in ["mnt", "cache"] {
        fs::create_dir(at(folder)).expect("a folder under target");
    }
    fs::set_permissions(at("cache"), fs::Permissions::from_mode(0o777)).expect("ours");
    let cache = format!("cache_dir {}\n", at("cache").display());
    fs::write(at("settings"), SETTINGS.to_owned() + &cache).expect("a file under target");
    let options = format!("conf={},rw", at("settings").display());
    let mounted = Mounted::new(&served, &options);
    run(served.program("cp").args(["-r", "files", "mnt/copy"]));
    run(served
        .program("mv")
        .args(["mnt/copy/sub", "mnt/copy/moved"]));
    run(served
        .program("diff")
        .args(["-r", "files/sub", "mnt/copy/moved"]));
    run(served.program("mkdir").arg("mnt/copy/new folder"));
    run(served
        .program("cp")
        .args(["files/1.bin", "mnt/copy/new folder/"]));
    run(served
        .program("cp")
        .args(["files/empty.txt", "mnt/copy/1.bin"]));
    run(served.program("rm").args(["-r", "mnt/copy/moved/deep er"]));
    drop(mounted);

    let files = served.files();
    fs::rename(files.join("sub"), files.join("moved")).expect("our own folder");
    fs::remove_dir_all(files.join("moved/deep er")).expect("our own folder");
    fs::create_dir(files.join("new folder")).expect("our own folder");
    fs::copy(files.join("1.bin"), files.join("new folder/1.bin")).expect("our own file");
    fs::copy(files.join("empty.txt"), files.join("1.bin")).expect("our own file");
    let tree = served.expected("copy");
    served.finish(&tree);
}

/// A mount of davfs2's; it is unmounted when this is dropped, having sent everything.
struct Mounted<'a>(&'a Served);

impl<'a> Mounted<'a> {
    fn new(served: &'a Served, options: &str) -> Self {
        let mut mount = served.program("mount.davfs");
        mount.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        run(mount.args(["-o", options, &served.url(), "mnt"]));
        Self(served)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = self.0.program("umount").arg("mnt").status();
        let is_fine = unmounted.is_ok_and(|status| status.success());
        assert!(is_fine || std::thread::panicking(), "umount");
    }
}

#[test]
fn curl_uploads_files_of_known_and_of_unknown_length() {
    setup::need(&["curl"]);
    let served = Served::new("curl");
    let url = served.url();
    let status = |words: &[&str], input: &str| {
        let mut curl = served.program("curl");
        curl.args(["-sS", "-o", "answer", "-w", "%{http_code}"]);
        curl.stdin(fs::File::open(served.files().join(input)).expect("our own file"));
        run(curl.args(words)).trim().to_owned()
    };
    let made = status(&["-X", "MKCOL", &format!("{url}up")], "1.bin");
    assert_eq!(made, "201");
    let known = ["-T", "files/sub/deep er/3m.bin", &format!("{url}up/known")];
    assert_eq!(status(&known, "1.bin"), "201");
    // Chunked, and asking first.
    let unknown = format!("{url}up/unknown");
    let unknown = ["-H", "Expect: 100-continue", "-T", "-", &unknown];
    assert_eq!(status(&unknown, "sub/deep er/3m.bin"), "201");
    assert_eq!(status(&unknown, "empty.txt"), "204");
    assert_eq!(status(&unknown, "sub/100%.bin"), "204");
    let part = ["-H", "Content-Range: bytes 0-0/9", "-T", "files/1.bin"];
    let known = format!("{url}up/known");
    let part = [&part[..], &[&known]].concat();
    assert_eq!(status(&part, "1.bin"), "400");
    let mut tree = Tree::default();
    let files = served.expected("x").nodes;
    tree.nodes.insert("up".to_owned(), Node::Directory);
    for (name, file) in [("known", "sub/deep er/3m.bin"), ("unknown", "sub/100%.bin")] {
        let node = files[&format!("x/{file}")].clone();
        tree.nodes.insert(format!("up/{name}"), node);
    }
    served.finish(&tree);
}
