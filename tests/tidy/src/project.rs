//! The files under version control.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether `file` is compiled for tests alone: in a kernel crate's folder `tests`, a module that its parent names under
/// `#[cfg(test)]`, or one in such a module's folder.
pub fn is_test_module(file: &SourceFile, all: &[SourceFile]) -> bool {
    if file.path.starts_with("kernel/") && file.path.contains("/tests/") {
        return true;
    }
    let Some(stem) = file.path.strip_suffix(".rs") else {
        return false;
    };
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    let Some((folder, name)) = stem.rsplit_once('/') else {
        return false;
    };
    let parents = [
        format!("{folder}.rs"),
        format!("{folder}/mod.rs"),
        format!("{folder}/lib.rs"),
    ];
    // A path is relative to the folder of the file that gives it.
    let by_path = format!("#[cfg(test)]\n#[path = \"{}\"]", file.name());
    let beside =
        |other: &&SourceFile| other.path.rsplit_once('/').map(|(other, _)| other) == Some(folder);
    if all
        .iter()
        .filter(beside)
        .any(|other| other.text.contains(&by_path))
    {
        return true;
    }
    let named = format!("#[cfg(test)]\nmod {name};");
    all.iter()
        .filter(|parent| parent.path != file.path && parents.contains(&parent.path))
        .any(|parent| parent.text.contains(&named) || is_test_module(parent, all))
}

/// One text file.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path from the project's root, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl SourceFile {
    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Where in the file a byte of it lies, as compilers say it.
    pub fn place(&self, offset: usize) -> String {
        let line = self.text[..offset].matches('\n').count() + 1;
        format!("{}:{line}", self.path)
    }
}

/// The project's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every text file that git tracks or would track; `Cargo.lock`, which cargo writes, left out.
///
/// # Panics
/// If git cannot tell.
pub fn files() -> Vec<SourceFile> {
    let listed = Command::new("git")
        .current_dir(root())
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output()
        .expect("git runs");
    assert!(
        listed.status.success(),
        "git: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let listed = String::from_utf8(listed.stdout).expect("paths in UTF-8");
    let files: Vec<SourceFile> = listed
        .split('\0')
        .filter(|path| !path.is_empty() && !path.ends_with("Cargo.lock"))
        // A file that was removed but not yet from git's index is nobody's concern.
        .filter_map(|path| {
            Some(SourceFile {
                path: path.to_owned(),
                text: fs::read_to_string(root().join(path)).ok()?,
            })
        })
        .collect();
    assert!(files.len() > 50, "git lists only {} files", files.len());
    files
}

/// The Rust files among [`files`].
pub fn rust_files() -> Vec<SourceFile> {
    files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_under_cfg_test_is_a_test_module_and_so_are_its_own() {
        let file = |path: &str, text: &str| SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let all = [
            file("a/src/lib.rs", "mod b;\nmod c;\n#[cfg(test)]\nmod d;"),
            file("a/src/b.rs", "#[cfg(test)]\nmod tests;"),
            file("a/src/b/tests.rs", ""),
            file("a/src/c/mod.rs", ""),
            file("a/src/d.rs", "mod e;"),
            file("a/src/d/e.rs", ""),
            file(
                "a/src/f.rs",
                "#[cfg(test)]\n#[path = \"f_tests.rs\"]\nmod tests;",
            ),
            file("a/src/f_tests.rs", ""),
        ];
        let found: Vec<&str> = all
            .iter()
            .filter(|file| is_test_module(file, &all))
            .map(|file| &file.path[6..])
            .collect();
        assert_eq!(found, ["b/tests.rs", "d.rs", "d/e.rs", "f_tests.rs"]);
    }
}
