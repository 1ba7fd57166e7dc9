//! `dissect.ffs`.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::setup;
use crate::tree::{Node, Tree};

/// The release that the tests were written with.
const MODULE: &str = "dissect.ffs==3.12";

/// Prints a line of JSON for each path.
const LISTER: &str = r#"
import hashlib, json, sys
from dissect.ffs import FFS

def show(path, entry):
    line = {"path": path, "kind": "special", "mode": entry.mode, "mtime": entry.inode.di_mtime,
            "nlink": entry.inode.di_nlink, "uid": entry.inode.di_uid, "gid": entry.inode.di_gid, "inode": entry.inum}
    if entry.is_dir():
        line["kind"] = "directory"
    elif entry.is_symlink():
        line["kind"], line["target"] = "link", entry.link
    elif entry.is_file():
        sum, file = hashlib.sha256(), entry.open()
        while piece := file.read(1 << 20):
            sum.update(piece)
        line["kind"], line["size"], line["sha256"] = "file", entry.size, sum.hexdigest()
    print(json.dumps(line))

left = [("", FFS(open(sys.argv[1], "rb")).root)]
while left:
    prefix, folder = left.pop()
    for entry in folder.iterdir():
        if entry.inum == 0 or entry.name in (".", ".."):
            continue
        show(prefix + entry.name, entry)
        if entry.is_dir():
            left.append((prefix + entry.name + "/", entry))
"#;

#[derive(Deserialize)]
struct Line {
    path: String,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    inode: u64,
    mtime: i64,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Kind {
    Directory,
    File { size: u64, sha256: String },
    Link { target: String },
    Special,
}

pub fn tree(image: &Path) -> Result<Tree> {
    let modules = setup::python_module(MODULE);
    let output = Command::new("python3")
        .env("PYTHONPATH", modules)
        .args(["-c", LISTER])
        .arg(image)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let mut tree = Tree::default();
    for line in std::str::from_utf8(&output.stdout)?.lines() {
        let line: Line = serde_json::from_str(line)?;
        let node = match line.kind {
            Kind::Directory => Node::Directory,
            Kind::File { size, sha256 } => Node::File { size, sha256 },
            Kind::Link { target } => Node::Symlink(target),
            Kind::Special => Node::Special,
        };
        let path = line.path;
        let attributes = (line.mode, line.nlink, line.uid, line.gid, line.inode);
        tree.attributes.insert(path.clone(), attributes);
        tree.times.insert(path.clone(), line.mtime);
        let before = tree.nodes.insert(path.clone(), node);
        ensure!(before.is_none(), "{path} is there twice");
    }
    Ok(tree)
}
