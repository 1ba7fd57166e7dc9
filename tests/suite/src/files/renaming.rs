//! rename(2), every case of it.

use super::{ino, is_there, links, names_in, put};
use crate::{Outcome, cases};
use rump::fs::{self, File};
use rump::sys;

fn a_renamed_file_keeps_its_inode_and_contents() -> Outcome {
    fine!(put("a", b"text"));
    let was = fine!(ino("a"));
    fine!(fs::rename("a", "b"));
    holds!(!is_there("a"));
    same!(fine!(ino("b")), was);
    same!(fine!(fs::read("b")), b"text");
    same!(fine!(links("b")), 1);
    Ok(())
}

fn rename_over_a_file_replaces_it() -> Outcome {
    fine!(put("a", b"new"));
    fine!(put("b", b"the old one"));
    fine!(fs::rename("a", "b"));
    same!(fine!(names_in(b".")), [b"b".to_vec()]);
    same!(fine!(fs::read("b")), b"new");
    Ok(())
}

fn rename_onto_itself_does_nothing() -> Outcome {
    fine!(put("a", b"text"));
    fine!(fs::rename("a", "a"));
    fine!(fs::rename("a", "./a"));
    same!(fine!(fs::read("a")), b"text");
    fine!(fs::create_dir("d"));
    fine!(fs::rename("d", "d"));
    holds!(is_there("d"));
    Ok(())
}

fn rename_between_two_names_of_one_file_leaves_both() -> Outcome {
    fine!(put("a", b"text"));
    fine!(sys::link(b"a", b"b"));
    fine!(fs::rename("a", "b"));
    same!(fine!(fs::read("a")), b"text");
    same!(fine!(fs::read("b")), b"text");
    same!(fine!(links("b")), 2);
    Ok(())
}

fn rename_into_another_directory_moves_the_name() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("a", b"text"));
    fine!(fs::rename("a", "d/b"));
    same!(fine!(names_in(b".")), [b"d".to_vec()]);
    same!(fine!(fs::read("d/b")), b"text");
    Ok(())
}

fn rename_over_an_empty_directory_replaces_it() -> Outcome {
    fine!(fs::create_dir("a"));
    fine!(put("a/file", b""));
    fine!(fs::create_dir("b"));
    let was = fine!(ino("a"));
    fine!(fs::rename("a", "b"));
    same!(fine!(ino("b")), was);
    same!(fine!(names_in(b"b")), [b"file".to_vec()]);
    same!(fine!(links(".")), 3);
    Ok(())
}

fn rename_over_nonempty_directory_is_enotempty() -> Outcome {
    fine!(fs::create_dir("a"));
    fine!(fs::create_dir("b"));
    fine!(put("b/file", b""));
    fails!(fs::rename("a", "b"), ENOTEMPTY);
    holds!(is_there("a") && is_there("b/file"));
    Ok(())
}

fn rename_of_a_directory_over_a_file_is_enotdir() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("f", b"text"));
    fails!(fs::rename("d", "f"), ENOTDIR);
    same!(fine!(fs::read("f")), b"text");
    Ok(())
}

fn rename_of_a_file_over_a_directory_is_eisdir() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("f", b"text"));
    fails!(fs::rename("f", "d"), EISDIR);
    same!(fine!(fs::read("f")), b"text");
    Ok(())
}

fn rename_of_a_directory_below_itself_is_einval() -> Outcome {
    fine!(fs::create_dir("a"));
    fine!(fs::create_dir("a/b"));
    fine!(fs::create_dir("a/b/c"));
    fails!(fs::rename("a", "a/d"), EINVAL);
    fails!(fs::rename("a", "a/b/c/d"), EINVAL);
    fails!(fs::rename("a", "a/b"), EINVAL);
    holds!(is_there("a/b/c"));
    Ok(())
}

fn rename_of_a_directory_over_its_own_parent_is_refused() -> Outcome {
    fine!(fs::create_dir("a"));
    fine!(fs::create_dir("a/b"));
    fails!(fs::rename("a/b", "a"), ENOTEMPTY);
    holds!(is_there("a/b"));
    Ok(())
}

fn rename_of_dot_and_dotdot_is_einval() -> Outcome {
    fine!(fs::create_dir("d"));
    fails!(fs::rename("d/.", "e"), EINVAL);
    fails!(fs::rename("d/..", "e"), EINVAL);
    fails!(fs::rename("d", "."), EINVAL);
    holds!(is_there("d") && !is_there("e"));
    Ok(())
}

fn a_moved_directory_has_a_new_parent_and_link_counts_follow() -> Outcome {
    for path in ["from", "to", "from/d"] {
        fine!(fs::create_dir(path));
    }
    same!((fine!(links("from")), fine!(links("to"))), (3, 2));
    fine!(fs::rename("from/d", "to/d"));
    same!((fine!(links("from")), fine!(links("to"))), (2, 3));
    same!(fine!(ino("to/d/..")), fine!(ino("to")));
    fine!(fs::remove_dir("from"));
    Ok(())
}

fn rename_of_what_is_not_there_is_enoent() -> Outcome {
    fine!(put("f", b""));
    fails!(fs::rename("none", "a"), ENOENT);
    fails!(fs::rename("f", "none/a"), ENOENT);
    fails!(fs::rename("", "a"), ENOENT);
    fails!(fs::rename("f", ""), ENOENT);
    fails!(fs::rename("f/a", "b"), ENOTDIR);
    fails!(fs::rename("f", "f/b"), ENOTDIR);
    Ok(())
}

fn rename_of_a_symbolic_link_moves_the_link() -> Outcome {
    fine!(put("f", b"text"));
    fine!(fs::symlink("f", "l"));
    fine!(fs::rename("l", "m"));
    same!(fine!(fs::read_link("m")), b"f");
    fine!(put("other", b"other"));
    fine!(fs::rename("other", "m"));
    same!(fine!(fs::read("m")), b"other");
    same!(fine!(fs::read("f")), b"text");
    Ok(())
}

fn a_file_that_is_renamed_over_lives_while_it_is_open() -> Outcome {
    fine!(put("a", b"new"));
    fine!(put("b", b"old"));
    let old = fine!(File::open("b"));
    fine!(fs::rename("a", "b"));
    let mut text = [0; 8];
    same!(fine!(old.read(&mut text)), 3);
    same!(text[..3], *b"old");
    same!(fine!(old.metadata()).stat().attr.nlink, 0);
    Ok(())
}

fn a_directory_may_be_named_with_a_slash_behind_and_a_file_may_not() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("f", b""));
    fine!(fs::rename("d/", "e/"));
    holds!(is_there("e"));
    fails!(fs::rename("f/", "g"), ENOTDIR);
    fails!(fs::rename("f", "g/"), ENOTDIR);
    holds!(is_there("f"));
    Ok(())
}

fn a_new_name_that_is_too_long_is_enametoolong() -> Outcome {
    fine!(put("f", b""));
    fails!(fs::rename("f", "x".repeat(256)), ENAMETOOLONG);
    let longest = "x".repeat(255);
    fine!(fs::rename("f", &longest));
    holds!(is_there(&longest));
    Ok(())
}

fn a_rename_changes_the_times_of_both_directories() -> Outcome {
    fine!(fs::create_dir("a"));
    fine!(fs::create_dir("b"));
    fine!(put("a/f", b""));
    let long_ago = rump::WallTime {
        seconds: 1,
        nanos: 0,
    };
    let times = sys::Times {
        atime: None,
        mtime: Some(long_ago),
    };
    fine!(sys::utimens(b"a", Some(times)));
    fine!(sys::utimens(b"b", Some(times)));
    fine!(fs::rename("a/f", "b/f"));
    for path in ["a", "b"] {
        holds!(fine!(fs::metadata(path)).modified() > long_ago);
    }
    Ok(())
}

cases!(
    a_renamed_file_keeps_its_inode_and_contents,
    rename_over_a_file_replaces_it,
    rename_onto_itself_does_nothing,
    rename_between_two_names_of_one_file_leaves_both,
    rename_into_another_directory_moves_the_name,
    rename_over_an_empty_directory_replaces_it,
    rename_over_nonempty_directory_is_enotempty,
    rename_of_a_directory_over_a_file_is_enotdir,
    rename_of_a_file_over_a_directory_is_eisdir,
    rename_of_a_directory_below_itself_is_einval,
    rename_of_a_directory_over_its_own_parent_is_refused,
    rename_of_dot_and_dotdot_is_einval,
    a_moved_directory_has_a_new_parent_and_link_counts_follow,
    rename_of_what_is_not_there_is_enoent,
    rename_of_a_symbolic_link_moves_the_link,
    a_file_that_is_renamed_over_lives_while_it_is_open,
    a_directory_may_be_named_with_a_slash_behind_and_a_file_may_not,
    a_new_name_that_is_too_long_is_enametoolong,
    a_rename_changes_the_times_of_both_directories,
);
