//! What `infall bench` prints: a table, comma-separated values or JSON, row by row.

use super::super::profile;
use crate::bench::bandwidth::Bandwidth;
use crate::bench::{Feed, Kind, Measured, SEED, Test, mean, sample_sd};
use crate::json;
use crate::units::Bytes;
use std::fmt::Write;
use std::path::Path;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Markdown, with columns that stand below each other on a terminal too.
    Table,
    /// RFC 4180; a list of numbers is one field, with semicolons.
    Csv,
    /// An array of objects.
    Json,
}

/// What all tests have in common.
pub struct Setting {
    /// The model file.
    pub model: String,
    /// Bytes of all weights.
    pub model_bytes: u64,
    /// Weights.
    pub n_params: u64,
    /// Bytes of weights that computing one token reads.
    pub token_bytes: u64,
    /// Supply of experts.
    pub strategy: &'static str,
    /// Bytes for experts.
    pub budget_bytes: u64,
    /// Kernel table.
    pub kernels: &'static str,
    /// Compute threads.
    pub n_threads: usize,
    /// What decodes are fed.
    pub feed: Feed,
    /// How fast memory can be read, if that was measured.
    pub bandwidth: Option<Bandwidth>,
}

/// Writes the rows of one benchmark.
pub struct Writer {
    form: Form,
    setting: Setting,
    /// Of the table's columns, in characters.
    widths: Vec<usize>,
    n_rows: usize,
    /// What there is to say about tests below the table.
    remarks: String,
    /// Where the time of the tests went, if that was asked for.
    profiles: String,
}

/// A column of the table: its name, whether numbers stand in it, and the characters it has at least, so that rows can
/// be printed before the next is known.
const COLUMNS: &[(&str, bool, usize)] = &[
    ("model", false, 0),
    ("size", true, 0),
    ("params", true, 0),
    ("strategy", false, 0),
    ("kernels", false, 0),
    ("threads", true, 0),
    ("test", true, 0),
    ("t/s", true, 17),
    ("least to most", true, 18),
    ("ms/token", true, 9),
    ("GB/token", true, 0),
    ("GB/s", true, 7),
    ("of memory", true, 0),
];

/// The columns from this one on differ from test to test.
const FIRST_OF_TEST: usize = 6;

/// A field of a record.
enum Value {
    Text(String),
    Count(u64),
    Number(f64),
    List(Vec<String>),
    Nothing,
}

impl Writer {
    /// A writer for the results of `tests`.
    pub fn new(form: Form, setting: Setting, tests: &[Test]) -> Writer {
        let mut widths: Vec<usize> = COLUMNS.iter().map(|c| c.2.max(width(c.0))).collect();
        let names = tests.iter().map(Test::name);
        widths[FIRST_OF_TEST] =
            names.fold(widths[FIRST_OF_TEST], |most, name| most.max(width(&name)));
        for (cell, most) in setting.cells().iter().zip(&mut widths) {
            *most = width(cell).max(*most);
        }
        Writer {
            form,
            setting,
            widths,
            n_rows: 0,
            remarks: String::new(),
            profiles: String::new(),
        }
    }

    /// What comes before the first row.
    pub fn opening(&self) -> String {
        match self.form {
            Form::Json => "[".into(),
            Form::Csv => String::new(), // the header comes with the first row, from the same list
            Form::Table => {
                let names: Vec<String> = COLUMNS.iter().map(|c| c.0.into()).collect();
                let rules = COLUMNS.iter().zip(&self.widths).map(|(column, width)| {
                    let end = if column.1 { ":" } else { "-" };
                    "-".repeat(width - 1) + end
                });
                self.line(&names) + &self.line(&rules.collect::<Vec<_>>())
            }
        }
    }

    /// A finished test.
    pub fn row(&mut self, measured: &Measured) -> String {
        let first = self.n_rows == 0;
        self.n_rows += 1;
        match self.form {
            Form::Table => {
                let mut cells = self.setting.cells();
                cells.extend(self.setting.test_cells(measured));
                self.remarks += &remark(measured);
                if let Some(stages) = measured.stages() {
                    self.profiles += &profile::table(&measured.test.name(), &stages);
                    self.profiles.push('\n');
                }
                self.line(&cells)
            }
            Form::Csv => {
                let fields = self.setting.fields(measured);
                let values: Vec<String> = fields.iter().map(|(_, value)| value.csv()).collect();
                let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
                let header = if first {
                    names.join(",") + "\n"
                } else {
                    String::new()
                };
                header + &values.join(",") + "\n"
            }
            Form::Json => {
                let fields = self.setting.fields(measured);
                let member = |(name, value): &(&str, Value)| {
                    format!("    {}: {}", json::quote(name), value.json())
                };
                let members: Vec<String> = fields.iter().map(member).collect();
                let comma = if first { "" } else { "," };
                format!("{comma}\n  {{\n{}\n  }}", members.join(",\n"))
            }
        }
    }

    /// What comes behind the last row.
    pub fn closing(&self) -> String {
        match self.form {
            Form::Json => "\n]\n".into(),
            Form::Csv => String::new(),
            Form::Table => {
                let memory = self.setting.bandwidth.map_or(String::new(), |b| {
                    format!(
                        "memory: {:.2} GB/s, the best of {} reads of {} in order with {} threads\n",
                        b.gb_per_s,
                        b.n_passes,
                        Bytes(b.buffer_bytes),
                        self.setting.n_threads
                    )
                });
                let mut text = memory + &self.remarks;
                if !text.is_empty() {
                    text.insert(0, '\n');
                }
                if !self.profiles.is_empty() {
                    text += &format!("\n{}{}", self.profiles, profile::LEGEND);
                }
                text
            }
        }
    }

    /// A line of the table.
    fn line(&self, cells: &[String]) -> String {
        let mut line = String::from("|");
        for ((cell, (_, is_number, _)), width) in cells.iter().zip(COLUMNS).zip(&self.widths) {
            // Writing to a String does not fail.
            let _ = match is_number {
                true => write!(line, " {cell:>width$} |"),
                false => write!(line, " {cell:<width$} |"),
            };
        }
        line + "\n"
    }
}

impl Setting {
    /// The table's first columns.
    fn cells(&self) -> Vec<String> {
        let name = Path::new(&self.model).file_name();
        let params = self.n_params as f64;
        vec![
            // A bar would end the cell, and a control character is no text.
            name.map_or(self.model.clone(), |n| n.to_string_lossy().into_owned())
                .replace(|c: char| c == '|' || c.is_control(), "?"),
            Bytes(self.model_bytes).to_string(),
            match self.n_params {
                0..1_000_000_000 => format!("{:.2} M", params / 1e6),
                _ => format!("{:.2} B", params / 1e9),
            },
            self.strategy.into(),
            self.kernels.into(),
            self.n_threads.to_string(),
        ]
    }

    /// Its other columns.
    fn test_cells(&self, measured: &Measured) -> Vec<String> {
        let speeds = measured.speeds();
        let (speed, deviation) = (mean(&speeds), sample_sd(&speeds));
        let least = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = speeds.iter().copied().fold(0.0, f64::max);
        let reached = self.token_gb(measured).map(|gb| gb * speed);
        let part = reached.zip(self.bandwidth);
        vec![
            measured.test.name(),
            format!("{speed:.2} ± {deviation:.2}"),
            format!("{least:.2} to {most:.2}"),
            format!(
                "{:.3}",
                mean(&times(measured)) / 1e6 / measured.test.n as f64
            ),
            self.token_gb(measured)
                .map_or("-".into(), |gb| format!("{gb:.4}")),
            reached.map_or("-".into(), |gb| format!("{gb:.2}")),
            part.map_or("-".into(), |(gb, memory)| {
                format!("{:.1} %", 100.0 * gb / memory.gb_per_s)
            }),
        ]
    }

    /// 10^9 bytes of weights that a token of a decode reads; tokens of a prefill share their reads.
    fn token_gb(&self, measured: &Measured) -> Option<f64> {
        (measured.test.kind == Kind::Decode).then_some(self.token_bytes as f64 / 1e9)
    }

    /// All that is known of a test. Names as in llama-bench as far as it has them.
    fn fields(&self, measured: &Measured) -> Vec<(&'static str, Value)> {
        use Value::{Count, List, Number, Text};
        let Test { kind, n, depth } = measured.test;
        let (n_prompt, n_gen) = match kind {
            Kind::Prefill => (n, 0),
            Kind::Decode => (0, n),
        };
        let (speeds, times) = (measured.speeds(), times(measured));
        let token_gb = self.token_gb(measured);
        let feed = match (kind, self.feed) {
            (Kind::Decode, Feed::Greedy) => "greedy",
            _ => "random",
        };
        let maybe = |value: Option<f64>| value.map_or(Value::Nothing, Number);
        let count =
            |counter: fn(&crate::engine::SupplyStats) -> u64| Count(measured.total(counter));
        let mut fields = vec![
            ("test", Text(measured.test.name())),
            ("model_filename", Text(self.model.clone())),
            ("model_size", Count(self.model_bytes)),
            ("model_n_params", Count(self.n_params)),
            ("strategy", Text(self.strategy.into())),
            ("budget_bytes", Count(self.budget_bytes)),
            ("kernels", Text(self.kernels.into())),
            ("n_threads", Count(self.n_threads as u64)),
            ("n_prompt", Count(n_prompt as u64)),
            ("n_gen", Count(n_gen as u64)),
            ("n_depth", Count(depth as u64)),
            ("tokens", Text(feed.into())),
            ("seed", Count(SEED)),
            ("token_hash", Text(format!("{:016x}", measured.token_hash))),
            ("avg_ns", Count(mean(&times).round() as u64)),
            ("stddev_ns", Count(sample_sd(&times).round() as u64)),
            ("avg_ts", Number(mean(&speeds))),
            ("stddev_ts", Number(sample_sd(&speeds))),
            (
                "samples_ns",
                List(measured.runs.iter().map(|r| r.ns.to_string()).collect()),
            ),
            (
                "samples_ts",
                List(speeds.iter().map(|v| number(*v)).collect()),
            ),
            ("expert_hits", count(|s| s.hits)),
            ("expert_misses", count(|s| s.misses)),
            ("read_bytes", count(|s| s.read_bytes)),
            ("read_ns", count(|s| s.read_ns)),
            ("stall_ns", count(|s| s.stall_ns)),
            ("weights_gb_per_token", maybe(token_gb)),
            (
                "bandwidth_gbs",
                maybe(
                    self.bandwidth
                        .filter(|_| token_gb.is_some())
                        .map(|b| b.gb_per_s),
                ),
            ),
        ];
        fields.extend(
            measured
                .stages()
                .map(|s| ("profile", List(profile::json(&s)))),
        );
        fields
    }
}

/// Nanoseconds of each run.
fn times(measured: &Measured) -> Vec<f64> {
    measured.runs.iter().map(|run| run.ns as f64).collect()
}

/// What experts cost in a test, where any were read.
fn remark(measured: &Measured) -> String {
    let read = measured.total(|s| s.read_bytes);
    if read == 0 {
        return String::new();
    }
    let (hits, touches) = (measured.total(|s| s.hits), measured.total(|s| s.touches));
    format!(
        "{}: {:.1} % of {touches} experts were there, {} read, {:.3} s waited for, in {} runs\n",
        measured.test.name(),
        100.0 * hits as f64 / touches.max(1) as f64,
        Bytes(read),
        measured.total(|s| s.stall_ns) as f64 / 1e9,
        measured.runs.len()
    )
}

impl Value {
    fn json(&self) -> String {
        match self {
            Value::Text(text) => json::quote(text),
            Value::Count(n) => n.to_string(),
            Value::Number(v) => number(*v),
            Value::List(items) => format!("[{}]", items.join(", ")),
            Value::Nothing => "null".into(),
        }
    }

    fn csv(&self) -> String {
        match self {
            Value::Text(text) => csv_text(text),
            Value::Count(n) => n.to_string(),
            Value::Number(v) => number(*v),
            Value::List(items) => items.join(";"),
            Value::Nothing => String::new(),
        }
    }
}

/// As llama-bench writes it: six digits behind the point, never an exponent.
fn number(value: f64) -> String {
    format!("{value:.6}")
}

/// RFC 4180: in quotes where it must be, with quotes doubled.
fn csv_text(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted() {
        assert_eq!(csv_text("plain name"), "plain name");
        assert_eq!(csv_text("a,\"b\"\r\n"), "\"a,\"\"b\"\"\r\n\"");
    }
}
