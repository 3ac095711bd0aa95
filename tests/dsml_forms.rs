//! Calls as models really write them: each form is read as the call that was meant, and what was repaired is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use infall::text::answer::{AnswerParser, End, Event};
use serde_json::{Value, json};

/// A tool and its arguments.
type Called = (String, Value);

/// What comes of an answer.
#[derive(Debug, Default, PartialEq)]
struct Found {
    reasoning: String,
    text: String,
    calls: Vec<Called>,
    warnings: Vec<String>,
}

fn parse(answer: &str, piece: usize) -> Found {
    let (mut found, mut open) = (Found::default(), (String::new(), String::new()));
    let mut take = |event: Event<'_>| match event {
        Event::Reasoning(more) => found.reasoning += more,
        Event::Text(more) => found.text += more,
        Event::CallBegin(name) => open = (name.into(), String::new()),
        Event::CallArguments(more) => open.1 += more,
        Event::CallEnd => {
            let arguments =
                serde_json::from_str(&open.1).unwrap_or_else(|e| panic!("{e}: {open:?}"));
            found.calls.push((open.0.clone(), arguments));
        }
        Event::CallCut(_) => panic!("nothing cuts it"),
        Event::Warning(what) => found.warnings.push(what.into()),
    };
    let mut parser = AnswerParser::new(false, true);
    for bytes in answer.as_bytes().chunks(piece) {
        parser.push(bytes, &mut take);
    }
    parser.finish(End::Whole, &mut take);
    found
}

/// `~` stands for `｜DSML｜`, `～` for the same with a bar too few.
fn form(text: &str) -> String {
    text.replace('~', "｜DSML｜").replace('～', "｜DSML ")
}

/// All of these mean `f(a: "x y", b: [1, 2])`.
const ALIKE: &[(&str, &str)] = &[
    (
        "all in one line",
        "<~tool_calls><~invoke name=\"f\"><~parameter name=\"a\" string=\"true\">x y</~parameter><~parameter name=\"b\" string=\"false\">[1, 2]</~parameter></~invoke></~tool_calls>",
    ),
    (
        "blanks and empty lines between tags",
        "<~tool_calls>\n\n  <~invoke name=\"f\">\n\n    <~parameter name=\"a\" string=\"true\">x y</~parameter>\n\n    <~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n  </~invoke>\n\n</~tool_calls>\n",
    ),
    (
        "carriage returns and tabs",
        "<~tool_calls>\r\n<~invoke name=\"f\">\r\n\t<~parameter name=\"a\" string=\"true\">x y</~parameter>\r\n\t<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\r\n</~invoke>\r\n</~tool_calls>",
    ),
    (
        "no end of the block",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n",
    ),
    (
        "no end of the call",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~tool_calls>",
    ),
    (
        "no ends at all but those of values",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>",
    ),
    (
        "no end of the first value",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "no end of the last value",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]\n</~invoke>\n</~tool_calls>",
    ),
    (
        "the answer ends in a value",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n<~parameter name=\"a\" string=\"true\">x y",
    ),
    (
        "no string",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\">x y</~parameter>\n<~parameter name=\"b\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "single quotes",
        "<~tool_calls>\n<~invoke name='f'>\n<~parameter name='a' string='true'>x y</~parameter>\n<~parameter name='b' string='false'>[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "no quotes",
        "<~tool_calls>\n<~invoke name=f>\n<~parameter name=a string=true>x y</~parameter>\n<~parameter name=b string=false>[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "quotes that are not closed",
        "<~tool_calls>\n<~invoke name=\"f>\n<~parameter name=\"a\" string=\"true>x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "attributes the other way round",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter string=\"true\" name=\"a\">x y</~parameter>\n<~parameter string=\"false\" name=\"b\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "attributes that are not known",
        "<~tool_calls type=\"x\">\n<~invoke id=\"1\" name=\"f\">\n<~parameter name=\"a\" type=\"string\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\" n=2>[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "blanks in tags",
        "<~tool_calls >\n<~invoke  name = \"f\" >\n<~parameter name=\"a\"  string=\"true\" >x y</~parameter >\n<~parameter\nname=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke >\n</~tool_calls >",
    ),
    (
        "true and false in capitals",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"True\">x y</~parameter>\n<~parameter name=\"b\" string=\"FALSE\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "the older block",
        "<~function_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~function_calls>",
    ),
    (
        "the older block ended as the newer one",
        "<~function_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "no block",
        "<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>",
    ),
    (
        "no block, but its end",
        "<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "arguments as an object",
        "<~tool_calls>\n<~invoke name=\"f\">\n{\"a\": \"x y\", \"b\": [1, 2]}\n</~invoke>\n</~tool_calls>",
    ),
    (
        "arguments as an object, behind which the call ends itself",
        "<~tool_calls>\n<~invoke name=\"f\">{\n  \"a\": \"x y\",\n  \"b\": [1, 2]\n}</~invoke></~tool_calls>",
    ),
    (
        "a parameter twice",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">no</~parameter>\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "bars of the keyboard",
        "<|DSML|tool_calls>\n<|DSML|invoke name=\"f\">\n<|DSML|parameter name=\"a\" string=\"true\">x y</|DSML|parameter>\n<|DSML|parameter name=\"b\" string=\"false\">[1, 2]</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|tool_calls>",
    ),
    (
        "doubled bars",
        "<｜｜DSML｜｜tool_calls>\n<｜｜DSML｜｜invoke name=\"f\">\n<｜｜DSML｜｜parameter name=\"a\" string=\"true\">x y</｜｜DSML｜｜parameter>\n<｜｜DSML｜｜parameter name=\"b\" string=\"false\">[1, 2]</｜｜DSML｜｜parameter>\n</｜｜DSML｜｜invoke>\n</｜｜DSML｜｜tool_calls>",
    ),
    (
        "a bar too few",
        "<～tool_calls>\n<～invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</～parameter>\n<～parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</～invoke>\n</～tool_calls>",
    ),
    (
        "bars of both kinds",
        "<~tool_calls>\n<|DSML｜invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</|DSML|parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</｜DSML|parameter>\n</~invoke>\n</|DSML|tool_calls>",
    ),
    (
        "misspelt ends",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~param>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameters>\n</~invocation>\n</~tool_call>",
    ),
    (
        "ends without the mark",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</parameter>\n</invoke>\n</tool_calls>",
    ),
    (
        "tags inside of the block without the mark",
        "<~tool_calls>\n<invoke name=\"f\">\n<parameter name=\"a\" string=\"true\">x y</parameter>\n<parameter name=\"b\" string=\"false\">[1, 2]</parameter>\n</invoke>\n</~tool_calls>",
    ),
    (
        "other names of tags",
        "<~tool_calls>\n<~tool_call name=\"f\">\n<~arg name=\"a\" string=\"true\">x y</~arg>\n<~argument name=\"b\" string=\"false\">[1, 2]</~argument>\n</~tool_call>\n</~tool_calls>",
    ),
    (
        "parameters as elements",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~a>x y</~a>\n<~b>[1, 2]</~b>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "the name without its key",
        "<~tool_calls>\n<~invoke=\"f\">\n<~parameter \"a\" string=\"true\">x y</~parameter>\n<~parameter key=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "text between parameters",
        "<~tool_calls>\n<~invoke name=\"f\">\nfirst a:\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<!-- and b -->\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "an end too many",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter></~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n</~invoke>\n</~tool_calls>\n</~tool_calls>",
    ),
    (
        "the block opened twice",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke>\n<~tool_calls>\n</~tool_calls>",
    ),
    (
        "tags without their last character",
        "<~tool_calls>\n<~invoke name=\"f\"\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">[1, 2]</~parameter>\n</~invoke\n</~tool_calls>",
    ),
    (
        "a type instead of string",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" type=\"string\">x y</~parameter>\n<~parameter type=\"array\" name=\"b\">[1, 2]</~parameter>\n</~invoke>\n</~tool_calls>",
    ),
    (
        "the mark in small letters",
        "<｜dsml｜tool_calls>\n<｜dsml｜invoke name=\"f\">\n<｜dsml｜parameter name=\"a\" string=\"true\">x y</｜dsml｜parameter>\n<｜dsml｜parameter name=\"b\" string=\"false\">[1, 2]</｜dsml｜parameter>\n</｜dsml｜invoke>\n</｜dsml｜tool_calls>",
    ),
    (
        "JSON on lines of its own",
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x y</~parameter>\n<~parameter name=\"b\" string=\"false\">\n[1,\n 2]\n</~parameter>\n</~invoke>\n\n\n</~tool_calls>",
    ),
];

#[test]
fn a_call_is_read_as_it_was_meant() {
    assert!(ALIKE.len() >= 30);
    let expected = vec![("f".to_owned(), json!({"a": "x y", "b": [1, 2]}))];
    for (what, text) in ALIKE {
        let text = form(text);
        for before in ["", "I look.", "I look.\n\n"] {
            // Without bars of its own, only a line of its own tells it from a mention.
            if text.starts_with("<|") && before == "I look." {
                continue;
            }
            let found = parse(&(before.to_owned() + &text), usize::MAX);
            assert_eq!(found.calls, expected, "{what}: {found:?}");
            assert_eq!(found.text, before.trim_end(), "{what}");
            assert!(!found.warnings.is_empty(), "{what}");
            for warning in &found.warnings {
                assert!(warning.starts_with("calls: "), "{what}: {warning}");
            }
            for piece in [1, 2, 3, 7] {
                let again = parse(&(before.to_owned() + &text), piece);
                assert_eq!(again, found, "{what}, {piece} bytes at a time");
            }
        }
    }
}

#[test]
fn other_calls() {
    let exact = form(
        "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x</~parameter>\n</~invoke>\n<~invoke name=\"g\">\n\n</~invoke>\n</~tool_calls>",
    );
    let f = |value: &str| ("f".to_owned(), json!({"a": value}));
    let g = ("g".to_owned(), json!({}));
    let one = |value: &str, string: &str| {
        form(&format!(
            "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\"{string}>{value}</~parameter>\n</~invoke>\n</~tool_calls>"
        ))
    };
    let is_text = " string=\"true\"";
    // Answer, text, calls, number of warnings.
    let cases: Vec<(String, &str, Vec<Called>, usize)> = vec![
        (exact.clone(), "", vec![f("x"), g.clone()], 0),
        (
            exact.clone() + " Done.",
            " Done.",
            vec![f("x"), g.clone()],
            0,
        ),
        (exact.clone() + "\n\n", "", vec![f("x"), g.clone()], 0),
        // Several blocks.
        (
            format!("{exact}\n\n{exact}"),
            "",
            vec![f("x"), g.clone(), f("x"), g.clone()],
            0,
        ),
        (
            format!("{exact}\nAnd: {exact}"),
            "\nAnd: ",
            vec![f("x"), g.clone(), f("x"), g.clone()],
            0,
        ),
        // Tags inside of a value that is closed are part of it.
        (
            one(
                &form("x</~invoke>\n</~tool_calls></parameter><~invoke name=\"h\">\n"),
                is_text,
            ),
            "",
            vec![f(&form(
                "x</~invoke>\n</~tool_calls></parameter><~invoke name=\"h\">\n",
            ))],
            0,
        ),
        (
            one("a < b <p>c</p>\n", is_text),
            "",
            vec![f("a < b <p>c</p>\n")],
            0,
        ),
        // Values that are not what they should be.
        (one("x\ny", " string=\"false\""), "", vec![f("x\ny")], 1),
        (one("", " string=\"false\""), "", vec![f("")], 1),
        (one("01", ""), "", vec![f("01")], 1),
        (one("\"x\"", ""), "", vec![f("\"x\"")], 1),
        (
            one("true", ""),
            "",
            vec![("f".into(), json!({"a": true}))],
            1,
        ),
        (
            one("1", " string=\"maybe\""),
            "",
            vec![("f".into(), json!({"a": 1}))],
            1,
        ),
        // A call that ends itself, and one of which nothing but the name comes.
        (
            form("<~tool_calls>\n<~invoke name=\"g\"/>\n</~tool_calls>"),
            "",
            vec![g.clone()],
            1,
        ),
        (
            form("<~tool_calls>\n<~invoke name=\"g\">"),
            "",
            vec![g.clone()],
            2,
        ),
        (
            form("<~tool_calls>\n<~invoke name=\"g\">\n</~invo"),
            "",
            vec![g.clone()],
            3,
        ),
        // An object that is none.
        (
            form("<~tool_calls>\n<~invoke name=\"g\">\n{\"a\": x}\n</~invoke>\n</~tool_calls>"),
            "",
            vec![g],
            1,
        ),
        // The end of the call is missing in front of the next.
        (
            form(
                "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">y</~parameter>\n</~invoke>\n</~tool_calls>",
            ),
            "",
            vec![f("x"), f("y")],
            2,
        ),
        // Text behind a block that does not end.
        (
            form(
                "<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">x</~parameter>\n</~invoke>\nDone.",
            ),
            "\nDone.",
            vec![f("x")],
            1,
        ),
    ];
    for (answer, text, calls, n_warnings) in cases {
        for piece in [usize::MAX, 1, 5] {
            let found = parse(&answer, piece);
            assert_eq!(
                (found.text.as_str(), &found.calls),
                (text, &calls),
                "{answer}"
            );
            assert_eq!(found.warnings.len(), n_warnings, "{answer}: {found:?}");
        }
    }
}

#[test]
fn a_mention_is_text() {
    for (text, n_warnings) in [
        ("Write `<~tool_calls>` in front.", 0),
        ("Write `<~invoke name=\"f\">` and so on.", 0),
        ("\"<~tool_calls>\n<~invoke\" is how it begins", 0),
        ("It is <|DSML|invoke name=\"f\"> with other bars.", 0),
        ("The opener is <~tool_calls>.", 1),
        ("<~tool_calls>\n</~tool_calls>", 1),
        ("<~parameter name=\"a\">x</~parameter>", 0),
        ("</~tool_calls> ends it", 0),
        ("<invoke name=\"f\">", 0),
        ("a < b, <｜, <｜DSML and </think", 0),
    ] {
        let text = form(text);
        for piece in [usize::MAX, 1, 5] {
            let found = parse(&text, piece);
            assert_eq!(found.text, text);
            assert_eq!(found.calls, []);
            assert_eq!(found.warnings.len(), n_warnings, "{text}: {found:?}");
        }
    }
}

/// The time is linear in the answer's length, however little comes at a time.
#[test]
fn long_answers_take_no_longer_a_byte() {
    let parts = [
        "<".repeat(200_000),
        form("<~").repeat(20_000),
        form("<~tool_calls>\n").repeat(10_000),
        form("<~tool_calls>\n<~invoke name=\"f\">\n") + &form("</~x>").repeat(20_000),
        form("<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">&")
            + &"amp;".repeat(50_000),
        form("<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"true\">")
            + &form("</~invoke>\n").repeat(10_000),
        form("<~tool_calls>\n<~invoke name=\"f\">\n<~parameter name=\"a\" string=\"false\">")
            + &"[".repeat(200_000),
        form("<~tool_calls>\n<~invoke name=\"f\">\n<~invoke name=\"") + &"> ".repeat(100_000),
        "\n".repeat(200_000),
        "<｜".to_owned() + &" ".repeat(200_000),
        form("<~tool_calls>") + &" ".repeat(200_000),
        form("<~tool_calls x=\"") + &" ".repeat(200_000),
    ];
    for part in parts {
        let begin = std::time::Instant::now();
        let found = parse(&part, 3);
        assert!(
            found.text.len() + found.calls.len() > 0,
            "something comes of it"
        );
        let took = begin.elapsed();
        assert!(
            took.as_secs_f64() < 2.0,
            "{took:?}: {}",
            &part[..60.min(part.len())]
        );
    }
}
