//! The command line.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// File-system images: list, read and copy what is on them, make and check them.
///
/// IMAGE is FILE or FILE:PARTITION; a partition is named by letter, number, label or wedge. Without one, the image itself or its
/// only partition with a file system is taken.
#[derive(Debug, Parser)]
#[command(name = "rump_fs", version, max_term_width = 100)]
pub struct Cli {
    /// The kind of file system, instead of finding out
    #[arg(long, value_name = "T", global = true)]
    pub fstype: Option<String>,
    /// Mount with the journal
    #[arg(long, global = true)]
    pub log: bool,
    /// Refuse every change
    #[arg(long, global = true)]
    pub readonly: bool,
    /// The kernel's budget of memory, with k, m or g
    #[arg(long, value_name = "SIZE", value_parser = size, global = true)]
    pub memlimit: Option<u64>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Show more of the kernel's log than errors: warnings, information (-vv), details (-vvv)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List a directory
    Ls {
        /// With mode, links, owner, group, size and time
        #[arg(short)]
        long: bool,
        /// And all directories below it
        #[arg(short = 'R')]
        recursive: bool,
        image: OsString,
        #[arg(default_value = "/")]
        path: PathBuf,
    },
    /// Show everything below a directory
    Tree {
        /// With the SHA-256 of every file
        #[arg(long)]
        hash: bool,
        /// Files larger than this get no hash, and the exit status is 1
        #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64g", requires = "hash")]
        largest: u64,
        image: OsString,
        #[arg(default_value = "/")]
        path: PathBuf,
    },
    /// Write a file to standard output
    Cat { image: OsString, path: PathBuf },
    /// Copy files and directories to the host
    Get {
        /// Keep times, modes, hard links and, as root, owners
        #[arg(short)]
        archive: bool,
        image: OsString,
        /// Paths on the image, then a directory of the host
        #[arg(num_args = 2.., required = true, value_name = "PATH... HOST-DIR")]
        paths: Vec<PathBuf>,
    },
    /// Show everything about a file
    Stat { image: OsString, path: PathBuf },
    /// Show how full the file system is
    Df { image: OsString },
    /// Make an empty file system
    Mkfs(MkfsArgs),
    /// Find what is inconsistent: status 0 nothing, 4 something, 8 cannot be checked
    Check {
        /// Repair what is found
        #[arg(long)]
        repair: bool,
        image: OsString,
    },
    /// Copy files and directories to the image (refused: images are read-only)
    Put(Words),
    /// Make directories (refused: images are read-only)
    Mkdir(Words),
    /// Remove files (refused: images are read-only)
    Rm(Words),
    /// Rename files (refused: images are read-only)
    Mv(Words),
    /// Make links (refused: images are read-only)
    Ln(Words),
    /// Change modes (refused: images are read-only)
    Chmod(Words),
    /// Change owners (refused: images are read-only)
    Chown(Words),
    /// Change a file's size (refused: images are read-only)
    Truncate(Words),
}

impl Command {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Ls { .. } => "ls",
            Command::Tree { .. } => "tree",
            Command::Cat { .. } => "cat",
            Command::Get { .. } => "get",
            Command::Stat { .. } => "stat",
            Command::Df { .. } => "df",
            Command::Mkfs(_) => "mkfs",
            Command::Check { .. } => "check",
            Command::Put(_) => "put",
            Command::Mkdir(_) => "mkdir",
            Command::Rm(_) => "rm",
            Command::Mv(_) => "mv",
            Command::Ln(_) => "ln",
            Command::Chmod(_) => "chmod",
            Command::Chown(_) => "chown",
            Command::Truncate(_) => "truncate",
        }
    }
}

/// The words of a command that changes an image.
#[derive(Args, Debug)]
pub struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub words: Vec<OsString>,
}

/// What to make.
#[derive(Args, Debug)]
pub struct MkfsArgs {
    /// The kind of file system
    #[arg(short = 't', value_parser = ["ffs"], default_value = "ffs")]
    pub kind: String,
    /// FFSv1 or FFSv2
    #[arg(short = 'O', value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub version: u8,
    /// Bytes of a block
    #[arg(short = 'b', value_name = "BSIZE", value_parser = size32)]
    pub bsize: Option<u32>,
    /// Bytes of a fragment
    #[arg(short = 'f', value_name = "FSIZE", value_parser = size32)]
    pub fsize: Option<u32>,
    /// Bytes of the volume; the image is made, lengthened or cut to it
    #[arg(long, value_name = "N", value_parser = size)]
    pub size: Option<u64>,
    /// The volume's name
    #[arg(long, value_name = "L", default_value = "")]
    pub label: String,
    pub image: OsString,
}

/// A number of bytes, with k, m, g or t for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        suffix => return Err(format!("{suffix} is none of k, m, g, t")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "no number of bytes".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

fn size32(text: &str) -> Result<u32, String> {
    size(text)?.try_into().map_err(|_| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_suffixes_and_bounds() {
        assert_eq!(size("512K"), Ok(512 << 10));
        assert_eq!(size("3g"), Ok(3 << 30));
        assert!(size("99999999t").is_err());
        assert!(size("k").is_err());
        assert!(size("12q").is_err());
        assert!(size("").is_err());
    }
}
