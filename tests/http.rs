//! Requests in every cut, and every wrong form of them: a request, a need for more bytes, or one status.
#![allow(clippy::unwrap_used)]

use infall::http::{LIMITS, Limits, Method, Parser, Request, Step};
use infall::rng::Rng;

/// All that a connection makes of bytes that come in these pieces, without `Continue`, which depends on the cuts.
fn outcomes<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Step> {
    let mut parser = Parser::new(limits);
    let mut all = Vec::new();
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.step() {
                Step::More => break,
                Step::Continue => {}
                Step::Request(request) => all.push(Step::Request(request)),
                Step::Refused(refusal) => {
                    all.push(Step::Refused(refusal));
                    break;
                }
            }
        }
        // A line without its end, and what came with it; the line of a chunk has 256 bytes.
        let most = limits.line_bytes.max(limits.field_bytes).max(256) + piece.len();
        assert!(
            parser.unread_bytes() <= 2 * most,
            "{}",
            parser.unread_bytes()
        );
    }
    all
}

/// The same outcomes for all cuts into two, byte by byte, and 20 random cuts.
fn outcomes_in_all_cuts(limits: &Limits, bytes: &[u8]) -> Vec<Step> {
    let whole = outcomes(limits, [bytes]);
    for cut in 0..bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(outcomes(limits, [a, b]), whole, "cut at {cut}");
    }
    assert_eq!(outcomes(limits, bytes.chunks(1)), whole, "byte by byte");
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (mut pieces, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + rng.below(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        assert_eq!(outcomes(limits, pieces), whole, "seed {seed}");
    }
    whole
}

fn requests(bytes: &[u8]) -> Vec<Request> {
    let all = outcomes_in_all_cuts(&LIMITS, bytes).into_iter();
    all.map(|step| match step {
        Step::Request(request) => request,
        other => panic!("{other:?} for {}", bytes.escape_ascii()),
    })
    .collect()
}

/// The only outcome is a refusal with this code.
fn refused(limits: &Limits, bytes: &[u8], code: u16) {
    let all = outcomes_in_all_cuts(limits, bytes);
    let what = bytes[..bytes.len().min(200)].escape_ascii();
    match all.as_slice() {
        [Step::Refused(refusal)] => {
            assert_eq!(refusal.status.code(), code, "{what}: {}", refusal.message);
            assert!(!refusal.message.is_empty());
        }
        other => panic!("{other:?} for {what}"),
    }
}

#[test]
fn requests_are_read_in_any_cut() {
    let [request] = &requests(
        b"\r\nPOST /v1/chat%20x?y=%20 HTTP/1.1\r\nHost: localhost:80\r\nAccept:\t a\tb \r\naccept: c\r\n\
          X-Empty:\r\nContent-Length: 0005\r\n\r\nhello",
    )[..] else {
        panic!("one request");
    };
    assert_eq!(request.method, Method::Post);
    assert_eq!((&*request.path, &*request.query), ("/v1/chat x", "y=%20"));
    assert_eq!(request.host, "localhost:80");
    assert_eq!(request.header("x-empty"), Some(""));
    assert_eq!(request.headers("accept").collect::<Vec<_>>(), ["a\tb", "c"]);
    assert_eq!(request.header("cookie"), None);
    assert_eq!(request.body, b"hello");
    assert!(request.is_http_1_1 && request.keep_alive);
}

#[test]
fn fields_in_latin_1_are_read_and_cookies_are_dropped() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n";
    let field = |field: &[u8]| requests(&[head, field, b"\r\nB: c\r\n\r\n"].concat());
    let read = field(b"A: caf\xe9");
    assert_eq!(read[0].header("a"), Some("caf?"));
    // Longer than the limit of all fields together.
    let long = [b"cOOkie: ", "é\0=b; ".repeat(6000).as_bytes()].concat();
    for cookie in [&b"Cookie:"[..], b"cookie: \r x", &long] {
        let read = field(cookie);
        assert_eq!(read.len(), 1);
        assert_eq!(
            (read[0].header("cookie"), read[0].header("b")),
            (None, Some("c"))
        );
    }
    let with = |field: &[u8]| [head, field, b"\n\r\n"].concat();
    refused(&LIMITS, &with(b"Cookie: without CR"), 400);
    refused(&LIMITS, &with(b"Cookie:"), 400);
    let fields = "Cookie: a\r\n".repeat(LIMITS.fields + 1);
    refused(&LIMITS, &with(fields.as_bytes()), 431);
}

#[test]
fn a_cookie_has_an_end() {
    let mut parser = Parser::new(&LIMITS);
    parser.push(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: ");
    for _ in 0..(1 << 20) / 4096 - 1 {
        parser.push(&[b'a'; 4096]);
        assert_eq!(parser.step(), Step::More);
        assert!(parser.unread_bytes() < 64 << 10);
    }
    parser.push(&[b'a'; 4096]);
    let refusal = match parser.step() {
        Step::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!((refusal.status.code(), &*refusal.path), (431, "/"));
}

#[test]
fn requests_behind_each_other_keep_their_order() {
    let found = requests(
        b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
          4\r\nWiki\r\n9;x=\"y\"\r\npedia in \r\n0006;\r\nchunks\r\n000\r\nTrailer: x\r\n\r\n\
          POST http://h2:8/3 HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nGETHEAD /4 HTTP/1.0\r\n\r\n",
    );
    let told: Vec<_> = found
        .iter()
        .map(|r| {
            (
                r.method,
                &*r.path,
                &*r.host,
                r.body.as_slice(),
                r.keep_alive,
            )
        })
        .collect();
    let wiki: &[u8] = b"Wikipedia in chunks";
    assert_eq!(
        told,
        [
            (Method::Get, "/1", "h", &b""[..], true),
            (Method::Post, "/2", "h", wiki, true),
            (Method::Post, "/3", "h2:8", b"GET", true),
            (Method::Head, "/4", "", b"", false),
        ]
    );
    assert_eq!(found[1].header("trailer"), None, "trailers are dropped");
}

#[test]
fn the_connection_goes_on_as_version_and_fields_say() {
    for (version, field, goes_on) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: keep-alive, Close", false),
        ("1.1", "Connection: x\r\nConnection: CLOSE", false),
        ("1.1", "Connection: closed", true),
        ("1.0", "X: y", false),
        ("1.0", "Connection: Keep-Alive", true),
        ("1.0", "Connection: keep-alive, close", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n\r\n");
        assert_eq!(requests(text.as_bytes())[0].keep_alive, goes_on, "{text}");
    }
}

#[test]
fn wrong_headers_have_one_status_each() {
    for (lines, code) in [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
        ("\nGET / HTTP/1.1\r\n", 400),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n\tmore\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nH\u{e9}: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rC: d\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: \u{7f}\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", 417),
        ("GET / HTTP/2.0\r\n", 505),
        ("BREW / HTTP/1.1\r\n", 501),
    ] {
        refused(&LIMITS, lines.as_bytes(), code);
    }
    // The first bytes of TLS, with a line end somewhere.
    refused(
        &LIMITS,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        400,
    );
}

#[test]
fn a_body_has_one_length_or_chunks() {
    for (fields, code) in [
        ("Content-Length: 1\r\nContent-Length: 1", 400),
        ("Content-Length: 1\r\nContent-Length: 2", 400),
        ("Content-Length: 1, 1", 400),
        ("Content-Length: +1", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 1 1", 400),
        ("Content-Length: 0x1", 400),
        ("Content-Length: 1.0", 400),
        ("Content-Length:", 400),
        ("Content-Length: \u{661}", 400),
        ("Content-Length: 18446744073709551616", 400),
        ("Content-Length: 18446744073709551615", 413),
        ("Content-Length: 16777217", 413),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: chunked, identity", 501),
        ("Transfer-Encoding: identity", 501),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding:", 501),
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n1");
        refused(&LIMITS, text.as_bytes(), code);
    }
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(&LIMITS, old, 400);
}

#[test]
fn wrong_chunks_are_refused() {
    let wrong = [
        ("\r\nx\r\n0\r\n\r\n", 400),
        (" 1\r\nx\r\n0\r\n\r\n", 400),
        ("1 \r\nx\r\n0\r\n\r\n", 400),
        ("+1\r\nx\r\n0\r\n\r\n", 400),
        ("-1\r\nx\r\n0\r\n\r\n", 400),
        ("0x1\r\nx\r\n0\r\n\r\n", 400),
        ("g\r\nx\r\n0\r\n\r\n", 400),
        (";x\r\nx\r\n0\r\n\r\n", 400),
        ("1;\0\r\nx\r\n0\r\n\r\n", 400),
        ("1;\r\r\nx\r\n0\r\n\r\n", 400),
        ("1\nx\r\n0\r\n\r\n", 400),
        ("1\r\nx\n0\r\n\r\n", 400),
        ("1\r\nxy\r\n0\r\n\r\n", 400),
        ("2\r\nx\r\n0\r\n\r\n", 400),
        ("1\r\nx0\r\n\r\n", 400),
        ("1\r\nx\r0\r\n\r\n", 400),
        ("0\r\nx\r\n\r\n", 400),
        ("0\r\n x: y\r\n\r\n", 400),
        ("0\r\nx: y\n\r\n", 400),
        ("00000000000000001\r\nx\r\n0\r\n\r\n", 400),
        ("10000000000000000\r\n", 400),
        ("ffffffffffffffff\r\n", 413),
        ("1000001\r\n", 413),
        ("1\r\nx\r\n1000000\r\n", 413),
    ];
    for (chunks, code) in wrong {
        let text =
            format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        refused(&LIMITS, text.as_bytes(), code);
    }
}

#[test]
fn floods_are_refused_where_the_limit_is_passed() {
    let limits = Limits {
        line_bytes: 30,
        field_bytes: 60,
        fields: 4,
        body_bytes: 10,
        ..LIMITS
    };
    let of = |target: usize, fields: &str, body: &str| {
        let target = "x".repeat(target);
        format!("POST /{target} HTTP/1.1\r\nhost: h\r\n{fields}\r\n{body}")
    };
    let filler = |n: usize| format!("a: {}\r\n", "x".repeat(n - 5));
    let chunked = "transfer-encoding: chunked\r\n";
    // Each on its limit, and one above.
    let on = [
        of(13, "", ""),
        of(0, &filler(60 - 9 - 2), ""),
        of(0, &"a:\r\n".repeat(3), ""),
        of(0, "content-length: 10\r\n", "0123456789"),
        of(0, chunked, "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"),
        of(0, chunked, "0\r\na: 56789012345678\r\n\r\n"),
    ];
    let above = [
        (of(14, "", ""), 414),
        (of(0, &filler(60 - 9 - 1), ""), 431),
        (of(0, &"a:\r\n".repeat(4), ""), 431),
        (of(0, "content-length: 11\r\n", ""), 413),
        (of(0, chunked, "5\r\n01234\r\n6\r\n"), 413),
        (of(0, chunked, "0\r\na: 567890123456789\r\n\r\n"), 431),
    ];
    for text in on {
        let all = outcomes_in_all_cuts(&limits, text.as_bytes());
        assert!(matches!(all[..], [Step::Request(_)]), "{text}: {all:?}");
    }
    for (text, code) in above {
        refused(&limits, text.as_bytes(), code);
    }
    // Without any line end.
    refused(&limits, "x".repeat(30).as_bytes(), 414);
    refused(&limits, of(0, &"x".repeat(60), "").as_bytes(), 431);
    let line = "1;".to_string() + &"x".repeat(254);
    refused(&limits, of(0, chunked, &line).as_bytes(), 400);
}

#[test]
fn many_small_chunks_take_no_more_than_their_body() {
    let mut parser = Parser::new(&LIMITS);
    parser.push(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunks = b"1\r\nx\r\n".repeat(1000);
    for i in 1..=1000 {
        parser.push(&chunks);
        assert_eq!(parser.step(), Step::More);
        assert!(parser.body_bytes() <= (2 * i * 1000).max(16 << 10), "{i}");
    }
    parser.push(b"0\r\n\r\n");
    let Step::Request(request) = parser.step() else {
        panic!("a request");
    };
    assert_eq!(request.body, vec![b'x'; 1_000_000]);
}

#[test]
fn a_waiting_client_is_told_to_go_on_only_if_there_is_a_body_to_wait_for() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n";
    let step = |text: &str| {
        let mut parser = Parser::new(&LIMITS);
        parser.push(text.as_bytes());
        parser.step()
    };
    assert_eq!(
        step(&format!("{head}Content-Length: 1\r\n\r\n")),
        Step::Continue
    );
    assert_eq!(
        step(&format!("{head}Transfer-Encoding: chunked\r\n\r\n")),
        Step::Continue
    );
    for there in [
        "Content-Length: 0\r\n\r\n",
        "\r\n",
        "Content-Length: 1\r\n\r\nx",
    ] {
        assert!(
            matches!(step(&format!("{head}{there}")), Step::Request(_)),
            "{there}"
        );
    }
    let too_large = step(&format!("{head}Content-Length: 99999999\r\n\r\n"));
    assert!(matches!(too_large, Step::Refused(r) if r.status.code() == 413));
    let old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(step(old), Step::More);
}

#[test]
fn nothing_is_read_behind_a_refusal() {
    let mut parser = Parser::new(&LIMITS);
    parser.push(b"GET\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(matches!(parser.step(), Step::Refused(_)));
    for _ in 0..100 {
        parser.push(&[b'x'; 1000]);
        assert_eq!(parser.step(), Step::More);
        assert_eq!(parser.unread_bytes(), 0);
    }
}
