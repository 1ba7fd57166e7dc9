//! Who may do what.

use super::{is_there, put};
use crate::{Outcome, cases};
use alloc::vec::Vec;
use rump::fs::{self, File, OpenOptions};
use rump::sys::{self, Access, Cred};

/// From now on the process acts for user `uid` of group `gid`; the case's directory is everybody's.
fn become_user(uid: u32, gid: u32) -> Result<(), rump::Errno> {
    sys::chmod(b".", 0o777)?;
    sys::setcred(Cred {
        uid,
        gid,
        groups: Vec::new(),
    })
}

fn open_to_write(path: &str) -> Result<File, rump::Errno> {
    OpenOptions::new().write(true).open(path)
}

fn the_bits_of_the_class_that_one_is_in_decide() -> Outcome {
    for (path, mode) in [("owner", 0o077), ("group", 0o707), ("others", 0o770)] {
        fine!(put(path, b"text"));
        fine!(sys::chown(path.as_bytes(), Some(10), Some(20)));
        fine!(sys::chmod(path.as_bytes(), mode));
    }
    fine!(become_user(10, 99));
    fails!(File::open("owner"), EACCES);
    fails!(open_to_write("owner"), EACCES);
    fine!(File::open("group"));
    fine!(sys::setcred(Cred::root()));
    fine!(become_user(11, 20));
    fine!(File::open("owner"));
    fails!(File::open("group"), EACCES);
    fine!(sys::setcred(Cred::root()));
    fine!(become_user(11, 99));
    fine!(open_to_write("owner"));
    fails!(File::open("others"), EACCES);
    Ok(())
}

fn further_groups_count() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chown(b"f", Some(10), Some(20)));
    fine!(sys::chmod(b"f", 0o060));
    fine!(sys::chmod(b".", 0o777));
    fine!(sys::setcred(Cred {
        uid: 11,
        gid: 99,
        groups: [98, 20].into(),
    }));
    fine!(File::open("f"));
    fine!(open_to_write("f"));
    Ok(())
}

fn reading_and_writing_are_asked_for_apart() -> Outcome {
    fine!(put("readable", b""));
    fine!(put("writable", b""));
    fine!(sys::chmod(b"readable", 0o444));
    fine!(sys::chmod(b"writable", 0o222));
    fine!(become_user(10, 10));
    fine!(File::open("readable"));
    fails!(open_to_write("readable"), EACCES);
    fails!(sys::truncate(b"readable", 0), EACCES);
    fails!(File::open("writable"), EACCES);
    fine!(open_to_write("writable"));
    Ok(())
}

fn the_superuser_is_not_asked() -> Outcome {
    fine!(put("f", b"text"));
    fine!(sys::chmod(b"f", 0));
    fine!(fs::create_dir("d"));
    fine!(sys::chmod(b"d", 0));
    same!(fine!(fs::read("f")), b"text");
    fine!(put("d/f", b""));
    fine!(open_to_write("f"));
    Ok(())
}

fn a_name_is_looked_up_only_where_one_may_search() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("d/f", b""));
    fine!(sys::chmod(b"d", 0o744));
    fine!(become_user(10, 10));
    fails!(fs::metadata("d/f"), EACCES);
    fails!(File::open("d/f"), EACCES);
    fails!(sys::chdir(b"d"), EACCES);
    same!(fine!(super::names_in(b"d")), [b"f".to_vec()]);
    fine!(sys::setcred(Cred::root()));
    fine!(sys::chmod(b"d", 0o711));
    fine!(become_user(10, 10));
    fine!(fs::metadata("d/f"));
    fails!(fs::read_dir("d"), EACCES);
    Ok(())
}

fn names_change_only_where_one_may_write() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("d/f", b""));
    fine!(fs::create_dir("d/e"));
    fine!(fs::create_dir("mine"));
    fine!(sys::chown(b"mine", Some(10), None));
    fine!(become_user(10, 10));
    fails!(File::create("d/new"), EACCES);
    fails!(fs::create_dir("d/new"), EACCES);
    fails!(fs::symlink("x", "d/new"), EACCES);
    fails!(fs::remove_file("d/f"), EACCES);
    fails!(fs::remove_dir("d/e"), EACCES);
    fails!(fs::rename("d/f", "mine/f"), EACCES);
    fine!(put("mine/f", b""));
    fails!(fs::rename("mine/f", "d/g"), EACCES);
    fails!(sys::link(b"mine/f", b"d/g"), EACCES);
    holds!(is_there("d/f") && is_there("mine/f"));
    Ok(())
}

fn only_the_owner_changes_mode_times_and_flags() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chmod(b"f", 0o666));
    fine!(become_user(10, 10));
    fails!(sys::chmod(b"f", 0o777), EPERM);
    fails!(sys::chown(b"f", Some(10), None), EPERM);
    fails!(sys::chflags(b"f", 0), EPERM);
    let times = sys::Times {
        atime: Some(rump::WallTime::default()),
        mtime: None,
    };
    fails!(sys::utimens(b"f", Some(times)), EPERM);
    // Now is for whoever may write.
    fine!(sys::utimens(b"f", None));
    Ok(())
}

fn an_owner_gives_a_file_to_its_own_groups_alone() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chown(b"f", Some(10), Some(10)));
    fine!(sys::chmod(b".", 0o777));
    fine!(sys::setcred(Cred {
        uid: 10,
        gid: 10,
        groups: [20].into(),
    }));
    fine!(sys::chown(b"f", None, Some(20)));
    fails!(sys::chown(b"f", None, Some(30)), EPERM);
    fails!(sys::chown(b"f", Some(11), None), EPERM);
    same!(fine!(sys::stat(b"f")).attr.gid, 20);
    Ok(())
}

fn changing_the_owner_takes_set_id_bits_away() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chown(b"f", Some(10), Some(10)));
    fine!(sys::chmod(b"f", 0o6755));
    fine!(become_user(10, 10));
    fine!(sys::chown(b"f", None, Some(10)));
    same!(fine!(sys::stat(b"f")).attr.mode, 0o755);
    Ok(())
}

fn writing_takes_set_id_bits_away() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chmod(b"f", 0o6777));
    fine!(become_user(10, 10));
    fine!(fine!(open_to_write("f")).write(b"x"));
    same!(fine!(sys::stat(b"f")).attr.mode & 0o7000, 0);
    Ok(())
}

fn a_sticky_directory_keeps_everybodys_names_apart() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(sys::chmod(b"d", 0o1777));
    fine!(put("d/theirs", b""));
    fine!(become_user(10, 10));
    fine!(put("d/mine", b""));
    fails!(fs::remove_file("d/theirs"), EPERM);
    fails!(fs::rename("d/theirs", "d/x"), EPERM);
    fails!(fs::rename("d/mine", "d/theirs"), EPERM);
    fine!(fs::rename("d/mine", "d/still-mine"));
    fine!(fs::remove_file("d/still-mine"));
    Ok(())
}

fn access_tells_what_may_be_done() -> Outcome {
    fine!(put("f", b""));
    fine!(sys::chmod(b"f", 0o640));
    fine!(sys::access(b"f", Access::READ | Access::WRITE));
    fails!(sys::access(b"none", Access::READ), ENOENT);
    fine!(become_user(10, 10));
    fails!(sys::access(b"f", Access::READ), EACCES);
    fine!(sys::access(b"f", Access::empty()));
    Ok(())
}

fn a_new_file_is_its_makers_and_of_its_directorys_group() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(sys::chown(b"d", Some(10), Some(77)));
    fine!(become_user(10, 20));
    fine!(put("d/f", b""));
    fine!(fs::create_dir("d/e"));
    for path in [&b"d/f"[..], b"d/e"] {
        let facts = fine!(sys::stat(path)).attr;
        same!((facts.uid, facts.gid), (10, 77));
    }
    Ok(())
}

fn what_is_open_stays_so_when_the_mode_changes() -> Outcome {
    fine!(put("f", b"text"));
    fine!(sys::chmod(b"f", 0o666));
    fine!(become_user(10, 10));
    let file = fine!(File::open("f"));
    fine!(sys::setcred(Cred::root()));
    fine!(sys::chmod(b"f", 0));
    fine!(become_user(10, 10));
    same!(fine!(file.read(&mut [0; 8])), 4);
    fails!(File::open("f"), EACCES);
    Ok(())
}

cases!(
    the_bits_of_the_class_that_one_is_in_decide,
    further_groups_count,
    reading_and_writing_are_asked_for_apart,
    the_superuser_is_not_asked,
    a_name_is_looked_up_only_where_one_may_search,
    names_change_only_where_one_may_write,
    only_the_owner_changes_mode_times_and_flags,
    an_owner_gives_a_file_to_its_own_groups_alone,
    changing_the_owner_takes_set_id_bits_away,
    writing_takes_set_id_bits_away,
    a_sticky_directory_keeps_everybodys_names_apart,
    access_tells_what_may_be_done,
    a_new_file_is_its_makers_and_of_its_directorys_group,
    what_is_open_stays_so_when_the_mode_changes,
);
