//! A server in this process, and a client of it over the kernel's own sockets.

use crate::testfs::{TestDisk, Volume, add_fs};
use httpd::server::{Options, Server};
use rump::net::TcpStream;
use rump::{Component, Config, Kernel, MountSpec, fs};
use rumpfs_ffs::mkfs::{self, Plan};
use rumpfs_ffs::superblock::Format;
use rumpkern::kauth::Cred;
use rumpkern::lwp::Attached;
use rumpuser_hosted::RamDisk;
use rumpvfs::specfs::BlockIo as _;
use rumpvfs::vfs::{MountRequest, Vfs};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
];

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 80))
}

/// An FFS of that size, empty.
fn volume(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let plan = Plan::new(mkfs::Options::new(Format::Ufs2, bytes.len() as u64)).expect("a plan");
    plan.write(&mut |offset, part| {
        let offset = offset as usize;
        bytes[offset..offset + part.len()].copy_from_slice(part);
        Ok(())
    })
    .expect("a volume");
    bytes
}

/// The kernel that the tests of this process share: an FFS to be written at `/`, a small one at `/small`, one that is read-only at `/ro`.
fn kernel() -> &'static Arc<Kernel> {
    static KERNEL: OnceLock<Arc<Kernel>> = OnceLock::new();
    KERNEL.get_or_init(|| {
        rumpuser_hosted::Host::builder()
            .memory(16 << 20)
            .block_device(RamDisk::new(volume(64 << 20)))
            .block_device(RamDisk::new(volume(4 << 20)))
            .install()
            .expect("the only host");
        let config = Config {
            mounts: vec![MountSpec::root()],
            ..Config::default()
        };
        let kernel = Kernel::boot(config, COMPONENTS).expect("a kernel");
        let process = kernel.attach("mount").expect("a process");
        assert_eq!(fs::mount_configured(), Ok(1));
        fs::create_dir("/ro").expect("a directory");
        fs::create_dir("/small").expect("a directory");
        drop(process);
        let vfs = kernel.get::<Vfs>().expect("file systems");
        let small = MountRequest {
            device: "ld1",
            path: "/small",
            fstype: Some("ffs"),
            options: "",
        };
        vfs.mount(&Arc::new(Cred::root()), &small).expect("a mount");
        mount(&vfs, ("rofs", "/ro", "ro"), |volume, disk| {
            volume.file(disk, 2, "a.txt", b"as it was", false);
            let dir = volume.dir(2, "d");
            volume.file(disk, dir, "b", b"b", false);
        });
        let (ready, is_ready) = std::sync::mpsc::channel();
        let of_server = kernel.clone();
        std::thread::spawn(move || {
            let _process = of_server.attach("fileserver").expect("a process");
            let server = Server::new(Options {
                root: b"/".to_vec(),
                address: address(),
                workers: 3,
                clients_max: 64,
            })
            .expect("a server");
            ready.send(()).expect("the test waits");
            server.run().expect("workers");
        });
        is_ready.recv().expect("a server");
        kernel
    })
}

fn mount(
    vfs: &Vfs,
    (fstype, path, options): (&'static str, &str, &str),
    fill: impl FnOnce(&mut Volume, &TestDisk),
) {
    let disk = TestDisk::new(65_536);
    vfs.add_device(disk.clone()).expect("a device");
    let mut volume = Volume::new(8192, 0);
    fill(&mut volume, &disk);
    add_fs(vfs, fstype, volume);
    let request = MountRequest {
        device: disk.name(),
        path,
        fstype: Some(fstype),
        options,
    };
    vfs.mount(&Arc::new(Cred::root()), &request)
        .expect("a mount");
}

/// Makes this thread one of the kernel's.
pub fn attach() -> Attached {
    kernel().attach("test").expect("a process")
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub fn connect() -> Client {
        Client {
            stream: TcpStream::connect(address()).expect("a connection"),
            input: Vec::new(),
        }
    }

    pub fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.stream.write(bytes).expect("room");
            bytes = &bytes[count..];
        }
    }

    /// Sends, unless the server has answered or ended.
    pub fn try_send(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            self.stream.set_nonblocking(true).expect("a socket");
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer);
            self.stream.set_nonblocking(false).expect("a socket");
            if let Ok(count) = read {
                self.input.extend_from_slice(&buffer[..count]);
                return false;
            }
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(_) => return false,
            }
        }
        true
    }

    /// Sends a request; `fields` are lines without their ends. A body gets its length.
    pub fn ask(&mut self, method: &str, path: &str, fields: &[&str], body: &[u8]) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: disk\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes());
        self.send(body);
        self.answer()
    }

    /// The next answer; interim ones count.
    pub fn answer(&mut self) -> Response {
        let head = self.until(b"\r\n\r\n");
        let head = String::from_utf8(head).expect("ASCII");
        let status = head[9..12].parse().expect("a status");
        let mut response = Response {
            status,
            head,
            body: Vec::new(),
        };
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = String::from_utf8(self.until(b"\r\n")).expect("ASCII");
                let size = usize::from_str_radix(size.trim(), 16).expect("a size");
                let chunk = self.bytes(size + 2);
                response.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().expect("a length");
            response.body = self.bytes(length);
        }
        response
    }

    /// Whether the server ends the connection, having sent nothing more.
    pub fn has_ended(&mut self) -> bool {
        self.input.is_empty() && self.stream.read(&mut [0; 16]).is_ok_and(|count| count == 0)
    }

    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let found = self.input.windows(end.len()).position(|some| some == end);
            if let Some(at) = found {
                return self.input.drain(..at + end.len()).collect();
            }
            self.fill();
        }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            self.fill();
        }
        self.input.drain(..count).collect()
    }

    fn fill(&mut self) {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).expect("an answer");
        assert_ne!(count, 0, "the connection ended early");
        self.input.extend_from_slice(&buffer[..count]);
    }
}
