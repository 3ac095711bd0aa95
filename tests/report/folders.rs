//! Folders that are broken, rows that do not belong together, two folders against each other, wrong usage.

use super::common::{Folder, succeeded};
use super::markup::{median, shows};
use super::{folder_of, golden_rows, golden_texts, printed, refused, report, rows};
use infall::report::row::Row;

fn refused_rows(folder: &Folder, expected: &[&str]) {
    let said = refused(&[folder.text(), "--text"], 1);
    for part in expected {
        assert!(said.contains(part), "found {said}, expected {part}");
    }
}

#[test]
fn broken_folders_are_named() {
    let texts = golden_texts();
    let text = &texts[0];
    refused_rows(&Folder::new("report"), &["no rows (*.json) in "]);
    let missing = refused(&["/nowhere/at/all", "--text"], 1);
    assert!(missing.contains("/nowhere/at/all"), "{missing}");
    let file = golden_rows().join("01.json");
    refused(&[file.to_str().unwrap(), "--text"], 1);
    for (found, expected) in [
        ("", "found the end, expected a value"),
        ("[1]", "found array, expected object"),
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
        let folder = Folder::new("report");
        folder.write("good.json", &texts[1]);
        folder.write("other.json", found);
        refused_rows(&folder, &["other.json: ", expected]);
    }
    let folder = Folder::new("report");
    folder.write("a.json", [0xff, 0xfe]);
    refused_rows(&folder, &["a.json: not UTF-8 text at byte 0"]);
    let folder = Folder::new("report");
    std::fs::create_dir(folder.path("a.json")).unwrap();
    refused_rows(&folder, &["a.json: found no regular file"]);
    let folder = Folder::new("report");
    std::fs::File::create(folder.path("a.json"))
        .unwrap()
        .set_len((8 << 20) + 1)
        .unwrap();
    refused_rows(
        &folder,
        &["a.json: bytes 8388609 exceeds the limit 8388608"],
    );
    let folder = Folder::new("report");
    for i in 0..=10_000 {
        folder.write(&format!("{i}.json"), "");
    }
    refused_rows(&folder, &["number of rows 10001 exceeds the limit 10000"]);
    let folder = folder_of(&rows()[..1]);
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
        refused_rows(&folder_of(&rows), &expected);
    }
    // Another length of work, or another model, may have other tokens.
    let mut other = all[1].clone();
    other.token_hash = "77".into();
    other.n_prompt += 1;
    let mut model = all[2].clone();
    model.token_hash = "78".into();
    model.model.hash = "79".into();
    printed(&[folder_of(&[all[0].clone(), other, model]).text(), "--text"]);
    let many: Vec<Row> = (0..65)
        .map(|i| {
            let mut row = all[0].clone();
            row.setup.budget = format!("{i}%");
            row
        })
        .collect();
    refused_rows(
        &folder_of(&many),
        &["number of budgets 65 exceeds the limit 64"],
    );
    let twice = folder_of(&[all[0].clone(), all[1].clone(), all[0].clone()]);
    refused_rows(&twice, &["0000.json and ", "0002.json hold the same run"]);
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
    let first = folder_of(base);
    let speeds = |rows: &[Row]| -> Vec<f64> {
        let times = rows.iter().map(|row| row.times.prefill_ns as f64);
        times.map(|ns| 24e9 / ns).collect()
    };
    let verdict = |rows: &[Row]| {
        let text = printed(&["--compare", first.text(), folder_of(rows).text()]);
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
    let said = refused(&["--compare", first.text(), folder_of(&other).text()], 1);
    assert!(said.contains("found no cell in both folders"), "{said}");
    for row in &mut other {
        row.token_hash = "77".into();
    }
    let said = refused(&["--compare", first.text(), folder_of(&other).text()], 1);
    assert!(
        said.contains("token_hash: ") && said.contains("\"77\""),
        "{said}"
    );

    let mut more = scaled(100);
    more.push(Row {
        commit: "another".into(),
        ..rows()[0].clone()
    });
    let text = printed(&["--compare", first.text(), folder_of(&more).text()]);
    assert!(
        text.contains("not compared: 0 cells that only A has, 1 that only B has"),
        "{text}"
    );
    assert!(text.contains("B: a test machine, commit another"));
}

#[test]
fn a_page_is_written_whole_or_not_at_all() {
    let out = Folder::new("report");
    let path = out.path("page.html");
    let path = path.to_str().unwrap();
    let good = golden_rows();
    let good = good.to_str().unwrap();
    succeeded(&report(&[good, "-o", path]));
    let before = std::fs::read_to_string(path).unwrap();
    refused(&[out.text(), "-o", path], 1);
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
    let said = refused(&[good, "-o", out.path("no/page.html").to_str().unwrap()], 1);
    assert!(said.contains("no/page.html"), "{said}");
    // A folder cannot be replaced by a page, and nothing else is left there.
    std::fs::create_dir(out.path("taken")).unwrap();
    refused(&[good, "-o", out.path("taken").to_str().unwrap()], 1);
    assert_eq!(out.names(), ["page.html", "taken"]);
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
