//! What a process could not store before it ended: lines in a file of the state directory, which the
//! next process of the same colour stores in its place.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::session::Save;

/// More than a process ever leaves; a file that is longer is none of ours.
const LINES_MAX: usize = 10_000_000;

/// The file may be missing: then nothing was left.
#[derive(Clone, Debug)]
pub struct Spill {
    file: Option<PathBuf>,
}

impl Spill {
    /// Without a directory there is nowhere to leave anything.
    pub fn of(directory: Option<&Path>, colour: &str) -> Self {
        Self {
            file: directory.map(|directory| directory.join(format!("{colour}.spill.jsonl"))),
        }
    }

    /// Adds to what is left; on disk when it returns. Only the owner of the process may read it: a
    /// session's id is a credential.
    ///
    /// # Errors
    /// There is no state directory, or it cannot be written.
    pub fn add<'a>(&self, saves: impl Iterator<Item = &'a Save>) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Err(io::Error::other("no TALLY_STATE_DIR is set"));
        };
        let mut lines = Vec::new();
        for save in saves {
            serde_json::to_writer(&mut lines, save)?;
            lines.push(b'\n');
        }
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(file)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&lines)?;
        file.sync_data()
    }

    /// What was left. A line that breaks off was never told anybody about.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Save>> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let file = match File::open(file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut saves = Vec::new();
        for line in BufReader::new(file).lines().take(LINES_MAX) {
            saves.extend(serde_json::from_str::<Save>(&line?));
        }
        Ok(saves)
    }

    /// Everything that was left is stored.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        match self.file.as_ref().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn save(count: u64) -> Save {
        Save {
            id: Uuid::new_v4(),
            epoch: 1,
            count,
            parked: true,
        }
    }

    #[test]
    fn what_is_left_is_found_once() {
        let directory = tempfile::tempdir().unwrap();
        let spill = Spill::of(Some(directory.path()), "blue");
        assert_eq!(spill.read().unwrap(), []);
        let saves = [save(1), save(2)];
        spill.add(saves[..1].iter()).unwrap();
        spill.add(saves[1..].iter()).unwrap();
        assert_eq!(spill.read().unwrap(), saves);
        spill.clear().unwrap();
        spill.clear().unwrap();
        assert_eq!(spill.read().unwrap(), []);
    }

    #[test]
    fn a_line_that_breaks_off_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let spill = Spill::of(Some(directory.path()), "blue");
        spill.add([save(1)].iter()).unwrap();
        let file = directory.path().join("blue.spill.jsonl");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"{\"id\":\"6ba7b810").unwrap();
        assert_eq!(spill.read().unwrap().len(), 1);
    }

    #[test]
    fn without_a_directory_nothing_can_be_left() {
        let spill = Spill::of(None, "blue");
        assert!(spill.add([save(1)].iter()).is_err());
        assert_eq!(spill.read().unwrap(), []);
    }
}
