//! `infall report` as a user meets it: the page, the tables, the comparison, and what cannot be put together.
//!
//! The rows under `golden/report/rows` are runs of the shipped model, made with `infall bench --row` (the commands stand
//! in them). The page and the pictures beside them are compared byte for byte; after a wanted change
//! `INFALL_RENEW_GOLDEN=1 cargo test --test report` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{golden, infall, succeeded};
use infall::report::row::{Layer, Row, Series, Sweeps};
use infall::report::svg::{Axis, Band, Bar, HeatMap, Line, Plot, Point};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder of one test's own, removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{process}-{n}"));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// A folder with these rows.
    fn of(rows: &[Row]) -> Folder {
        let folder = Folder::new();
        for (i, row) in rows.iter().enumerate() {
            folder.write(&format!("{i:04}.json"), row.text());
        }
        folder
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn golden_rows() -> PathBuf {
    golden("report/rows")
}

/// The files of the golden rows, in their order.
fn golden_texts() -> Vec<String> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(golden_rows())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    texts.collect()
}

fn rows() -> Vec<Row> {
    let texts = golden_texts();
    texts.iter().map(|text| Row::parse(text).unwrap()).collect()
}

fn report(args: &[&str]) -> Output {
    infall(&[&["report"], args].concat())
}

/// The page of a folder.
fn page(folder: &str) -> String {
    let out = Folder::new();
    let path = out.path("page.html");
    succeeded(&report(&[folder, "-o", &path]));
    std::fs::read_to_string(path).unwrap()
}

/// What is printed.
fn printed(args: &[&str]) -> String {
    let output = report(args);
    succeeded(&output);
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a call that must fail with this exit code.
fn refused(args: &[&str], code: i32) -> String {
    let output = report(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty());
    said
}

fn refused_rows(folder: &Folder, expected: &[&str]) {
    let said = refused(&[folder.text(), "--text"], 1);
    for part in expected {
        assert!(said.contains(part), "found {said}, expected {part}");
    }
}

fn same_as_golden(name: &str, found: &str) {
    let path = golden("report").join(name);
    if std::env::var_os("INFALL_RENEW_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = std::iter::zip(found.lines(), expected.lines()).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "{name} differs (see the head of this test): {differs:?}"
    );
}

/// Elements of a page or a picture, in the order of their opening tags: name and attributes.
type Elements = Vec<(String, BTreeMap<String, String>)>;

/// Reads markup strictly: every tag closed in order, attributes in double quotes and never twice, known entities only.
fn elements(text: &str) -> Elements {
    let void = ["meta", "br"];
    let raw = ["style", "script"];
    let (mut open, mut all): (Vec<String>, Elements) = (Vec::new(), Vec::new());
    let mut rest = text.strip_prefix("<!DOCTYPE html>\n").unwrap_or(text);
    while let Some(at) = rest.find('<') {
        plain_text(&rest[..at]);
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in order");
            continue;
        }
        let (tag, closed) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        let mut found = BTreeMap::new();
        while !attributes.trim().is_empty() {
            let (key, value) = attributes
                .split_once("=\"")
                .unwrap_or_else(|| panic!("<{tag}>"));
            let (value, after) = value.split_once('"').unwrap_or_else(|| panic!("<{tag}>"));
            plain_text(value);
            let twice = found.insert(key.trim().to_string(), value.to_string());
            assert!(twice.is_none() && !key.trim().is_empty(), "<{tag}>");
            attributes = after;
        }
        all.push((name.into(), found));
        if raw.contains(&name) {
            let end = rest.find(&format!("</{name}>")).expect("it ends");
            rest = &rest[end + name.len() + 3..];
        } else if !closed && !void.contains(&name) {
            open.push(name.into());
        }
    }
    plain_text(rest);
    assert!(open.is_empty(), "left open: {open:?}");
    all
}

/// Text that markup may hold: no brackets, entities that XML knows or numbers, no control characters.
fn plain_text(text: &str) {
    assert!(!text.contains(['<', '>']), "{text}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
    for part in text.split('&').skip(1) {
        let name = part.split(';').next().unwrap();
        assert!(
            ["amp", "lt", "gt", "quot", "#39"].contains(&name) && part.len() > name.len(),
            "&{part}"
        );
    }
}

/// The pictures of a page.
fn pictures(page: &str) -> Vec<&str> {
    let parts = page.split("<svg xmlns").skip(1);
    let starts =
        parts.map(|part| part.as_ptr() as usize - page.as_ptr() as usize - "<svg xmlns".len());
    starts
        .map(|start| {
            let end = page[start..].find("</svg>").unwrap();
            &page[start..start + end + "</svg>".len()]
        })
        .collect()
}

/// A page that is whole by itself, anonymous and sound.
fn check_page(page: &str) {
    let all = elements(page);
    for picture in pictures(page) {
        assert!(!elements(picture).is_empty());
    }
    let of = |key: &str| {
        let found = all.iter().filter_map(|(_, attributes)| attributes.get(key));
        found.cloned().collect::<Vec<String>>()
    };
    let ids: HashSet<String> = of("id").into_iter().collect();
    assert_eq!(ids.len(), of("id").len(), "an id stands once");
    for target in of("href") {
        assert!(ids.contains(target.strip_prefix('#').unwrap()), "{target}");
    }
    assert!(of("src").is_empty());
    let scripts = all.iter().filter(|(name, _)| name == "script");
    let types: Vec<_> = scripts.map(|(_, attributes)| &attributes["type"]).collect();
    assert_eq!(types, ["application/json"], "nothing runs");
    let handlers = all.iter().flat_map(|(_, attributes)| attributes.keys());
    assert!(!handlers.into_iter().any(|key| key.starts_with("on")));
    assert!(
        !all.iter()
            .any(|(name, _)| ["link", "img", "iframe", "object", "base"].contains(&name.as_str()))
    );
    let outside = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for word in [
        "http:",
        "https:",
        "url(",
        "@import",
        env!("CARGO_MANIFEST_DIR"),
    ] {
        assert!(!outside.contains(word), "{word}");
    }
}

/// The texts of a page's table with this caption: a line each, cells as they stand, smaller text behind a bar.
fn table(page: &str, caption: &str) -> Vec<Vec<String>> {
    let start = page
        .find(&format!("<caption>{caption}</caption>"))
        .expect("the table is there");
    let table = &page[start..start + page[start..].find("</table>").unwrap()];
    let lines = table.split("<tr>").skip(1);
    let cells = lines.map(|line| {
        let line = line.split("</tr>").next().unwrap();
        let cells = line.split("<t").skip(1).map(|cell| {
            let text = &cell[cell.find('>').unwrap() + 1..];
            let text = text.replace("<small>", "|").replace("</small>", "");
            let text = text.rsplit("</svg>").next().unwrap();
            text[..text.find("</t").unwrap()].to_string()
        });
        cells.collect::<Vec<String>>()
    });
    cells.collect()
}

/// A column's head, and its value for a row.
type Figure<'a> = (&'a str, &'a dyn Fn(&Value) -> f64);

/// Whether the digits that are shown are those of a number.
fn shows(shown: &str, expected: f64) {
    let plain = shown.replace(',', "");
    let digits = plain.split_once('.').map_or(0, |(_, digits)| digits.len());
    let found: f64 = plain
        .parse()
        .unwrap_or_else(|_| panic!("{shown} is no number"));
    let half = 0.5 * 10f64.powi(-(digits as i32));
    assert!(
        (found - expected).abs() <= half * 1.0001,
        "found {shown}, expected {expected}"
    );
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n % 2 == 1 {
        sorted[n / 2]
    } else {
        (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0
    }
}

#[test]
fn the_page_is_the_golden_one() {
    let page = page(golden_rows().to_str().unwrap());
    check_page(&page);
    same_as_golden("report.html", &page);
}

#[test]
fn pictures_are_the_golden_ones() {
    let point = |x: f64, y: f64| Point {
        x,
        y,
        range: Some((y - 1.0, y + 2.0)),
    };
    let line = |name: &str, mark, points| Line {
        class: "s-full",
        name: name.into(),
        mark,
        points,
    };
    let plot = Plot {
        title: "all <parts> of a plot".into(),
        x: Axis::from_zero(9.0, 5, "s"),
        y: Axis::from_zero(13.0, 4, "GiB"),
        bands: vec![
            Band {
                from: 0.0,
                to: 2.0,
                name: "first".into(),
            },
            Band {
                from: 2.0,
                to: 9.0,
                name: "second & last".into(),
            },
        ],
        bars: vec![Bar {
            from: 1.0,
            to: 2.0,
            height: 4.0,
            class: "s-lru",
        }],
        lines: vec![
            line(
                "with marks",
                Some(1),
                vec![point(1.0, 3.0), point(4.0, 8.0), point(9.0, 8.5)],
            ),
            line(
                "plain",
                None,
                vec![Point::new(0.0, 0.0), Point::new(9.0, 8.4)],
            ),
            line("one point", None, vec![Point::new(3.0, 12.0)]),
            line("nothing", None, Vec::new()),
        ],
    };
    let level = |row: usize, column: usize| (row * column) % 5;
    let map = HeatMap {
        title: "shades".into(),
        n_rows: 6,
        n_columns: 40,
        names: ["layers", "experts"],
        level: &level,
        class: "heat-touches",
    };
    for (name, svg) in [("plot.svg", plot.svg()), ("heat.svg", map.svg())] {
        assert!(elements(&svg).len() > 10);
        same_as_golden(name, &svg);
    }
}

#[test]
fn tables_show_what_the_rows_say() {
    let texts = golden_texts();
    let values = texts
        .iter()
        .map(|text| serde_json::from_str::<Value>(text).unwrap());
    let mut cells: BTreeMap<(String, String, Option<u64>), Vec<Value>> = BTreeMap::new();
    for value in values {
        let text = |key: &str| value["setup"][key].as_str().unwrap().to_string();
        let key = (
            text("strategy"),
            text("budget"),
            value["setup"]["cap_bytes"].as_u64(),
        );
        cells.entry(key).or_default().push(value);
    }
    let page = page(golden_rows().to_str().unwrap());
    let all_of = |runs: &[Value], figure: &dyn Fn(&Value) -> f64| -> Vec<f64> {
        runs.iter().map(figure).collect()
    };
    let prefill = |row: &Value| {
        row["n_prompt"].as_f64().unwrap() * 1e9 / row["times"]["prefill_ns"].as_f64().unwrap()
    };
    let tokens = |row: &Value| -> Vec<f64> {
        let list = row["times"]["token_ns"].as_array().unwrap();
        list.iter().map(|ns| ns.as_f64().unwrap()).collect()
    };
    let decode =
        |row: &Value| row["n_gen"].as_f64().unwrap() * 1e9 / tokens(row).iter().sum::<f64>();
    let rank = |percent: f64| {
        move |row: &Value| {
            let mut sorted = tokens(row);
            sorted.sort_by(f64::total_cmp);
            sorted[(sorted.len() as f64 * percent / 100.0).ceil() as usize - 1] / 1e6
        }
    };
    let mut n_lines = 0;
    for (cap, name) in [(None, "no cap"), (Some(64 << 20), "64 MiB")] {
        let overview = table(&page, &format!("overview, {name}"));
        let system = table(&page, &format!("memory and the system, {name}"));
        let heads: Vec<&str> = overview[0]
            .iter()
            .map(|head| head.split('|').next().unwrap())
            .collect();
        for (line, system) in std::iter::zip(&overview[1..], &system[1..]) {
            n_lines += 1;
            assert_eq!(line[..2], system[..2]);
            let budget = line[1].split('|').next().unwrap();
            let runs = &cells[&(line[0].clone(), budget.to_string(), cap)];
            let reference = cells.get(&("baseline".to_string(), budget.to_string(), cap));
            assert_eq!(line.last().unwrap(), &runs.len().to_string());
            let figures: [Figure<'_>; 14] = [
                ("prefill", &prefill),
                ("decode", &decode),
                ("first token", &|row| {
                    row["times"]["prefill_ns"].as_f64().unwrap() / 1e9
                }),
                ("hits", &|row| {
                    100.0 * row["decode"]["hits"].as_f64().unwrap()
                        / row["decode"]["touches"].as_f64().unwrap()
                }),
                ("stall", &|row| {
                    row["decode"]["stall_ns"].as_f64().unwrap()
                        / 1e6
                        / row["n_gen"].as_f64().unwrap()
                }),
                ("p50", &rank(50.0)),
                ("p95", &rank(95.0)),
                ("p99", &rank(99.0)),
                ("disk", &|row| {
                    row["figures"]["disk_bytes_per_s"].as_f64().unwrap() / 1e6
                }),
                ("disk, most", &|row| {
                    row["figures"]["disk_bytes_per_s_max"].as_f64().unwrap() / 1e6
                }),
                ("locked, system", &|row| {
                    row["peaks"]["system_locked_bytes"].as_f64().unwrap() / 1073741824.0
                }),
                ("used, system", &|row| {
                    row["peaks"]["system_used_bytes"].as_f64().unwrap() / 1073741824.0
                }),
                ("model file cached", &|row| {
                    row["peaks"]["cached_bytes"].as_f64().unwrap() / 1073741824.0
                }),
                ("process (RSS)", &|row| {
                    row["peaks"]["rss_bytes"].as_f64().unwrap() / 1073741824.0
                }),
            ];
            for (head, figure) in figures {
                let at = heads.iter().position(|found| *found == head).unwrap();
                let (shown, range) = line[at].split_once('|').unwrap_or((&line[at], ""));
                let own = all_of(runs, figure);
                shows(shown, median(&own));
                if let Some((least, most)) = range.split_once('–') {
                    shows(least, own.iter().copied().fold(f64::INFINITY, f64::min));
                    shows(most, own.iter().copied().fold(0.0, f64::max));
                }
                let has_range = ["prefill", "decode"].contains(&head) && runs.len() > 1;
                assert_eq!(!range.is_empty(), has_range, "{head}");
                if ["prefill", "decode"].contains(&head) {
                    assert_eq!(heads[at + 1], "Δ");
                    match (line[0].as_str(), reference) {
                        ("baseline", _) => assert_eq!(line[at + 1], "ref"),
                        (_, None) => assert_eq!(line[at + 1], "–"),
                        (_, Some(reference)) => {
                            let ratio = median(&own) / median(&all_of(reference, figure));
                            shows(line[at + 1].trim_start_matches('+'), (ratio - 1.0) * 100.0);
                        }
                    }
                }
            }
            let faults = all_of(runs, &|row| {
                row["system"]["n_minor_faults"].as_f64().unwrap()
            });
            shows(&system[7], median(&faults));
        }
    }
    assert_eq!(n_lines, cells.len());
    // A terminal shows the same.
    let text = printed(&[golden_rows().to_str().unwrap(), "--text"]);
    for line in &table(&page, "overview, no cap")[1..] {
        let field = |field: &String| match field.split_once('|') {
            Some((text, small)) => format!("{text} ({small})"),
            None => field.clone(),
        };
        let words = [
            field(&line[0]),
            field(&line[1]),
            field(&line[2]),
            field(&line[4]),
        ];
        let found = text
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word.as_str())));
        assert!(found.is_some(), "{words:?} in {text}");
    }
    assert!(text.contains("made up: all experts do not fit"));
}

#[test]
fn a_promise_is_kept_within_64_mib() {
    let mut rows = vec![rows()[1].clone(), rows()[3].clone()];
    for (row, above) in std::iter::zip(&mut rows, [64 << 20, (64 << 20) + 1]) {
        row.peaks.rss_bytes = Some(row.figures().said_bytes + above);
    }
    // The worst run counts.
    let mut better = rows[1].clone();
    better.setup.run = 2;
    better.peaks.rss_bytes = Some(1);
    rows.push(better);
    let page = page(Folder::of(&rows).text());
    let ledger = table(&page, "what was said beforehand, and whether it was kept");
    let kept: Vec<&str> = ledger[1..].iter().map(|line| line[3].as_str()).collect();
    assert_eq!(kept, ["yes", "no"]);
}

#[test]
fn the_page_holds_its_rows() {
    let page = page(golden_rows().to_str().unwrap());
    let start = page.find("id=\"rows\">").unwrap() + "id=\"rows\">".len();
    let end = start + page[start..].find("</script>").unwrap();
    let mut held: Vec<Value> = serde_json::from_str(&page[start..end]).unwrap();
    let mut with_lists: BTreeMap<String, usize> = BTreeMap::new();
    for held in &mut held {
        let texts = golden_texts();
        let values = texts
            .iter()
            .map(|text| serde_json::from_str::<Value>(text).unwrap());
        let lists: Vec<usize> = ["layers"]
            .iter()
            .map(|k| held[k].as_array().unwrap().len())
            .collect();
        *with_lists
            .entry(
                held["setup"]
                    .to_string()
                    .replace(&format!("\"run\":{}", held["setup"]["run"]), ""),
            )
            .or_default() += usize::from(lists[0] > 0);
        let same = values
            .into_iter()
            .find(|value| value["times"]["prefill_ns"] == held["times"]["prefill_ns"]);
        let value = same.unwrap();
        for key in [
            "figures", "setup", "peaks", "system", "decode", "model", "ledger", "events",
        ] {
            assert_eq!(held[key], value[key], "{key}");
        }
        if lists[0] > 0 {
            assert_eq!(*held, value);
        }
    }
    assert_eq!(held.len(), 10);
    assert!(
        with_lists.values().all(|n| *n == 1),
        "one run of each cell: {with_lists:?}"
    );
}

#[test]
fn what_is_not_known_is_never_zero() {
    let mut row = rows()[3].clone();
    row.peaks = Default::default();
    row.system = Default::default();
    row.setup.cached_before = None;
    row.series = Series {
        at_ms: row.series.at_ms,
        ..Series::default()
    };
    row.machine.clear();
    let folder = Folder::of(&[row]);
    let page = page(folder.text());
    check_page(&page);
    let overview = &table(&page, "overview, no cap")[1];
    assert_eq!(overview[12..19], ["–"; 7], "{overview:?}");
    assert_eq!(
        table(&page, "memory and the system, no cap")[1][2..12],
        ["–"; 10]
    );
    let ledger = &table(&page, "what was said beforehand, and whether it was kept")[1];
    assert_eq!(ledger[3], "–");
    assert!(printed(&[folder.text(), "--text"]).starts_with("–, commit 0123456"));
}

#[test]
fn cold_and_warm_never_share_a_table() {
    let (cold, mut warm) = (rows()[3].clone(), rows()[4].clone());
    warm.setup.state = "warm".into();
    let text = printed(&[Folder::of(&[cold, warm]).text(), "--text"]);
    assert_eq!(text.matches("speed, no cap").count(), 2);
    assert!(text.contains("Q4_K, cold, 24 + 8") && text.contains("Q4_K, warm, 24 + 8"));
}

#[test]
fn names_are_shown_never_obeyed() {
    let evil = "</script><script>alert(1)</script>\"' onload=\"x\" <!--&amp;\u{1}\u{1b}[31m";
    let mut row = rows()[3].clone();
    for text in [
        &mut row.machine,
        &mut row.commit,
        &mut row.command,
        &mut row.model.name,
        &mut row.model.quant,
        &mut row.model.hash,
        &mut row.token_hash,
        &mut row.setup.strategy,
        &mut row.setup.budget,
        &mut row.setup.cap_by,
        &mut row.setup.kernels,
        &mut row.ledger[0].name,
        &mut row.events[1].name,
    ] {
        *text = evil.into();
    }
    row.events.push(infall::report::row::Event {
        name: "prefill".into(),
        at_ms: 15,
    });
    row.setup.cap_bytes = Some(1 << 30);
    let folder = Folder::of(&[row]);
    folder.write(
        "skipped.tsv",
        format!("head\n{evil}\t{evil}\t{evil}\t{evil}\t{evil}\n"),
    );
    let page = page(folder.text());
    check_page(&page);
    assert!(!page.contains("<script>alert"));
    let text = printed(&[folder.text(), "--text"]);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    assert!(text.contains("<script>alert(1)</script>"));
}

#[test]
fn broken_folders_are_named() {
    let texts = golden_texts();
    let text = &texts[0];
    refused_rows(&Folder::new(), &["no rows (*.json) in "]);
    let missing = refused(&["/nowhere/at/all", "--text"], 1);
    assert!(missing.contains("/nowhere/at/all"), "{missing}");
    let file = golden_rows().join("01.json");
    refused(&[file.to_str().unwrap(), "--text"], 1);
    for (found, expected) in [
        ("", "found the end, expected a value"),
        ("[1]", "found a list, expected an object"),
        (&text[..text.len() / 2], "byte "),
        (&text.replace("\"n_gen\": 8,\n", ""), "n_gen: missing"),
        (
            &text.replace("\"n_gen\": 8,", "\"n_gen\": 9,"),
            "times: token_ns: found 8 values, expected 9",
        ),
        (
            &text.replace("\"rss_mib\":[", "\"rss_mib\":[1,"),
            "series: rss_mib: found ",
        ),
        (
            &text.replace("\"infall_row\": 1", "\"infall_row\": 2"),
            "infall_row: found 2, expected 1",
        ),
        (
            &text.replace("\"state\":\"cold\"", "\"state\":\"hot\""),
            "setup: state: found \"hot\"",
        ),
    ] {
        assert_ne!(found, text);
        let folder = Folder::new();
        folder.write("good.json", &texts[1]);
        folder.write("other.json", found);
        refused_rows(&folder, &["other.json: ", expected]);
    }
    let folder = Folder::new();
    folder.write("a.json", [0xff, 0xfe]);
    refused_rows(&folder, &["a.json: not UTF-8 text at byte 0"]);
    let folder = Folder::new();
    std::fs::create_dir(folder.0.join("a.json")).unwrap();
    refused_rows(&folder, &["a.json: found no regular file"]);
    let folder = Folder::new();
    std::fs::File::create(folder.0.join("a.json"))
        .unwrap()
        .set_len((8 << 20) + 1)
        .unwrap();
    refused_rows(
        &folder,
        &["a.json: bytes 8388609 exceeds the limit 8388608"],
    );
    let folder = Folder::new();
    for i in 0..=10_000 {
        folder.write(&format!("{i}.json"), "");
    }
    refused_rows(&folder, &["number of rows 10001 exceeds the limit 10000"]);
    let folder = Folder::of(&rows()[..1]);
    folder.write("skipped.tsv", "head\n\na\tb\tc\td\te\na\tb\n");
    refused_rows(
        &folder,
        &["skipped.tsv: line 4: found 2 fields, expected 5"],
    );
}

#[test]
fn rows_that_cannot_be_compared_are_refused() {
    let all = rows();
    type Change = fn(&mut Row);
    let changes: [(&str, Change, [&str; 2]); 5] = [
        (
            "machine",
            |row| row.machine = "other".into(),
            ["a test machine", "other"],
        ),
        (
            "commit",
            |row| row.commit = "abc".into(),
            ["0123456", "abc"],
        ),
        (
            "token_hash",
            |row| row.token_hash = "77".into(),
            [&all[0].token_hash.clone(), "77"],
        ),
        (
            "setup.kernels",
            |row| row.setup.kernels = "neon".into(),
            [&all[0].setup.kernels.clone(), "neon"],
        ),
        (
            "setup.n_threads",
            |row| row.setup.n_threads = 99,
            ["\"2\"", "\"99\""],
        ),
    ];
    for (what, change, told) in changes {
        let mut rows = vec![all[0].clone(), all[1].clone(), all[2].clone()];
        change(&mut rows[2]);
        let expected = [what, "0000.json", "0002.json", told[0], told[1]];
        refused_rows(&Folder::of(&rows), &expected);
    }
    // Another length of work, or another model, may have other tokens.
    let mut other = all[1].clone();
    other.token_hash = "77".into();
    other.n_prompt += 1;
    let mut model = all[2].clone();
    model.token_hash = "78".into();
    model.model.hash = "79".into();
    printed(&[Folder::of(&[all[0].clone(), other, model]).text(), "--text"]);
    let many: Vec<Row> = (0..65)
        .map(|i| {
            let mut row = all[0].clone();
            row.setup.budget = format!("{i}%");
            row
        })
        .collect();
    refused_rows(
        &Folder::of(&many),
        &["number of budgets 65 exceeds the limit 64"],
    );
    let twice = Folder::of(&[all[0].clone(), all[1].clone(), all[0].clone()]);
    refused_rows(&twice, &["0000.json and ", "0002.json hold the same run"]);
}

/// A row as of the true model: 43 layers, 300 tokens, four minutes.
fn large(row: &Row, n: u64) -> Row {
    let mut row = row.clone();
    let noise = |i: u64| (i * 2_654_435_761 + n * 40_503) >> 7;
    row.model.n_layer = 43;
    row.model.n_expert = 256;
    row.layers = (0..43)
        .map(|layer| {
            let of = |most: u64| (0..256).map(|e| noise(layer * 256 + e) % most).collect();
            Layer {
                touches: of(12),
                hits: of(5),
                resident: of(2),
            }
        })
        .collect();
    row.n_gen = 300;
    row.times.token_ns = (0..300)
        .map(|i| 100_000_000 + noise(i) % 90_000_000)
        .collect();
    row.series = Series {
        at_ms: (0..1000).map(|i| i * 250).collect(),
        ..Series::default()
    };
    for (_, column) in row.series.columns() {
        *column = (0..1000).map(|i| 30_000 + noise(i) % 5_000).collect();
    }
    row.sweeps = Sweeps {
        at_ms: (0..512).map(|i| i * 200).collect(),
        n_tokens: (0..512).collect(),
    };
    for (i, event) in row.events.iter_mut().enumerate() {
        event.at_ms = i as u64 * 80_000;
    }
    row
}

#[test]
fn a_page_of_240_large_rows_stays_below_2_mb() {
    let row = rows()[0].clone();
    let mut all = Vec::new();
    for (i, model) in ["q2", "q4"].into_iter().enumerate() {
        for (j, strategy) in ["full", "baseline", "residency-lru", "nommap"]
            .into_iter()
            .enumerate()
        {
            for cell in 0..10 {
                for run in 1..=3 {
                    let mut row = large(&row, (i * 120 + j * 30 + cell * 3) as u64 + run);
                    row.model.hash = model.into();
                    row.model.name = format!("{model}.gguf");
                    row.setup.strategy = strategy.into();
                    row.setup.budget = format!("{}%", 10 * (cell % 5 + 1));
                    row.setup.budget_bytes = (cell as u64 % 5 + 1) << 33;
                    row.setup.cap_bytes = (cell >= 5).then_some(64 << 30);
                    row.setup.run = run;
                    all.push(row);
                }
            }
        }
    }
    assert_eq!(all.len(), 240);
    let page = page(Folder::of(&all).text());
    assert!(page.len() <= 2_000_000, "{} bytes", page.len());
    check_page(&page);
    assert_eq!(page.matches("\"infall_row\":1").count(), 240);
    assert!(
        page.contains("for the size of this page"),
        "it says what it left out"
    );
}

#[test]
fn two_folders_differ_only_where_runs_lie_apart() {
    let base = &rows()[3..6];
    let scaled = |percent: u64| -> Vec<Row> {
        let scaled = base.iter().map(|row| {
            let mut row = row.clone();
            row.commit = "another".into();
            row.times.prefill_ns = row.times.prefill_ns * percent / 100;
            row
        });
        scaled.collect()
    };
    let first = Folder::of(base);
    let speeds = |rows: &[Row]| -> Vec<f64> {
        let times = rows.iter().map(|row| row.times.prefill_ns as f64);
        times.map(|ns| 24e9 / ns).collect()
    };
    let verdict = |rows: &[Row]| {
        let text = printed(&["--compare", first.text(), Folder::of(rows).text()]);
        let line = text.lines().find(|line| line.contains("nommap")).unwrap();
        let prefill = line
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>();
        (
            prefill[8].to_string(),
            prefill[9].to_string(),
            prefill[13].to_string(),
        )
    };
    // Three runs that span a factor of 1.8: ten times as fast is faster, a tenth more is not.
    for (percent, expected) in [(10, "faster"), (1000, "slower"), (90, "no difference seen")] {
        let rows = scaled(percent);
        let (ratio, found, decode) = verdict(&rows);
        assert_eq!(found, expected, "{percent}");
        assert_eq!(decode, "no difference seen", "the tokens took the same");
        let (text, range) = ratio.split_once(" (").unwrap();
        let (a, b) = (speeds(base), speeds(&rows));
        shows(text, median(&b) / median(&a));
        let (least, most) = range.trim_end_matches(')').split_once('–').unwrap();
        let (by_min, by_max) = (
            (f64::min as fn(f64, f64) -> f64),
            (f64::max as fn(f64, f64) -> f64),
        );
        let fold = |v: &[f64], by: fn(f64, f64) -> f64| v.iter().copied().reduce(by).unwrap();
        shows(least, fold(&b, by_min) / fold(&a, by_max));
        shows(most, fold(&b, by_max) / fold(&a, by_min));
    }
    assert_eq!(verdict(&scaled(10)[..1]).1, "too few runs");

    let mut other = scaled(100);
    for row in &mut other {
        row.setup.state = "warm".into();
    }
    let said = refused(&["--compare", first.text(), Folder::of(&other).text()], 1);
    assert!(said.contains("found no cell in both folders"), "{said}");
    for row in &mut other {
        row.token_hash = "77".into();
    }
    let said = refused(&["--compare", first.text(), Folder::of(&other).text()], 1);
    assert!(
        said.contains("token_hash: ") && said.contains("\"77\""),
        "{said}"
    );

    let mut more = scaled(100);
    more.push(Row {
        commit: "another".into(),
        ..rows()[0].clone()
    });
    let text = printed(&["--compare", first.text(), Folder::of(&more).text()]);
    assert!(
        text.contains("not compared: 0 cells that only A has, 1 that only B has"),
        "{text}"
    );
    assert!(text.contains("B: a test machine, commit another"));
}

#[test]
fn a_page_is_written_whole_or_not_at_all() {
    let out = Folder::new();
    let path = out.path("page.html");
    let good = golden_rows();
    let good = good.to_str().unwrap();
    succeeded(&report(&[good, "-o", &path]));
    let before = std::fs::read_to_string(&path).unwrap();
    refused(&[out.text(), "-o", &path], 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    let said = refused(&[good, "-o", &out.path("no/page.html")], 1);
    assert!(said.contains("no/page.html"), "{said}");
    // A folder cannot be replaced by a page, and nothing else is left there.
    std::fs::create_dir(out.0.join("taken")).unwrap();
    refused(&[good, "-o", &out.path("taken")], 1);
    let left = std::fs::read_dir(&out.0)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["page.html", "taken"]);
}

#[test]
fn wrong_usage_is_told() {
    let good = golden_rows();
    let good = good.to_str().unwrap();
    for (args, expected) in [
        (&[][..], "found 0 folders of rows, expected one"),
        (
            &[good],
            "nothing to make: expected -o FILE, --text or --compare",
        ),
        (
            &[good, good, "--text"],
            "found 2 folders of rows, expected one",
        ),
        (
            &["--compare", good],
            "found 1 folders of rows, expected two",
        ),
        (
            &["--compare", good, good, "--text"],
            "--compare prints one table",
        ),
    ] {
        let said = refused(args, 2);
        assert!(said.contains(expected), "{said}");
    }
}
