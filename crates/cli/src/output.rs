//! What a command prints: one JSON object for machines, lines for people. The only file of this binary that writes to standard output.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Where results and remarks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Whether the results are JSON.
    pub json: bool,
}

impl Output {
    /// Prints the result of a command: `object` as one line of JSON, or the lines of `text`.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn result<T: Serialize>(self, object: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.json_line(object) } else { self.text(&text()) }
    }

    /// Prints one line of JSON.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn json_line<T: Serialize>(self, object: &T) -> Result<(), Failure> {
        let line = serde_json::to_string(object).map_err(|error| Failure::new(format!("the result has no JSON form: {error}"), ""))?;
        write_all(&format!("{}\n", escaped(&line)))
    }

    /// Prints text, harmless and ended by a line break.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        write_all(&format!("{}\n", harmless(text.trim_end_matches('\n'))))
    }

    /// Prints a piece of a text that goes on, at once.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn piece(self, text: &str) -> Result<(), Failure> {
        write_all(text)
    }

    /// Copies content as it is.
    ///
    /// # Errors
    /// It cannot be read, or standard output cannot be written.
    pub fn bytes(self, content: &mut dyn io::Read) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match io::copy(content, &mut stdout).and_then(|_| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!("cannot write the content: {error}"), "")),
            _ => Ok(()),
        }
    }

    /// A remark for a person, on standard error. Nothing where the output is JSON.
    pub fn note(self, text: &str) {
        if !self.json {
            warn(text);
        }
    }

    /// Reports a failure on standard error, in the form of the output.
    pub fn failure(self, failure: &Failure) {
        if self.json {
            warn(&escaped(&failure.to_json().to_string()));
        } else {
            warn(&format!("error: {failure}"));
        }
    }
}

/// Something a person should know even when the output is JSON: on standard error, where it does no harm.
///
/// TRUST: nodes, gateways and contracts have their words in messages.
pub fn warn(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
}

/// A line of JSON in which no character commands a terminal: JSON itself escapes those below U+0020 only.
fn escaped(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line
}

/// A stranger's text without what would command a terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether a person can be asked: both ends are a terminal.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a yes. Anything but `y` or `yes` is a no.
///
/// # Errors
/// Standard input cannot be read.
pub fn confirm(question: &str) -> Result<bool, Failure> {
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::new(format!("cannot ask for a confirmation: {error}"), "pass --yes"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

fn write_all(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `quern job list | head` is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot write the result: {error}"), "")),
        Ok(()) => Ok(()),
    }
}

/// Columns of text, aligned to the left, two spaces apart.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A number of things: `1 job`, `2 jobs`.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_a_stranger_commands_no_terminal_and_says_the_same() {
        let text = "a\u{9b}2J\u{7f}\u{1b}[2J\u{a0}";
        let line = escaped(&serde_json::to_string(text).expect("JSON"));
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).expect("still JSON"), text);
    }

    #[test]
    fn table_aligns_columns_and_leaves_no_trailing_space() {
        let text = table(&["name", "state"], &[vec!["a".into(), "open".into()], vec!["longer".into(), String::new()]]);
        assert_eq!(text, "name    state\na       open\nlonger");
    }
}
