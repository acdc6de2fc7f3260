//! Figures as a person reads them; pure.

/// A duration.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.001 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

/// Memory.
pub fn bytes(bytes: f64) -> String {
    match bytes.abs() {
        b if b >= f64::from(1 << 20) => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        b if b >= 10_240.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{bytes:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        let times = [time(0.000_25), time(0.012_34), time(2.0)];
        assert_eq!(times, ["250 µs", "12.34 ms", "2.00 s"]);
        let sizes = [bytes(1280.0), bytes(20_480.0), bytes(3.0 * 1_048_576.0)];
        assert_eq!(sizes, ["1280 B", "20.0 KiB", "3.0 MiB"]);
    }
}
