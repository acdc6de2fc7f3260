//! The ends of several growing files.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// How far each file has been shown, in bytes.
#[derive(Default)]
pub struct Tails {
    shown: HashMap<PathBuf, u64>,
    /// The file whose lines were shown last; another one is announced.
    speaking: Option<PathBuf>,
}

impl Tails {
    /// The last lines of each file.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn last(&mut self, files: &[PathBuf], lines: usize) -> Result<String> {
        let mut told = String::new();
        for file in files {
            let text = self.rest(file)?;
            let count = text.lines().count();
            told += &title(file);
            for line in text.lines().skip(count.saturating_sub(lines)) {
                told += line;
                told.push('\n');
            }
            self.speaking = Some(file.clone());
        }
        Ok(told)
    }

    /// What the files have got since.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn since(&mut self, files: &[PathBuf]) -> Result<String> {
        let mut told = String::new();
        for file in files {
            let text = self.rest(file)?;
            if text.is_empty() {
                continue;
            }
            if self.speaking.as_ref() != Some(file) {
                told += &title(file);
                self.speaking = Some(file.clone());
            }
            told += &text;
        }
        Ok(told)
    }

    /// What of a file was not shown yet, in whole lines.
    fn rest(&mut self, path: &Path) -> Result<String> {
        let size = fs::metadata(path).map_err(Error::file(path))?.len();
        let shown = self.shown.entry(path.to_owned()).or_default();
        // A file that has shrunk is a new one under the old name.
        if size < *shown {
            *shown = 0;
        }
        let mut bytes = Vec::new();
        let mut read = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*shown))?;
            file.read_to_end(&mut bytes)
        };
        read().map_err(Error::file(path))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(whole.map_or(0, |end| end + 1));
        *shown += bytes.len() as u64;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn title(file: &Path) -> String {
    format!("==> {}\n", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_and_then_what_comes() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| folder.path().join(name));
        let write = |index: usize, text: &str| fs::write(&files[index], text).unwrap();
        write(0, "1\n2\n3\n");
        write(1, "4\n");
        let [a, b] = [title(&files[0]), title(&files[1])];
        let mut tails = Tails::default();
        let last = tails.last(&files, 2).unwrap();
        assert_eq!(last, format!("{a}2\n3\n{b}4\n"));
        assert_eq!(tails.since(&files).unwrap(), "");
        write(1, "4\n5\nhalf");
        assert_eq!(tails.since(&files).unwrap(), "5\n");
        write(1, "4\n5\nhalf a line\n");
        assert_eq!(tails.since(&files).unwrap(), "half a line\n");
        write(0, "new\n");
        assert_eq!(tails.since(&files).unwrap(), format!("{a}new\n"));
    }
}
