//! `infall bench --row` and the script around it: what a row says, held against itself and against a generation made
//! below the engine; faults of rows; the matrix on the shipped model. Speeds are never judged here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Folder, Loaded, Temporary, done, infall, tiny};
use infall::engine;
use infall::options::Options;
use infall::os::{File, FileSet, Map, meter};
use infall::report::Row;
use infall::rng::Rng;
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The shipped model as a file of its own: dropping the other from the page cache would disturb other tests, and they
/// would keep it there.
fn own_model(name: &str) -> Temporary {
    let model = Temporary::new(&format!("{name}.gguf"));
    std::fs::copy(tiny(), &model.0).unwrap();
    model
}

/// The text of a row.
fn row_text(model: &Temporary, args: &[&str]) -> String {
    let row = Temporary::new("row.json");
    let fixed = ["bench", "--row", row.text(), "-m", model.text()];
    done(&[&fixed[..], &["-p", "40", "-n", "9", "--quiet"], args].concat());
    std::fs::read_to_string(&row.0).unwrap()
}

fn sum(list: &Value) -> u64 {
    let list = list.as_array().unwrap().iter();
    list.map(|v| v.as_u64().unwrap()).sum()
}

/// What 40 fixed ids and 9 greedy tokens behind them hash to.
fn expected_hash() -> String {
    let vocabulary = engine::vocabulary(&tiny()).unwrap();
    let mut rng = Rng::new(1);
    let mut ids = vec![vocabulary.bos().unwrap()];
    ids.extend((1..40).map(|_| TokenId(rng.below(vocabulary.len()) as u32)));
    let mut options = Options::new(tiny());
    options.ctx = 64;
    options.strategy = "full".into();
    let mut loaded = Loaded::open(&options).unwrap();
    for _ in 0..9 {
        let n = ids.len();
        let logits = loaded.logits(&ids, 40);
        let last = &logits[logits.len() / n * (n - 1)..];
        let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b]));
        ids.push(TokenId(best.unwrap() as u32));
    }
    let bytes = ids.iter().flat_map(|id| id.0.to_le_bytes());
    let hash = bytes.fold(14_695_981_039_346_656_037u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
    });
    format!("{hash:016x}")
}

#[test]
fn a_row_says_what_happened() {
    let model = own_model("row");
    let hash = expected_hash();
    for strategy in STRATEGIES {
        for (budget, state) in [("25%", "cold"), ("100%", "warm")] {
            let name = strategy.name;
            let args = ["--strategy", name, "--budget", budget, "--state", state];
            let more = [
                "--machine",
                "a <b> & \"c\"",
                "--commit",
                "abc",
                "--run-number",
                "3",
            ];
            let text = row_text(&model, &[&args[..], &more, &["--cap-mib", "7"]].concat());
            let row: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(row["token_hash"], hash, "{name} {budget} {state}");
            assert_eq!(row["machine"], "a <b> & \"c\"");
            assert_eq!(row["setup"]["strategy"], name);
            assert_eq!(row["setup"]["budget"], budget);
            assert_eq!(row["setup"]["state"], state);
            assert_eq!(row["setup"]["run"], 3);
            assert_eq!(row["setup"]["cap_bytes"], 7 << 20);
            assert_eq!(row["model"]["bytes"], model.0.metadata().unwrap().len());
            assert_eq!(row["model"]["quant"], "Q4_K");
            // The command names no folder and nothing that only describes.
            let file = model.0.file_name().unwrap().to_str().unwrap();
            let command = format!(
                "infall bench -m {file} -p 40 -n 9 --strategy {name} --budget {budget} --state {state}"
            );
            assert_eq!(row["command"], command);
            if cfg!(target_os = "linux") {
                let before = &row["setup"]["cached_before"];
                let nothing = if state == "cold" {
                    Value::from(0)
                } else {
                    Value::Null
                };
                assert_eq!(*before, nothing);
            }

            // Both phases by layer and in all are the same choices.
            let mut touches = 0;
            for layer in row["layers"].as_array().unwrap() {
                touches += sum(&layer["touches"]);
                assert!(sum(&layer["hits"]) <= sum(&layer["touches"]));
            }
            let count = |phase: &str, what: &str| row[phase][what].as_u64().unwrap();
            for phase in ["prefill", "decode"] {
                let both = count(phase, "hits") + count(phase, "misses");
                assert_eq!(both, count(phase, "touches"));
            }
            assert_eq!(
                touches,
                count("prefill", "touches") + count("decode", "touches")
            );
            assert_eq!(
                count("decode", "touches"),
                9 * 6 * 6,
                "6 of each of 6 layers"
            );
            let resident: u64 = row["layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| sum(&l["resident"]))
                .sum();
            assert!(resident <= row["setup"]["n_experts"].as_u64().unwrap());
            // The slabs of residency-lru's prefill are not the views of its decode.
            if name == "full" || state == "warm" && name != "residency-lru" {
                assert_eq!(count("decode", "misses"), 0, "{name} {state}");
            } else if state == "cold" {
                assert!(count("prefill", "read_bytes") > 0 && count("decode", "misses") > 0);
            }

            // Times lie inside each other.
            let at = |name: &str| {
                let events = row["events"].as_array().unwrap();
                let event = events.iter().find(|e| e["name"] == name);
                event.unwrap()["at_ms"].as_u64().unwrap()
            };
            assert!(
                at("load") <= at("prefill")
                    && at("prefill") <= at("decode")
                    && at("decode") <= at("end")
            );
            let decode_ms = sum(&row["times"]["token_ns"]) / 1_000_000;
            assert!(decode_ms <= at("end") - at("decode") + 1);
            assert_eq!(row["times"]["token_ns"].as_array().unwrap().len(), 9);
            let ticks = row["sweeps"]["n_tokens"].as_array().unwrap();
            assert_eq!(ticks.last().unwrap(), 40);

            // Figures follow; the ledger was kept.
            let said = row["ledger"].as_array().unwrap().iter();
            let said: u64 = said.map(|u| u["bytes"].as_u64().unwrap()).sum();
            assert_eq!(row["figures"]["said_bytes"], said);
            let speed = 9e12 / sum(&row["times"]["token_ns"]) as f64;
            let told = row["figures"]["decode_millitokens_per_s"].as_f64().unwrap();
            assert!((told - speed).abs() <= 1.0, "{told} {speed}");
            let peak = row["peaks"]["rss_bytes"].as_u64().unwrap();
            assert!(peak <= said + (64 << 20), "{name}: {peak} of {said}");

            // The program reads what it wrote, and would write it again.
            assert_eq!(Row::parse(&text).unwrap().text(), text);
        }
    }
}

#[test]
fn a_cold_run_is_refused_while_another_program_keeps_the_model_cached() {
    let model = own_model("cached");
    let file = File::open(&model.0).unwrap();
    let map = Map::new(&FileSet::open(&model.0).unwrap()).unwrap();
    // Pages that a mapping has touched cannot be dropped.
    let sum: u64 = map
        .as_slice()
        .iter()
        .step_by(4096)
        .map(|b| u64::from(*b))
        .sum();
    assert!(sum > 0);
    if meter::drop_cached(&file).is_none_or(|left| left == 0) {
        eprintln!("skipped: this system drops mapped pages too, or does not tell");
        return;
    }
    let row = Temporary::new("cached.json");
    let output = infall(&[
        "bench",
        "--row",
        row.text(),
        "-m",
        model.text(),
        "--strategy",
        "full",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("bytes stay in the page cache, expected none before a cold run"),
        "{said}"
    );
    assert!(!row.0.exists());
    // Warm runs do not ask for that.
    row_text(&model, &["--strategy", "full", "--state", "warm"]);
}

/// Every value of an object at each depth, by the names that lead there.
fn paths(value: &Value, path: &[String], found: &mut Vec<Vec<String>>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(name)].concat();
        found.push(path.clone());
        paths(value, &path, found);
    }
}

#[test]
fn broken_rows_are_named() {
    let model = own_model("broken");
    let text = row_text(&model, &["--strategy", "full"]);
    let whole: Value = serde_json::from_str(&text).unwrap();
    let parse = |row: &Value| Row::parse(&row.to_string()).map(|_| ());
    parse(&whole).unwrap();

    let mut all = Vec::new();
    paths(&whole, &[], &mut all);
    assert!(all.len() > 80, "{}", all.len());
    for path in &all {
        let (name, parents) = path.split_last().unwrap();
        // A field that is missing, and one that is something else.
        for value in [None, Some(Value::from(-1.5))] {
            let mut row = whole.clone();
            let mut at = &mut row;
            for parent in parents {
                at = &mut at[parent.as_str()];
            }
            match value.clone() {
                Some(value) => at[name.as_str()] = value,
                None => drop(at.as_object_mut().unwrap().remove(name)),
            }
            let error = parse(&row).unwrap_err().to_string();
            for part in path {
                assert!(error.contains(part), "{path:?} {value:?}: {error}");
            }
        }
    }

    let cases: &[(&str, Value, &str)] = &[
        ("/infall_row", 2.into(), "infall_row: found 2, expected 1"),
        (
            "/setup/state",
            "hot".into(),
            "found \"hot\", expected \"cold\" or \"warm\"",
        ),
        (
            "/n_gen",
            10.into(),
            "times: token_ns: found 9 values, expected 10, n_gen",
        ),
        (
            "/model/n_layer",
            7.into(),
            "layers: found 6 values, expected 7",
        ),
        (
            "/layers/2/hits",
            Value::Array(vec![]),
            "layers: [2]: hits: found 0 values, expected 32",
        ),
        (
            "/series/rss_mib",
            vec![1; 999].into(),
            "series: rss_mib: found 999 values",
        ),
        ("/series/at_ms", vec![9, 3].into(), "series: "),
        (
            "/sweeps/n_tokens",
            vec![1].into(),
            "sweeps: n_tokens: found 1 values",
        ),
        (
            "/events/0/name",
            "lunch".into(),
            "events: 'load' is missing",
        ),
        ("/figures/p50_ns", 1.into(), "figures: found"),
        ("/times/token_ns/3", 77.into(), "figures: found"),
        (
            "/layers",
            Value::from("x"),
            "layers: found string, expected array",
        ),
    ];
    for (at, value, expected) in cases {
        let mut row = whole.clone();
        *row.pointer_mut(at).unwrap() = value.clone();
        let error = parse(&row).unwrap_err().to_string();
        assert!(error.contains(expected), "{at}: {error}");
    }
    for cut in [0, 1, text.len() / 2, text.len() - 2] {
        assert!(Row::parse(&text[..cut]).is_err(), "{cut}");
    }
    assert!(Row::parse("[]").is_err());
}

#[test]
fn wrong_usage_is_named_and_leaves_nothing() {
    let row = Temporary::new("usage.json");
    let model = own_model("usage");
    let cases: &[(&[&str], &str)] = &[
        (&["-p", "0"], "-p: found 0, expected 1 to"),
        (&["-n", "1,2"], "-n: found '1,2'"),
        (
            &["--state", "hot"],
            "--state: found 'hot', expected cold or warm",
        ),
        (&["--json"], "--json has no meaning with --row"),
        (&["-r", "2"], "-r has no meaning with --row"),
        (&["--ctx", "10"], "--ctx: found 10, expected at least"),
        (
            &["--budget", "5%", "--strategy", "baseline"],
            "--budget: found room",
        ),
        (&["--run-number", "x"], "--run-number: found 'x'"),
    ];
    for (args, expected) in cases {
        let fixed = ["bench", "--row", row.text(), "-m", model.text()];
        let output = infall(&[&fixed[..], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
        let part = format!("{}.part", row.text());
        assert!(!row.0.exists() && !Path::new(&part).exists(), "{args:?}");
    }
    let output = infall(&["bench", "--row", "/nowhere/row", "-m", model.text()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("/nowhere/row.part"),
        "{said}"
    );
}

/// The script on a shell, which must end well: standard output.
fn script(shell: &str, out: &Folder, args: &[&str]) -> String {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench.sh");
    let mut command = Command::new(shell);
    command.env("INFALL", env!("CARGO_BIN_EXE_infall"));
    command
        .arg(bench)
        .args(["--out", out.text(), "-p", "12", "-n", "3"])
        .args(args);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_script_runs_each_cell_once_and_says_what_it_skips() {
    let model = own_model("matrix");
    let out = Folder::new("matrix");
    let shell = if Path::new("/bin/dash").exists() {
        "/bin/dash"
    } else {
        "/bin/sh"
    };
    let args = [
        "--model",
        model.text(),
        "--strategies",
        "full,baseline,nommap",
        "--budgets",
        "1%,50%",
        "--ram-caps",
        "none,5%",
        "--runs",
        "2",
        "--",
        "--threads",
        "1",
    ];
    script(shell, &out, &args);
    let built = |name: &&str| STRATEGIES.iter().any(|s| s.name == *name);
    let streaming: Vec<&str> = ["baseline", "nommap"].into_iter().filter(built).collect();
    let rows: Vec<String> = out
        .names()
        .into_iter()
        .filter(|n| n.ends_with(".json"))
        .collect();
    assert_eq!(rows.len(), 2 * (1 + streaming.len()), "{rows:?}");
    assert!(out.names().contains(&"report.html".to_string()));
    for name in &rows {
        let row = std::fs::read_to_string(out.path(name)).unwrap();
        let row: Value = serde_json::from_str(&row).unwrap();
        assert_eq!(row["setup"]["n_threads"], 1);
        assert!(!row["machine"].as_str().unwrap().is_empty());
        assert!(!row["commit"].as_str().unwrap().is_empty());
        assert!(
            !row.to_string()
                .contains(model.0.parent().unwrap().to_str().unwrap())
        );
    }
    // Each cell that did not run stands there once, with its reason.
    let skipped = std::fs::read_to_string(out.path("skipped.tsv")).unwrap();
    let lines: Vec<Vec<&str>> = skipped
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(lines[0], ["model", "strategy", "budget", "cap", "reason"]);
    assert!(lines.iter().all(|line| line.len() == 5), "{skipped}");
    let with = |cap: &str| lines.iter().filter(|line| line[3] == cap).count();
    let unbuilt = 2 - streaming.len();
    assert_eq!(with("none"), streaming.len() + 2 * unbuilt, "{skipped}");
    assert_eq!(with("5%"), 5, "{skipped}");
    let small = lines
        .iter()
        .find(|line| line[1] == "baseline" && line[3] == "none");
    assert!(
        small.unwrap()[4].starts_with("--budget: found room for 2 experts"),
        "{skipped}"
    );

    // Once more: nothing runs again but what is missing.
    let gone = out.path(&rows[0]);
    let stays = out.path(&rows[1]);
    let before = stays.metadata().unwrap().modified().unwrap();
    std::fs::remove_file(&gone).unwrap();
    let said = script(shell, &out, &args);
    assert_eq!(said.matches("tokens/s, tokens").count(), 1, "{said}");
    assert!(gone.exists());
    assert_eq!(stays.metadata().unwrap().modified().unwrap(), before);
    assert_eq!(
        std::fs::read_to_string(out.path("skipped.tsv")).unwrap(),
        skipped
    );
}

#[test]
fn the_script_names_wrong_usage() {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench.sh");
    for (args, expected) in [
        (&["--nonsense", "x"][..], "unknown flag '--nonsense'"),
        (&["--runs", "0"], "found '0', expected a number from 1"),
        (
            &["--ram-caps", "half", "--out", env!("CARGO_TARGET_TMPDIR")],
            "--ram-caps: found 'half'",
        ),
        (
            &["--model", "a", "--synth", "b"],
            "--model and --synth are both given",
        ),
        (
            &["--model", "/nowhere", "--out", env!("CARGO_TARGET_TMPDIR")],
            "/nowhere: no such file",
        ),
    ] {
        let mut command = Command::new("/bin/sh");
        command.env("INFALL", env!("CARGO_BIN_EXE_infall"));
        let output = command.arg(&bench).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(expected),
            "{args:?}: {said}"
        );
    }
}
