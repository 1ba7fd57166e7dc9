//! Whether what is found after a power cut is what may be found.

use crate::history::{History, foreign, identity};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Below this anybody does anything: nothing is known of what is there.
pub const EVERYBODYS: &str = "/everybody";

/// A file that was found.
pub struct Found {
    /// Where.
    pub path: String,
    /// Its inode.
    pub ino: u64,
    /// All that it holds.
    pub bytes: Vec<u8>,
}

/// How strictly what is found is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// After a repair: a file may be in lost+found, and the names of what was not synced say nothing.
    Repaired,
    /// After the replay of a log: names are as they were or as they became, and no file shows what was another's.
    Replayed,
}

/// Judges the files that were found after a cut at `moment`. Every file that is not everybody's has one of `histories`.
///
/// # Errors
/// What is not as it may be.
pub fn judge(
    tree: &[Found],
    histories: &[History],
    moment: usize,
    rule: Rule,
) -> Result<(), String> {
    for history in histories {
        judge_one(tree, history, moment, rule).map_err(|what| told(history, &what))?;
    }
    match rule {
        Rule::Repaired => Ok(()),
        Rule::Replayed => judge_all(tree, histories, moment),
    }
}

fn told(history: &History, what: &str) -> String {
    let steps: Vec<String> = history
        .steps
        .iter()
        .map(|step| format!("  {step:?}"))
        .collect();
    format!("file {}: {what}\n{}", history.id, steps.join("\n"))
}

/// Whether a file that was synced is there, and holds what it may.
fn judge_one(tree: &[Found], history: &History, moment: usize, rule: Rule) -> Result<(), String> {
    let Some(promise) = history.promise(moment) else {
        return Ok(());
    };
    if promise.may_be_gone {
        // Its inode may be another's by now.
        return Ok(());
    }
    let names: Vec<&Found> = tree
        .iter()
        .filter(|found| found.ino == history.ino)
        .collect();
    let Some(found) = names.first() else {
        if rule == Rule::Repaired && promise.sure() == 0 {
            // A file without a name is kept for what it holds.
            return Ok(());
        }
        return Err(format!(
            "it was synced and is gone; its names were {:?}",
            promise.names
        ));
    };
    promise.check_synced(history.id, &found.bytes)?;
    if rule == Rule::Repaired {
        return Ok(());
    }
    promise.check_rest(history.id, &found.bytes)?;
    let paths: Vec<&String> = names.iter().map(|found| &found.path).collect();
    match paths[..] {
        [path] if promise.names.contains(path) => Ok(()),
        _ => Err(format!(
            "it is at {paths:?}, its names were {:?}",
            promise.names
        )),
    }
}

/// Whether every file that is there is one that was made, under one name that it had, and shows nothing of another.
fn judge_all(tree: &[Found], histories: &[History], moment: usize) -> Result<(), String> {
    let mut inodes = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for Found { path, ino, bytes } in tree {
        let whose = identity(bytes);
        if let Some(id) = whose {
            if let Some((at, other, offset)) = foreign(id, bytes) {
                return Err(format!(
                    "{path}, file {id}: at {at} is what file {other} had at {offset}"
                ));
            }
            // Hard links share an inode.
            let first = *owners.entry(id).or_insert(*ino);
            if first != *ino {
                return Err(format!(
                    "{path}, inode {ino}: it shows file {id}, as inode {first} does"
                ));
            }
        }
        if path.starts_with(EVERYBODYS) {
            if let Some(id) = whose
                && let Some(history) = histories.iter().find(|history| history.id == id)
            {
                return Err(told(
                    history,
                    &format!("{path}, which is everybody's, shows it"),
                ));
            }
            continue;
        }
        let made = histories
            .iter()
            .any(|history| history.ino == *ino && is_of(history, path, whose, moment));
        if !made {
            return Err(format!(
                "{path}, inode {ino}, {} bytes of file {whose:?}: there was none such",
                bytes.len()
            ));
        }
        if let Some(other) = inodes.insert(*ino, path) {
            return Err(format!("inode {ino} is {path}, and {other}"));
        }
    }
    Ok(())
}

/// Whether a file of this history may have been at `path`, holding records of file `whose`, when the power went.
fn is_of(history: &History, path: &str, whose: Option<u32>, moment: usize) -> bool {
    whose.is_none_or(|id| id == history.id) && history.had_name(path, moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Change, Step, data};
    use alloc::borrow::ToOwned;
    use alloc::vec;

    fn step(begun: usize, change: Change) -> Step {
        let (ended, failed) = (begun + 1, false);
        Step {
            begun,
            ended,
            failed,
            change,
        }
    }

    /// File 1, made, written and synced by moment 6, then renamed.
    fn history() -> History {
        let written = Change::Written {
            offset: 0,
            len: 64,
            number: 9,
        };
        History {
            id: 1,
            ino: 5,
            steps: vec![
                step(0, Change::Named("/w0/a".to_owned())),
                step(2, written),
                step(4, Change::Synced),
                step(6, Change::Named("/w0/b".to_owned())),
            ],
        }
    }

    fn found(path: &str, ino: u64, bytes: Vec<u8>) -> Found {
        let path = path.to_owned();
        Found { path, ino, bytes }
    }

    fn is_right(tree: &[Found], moment: usize, rule: Rule) -> bool {
        judge(tree, &[history()], moment, rule).is_ok()
    }

    #[test]
    fn what_was_synced_is_there_under_its_old_or_its_new_name() {
        let content = data(1, 9, 0, 64);
        for (path, right) in [("/w0/a", true), ("/w0/b", true), ("/w0/c", false)] {
            let tree = [found(path, 5, content.clone())];
            assert_eq!(is_right(&tree, 8, Rule::Replayed), right, "{path}");
            assert!(is_right(&tree, 8, Rule::Repaired));
        }
        let too_early = [found("/w0/b", 5, content.clone())];
        assert!(!is_right(&too_early, 6, Rule::Replayed));
        let both = [
            found("/w0/a", 5, content.clone()),
            found("/w0/b", 5, content.clone()),
        ];
        assert!(!is_right(&both, 8, Rule::Replayed));
        for rule in [Rule::Replayed, Rule::Repaired] {
            assert!(!is_right(&[], 8, rule));
            assert!(!is_right(&[found("/w0/a", 5, vec![0; 64])], 8, rule));
            assert!(!is_right(
                &[found("/w0/a", 5, content[..48].into())],
                8,
                rule
            ));
            assert!(is_right(&[], 4, rule), "it was not synced by then");
        }
    }

    #[test]
    fn no_file_shows_what_was_anothers() {
        // Not synced by then, so that nothing is promised of it.
        let others = [
            [data(1, 9, 0, 32), data(2, 9, 32, 32)].concat(),
            data(2, 9, 0, 64),
            data(1, 9, 16, 64),
        ];
        for bytes in others {
            assert!(!is_right(&[found("/w0/a", 5, bytes)], 3, Rule::Replayed));
        }
        let at_everybodys = [found("/everybody/n1", 7, data(1, 9, 0, 64))];
        assert!(!is_right(&at_everybodys, 3, Rule::Replayed));
        let unheard_of = [found("/w0/a", 6, Vec::new())];
        assert!(!is_right(&unheard_of, 3, Rule::Replayed));
        let empty = [found("/w0/a", 5, Vec::new())];
        assert!(is_right(&empty, 3, Rule::Replayed));
    }
}
