//! What a comparison is told to do.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::{measure::Effort, peer};

/// Measures Tally beside what people would pick instead: the same protocol, machine and load.
///
/// The table, its chart and every sample land in target/compare/. A peer whose toolchain is missing
/// is left out, and named.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
pub struct Options {
    /// The clone to work in
    #[arg(long, default_value = ".")]
    pub root: PathBuf,
    /// Only these, with commas between them; the floor is always there
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<String>,
    /// How often each is measured, in turns
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub repeats: u8,
    /// Sockets of each measurement
    #[arg(long, short = 'n', default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub sockets: u32,
    /// Only Tally and the floor, for a minute, and fail beyond compare/thresholds.txt
    #[arg(long, conflicts_with_all = ["peers", "repeats", "sockets"])]
    pub short: bool,
}

impl Options {
    pub fn effort(&self) -> Effort {
        if self.short {
            Effort {
                // What the handshakes under way take and leave behind shows in the memory, more or less of
                // it before the first look: one build has 950 to 1,850 bytes a socket with 2,000 of them,
                // and 1,540 to 1,760 with 10,000.
                sockets: 10_000,
                repeats: 5,
                talk: Duration::from_secs(2),
                beats: 3.5,
            }
        } else {
            Effort {
                sockets: self.sockets,
                repeats: self.repeats.into(),
                talk: Duration::from_secs(4),
                beats: 6.5,
            }
        }
    }

    /// # Errors
    /// A name that nobody has.
    pub fn wanted(&self) -> Result<Vec<peer::Peer>, String> {
        if self.short {
            peer::named(&[peer::TALLY.into()])
        } else {
            peer::named(&self.peers)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
        let short = Options::try_parse_from(["compare", "--short"]).unwrap();
        assert_eq!(short.wanted().unwrap().len(), 2);
        assert!(Options::try_parse_from(["compare", "--short", "--repeats", "3"]).is_err());
    }
}
