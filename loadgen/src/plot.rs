//! Plots as SVG, placed by hand: lines over logarithmic or plain axes. Pure; it knows nothing of records.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// Colours that are told apart on light and on dark, and by most who see colours otherwise.
const COLOURS: [&str; 6] = ["#2f6fde", "#e07b1f", "#1f9d6b", "#b0459c", "#c8a400", "#6b7280"];

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which colour; lines of one server share it.
    pub colour: usize,
    /// Drawn with gaps.
    pub dashed: bool,
    /// Points in the plot's own units.
    pub points: Vec<(f64, f64)>,
}

/// A colour by number.
pub fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// What the x axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Across {
    /// Quantiles from 0 to almost 1, each nine as wide as the one before.
    Quantiles,
    /// Seconds.
    Seconds,
}

/// What the y axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Up {
    /// Microseconds, logarithmic.
    Time,
    /// A rate from 0.
    Rate,
}

struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    across: Across,
    up: Up,
}

impl Frame {
    fn around(lines: &[Line], across: Across, up: Up) -> Frame {
        let points = || lines.iter().flat_map(|line| &line.points);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let x = match across {
            Across::Quantiles => (0.0, most(&mut points().map(|point| nines(point.0))).max(2.0)),
            Across::Seconds => (0.0, most(&mut points().map(|point| point.0)).max(1.0)),
        };
        let y = match up {
            Up::Rate => (0.0, most(&mut points().map(|point| point.1)).max(1.0) * 1.08),
            Up::Time => {
                let least =
                    points().map(|point| point.1).filter(|value| *value > 0.0).fold(f64::MAX, f64::min).min(1e9);
                let most = most(&mut points().map(|point| point.1)).max(least * 10.0);
                (least.log10().floor(), most.log10().ceil())
            }
        };
        Frame { x, y, across, up }
    }

    fn place(&self, point: (f64, f64)) -> (f64, f64) {
        let x = if self.across == Across::Quantiles { nines(point.0) } else { point.0 };
        let y = if self.up == Up::Time { point.1.max(1e-9).log10() } else { point.1 };
        let share = |value: f64, (from, to): (f64, f64)| ((value - from) / (to - from)).clamp(0.0, 1.0);
        let across = LEFT + share(x, self.x) * (WIDTH - LEFT - RIGHT);
        (across, HEIGHT - BOTTOM - share(y, self.y) * (HEIGHT - TOP - BOTTOM))
    }

    fn ticks_across(&self) -> Vec<(f64, String)> {
        match self.across {
            Across::Quantiles => {
                let name = |nine: i32| match nine {
                    0 => "0 %".to_owned(),
                    1 => "90 %".to_owned(),
                    2 => "99 %".to_owned(),
                    more => format!("99.{} %", "9".repeat(more as usize - 2)),
                };
                (0..=self.x.1 as i32).map(|nine| (1.0 - 10f64.powi(-nine), name(nine))).collect()
            }
            Across::Seconds => whole_steps(self.x.1).into_iter().map(|at| (at, format!("{at} s"))).collect(),
        }
    }

    fn ticks_up(&self) -> Vec<(f64, String)> {
        match self.up {
            Up::Time => (self.y.0 as i32..=self.y.1 as i32)
                .map(|power| (10f64.powi(power), crate::table::time(10f64.powi(power))))
                .collect(),
            Up::Rate => whole_steps(self.y.1).into_iter().map(|rate| (rate, short(rate))).collect(),
        }
    }
}

fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-7).log10()
}

/// At most eight round steps from 0.
fn whole_steps(to: f64) -> Vec<f64> {
    let rough = to / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(power * 10.0);
    (0..=(to / step) as usize).map(|number| number as f64 * step).collect()
}

fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{}M", rate / 1e6),
        rate if rate >= 1e3 => format!("{}k", rate / 1e3),
        rate => format!("{rate}"),
    }
}

/// The plot; `title` is for those who do not see it.
pub fn svg(title: &str, lines: &[Line], across: Across, up: Up) -> String {
    let frame = Frame::around(lines, across, up);
    // Writing into a string cannot fail.
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n");
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, name) in frame.ticks_up() {
        let (_, y) = frame.place((0.0, value));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/><text class=\"up\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    for (value, name) in frame.ticks_across() {
        let (x, _) = frame.place((value, 0.0));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text class=\"across\" x=\"{x:.1}\" y=\"{:.1}\">{name}</text>",
            bottom + 18.0
        );
    }
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let _ = write!(
            out,
            "<polyline class=\"line{}\" stroke=\"{}\" points=\"",
            if line.dashed { " dashed" } else { "" },
            colour(line.colour)
        );
        for point in &line.points {
            let (x, y) = frame.place(*point);
            let _ = write!(out, "{x:.1},{y:.1} ");
        }
        let _ = writeln!(out, "\"/>");
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_they_should() {
        let line = Line { colour: 0, dashed: false, points: vec![(0.0, 100.0), (0.99, 10_000.0)] };
        let frame = Frame::around(std::slice::from_ref(&line), Across::Quantiles, Up::Time);
        let lies = |point, x: f64, y: f64| {
            let at = frame.place(point);
            assert!((at.0 - x).abs() < 1e-6 && (at.1 - y).abs() < 1e-6, "{at:?}");
        };
        lies((0.0, 100.0), LEFT, HEIGHT - BOTTOM);
        lies((0.99, 10_000.0), WIDTH - RIGHT, TOP);
        lies((0.9, 1000.0), (LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        let names: Vec<String> = frame.ticks_across().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["0 %", "90 %", "99 %"]);
        let svg = svg("x", &[line], Across::Quantiles, Up::Time);
        assert!(svg.contains("points=\"70.0,260.0 744.0,14.0 \""), "{svg}");
    }

    #[test]
    fn steps_are_round_and_few() {
        assert_eq!(whole_steps(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!((2..=8).contains(&whole_steps(476_173.0).len()));
        assert_eq!([1_500_000.0, 20_000.0, 5.0].map(short), ["1.5M", "20k", "5"]);
    }

    #[test]
    fn nothing_to_draw_is_no_trouble() {
        assert!(svg("x", &[], Across::Seconds, Up::Time).ends_with("</svg>\n"));
        let flat = Line { colour: 9, dashed: true, points: vec![(0.0, 0.0)] };
        assert!(!svg("x", &[flat], Across::Seconds, Up::Rate).contains("NaN"));
    }
}
