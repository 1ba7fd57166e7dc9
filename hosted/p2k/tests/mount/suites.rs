//! Suites that nobody here wrote, on a mount of UFS1 and of UFS2; a check finds nothing afterwards.
//!
//! What does not apply is listed, with reasons, in the README.

use crate::mounted::{Mounted, run};
use rump_tests::setup;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// pjdfstest, crates.io: what POSIX says of file names, modes, owners and times.
fn pjdfstest(version: u8, options: &str) {
    /// All that the suite has, less what needs a remount (`allow_remount`: mount(8) would want the program installed), a second file
    /// system, and a limit for links that pathconf(3) does not tell for FUSE.
    const LEAST_PASSED: u32 = 384;
    let options = format!("allow_other,dev,suid{options}");
    let Some(mounted) = Mounted::new(version, 64, &options) else {
        return;
    };
    let suite = setup::cargo_program("pjdfstest", "0.2.2");
    let config = mounted.dir().with_file_name("pjdfstest.toml");
    let text = "[features]\nutimensat = {}\nutime_now = {}\nrename_ctime = {}\nposix_fallocate = {}\n\
                [settings]\nnaptime = 0.001\nallow_remount = false\n\
                [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n";
    fs::write(&config, text).expect("a file");
    for dir in [mounted.dir(), mounted.image().with_file_name("")] {
        // Its users have to get there.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("a mode");
    }
    let second = tempfile::tempdir().expect("a folder");
    let output = Command::new(suite)
        .arg("-c")
        .arg(&config)
        .arg("-s")
        .arg(second.path())
        .arg("-p")
        .arg(mounted.dir())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<_> = told
        .lines()
        .filter_map(|line| line.strip_suffix("FAILED"))
        .map(str::trim)
        .collect();
    // The times of UFS1 end in 2038.
    let expected: &[&str] = match version {
        1 => &["utimensat::y2038"],
        _ => &[],
    };
    assert_eq!(failed, expected, "{told}");
    let summary = told.lines().find(|line| line.starts_with("Summary: "));
    let summary = summary.expect("a summary");
    let passed = summary
        .split(", ")
        .find_map(|part| part.strip_suffix(" passed"))
        .and_then(|count| count.parse::<u32>().ok());
    let least = LEAST_PASSED - expected.len() as u32;
    assert!(passed >= Some(least), "{told}");
    mounted.end();
}

#[test]
fn pjdfstest_passes_on_ufs1() {
    pjdfstest(1, "");
}

#[test]
fn pjdfstest_passes_on_ufs2() {
    pjdfstest(2, "");
}

#[test]
fn pjdfstest_passes_on_ufs1_with_a_log() {
    pjdfstest(1, ",log");
}

#[test]
fn pjdfstest_passes_on_ufs2_with_a_log() {
    pjdfstest(2, ",log");
}

/// fsx, crates.io: one file, read, written, mapped, cut and extended at random, against a copy in memory. `FSX_OPERATIONS` says how much.
fn fsx(version: u8, seed: u32, options: &str) {
    let operations = std::env::var("FSX_OPERATIONS").unwrap_or_else(|_| "20000".into());
    let Some(mounted) = Mounted::new(version, 64, options) else {
        return;
    };
    let suite = setup::cargo_program("fsx", "0.3.2");
    let config = mounted.dir().with_file_name("fsx.toml");
    let text = "[weights]\nclose_open = 0.5\ninvalidate = 0.5\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = 0.2\n\
                sendfile = 1\nposix_fadvise = 0.2\ncopy_file_range = 1\n";
    fs::write(&config, text).expect("a file");
    println!("fsx: seed {seed}, {operations} operations");
    run(Command::new(suite)
        .arg("-f")
        .arg(&config)
        .args(["-N", &operations, "-S", &seed.to_string(), "-P"])
        .arg(mounted.dir().with_file_name(""))
        .arg(mounted.path("fsx")));
    mounted.end();
}

#[test]
fn fsx_finds_no_wrong_byte_on_ufs1() {
    fsx(1, 1, "rw");
}

#[test]
fn fsx_finds_no_wrong_byte_on_ufs2() {
    fsx(2, 2, "rw");
}

#[test]
fn fsx_finds_no_wrong_byte_on_ufs1_with_a_log() {
    fsx(1, 3, "rw,log");
}

#[test]
fn fsx_finds_no_wrong_byte_on_ufs2_with_a_log() {
    fsx(2, 4, "rw,log");
}

/// Of stress-ng's stressors those of names and attributes.
const STRESSORS_OF_NAMES: [&str; 20] = [
    "dir",
    "dirdeep",
    "dirmany",
    "dentry",
    "rename",
    "link",
    "symlink",
    "filename",
    "open",
    "hdd",
    "seek",
    "iomix",
    "chmod",
    "chown",
    "utime",
    "touch",
    "getdent",
    "mknod",
    "sync-file",
    "flock",
];

/// Those of open files and of what Linux itself keeps of a mount: locks, leases, events.
const STRESSORS_OF_FILES: [&str; 21] = [
    "access",
    "aio",
    "aiol",
    "chdir",
    "copy-file",
    "dnotify",
    "dup",
    "fcntl",
    "file-ioctl",
    "fsize",
    "fstat",
    "inotify",
    "ioprio",
    "lease",
    "locka",
    "lockf",
    "lockofd",
    "msync",
    "readahead",
    "revio",
    "sendfile",
];

/// stress-ng, Debian: its file-system stressors, each checking what it did, many at once.
fn stress_ng(version: u8) {
    let Some(mounted) = Mounted::new(version, 256, "allow_other,dev,suid") else {
        return;
    };
    setup::need(&["stress-ng"]);
    let limits = [
        ["--hdd-bytes", "8m"],
        ["--seek-size", "4m"],
        ["--iomix-bytes", "8m"],
        ["--dentry-ops", "2000"],
        ["--dir-ops", "4000"],
        ["--dirdeep-inodes", "1000"],
        ["--chdir-dirs", "256"],
        ["--copy-file-bytes", "128m"],
        ["--fstat-dir", "."],
        ["--readahead-bytes", "8m"],
        ["--revio-bytes", "8m"],
    ];
    for stressors in [&STRESSORS_OF_NAMES[..], &STRESSORS_OF_FILES] {
        let mut command = Command::new("stress-ng");
        command.args(["--verify", "--timeout", "4", "--temp-path", "."]);
        for stressor in stressors {
            command.args([&format!("--{stressor}"), "1"]);
        }
        command.args(limits.as_flattened());
        run(command.current_dir(mounted.dir()));
    }
    mounted.end();
}

#[test]
fn stress_ng_verifies_on_ufs1() {
    stress_ng(1);
}

#[test]
fn stress_ng_verifies_on_ufs2() {
    stress_ng(2);
}

/// fio, Debian: random reads and writes of all sizes by two jobs, every block with its sum.
fn fio(version: u8) {
    let Some(mounted) = Mounted::new(version, 128, "rw") else {
        return;
    };
    setup::need(&["fio"]);
    for engine in ["psync", "mmap"] {
        run(Command::new("fio")
            .args([
                "--name=verify",
                "--rw=randrw",
                "--bsrange=512-128k",
                "--size=12m",
                "--numjobs=2",
            ])
            .args([
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--verify_backlog=64",
            ])
            .arg(format!("--ioengine={engine}"))
            .current_dir(mounted.dir()));
        for file in fs::read_dir(mounted.dir()).expect("a directory") {
            fs::remove_file(file.expect("an entry").path()).expect("it can be removed");
        }
    }
    mounted.end();
}

#[test]
fn fio_reads_every_sum_that_it_wrote_on_ufs1() {
    fio(1);
}

#[test]
fn fio_reads_every_sum_that_it_wrote_on_ufs2() {
    fio(2);
}

/// sqlite3, Debian: a database, with either of its journals, whole after many changes.
fn sqlite(version: u8) {
    let Some(mounted) = Mounted::new(version, 64, "rw") else {
        return;
    };
    setup::need(&["sqlite3"]);
    for journal in ["delete", "wal"] {
        let script = format!(
            "pragma journal_mode={journal}; create table t(a integer primary key, b text); \
             with recursive c(x) as (select 1 union all select x+1 from c where x<5000) \
             insert into t select x, hex(randomblob(50)) from c; create index i on t(b); \
             update t set b=hex(randomblob(60)) where a%3=0; delete from t where a%7=0; vacuum; \
             pragma integrity_check; select count(*) from t;"
        );
        let database = mounted.path(journal);
        let told = run(Command::new("sqlite3").arg(&database).arg(script));
        assert_eq!(told, format!("{journal}\nok\n4286\n"));
    }
    mounted.end();
}

#[test]
fn sqlite_finds_its_database_whole_on_ufs1() {
    sqlite(1);
}

#[test]
fn sqlite_finds_its_database_whole_on_ufs2() {
    sqlite(2);
}
