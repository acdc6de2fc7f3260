//! Thresholds: `p99<50ms`; pure.

use std::{fmt, str::FromStr};

use crate::report::is_figure;

/// A figure's bound, in seconds, bytes, or plain.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    pub figure: String,
    comparison: Comparison,
    bound: f64,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// The longer signs first, for the shorter ones begin them.
const COMPARISONS: [(&str, Comparison); 4] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Below),
    (">", Comparison::Above),
];

/// Longer units first, for the shorter ones end them.
const UNITS: [(&str, f64); 10] = [
    ("KiB", 1024.0),
    ("MiB", 1024.0 * 1024.0),
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("B", 1.0),
    ("%", 0.01),
    ("", 1.0),
];

impl Assertion {
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Below => value < self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::Above => value > self.bound,
            Comparison::AtLeast => value >= self.bound,
        }
    }
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = |(sign, comparison): &(&str, Comparison)| {
            let (figure, bound) = text.split_once(sign)?;
            Some((figure.trim(), *comparison, bound.trim()))
        };
        let (figure, comparison, bound) = COMPARISONS
            .iter()
            .find_map(split)
            .ok_or("it needs <, <=, > or >=, as in p99<50ms")?;
        if !is_figure(figure) {
            return Err(format!("no figure is called {figure:?}; --help lists them"));
        }
        Ok(Self {
            figure: figure.to_owned(),
            comparison,
            bound: value(bound)
                .ok_or_else(|| format!("{bound:?} is no value, such as 50ms, 2KiB, 99%"))?,
            text: text.to_owned(),
        })
    }
}

fn value(text: &str) -> Option<f64> {
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let number: f64 = number.trim().parse().ok()?;
    number.is_finite().then_some(number * factor)
}

impl fmt::Display for Assertion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Assertion, String> {
        text.parse()
    }

    #[test]
    fn bounds_have_units() {
        for (text, inside, outside) in [
            ("p99<50ms", 0.049, 0.05),
            ("p99 <= 50ms", 0.05, 0.051),
            ("spread<1s", 0.9, 1.0),
            ("byes>=100%", 1.0, 0.999),
            ("socket_bytes<2KiB", 2047.0, 2048.0),
            ("rate>1000", 1000.5, 1000.0),
            ("max<500us", 0.000_4, 0.001),
        ] {
            let assertion = parse(text).unwrap();
            assert!(assertion.holds(inside), "{text}");
            assert!(!assertion.holds(outside), "{text}");
            assert_eq!(assertion.to_string(), text);
        }
    }

    #[test]
    fn a_figure_that_is_not_there_holds_nothing() {
        assert!(!parse("p99<50ms").unwrap().holds(f64::NAN));
    }

    #[test]
    fn mistakes_are_told() {
        assert!(parse("p99=50ms").unwrap_err().contains("p99<50ms"));
        assert!(parse("p98<50ms").unwrap_err().contains("--help"));
        assert!(parse("p99<fast").unwrap_err().contains("fast"));
    }
}
