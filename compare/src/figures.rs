//! Many samples made into one figure; pure.

use serde::{Deserialize, Serialize};

use crate::measure::Sample;

/// The middle of the repeats, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Figure {
    /// # Panics
    /// There is no value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self {
            median,
            least: values[0],
            most: values[values.len() - 1],
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    SocketBytes,
    Handshake,
    Message,
    Delivery,
    Spread,
    Drain,
    Rate,
}

impl Measure {
    pub const ALL: [Self; 7] = [
        Self::SocketBytes,
        Self::Handshake,
        Self::Message,
        Self::Delivery,
        Self::Spread,
        Self::Drain,
        Self::Rate,
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::SocketBytes => "socket_bytes",
            Self::Handshake => "handshake",
            Self::Message => "message",
            Self::Delivery => "delivery",
            Self::Spread => "spread",
            Self::Drain => "drain",
            Self::Rate => "rate",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::SocketBytes => "memory of an idle socket, bytes",
            Self::Handshake => "CPU of a handshake, µs",
            Self::Message => "CPU of a message, µs",
            Self::Delivery => "CPU of a heartbeat's delivery, µs",
            Self::Spread => "a heartbeat from the first socket to the last, ms",
            Self::Drain => "from SIGTERM to the last bye, s",
            Self::Rate => "messages a second at most",
        }
    }

    pub fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::SocketBytes => sample.socket_bytes,
            Self::Handshake => sample.handshake,
            Self::Message => sample.message,
            Self::Delivery => sample.delivery,
            Self::Spread => sample.spread,
            Self::Drain => sample.drain,
            Self::Rate => sample.rate,
        }
    }

    /// Whether it is told as a multiple of the floor's. The floor holds no memory for a socket.
    pub fn is_ratio(self) -> bool {
        self != Self::SocketBytes
    }

    pub fn figure(self, samples: &[Sample]) -> Figure {
        Figure::of(samples.iter().map(|sample| self.of(sample)).collect())
    }

    /// Each repeat by the floor's of the same repeat, so that what slowed both is left out.
    pub fn ratio(self, samples: &[Sample], floor: &[Sample]) -> Figure {
        let pairs = samples.iter().zip(floor);
        Figure::of(
            pairs
                .map(|(one, floor)| self.of(one) / self.of(floor))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(messages: &[f64]) -> Vec<Sample> {
        let sample = |message: &f64| Sample {
            message: *message,
            ..Sample::default()
        };
        messages.iter().map(sample).collect()
    }

    #[test]
    fn the_median_leaves_the_odd_one_out() {
        let figure = Figure::of(vec![90.0, 10.0, 11.0]);
        assert_eq!(
            (figure.median, figure.least, figure.most),
            (11.0, 10.0, 90.0)
        );
        assert_eq!(Figure::of(vec![1.0, 2.0]).median, 1.5);
    }

    #[test]
    fn a_repeat_is_compared_with_the_floor_of_the_same_repeat() {
        // Everything took twice as long in the second repeat.
        let ratio = Measure::Message.ratio(&samples(&[15.0, 30.0]), &samples(&[10.0, 20.0]));
        assert_eq!((ratio.least, ratio.most), (1.5, 1.5));
    }
}
