//! Where answers go: standard output, a file, or the screen with a pager for what is longer.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use super::backend::RowSink;
use super::cells::Column;
use super::format::{Cells, RowWriter};
use super::terminal;
use crate::progress::Progress;

/// Where the bytes of answers go.
pub enum Destination {
    /// Someone else's: a pipe, a file of the calling shell.
    Plain(BufWriter<io::Stdout>),
    File(BufWriter<File>),
    Screen(Screen),
}

impl Destination {
    pub fn plain() -> Self {
        Self::Plain(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File(BufWriter::with_capacity(64 << 10, File::create(path)?)))
    }

    /// Everything is out; a pager has been left.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::File(out) => out.flush(),
            Self::Screen(screen) => screen.finish(),
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::File(out) => out.write(bytes),
            Self::Screen(screen) => screen.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::File(out) => out.flush(),
            Self::Screen(_) => Ok(()),
        }
    }
}

/// Holds what fits on the screen until it is clear that no more comes; from then on the pager gets everything.
pub struct Screen {
    /// `None`: no pager is wanted.
    pager: Option<String>,
    /// Columns and lines.
    size: (usize, usize),
    held: Vec<u8>,
    n_lines: usize,
    running: Option<Child>,
    /// Must be gone before anything else is shown.
    progress: Rc<RefCell<Progress>>,
    /// Whether rows are on the terminal: a line of progress would spoil them.
    is_shown: Rc<Cell<bool>>,
}

impl Screen {
    /// `is_shown` is told when rows are on the terminal.
    pub fn new(pager: Option<String>, progress: Rc<RefCell<Progress>>, is_shown: Rc<Cell<bool>>) -> Self {
        let size = terminal::size().unwrap_or((80, 24));
        Self { pager, size, held: Vec::new(), n_lines: 0, running: None, progress, is_shown }
    }

    /// Rows come now, and nothing else.
    fn show(&self) {
        self.is_shown.set(true);
        self.progress.borrow_mut().clear();
    }

    fn page(&mut self) -> io::Result<()> {
        let Some(command) = &self.pager else { return Ok(()) };
        self.show();
        let mut pager = Command::new("sh");
        pager.args(["-c", command]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            // Quit when all fits, keep colours, do not wrap, leave the text on the screen.
            pager.env("LESS", "FRSX");
        }
        self.running = Some(pager.spawn()?);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.show();
        let written = match &mut self.running {
            Some(_) => Ok(()),
            None => io::stdout().write_all(&self.held).and_then(|()| io::stdout().flush()),
        };
        self.held.clear();
        self.n_lines = 0;
        if let Some(mut pager) = self.running.take() {
            drop(pager.stdin.take());
            pager.wait()?;
        }
        written
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(input) = self.running.as_mut().and_then(|it| it.stdin.as_mut()) {
            return input.write(bytes);
        }
        self.held.extend_from_slice(bytes);
        self.n_lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        // Two lines stay for the summary and the prompt.
        let is_long = self.n_lines + 2 > self.size.1;
        if is_long && self.pager.is_some() {
            self.page()?;
            let held = std::mem::take(&mut self.held);
            if let Some(input) = self.running.as_mut().and_then(|it| it.stdin.as_mut()) {
                input.write_all(&held)?;
            }
        } else if self.pager.is_none() && self.held.len() > 64 << 10 {
            self.show();
            io::stdout().write_all(&self.held)?;
            self.held.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The pager that the user has set, or `less` where it is installed.
pub fn default_pager() -> Option<String> {
    for name in ["SHEAF_SQL_PAGER", "PAGER"] {
        if let Ok(pager) = std::env::var(name) {
            return (!pager.trim().is_empty()).then_some(pager);
        }
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).any(|it| it.join("less").is_file()).then(|| "less".to_owned())
}

/// One answer on its way out, and into the file of `tee` beside.
pub struct AnswerSink<'a> {
    pub writer: Box<dyn RowWriter>,
    pub out: &'a mut Destination,
    pub tee: Option<&'a mut File>,
    /// Read by the line of progress.
    pub n_rows: Rc<Cell<u64>>,
    /// Called before the first row where rows go to a terminal as they come.
    pub before: Option<Box<dyn Fn() + 'a>>,
    pub has_begun: bool,
    /// The row at hand.
    pub text: Vec<u8>,
}

impl AnswerSink<'_> {
    fn put(&mut self, put: impl FnOnce(&mut dyn RowWriter, &mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        // One write a row: a pager's pipe has no buffer of ours.
        self.text.clear();
        put(self.writer.as_mut(), &mut self.text)?;
        self.out.write_all(&self.text)?;
        match &mut self.tee {
            Some(tee) => tee.write_all(&self.text),
            None => Ok(()),
        }
    }

    /// Behind the last row. Does nothing for a statement without rows.
    pub fn end(&mut self) -> io::Result<()> {
        if !self.has_begun {
            return Ok(());
        }
        self.put(|writer, out| writer.end(out))
    }
}

impl RowSink for AnswerSink<'_> {
    fn begin(&mut self, columns: Vec<Column>) -> io::Result<()> {
        self.has_begun = true;
        if let Some(before) = &self.before {
            before();
        }
        self.put(|writer, out| writer.begin(&columns, out))
    }

    fn row(&mut self, cells: &Cells<'_>) -> io::Result<()> {
        self.n_rows.set(self.n_rows.get() + 1);
        self.put(|writer, out| writer.row(cells, out))
    }
}
