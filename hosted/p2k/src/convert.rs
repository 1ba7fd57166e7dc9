//! Between the kernel's attributes, times and errors and Linux's.

use fuser::{FileAttr, FileType, Generation, INodeNo, TimeOrNow};
use rumpuser::{Errno, WallTime};
use rumpvfs::vnode::{InodeNumber, Vattr, VnodeType};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The bytes of one of `st_blocks`.
const BLOCK: u64 = 512;

/// Linux's error for the kernel's.
pub(crate) fn error(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(rumpuser_hosted::to_raw_os_error(errno))
}

pub(crate) fn file_type(vtype: VnodeType) -> FileType {
    match vtype {
        VnodeType::Reg => FileType::RegularFile,
        VnodeType::Dir => FileType::Directory,
        VnodeType::Blk => FileType::BlockDevice,
        VnodeType::Chr => FileType::CharDevice,
        VnodeType::Lnk => FileType::Symlink,
        VnodeType::Sock => FileType::Socket,
        VnodeType::Fifo => FileType::NamedPipe,
    }
}

/// The host's time. One that it cannot express, which only a damaged image has, is 1970.
fn system_time(time: WallTime) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let at = match time.seconds {
        0.. => UNIX_EPOCH.checked_add(whole),
        _ => UNIX_EPOCH.checked_sub(whole),
    };
    at.and_then(|at| at.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// What Linux asks for. `fuser` 0.18 hands a time before 1970 over with the nanoseconds counted backwards, as if they had no place in
/// the seconds: they are taken as they came.
pub(crate) fn wall_time(time: TimeOrNow) -> WallTime {
    let time = match time {
        TimeOrNow::Now => return rumpkern::time::wall(),
        TimeOrNow::SpecificTime(time) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => WallTime {
            seconds: since.as_secs() as i64,
            nanos: since.subsec_nanos(),
        },
        Err(before) => WallTime {
            seconds: -(before.duration().as_secs() as i64),
            nanos: before.duration().subsec_nanos(),
        },
    }
}

/// A file's attributes as Linux wants them. A device's number needs no change: NetBSD's `dev_t` has major and minor where Linux's
/// `new_encode_dev` puts them.
pub(crate) fn attributes(attr: &Vattr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.fileid),
        size: attr.size,
        blocks: attr.bytes / BLOCK,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.birthtime),
        kind: file_type(attr.vtype),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev as u32,
        blksize: attr.blocksize,
        flags: 0,
    }
}

pub(crate) fn generation(attr: &Vattr) -> Generation {
    Generation(attr.generation)
}

/// The file that one of Linux's numbers stands for: its own, but for the root's.
pub(crate) fn ino(node: INodeNo, root: InodeNumber) -> InodeNumber {
    if node == INodeNo::ROOT { root } else { node.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_has_its_nanoseconds_ahead_of_the_second() {
        let time = WallTime {
            seconds: -2,
            nanos: 250_000_000,
        };
        assert_eq!(system_time(time), UNIX_EPOCH - Duration::from_millis(1750));
    }

    #[test]
    fn a_device_has_the_same_number_in_both_encodings() {
        // major 259, minor 70000, which is more than 16 bits: NetBSD sys/types.h makedev; Linux include/linux/kdev_t.h.
        let (major, minor) = (259_u32, 70_000_u32);
        let netbsd = ((major << 8) & 0xf_ff00) | ((minor << 12) & 0xfff0_0000) | (minor & 0xff);
        let linux = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        assert_eq!(netbsd, linux);
    }
}
