//! Disks that nobody here wrote, fetched whole and compared byte for byte.

use rump_tests::disk::{Disk, FREEBSD_SPARSE3, Format};
use rump_tests::http::Connection;

use crate::{assert_sane, serve};

fn compare(disk: &Disk) {
    let guest = serve(disk);
    if let Err(difference) = disk.tree.compare_over_http(guest.address()) {
        panic!("{difference:#}");
    }
    assert_sane(&guest);
}

#[test]
fn makefs_disks_of_every_format_are_served_byte_for_byte() {
    for format in Format::VARIED {
        println!("{format:?}");
        compare(&Disk::of_everything(format));
    }
}

#[test]
fn netbsds_ufs1_disk_is_served_byte_for_byte() {
    if let Some(disk) = Disk::by_netbsd("ffs1-clean") {
        compare(&disk);
    }
}

#[test]
fn netbsds_ufs2_disk_is_served_byte_for_byte() {
    if let Some(disk) = Disk::by_netbsd("ffs2-clean") {
        compare(&disk);
    }
}

#[test]
fn freebsds_disks_are_served_byte_for_byte() {
    for big_endian in [false, true] {
        compare(&Disk::by_freebsd(big_endian));
    }
}

#[test]
fn a_file_of_half_a_terabyte_is_served_from_its_triple_indirect_block() {
    for big_endian in [false, true] {
        let guest = serve(&Disk::by_freebsd(big_endian));
        let mut connection = Connection::open(guest.address()).expect("a connection");
        let mut range = |first: u64, last: u64| {
            let range = format!("Range: bytes={first}-{last}");
            let response = connection
                .exchange("GET", "/sparse3", &[&range])
                .expect("an answer");
            assert_eq!(response.status, 206, "{range}");
            response.body
        };
        assert_eq!(
            range(FREEBSD_SPARSE3, FREEBSD_SPARSE3 + 32_767),
            vec![b'x'; 32_768]
        );
        assert_eq!(
            range(FREEBSD_SPARSE3 - 10, FREEBSD_SPARSE3 + 9),
            *b"\0\0\0\0\0\0\0\0\0\0xxxxxxxxxx"
        );
        assert_eq!(range(1 << 33, (1 << 33) + 99_999), vec![0; 100_000]);
        assert_sane(&guest);
    }
}
