//! What a file system should show: paths, and what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::http::{Connection, target_of};

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file, by its length and SHA-256.
    File {
        /// In bytes.
        size: u64,
        /// In lower-case hexadecimal.
        sha256: String,
    },
    /// A directory.
    Directory,
    /// A symbolic link, by its target.
    Symlink(String),
    /// A device, a fifo, a socket.
    Special,
}

/// A tree of files, by their paths from its root; the root itself, "", is not among them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Every path and what is there.
    pub nodes: BTreeMap<String, Node>,
    /// Mode, links, user, group and inode of what is there, where they are known.
    pub attributes: BTreeMap<String, (u32, u32, u32, u32, u64)>,
    /// When what is there was changed last, in seconds, where that is known.
    pub times: BTreeMap<String, i64>,
}

/// The form of the trees that come with the images of `shared/images`.
#[derive(Deserialize)]
struct Listing {
    entries: Vec<ListedEntry>,
}

#[derive(Deserialize)]
struct ListedEntry {
    path: String,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    inode: u64,
    size: u64,
    sha256: Option<String>,
    target: Option<String>,
}

/// A file's fingerprint, as [`Node::File`] holds it.
pub fn fingerprint(bytes: &[u8]) -> Node {
    fingerprint_of(bytes.len() as u64, &Sha256::digest(bytes))
}

/// The same of a file that was read in pieces.
pub fn fingerprint_of(size: u64, sum: &[u8]) -> Node {
    let sha256 = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    Node::File { size, sha256 }
}

impl Tree {
    /// The tree in a folder of the host. Names that are not UTF-8 are left out.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add_folder(folder, "")?;
        Ok(tree)
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Ok(name) = std::str::from_utf8(name.as_bytes()) else {
                continue;
            };
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            let known = entry.metadata()?;
            let node = if kind.is_dir() {
                self.add_folder(&entry.path(), &format!("{path}/"))?;
                Node::Directory
            } else if kind.is_symlink() {
                Node::Symlink(fs::read_link(entry.path())?.to_string_lossy().into_owned())
            } else if kind.is_file() {
                fingerprint(&fs::read(entry.path())?)
            } else {
                Node::Special
            };
            let links = u32::try_from(known.nlink())?;
            let attributes = (known.mode(), links, known.uid(), known.gid(), known.ino());
            self.attributes.insert(path.clone(), attributes);
            self.times.insert(path.clone(), known.mtime());
            self.nodes.insert(path, node);
        }
        Ok(())
    }

    /// The tree in a listing such as `shared/images` has.
    pub fn of_listing(path: &Path) -> Result<Self> {
        let listing: Listing = serde_json::from_slice(&fs::read(path)?)?;
        let mut tree = Self::default();
        for entry in listing.entries {
            // The file type bits of a mode (NetBSD sys/sys/stat.h, S_IFMT).
            let mode = u32::from_str_radix(&entry.mode, 8)?;
            let node = match mode & 0o170_000 {
                0o040_000 => Node::Directory,
                0o100_000 => Node::File {
                    size: entry.size,
                    sha256: entry
                        .sha256
                        .with_context(|| format!("no sum for {}", entry.path))?,
                },
                0o120_000 => Node::Symlink(
                    entry
                        .target
                        .with_context(|| format!("no target for {}", entry.path))?,
                ),
                _ => Node::Special,
            };
            let attributes = (mode, entry.nlink, entry.uid, entry.gid, entry.inode);
            tree.attributes.insert(entry.path.clone(), attributes);
            tree.nodes.insert(entry.path, node);
        }
        Ok(tree)
    }

    /// What is at `path` after following every link on the way, with the tree's root as `/` and as its own parent; with the path it is at.
    pub fn resolve(&self, path: &str) -> Option<(String, &Node)> {
        const ROOT: &Node = &Node::Directory;
        // NetBSD's MAXSYMLINKS.
        let mut links_left = 32;
        let mut at: Vec<String> = Vec::new();
        let mut ahead: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut node = ROOT;
        while let Some(name) = ahead.pop() {
            if *node != Node::Directory {
                return None;
            }
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(name),
            }
            node = self.nodes.get(&at.join("/"))?;
            if let Node::Symlink(target) = node {
                links_left = usize::checked_sub(links_left, 1)?;
                at.pop();
                if target.starts_with('/') {
                    at.clear();
                }
                ahead.extend(target.split('/').rev().map(str::to_owned));
                node = ROOT;
            }
        }
        let path = at.join("/");
        let node = if path.is_empty() {
            ROOT
        } else {
            self.nodes.get(&path)?
        };
        Some((path, node))
    }

    /// The names in a directory, "" being the root.
    pub fn names_in(&self, directory: &str) -> Vec<&str> {
        let prefix = if directory.is_empty() {
            String::new()
        } else {
            format!("{directory}/")
        };
        self.nodes
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter(|rest| !rest.is_empty() && !rest.contains('/'))
            .collect()
    }

    /// Compares what was found with this tree, which it should be.
    ///
    /// # Errors
    /// The differences, though not more than twenty.
    pub fn compare(&self, found: &Self) -> Result<()> {
        let paths: BTreeSet<&String> = self.nodes.keys().chain(found.nodes.keys()).collect();
        let pairs = paths
            .into_iter()
            .map(|path| (path, found.nodes.get(path), self.nodes.get(path)));
        let differences: Vec<String> = pairs
            .filter(|(_, is, should_be)| is != should_be)
            .take(20)
            .map(|(path, is, should_be)| format!("{path:?} is {is:?}, should be {should_be:?}"))
            .collect();
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        Ok(())
    }

    /// Compares modes, links, owners, groups and times with this tree's: what a copy keeps. Links have no mode, and how many links a
    /// directory has is the file system's business.
    ///
    /// # Errors
    /// The differences, though not more than twenty; a path of this tree whose attributes were not found.
    pub fn compare_attributes(&self, found: &Self) -> Result<()> {
        let kept = |tree: &Self, path: &str| {
            let (mode, links, uid, gid, _) = *tree.attributes.get(path)?;
            let mode = match tree.nodes.get(path)? {
                Node::Symlink(_) => None,
                _ => Some(mode),
            };
            let links = match tree.nodes.get(path)? {
                Node::Directory => None,
                _ => Some(links),
            };
            Some((mode, links, uid, gid, *tree.times.get(path)?))
        };
        let pairs = self
            .nodes
            .keys()
            .map(|path| (path, kept(found, path), kept(self, path)));
        let differences: Vec<String> = pairs
            .filter(|(_, is, should_be)| is.is_none() || is != should_be)
            .take(20)
            .map(|(path, is, should_be)| format!("{path:?} has {is:?}, should have {should_be:?}"))
            .collect();
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        Ok(())
    }

    /// Fetches everything in this tree from a server and compares it; every directory's page must name what is in it.
    ///
    /// # Errors
    /// Every difference, not only the first.
    pub fn compare_over_http(&self, server: SocketAddr) -> Result<()> {
        let mut connection = Connection::open(server)?;
        let mut differences = Vec::new();
        let root = [(String::new(), Node::Directory)];
        for (path, _) in root
            .iter()
            .map(|(path, node)| (path, node))
            .chain(&self.nodes)
        {
            if let Err(difference) = self.compare_one(&mut connection, path) {
                differences.push(format!("{path:?}: {difference:#}"));
                if differences.len() >= 20 {
                    break;
                }
                connection = Connection::open(server)?;
            }
        }
        ensure!(
            differences.is_empty(),
            "the server differs:\n{}",
            differences.join("\n")
        );
        Ok(())
    }

    fn compare_one(&self, connection: &mut Connection, path: &str) -> Result<()> {
        let found = self.resolve(path);
        let is_directory = matches!(found, Some((_, Node::Directory)));
        let mut target = target_of(path);
        if is_directory && !target.ends_with('/') {
            target.push('/');
        }
        let response = connection.exchange("GET", &target, &[])?;
        match found {
            Some((_, expected @ Node::File { .. })) => {
                ensure!(response.status == 200, "status {}", response.status);
                let got = fingerprint(&response.body);
                ensure!(got == *expected, "is {got:?}, should be {expected:?}");
            }
            Some((real_path, Node::Directory)) => {
                ensure!(response.status == 200, "status {}", response.status);
                let page = response.text();
                for name in self.names_in(&real_path) {
                    let link = target_of(name);
                    let link = link.trim_start_matches('/');
                    let forms = [("\"./", "\""), ("\"./", "/\""), ("\"", "\""), ("\"", "/\"")];
                    let named = forms
                        .iter()
                        .any(|(before, after)| page.contains(&format!("{before}{link}{after}")));
                    ensure!(named, "the page has no link to {name:?}");
                }
            }
            Some((_, Node::Special)) => ensure!(
                (400..500).contains(&response.status),
                "status {} for a device",
                response.status
            ),
            Some((_, Node::Symlink(_))) => bail!("resolving ends at a link: a fault of the test"),
            // 400 where a link's target has a name that no file can have.
            None => ensure!(
                matches!(response.status, 400 | 404),
                "status {} for what is not there",
                response.status
            ),
        }
        if !response.keeps_open() {
            ensure!(
                response.status >= 400,
                "the connection was closed after status {}",
                response.status
            );
            *connection = Connection::open(connection.stream().peer_addr()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.nodes.insert("a".into(), Node::Directory);
        tree.nodes.insert("a/f".into(), fingerprint(b"x"));
        tree.nodes
            .insert("a/up".into(), Node::Symlink("../../../a/f".into()));
        tree.nodes
            .insert("rooted".into(), Node::Symlink("/a/".into()));
        tree.nodes
            .insert("loop".into(), Node::Symlink("loop".into()));
        tree.nodes
            .insert("lost".into(), Node::Symlink("nowhere".into()));
        tree
    }

    #[test]
    fn a_link_is_followed_within_the_tree() {
        let tree = tree();
        assert_eq!(
            tree.resolve("rooted/up").map(|(path, _)| path),
            Some("a/f".to_owned())
        );
        assert_eq!(
            tree.resolve("rooted").map(|(path, _)| path),
            Some("a".to_owned())
        );
        assert_eq!(tree.resolve("a/f/..").map(|(path, _)| path), None);
    }

    #[test]
    fn a_loop_and_a_dangling_link_lead_nowhere() {
        assert!(tree().resolve("loop").is_none());
        assert!(tree().resolve("lost").is_none());
    }
}
