//! Modes, owners, times, and how full a volume is.

use super::put;
use crate::{Outcome, cases};
use core::time::Duration;
use rump::fs::{self, File, FileType, OpenOptions};
use rump::sys::{self, Times};
use rump::{WallTime, thread};

const LONG_AGO: WallTime = WallTime {
    seconds: 1_000_000,
    nanos: 0,
};

/// The clock moves on by so much that a time shows it.
fn wait() {
    thread::sleep(Duration::from_millis(5));
}

fn attributes(path: &str) -> Result<sys::Vattr, rump::Errno> {
    Ok(sys::lstat(path.as_bytes())?.attr)
}

/// Sets both times of a file to [`LONG_AGO`].
fn age(path: &str) -> Result<(), rump::Errno> {
    let times = Times {
        atime: Some(LONG_AGO),
        mtime: Some(LONG_AGO),
    };
    sys::utimens(path.as_bytes(), Some(times))
}

fn a_new_file_has_the_mode_that_was_asked_for_less_the_umask() -> Outcome {
    let mask = sys::umask(0o027);
    fine!(mask);
    let options = OpenOptions::new().write(true).create(true);
    fine!(options.open("f"));
    fine!(options.mode(0o4711).open("g"));
    fine!(fs::create_dir("d"));
    fine!(sys::mknod(b"p", FileType::Fifo, 0o666, 0));
    let mode = |path| attributes(path).map(|facts| facts.mode);
    same!(fine!(mode("f")), 0o640);
    same!(fine!(mode("g")), 0o4710);
    same!(fine!(mode("d")), 0o750);
    same!(fine!(mode("p")), 0o640);
    same!(fine!(sys::umask(0o022)), 0o027);
    Ok(())
}

fn chmod_sets_every_bit_and_the_time_of_the_change() -> Outcome {
    fine!(put("f", b""));
    let before = fine!(attributes("f"));
    wait();
    for mode in [0, 0o7777, 0o644] {
        fine!(sys::chmod(b"f", mode));
        same!(fine!(attributes("f")).mode, mode);
    }
    let after = fine!(attributes("f"));
    holds!(after.ctime > before.ctime);
    same!(after.mtime, before.mtime);
    fails!(sys::chmod(b"none", 0), ENOENT);
    Ok(())
}

fn chown_sets_what_it_is_told_and_leaves_the_rest() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chown(b"f", Some(100), Some(200)));
    fine!(sys::chown(b"f", None, Some(201)));
    fine!(sys::chown(b"f", Some(101), None));
    let facts = fine!(attributes("f"));
    same!((facts.uid, facts.gid), (101, 201));
    Ok(())
}

fn chmod_and_chown_follow_a_link_and_lchown_does_not() -> Outcome {
    fine!(put("f", b""));
    fine!(fs::symlink("f", "l"));
    fine!(sys::chmod(b"l", 0o600));
    fine!(sys::chown(b"l", Some(5), None));
    fine!(sys::lchown(b"l", Some(6), None));
    let file = fine!(attributes("f"));
    same!((file.mode, file.uid), (0o600, 5));
    same!(fine!(attributes("l")).uid, 6);
    Ok(())
}

fn times_are_set_to_the_nanosecond_or_microsecond() -> Outcome {
    fine!(put("f", b""));
    let times = Times {
        atime: Some(WallTime {
            seconds: 123_456_789,
            nanos: 987_654_000,
        }),
        mtime: Some(LONG_AGO),
    };
    fine!(sys::utimens(b"f", Some(times)));
    let facts = fine!(attributes("f"));
    same!(
        (Some(facts.atime), Some(facts.mtime)),
        (times.atime, times.mtime)
    );
    let one = Times {
        atime: None,
        mtime: Some(WallTime::default()),
    };
    fine!(sys::utimens(b"f", Some(one)));
    same!(Some(fine!(attributes("f")).atime), times.atime);
    Ok(())
}

fn times_without_times_are_now() -> Outcome {
    fine!(put("f", b""));
    fine!(age("f"));
    fine!(sys::utimens(b"f", None));
    let facts = fine!(attributes("f"));
    holds!(facts.mtime > LONG_AGO && facts.atime > LONG_AGO);
    Ok(())
}

fn writing_changes_the_time_and_reading_does_not() -> Outcome {
    fine!(put("f", b"text"));
    fine!(age("f"));
    let before = fine!(attributes("f"));
    same!(fine!(fs::read("f")), b"text");
    same!(fine!(attributes("f")).mtime, LONG_AGO);
    let file = fine!(OpenOptions::new().write(true).open("f"));
    same!(fine!(attributes("f")).mtime, LONG_AGO);
    wait();
    fine!(file.write(b"x"));
    let after = fine!(attributes("f"));
    holds!(after.mtime > LONG_AGO && after.ctime > before.ctime);
    fine!(age("f"));
    fine!(file.set_len(2));
    holds!(fine!(attributes("f")).mtime > LONG_AGO);
    Ok(())
}

fn names_that_come_and_go_change_the_time_of_their_directory() -> Outcome {
    fine!(fs::create_dir("d"));
    let check = |what: &dyn Fn() -> Result<(), rump::Errno>| {
        age("d")?;
        what()?;
        attributes("d").map(|facts| facts.mtime > LONG_AGO)
    };
    holds!(fine!(check(&|| put("d/f", b""))));
    holds!(fine!(check(&|| sys::link(b"d/f", b"d/g"))));
    holds!(fine!(check(&|| fs::remove_file("d/g"))));
    holds!(fine!(check(&|| fs::create_dir("d/e"))));
    holds!(fine!(check(&|| fs::remove_dir("d/e"))));
    holds!(!fine!(check(&|| put("d/f", b"only the file changes"))));
    Ok(())
}

fn a_second_name_changes_the_time_of_the_file() -> Outcome {
    fine!(put("f", b""));
    let before = fine!(attributes("f"));
    wait();
    fine!(sys::link(b"f", b"g"));
    let linked = fine!(attributes("f"));
    holds!(linked.ctime > before.ctime);
    same!(linked.mtime, before.mtime);
    wait();
    fine!(fs::remove_file("g"));
    holds!(fine!(attributes("f")).ctime > linked.ctime);
    Ok(())
}

fn fstat_stat_and_lstat_agree() -> Outcome {
    fine!(put("f", b"text"));
    let by_name = fine!(sys::stat(b"f"));
    same!(fine!(sys::lstat(b"f")), by_name);
    same!(*fine!(fine!(File::open("f")).metadata()).stat(), by_name);
    let facts = by_name.attr;
    same!(
        (facts.vtype, facts.size, facts.nlink),
        (FileType::Reg, 4, 1)
    );
    holds!(facts.bytes >= 4 && facts.blocksize >= 4096);
    Ok(())
}

fn statvfs_counts_down_and_up() -> Outcome {
    let before = fine!(sys::statvfs(b"."));
    same!(before.namemax, 255);
    holds!(before.frsize.is_power_of_two() && before.bsize >= before.frsize);
    holds!(before.bfree <= before.blocks && before.bavail <= before.bfree);
    holds!(before.ffree <= before.files && !before.read_only);
    fine!(put("f", &super::pattern(0, 200_000)));
    fine!(sys::sync());
    let with = fine!(sys::statvfs(b"f"));
    same!(with.ffree, before.ffree - 1);
    holds!(with.bfree <= before.bfree - 200_000 / before.frsize);
    fine!(fs::remove_file("f"));
    let after = fine!(sys::statvfs(b"."));
    same!((after.bfree, after.ffree), (before.bfree, before.ffree));
    Ok(())
}

fn immutable_files_stay_as_they_are() -> Outcome {
    fine!(put("f", b"text"));
    fine!(sys::chflags(b"f", sys::UF_IMMUTABLE));
    same!(fine!(attributes("f")).flags, sys::UF_IMMUTABLE);
    fails!(OpenOptions::new().write(true).open("f"), EPERM);
    fails!(sys::truncate(b"f", 0), EPERM);
    fails!(sys::chmod(b"f", 0), EPERM);
    fails!(fs::remove_file("f"), EPERM);
    fails!(fs::rename("f", "g"), EPERM);
    fine!(sys::chflags(b"f", 0));
    fine!(fs::remove_file("f"));
    Ok(())
}

cases!(
    a_new_file_has_the_mode_that_was_asked_for_less_the_umask,
    chmod_sets_every_bit_and_the_time_of_the_change,
    chown_sets_what_it_is_told_and_leaves_the_rest,
    chmod_and_chown_follow_a_link_and_lchown_does_not,
    times_are_set_to_the_nanosecond_or_microsecond,
    times_without_times_are_now,
    writing_changes_the_time_and_reading_does_not,
    names_that_come_and_go_change_the_time_of_their_directory,
    a_second_name_changes_the_time_of_the_file,
    fstat_stat_and_lstat_agree,
    statvfs_counts_down_and_up,
    immutable_files_stay_as_they_are,
);
