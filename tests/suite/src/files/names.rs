//! Making and removing names: mkdir(2), rmdir(2), link(2), symlink(2), unlink(2), mknod(2), and how paths are read.

use super::{ino, is_there, links, names_in, put};
use crate::{Outcome, cases};
use alloc::format;
use alloc::string::String;
use rump::fs::{self, File, FileType, OpenOptions};
use rump::sys;

fn a_new_directory_has_two_links_and_knows_its_parent() -> Outcome {
    fine!(fs::create_dir("d"));
    same!(fine!(links("d")), 2);
    same!(fine!(links(".")), 3);
    same!(fine!(ino("d/.")), fine!(ino("d")));
    same!(fine!(ino("d/..")), fine!(ino(".")));
    fine!(fs::remove_dir("d"));
    same!(fine!(links(".")), 2);
    Ok(())
}

fn what_is_there_cannot_be_made_again() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("f", b""));
    fine!(fs::symlink("nowhere", "l"));
    for path in ["d", "f", "l", ".", "..", "/"] {
        fails!(fs::create_dir(path), EEXIST);
        fails!(fs::symlink("x", path), EEXIST);
        fails!(sys::link(b"f", path.as_bytes()), EEXIST);
    }
    Ok(())
}

fn a_parent_must_be_there_and_a_directory() -> Outcome {
    fine!(put("f", b""));
    for (path, expected) in [
        ("none/x", rump::Errno::ENOENT),
        ("f/x", rump::Errno::ENOTDIR),
    ] {
        same!(fs::create_dir(path), Err(expected));
        same!(fs::symlink("x", path), Err(expected));
        same!(sys::link(b"f", path.as_bytes()), Err(expected));
        same!(fs::remove_file(path), Err(expected));
        same!(fs::remove_dir(path), Err(expected));
        same!(sys::stat(path.as_bytes()).err(), Some(expected));
    }
    Ok(())
}

fn a_directory_that_is_not_empty_is_not_removed() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("d/f", b""));
    fails!(fs::remove_dir("d"), ENOTEMPTY);
    fine!(fs::remove_file("d/f"));
    fine!(fs::remove_dir("d"));
    fails!(fs::remove_dir("d"), ENOENT);
    Ok(())
}

fn dot_and_dotdot_are_not_removed() -> Outcome {
    fine!(fs::create_dir("d"));
    fails!(fs::remove_dir("d/."), EINVAL);
    // POSIX leaves open which error it is.
    holds!(fs::remove_dir("d/..").is_err());
    holds!(is_there("d"));
    Ok(())
}

fn rmdir_is_for_directories_and_unlink_for_the_rest() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("f", b""));
    fine!(fs::symlink("d", "l"));
    fails!(fs::remove_dir("f"), ENOTDIR);
    fails!(fs::remove_dir("l"), ENOTDIR);
    fails!(fs::remove_file("d"), EPERM);
    fine!(fs::remove_file("l"));
    holds!(is_there("d"));
    Ok(())
}

fn names_have_up_to_255_bytes() -> Outcome {
    let longest = "n".repeat(255);
    fine!(put(&longest, b"text"));
    same!(fine!(fs::read(&longest)), b"text");
    let longer = "n".repeat(256);
    fails!(File::create(&longer), ENAMETOOLONG);
    fails!(fs::create_dir(&longer), ENAMETOOLONG);
    fails!(sys::stat(longer.as_bytes()), ENAMETOOLONG);
    Ok(())
}

fn paths_have_up_to_1023_bytes() -> Outcome {
    fine!(put("f", b"text"));
    let path = format!("{}f", "./".repeat(511));
    same!(path.len(), 1023);
    same!(fine!(fs::read(&path)), b"text");
    fails!(fs::read(format!("/{path}")), ENAMETOOLONG);
    Ok(())
}

fn names_are_bytes_and_only_slash_and_nul_are_not_among_them() -> Outcome {
    for name in [&b"\xff\xfe"[..], b" ", b"a\nb", b"\\", b"*", b"..."] {
        let file = OpenOptions::new().write(true).create_new(true).open(name);
        fine!(file);
    }
    same!(fine!(names_in(b".")).len(), 6);
    fails!(File::create(b"a\0b"), EINVAL);
    fine!(put("A", b"large"));
    fine!(put("a", b"small"));
    same!(fine!(fs::read("A")), b"large");
    Ok(())
}

fn an_empty_path_is_enoent() -> Outcome {
    fails!(fs::metadata(""), ENOENT);
    fails!(File::create(""), ENOENT);
    fails!(fs::create_dir(""), ENOENT);
    fails!(fs::remove_dir(""), ENOENT);
    Ok(())
}

fn slashes_count_once_and_a_trailing_one_wants_a_directory() -> Outcome {
    fine!(fs::create_dir("d/"));
    fine!(put("d//f", b"text"));
    same!(fine!(fs::read(".///d/./f")), b"text");
    fine!(fs::metadata("d///"));
    fails!(fs::metadata("d/f/"), ENOTDIR);
    fails!(File::open("d/f/"), ENOTDIR);
    fails!(fs::remove_file("d/f/"), ENOTDIR);
    Ok(())
}

fn above_the_root_is_the_root() -> Outcome {
    same!(fine!(ino("/..")), fine!(ino("/")));
    same!(fine!(ino("/../../..")), fine!(ino("/")));
    Ok(())
}

fn a_hard_link_is_the_same_file() -> Outcome {
    fine!(put("a", b"one"));
    fine!(sys::link(b"a", b"b"));
    same!(fine!(ino("a")), fine!(ino("b")));
    same!(fine!(links("a")), 2);
    fine!(put("b", b"two"));
    same!(fine!(fs::read("a")), b"two");
    fine!(fs::remove_file("a"));
    same!(fine!(links("b")), 1);
    same!(fine!(fs::read("b")), b"two");
    Ok(())
}

fn a_directory_gets_no_second_name() -> Outcome {
    fine!(fs::create_dir("d"));
    fails!(sys::link(b"d", b"e"), EPERM);
    same!(fine!(links("d")), 2);
    Ok(())
}

fn a_file_system_is_not_left_by_link_or_rename() -> Outcome {
    fine!(put("f", b""));
    let elsewhere = match fine!(sys::stat(b".")).dev == fine!(sys::stat(b"/")).dev {
        true => "/ffs1/elsewhere",
        false => "/elsewhere",
    };
    fails!(sys::link(b"f", elsewhere.as_bytes()), EXDEV);
    fails!(fs::rename("f", elsewhere), EXDEV);
    holds!(is_there("f"));
    Ok(())
}

fn symbolic_links_are_followed_and_can_be_looked_at() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("d/f", b"text"));
    fine!(fs::symlink("d", "l"));
    fine!(fs::symlink("l/f", "m"));
    same!(fine!(fs::read("m")), b"text");
    same!(fine!(fs::read_link("m")), b"l/f");
    let link = fine!(fs::symlink_metadata("m"));
    same!((link.file_type(), link.len()), (FileType::Lnk, 3));
    holds!(fine!(fs::metadata("m")).is_file());
    fails!(fs::read_link("d"), EINVAL);
    fails!(fs::read_link("d/f"), EINVAL);
    Ok(())
}

fn a_symbolic_link_has_up_to_1023_bytes() -> Outcome {
    for length in [1, 59, 60, 61, 119, 120, 121, 512, 1023] {
        let target = "t".repeat(length);
        let link = format!("l{length}");
        fine!(fs::symlink(&target, &link));
        same!(fine!(fs::read_link(&link)), target.as_bytes());
    }
    fails!(fs::symlink("t".repeat(1024), "l"), ENAMETOOLONG);
    fails!(fs::symlink("", "l"), ENOENT);
    Ok(())
}

fn links_in_a_circle_are_eloop_and_32_in_a_row_are_not() -> Outcome {
    fine!(fs::symlink("b", "a"));
    fine!(fs::symlink("a", "b"));
    fails!(fs::metadata("a"), ELOOP);
    fails!(File::open("a"), ELOOP);
    fails!(fs::metadata("a/x"), ELOOP);
    fine!(put("l0", b"text"));
    for n in 1..=33 {
        fine!(fs::symlink(format!("l{}", n - 1), format!("l{n}")));
    }
    same!(fine!(fs::read("l32")), b"text");
    fails!(fs::read("l33"), ELOOP);
    Ok(())
}

fn a_link_to_nothing_is_enoent_and_creating_makes_its_target() -> Outcome {
    fine!(fs::symlink("target", "l"));
    fails!(fs::metadata("l"), ENOENT);
    let exclusive = OpenOptions::new().write(true).create_new(true).open("l");
    fails!(exclusive, EEXIST);
    fine!(put("l", b"text"));
    same!(fine!(fs::read("target")), b"text");
    same!(fine!(fs::read_link("l")), b"target");
    Ok(())
}

fn an_absolute_link_starts_at_the_root() -> Outcome {
    fine!(fs::symlink("/", "root"));
    same!(fine!(sys::stat(b"root/")).attr.fileid, fine!(ino("/")));
    same!(fine!(sys::stat(b"root/..")).attr.fileid, fine!(ino("/")));
    Ok(())
}

fn nodes_are_made_and_keep_their_kind_and_number() -> Outcome {
    fine!(sys::mknod(b"fifo", FileType::Fifo, 0o600, 0));
    fine!(sys::mknod(b"device", FileType::Chr, 0o600, 0x0203));
    same!(fine!(sys::stat(b"fifo")).attr.vtype, FileType::Fifo);
    let device = fine!(sys::stat(b"device")).attr;
    same!((device.vtype, device.rdev), (FileType::Chr, 0x0203));
    fails!(File::open("fifo"), EOPNOTSUPP);
    fails!(File::open("device"), ENXIO);
    fails!(sys::mknod(b"fifo", FileType::Fifo, 0o600, 0), EEXIST);
    Ok(())
}

fn a_removed_working_directory_has_nothing_and_takes_nothing() -> Outcome {
    fine!(fs::create_dir("d"));
    let parent = fine!(sys::open(b".", sys::OpenFlags::READ, 0));
    fine!(sys::chdir(b"d"));
    fine!(fs::remove_dir("../d"));
    fails!(File::create("f"), ENOENT);
    fails!(fs::create_dir("e"), ENOENT);
    fails!(fs::metadata("f"), ENOENT);
    fine!(sys::fchdir(parent));
    holds!(!is_there("d"));
    Ok(())
}

fn deep_trees_are_walked_down_and_up() -> Outcome {
    let mut path = String::from(".");
    for _ in 0..60 {
        path.push_str("/deeper");
        fine!(fs::create_dir(&path));
    }
    fine!(put(&format!("{path}/f"), b"text"));
    let up = format!("{path}{}", "/..".repeat(60));
    same!(fine!(ino(&up)), fine!(ino(".")));
    Ok(())
}

cases!(
    a_new_directory_has_two_links_and_knows_its_parent,
    what_is_there_cannot_be_made_again,
    a_parent_must_be_there_and_a_directory,
    a_directory_that_is_not_empty_is_not_removed,
    dot_and_dotdot_are_not_removed,
    rmdir_is_for_directories_and_unlink_for_the_rest,
    names_have_up_to_255_bytes,
    paths_have_up_to_1023_bytes,
    names_are_bytes_and_only_slash_and_nul_are_not_among_them,
    an_empty_path_is_enoent,
    slashes_count_once_and_a_trailing_one_wants_a_directory,
    above_the_root_is_the_root,
    a_hard_link_is_the_same_file,
    a_directory_gets_no_second_name,
    a_file_system_is_not_left_by_link_or_rename,
    symbolic_links_are_followed_and_can_be_looked_at,
    a_symbolic_link_has_up_to_1023_bytes,
    links_in_a_circle_are_eloop_and_32_in_a_row_are_not,
    a_link_to_nothing_is_enoent_and_creating_makes_its_target,
    an_absolute_link_starts_at_the_root,
    nodes_are_made_and_keep_their_kind_and_number,
    a_removed_working_directory_has_nothing_and_takes_nothing,
    deep_trees_are_walked_down_and_up,
);
