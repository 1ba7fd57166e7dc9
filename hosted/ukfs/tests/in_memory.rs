//! An image that the host keeps in memory, within little memory of the kernel's own, which is that of the whole process.

use ukfs::{Image, Options, check, mkfs};

/// There small writes are made where they are asked for, and nothing is flushed.
#[test]
fn an_image_in_a_tmpfs_takes_what_any_other_takes() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    for log in [false, true] {
        let path = folder.path().join(format!("{log}.img"));
        mkfs::make(&*path, &mkfs::Options::new().size(64 << 20)).expect("a volume");
        // So little memory that pages and metadata are written back meanwhile.
        let options = || Options::new().write(true).log(log).memory_limit(1 << 20);
        let image = Image::open(&*path, options()).expect("an image");
        let bytes = |n: usize| vec![n as u8; n * 997 % 300_000];
        std::thread::scope(|scope| {
            for part in 0..3 {
                let image = &image;
                scope.spawn(move || {
                    for n in (part..240).step_by(3) {
                        let file = image.create_file(format!("/{n}")).expect("a file");
                        file.write_all_at(&bytes(n), 0).expect("room");
                        match n % 8 {
                            0 => file.sync_all().expect("stable"),
                            1 => image.remove_file(format!("/{n}")).expect("it is there"),
                            _ => {}
                        }
                    }
                });
            }
        });
        image.close().expect("nothing is in use");
        let report = check::check(&*path, None).expect("a volume");
        assert_eq!(report.findings, [""; 0]);
        let image = Image::open(&*path, options()).expect("an image");
        for n in (0..240).filter(|n| n % 8 != 1) {
            assert!(image.read(format!("/{n}")).expect("it is there") == bytes(n));
        }
    }
}
