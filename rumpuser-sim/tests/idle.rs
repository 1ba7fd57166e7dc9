//! An hour of a kernel that has little to do: with a file system, a network, and a client that asks once a minute. How fast that goes is printed,
//! not judged.

use rump::net::{TcpListener, TcpStream};
use rump::{Component, Config, IpConfig, Kernel, MountSpec};
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::superblock::Format;
use rumpuser_sim::{SimDisk, Universe, Wire, sweep};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpnet_virtif::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MINUTES: u64 = 60;

fn volume() -> Vec<u8> {
    let mut image = vec![0; 2 << 20];
    let plan = Plan::new(Options::new(Format::Ufs2, image.len() as u64)).expect("a plan");
    plan.write(&mut |at, part| {
        image[at as usize..at as usize + part.len()].copy_from_slice(part);
        Ok(())
    })
    .expect("memory takes it");
    image
}

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
    server.add_disk(SimDisk::new("ld0", volume(), true));
    let server = server.spawn("main", || {
        let config = Config {
            mounts: vec![MountSpec::root()],
            ..config(SERVER)
        };
        let kernel = Kernel::boot(config, COMPONENTS).expect("a kernel boots");
        let process = kernel.attach("server").expect("a process");
        assert_eq!(rump::fs::mount_configured(), Ok(1));
        keep_a_log();
        drop(process);
        kernel.shutdown();
    });
    universe.here().add_port(wire.port([2, 0, 0, 0, 0, 2]));
    let kernel =
        Kernel::boot(config(Ipv4Addr::new(10, 0, 0, 2)), COMPONENTS).expect("a kernel boots");
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
