//! The API from a program's side, in a Linux process: an empty FFS on a disk in memory, sockets over lo0.

use rump::fs::{self, File, FileType};
use rump::net::{TcpListener, TcpStream, UdpSocket};
use rump::poll::{EventQueue, Events};
use rump::{Component, Config, Errno, Kernel, MountSpec, sys, thread, time};
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::superblock::Format;
use rumpuser_hosted::{Host, RamDisk};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

/// The kernel that the tests of this process share.
fn kernel() -> &'static Arc<Kernel> {
    static KERNEL: OnceLock<Arc<Kernel>> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let mut bytes = vec![0; 4 << 20];
        let plan = Plan::new(Options::new(Format::Ufs2, bytes.len() as u64)).expect("a plan");
        plan.write(&mut |offset, part| {
            let offset = offset as usize;
            bytes[offset..offset + part.len()].copy_from_slice(part);
            Ok(())
        })
        .expect("a volume");
        Host::builder()
            .memory(32 << 20)
            .block_device(RamDisk::new(bytes))
            .install()
            .expect("the only host");
        let config = Config {
            mounts: vec![MountSpec::root()],
            ..Config::default()
        };
        let kernel = Kernel::boot(config, COMPONENTS).expect("a kernel");
        let process = kernel.attach("mount").expect("a process");
        assert_eq!(fs::mount_configured(), Ok(1));
        drop(process);
        kernel
    })
}

#[test]
fn a_thread_without_a_process_gets_esrch() {
    kernel();
    assert_eq!(fs::metadata("/").err(), Some(Errno::ESRCH));
    let address = SocketAddr::from((LOCALHOST, 0));
    assert_eq!(TcpListener::bind(address).err(), Some(Errno::ESRCH));
}

#[test]
fn the_root_directory_is_there_and_nothing_else() {
    let _process = kernel().attach("test").unwrap();
    let facts = fs::metadata("/").unwrap();
    assert_eq!((facts.file_type(), facts.ino()), (FileType::Dir, 2));
    let names: Vec<Vec<u8>> = fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().name().to_vec())
        .collect();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec()]);
    assert_eq!(File::open("/nothing").err(), Some(Errno::ENOENT));
    assert_eq!(fs::read_dir("/nothing").err(), Some(Errno::ENOENT));
    let directory = File::open("/").unwrap();
    assert_eq!(directory.read(&mut [0; 8]), Err(Errno::EISDIR));
    assert_eq!(fs::read_link("/").err(), Some(Errno::EINVAL));
}

#[test]
fn descriptors_are_the_processs_own() {
    let _process = kernel().attach("test").unwrap();
    let root = sys::open(b"/", sys::OpenFlags::READ, 0).unwrap();
    assert_eq!(sys::fstat(root).unwrap().attr.fileid, 2);
    let kernel = kernel().clone();
    let other = std::thread::spawn(move || {
        let _process = kernel.attach("other").unwrap();
        sys::fstat(root).err()
    });
    assert_eq!(other.join().unwrap(), Some(Errno::EBADF));
    sys::close(root).unwrap();
    assert_eq!(sys::close(root), Err(Errno::EBADF));
}

#[test]
fn a_stream_carries_what_was_written_and_then_its_end() {
    let _process = kernel().attach("test").unwrap();
    let listener = TcpListener::bind(SocketAddr::from((LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn("server", move || {
        let (stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 1000];
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                count => {
                    let mut sent = 0;
                    while sent < count {
                        sent += stream.write(&buffer[sent..count]).unwrap();
                    }
                }
            }
        }
    });
    let server = server.unwrap();
    let stream = TcpStream::connect(address).unwrap();
    assert_eq!(stream.peer_addr(), Ok(address));
    let sent: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    for part in sent.chunks(10_000) {
        let mut at = 0;
        while at < part.len() {
            at += stream.write(&part[at..]).unwrap();
        }
        let until = received.len() + part.len();
        while received.len() < until {
            let count = stream.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
    }
    assert_eq!(received, sent);
    stream.shutdown_write().unwrap();
    assert_eq!(stream.read(&mut buffer), Ok(0));
    assert_eq!(stream.write(b"x"), Err(Errno::EPIPE));
    server.join();
}

#[test]
fn what_would_wait_is_eagain_and_a_queue_of_events_tells_when_it_does_not() {
    let _process = kernel().attach("test").unwrap();
    let listener = TcpListener::bind(SocketAddr::from((LOCALHOST, 0))).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().err(), Some(Errno::EAGAIN));
    let queue = EventQueue::new().unwrap();
    let watch = queue
        .watch(listener.file().clone(), 7, Events::READABLE)
        .unwrap();
    let mut events = Vec::new();
    let soon = time::now() + Duration::from_millis(20);
    queue.wait(&mut events, 4, Some(soon));
    assert!(events.is_empty());
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let later = time::now() + Duration::from_secs(10);
    queue.wait(&mut events, 4, Some(later));
    assert_eq!(
        events.iter().map(|event| event.key).collect::<Vec<_>>(),
        [7]
    );
    let (stream, peer) = listener.accept().unwrap();
    assert_eq!(Ok(peer), client.local_addr());
    stream.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0; 8]), Err(Errno::EAGAIN));
    drop(watch);
}

#[test]
fn nobody_listens_so_nobody_answers() {
    let _process = kernel().attach("test").unwrap();
    let taken = TcpListener::bind(SocketAddr::from((LOCALHOST, 0))).unwrap();
    let address = taken.local_addr().unwrap();
    assert_eq!(TcpListener::bind(address).err(), Some(Errno::EADDRINUSE));
    drop(taken);
    let refused = TcpStream::connect(address);
    assert_eq!(refused.err(), Some(Errno::ECONNREFUSED));
}

#[test]
fn messages_keep_their_borders_and_their_senders() {
    let _process = kernel().attach("test").unwrap();
    let one = UdpSocket::bind(SocketAddr::from((LOCALHOST, 0))).unwrap();
    let two = UdpSocket::bind(SocketAddr::from((LOCALHOST, 0))).unwrap();
    let to = two.local_addr().unwrap();
    one.send_to(b"first", to).unwrap();
    one.send_to(b"second", to).unwrap();
    let mut buffer = [0; 64];
    let from = one.local_addr().unwrap();
    assert_eq!(two.recv_from(&mut buffer), Ok((5, from)));
    assert_eq!(two.recv_from(&mut buffer[..3]), Ok((3, from)));
    assert_eq!(&buffer[..5], b"secst");
    two.set_nonblocking(true).unwrap();
    assert_eq!(two.recv_from(&mut buffer).err(), Some(Errno::EAGAIN));
}
