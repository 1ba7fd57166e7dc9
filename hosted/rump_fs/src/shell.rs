//! `sh`: a prompt on an image, which stays open.
//!
//! A line is a command as on the command line, without IMAGE; `cd` and `pwd` move about. Names are completed with Tab; what was typed
//! before comes back with the arrow keys, and is forgotten with the shell.

use crate::cli::{Cli, Command};
use crate::session::{Failure, Session};
use clap::Parser;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use ukfs::{FileType, Image, Shown};

/// What can be typed.
const COMMANDS: [&str; 20] = [
    "ls", "tree", "cat", "get", "stat", "df", "put", "mkdir", "rm", "mv", "ln", "chmod", "chown",
    "truncate", "cd", "pwd", "help", "exit", "quit", "sync",
];

/// Reads commands until there are no more.
pub fn sh(session: &mut Session, name: &OsStr) -> Result<(), Failure> {
    let image = session.keep_open(name)?;
    let told = |error: ReadlineError| Failure::Said(format!("the terminal: {error}"));
    let mut editor: Editor<Names, DefaultHistory> = Editor::new().map_err(told)?;
    let mut shell = Shell {
        image: image.clone(),
        name,
        here: PathBuf::from("/"),
    };
    loop {
        editor.set_helper(Some(Names {
            image: image.clone(),
            here: shell.here.clone(),
        }));
        session.flush()?;
        let prompt = format!("{}:{}> ", image.source(), Shown(&shell.here));
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            // Ctrl-C takes back what was typed.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(told(error)),
        };
        // Only a convenience is lost.
        let _ = editor.add_history_entry(line.as_str());
        match words(&line) {
            Ok(words) if words.is_empty() => {}
            Ok(words) if matches!(words[0].as_str(), "exit" | "quit") => break,
            Ok(words) => match shell.obey(session, &words) {
                Err(Failure::Pipe) => return Err(Failure::Pipe),
                Err(failure) => session.complain(&failure),
                Ok(()) => {}
            },
            Err(why) => session.complain(&Failure::Said(why.to_owned())),
        }
    }
    drop(editor);
    drop((shell, image));
    session.let_go()
}

struct Shell<'a> {
    image: Image,
    name: &'a OsStr,
    /// The current directory, for the prompt.
    here: PathBuf,
}

impl Shell<'_> {
    fn obey(&mut self, session: &mut Session, words: &[String]) -> Result<(), Failure> {
        let Some((command, arguments)) = words.split_first() else {
            return Ok(());
        };
        match (command.as_str(), arguments) {
            ("pwd", []) => return session.line(&Shown(&self.here).to_string()),
            ("sync", []) => return Ok(self.image.sync()?),
            ("cd", [] | [_]) => {
                let to = arguments.first().map_or("/", String::as_str);
                let here = joined(&self.here, Path::new(to));
                self.image.set_current_dir(&here)?;
                self.here = here;
                return Ok(());
            }
            _ => {}
        }
        let while_open = || Failure::Said(format!("{command}: not while the image is open"));
        // The image is not the first word behind it.
        if command == "log" {
            return Err(while_open());
        }
        let own = [OsStr::new("rump_fs"), OsStr::new(command)].into_iter();
        // All but `help` take the image first.
        let image = (command != "help" && !command.starts_with('-')).then_some(self.name);
        let line = own.chain(image).chain(arguments.iter().map(OsStr::new));
        let parsed = match Cli::try_parse_from(line) {
            Ok(parsed) => parsed,
            Err(error) => {
                if error.use_stderr() {
                    session.raise(1);
                }
                session.flush()?;
                // To a terminal that is gone nothing can be said.
                let _ = error.print();
                return Ok(());
            }
        };
        // Those that say how an image is opened or what is logged come too late.
        if let Some(option) = parsed.option_of_all() {
            let why = format!("{command}: --{option}: not while the image is open");
            return Err(Failure::Said(why));
        }
        match parsed.command {
            Command::Sh { .. } | Command::Mkfs(_) | Command::Check { .. } | Command::Mount(_) => {
                Err(while_open())
            }
            command => {
                let json = session.json;
                session.json |= parsed.json;
                let done = crate::run(session, &command);
                session.json = json;
                done
            }
        }
    }
}

/// `to`, seen from `here`, without `.` and `..`.
fn joined(here: &Path, to: &Path) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in here.join(to).components() {
        match part {
            std::path::Component::Normal(name) => path.push(name),
            std::path::Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path
}

/// The words of a line: separated by blanks, held together by quotes and backslashes.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (_, Some(open)) if character == open => quote = None,
            ('\\', None | Some('"')) => {
                let next = characters.next().ok_or("nothing behind the backslash")?;
                word.get_or_insert_default().push(next);
            }
            (_, Some(_)) => word.get_or_insert_default().push(character),
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (blank, None) if blank.is_whitespace() => words.extend(word.take()),
            (_, None) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// Completes commands, and names on the image.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Names {
    image: Image,
    here: PathBuf,
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..position).unwrap_or_default();
        let start = typed.rfind(' ').map_or(0, |blank| blank + 1);
        let begun = typed.get(start..).unwrap_or_default();
        if start == 0 {
            let found = COMMANDS.iter().filter(|name| name.starts_with(begun));
            let pair = |name: &&str| Pair {
                display: (*name).to_owned(),
                replacement: format!("{name} "),
            };
            return Ok((0, found.map(pair).collect()));
        }
        let (folder, name) = begun
            .rsplit_once('/')
            .map_or(("", begun), |(folder, name)| {
                (if folder.is_empty() { "/" } else { folder }, name)
            });
        let Ok(entries) = self.image.read_dir(joined(&self.here, Path::new(folder))) else {
            return Ok((start, Vec::new()));
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Some(full) = entry.file_name().to_str() else {
                continue;
            };
            if !full.starts_with(name) || full.chars().any(char::is_control) {
                continue;
            }
            let slash = if entry.file_type() == Some(FileType::Dir) {
                "/"
            } else {
                ""
            };
            found.push(Pair {
                display: format!("{full}{slash}"),
                replacement: format!("{full}{slash}"),
            });
        }
        found.sort_unstable_by(|a, b| a.display.cmp(&b.display));
        Ok((position - name.len(), found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_hold_words_together() {
        assert_eq!(
            words(r#" a "b c"  d\ e 'f"' "" "#).unwrap(),
            ["a", "b c", "d e", "f\"", ""]
        );
        assert!(words("'a").is_err() && words("a\\").is_err());
    }

    #[test]
    fn paths_are_joined_and_never_lead_above_the_root() {
        assert_eq!(
            joined(Path::new("/a/b"), Path::new("../c/./d")),
            Path::new("/a/c/d")
        );
        assert_eq!(
            joined(Path::new("/a"), Path::new("../../..")),
            Path::new("/")
        );
        assert_eq!(joined(Path::new("/a"), Path::new("/b")), Path::new("/b"));
    }
}
