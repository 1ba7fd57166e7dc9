//! Reading directories, also while they change.

use super::{ino, names_in, put};
use crate::{Outcome, cases};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use rump::fs::{self, FileType};
use rump::sys;

fn dot_and_dotdot_come_and_lead_here_and_up() -> Outcome {
    let mut seen = Vec::new();
    for entry in fine!(fs::read_dir(".")) {
        let entry = fine!(entry);
        seen.push((entry.name().to_vec(), entry.ino(), entry.file_type()));
    }
    let directory = Some(FileType::Dir);
    same!(seen.len(), 2);
    holds!(seen.contains(&(b".".to_vec(), fine!(ino(".")), directory)));
    // Where something is mounted, `..` of its root is the directory above; this is no such root.
    holds!(seen.contains(&(b"..".to_vec(), fine!(ino("..")), directory)));
    Ok(())
}

fn entries_tell_the_number_and_the_type_of_their_files() -> Outcome {
    fine!(put("f", b""));
    fine!(fs::create_dir("d"));
    fine!(fs::symlink("f", "l"));
    fine!(sys::mknod(b"p", FileType::Fifo, 0o600, 0));
    for entry in fine!(fs::read_dir(".")) {
        let entry = fine!(entry);
        let facts = fine!(sys::lstat(entry.name())).attr;
        same!(entry.ino(), facts.fileid);
        same!(entry.file_type(), Some(facts.vtype));
    }
    Ok(())
}

fn hundreds_of_names_are_all_there_once() -> Outcome {
    let mut made = Vec::new();
    for n in 0..400 {
        let name = format!("{n:0>width$}", width = 3 + n % 60);
        fine!(put(&name, b""));
        made.push(name.into_bytes());
    }
    made.sort();
    same!(fine!(names_in(b".")), made);
    Ok(())
}

fn the_longest_names_are_listed() -> Outcome {
    for n in 0..30 {
        fine!(put(&format!("{n:x>255}"), b""));
    }
    let names = fine!(names_in(b"."));
    same!(names.len(), 30);
    holds!(names.iter().all(|name| name.len() == 255));
    Ok(())
}

fn what_is_removed_while_it_is_listed_does_not_hide_the_rest() -> Outcome {
    for n in 0..300 {
        fine!(put(&format!("file{n}"), b""));
    }
    let mut seen = BTreeSet::new();
    for entry in fine!(fs::read_dir(".")) {
        let entry = fine!(entry);
        if matches!(entry.name(), b"." | b"..") {
            continue;
        }
        holds!(seen.insert(entry.name().to_vec()));
        fine!(fs::remove_file(entry.name()));
    }
    same!(seen.len(), 300);
    holds!(fine!(names_in(b".")).is_empty());
    Ok(())
}

fn what_is_made_while_it_is_listed_does_not_repeat_the_rest() -> Outcome {
    for n in 0..200 {
        fine!(put(&format!("old{n}"), b""));
    }
    let (mut seen, mut made) = (BTreeSet::new(), 0);
    for entry in fine!(fs::read_dir(".")) {
        let entry = fine!(entry);
        holds!(seen.insert(entry.name().to_vec()));
        if made < 200 {
            fine!(put(&format!("new{made}"), b""));
            made += 1;
        }
    }
    for n in 0..200 {
        holds!(seen.contains(format!("old{n}").as_bytes()));
    }
    Ok(())
}

fn names_that_stay_are_listed_while_others_come_and_go() -> Outcome {
    for n in 0..100 {
        fine!(put(&format!("stays{n}"), b""));
        fine!(put(&format!("goes{n}"), b""));
    }
    let (mut seen, mut step) = (BTreeSet::new(), 0);
    for entry in fine!(fs::read_dir(".")) {
        let entry = fine!(entry);
        seen.insert(entry.name().to_vec());
        if step < 100 {
            fine!(fs::remove_file(format!("goes{step}")));
            fine!(put(&format!("a-rather-longer-name-that-comes{step}"), b""));
            step += 1;
        }
    }
    for n in 0..100 {
        holds!(seen.contains(format!("stays{n}").as_bytes()));
    }
    Ok(())
}

fn a_removed_directory_that_is_open_lists_nothing_but_dots() -> Outcome {
    fine!(fs::create_dir("d"));
    let reader = fine!(fs::read_dir("d"));
    fine!(fs::remove_dir("d"));
    for entry in reader {
        holds!(matches!(fine!(entry).name(), b"." | b".."));
    }
    Ok(())
}

fn room_of_removed_names_is_used_again() -> Outcome {
    for n in 0..100 {
        fine!(put(&format!("file{n}"), b""));
    }
    let full = fine!(sys::stat(b".")).attr.size;
    for round in 0..5 {
        for n in 0..100 {
            fine!(fs::remove_file(match round {
                0 => format!("file{n}"),
                _ => format!("{round}x{n}"),
            }));
            fine!(put(&format!("{}x{n}", round + 1), b""));
        }
    }
    holds!(fine!(sys::stat(b".")).attr.size <= full);
    same!(fine!(names_in(b".")).len(), 100);
    Ok(())
}

fn only_a_directory_is_listed() -> Outcome {
    fine!(put("f", b""));
    fails!(fs::read_dir("f"), ENOTDIR);
    fails!(fs::read_dir("none"), ENOENT);
    Ok(())
}

fn a_directory_counts_its_subdirectories_as_links() -> Outcome {
    for n in 0..10 {
        fine!(fs::create_dir(format!("d{n}")));
    }
    same!(fine!(super::links(".")), 12);
    for n in 0..10 {
        fine!(fs::remove_dir(format!("d{n}")));
    }
    same!(fine!(super::links(".")), 2);
    Ok(())
}

cases!(
    dot_and_dotdot_come_and_lead_here_and_up,
    entries_tell_the_number_and_the_type_of_their_files,
    hundreds_of_names_are_all_there_once,
    the_longest_names_are_listed,
    what_is_removed_while_it_is_listed_does_not_hide_the_rest,
    what_is_made_while_it_is_listed_does_not_repeat_the_rest,
    names_that_stay_are_listed_while_others_come_and_go,
    a_removed_directory_that_is_open_lists_nothing_but_dots,
    room_of_removed_names_is_used_again,
    only_a_directory_is_listed,
    a_directory_counts_its_subdirectories_as_links,
);
