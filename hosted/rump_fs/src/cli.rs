//! The command line.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// File-system images: list, read, copy and change what is on them, make and check them.
///
/// IMAGE is FILE or FILE:PARTITION; a partition is named by letter, number, label or wedge. Without one, the image itself or its
/// only partition with a file system is taken.
#[derive(Debug, Parser)]
#[command(name = "rump_fs", version, max_term_width = 100)]
pub struct Cli {
    /// The kind of file system, instead of finding out; mkfs, check and log know but ffs
    #[arg(long, value_name = "T", global = true)]
    pub fstype: Option<String>,
    /// Mount with the journal; mkfs, check and log show do not mount
    #[arg(long, global = true)]
    pub log: bool,
    /// Refuse every change
    #[arg(long, global = true)]
    pub readonly: bool,
    /// The kernel's budget of memory, with k, m or g
    #[arg(long, value_name = "SIZE", value_parser = size, global = true)]
    pub memlimit: Option<u64>,
    /// Answer in JSON, where there is an answer: ls, tree, stat, df, mkfs, check, log
    #[arg(long, global = true)]
    pub json: bool,
    /// Show more of the kernel's log than errors: warnings, information (-vv), details and, of mount -f, what Linux asks for (-vvv)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// One of the options, if one is given, that hold for all that the program does.
    pub fn option_of_all(&self) -> Option<&'static str> {
        let given = [
            (self.fstype.is_some(), "fstype"),
            (self.log, "log"),
            (self.readonly, "readonly"),
            (self.memlimit.is_some(), "memlimit"),
            (self.verbose > 0, "verbose"),
        ];
        given
            .into_iter()
            .find_map(|(is_given, name)| is_given.then_some(name))
    }
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
        path: Option<PathBuf>,
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
        path: Option<PathBuf>,
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
    /// Find what is inconsistent: status 0 nothing, 1 all repaired, 4 something, 8 cannot be checked
    Check {
        /// Repair what is found; not with --readonly
        #[arg(long)]
        repair: bool,
        image: OsString,
    },
    /// Look at the log, the journal of a file system's metadata; make and remove it
    #[command(subcommand)]
    Log(LogCommand),
    /// Mount it on a directory, by FUSE; goes to the background, until it is unmounted by umount(8) or a signal
    Mount(p2k::MountArgs),
    /// Read commands: those here without IMAGE, cd, pwd, sync, exit
    Sh { image: OsString },
    /// Copy files and directories of the host to the image
    Put {
        /// Keep times, modes, owners and hard links
        #[arg(short)]
        archive: bool,
        image: OsString,
        /// Paths on the host, then a directory of the image
        #[arg(num_args = 2.., required = true, value_name = "HOST-PATH... DIR")]
        paths: Vec<PathBuf>,
    },
    #[command(flatten)]
    Change(Change),
}

/// What to do with a log. To change its size, remove it and add another.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Show where it lies, how large it is, and what there is to be replayed
    Show { image: OsString },
    /// Make one: behind the file system where there is room, else inside
    Add {
        /// Its bytes, with k, m or g, instead of a 1024th of the file system
        #[arg(long, value_name = "SIZE", value_parser = size)]
        size: Option<u64>,
        image: OsString,
    },
    /// Replay what it holds, and remove it
    Remove { image: OsString },
}

/// Changes of what is on an image.
#[derive(Debug, Subcommand)]
pub enum Change {
    /// Make directories
    Mkdir {
        /// And those above them; those that are there are no errors
        #[arg(short)]
        parents: bool,
        image: OsString,
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Remove files
    Rm {
        /// And directories, with everything below them
        #[arg(short)]
        recursive: bool,
        image: OsString,
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Rename a file, or move files into a directory
    Mv {
        image: OsString,
        #[arg(num_args = 2.., required = true, value_name = "FROM... TO")]
        paths: Vec<PathBuf>,
    },
    /// Give a file a further name, or make a symbolic link
    Ln {
        /// A symbolic link
        #[arg(short)]
        symbolic: bool,
        image: OsString,
        target: PathBuf,
        name: PathBuf,
    },
    /// Change permissions
    Chmod {
        image: OsString,
        /// In octal
        #[arg(value_parser = mode)]
        mode: u32,
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Change owner and group
    Chown {
        image: OsString,
        /// UID, UID:GID or :GID, numbers
        #[arg(value_parser = owner, value_name = "OWNER")]
        owner: Owner,
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Cut files off, or extend them with holes; make those that are not there
    Truncate {
        /// The new size in bytes, with k, m, g or t
        #[arg(short, value_parser = size)]
        size: u64,
        image: OsString,
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

/// Whom files are to belong to; `None` stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
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

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o7777) => Ok(mode),
        _ => Err("no mode in octal, 0 to 7777".to_owned()),
    }
}

fn owner(text: &str) -> Result<Owner, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
    let number = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some),
    };
    match (number(uid), number(gid)) {
        (Ok(None), Ok(None)) => Err("nobody".to_owned()),
        (Ok(uid), Ok(gid)) => Ok(Owner { uid, gid }),
        _ => Err("owners are numbers: UID, UID:GID or :GID".to_owned()),
    }
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
    fn owners_are_numbers_and_modes_octal() {
        let (uid, gid) = (Some(5), Some(6));
        assert_eq!(owner("5:6"), Ok(Owner { uid, gid }));
        assert_eq!(owner(":6"), Ok(Owner { uid: None, gid }));
        assert_eq!(owner("5"), Ok(Owner { uid, gid: None }));
        assert!(owner("bin").is_err() && owner(":").is_err());
        assert_eq!(mode("4755"), Ok(0o4755));
        assert!(mode("u+x").is_err() && mode("10000").is_err());
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
