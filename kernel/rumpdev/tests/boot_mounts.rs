//! `mount=`: what a kernel mounts at boot, from whole disks and from their partitions.

use rumpdev::md::MemoryDisk;
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::superblock::Format;
use rumpkern::{Config, Kernel, MountSpec};
use rumpuser_hosted::Host;
use rumpvfs::Vfs;
use std::sync::Arc;

const VOLUME: u64 = 4 << 20;

fn volume() -> Vec<u8> {
    let mut bytes = vec![0; VOLUME as usize];
    let plan = Plan::new(Options::new(Format::Ufs2, VOLUME)).unwrap();
    plan.write(&mut |at, piece: &[u8]| {
        bytes[at as usize..at as usize + piece.len()].copy_from_slice(piece);
        Ok(())
    })
    .unwrap();
    bytes
}

/// A disk with an MBR of two partitions: the first of zeroes, the second with `volume`.
fn partitioned(volume: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 512 * 300];
    bytes.extend_from_slice(volume);
    let sectors = (volume.len() / 512) as u32;
    for (slot, (kind, start, sectors)) in [(0x83u8, 100u32, 200u32), (0xa5, 300, sectors)]
        .iter()
        .enumerate()
    {
        let at = 446 + slot * 16;
        bytes[at + 4] = *kind;
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fn spec(device: &str, path: &str, fstype: Option<&str>) -> MountSpec {
    MountSpec {
        device: device.into(),
        path: path.into(),
        fstype: fstype.map(Into::into),
        options: String::new(),
    }
}

fn boot(mounts: Vec<MountSpec>) -> Arc<Kernel> {
    Host::install_for_tests();
    let config = Config {
        mounts,
        loglevel: log::LevelFilter::Off,
        ..Config::default()
    };
    let components = [
        &rumpvfs::COMPONENT,
        &rumpdev::COMPONENT,
        &rumpfs_ffs::COMPONENT,
    ];
    Kernel::boot(config, &components).unwrap()
}

/// Boots a kernel with `disks` as ld0, ld1… and `mounts`; answers what was mounted where.
fn mounted(disks: Vec<Vec<u8>>, mounts: Vec<MountSpec>) -> Vec<String> {
    let kernel = boot(mounts);
    let _lwp = kernel.attach("test").unwrap();
    for bytes in disks {
        rumpdev::attach_disk(&kernel, MemoryDisk::new(bytes)).unwrap();
    }
    let vfs: Arc<Vfs> = kernel.get().unwrap();
    let count = vfs.mount_configured(&kernel);
    let names: Vec<String> = vfs
        .mounts()
        .iter()
        .map(|mount| mount.name().into())
        .collect();
    assert_eq!(count, names.len());
    kernel.shutdown();
    assert!(vfs.mounts().is_empty(), "shutdown unmounts");
    names
}

#[test]
fn a_disk_without_partitions_is_mounted_whole() {
    let names = mounted(vec![volume()], vec![MountSpec::root()]);
    assert_eq!(names, ["ld0 on /"]);
}

#[test]
fn a_disk_with_partitions_stands_for_the_first_that_has_a_file_system() {
    let names = mounted(vec![partitioned(&volume())], vec![MountSpec::root()]);
    assert_eq!(names, ["ld0f on /"]);
    let by_name = mounted(
        vec![partitioned(&volume())],
        vec![spec("ld0f", "/", Some("ffs"))],
    );
    assert_eq!(by_name, ["ld0f on /"]);
}

#[test]
fn what_cannot_be_mounted_is_left_out_and_the_rest_is_mounted() {
    let specs = vec![
        spec("ld0", "/", None),
        spec("ld7", "/", None),
        spec("ld1", "/", None),
        spec("ld1", "/nowhere", None),
        spec("ld1", "/", Some("nofs")),
    ];
    assert_eq!(
        mounted(vec![vec![0; 100_000], volume()], specs),
        ["ld1 on /"]
    );
    assert_eq!(mounted(Vec::new(), vec![MountSpec::root()]), [""; 0]);
}
