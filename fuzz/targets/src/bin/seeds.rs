//! Writes the inputs to start from: `seeds FOLDER`, a folder in it for each target.

use std::path::PathBuf;

use fuzz_targets::TARGETS;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or("fuzz/corpus".into()));
    for target in TARGETS {
        let own = folder.join(target.name);
        std::fs::create_dir_all(&own)?;
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(own.join(format!("seed-{number:04}")), seed)?;
        }
        println!("{}: {} seeds", own.display(), seeds.len());
    }
    Ok(())
}
