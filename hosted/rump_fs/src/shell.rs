//! `sh`: a prompt on an image, which stays open.
//!
//! A line is a command as on the command line, without IMAGE; `cd` and `pwd` move about. Names are completed with Tab; what was typed
//! before comes back with the arrow keys, and is forgotten with the shell. Ctrl-C takes back a line, or ends a command that runs;
//! Ctrl-D ends the shell.

use crate::cli::{Cli, Command};
use crate::session::{Failure, Session};
use clap::Parser;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
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
    let config = Config::builder().completion_type(CompletionType::List);
    let editor: rustyline::Result<Editor<Names, DefaultHistory>> =
        Editor::with_config(config.build());
    let mut editor = editor.map_err(told)?;
    // A list of commands from elsewhere ends as a whole.
    if io::stdin().is_terminal() {
        let caught = session.catch_interrupts();
        caught.map_err(|error| Failure::Said(format!("SIGINT: {error}")))?;
    }
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
        session.forget_interrupt();
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

/// The word of a line that is not finished yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Begun {
    /// Where it begins.
    start: usize,
    /// What it means as far as it goes.
    word: String,
    /// It is the first.
    is_command: bool,
    /// A quote that is not closed.
    quote: Option<char>,
}

impl Begun {
    /// The last word of `line`, by the rules of [`words`].
    fn of(line: &str) -> Begun {
        let mut begun = Begun {
            is_command: true,
            ..Begun::default()
        };
        let mut characters = line.char_indices();
        while let Some((at, character)) = characters.next() {
            match (character, begun.quote) {
                (_, Some(open)) if character == open => begun.quote = None,
                // With nothing behind it, it means nothing yet.
                ('\\', None | Some('"')) => begun.word.extend(characters.next().map(|next| next.1)),
                (_, Some(_)) => begun.word.push(character),
                ('\'' | '"', None) => begun.quote = Some(character),
                (blank, None) if blank.is_whitespace() => {
                    let is_blank = line.get(..at).unwrap_or_default().trim().is_empty();
                    begun = Begun {
                        start: at + blank.len_utf8(),
                        is_command: is_blank,
                        ..Begun::default()
                    };
                }
                (_, None) => begun.word.push(character),
            }
        }
        begun
    }

    /// Puts `word` in its place, so that [`words`] finds that. `is_whole`: nothing is to be added to it.
    fn completed(&self, word: &str, is_whole: bool) -> String {
        let quote = match self.quote {
            // Between these nothing stands for a quote.
            Some('\'') if word.contains('\'') => Some('"'),
            quote => quote,
        };
        let mut text = String::from_iter(quote);
        for character in word.chars() {
            let is_special = match quote {
                None => character.is_whitespace() || matches!(character, '\\' | '"' | '\''),
                Some('"') => matches!(character, '\\' | '"'),
                Some(_) => false,
            };
            if is_special {
                text.push('\\');
            }
            text.push(character);
        }
        if is_whole {
            text.extend(quote);
        }
        text
    }
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
        let begun = Begun::of(line.get(..position).unwrap_or_default());
        if begun.is_command {
            let found = COMMANDS.iter().filter(|name| name.starts_with(&begun.word));
            let pair = |name: &&str| Pair {
                display: (*name).to_owned(),
                replacement: format!("{} ", begun.completed(name, true)),
            };
            return Ok((begun.start, found.map(pair).collect()));
        }
        let name_starts = begun.word.rfind('/').map_or(0, |slash| slash + 1);
        let (folder, name) = begun.word.split_at(name_starts);
        let Ok(entries) = self.image.read_dir(joined(&self.here, Path::new(folder))) else {
            return Ok((begun.start, Vec::new()));
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Some(full) = entry.file_name().to_str() else {
                continue;
            };
            if !full.starts_with(name) || full.chars().any(char::is_control) {
                continue;
            }
            let is_dir = entry.file_type() == Some(FileType::Dir);
            let slash = if is_dir { "/" } else { "" };
            found.push(Pair {
                display: format!("{full}{slash}"),
                replacement: begun.completed(&format!("{folder}{full}{slash}"), !is_dir),
            });
        }
        found.sort_unstable_by(|a, b| a.display.cmp(&b.display));
        Ok((begun.start, found))
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
    fn what_is_completed_is_the_word_that_was_meant() {
        let names = [
            "plain",
            "two words",
            "it's",
            "a \"b\" c",
            "back\\slash",
            "\u{e4}\u{3000}b",
        ];
        // However the word was begun, and a quote opened.
        for line in [
            "cat ",
            "cat x ",
            "cat \"",
            "cat '",
            "cat a\\ b",
            "  cat /\"d e\"/",
            "cat 'a",
            "cat a\\",
        ] {
            let begun = Begun::of(line);
            assert!(!begun.is_command, "{line}");
            for name in names {
                let before = line.get(..begun.start).unwrap();
                let completed = format!("{before}{}", begun.completed(name, true));
                assert_eq!(
                    words(&completed).unwrap().last().unwrap(),
                    name,
                    "{completed}"
                );
                // What is only a part of a word is found again.
                let part = format!("{before}{}", begun.completed(name, false));
                assert_eq!(Begun::of(&part).word, name, "{part}");
            }
        }
        assert_eq!(Begun::of("cat /a\\ b/'c d").word, "/a b/c d");
        assert!(Begun::of("  tr").is_command && Begun::of("").is_command);
        assert!(!Begun::of("cat  ").is_command);
    }

    #[test]
    fn every_command_that_can_be_given_can_be_completed() {
        use clap::CommandFactory as _;
        let refused = ["sh", "mkfs", "check", "mount", "log"];
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert_eq!(COMMANDS.contains(&name), !refused.contains(&name), "{name}");
        }
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
