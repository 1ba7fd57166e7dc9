//! What can be said about a mount.

use clap::Args;
use fuser::{MountOption, SessionACL};
use rustix::mount::MountFlags;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// What to mount where, as the command lines have it.
#[derive(Args, Clone, Debug)]
pub struct MountArgs {
    /// Stay in the foreground
    #[arg(short)]
    pub foreground: bool,
    /// Comma-separated: ro, rw, allow_other, dev, suid, noexec, sync, dirsync, noatime, log, discard, force, remount
    #[arg(short, value_name = "OPTIONS", value_parser = MountOptions::parse)]
    pub options: Vec<MountOptions>,
    /// FILE or FILE:PARTITION
    pub image: OsString,
    /// The directory to mount it on
    pub dir: PathBuf,
}

/// The options of one `-o`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing may be changed.
    pub(crate) read_only: Option<bool>,
    allow_other: Option<bool>,
    dev: Option<bool>,
    suid: Option<bool>,
    exec: Option<bool>,
    sync: Option<bool>,
    dirsync: Option<bool>,
    /// What is mounted is mounted otherwise from now on.
    pub(crate) remount: Option<bool>,
    /// With a journal.
    pub(crate) log: Option<bool>,
    /// The image's file gives up the room of what is freed.
    pub(crate) discard: Option<bool>,
    /// In spite of flags that are not known, or a volume that is not clean.
    pub(crate) force: Option<bool>,
}

impl MountOptions {
    fn parse(text: &str) -> Result<MountOptions, String> {
        let mut options = MountOptions::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (slot, on) = match word {
                "ro" => (&mut options.read_only, true),
                "rw" => (&mut options.read_only, false),
                "allow_other" => (&mut options.allow_other, true),
                "dev" => (&mut options.dev, true),
                "nodev" => (&mut options.dev, false),
                "suid" => (&mut options.suid, true),
                "nosuid" => (&mut options.suid, false),
                "exec" => (&mut options.exec, true),
                "noexec" => (&mut options.exec, false),
                "sync" => (&mut options.sync, true),
                "async" => (&mut options.sync, false),
                "dirsync" => (&mut options.dirsync, true),
                "remount" => (&mut options.remount, true),
                "log" => (&mut options.log, true),
                "nolog" => (&mut options.log, false),
                "discard" => (&mut options.discard, true),
                "nodiscard" => (&mut options.discard, false),
                "force" => (&mut options.force, true),
                // What is so anyway: permissions are Linux's to judge, and reading leaves access times alone.
                "default_permissions" | "noatime" | "relatime" | "nodiratime" => continue,
                // What mount(8) adds, of fstab(5), of the table of mounts, or of itself.
                "auto" | "noauto" | "nofail" | "_netdev" | "defaults" => continue,
                word if MountOptions::is_of_mount(word) => continue,
                word => return Err(format!("there is no mount option {word}")),
            };
            *slot = Some(on);
        }
        Ok(options)
    }

    fn is_of_mount(word: &str) -> bool {
        let prefixes = ["user_id=", "group_id=", "rootmode=", "max_read=", "x-"];
        prefixes.iter().any(|prefix| word.starts_with(prefix))
    }

    /// Tells Linux to go on with the mount on `dir` as these options say; the image stays open as it is.
    pub(crate) fn remount(&self, dir: &Path) -> io::Result<()> {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only == Some(true));
        flags.set(MountFlags::NODEV, self.dev != Some(true));
        flags.set(MountFlags::NOSUID, self.suid != Some(true));
        flags.set(MountFlags::NOEXEC, self.exec == Some(false));
        flags.set(MountFlags::SYNCHRONOUS, self.sync == Some(true));
        flags.set(MountFlags::DIRSYNC, self.dirsync == Some(true));
        Ok(rustix::mount::mount_remount(dir, flags, "")?)
    }

    /// What several say together: the later wins.
    pub(crate) fn merge(all: &[MountOptions]) -> MountOptions {
        let mut merged = MountOptions::default();
        for one in all {
            merged = MountOptions {
                read_only: one.read_only.or(merged.read_only),
                allow_other: one.allow_other.or(merged.allow_other),
                dev: one.dev.or(merged.dev),
                suid: one.suid.or(merged.suid),
                exec: one.exec.or(merged.exec),
                sync: one.sync.or(merged.sync),
                dirsync: one.dirsync.or(merged.dirsync),
                remount: one.remount.or(merged.remount),
                log: one.log.or(merged.log),
                discard: one.discard.or(merged.discard),
                force: one.force.or(merged.force),
            };
        }
        merged
    }

    /// The same for `fuser`; `source` is what the table of mounts will show.
    pub(crate) fn for_fuse(&self, source: &str, fstype: &str) -> fuser::Config {
        let choose = |on: Option<bool>, yes, no| if on == Some(true) { yes } else { no };
        let mut options = vec![
            MountOption::FSName(source.replace(',', "\\054")),
            // `MountOption::Subtype` is not handed to mount(2).
            MountOption::CUSTOM(format!("subtype=rump_{fstype}")),
            MountOption::DefaultPermissions,
            choose(self.read_only, MountOption::RO, MountOption::RW),
            choose(self.dev, MountOption::Dev, MountOption::NoDev),
            choose(self.suid, MountOption::Suid, MountOption::NoSuid),
        ];
        if self.exec == Some(false) {
            options.push(MountOption::NoExec);
        }
        if self.sync == Some(true) {
            options.push(MountOption::Sync);
        }
        if self.dirsync == Some(true) {
            options.push(MountOption::DirSync);
        }
        let mut config = fuser::Config::default();
        config.mount_options = options;
        config.acl = match self.allow_other {
            Some(true) => SessionACL::All,
            _ => SessionACL::Owner,
        };
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_option_wins_and_one_that_is_not_known_is_named() {
        let parse = |text| MountOptions::parse(text).expect("known options");
        let merged = MountOptions::merge(&[parse("ro,allow_other"), parse("rw")]);
        assert_eq!(merged.read_only, Some(false));
        assert_eq!(merged.allow_other, Some(true));
        let refused = MountOptions::parse("ro,quota").expect_err("no such option");
        assert!(refused.contains("quota"), "{refused}");
    }

    #[test]
    fn devices_and_set_id_bits_mean_nothing_unless_that_is_asked() {
        let config = MountOptions::default().for_fuse("a,b", "ffs");
        assert!(config.mount_options.contains(&MountOption::NoDev));
        assert!(config.mount_options.contains(&MountOption::NoSuid));
        assert_eq!(config.acl, SessionACL::Owner);
    }
}
