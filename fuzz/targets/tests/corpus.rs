//! Every target on its seeds, and on inputs made of them at random: `FUZZ_RUNS` says how many (1,000), `SEED` which,
//! `FUZZ_TARGET` of which target alone.

use fuzz_targets::TARGETS;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// A seed with bytes changed, left out and put in, and a part of another.
fn made(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 | 1 if at < input.len() => input[at] = random.next() as u8,
            2 if at < input.len() => input[at] ^= 1 << random.below(8),
            3 => input.truncate(at.max(2)),
            4 => input.insert(at, [0, 1, 0x7f, 0x80, 0xff][random.below(5)]),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input
}

/// An input that failed, again: `FUZZ_INPUT` is its file, `FUZZ_TARGET` its target's name.
#[test]
fn the_input_that_is_named_is_borne() {
    let Some(path) = std::env::var_os("FUZZ_INPUT") else {
        return;
    };
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET says of which target");
    let target = TARGETS.into_iter().find(|target| target.name == name);
    let input = std::fs::read(path).expect("the file");
    (target.expect("there is one of that name").run)(&input);
}

/// All in one test: the targets share a kernel, whose buffers they count.
#[test]
fn every_target_bears_its_seeds_and_a_thousand_inputs_made_of_them() {
    let (seed, runs) = (number("SEED", 1), number("FUZZ_RUNS", 1000));
    let alone = std::env::var("FUZZ_TARGET").ok();
    let is_wanted = |name: &str| alone.as_ref().is_none_or(|alone| alone == name);
    for target in TARGETS.into_iter().filter(|target| is_wanted(target.name)) {
        println!("{}: SEED={seed}", target.name);
        let seeds = (target.seeds)();
        seeds.iter().for_each(|seed| (target.run)(seed));
        let mut random = Random(seed);
        let begun = std::time::Instant::now();
        for _ in 0..runs {
            let input = made(&seeds, &mut random);
            let shown = input.escape_ascii().to_string();
            let run = std::panic::AssertUnwindSafe(|| (target.run)(&input));
            if let Err(why) = std::panic::catch_unwind(run) {
                eprintln!("{}: b\"{shown}\"", target.name);
                std::panic::resume_unwind(why);
            }
        }
        println!(
            "{}: {:?} a run",
            target.name,
            begun.elapsed() / runs.max(1) as u32
        );
    }
}
