//! Spoiled images, which a program survives. In a process of its own, for a logger that says nothing.

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::random::Random;
use rump_tests::spoil::Spoiler;
use std::fs;
use std::path::Path;
use ukfs::{Image, Options, check};

/// Looks at everything that can be had. Answers how much cannot.
fn look_at_all(image: &Image) -> usize {
    let mut errors = 0;
    for entry in image.walk("/") {
        let Ok(entry) = entry else {
            errors += 1;
            continue;
        };
        let metadata = entry.metadata();
        if metadata.is_symlink() {
            errors += usize::from(image.read_link(entry.path()).is_err());
        }
        if metadata.is_file() {
            errors += usize::from(look_into(image, entry.path(), metadata.len()).is_err());
        }
    }
    errors
}

fn look_into(image: &Image, path: &Path, size: u64) -> Result<(), ukfs::Error> {
    let file = image.open_file(path)?;
    let mut buffer = [0; 70_000];
    for at in [0, 12 * 4096, size / 2, size.saturating_sub(9000)] {
        file.read_at(&mut buffer, at)?;
    }
    Ok(())
}

/// A logger for those who know what comes.
struct Quiet;

impl log::Log for Quiet {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        false
    }
    fn log(&self, _: &log::Record<'_>) {}
    fn flush(&self) {}
}

#[test]
fn three_hundred_spoiled_images_give_errors_and_nothing_else() {
    let disk = |format| {
        let disk = Disk::of(format, |files| {
            for (name, size) in [("empty", 0), ("short", 700), ("long", 300_000)] {
                write_random(&files.join(name), size);
            }
            fs::create_dir_all(files.join("a/b/c")).expect("a folder");
            for number in 0..40 {
                write_random(&files.join(format!("a/b/{number:0>30}")), number);
            }
            std::os::unix::fs::symlink("a/".repeat(100), files.join("link")).expect("a link");
        });
        let bytes = fs::read(&disk.image).expect("the image");
        (Spoiler::new(&bytes), bytes)
    };
    let disks = [Format::VARIED[0], Format::VARIED[1], Format::UFS2].map(disk);
    log::set_logger(&Quiet).expect("the first logger");
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = given.map_or(0..300, |seed: u64| seed..seed + 1);
    let all = seeds.end - seeds.start > 1;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut refused, mut faulty, mut damaged) = (0, 0, 0);
    for seed in seeds {
        let (spoiler, bytes) = &disks[(seed % disks.len() as u64) as usize];
        let mut spoiled = bytes.clone();
        let done = spoiler.spoil(&mut spoiled, &mut Random::new(seed));
        println!("SEED={seed}: {done}");
        let path = folder.path().join("spoiled.img");
        fs::write(&path, &spoiled).expect("a file");
        match Image::open(&*path, Options::new()) {
            Err(error) => {
                assert!(error.to_string().contains("spoiled.img: "), "{error}");
                refused += 1;
            }
            Ok(image) => {
                faulty += usize::from(look_at_all(&image) > 0);
                image.close().expect("nothing is in use");
            }
        }
        let checked = check::check(&*path, None);
        damaged += usize::from(!checked.is_ok_and(|report| report.is_consistent()));
        let same = fs::read(&path).expect("the file") == spoiled;
        assert!(same, "reading does not change an image");
    }
    println!("{refused} refused, {faulty} with faulty files, {damaged} that the check minds");
    assert!(!all || (refused > 10 && faulty > 10 && damaged > 150));
}
