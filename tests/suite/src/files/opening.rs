//! open(2) and its flags, descriptors and close(2).

use super::{is_there, put};
use crate::{Outcome, cases};
use alloc::vec::Vec;
use rump::fs::{self, File, OpenOptions};
use rump::sys::{self, OpenFlags};

fn create_makes_a_file_and_opens_one_that_is_there() -> Outcome {
    let make = OpenOptions::new().write(true).create(true);
    fine!(fine!(make.open("f")).write(b"text"));
    let again = fine!(make.open("f"));
    same!(fine!(again.metadata()).len(), 4);
    Ok(())
}

fn create_new_is_eexist_for_whatever_is_there() -> Outcome {
    fine!(put("f", b"text"));
    fine!(fs::create_dir("d"));
    fine!(fs::symlink("nowhere", "l"));
    let new = OpenOptions::new().write(true).create_new(true);
    for path in ["f", "d", "l", "."] {
        fails!(new.open(path), EEXIST);
    }
    same!(fine!(fs::read("f")), b"text");
    holds!(!is_there("nowhere"));
    Ok(())
}

fn truncate_cuts_the_file_to_nothing_and_nothing_else() -> Outcome {
    fine!(put("f", b"text"));
    fine!(sys::chmod(b"f", 0o604));
    let cut = OpenOptions::new().write(true).truncate(true);
    fine!(cut.open("f"));
    let facts = fine!(sys::stat(b"f")).attr;
    same!((facts.size, facts.mode), (0, 0o604));
    fails!(cut.open("none"), ENOENT);
    Ok(())
}

fn appended_bytes_go_to_the_end_whoever_writes() -> Outcome {
    let append = OpenOptions::new().append(true).create(true);
    let (one, two) = (fine!(append.open("f")), fine!(append.open("f")));
    fine!(one.write(b"one"));
    fine!(two.write(b"two"));
    fine!(one.write(b"three"));
    same!(fine!(fs::read("f")), b"onetwothree");
    Ok(())
}

fn a_directory_is_opened_to_read_alone() -> Outcome {
    fine!(fs::create_dir("d"));
    let directory = fine!(File::open("d"));
    fails!(directory.read(&mut [0; 8]), EISDIR);
    fails!(OpenOptions::new().write(true).open("d"), EISDIR);
    let both = OpenOptions::new().read(true).write(true);
    fails!(both.open("d"), EISDIR);
    fails!(both.create(true).open("d"), EISDIR);
    Ok(())
}

fn o_directory_wants_a_directory() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("f", b""));
    let flags = OpenFlags::READ | OpenFlags::DIRECTORY;
    fine!(sys::close(fine!(sys::open(b"d", flags, 0))));
    fails!(sys::open(b"f", flags, 0), ENOTDIR);
    Ok(())
}

fn o_nofollow_does_not_follow_the_last_name() -> Outcome {
    fine!(fs::create_dir("d"));
    fine!(put("d/f", b""));
    fine!(fs::symlink("d", "l"));
    fine!(fs::symlink("f", "d/m"));
    let flags = OpenFlags::READ | OpenFlags::NOFOLLOW;
    fine!(sys::open(b"l/f", flags, 0));
    fails!(sys::open(b"l", flags, 0), ELOOP);
    fails!(sys::open(b"l/m", flags, 0), ELOOP);
    Ok(())
}

fn what_is_not_there_is_enoent_or_enotdir() -> Outcome {
    fine!(put("f", b""));
    fails!(File::open("none"), ENOENT);
    fails!(File::open("none/f"), ENOENT);
    fails!(File::open("f/x"), ENOTDIR);
    fails!(File::create("none/f"), ENOENT);
    fails!(File::create("f/x"), ENOTDIR);
    Ok(())
}

fn a_file_is_not_made_by_a_name_with_a_slash_behind() -> Outcome {
    fails!(File::create("f/"), EISDIR);
    holds!(!is_there("f"));
    Ok(())
}

fn a_descriptor_does_what_it_was_opened_for() -> Outcome {
    fine!(put("f", b"text"));
    let reader = fine!(File::open("f"));
    fails!(reader.write(b"x"), EBADF);
    fails!(reader.write_at(b"x", 0), EBADF);
    fails!(reader.set_len(1), EINVAL);
    let writer = fine!(OpenOptions::new().write(true).open("f"));
    fails!(writer.read(&mut [0; 1]), EBADF);
    fails!(writer.read_at(&mut [0; 1], 0), EBADF);
    same!(fine!(fs::read("f")), b"text");
    Ok(())
}

fn descriptors_are_the_lowest_that_are_free() -> Outcome {
    fine!(put("f", b""));
    let open = || sys::open(b"f", OpenFlags::READ, 0);
    let fds = [fine!(open()), fine!(open()), fine!(open())];
    same!((fds[1], fds[2]), (fds[0] + 1, fds[0] + 2));
    fine!(sys::close(fds[1]));
    same!(fine!(open()), fds[1]);
    Ok(())
}

fn a_closed_descriptor_is_ebadf() -> Outcome {
    fine!(put("f", b""));
    let fd = fine!(sys::open(b"f", OpenFlags::READ, 0));
    fine!(sys::close(fd));
    fails!(sys::close(fd), EBADF);
    fails!(sys::read(fd, &mut [0; 1]), EBADF);
    fails!(sys::fstat(fd), EBADF);
    fails!(sys::lseek(fd, 0, sys::Whence::Set), EBADF);
    fails!(sys::fsync(fd), EBADF);
    fails!(sys::fchdir(fd), EBADF);
    fails!(sys::close(usize::MAX), EBADF);
    Ok(())
}

fn descriptors_are_bounded_and_closing_gives_them_back() -> Outcome {
    fine!(put("f", b""));
    let mut fds = Vec::new();
    let refused = loop {
        match sys::open(b"f", OpenFlags::READ, 0) {
            Ok(fd) if fds.len() < 100_000 => fds.push(fd),
            other => break other,
        }
    };
    fails!(refused, EMFILE);
    for fd in &fds {
        fine!(sys::close(*fd));
    }
    fine!(sys::open(b"f", OpenFlags::READ, 0));
    Ok(())
}

fn each_open_has_an_offset_of_its_own() -> Outcome {
    fine!(put("f", b"abcdef"));
    let (one, two) = (fine!(File::open("f")), fine!(File::open("f")));
    let mut bytes = [0; 3];
    same!(fine!(one.read(&mut bytes)), 3);
    same!(fine!(two.read(&mut bytes[..1])), 1);
    same!(bytes[0], b'a');
    same!(fine!(one.read(&mut bytes)), 3);
    same!(bytes, *b"def");
    Ok(())
}

fn opening_for_nothing_is_einval() -> Outcome {
    fine!(put("f", b""));
    fails!(sys::open(b"f", OpenFlags::empty(), 0), EINVAL);
    Ok(())
}

cases!(
    create_makes_a_file_and_opens_one_that_is_there,
    create_new_is_eexist_for_whatever_is_there,
    truncate_cuts_the_file_to_nothing_and_nothing_else,
    appended_bytes_go_to_the_end_whoever_writes,
    a_directory_is_opened_to_read_alone,
    o_directory_wants_a_directory,
    o_nofollow_does_not_follow_the_last_name,
    what_is_not_there_is_enoent_or_enotdir,
    a_file_is_not_made_by_a_name_with_a_slash_behind,
    a_descriptor_does_what_it_was_opened_for,
    descriptors_are_the_lowest_that_are_free,
    a_closed_descriptor_is_ebadf,
    descriptors_are_bounded_and_closing_gives_them_back,
    each_open_has_an_offset_of_its_own,
    opening_for_nothing_is_einval,
);
