//! What Tally may cost, from a file; pure.

use crate::figures::Measure;

/// A measure and the most that it may be: a multiple of the floor's, or bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub measure: Measure,
    pub most: f64,
}

/// Reads lines such as `message <= 1.2`, with comments behind a `#`.
///
/// # Errors
/// The first line that is nothing of the kind.
pub fn parse(text: &str) -> Result<Vec<Threshold>, String> {
    let lines = text.lines().zip(1..);
    let lines = lines.map(|(line, number)| (line.split('#').next().unwrap_or("").trim(), number));
    lines
        .filter(|(line, _)| !line.is_empty())
        .map(|(line, number)| threshold(line).ok_or_else(|| format!("line {number}: {line}")))
        .collect()
}

fn threshold(line: &str) -> Option<Threshold> {
    let (name, most) = line.split_once("<=")?;
    let mut measures = Measure::ALL.into_iter();
    Some(Threshold {
        measure: measures.find(|measure| measure.name() == name.trim())?,
        most: most.trim().parse().ok().filter(|most: &f64| *most > 0.0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_comments_are_not() {
        let read =
            parse("# why\n\nmessage <= 1.2  # of the floor\nsocket_bytes <= 2000\n").unwrap();
        let expected = [(Measure::Message, 1.2), (Measure::SocketBytes, 2000.0)];
        assert_eq!(
            read,
            expected.map(|(measure, most)| Threshold { measure, most })
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, told) in [
            ("message <= 1\nmassage <= 1", "line 2"),
            ("message < 1", "line 1"),
            ("message <= fast", "line 1"),
        ] {
            assert!(parse(text).unwrap_err().starts_with(told), "{text}");
        }
    }

    #[test]
    fn the_file_of_this_crate_is_right() {
        assert!(!parse(include_str!("../thresholds.txt")).unwrap().is_empty());
    }
}
