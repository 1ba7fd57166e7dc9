//! One kernel for the process, with `lo0` and an interface on a switch.

use rumpkern::{Config, IpConfig, Kernel};
use rumpnet::Net;
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{MsgFlags, Socket, socreate};
use rumpnet_netinet::tcp::Tcp;
use rumpuser::Errno;
use rumpuser_hosted::{Host, Switch};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The kernel's address on the switch.
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// Its Ethernet address.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The kernel and the switch.
pub struct Stack {
    pub kernel: Arc<Kernel>,
    pub switch: Switch,
}

/// For tests that a flood of SYNs would disturb, and for that flood: one of them at a time.
pub fn undisturbed() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's kernel, booted by whoever asks first.
pub fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| {
        let switch = Switch::new();
        Host::builder()
            .memory(64 << 20)
            .packet_device(switch.port(OUR_MAC))
            .install()
            .expect("the first host of the process");
        let config = Config {
            ip: IpConfig::Static {
                addr: OURS,
                prefix: 16,
                gateway: None,
            },
            ..Config::default()
        };
        let components = [
            &rumpnet::COMPONENT,
            &rumpnet_net::LOOPBACK_COMPONENT,
            &rumpnet_virtif::COMPONENT,
            &rumpnet_netinet::COMPONENT,
            &rumpnet_netinet::CONFIG_COMPONENT,
        ];
        let kernel = Kernel::boot(config, &components).expect("it boots");
        Stack { kernel, switch }
    })
}

impl Stack {
    pub fn tcp(&self) -> Arc<Tcp> {
        self.kernel.get::<Tcp>().expect("TCP is attached")
    }

    pub fn socket(&self) -> Arc<Socket> {
        let net = self.kernel.get::<Net>().expect("the network is attached");
        socreate(&net, Domain::AF_INET, SockType::Stream, 0).expect("a socket")
    }

    /// A listening socket at a port of its own.
    pub fn listener(&self, backlog: usize) -> (Arc<Socket>, u16) {
        let so = self.socket();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        so.bind(any).expect("a free port");
        so.listen(backlog).expect("it listens");
        let port = so.sockname().expect("it is bound").port();
        (so, port)
    }

    /// Two ends of a connection over `lo0`.
    pub fn pair(&self) -> (Arc<Socket>, Arc<Socket>) {
        let (listener, port) = self.listener(4);
        let client = self.socket();
        client.connect(local(port)).expect("it connects");
        let (server, _) = listener.accept().expect("it is accepted");
        listener.close();
        (client, server)
    }
}

/// A port of this machine.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Bytes that tell where in the stream they stand.
pub fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(next).collect()
}

/// Sends all of it.
pub fn send_all(so: &Arc<Socket>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let sent = so.send(bytes, None, MsgFlags::empty()).expect("it is sent");
        bytes = &bytes[sent..];
    }
}

/// Receives up to the end of the stream.
pub fn receive_all(so: &Arc<Socket>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = vec![0; 16 << 10];
    loop {
        let (n, _) = so
            .receive(&mut part, MsgFlags::empty())
            .expect("it is received");
        if n == 0 {
            return all;
        }
        all.extend_from_slice(&part[..n]);
    }
}

/// Waits until something holds; says what did not if it takes too long.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a non-blocking call answers that would wait.
pub fn would_wait<T>(result: Result<T, Errno>) -> bool {
    matches!(result, Err(Errno::EAGAIN))
}
