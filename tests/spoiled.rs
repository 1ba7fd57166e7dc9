//! A thousand spoiled disks in QEMU: the image `walk` mounts each, reads all that is on it, and comes to its end.

use std::fs;
use std::time::Duration;

use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::random::Random;
use rump_tests::scratch;
use rump_tests::spoil::subjects;

/// Disks of one guest, which drives sixteen virtio devices at most.
const AT_ONCE: u64 = 12;
/// Guests.
const GUESTS: u64 = 84;
/// Much: the machine may be busy.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn a_thousand_spoiled_disks_are_walked_to_the_end() {
    let subjects = subjects();
    let (mut refused, mut faulty, mut sound) = (0, 0, 0);
    for first in (0..GUESTS).map(|guest| guest * AT_ONCE) {
        let folder = tempfile::tempdir_in(scratch("spoiled")).expect("a folder under target");
        let mut boot = Boot::new(image("walk"))
            .memory("32")
            .without_network()
            .limit(LONG);
        println!("seeds {first} to {}:", first + AT_ONCE - 1);
        for seed in first..first + AT_ONCE {
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
        let all = format!("walk: {AT_ONCE} disks");
        assert!(console.contains(&all), "{console}");
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
