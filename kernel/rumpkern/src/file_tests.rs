use super::*;
use crate::testing::install_host;
use core::sync::atomic::AtomicUsize;

/// Counts how often it is closed; reads give the offset.
#[derive(Default)]
struct Probe {
    closed: AtomicUsize,
    stream: bool,
}

impl FileOps for Probe {
    fn read(&self, offset: &mut u64, buffer: &mut [u8], _: FileFlags) -> Result<usize, Errno> {
        buffer.fill(*offset as u8);
        *offset += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn write(&self, offset: &mut u64, buffer: &[u8], _: FileFlags) -> Result<usize, Errno> {
        *offset += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn seekable(&self) -> bool {
        !self.stream
    }

    fn close(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open(probe: &Arc<Probe>) -> Arc<File> {
    Arc::new(File::new(FileFlags::READ, probe.clone()))
}

#[test]
fn the_lowest_free_descriptor_is_given() {
    install_host();
    let probe = Arc::new(Probe::default());
    let fds = FdTable::new(8);
    for expected in 0..8 {
        assert_eq!(fds.alloc(open(&probe)), Ok(expected));
    }
    assert_eq!(fds.alloc(open(&probe)), Err(Errno::EMFILE));
    for fd in [5, 2, 6] {
        assert_eq!(fds.close(fd), Ok(()));
    }
    assert_eq!(fds.alloc_from(4, open(&probe)), Ok(5));
    assert_eq!(fds.alloc(open(&probe)), Ok(2));
    assert_eq!(fds.alloc(open(&probe)), Ok(6));
    assert_eq!(fds.alloc_from(8, open(&probe)), Err(Errno::EINVAL));
    assert_eq!(fds.count(), 8);
}

#[test]
fn a_file_is_closed_once_with_its_last_descriptor() {
    install_host();
    let probe = Arc::new(Probe::default());
    let fds = FdTable::new(8);
    let fd = fds.alloc(open(&probe)).expect("a descriptor");
    let second = fds.dup(fd).expect("a descriptor");
    assert_eq!(fds.dup2(fd, 7), Ok(7));
    for fd in [fd, second] {
        assert_eq!(fds.close(fd), Ok(()));
        assert_eq!(fds.close(fd), Err(Errno::EBADF));
    }
    assert_eq!(probe.closed.load(Ordering::Relaxed), 0);
    let in_use = fds.get(7).expect("open");
    fds.close_all();
    assert_eq!(probe.closed.load(Ordering::Relaxed), 0);
    drop(in_use);
    assert_eq!(probe.closed.load(Ordering::Relaxed), 1);
}

#[test]
fn dup2_closes_what_was_there() {
    install_host();
    let (first, second) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
    let fds = FdTable::new(8);
    let a = fds.alloc(open(&first)).expect("a descriptor");
    let b = fds.alloc(open(&second)).expect("a descriptor");
    assert_eq!(fds.dup2(a, b), Ok(b));
    assert_eq!(second.closed.load(Ordering::Relaxed), 1);
    assert_eq!(fds.dup2(a, a), Ok(a));
    assert_eq!(fds.dup2(a, 8), Err(Errno::EBADF));
    assert_eq!(fds.dup2(5, a), Err(Errno::EBADF));
}

#[test]
fn duplicates_share_the_offset_and_positioned_reads_leave_it() {
    install_host();
    let fds = FdTable::new(8);
    let fd = fds.alloc(open(&Arc::default())).expect("a descriptor");
    let second = fds.dup(fd).expect("a descriptor");
    let mut buffer = [0; 4];
    assert_eq!(fds.get(fd).expect("open").read(&mut buffer), Ok(4));
    assert_eq!(
        fds.get(second).expect("open").read_at(9, &mut buffer),
        Ok(4)
    );
    assert_eq!(buffer, [9; 4]);
    assert_eq!(fds.get(second).expect("open").read(&mut buffer), Ok(4));
    assert_eq!(buffer, [4; 4]);
}

#[test]
fn a_file_does_only_what_it_was_opened_for() {
    install_host();
    let file = open(&Arc::default());
    assert_eq!(file.write(b"x"), Err(Errno::EBADF));
    file.set_flags(FileFlags::WRITE | FileFlags::NONBLOCK, true);
    assert_eq!(file.write(b"x"), Err(Errno::EBADF));
    assert!(file.flags().contains(FileFlags::NONBLOCK));
    let stream = Arc::new(Probe {
        stream: true,
        ..Probe::default()
    });
    assert_eq!(open(&stream).read_at(0, &mut [0]), Err(Errno::ESPIPE));
}

#[test]
fn close_on_exec_is_the_descriptors_own() {
    install_host();
    let fds = FdTable::new(8);
    let fd = fds.alloc(open(&Arc::default())).expect("a descriptor");
    assert_eq!(fds.set_close_on_exec(fd, true), Ok(()));
    let second = fds.dup(fd).expect("a descriptor");
    assert_eq!(fds.close_on_exec(fd), Ok(true));
    assert_eq!(fds.close_on_exec(second), Ok(false));
    assert_eq!(fds.close_on_exec(7), Err(Errno::EBADF));
}
