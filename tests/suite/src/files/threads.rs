//! Several threads of a process at once.

use super::{names_in, put};
use crate::{Outcome, cases};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rump::fs::{self, OpenOptions};
use rump::sync::Mutex;
use rump::{Errno, thread};

/// What each of the threads answered: four of them, numbered from 0.
fn four<T: Send + 'static>(
    work: impl Fn(u8) -> T + Send + Sync + 'static,
) -> Result<Vec<T>, Errno> {
    let work = Arc::new(work);
    let answers = Arc::new(Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    for number in 0..4 {
        let (work, answers) = (work.clone(), answers.clone());
        threads.push(thread::spawn("worker", move || {
            let answer = work(number);
            answers.lock().push(answer);
        })?);
    }
    threads.into_iter().for_each(thread::JoinHandle::join);
    Ok(core::mem::take(&mut *answers.lock()))
}

fn of_four_who_create_it_exclusively_one_does() -> Outcome {
    for round in 0..20 {
        let made = fine!(four(move |_| {
            let options = OpenOptions::new().write(true).create_new(true);
            options.open(format!("f{round}")).map(drop)
        }));
        same!(made.iter().filter(|made| made.is_ok()).count(), 1);
        holds!(
            made.iter()
                .all(|made| matches!(made, Ok(()) | Err(Errno::EEXIST)))
        );
    }
    Ok(())
}

fn of_four_who_make_or_remove_a_directory_one_does() -> Outcome {
    for _ in 0..20 {
        let made = fine!(four(|_| fs::create_dir("d")));
        same!(made.iter().filter(|made| made.is_ok()).count(), 1);
        let gone = fine!(four(|_| fs::remove_dir("d")));
        same!(gone.iter().filter(|gone| gone.is_ok()).count(), 1);
        holds!(
            gone.iter()
                .all(|gone| matches!(gone, Ok(()) | Err(Errno::ENOENT)))
        );
    }
    Ok(())
}

fn what_four_append_is_whole_and_complete() -> Outcome {
    fine!(put("f", b""));
    let done = fine!(four(|number| {
        let file = OpenOptions::new().append(true).open("f")?;
        for _ in 0..50 {
            file.write(&[number; 100])?;
        }
        Ok::<(), Errno>(())
    }));
    holds!(done.iter().all(Result::is_ok));
    let bytes = fine!(fs::read("f"));
    same!(bytes.len(), 4 * 50 * 100);
    for record in bytes.chunks(100) {
        holds!(record.iter().all(|byte| *byte == record[0]));
    }
    Ok(())
}

fn four_who_make_and_remove_names_do_not_disturb_each_other() -> Outcome {
    let done = fine!(four(|number| {
        for round in 0..40 {
            let path = format!("{number}-{round}");
            put(&path, &[number; 3000])?;
            if fs::read(&path)? != [number; 3000] {
                return Err(Errno::EIO);
            }
            let other = format!("{path}-renamed");
            fs::rename(&path, &other)?;
            if round % 2 == 0 {
                fs::remove_file(&other)?;
            }
        }
        Ok(())
    }));
    same!(done, [Ok(()), Ok(()), Ok(()), Ok(())]);
    same!(fine!(names_in(b".")).len(), 4 * 20);
    Ok(())
}

fn directories_that_four_move_into_each_other_stay_a_tree() -> Outcome {
    for name in ["a", "b", "c", "d"] {
        fine!(fs::create_dir(name));
    }
    let done = fine!(four(|number| {
        let names = ["a", "b", "c", "d"];
        for round in 0..40 {
            let one = names[(usize::from(number) + round) % 4];
            let two = names[(usize::from(number) + round * 3 + 1) % 4];
            let inside = format!("{two}/{one}");
            // Whether it can be done depends on the others.
            let _ = fs::rename(one, &inside);
            let _ = fs::rename(&inside, one);
        }
    }));
    same!(done.len(), 4);
    // Every one is somewhere below, once.
    let mut count = 0;
    let mut ahead: Vec<Vec<u8>> = [b".".to_vec()].into();
    while let Some(path) = ahead.pop() {
        for name in fine!(names_in(&path)) {
            count += 1;
            holds!(count <= 4);
            ahead.push([&path[..], b"/", &name].concat());
        }
    }
    same!(count, 4);
    Ok(())
}

fn a_reader_sees_each_version_of_a_file_that_is_replaced_whole() -> Outcome {
    fine!(put("f", &[b'0'; 2000]));
    let done = fine!(four(|number| {
        for round in 0..30u8 {
            if number == 0 {
                put("new", &[b'0' + round % 10; 2000])?;
                fs::rename("new", "f")?;
                continue;
            }
            let bytes = fs::read("f")?;
            if bytes.len() != 2000 || bytes.iter().any(|byte| *byte != bytes[0]) {
                return Err(Errno::EIO);
            }
        }
        Ok(())
    }));
    same!(done, [Ok(()), Ok(()), Ok(()), Ok(())]);
    Ok(())
}

cases!(
    of_four_who_create_it_exclusively_one_does,
    of_four_who_make_or_remove_a_directory_one_does,
    what_four_append_is_whole_and_complete,
    four_who_make_and_remove_names_do_not_disturb_each_other,
    directories_that_four_move_into_each_other_stay_a_tree,
    a_reader_sees_each_version_of_a_file_that_is_replaced_whole,
);
