//! The program on images that others made: trees as they must be, messages that name file and cause, exit statuses.

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::random::Random;
use rump_tests::spoil::Spoiler;
use rump_tests::tree::{Node, Tree};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn rump_fs(words: &[&OsStr]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
    command.args(words).output().expect("rump_fs runs")
}

/// The words of a command line; a path among them is an image.
macro_rules! run {
    ($($word:expr),* $(,)?) => { rump_fs(&[$(OsStr::new($word)),*]) };
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it speaks UTF-8")
}

fn succeeds(output: &Output) {
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{:?}: {}",
        output.status,
        text(&output.stderr)
    );
}

/// What `tree --hash` shows.
fn tree_of(image: &Path, largest: &str) -> (Vec<Value>, Tree) {
    let output = run!("--json", "tree", "--hash", "--largest", largest, image);
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let entries = shown["entries"].as_array().expect("entries").clone();
    let mut tree = Tree::default();
    for entry in &entries {
        let path = entry["path"].as_str().expect("a path");
        let mode = u32::from_str_radix(entry["mode"].as_str().expect("a mode"), 8);
        // The file type bits of a mode (NetBSD sys/sys/stat.h, S_IFMT).
        let node = match mode.expect("an octal number") & 0o170_000 {
            0o040_000 => Node::Directory,
            0o120_000 => Node::Symlink(entry["target"].as_str().expect("a target").to_owned()),
            0o100_000 if entry["sha256"].is_null() => continue,
            0o100_000 => Node::File {
                size: entry["size"].as_u64().expect("a size"),
                sha256: entry["sha256"].as_str().expect("a sum").to_owned(),
            },
            _ => Node::Special,
        };
        let before = tree.nodes.insert(path.to_owned(), node);
        assert_eq!(before, None, "{path} is shown twice");
    }
    (entries, tree)
}

fn assert_same(shown: &Tree, expected: &Tree) {
    for (path, node) in &expected.nodes {
        assert_eq!(shown.nodes.get(path), Some(node), "{path}");
    }
    for path in shown.nodes.keys() {
        assert!(
            expected.nodes.contains_key(path),
            "{path} should not be there"
        );
    }
}

#[test]
fn netbsds_images_show_what_netbsd_itself_shows_attribute_by_attribute() {
    for name in ["ffs1-clean", "ffs2-clean", "ffs2-log-unmounted"] {
        let Some(disk) = Disk::by_netbsd(name) else {
            return;
        };
        let (entries, tree) = tree_of(&disk.image, "64g");
        assert_same(&tree, &disk.tree);
        let shared = std::env::var_os("RUMP_SHARED")
            .map_or_else(|| rump_tests::root().join("../shared"), Into::into);
        let listing = fs::read(shared.join(format!("images/{name}.json"))).expect("the listing");
        let listing: Value = serde_json::from_slice(&listing).expect("JSON");
        let expected = listing["entries"].as_array().expect("entries");
        assert_eq!(entries.len(), expected.len());
        for expected in expected {
            let path = &expected["path"];
            let shown = entries.iter().find(|entry| entry["path"] == *path);
            let shown = shown.expect("every path is shown");
            for key in [
                "mode", "nlink", "uid", "gid", "size", "inode", "sha256", "target",
            ] {
                assert_eq!(shown[key], expected[key], "{name}: {path}: {key}");
            }
        }
        let checked = run!("check", &disk.image);
        succeeds(&checked);
    }
}

#[test]
fn images_of_makefs_show_their_tree_in_every_format_and_are_clean() {
    for format in Format::VARIED {
        let disk = Disk::of_everything(format);
        let (_, tree) = tree_of(&disk.image, "64g");
        assert_same(&tree, &disk.tree);
        let checked = run!("--json", "check", &disk.image);
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
        let checked: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
        assert_eq!(checked["consistent"], true);
    }
}

#[test]
fn freebsds_images_show_their_tree_and_the_file_that_is_too_large_is_named() {
    for big_endian in [false, true] {
        let disk = Disk::by_freebsd(big_endian);
        let output = run!("--json", "tree", "--hash", "--largest", "1g", &disk.image);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains("/sparse3: "),
            "{}",
            text(&output.stderr)
        );
        let (_, tree) = tree_of(&disk.image, "1g");
        assert_same(&tree, &disk.tree);
    }
}

#[test]
fn a_tree_is_copied_bit_by_bit_with_times_modes_holes_and_links() {
    let disk = Disk::of_everything(Format::UFS2);
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path();
    succeeds(&run!("get", "-a", &disk.image, "/", to));
    let copied = Tree::of_folder(to).expect("the copy");
    assert_same(&copied, &disk.tree);
    let (entries, _) = tree_of(&disk.image, "64g");
    for entry in &entries {
        let path = entry["path"].as_str().expect("a path");
        let metadata = fs::symlink_metadata(to.join(path)).expect("the copy");
        assert_eq!(entry["mtime"], metadata.mtime(), "{path}");
        assert_eq!(entry["mtime_nsec"], metadata.mtime_nsec(), "{path}");
        if !metadata.is_symlink() {
            let mode = format!("{:06o}", metadata.mode());
            assert_eq!(entry["mode"], mode, "{path}");
        }
        if metadata.is_file() {
            assert_eq!(entry["nlink"], metadata.nlink(), "{path}");
        }
    }
    // Again, over what is there; and one file without -a.
    succeeds(&run!("get", "-a", &disk.image, "/sizes", "/links/up", to));
    let one = to.join("one");
    fs::create_dir(&one).expect("a folder");
    succeeds(&run!("get", &disk.image, "/sizes/511.bin", &one));
    let cat = run!("cat", &disk.image, "/links/../sizes/511.bin");
    assert_eq!(fs::read(one.join("511.bin")).expect("the copy"), cat.stdout);
}

#[test]
fn nothing_is_copied_through_a_link_of_the_host() {
    let disk = Disk::of(Format::UFS2, |files| {
        fs::create_dir(files.join("a")).expect("a folder");
        write_random(&files.join("a/b"), 10);
        write_random(&files.join("f"), 1 << 20);
    });
    let folder = tempfile::tempdir().expect("a folder");
    let (to, elsewhere) = (folder.path().join("to"), folder.path().join("elsewhere"));
    fs::create_dir(&to).expect("a folder");
    fs::create_dir(&elsewhere).expect("a folder");
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, to.join(name));
    link(&elsewhere, "a").expect("a link");
    link(&elsewhere.join("f"), "f").expect("a link");
    let output = run!("get", "-a", &disk.image, "/a", "/f", &to);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("File exists"));
    let there = fs::read_dir(&elsewhere).expect("the folder").count();
    assert_eq!(
        there, 1,
        "only what a directory of that name already led to"
    );
}

#[test]
fn what_fails_is_said_with_file_and_cause_and_status() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("f"), 1 << 20)
    });
    let image = disk.image.to_str().expect("a name of ours");
    let zeroes = disk.image.with_file_name("zeroes");
    fs::write(&zeroes, vec![0; 1 << 20]).expect("a file");
    let zeroes = zeroes.to_str().expect("a name of ours");
    let cases: [(&[&str], i32, &str); 12] = [
        (
            &["ls", "nowhere.img"],
            1,
            "nowhere.img: No such file or directory",
        ),
        (&["ls", "."], 1, ".: neither a file nor a block device"),
        (
            &["ls", zeroes],
            1,
            "no file system that is known, and no partitions",
        ),
        (
            &["check", zeroes],
            8,
            "no file system that is known, and no partitions",
        ),
        (&["ls", image, "/g"], 1, "/g: No such file or directory"),
        (&["ls", image, "/f/g"], 1, "/f/g: Not a directory"),
        (&["cat", image, "/"], 1, "/: Is a directory"),
        (
            &["--fstype", "ext9", "ls", image],
            1,
            "ext9: there is no such kind of file system",
        ),
        (
            &["--readonly", "mkdir", image, "/d"],
            1,
            "Read-only file system",
        ),
        (
            &["mkdir", image, "/d/e"],
            1,
            "/d/e: No such file or directory",
        ),
        (
            &["--memlimit", "4k", "ls", image],
            1,
            "a kernel cannot be booted",
        ),
        (&["frobnicate", image], 2, "frobnicate"),
    ];
    for (words, status, message) in cases {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        let output = rump_fs(&words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        assert!(said.contains(message), "{words:?}: {said}");
    }
}

#[test]
fn a_small_budget_of_memory_is_enough_for_a_large_file() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("f"), 12 << 20)
    });
    let output = run!("--memlimit", "1m", "--json", "tree", "--hash", &disk.image);
    succeeds(&output);
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let Some(Node::File { sha256, .. }) = disk.tree.nodes.get("f") else {
        panic!("f is a file");
    };
    assert_eq!(shown["entries"][0]["sha256"], **sha256);
}

#[test]
fn a_volume_that_was_made_is_clean_and_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    for version in ["1", "2"] {
        let image = folder.path().join(version);
        succeeds(&run!(
            "mkfs", "-t", "ffs", "-O", version, "-b", "8k", "-f", "1024", "--size", "16m",
            "--label", "demo", &image
        ));
        succeeds(&run!("check", &image));
        let listed = run!("ls", &image);
        succeeds(&listed);
        assert!(listed.stdout.is_empty());
        let full = run!("--json", "df", &image);
        succeeds(&full);
        let full: Value = serde_json::from_slice(&full.stdout).expect("JSON");
        assert_eq!(full["block_size"], 8192);
        assert_eq!(full["fragment_size"], 1024);
    }
    let refused = run!(
        "mkfs",
        "-b",
        "3000",
        "--size",
        "16m",
        folder.path().join("3").as_os_str()
    );
    assert_eq!(refused.status.code(), Some(1));
    let refused = run!("mkfs", folder.path().join("4").as_os_str());
    assert!(
        text(&refused.stderr).contains("no size"),
        "{}",
        text(&refused.stderr)
    );
}

/// A folder of the host with something of everything.
fn fill(files: &Path) {
    fs::create_dir_all(files.join("a/b/c")).expect("a folder");
    for (name, size) in [
        ("empty", 0),
        ("a/small", 700),
        ("a/b/large", 3 << 20),
        ("a/b/c/odd", 98_765),
    ] {
        write_random(&files.join(name), size);
    }
    let mut holes = vec![0; 1 << 20];
    holes[500_000] = 1;
    fs::write(files.join("holes"), holes).expect("a file");
    for number in 0..300 {
        write_random(&files.join(format!("a/b/c/{number:0>40}")), number * 7);
    }
    std::os::unix::fs::symlink("a/small", files.join("link")).expect("a link");
    std::os::unix::fs::symlink("a/".repeat(200), files.join("long-link")).expect("a link");
    fs::hard_link(files.join("a/small"), files.join("second-name")).expect("a link");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
    fs::set_permissions(files.join("a/small"), mode).expect("a mode");
}

#[test]
fn a_tree_goes_in_and_comes_out_bit_by_bit_with_times_modes_and_links() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    for name in ["in", "out"] {
        fs::create_dir(place(name)).expect("a folder");
    }
    fill(&place("in"));
    let expected = Tree::of_folder(&place("in")).expect("our own");
    for version in ["1", "2"] {
        let image = place("disk.img");
        succeeds(&run!("mkfs", "-O", version, "--size", "32m", &image));
        succeeds(&run!("put", "-a", &image, &place("in").join("."), "/"));
        succeeds(&run!("check", &image));
        let (entries, tree) = tree_of(&image, "64g");
        assert_same(&tree, &expected);
        for entry in &entries {
            let path = entry["path"].as_str().expect("a path");
            let metadata = fs::symlink_metadata(place("in").join(path)).expect("our own");
            assert_eq!(entry["mtime"], metadata.mtime(), "{path}");
            assert_eq!(entry["mtime_nsec"], metadata.mtime_nsec(), "{path}");
            assert_eq!(entry["uid"], metadata.uid(), "{path}");
            if !metadata.is_symlink() {
                assert_eq!(entry["mode"], format!("{:06o}", metadata.mode()), "{path}");
            }
            if metadata.is_file() {
                assert_eq!(entry["nlink"], metadata.nlink(), "{path}");
            }
        }
        // Over what is there.
        succeeds(&run!("put", &image, &place("in").join("a"), "/"));
        succeeds(&run!("check", &image));
        succeeds(&run!("get", "-a", &image, "/", &place("out")));
        assert_same(
            &Tree::of_folder(&place("out")).expect("the copy"),
            &expected,
        );
        succeeds(&run!(
            "rm",
            "-r",
            &image,
            "/a",
            "/empty",
            "/holes",
            "/link",
            "/long-link",
            "/second-name"
        ));
        succeeds(&run!("check", &image));
        assert!(run!("ls", &image).stdout.is_empty());
        fs::remove_file(&image).expect("the image");
    }
}

#[test]
fn names_modes_owners_and_sizes_are_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &folder.path().join("disk.img");
    succeeds(&run!("mkfs", "--size", "8m", image));
    succeeds(&run!("mkdir", "-p", image, "/a/b/c", "/d"));
    succeeds(&run!("truncate", "-s", "100k", image, "/a/f"));
    succeeds(&run!("mv", image, "/a/f", "/d"));
    succeeds(&run!("ln", image, "/d/f", "/g"));
    succeeds(&run!("ln", "-s", image, "d/f", "/s"));
    succeeds(&run!("chmod", image, "4711", "/g"));
    succeeds(&run!("chown", image, "12:34", "/g"));
    let listed = run!("--json", "ls", "-R", image);
    succeeds(&listed);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let entry = |path: &str| {
        let all = listed.as_array().expect("a list");
        all.iter().find(|entry| entry["path"] == path).expect(path)
    };
    for name in ["/g", "/d/f"] {
        let file = entry(name);
        assert_eq!(file["mode"], "104711");
        assert_eq!((&file["uid"], &file["gid"]), (&12.into(), &34.into()));
        assert_eq!(
            (&file["size"], &file["nlink"]),
            (&102_400.into(), &2.into())
        );
    }
    assert_eq!(entry("/s")["target"], "d/f");
    assert_eq!(entry("/a/b/c")["nlink"], 2);
    let not_empty = run!("mv", image, "/d", "/a/b/c", "/g");
    assert_eq!(
        not_empty.status.code(),
        Some(1),
        "{}",
        text(&not_empty.stderr)
    );
    let full = run!("rm", image, "/d");
    assert_eq!(full.status.code(), Some(1), "{}", text(&full.stderr));
    assert!(text(&full.stderr).ends_with("/d: Is a directory\n"));
    succeeds(&run!("check", image));
}

#[test]
fn the_root_is_not_removed_nor_anything_below_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &folder.path().join("disk.img");
    succeeds(&run!("mkfs", "--size", "8m", image));
    succeeds(&run!("mkdir", "-p", image, "/a/b"));
    for root in ["/", "/a/..", "/a/b/../.."] {
        let refused = run!("rm", "-r", image, root);
        assert_eq!(refused.status.code(), Some(1), "{root}");
        assert!(text(&refused.stderr).contains("the root of a volume cannot be removed"));
    }
    succeeds(&run!("ls", image, "/a/b"));
    succeeds(&run!("rm", "-r", image, "/a"));
}

#[test]
fn a_volume_that_cannot_be_made_leaves_no_file_behind_and_a_file_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &folder.path().join("disk.img");
    for impossible in [["--size", "10"].as_slice(), &["-b", "5000", "--size", "8m"]] {
        let words: Vec<&OsStr> = impossible.iter().map(OsStr::new).collect();
        let make = || rump_fs(&[&[OsStr::new("mkfs")], &words[..], &[image.as_os_str()]].concat());
        assert_eq!(make().status.code(), Some(1), "{impossible:?}");
        assert!(!image.exists(), "{impossible:?}");
        fs::write(image, b"something of value").expect("a file");
        assert_eq!(make().status.code(), Some(1), "{impossible:?}");
        assert_eq!(fs::read(image).expect("it is there"), b"something of value");
        fs::remove_file(image).expect("it is there");
    }
}

#[test]
fn a_shell_obeys_line_after_line_and_remembers_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &folder.path().join("disk.img");
    succeeds(&run!("mkfs", "--size", "8m", image));
    let shell = |lines: &str| {
        let lines_of = folder.path().join("lines");
        fs::write(&lines_of, lines).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
        command.arg("sh").arg(image);
        command.stdin(fs::File::open(&lines_of).expect("the file"));
        command.output().expect("rump_fs runs")
    };
    let lines = "mkdir -p 'with space/b'\ncd with\\ space\ntruncate -s 5 f\nmv f b\ncd b\npwd\nls\ncd ..\nls -R\nexit\nls /\n";
    let output = shell(lines);
    succeeds(&output);
    let said = text(&output.stdout).to_owned();
    assert!(said.contains("/with space/b\n"), "{said}");
    assert!(said.contains(".:\nb\n\n./b:\nf\n"), "{said}");
    succeeds(&run!("check", image));
    let output = shell("ls /nothing\nfrobnicate\nmkfs\n'open\npwd\n");
    assert_eq!(output.status.code(), Some(1));
    let complaints = text(&output.stderr);
    for word in ["/nothing: No such", "frobnicate", "not while", "quote"] {
        assert!(complaints.contains(word), "{word}: {complaints}");
    }
}

#[test]
fn an_image_that_is_too_small_says_so_and_stays_sound() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &folder.path().join("disk.img");
    let file = &folder.path().join("file");
    write_random(file, 6 << 20);
    succeeds(&run!("mkfs", "--size", "4m", image));
    let full = run!("put", image, file, "/");
    assert_eq!(full.status.code(), Some(1));
    assert!(
        text(&full.stderr).contains("No space left"),
        "{}",
        text(&full.stderr)
    );
    succeeds(&run!("check", image));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("f"), 4 << 20)
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
    command.arg("cat").arg(&disk.image).arg("/f");
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("rump_fs runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    succeeds(&output);
}

#[test]
fn spoiled_images_end_with_a_status_and_words_and_most_are_repaired() {
    let disk = Disk::of_everything(Format::VARIED[0]);
    let bytes = fs::read(&disk.image).expect("the image");
    let spoiler = Spoiler::new(&bytes);
    let mut repairs = 0;
    for seed in 0..24 {
        let mut spoiled = bytes.clone();
        let done = spoiler.spoil(&mut spoiled, &mut Random::new(seed));
        println!("SEED={seed}: {done}");
        fs::write(&disk.image, &spoiled).expect("the image");
        let tree = run!("tree", "--hash", "--largest", "16m", &disk.image);
        let check = run!("check", &disk.image);
        assert!(matches!(tree.status.code(), Some(0 | 1)), "{tree:?}");
        assert!(matches!(check.status.code(), Some(0 | 4 | 8)), "{check:?}");
        if check.status.code() == Some(4) {
            let repaired = run!("check", "--repair", &disk.image);
            if repaired.status.code() == Some(1) {
                succeeds(&run!("check", &disk.image));
                repairs += 1;
            }
        }
        let sound = tree.status.success();
        assert_eq!(sound, tree.stderr.is_empty(), "{}", text(&tree.stderr));
    }
    assert!(repairs > 5, "{repairs} were repaired");
}
