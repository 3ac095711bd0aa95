//! The page and its tables, held against the rows.

use super::common::golden;
use super::markup::{check_page, elements, median, shows, table};
use super::{folder_of, golden_rows, golden_texts, page, printed, rows};
use infall::report::axis::Axis;
use infall::report::row::{Layer, Row, Series, Sweeps};
use infall::report::svg::{Band, Bar, HeatMap, Line, Plot, Point};
use serde_json::Value;
use std::collections::BTreeMap;

fn same_as_golden(name: &str, found: &str) {
    let path = golden("report").join(name);
    if std::env::var_os("INFALL_RENEW_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = std::iter::zip(found.lines(), expected.lines()).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "{name} differs (see main.rs here): {differs:?}"
    );
}

/// A column's head, and its value for a row.
type Figure<'a> = (&'a str, &'a dyn Fn(&Value) -> f64);

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
    let page = page(folder_of(&rows).text());
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
    let folder = folder_of(&[row]);
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
    let text = printed(&[folder_of(&[cold, warm]).text(), "--text"]);
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
    let folder = folder_of(&[row]);
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
    let page = page(folder_of(&all).text());
    assert!(page.len() <= 2_000_000, "{} bytes", page.len());
    check_page(&page);
    assert_eq!(page.matches("\"infall_row\":1").count(), 240);
    assert!(
        page.contains("for the size of this page"),
        "it says what it left out"
    );
}
