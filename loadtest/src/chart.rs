//! Line charts as SVG, drawn here so that a report needs nothing from elsewhere; pure.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// A day has more seconds than a chart has pixels: beyond this, every n-th point is drawn.
const POINTS_MAX: usize = 1200;

/// One line of a chart; the page colours the lines by their place.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

pub struct Chart<'a> {
    pub title: &'a str,
    pub lines: Vec<Line<'a>>,
    /// How a value reads on the axis at the left.
    pub value: fn(f64) -> String,
    /// How a place reads on the axis below.
    pub place: fn(f64) -> String,
}

impl Chart<'_> {
    /// The figure with its title and legend; nothing where there is nothing to see.
    pub fn html(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let right = points().map(|point| point.0).fold(0.0, f64::max);
        let top = points().map(|point| point.1).fold(0.0, f64::max);
        if right <= 0.0 || top <= 0.0 {
            return String::new();
        }
        let scale = Scale { right, top };
        let mut out = format!(
            "<figure><figcaption>{}{}</figcaption>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            self.title,
            self.legend(),
            self.title
        );
        self.axes(&mut out, &scale);
        for (place, line) in self.lines.iter().enumerate() {
            let _ = write!(
                out,
                "<path class=\"line l{place}\" d=\"{}\"/>",
                scale.path(line)
            );
        }
        out + "</svg></figure>\n"
    }

    fn legend(&self) -> String {
        if self.lines.len() < 2 {
            return String::new();
        }
        let entry = |(place, line): (usize, &Line<'_>)| {
            format!("<span class=\"k l{place}\">{}</span>", line.name)
        };
        self.lines.iter().enumerate().map(entry).collect()
    }

    fn axes(&self, out: &mut String, scale: &Scale) {
        for tick in ticks(scale.top) {
            let y = scale.y(tick);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                (self.value)(tick)
            );
        }
        for tick in ticks(scale.right) {
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                scale.x(tick),
                HEIGHT - 8.0,
                (self.place)(tick)
            );
        }
    }
}

/// From zero to the largest of both axes.
struct Scale {
    right: f64,
    top: f64,
}

impl Scale {
    fn x(&self, place: f64) -> f64 {
        LEFT + place / self.right * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)
    }

    fn path(&self, line: &Line<'_>) -> String {
        let step = line.points.len().div_ceil(POINTS_MAX).max(1);
        let mut path = String::new();
        for (index, (place, value)) in line.points.iter().step_by(step).enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.x(*place), self.y(*value));
        }
        path
    }
}

/// Round numbers from zero up to the largest: 1, 2 or 5 times a power of ten apart.
fn ticks(largest: f64) -> Vec<f64> {
    let rough = largest / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= rough);
    let step = factor.unwrap_or(10.0) * power;
    let number = (largest / step + 1e-9).floor() as u32;
    (0..=number).map(|tick| f64::from(tick) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> String {
        let line = Line {
            name: "p99",
            points,
        };
        Chart {
            title: "Answers",
            lines: vec![line],
            value: |value| format!("{value} ms"),
            place: |place| format!("{place} s"),
        }
        .html()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(5.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(73.0), [0.0, 20.0, 40.0, 60.0]);
        assert_eq!(ticks(0.4).len(), 5);
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let html = chart(vec![(0.0, 0.0), (10.0, 50.0)]);
        assert!(html.contains("d=\"M64.0 194.0L628.0 12.0\""), "{html}");
        assert!(
            html.contains(">50 ms</text>") && html.contains(">10 s</text>"),
            "{html}"
        );
    }

    #[test]
    fn nothing_is_no_chart_and_much_is_thinned_out() {
        assert_eq!(chart(vec![]), "");
        let day = chart((0..86_400).map(|second| (f64::from(second), 1.0)).collect());
        assert!(day.matches('L').count() <= POINTS_MAX);
    }
}
