//! stdout for results, stderr for progress. A reader that left (`| head`) ends a run early and never panics it.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::stop::Stop;

/// The two streams of a command.
pub(crate) struct Console {
    color: Coloring,
    counter: Counter,
    failed: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coloring {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counter {
    /// stderr is no terminal.
    Silent,
    /// No counter stands on the line.
    Clear,
    Shown,
}

/// What a word of the output means, hence its colour on a terminal.
#[derive(Clone, Copy)]
pub(crate) enum Ink {
    Good,
    Bad,
}

impl Console {
    /// The process's own streams. Colour only on a terminal, and not if NO_COLOR is set to anything (no-color.org).
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            color: if io::stdout().is_terminal() && !plain { Coloring::On } else { Coloring::Off },
            counter: if io::stderr().is_terminal() { Counter::Clear } else { Counter::Silent },
            failed: None,
        }
    }

    /// Writes to stdout and flushes, so that a program that reads along sees whole lines.
    pub(crate) fn say(&mut self, text: &str) {
        self.clear();
        if self.failed.is_none() {
            let mut out = io::stdout().lock();
            self.failed = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
        }
    }

    /// Shows how far a run is, on a terminal only.
    pub(crate) fn progress(&mut self, text: &str) {
        if self.counter != Counter::Silent {
            self.counter = Counter::Shown;
            self.complain(&format!("\r\x1b[K{text}"));
        }
    }

    /// A line on stderr.
    pub(crate) fn note(&mut self, line: &str) {
        self.clear();
        self.complain(&format!("{line}\n"));
    }

    pub(crate) fn ink(&self, ink: Ink, word: &str) -> String {
        match (self.color, ink) {
            (Coloring::Off, _) => word.to_owned(),
            (Coloring::On, Ink::Good) => format!("\x1b[32m{word}\x1b[0m"),
            (Coloring::On, Ink::Bad) => format!("\x1b[1;31m{word}\x1b[0m"),
        }
    }

    /// Whether nobody reads stdout any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.failed.is_some()
    }

    /// A reader that left is no error; a stdout that could not be written is.
    pub(crate) fn finish(&mut self) -> Result<(), Stop> {
        self.clear();
        match self.failed.take() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Stop::usage(format!("cannot write stdout: {error}: give it a place with room")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn clear(&mut self) {
        if self.counter == Counter::Shown {
            self.counter = Counter::Clear;
            self.complain("\r\x1b[K");
        }
    }

    /// A stderr that cannot be written leaves nobody to tell.
    fn complain(&self, text: &str) {
        io::stderr().write_all(text.as_bytes()).ok();
    }
}
