//! An hour of a kernel that has little to do: with a file system, a network, and a client that asks once a minute. How fast that goes is printed,
//! not judged.

mod volume;

use rump::net::{TcpListener, TcpStream};
use rump::{Config, IpConfig, Kernel, MountSpec};
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::superblock::Format;
use rumpuser_sim::{SimDisk, Universe, Wire, sweep};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use volume::{WITH_A_WIRE, make};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MINUTES: u64 = 60;

fn config(addr: Ipv4Addr) -> Config {
    Config {
        ip: IpConfig::Static {
            addr,
            prefix: 24,
            gateway: None,
        },
        ..Config::default()
    }
}

/// Appends a line to a log for each connection, and says how long the log is.
fn keep_a_log() {
    let listener = TcpListener::bind(SocketAddr::from((SERVER, 80))).expect("it can listen");
    for _ in 0..MINUTES {
        let (stream, _) = listener.accept().expect("a connection");
        let log = rump::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .append(true);
        let log = log.open("/log").expect("the log");
        log.write(b"somebody came\n").expect("written");
        let length = log.metadata().expect("it is there").len();
        stream.write(&length.to_le_bytes()).expect("sent");
    }
}

fn an_hour(universe: &Universe) {
    let wire = Wire::new("wire");
    let server = universe.machine("server");
    server.add_port(wire.port([2, 0, 0, 0, 0, 1]));
    server.add_disk(SimDisk::new(
        "ld0",
        make(Options::new(Format::Ufs2, 2 << 20)),
        true,
    ));
    let server = server.spawn("main", || {
        let config = Config {
            mounts: vec![MountSpec::root()],
            ..config(SERVER)
        };
        let kernel = Kernel::boot(config, WITH_A_WIRE).expect("a kernel boots");
        let process = kernel.attach("server").expect("a process");
        assert_eq!(rump::fs::mount_configured(), Ok(1));
        keep_a_log();
        drop(process);
        kernel.shutdown();
    });
    universe.here().add_port(wire.port([2, 0, 0, 0, 0, 2]));
    let kernel =
        Kernel::boot(config(Ipv4Addr::new(10, 0, 0, 2)), WITH_A_WIRE).expect("a kernel boots");
    let process = kernel.attach("client").expect("a process");
    for minute in 0..MINUTES {
        universe.sleep(Duration::from_secs(60));
        let stream = TcpStream::connect(SocketAddr::from((SERVER, 80))).expect("connected");
        let mut answer = [0; 8];
        let mut have = 0;
        while have < answer.len() {
            let count = stream.read(&mut answer[have..]).expect("an answer");
            assert!(count > 0, "the answer ends early");
            have += count;
        }
        assert_eq!(u64::from_le_bytes(answer), 14 * (minute + 1));
    }
    server.join();
    drop(process);
    kernel.shutdown();
}

#[test]
fn an_hour_passes_with_a_request_a_minute() {
    let total = sweep!(an_hour_passes_with_a_request_a_minute, 3, an_hour);
    assert!(total.elapsed >= Duration::from_secs(3600) * total.universes as u32);
}
