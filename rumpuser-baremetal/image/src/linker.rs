//! The link: by the real linker, and then what it cannot do.

use crate::elf::{self, Elf};
use crate::table;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The linker to use: rustc's own LLD where it comes with the toolchain, else the system's.
pub(crate) fn real_linker() -> PathBuf {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok();
    let sysroot = sysroot.and_then(|output| String::from_utf8(output.stdout).ok());
    let host = env::var("HOST").unwrap_or_default();
    sysroot
        .map(|root| {
            Path::new(root.trim())
                .join("lib/rustlib")
                .join(host)
                .join("bin/gcc-ld/ld.lld")
        })
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("ld"))
}

/// Links, and finishes the image. Returns the status to end with.
pub(crate) fn run(real: &OsStr, arguments: &[OsString], strip: bool) -> io::Result<i32> {
    // Whatever the profile says of stripping, symbols are wanted until the table is made.
    let kept = arguments
        .iter()
        .filter(|argument| *argument != "--strip-all" && *argument != "-s");
    let status = Command::new(real).args(kept).status()?;
    if !status.success() {
        return Ok(status.code().unwrap_or(1));
    }
    let output = output_of(arguments)?.unwrap_or_else(|| PathBuf::from("a.out"));
    finish(&output, strip)?;
    Ok(0)
}

/// Adds the table of symbols to the image at `path`.
fn finish(path: &Path, strip: bool) -> io::Result<()> {
    let linked = fs::read(path)?;
    let place = |error: elf::Malformed| io::Error::other(format!("{}: {error}", path.display()));
    let image = Elf::parse(&linked).map_err(place)?;
    let text = image.text().map_err(place)?;
    let table = table::encode(text.start, &image.functions(&text).map_err(place)?);
    let finished = if strip {
        let mut debug = path.as_os_str().to_owned();
        debug.push(".debug");
        fs::write(debug, &linked)?;
        image.stripped(&table)
    } else {
        image.with_table(&table)
    };
    // The file's rights stay: the linker made it executable.
    fs::write(path, finished.map_err(place)?)
}

/// The file after `-o`, here or in a file of arguments.
fn output_of(arguments: &[OsString]) -> io::Result<Option<PathBuf>> {
    let mut words = Vec::new();
    for argument in arguments {
        match argument
            .to_str()
            .and_then(|argument| argument.strip_prefix('@'))
        {
            Some(file) => words.extend(split(&fs::read_to_string(file)?)),
            None => words.push(argument.clone()),
        }
    }
    let position = words.iter().position(|word| word == "-o");
    Ok(position.and_then(|at| words.get(at + 1)).map(PathBuf::from))
}

/// The words of a file of arguments, as GCC writes it: separated by blanks; a backslash or quotes take a character as it is.
fn split(text: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut inside = false;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) => {
                word.extend(characters.next());
                inside = true;
            }
            (end, Some(begin)) if end == begin => quote = None,
            ('\'' | '"', None) => {
                quote = Some(character);
                inside = true;
            }
            (blank, None) if blank.is_whitespace() => {
                if inside {
                    words.push(std::mem::take(&mut word).into());
                }
                inside = false;
            }
            _ => {
                word.push(character);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word.into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_arguments_is_split_as_gcc_means_it() {
        let words = split("-o \"/elsewhere/a b\"\n-T 'x'y \\\"q\\\" ''\n");
        assert_eq!(words, ["-o", "/elsewhere/a b", "-T", "xy", "\"q\"", ""]);
    }

    #[test]
    fn the_output_is_what_follows_its_option() {
        let arguments = ["a.o", "-o", "image", "b.o"].map(OsString::from);
        assert_eq!(output_of(&arguments).unwrap(), Some(PathBuf::from("image")));
        assert_eq!(output_of(&arguments[2..]).unwrap(), None);
    }
}
