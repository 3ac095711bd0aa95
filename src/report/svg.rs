//! Pictures as SVG: axes, lines, bars, bands, heat maps. It knows numbers and names, not what they mean; colours stand
//! in the style sheet of the page, by class.

use super::axis::{Axis, ticks};
use std::fmt::Write;

/// The page of a picture, in its own units; as many as pixels on a phone.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 216.0;
/// Room around what is drawn: for the title and the names of bands, for x, for y.
const TOP: f64 = 36.0;
const BOTTOM: f64 = 24.0;
const LEFT: f64 = 44.0;
/// The width of a letter at the style sheet's size, as wide fonts have it; and of a bold one.
const CHAR: f64 = 6.5;
const BOLD_CHAR: f64 = 7.8;
/// Between the end of a line and its name.
const NAME_GAP: f64 = 7.0;
/// A line that ends this near to the right side has its name beside the plot.
const NEAR: f64 = 45.0;
/// Between two lines of text.
const LINE: f64 = 13.0;
/// More points than this on a line cannot be told apart.
const MOST_POINTS: usize = 240;

/// What a plot shows.
pub struct Plot {
    /// Above it.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// Parts of x with a name, behind everything.
    pub bands: Vec<Band>,
    /// Columns from the bottom.
    pub bars: Vec<Bar>,
    /// Lines, with their names at their ends.
    pub lines: Vec<Line>,
}

/// A named part of x.
#[derive(Clone)]
pub struct Band {
    /// Its beginning.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// Its name.
    pub name: String,
}

/// A column.
pub struct Bar {
    /// Its left side.
    pub from: f64,
    /// Its right side.
    pub to: f64,
    /// Its height.
    pub height: f64,
    /// What colours it.
    pub class: &'static str,
}

/// A line through points.
pub struct Line {
    /// What colours it.
    pub class: &'static str,
    /// Its name; empty when no name shall stand there.
    pub name: String,
    /// The form of the marks on its points, if they are few; see [`mark`].
    pub mark: Option<usize>,
    /// What it goes through, from left to right.
    pub points: Vec<Point>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// From where to where several values reach, if there are several.
    pub range: Option<(f64, f64)>,
}

impl Point {
    /// A point of one value.
    pub fn new(x: f64, y: f64) -> Point {
        let range = None;
        Point { x, y, range }
    }
}

/// Text that is safe in elements and attributes; what XML does not allow is replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate, to a tenth.
fn xy(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).into()
}

/// Adds to a text; writing to a `String` does not fail.
macro_rules! add {
    ($out:expr, $($args:tt)*) => {{
        let _ = write!($out, $($args)*);
    }};
}

/// The opening tag with the title, also for those who cannot see it, and softly what is counted.
fn open(height: f64, title: &str, unit: &str) -> String {
    let (title, unit) = (escape(title), escape(unit));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\">\
         <text class=\"title\" x=\"4\" y=\"13\">{title}<tspan class=\"unit\" dx=\"8\">{unit}</tspan></text>",
        xy(height)
    )
}

impl Plot {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut out = open(HEIGHT, &self.title, &self.y.unit);
        self.put_bands(&mut out);
        self.put_axes(&mut out);
        for bar in &self.bars {
            let (left, right) = (self.x_at(bar.from), self.x_at(bar.to));
            let top = self.y_at(bar.height);
            let bottom = HEIGHT - BOTTOM;
            add!(
                out,
                "<rect class=\"bar {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
                bar.class,
                xy(left),
                xy(top),
                xy((right - left - 1.0).max(0.5)),
                xy(bottom - top)
            );
        }
        for line in &self.lines {
            self.put_line(&mut out, line);
        }
        self.put_names(&mut out);
        out += "</svg>";
        out
    }

    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.bars.is_empty() && self.lines.iter().all(|line| line.points.is_empty())
    }

    /// Room on the right is needed for names only.
    fn right(&self) -> f64 {
        let names = self.lines.iter().filter(|line| !line.name.is_empty());
        let room = names.map(|line| NAME_GAP + name_width(&line.name));
        WIDTH - room.fold(14.0, f64::max).min(WIDTH / 3.0)
    }

    fn x_at(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.right() - LEFT)
    }

    fn y_at(&self, value: f64) -> f64 {
        let bottom = HEIGHT - BOTTOM;
        bottom - self.y.place(value) * (bottom - TOP)
    }

    fn put_bands(&self, out: &mut String) {
        let mut free_from = LEFT - 8.0;
        for (i, band) in self.bands.iter().enumerate() {
            let (left, right) = (self.x_at(band.from), self.x_at(band.to));
            add!(
                out,
                "<rect class=\"band band-{}\" x=\"{}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/>",
                i % 2,
                xy(left),
                xy(right - left),
                xy(HEIGHT - BOTTOM - TOP)
            );
            let half = band.name.chars().count() as f64 * CHAR / 2.0;
            let middle = ((left + right) / 2.0)
                .min(WIDTH - half)
                .max(LEFT - 8.0 + half);
            if middle - half >= free_from {
                free_from = middle + half + CHAR;
                add!(
                    out,
                    "<text class=\"band-name\" x=\"{}\" y=\"{}\">{}</text>",
                    xy(middle),
                    TOP - 4.0,
                    escape(&band.name)
                );
            }
        }
    }

    fn put_axes(&self, out: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, self.right());
        for (at, name) in &self.y.ticks {
            let y = self.y_at(*at);
            add!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y}H{right}\"/><text class=\"tick y\" x=\"{}\" y=\"{}\">{}</text>",
                LEFT - 5.0,
                xy(y + 4.0),
                escape(name),
                y = xy(y)
            );
        }
        let last = self.x.ticks.len().saturating_sub(1);
        for (i, (at, name)) in self.x.ticks.iter().enumerate() {
            let unit = if i == last { self.x.unit.as_str() } else { "" };
            let space = if unit.is_empty() { "" } else { " " };
            let x = xy(self.x_at(*at));
            add!(
                out,
                "<path class=\"tick-mark\" d=\"M{x} {bottom}v4\"/><text class=\"tick x\" x=\"{x}\" y=\"{}\">{}{space}{}</text>",
                bottom + 16.0,
                escape(name),
                escape(unit)
            );
        }
        add!(out, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>");
    }

    fn put_line(&self, out: &mut String, line: &Line) {
        let points = thin(&line.points, MOST_POINTS);
        let class = line.class;
        let places = points.iter().map(|p| (self.x_at(p.x), self.y_at(p.y)));
        let places: Vec<(f64, f64)> = places.collect();
        if places.len() > 1 {
            let words = places.iter().map(|(x, y)| format!("{} {}", xy(*x), xy(*y)));
            let path = words.collect::<Vec<_>>().join("L");
            add!(out, "<path class=\"line {class}\" d=\"M{path}\"/>");
        }
        for (point, (x, y)) in points.iter().zip(&places) {
            if let Some((least, most)) = point.range {
                let (low, high) = (self.y_at(least), self.y_at(most));
                add!(
                    out,
                    "<path class=\"range {class}\" d=\"M{} {}V{}\"/>",
                    xy(*x),
                    xy(low),
                    xy(high)
                );
            }
            let is_alone = places.len() == 1;
            if let Some(form) = line.mark.or(is_alone.then_some(0)) {
                add!(
                    out,
                    "<path class=\"mark {class}\" d=\"M{} {}{}\"/>",
                    xy(*x),
                    xy(*y),
                    mark(form)
                );
            }
        }
    }

    /// Names stand behind the last points, moved down or up until none covers another.
    fn put_names(&self, out: &mut String) {
        let ends = self.lines.iter().filter(|line| !line.name.is_empty());
        let ends = ends.filter_map(|line| line.points.last().map(|p| (line, p)));
        let mut names: Vec<Name<'_>> = ends
            .map(|(line, p)| {
                let width = name_width(&line.name);
                // Ends near the right side have their names beside the plot, so that none covers another's mark.
                let end = self.x_at(p.x);
                let is_last = self.right() - end < NEAR;
                let x = if is_last { self.right() } else { end } + NAME_GAP;
                let x = x.min(WIDTH - width).max(0.0);
                let y = self.y_at(p.y) + 4.0;
                Name {
                    line,
                    from: x,
                    to: x + width,
                    y,
                }
            })
            .collect();
        names.sort_by(|a, b| a.y.total_cmp(&b.y));
        for i in 0..names.len() {
            let above = names[..i].iter().filter(|n| n.shares_x_with(&names[i]));
            let lowest = above.map(|n| n.y + LINE).fold(names[i].y, f64::max);
            names[i].y = lowest;
        }
        for i in (0..names.len()).rev() {
            let below = names[i + 1..].iter().filter(|n| n.shares_x_with(&names[i]));
            let bottom = HEIGHT - BOTTOM - 3.0;
            let highest = below
                .map(|n| n.y - LINE)
                .fold(names[i].y.min(bottom), f64::min);
            names[i].y = highest;
        }
        for name in names {
            add!(
                out,
                "<text class=\"name {}\" x=\"{}\" y=\"{}\">{}</text>",
                name.line.class,
                xy(name.from),
                xy(name.y),
                escape(&name.line.name)
            );
        }
    }
}

/// Where the name of a line stands.
struct Name<'a> {
    line: &'a Line,
    from: f64,
    to: f64,
    y: f64,
}

impl Name<'_> {
    fn shares_x_with(&self, other: &Name<'_>) -> bool {
        self.from < other.to && other.from < self.to
    }
}

fn name_width(name: &str) -> f64 {
    name.chars().count() as f64 * BOLD_CHAR
}

/// A mark around the current point, as the rest of a path: circle, square, triangle, diamond, cross.
pub fn mark(form: usize) -> &'static str {
    match form % 5 {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        1 => "m-3.5 -3.5h7v7h-7z",
        2 => "m0 -4.6l4.4 7.8h-8.8z",
        3 => "m0 -5l4.6 5l-4.6 5l-4.6 -5z",
        _ => "m-4 -1.3h2.7v-2.7h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7z",
    }
}

/// At most about `most` points with the same outline: of each part the least and the most are kept, and the ends.
fn thin(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    let part = points.len().div_ceil(most / 2);
    let mut out = vec![points[0]];
    for part in points[1..points.len() - 1].chunks(part) {
        let by_y = |a: &(usize, &Point), b: &(usize, &Point)| a.1.y.total_cmp(&b.1.y);
        let all = || part.iter().enumerate();
        if let (Some((low, _)), Some((high, _))) = (all().min_by(by_y), all().max_by(by_y)) {
            out.push(part[low.min(high)]);
            if low != high {
                out.push(part[low.max(high)]);
            }
        }
    }
    out.push(points[points.len() - 1]);
    out
}

/// A field of small rectangles, darker where there is more.
pub struct HeatMap<'a> {
    /// Above it.
    pub title: String,
    /// Rectangles downwards.
    pub n_rows: usize,
    /// Rectangles to the right.
    pub n_columns: usize,
    /// What counts downwards, what to the right.
    pub names: [&'static str; 2],
    /// How dark the rectangle of a row and a column is: 0 (empty) to [`LEVELS`].
    pub level: &'a dyn Fn(usize, usize) -> usize,
    /// What colours it.
    pub class: &'static str,
}

/// Shades of a heat map that are not empty.
pub const LEVELS: usize = 4;

impl HeatMap<'_> {
    /// The picture.
    pub fn svg(&self) -> String {
        let (n_rows, n_columns) = (self.n_rows.max(1), self.n_columns.max(1));
        let row_height = (172.0 / n_rows as f64).clamp(1.0, 14.0);
        let (top, right) = (24.0, WIDTH - 14.0);
        let bottom = top + row_height * n_rows as f64;
        let [down, across] = self.names;
        let names = format!("{down} downwards, {across} to the right");
        let mut out = open(bottom + BOTTOM, &self.title, &names);
        let (width, height) = (right - LEFT, bottom - top);
        add!(
            out,
            "<rect class=\"field\" x=\"{LEFT}\" y=\"{top}\" width=\"{}\" height=\"{}\"/>",
            xy(width),
            xy(height)
        );
        // One path a shade, a stroke for each run of equal rectangles: short text, also for many layers.
        add!(
            out,
            "<g class=\"heat {}\" transform=\"translate({LEFT} {top}) scale({:.5} {:.5})\">",
            self.class,
            width / n_columns as f64,
            row_height
        );
        for level in 1..=LEVELS {
            let path = self.shade(level);
            if !path.is_empty() {
                add!(out, "<path class=\"h{level}\" d=\"{path}\"/>");
            }
        }
        out += "</g>";
        for (at, name) in ticks(0.0, n_columns as f64, 8) {
            let x = xy(LEFT + at / n_columns as f64 * width);
            add!(
                out,
                "<path class=\"tick-mark\" d=\"M{x} {}v4\"/><text class=\"tick x\" x=\"{x}\" y=\"{}\">{name}</text>",
                xy(bottom),
                xy(bottom + 16.0)
            );
        }
        let every = (LINE / row_height).ceil() as usize;
        let steps = [1, 2, 5, 10, 20, 50, 100, 1000];
        let every = steps.into_iter().find(|s| *s >= every).unwrap_or(1000);
        for row in (0..n_rows).step_by(every) {
            let y = top + (row as f64 + 0.5) * row_height + 4.0;
            add!(
                out,
                "<text class=\"tick y\" x=\"{}\" y=\"{}\">{row}</text>",
                LEFT - 5.0,
                xy(y)
            );
        }
        out += "</svg>";
        out
    }

    /// The path of all runs of a shade, in rectangles; each stands as far from the end of the one before in its row.
    fn shade(&self, level: usize) -> String {
        let mut path = String::new();
        for row in 0..self.n_rows {
            let (mut end, mut column) = (None, 0);
            while column < self.n_columns {
                let start = column;
                while column < self.n_columns && (self.level)(row, column) == level {
                    column += 1;
                }
                if start == column {
                    column += 1;
                    continue;
                }
                match end {
                    None => add!(path, "M{start} {row}.5h{}", column - start),
                    Some(end) => add!(path, "m{} 0h{}", start - end, column - start),
                }
                end = Some(column);
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_one_place_are_moved_apart() {
        let line = |name: &str, y| Line {
            class: "s",
            name: name.into(),
            mark: None,
            points: vec![Point::new(0.0, 0.0), Point::new(10.0, y)],
        };
        let plot = Plot {
            title: "a < b".into(),
            x: Axis::from_zero(10.0, 4, "s"),
            y: Axis::from_zero(10.0, 4, "GiB"),
            bands: Vec::new(),
            bars: Vec::new(),
            lines: vec![line("one", 5.0), line("two", 5.1), line("three", 5.0)],
        };
        let svg = plot.svg();
        let names = svg.split("<text class=\"name s\"").skip(1);
        let ys = names.map(|text| {
            let y = text.split("y=\"").nth(1).and_then(|t| t.split('"').next());
            y.and_then(|y| y.parse::<f64>().ok()).unwrap_or(f64::NAN)
        });
        let mut ys: Vec<f64> = ys.collect();
        ys.sort_by(f64::total_cmp);
        assert_eq!(ys.len(), 3);
        assert!(
            ys.windows(2).all(|pair| pair[1] - pair[0] >= LINE - 0.2),
            "{ys:?}"
        );
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }

    #[test]
    fn a_thinned_line_keeps_its_outline() {
        let points: Vec<Point> = (0..10_000)
            .map(|i| Point::new(f64::from(i), if i == 5_000 { 9.0 } else { 1.0 }))
            .collect();
        let thinned = thin(&points, 100);
        assert!(thinned.len() <= 110, "{}", thinned.len());
        assert!(thinned.contains(&points[5_000]));
        assert_eq!((thinned[0], thinned.last()), (points[0], points.last()));
        assert!(thinned.is_sorted_by(|a, b| a.x < b.x));
    }

    #[test]
    fn runs_of_a_shade_are_one_stroke() {
        let level = |row: usize, column: usize| {
            usize::from(row == 1 && (2..5).contains(&column) || column == 7)
        };
        let map = HeatMap {
            title: String::new(),
            n_rows: 2,
            n_columns: 8,
            names: ["layers", "experts"],
            level: &level,
            class: "s",
        };
        assert_eq!(map.shade(1), "M7 0.5h1M2 1.5h3m2 0h1");
        assert_eq!(map.shade(2), "");
    }

    #[test]
    fn text_is_escaped() {
        let found = escape("<a href=\"x\" y='z'>&\u{1}\n</a>");
        assert_eq!(
            found,
            "&lt;a href=&quot;x&quot; y=&#39;z&#39;&gt;&amp;\u{fffd} &lt;/a&gt;"
        );
    }
}
