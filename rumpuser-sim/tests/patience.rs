//! The file server's patience has an end, with each kind of client that does not go on; and the end of some is none of the others'.

mod volume;

use httpd::server::{Options, Server};
use rump::net::TcpStream;
use rump::{Config, IpConfig, Kernel, MountSpec, thread};
use rumpfs_ffs::mkfs;
use rumpfs_ffs::superblock::Format;
use rumpuser_sim::{SimDisk, Universe, Wire, sweep};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use volume::{WITH_A_WIRE, make};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
const CLIENTS_MAX: usize = 6;
/// Longer than the server waits for anybody.
const LONG: Duration = Duration::from_secs(200);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(host: u8) -> Config {
    Config {
        ip: IpConfig::Static {
            addr: Ipv4Addr::new(10, 0, 0, host),
            prefix: 24,
            gateway: None,
        },
        ..Config::default()
    }
}

/// A client that sends this, and no more.
fn sends(text: &str) -> TcpStream {
    let stream = TcpStream::connect(SERVER).expect("connected");
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let count = stream.write(left).expect("sent");
        left = &left[count..];
    }
    stream
}

/// What comes until the server ends the connection, whichever way it does.
fn rest(stream: &TcpStream) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        all.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn patience(universe: &Universe) {
    let wire = Wire::new("wire");
    let machine = universe.machine("server");
    machine.add_port(wire.port([2, 0, 0, 0, 0, 1]));
    machine.add_disk(SimDisk::new(
        "ld0",
        make(mkfs::Options::new(Format::Ufs2, 2 << 20)),
        true,
    ));
    let server = machine.spawn("main", || {
        let config = Config {
            mounts: vec![MountSpec::root()],
            ..config(1)
        };
        let kernel = Kernel::boot(config, WITH_A_WIRE).expect("a kernel boots");
        let process = kernel.attach("server").expect("a process");
        assert_eq!(rump::fs::mount_configured(), Ok(1));
        let options = Options {
            root: b"/".to_vec(),
            address: SERVER,
            workers: 4,
            clients_max: CLIENTS_MAX,
        };
        let server = Server::new(options).expect("it listens");
        let serving = server.clone();
        let workers = thread::spawn("httpd", move || {
            serving.run().expect("its threads");
        })
        .expect("a thread");
        thread::sleep(LONG + PATIENCE);
        assert_eq!(server.clients(), 0);
        server.stop();
        workers.join();
        drop(process);
        kernel.shutdown();
    });
    universe.here().add_port(wire.port([2, 0, 0, 0, 0, 2]));
    let ours = Kernel::boot(config(2), WITH_A_WIRE).expect("a kernel boots");
    let client = ours.attach("client").expect("a process");
    // Until it listens.
    universe.sleep(PATIENCE / 10);
    let get = "GET / HTTP/1.1\r\nHost: disk\r\n";
    let held = [
        // Nothing; half a head; one request, and then nothing; half of what it said that it would send.
        sends(""),
        sends(get),
        sends(&format!("{get}\r\n")),
        sends("PUT /half HTTP/1.1\r\nHost: disk\r\nContent-Length: 10\r\n\r\nhello"),
        sends(get),
        sends(get),
    ];
    // Idle ones make room; when there are none left, there is 503, and the refused do not end their connections either.
    let refused: Vec<_> = (0..4).map(|_| sends(&format!("{get}\r\n"))).collect();
    universe.sleep(LONG);
    let last = sends(&format!("{get}Connection: close\r\n\r\n"));
    assert!(rest(&last).starts_with("HTTP/1.1 200 "), "nobody is served");
    for stream in held.iter().chain(&refused) {
        rest(stream);
    }
    drop((held, refused, last, client));
    ours.shutdown();
    server.join();
}

#[test]
fn clients_that_do_not_go_on_are_ended_and_others_are_served() {
    sweep!(
        clients_that_do_not_go_on_are_ended_and_others_are_served,
        20,
        patience
    );
}
