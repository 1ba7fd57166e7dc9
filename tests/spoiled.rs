//! A thousand spoiled disks in QEMU, and some spoiled logs: the image `walk` mounts each, reads all that is on it, and comes to its end.

use std::fs;
use std::ops::Range;
use std::time::Duration;

use rump_tests::disk::Disk;
use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::random::Random;
use rump_tests::scratch;
use rump_tests::spoil::{Spoiler, subjects};

/// Disks of one guest, which drives sixteen virtio devices at most.
const AT_ONCE: u64 = 12;
/// Guests.
const GUESTS: u64 = 84;
/// Much: the machine may be busy.
const LONG: Duration = Duration::from_secs(300);

/// Spoils the subjects in turn, a disk a seed, has a guest walk them, and answers what its console says.
fn walked(subjects: &[(Spoiler, Vec<u8>)], seeds: Range<u64>) -> String {
    let folder = tempfile::tempdir_in(scratch("spoiled")).expect("a folder under target");
    let mut boot = Boot::new(image("walk"))
        .memory("32")
        .without_network()
        .limit(LONG);
    let count = seeds.end - seeds.start;
    println!("seeds {seeds:?}:");
    for seed in seeds {
        // Other seeds than those of the test in this process.
        let mut random = Random::new(seed + 1_000_000);
        let (spoiler, bytes) = &subjects[(seed % subjects.len() as u64) as usize];
        let mut spoiled = bytes.clone();
        println!("{seed}: {}", spoiler.spoil(&mut spoiled, &mut random));
        let path = folder.path().join(seed.to_string());
        fs::write(&path, spoiled).expect("a file under target");
        boot = boot.disk(path);
    }
    let mut guest = boot.start();
    assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
    let console = guest.console();
    let all = format!("walk: {count} disks");
    assert!(console.contains(&all), "{console}");
    console
}

#[test]
fn spoiled_logs_of_netbsd_are_replayed_or_refused_and_the_guest_goes_on() {
    let dirty = [
        "ffs1-log-cut-a",
        "ffs2-log-cut-a",
        "ffs2-log-cut-b",
        "ffs2-log-cut-16k",
    ];
    let subjects: Vec<(Spoiler, Vec<u8>)> = dirty
        .iter()
        .filter_map(|name| Disk::by_netbsd(name))
        .map(|disk| {
            let bytes = fs::read(&disk.image).expect("the image");
            (Spoiler::of_log(&bytes), bytes)
        })
        .collect();
    if subjects.is_empty() {
        return;
    }
    let (mut refused, mut replayed) = (0, 0);
    for first in [0, AT_ONCE] {
        let console = walked(&subjects, first..first + AT_ONCE);
        refused += console.matches("refused").count();
        replayed += console.matches("replayed in memory").count();
    }
    println!("refused {refused}, replayed {replayed}");
    assert!(refused > 2 && replayed > 2);
}

#[test]
fn a_thousand_spoiled_disks_are_walked_to_the_end() {
    let subjects = subjects();
    let (mut refused, mut faulty, mut sound) = (0, 0, 0);
    for first in (0..GUESTS).map(|guest| guest * AT_ONCE) {
        let console = walked(&subjects, first..first + AT_ONCE);
        for line in console.lines().filter(|line| line.contains("walk: ld")) {
            if line.contains("refused") {
                refused += 1;
            } else if line.contains(": 0 errors") {
                sound += 1;
            } else {
                faulty += 1;
            }
        }
    }
    println!("refused {refused}, with errors {faulty}, without {sound}");
    assert_eq!(refused + faulty + sound, GUESTS * AT_ONCE);
    assert!(refused > 20 && faulty > 100 && sound > 100);
}
