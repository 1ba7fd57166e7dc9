//! What a file holds: read(2), write(2), lseek(2), truncate(2), fsync(2), holes, files without a name.

use super::{is_there, pattern, put};
use crate::{Outcome, cases};
use alloc::vec;
use rump::fs::{self, File, OpenOptions};
use rump::sys::{self, OpenFlags, Whence};

/// A new file to read and write.
fn new_file(path: &str) -> Result<File, rump::Errno> {
    let options = OpenOptions::new().read(true).write(true);
    options.create_new(true).open(path)
}

fn bytes_come_back_as_they_were_written() -> Outcome {
    // Around the ends of fragments, blocks, and the blocks that the inode itself knows.
    for (n, length) in [1, 511, 1023, 1025, 8191, 8193, 98_303, 98_305, 300_001]
        .into_iter()
        .enumerate()
    {
        let bytes = pattern(n as u8, length);
        fine!(put("f", &bytes));
        same!(fine!(fs::metadata("f")).len(), length as u64);
        holds!(fine!(fs::read("f")) == bytes);
    }
    Ok(())
}

fn reading_ends_where_the_file_does() -> Outcome {
    fine!(put("f", b"abcdef"));
    let file = fine!(File::open("f"));
    let mut bytes = [0; 10];
    same!(fine!(file.read_at(&mut bytes, 4)), 2);
    same!(fine!(file.read_at(&mut bytes, 6)), 0);
    same!(fine!(file.read_at(&mut bytes, 1 << 40)), 0);
    same!(fine!(file.read(&mut [])), 0);
    Ok(())
}

fn a_hole_reads_as_zeroes_and_holds_no_space() -> Outcome {
    let file = fine!(new_file("f"));
    fine!(file.write_at(b"end", 1_000_000));
    let facts = *fine!(file.metadata()).stat();
    same!(facts.attr.size, 1_000_003);
    holds!(facts.attr.bytes < 100_000);
    let mut bytes = vec![1; 5000];
    same!(fine!(file.read_at(&mut bytes, 500_000)), 5000);
    holds!(bytes.iter().all(|byte| *byte == 0));
    let mut end = [0; 4];
    same!(fine!(file.read_at(&mut end, 999_999)), 4);
    same!(end, *b"\0end");
    Ok(())
}

fn holes_are_filled_in_any_order() -> Outcome {
    let file = fine!(new_file("f"));
    for at in [7u64, 3, 0, 6, 1, 5, 2, 4] {
        fine!(file.write_at(&vec![at as u8 + 1; 10_000], at * 10_000));
    }
    let bytes = fine!(fs::read("f"));
    same!(bytes.len(), 80_000);
    holds!(
        bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte as usize == at / 10_000 + 1)
    );
    Ok(())
}

fn what_was_cut_off_reads_as_zeroes_when_the_file_grows_again() -> Outcome {
    fine!(put("f", &[7; 20_000]));
    let file = fine!(OpenOptions::new().read(true).write(true).open("f"));
    fine!(file.set_len(10_001));
    fine!(file.set_len(20_000));
    let bytes = fine!(fs::read("f"));
    same!(bytes.len(), 20_000);
    holds!(bytes[..10_001].iter().all(|byte| *byte == 7));
    holds!(bytes[10_001..].iter().all(|byte| *byte == 0));
    Ok(())
}

fn truncate_takes_a_path_and_refuses_what_is_no_file() -> Outcome {
    fine!(put("f", b"abcdef"));
    fine!(sys::truncate(b"f", 3));
    same!(fine!(fs::read("f")), b"abc");
    fine!(sys::truncate(b"f", 5));
    same!(fine!(fs::read("f")), b"abc\0\0");
    fine!(fs::create_dir("d"));
    fails!(sys::truncate(b"d", 0), EISDIR);
    fails!(sys::truncate(b"none", 0), ENOENT);
    fails!(sys::truncate(b"f", u64::MAX), EFBIG);
    Ok(())
}

fn truncating_gives_the_space_back() -> Outcome {
    let free = || sys::statvfs(b".").map(|facts| facts.bfree);
    let before = fine!(free());
    fine!(put("f", &pattern(0, 400_000)));
    fine!(sys::sync());
    holds!(fine!(free()) < before);
    fine!(sys::truncate(b"f", 0));
    same!(fine!(free()), before);
    same!(fine!(sys::stat(b"f")).attr.bytes, 0);
    Ok(())
}

fn pwrite_and_pread_leave_the_offset_alone() -> Outcome {
    fine!(put("f", b"abcdef"));
    let flags = OpenFlags::READ | OpenFlags::WRITE;
    let fd = fine!(sys::open(b"f", flags, 0));
    let mut byte = [0];
    fine!(sys::read(fd, &mut byte));
    fine!(sys::pwrite(fd, b"XY", 4));
    fine!(sys::pread(fd, &mut byte, 4));
    same!(byte, *b"X");
    fine!(sys::read(fd, &mut byte));
    same!(byte, *b"b");
    Ok(())
}

fn lseek_goes_where_it_is_told_and_not_before_the_start() -> Outcome {
    fine!(put("f", b"abcdef"));
    let fd = fine!(sys::open(b"f", OpenFlags::READ | OpenFlags::WRITE, 0));
    same!(fine!(sys::lseek(fd, 4, Whence::Set)), 4);
    same!(fine!(sys::lseek(fd, -1, Whence::Current)), 3);
    same!(fine!(sys::lseek(fd, -1, Whence::End)), 5);
    fails!(sys::lseek(fd, -1, Whence::Set), EINVAL);
    fails!(sys::lseek(fd, -6, Whence::Current), EINVAL);
    same!(fine!(sys::lseek(fd, 0, Whence::Current)), 5);
    // Beyond the end is fine; a write there leaves a hole.
    same!(fine!(sys::lseek(fd, 4, Whence::End)), 10);
    fine!(sys::write(fd, b"!"));
    same!(fine!(fs::read("f")), b"abcdef\0\0\0\0!");
    Ok(())
}

fn a_removed_file_lives_while_it_is_open() -> Outcome {
    let file = fine!(new_file("f"));
    fine!(file.write(&pattern(0, 50_000)));
    fine!(fs::remove_file("f"));
    holds!(!is_there("f"));
    same!(fine!(file.metadata()).stat().attr.nlink, 0);
    fine!(put("f", b"another"));
    let mut bytes = vec![0; 50_000];
    same!(fine!(file.read_at(&mut bytes, 0)), 50_000);
    holds!(bytes == pattern(0, 50_000));
    fine!(file.write_at(b"more", 50_000));
    fine!(file.sync_all());
    same!(fine!(fs::read("f")), b"another");
    Ok(())
}

fn the_last_close_of_a_removed_file_gives_its_space_back() -> Outcome {
    let before = fine!(sys::statvfs(b"."));
    let file = fine!(new_file("f"));
    fine!(file.write(&pattern(0, 200_000)));
    fine!(file.sync_all());
    fine!(fs::remove_file("f"));
    holds!(fine!(sys::statvfs(b".")).bfree < before.bfree);
    drop(file);
    let after = fine!(sys::statvfs(b"."));
    same!((after.bfree, after.ffree), (before.bfree, before.ffree));
    Ok(())
}

fn nothing_is_written_beyond_the_largest_file() -> Outcome {
    let file = fine!(new_file("f"));
    fails!(file.write_at(b"x", i64::MAX as u64), EFBIG);
    fails!(file.set_len(1 << 63), EFBIG);
    same!(fine!(file.metadata()).len(), 0);
    Ok(())
}

fn writing_nothing_changes_nothing() -> Outcome {
    let file = fine!(new_file("f"));
    same!(fine!(file.write_at(b"", 1000)), 0);
    same!(fine!(file.metadata()).len(), 0);
    Ok(())
}

fn one_descriptor_sees_at_once_what_another_wrote() -> Outcome {
    let writer = fine!(new_file("f"));
    let reader = fine!(File::open("f"));
    let mut bytes = [0; 4];
    same!(fine!(reader.read(&mut bytes)), 0);
    fine!(writer.write(b"text"));
    same!(fine!(reader.read(&mut bytes)), 4);
    same!(bytes, *b"text");
    fine!(writer.set_len(0));
    same!(fine!(reader.read_at(&mut bytes, 0)), 0);
    Ok(())
}

fn what_was_synced_stays_and_syncing_twice_is_fine() -> Outcome {
    let file = fine!(new_file("f"));
    fine!(file.write(&pattern(3, 70_000)));
    fine!(file.sync_all());
    fine!(file.sync_all());
    fine!(sys::sync());
    fine!(fine!(File::open(".")).sync_all());
    holds!(fine!(fs::read("f")) == pattern(3, 70_000));
    Ok(())
}

fn a_file_of_three_levels_of_blocks_is_read_and_cut() -> Outcome {
    let file = fine!(new_file("f"));
    // With 4 KiB blocks and UFS1's pointers, 12 + 1024 + 1024² blocks come before the third level.
    let far = 5_000_000_000;
    fine!(file.write_at(b"far", far));
    fine!(file.write_at(b"near", 5_000_000));
    let mut bytes = [0; 4];
    same!(fine!(file.read_at(&mut bytes, far)), 3);
    same!(bytes[..3], *b"far");
    fine!(file.set_len(5_000_002));
    same!(fine!(file.read_at(&mut bytes, 5_000_000)), 2);
    same!(bytes[..2], *b"ne");
    fine!(file.set_len(0));
    same!(fine!(file.metadata()).stat().attr.bytes, 0);
    Ok(())
}

fn a_full_volume_is_enospc_and_keeps_what_it_has() -> Outcome {
    fine!(put("before", b"text"));
    let file = fine!(new_file("f"));
    let chunk = pattern(1, 65_536);
    let mut written = 0u64;
    let refused = loop {
        match file.write(&chunk) {
            Ok(count) => written += count as u64,
            Err(errno) => break errno,
        }
        holds!(written < crate::DISK);
    };
    same!(refused, rump::Errno::ENOSPC);
    same!(fine!(file.metadata()).len(), written);
    same!(fine!(fs::read("before")), b"text");
    fine!(file.set_len(0));
    fine!(put("after", &chunk));
    holds!(fine!(fs::read("after")) == chunk);
    Ok(())
}

cases!(
    bytes_come_back_as_they_were_written,
    reading_ends_where_the_file_does,
    a_hole_reads_as_zeroes_and_holds_no_space,
    holes_are_filled_in_any_order,
    what_was_cut_off_reads_as_zeroes_when_the_file_grows_again,
    truncate_takes_a_path_and_refuses_what_is_no_file,
    truncating_gives_the_space_back,
    pwrite_and_pread_leave_the_offset_alone,
    lseek_goes_where_it_is_told_and_not_before_the_start,
    a_removed_file_lives_while_it_is_open,
    the_last_close_of_a_removed_file_gives_its_space_back,
    nothing_is_written_beyond_the_largest_file,
    writing_nothing_changes_nothing,
    one_descriptor_sees_at_once_what_another_wrote,
    what_was_synced_stays_and_syncing_twice_is_fine,
    a_file_of_three_levels_of_blocks_is_read_and_cut,
    a_full_volume_is_enospc_and_keeps_what_it_has,
);
