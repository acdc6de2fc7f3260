//! What outlives a process: how its shutdown went.
//!
//! A scrape comes every few seconds and a shutdown takes less, so a process cannot rely on being
//! asked before it dies. It leaves a record in the state directory instead, which every process
//! that shares the directory shows in its metrics: the other colour at once, the next process of
//! the same colour after its start. A marker tells a process that never got that far.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// Records of this many slots are read, so that a stray file cannot grow the metrics.
const SLOTS_MAX: usize = 8;

const SUFFIX: &str = ".shutdown.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everybody got a goodbye.
    Clean,
    /// Some had to be cut off.
    Forced,
    /// The process ended without a word: killed, or crashed.
    Unclean,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Clean, Self::Forced, Self::Unclean];

    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Forced => "forced",
            Self::Unclean => "unclean",
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Seconds the last shutdown took that was not unclean.
    duration_seconds: f64,
    counts: BTreeMap<Outcome, u64>,
}

/// The records of one state directory, seen from one slot.
#[derive(Clone, Debug)]
pub struct Records {
    directory: Option<PathBuf>,
    slot: String,
}

impl Records {
    /// Opens the records for a process that starts, and counts a predecessor that left no word.
    /// Without a directory nothing is kept.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(directory: Option<&Path>, slot: &str) -> io::Result<Self> {
        let records = Self {
            directory: directory.map(Path::to_owned),
            slot: slot.to_owned(),
        };
        let Some(directory) = directory else {
            return Ok(records);
        };
        fs::create_dir_all(directory)?;
        let marker = records.marker(directory);
        if marker.exists() {
            records.add(Outcome::Unclean, None)?;
        }
        fs::write(marker, std::process::id().to_string())?;
        Ok(records)
    }

    /// Records the shutdown of this process.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn close(&self, outcome: Outcome, duration: Duration) -> io::Result<()> {
        self.add(outcome, Some(duration))?;
        match &self.directory {
            Some(directory) => fs::remove_file(self.marker(directory)),
            None => Ok(()),
        }
    }

    /// Brings the metrics up to date with the records of all slots.
    pub fn show(&self, metrics: &Metrics) {
        let mut slots = self.read_all();
        slots.entry(self.slot.clone()).or_default();
        for (slot, record) in slots {
            metrics
                .shutdown_seconds
                .with_label_values(&[&slot])
                .set(record.duration_seconds);
            for outcome in Outcome::ALL {
                let count = record.counts.get(&outcome).copied().unwrap_or(0);
                // A counter cannot be set; the record is the truth.
                let shown = metrics
                    .shutdowns
                    .with_label_values(&[slot.as_str(), outcome.name()]);
                shown.inc_by(count.saturating_sub(shown.get()));
            }
        }
    }

    fn marker(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.running", self.slot))
    }

    fn file(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}{SUFFIX}", self.slot))
    }

    /// Whole or not at all: written beside, then renamed.
    fn add(&self, outcome: Outcome, duration: Option<Duration>) -> io::Result<()> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let file = self.file(directory);
        let mut record = read(&file).unwrap_or_default();
        *record.counts.entry(outcome).or_default() += 1;
        if let Some(duration) = duration {
            record.duration_seconds = duration.as_secs_f64();
        }
        let staged = file.with_extension("staged");
        let mut writer = fs::File::create(&staged)?;
        writer.write_all(&serde_json::to_vec(&record)?)?;
        writer.sync_all()?;
        fs::rename(staged, file)
    }

    fn read_all(&self) -> BTreeMap<String, Record> {
        let Some(entries) = self
            .directory
            .as_ref()
            .and_then(|dir| fs::read_dir(dir).ok())
        else {
            return BTreeMap::new();
        };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let slot = name.strip_suffix(SUFFIX)?;
                Some((slot.to_owned(), read(&entry.path())?))
            })
            .take(SLOTS_MAX)
            .collect()
    }
}

fn read(file: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("0", "0")
    }

    #[test]
    fn a_shutdown_shows_in_the_other_colour() {
        let directory = tempfile::tempdir().unwrap();
        let blue = Records::open(Some(directory.path()), "blue").unwrap();
        let green = Records::open(Some(directory.path()), "green").unwrap();
        green
            .close(Outcome::Clean, Duration::from_millis(1500))
            .unwrap();
        let metrics = metrics();
        blue.show(&metrics);
        let text = metrics.render();
        assert!(
            text.contains("tally_shutdown_duration_seconds{slot=\"green\"} 1.5"),
            "{text}"
        );
        assert!(
            text.contains("tally_shutdown_duration_seconds{slot=\"blue\"} 0"),
            "{text}"
        );
        assert!(text.contains("tally_shutdowns_total{outcome=\"clean\",slot=\"green\"} 1"));
    }

    #[test]
    fn a_process_that_left_no_word_counts_as_unclean() {
        let directory = tempfile::tempdir().unwrap();
        drop(Records::open(Some(directory.path()), "blue").unwrap());
        let next = Records::open(Some(directory.path()), "blue").unwrap();
        let metrics = metrics();
        next.show(&metrics);
        let text = metrics.render();
        assert!(text.contains("tally_shutdowns_total{outcome=\"unclean\",slot=\"blue\"} 1"));
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let records = Records::open(None, "blue").unwrap();
        records
            .close(Outcome::Clean, Duration::from_secs(1))
            .unwrap();
        records.show(&metrics());
    }
}
