//! TCP and UDP over wires that lose, double, delay, corrupt and cut off what they carry; and a hundred kernels with a router between them.

mod refusal;
mod volume;

use rump::net::{TcpListener, TcpStream, UdpSocket};
use rump::{Component, Config, Errno, IpConfig, Kernel, MountSpec};
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::superblock::Format;
use rumpnet::ifnet::InIfaddr;
use rumpnet_netinet::Inet;
use rumpuser_sim::net::WireFaults;
use rumpuser_sim::{Machine, SimDisk, SimPort, Stream, Universe, Wire, sweep};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use volume::{WITH_A_WIRE, make};

const COMPONENTS: &[&Component] = &[
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpnet_virtif::COMPONENT,
];

const PORT: u16 = 80;
/// How long a kernel tries to connect, or a wire is cut, at most.
const PATIENCE: u64 = 20;

fn static_address(addr: Ipv4Addr, gateway: Option<Ipv4Addr>) -> IpConfig {
    IpConfig::Static {
        addr,
        prefix: 24,
        gateway,
    }
}

/// Boots a kernel without a disk on the calling thread's machine.
fn boot(address: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Arc<Kernel> {
    let config = Config {
        ip: static_address(address, gateway),
        ..Config::default()
    };
    Kernel::boot(config, COMPONENTS).expect("a kernel boots")
}

fn mac(network: u8, host: u8) -> [u8; 6] {
    [2, 0, 0, 0, network, host]
}

/// The bytes that `server` has for `client`.
fn text(server: u64, client: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Stream::new(server.wrapping_mul(1 << 20).wrapping_add(client), "text").fill(&mut bytes);
    bytes
}

/// Writes all of `bytes`.
fn send_all(stream: &TcpStream, bytes: &[u8]) -> Result<(), Errno> {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += stream.write(&bytes[sent..])?;
    }
    Ok(())
}

/// Reads until the peer ends.
fn read_all(stream: &TcpStream) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut piece = [0; 3000];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// Answers `connections` connections, one at a time: eight bytes of a number come, what `content` has for it goes.
fn serve(connections: usize, content: impl Fn(u64) -> Vec<u8> + Clone + Send + 'static) {
    let listener =
        TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT))).expect("it can listen");
    for _ in 0..connections {
        let Ok((stream, _)) = listener.accept() else {
            // There was no memory for it.
            continue;
        };
        let content = content.clone();
        let answer = move || {
            let mut number = [0; 8];
            let mut have = 0;
            while have < 8 {
                match stream.read(&mut number[have..]) {
                    Ok(count @ 1..) => have += count,
                    // Who gives up is heard of by its own side.
                    Ok(0) | Err(_) => return,
                }
            }
            let client = u64::from_le_bytes(number);
            if send_all(&stream, &content(client)).is_ok() {
                let _ = stream.shutdown_write();
                // Until the other side has ended, too.
                let _ = read_all(&stream);
            }
        };
        rump::thread::spawn("answer", answer).expect("a thread");
    }
}

/// What the server at `address` has for `client`.
fn fetch(address: Ipv4Addr, client: u64) -> Result<Vec<u8>, Errno> {
    let stream = TcpStream::connect(SocketAddr::from((address, PORT)))?;
    send_all(&stream, &client.to_le_bytes())?;
    read_all(&stream)
}

fn draw_faults(stream: &mut Stream) -> WireFaults {
    let mut some = |most: u64| match stream.below(3) {
        0 => 0,
        _ => stream.below(most),
    };
    WireFaults {
        loss: some(100_000),
        duplication: some(100_000),
        reordering: some(200_000),
        corruption: some(50_000),
        delay: 10_000 + some(30_000_000),
        rate: [0, 10_000_000, 1_000_000_000][some(3) as usize],
    }
}

/// Cuts the wire for a while, now and then.
fn cut_now_and_then(
    universe: Universe,
    wire: Wire,
    port: &'static SimPort,
    mut stream: Stream,
    times: u64,
) {
    if times == 0 {
        return;
    }
    let until = Duration::from_millis(stream.between(10, 5000));
    universe.after(until, move || {
        wire.set_side(port, 1);
        let long = Duration::from_millis(stream.between(10, PATIENCE * 1000 / 4));
        universe.after(long, move || {
            wire.set_side(port, 0);
            cut_now_and_then(universe, wire, port, stream, times - 1);
        });
    });
}

/// A server, clients, a bad wire. Every byte arrives, once and in its place, or the connection says that it is broken.
fn lossy(universe: &Universe) {
    let mut stream = universe.stream("lossy");
    let wire = Wire::new("wire");
    let faults = draw_faults(&mut stream);
    wire.set_faults(faults);
    let len = [10, 3000, 100_000][stream.below(3) as usize] + stream.below(2000) as usize;
    let clients = stream.between(1, 4);
    let cuts = stream.below(3);
    let refused = stream.chance(1, 3);
    universe.note(&format!(
        "{clients} clients of {len} bytes, {cuts} cuts, memory refused: {refused}, {faults:?}"
    ));
    if refused {
        let (universe, stream) = (*universe, universe.stream("refusal"));
        // Not before the kernels are up: one that has not the memory to boot does not.
        universe.after(Duration::from_millis(90), move || {
            refusal::begin(universe, stream);
        });
        universe.after(Duration::from_secs(30), || {
            refusal::end();
        });
    }
    let server = universe.machine("server");
    let server_port = wire.port(mac(0, 1));
    server.add_port(server_port);
    let server_address = Ipv4Addr::new(10, 0, 0, 1);
    server.spawn("main", move || {
        let kernel = boot(server_address, None);
        let _process = kernel.attach("server").expect("a process");
        echo_datagrams();
        // Those that fail are tried again: more connections than clients.
        serve(10_000, move |client| text(1, client, len));
    });
    cut_now_and_then(
        *universe,
        wire.clone(),
        server_port,
        universe.stream("cuts"),
        cuts,
    );
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let machine = universe.machine(&format!("client{number}"));
            machine.add_port(wire.port(mac(0, 10 + number as u8)));
            machine.spawn("main", move || {
                let kernel = boot(Ipv4Addr::new(10, 0, 0, 10 + number as u8), None);
                let process = kernel.attach("client").expect("a process");
                rump::thread::sleep(Duration::from_millis(100));
                fetch_until_it_works(server_address, number, len);
                ask_with_datagrams(server_address, number);
                drop(process);
                kernel.shutdown();
            })
        })
        .collect();
    for task in tasks {
        task.join();
    }
}

fn fetch_until_it_works(server: Ipv4Addr, number: u64, len: usize) {
    for attempt in 0.. {
        match fetch(server, number) {
            Ok(bytes) => {
                assert!(
                    bytes == text(1, number, len),
                    "{} of {len} bytes, or wrong ones",
                    bytes.len()
                );
                return;
            }
            Err(errno) => {
                let broken = [
                    Errno::ETIMEDOUT,
                    Errno::EHOSTUNREACH,
                    Errno::EHOSTDOWN,
                    Errno::ECONNREFUSED,
                    Errno::ECONNRESET,
                    Errno::ENOBUFS,
                    Errno::ENOMEM,
                ];
                assert!(
                    broken.contains(&errno) && attempt < 50,
                    "attempt {attempt}: {errno}"
                );
                rump::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// Sends each datagram back to where it came from.
fn echo_datagrams() {
    let socket = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 7))).expect("a socket");
    let echo = move || {
        let mut bytes = [0; 2000];
        loop {
            if let Ok((count, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..count], from);
            }
        }
    };
    rump::thread::spawn("echo", echo).expect("a thread");
}

/// Datagrams may get lost, but what comes back is what was sent.
fn ask_with_datagrams(server: Ipv4Addr, number: u64) {
    let socket = loop {
        match UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 0))) {
            Ok(socket) => break socket,
            Err(errno) => assert!([Errno::ENOBUFS, Errno::ENOMEM].contains(&errno), "{errno}"),
        }
    };
    socket.set_nonblocking(true).expect("it does not fail");
    for round in 0..10 {
        let question = text(number, round, 8 + 70 * round as usize);
        let _ = socket.send_to(&question, SocketAddr::from((server, 7)));
        rump::thread::sleep(Duration::from_millis(200));
        let mut answer = [0; 2000];
        while let Ok((count, _)) = socket.recv_from(&mut answer) {
            let known = (0..=round)
                .any(|round| answer[..count] == text(number, round, 8 + 70 * round as usize));
            assert!(known, "{count} bytes that nobody sent");
        }
    }
}

#[test]
fn every_byte_arrives_over_a_bad_wire() {
    sweep!(every_byte_arrives_over_a_bad_wire, 200, lossy, 64 << 20);
}

/// A client fetches a file and asks with datagrams, and one allocation that this needs, on either side, is refused: the one that the seed
/// says. Whoever asked is told, or what was dropped is sent again; nothing is wrong with what comes, and then all works.
fn one_allocation_is_refused(universe: &Universe) {
    const LEN: usize = 100_000;
    universe.must_end_within(Duration::from_secs(1000));
    let wire = Wire::new("wire");
    let server = universe.machine("server");
    server.add_port(wire.port(mac(0, 1)));
    let address = Ipv4Addr::new(10, 0, 0, 1);
    server.spawn("main", move || {
        let kernel = boot(address, None);
        let _process = kernel.attach("server").expect("a process");
        echo_datagrams();
        serve(10_000, |client| text(1, client, LEN));
    });
    let client = universe.machine("client");
    client.add_port(wire.port(mac(0, 2)));
    let universe = *universe;
    let client = client.spawn("main", move || {
        let kernel = boot(Ipv4Addr::new(10, 0, 0, 2), None);
        let process = kernel.attach("client").expect("a process");
        // Both are up then.
        rump::thread::sleep(Duration::from_millis(100));
        refusal::once(&universe, universe.seed() + 1);
        ask_with_datagrams(address, 0);
        fetch_until_it_works(address, 1, LEN);
        universe.count("refused", u64::from(refusal::end()));
        let bytes = fetch(address, 2).expect("nothing is in its way");
        assert!(bytes == text(1, 2, LEN), "{} bytes", bytes.len());
        drop(process);
        kernel.shutdown();
    });
    client.join();
}

#[test]
fn any_allocation_may_be_refused_while_bytes_are_carried() {
    sweep!(
        any_allocation_may_be_refused_while_bytes_are_carried,
        150,
        one_allocation_is_refused,
        64 << 20
    );
}

/// Kernels on each of the two networks.
const EACH: u8 = 50;
/// Bytes of what each of them fetches from another.
const FILE: usize = 20_000;

/// Writes a file, and waits until it is on the disk.
fn write_file(path: &str, bytes: &[u8]) {
    let file = rump::fs::File::create(path).expect("it can be made");
    let mut written = 0;
    while written < bytes.len() {
        let piece = file.write(&bytes[written..]);
        written += piece.unwrap_or_else(|errno| panic!("{path}: {errno}"));
    }
    file.sync_all().expect("it is on the disk");
}

/// Numbers of a network and a host on it.
fn number_of(network: u8, host: u8) -> u64 {
    u64::from(network) * 1000 + u64::from(host)
}

/// A kernel on `machine`, at host `host` of network `network`: serves a file of its disk, fetches that of the host `from` of the other network onto
/// its disk.
fn start_kernel(
    machine: Machine,
    (network, host): (u8, u8),
    from: u8,
) -> rumpuser_sim::Task<Arc<Kernel>> {
    machine.spawn("main", move || {
        let gateway = Ipv4Addr::new(10, 0, network, 254);
        let address = Ipv4Addr::new(10, 0, network, host);
        let config = Config {
            ip: static_address(address, Some(gateway)),
            mounts: vec![MountSpec::root()],
            ..Config::default()
        };
        let kernel = Kernel::boot(config, WITH_A_WIRE).expect("a kernel boots");
        let process = kernel.attach("main").expect("a process");
        assert_eq!(rump::fs::mount_configured(), Ok(1));
        write_file("/own", &text(number_of(network, host), 0, FILE));
        let file = |_| rump::fs::read("/own").expect("it was written");
        let server = rump::thread::spawn("server", move || serve(1, file)).expect("a thread");
        rump::thread::sleep(Duration::from_secs(1));
        let peer = Ipv4Addr::new(10, 0, 1 - network, from);
        let bytes = fetch(peer, 0).unwrap_or_else(|errno| panic!("from {peer}: {errno}"));
        write_file("/fetched", &bytes);
        let fetched = rump::fs::read("/fetched").expect("it was written");
        assert!(
            fetched == text(number_of(1 - network, from), 0, FILE),
            "{} bytes from {peer}",
            fetched.len()
        );
        server.join();
        drop(process);
        kernel
    })
}

/// Two wires, a router between them, and a hundred kernels with a disk each, of which each fetches a file from one beyond the router.
fn a_hundred(universe: &Universe) {
    let wires = [Wire::new("wire0"), Wire::new("wire1")];
    for wire in &wires {
        wire.set_faults(WireFaults {
            loss: 2000,
            reordering: 20_000,
            ..WireFaults::NONE
        });
    }
    let router = universe.machine("router");
    for (network, wire) in (0..).zip(&wires) {
        router.add_port(wire.port(mac(network, 254)));
    }
    let router = router.spawn("main", || {
        let kernel = boot(Ipv4Addr::new(10, 0, 0, 254), None);
        let inet = kernel.get::<Inet>().expect("it has the protocols");
        let second = inet
            .net()
            .interfaces()
            .into_iter()
            .find(|ifp| ifp.name() == "virt1");
        let address = InIfaddr {
            addr: Ipv4Addr::new(10, 0, 1, 254),
            prefix_len: 24,
        };
        inet.add_address(&second.expect("the second wire"), address)
            .expect("it is free");
        inet.set_forwarding(true);
        (kernel, inet)
    });
    let (router, inet) = router.join();
    let mut kernels = Vec::new();
    let volume = make(Options::new(Format::Ufs2, 512 << 10));
    for host in 1..=EACH {
        for network in 0..2u8 {
            let name = format!("k{network}.{host}");
            let machine = universe.machine(&name);
            machine.add_port(wires[usize::from(network)].port(mac(network, host)));
            machine.add_disk(SimDisk::new(
                &format!("disk of {name}"),
                volume.clone(),
                true,
            ));
            kernels.push(start_kernel(machine, (network, host), host % EACH + 1));
        }
    }
    let kernels: Vec<_> = kernels.into_iter().map(rumpuser_sim::Task::join).collect();
    assert_eq!(kernels.len(), 100);
    let forwarded = inet
        .ipstat
        .forward
        .load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        forwarded > 100 * (FILE / 1500) as u64,
        "{forwarded} packets"
    );
    for kernel in kernels {
        kernel.shutdown();
    }
    router.shutdown();
}

#[test]
fn a_hundred_kernels_fetch_files_from_each_other_through_a_router() {
    sweep!(
        a_hundred_kernels_fetch_files_from_each_other_through_a_router,
        2,
        a_hundred,
        256 << 20
    );
}
