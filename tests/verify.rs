//! `inspect` on files that are still downloading, `verify` on whole files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::parts::{self, Place, Whole};
use common::{Folder, Temporary, golden, infall, tiny};
use infall::gguf::{Gguf, TensorInfo};
use infall::os::File;
use infall::quant::Format;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Exit code, standard output and standard error.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap();
    (code, text(&output.stdout), text(&output.stderr))
}

fn micro() -> (Vec<u8>, Gguf) {
    let path = golden("micro-q2.gguf");
    let gguf = Gguf::read(&File::open(&path).unwrap()).unwrap();
    (std::fs::read(path).unwrap(), gguf)
}

fn with(name: &str, bytes: &[u8]) -> Temporary {
    let temporary = Temporary::new(name);
    std::fs::write(&temporary.0, bytes).unwrap();
    temporary
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    let mut places = bytes.windows(wanted.len());
    places.position(|window| window == wanted).unwrap()
}

fn last_line(out: &str) -> &str {
    out.lines().last().unwrap()
}

/// Hexadecimal by the standard library alone.
fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// The size in the last line of `inspect` is that of `plan` with the budget that it names.
fn assert_least(line: &str, path: &Path) {
    let budget = line.split("--budget ").nth(1).unwrap();
    let budget = budget.split(' ').next().unwrap();
    // 5 layers, 3 experts a token.
    assert_eq!(budget, "15", "{line}");
    let path = path.to_str().unwrap();
    let (code, plan, err) = told(&infall(&["plan", "-m", path, "--budget", budget]));
    assert_eq!(code, 0, "{err}");
    let total = plan.lines().find(|l| l.starts_with("  total")).unwrap();
    let total: Vec<&str> = total.split_whitespace().collect();
    let expected = format!("with {} {} of memory", total[2], total[3]);
    assert!(line.contains(&expected), "{line}: {plan}");
    let (code, _, err) = told(&infall(&["plan", "-m", path, "--budget", "14"]));
    assert!(code == 2 && err.contains("at least 15"), "{err}");
}

#[test]
fn the_last_line_of_inspect_says_what_is_needed() {
    let path = golden("micro-q2.gguf");
    let (code, out, err) = told(&infall(&["inspect", path.to_str().unwrap()]));
    assert_eq!((code, err.as_str()), (0, ""));
    let line = last_line(&out);
    assert!(
        line.starts_with("runs: the least is --budget 15 with "),
        "{line}"
    );
    assert_least(line, &path);
}

#[test]
fn a_file_that_is_still_arriving_is_inspected() {
    let (bytes, gguf) = micro();
    let whole = bytes.len();
    for len in [gguf.data_start as usize, whole / 2, whole - 1] {
        let part = with("arriving.gguf", &bytes[..len]);
        let (code, out, err) = told(&infall(&["inspect", part.text(), "--tensors"]));
        assert_eq!((code, err.as_str()), (0, ""));
        let line = last_line(&out);
        let expected = format!("not complete: {len} of {whole} bytes are there (");
        assert!(line.starts_with(&expected), "{line}");
        assert!(
            line.contains("; runs when complete: the least is "),
            "{line}"
        );
        assert_least(line, &golden("micro-q2.gguf"));
        assert!(out.contains("blk.4.ffn_down_exps.weight"));
        // What is not there is not run.
        let (code, _, err) = told(&infall(&["run", "-m", part.text(), "-p", "x"]));
        assert!(code == 1 && err.contains("is it cut off?"), "{err}");
    }
    // Half a header tells nothing yet.
    let part = with("header.gguf", &bytes[..gguf.data_start as usize / 2]);
    let (code, out, err) = told(&infall(&["inspect", part.text()]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains(part.text()) && err.contains("bytes, expected"),
        "{err}"
    );
}

#[test]
fn inspect_says_why_a_file_does_not_run() {
    let (bytes, _) = micro();
    // Name, number of dimensions, three dimensions, type.
    let name = b"blk.2.ffn_up_exps.weight";
    let mut odd = bytes.clone();
    let at = find(&bytes, name) + name.len() + 4 + 3 * 8;
    odd[at..at + 4].copy_from_slice(&99_u32.to_le_bytes());
    let odd = with("type.gguf", &odd);
    let (code, out, err) = told(&infall(&["inspect", odd.text(), "--tensors"]));
    assert_eq!((code, err.as_str()), (1, ""));
    let line = last_line(&out);
    assert!(line.starts_with("does not run: "), "{line}");
    for part in ["blk.2.ffn_up_exps.weight", "type 99 ("] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(
        out.contains("blk.2.ffn_down_exps.weight"),
        "the others are shown"
    );

    let key = b"deepseek4.expert_weights_scale";
    let mut lacking = bytes.clone();
    lacking[find(&bytes, key) + key.len() - 1] = b'_';
    let lacking = with("key.gguf", &lacking);
    let (code, out, err) = told(&infall(&["inspect", lacking.text()]));
    assert_eq!((code, err.as_str()), (1, ""));
    let line = last_line(&out);
    let expected = "key deepseek4.expert_weights_scale is missing";
    assert!(
        line.starts_with("does not run: ") && line.ends_with(expected),
        "{line}"
    );
}

#[test]
fn a_sound_file_has_the_hash_that_others_compute() {
    for path in [golden("micro-q2.gguf"), tiny()] {
        let hash = sha256(&std::fs::read(&path).unwrap());
        let path = path.to_str().unwrap();
        let (code, out, err) = told(&infall(&["verify", path, "--sha256", &hash]));
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.starts_with(&format!("{hash}  {path}\n")), "{out}");
        let line = last_line(&out);
        assert!(
            line.starts_with("sound: ") && line.ends_with("SHA-256 as expected"),
            "{line}"
        );
        assert!(err.contains("GB/s"), "{err}");
        let upper = hash.to_uppercase();
        let quiet = infall(&["verify", "--quiet", path, "--sha256", &upper]);
        assert_eq!(told(&quiet).2, "");
        assert!(quiet.status.success());

        let other = sha256(b"another file");
        let (code, out, err) = told(&infall(&["verify", "--quiet", path, "--sha256", &other]));
        assert_eq!((code, err.as_str()), (1, ""));
        let fault = format!("fault: SHA-256: found {hash}, expected {other}\nnot sound: 1 fault\n");
        assert!(out.ends_with(&fault), "{out}");
    }
    let wrong = infall(&["verify", tiny().to_str().unwrap(), "--sha256", "12"]);
    let (code, _, err) = told(&wrong);
    assert!(
        code == 2 && err.contains("'12', expected 64 hexadecimal digits"),
        "{err}"
    );
}

/// Where the scale of block `block` of a tensor lies, and what it is called; by the layouts of the format document.
fn scale(tensor: &TensorInfo, block: u64) -> (&'static str, u64, &'static [u8]) {
    const F16_NAN: &[u8] = &[1, 0xfe];
    let (name, bytes, offset, spoiled) = match tensor.format {
        Format::F32 => ("weight of F32 is infinite", 4, 0, &[0, 0, 0x80, 0xff][..]),
        Format::F16 => ("weight of F16 is NaN", 2, 0, F16_NAN),
        Format::Bf16 => ("weight of BF16 is NaN", 2, 0, &[1, 0x7f][..]),
        Format::Q8_0 => ("d of Q8_0 is NaN", 34, 0, F16_NAN),
        Format::Q2K => ("dmin of Q2_K is NaN", 84, 82, F16_NAN),
        Format::Iq2Xxs => ("d of IQ2_XXS is infinite", 66, 0, &[0, 0x7c][..]),
        Format::Q4K => ("dmin of Q4_K is NaN", 144, 2, F16_NAN),
        other => panic!("{} has no case", other.name()),
    };
    (name, tensor.extent.offset + block * bytes + offset, spoiled)
}

#[test]
fn scales_that_are_no_numbers_are_named_with_their_place() {
    let (bytes, gguf) = micro();
    let mut damaged = bytes.clone();
    // The last block of one tensor of each format; it is in the last row of the last expert.
    let mut formats = Vec::new();
    let mut expected = Vec::new();
    for tensor in gguf.tensors.iter().filter(|t| t.format != Format::I32) {
        if formats.contains(&tensor.format) {
            continue;
        }
        formats.push(tensor.format);
        let n: u64 = tensor.dims.iter().product();
        let block_len = tensor.format.block_len() as u64;
        let (name, byte, spoiled) = scale(tensor, n / block_len - 1);
        let at = byte as usize;
        damaged[at..at + spoiled.len()].copy_from_slice(spoiled);
        let names = ["column", "row", "matrix"];
        let mut place = vec![format!("column {}", tensor.dims[0] - block_len)];
        for (name, n) in names.iter().zip(&tensor.dims).skip(1) {
            place.insert(0, format!("{name} {}", n - 1));
        }
        let place = place.join(", ");
        expected.push(format!(
            "fault: tensor {}: {name} at byte {byte} ({place})\n",
            tensor.name
        ));
    }
    assert!(formats.len() >= 5, "{formats:?}");
    let n = expected.len();
    let file = with("scales.gguf", &damaged);
    let (code, out, err) = told(&infall(&["verify", "--quiet", file.text()]));
    assert_eq!((code, err.as_str()), (1, ""));
    for fault in &expected {
        assert!(out.contains(fault), "{fault} in {out}");
    }
    assert!(out.ends_with(&format!("not sound: {n} faults\n")), "{out}");
    assert!(out.starts_with(&sha256(&damaged)), "{out}");
}

#[test]
fn what_is_cut_or_no_model_is_not_sound_but_hashed() {
    let (bytes, gguf) = micro();
    let cut = with("cut.gguf", &bytes[..bytes.len() / 2]);
    let (code, out, _) = told(&infall(&["verify", "--quiet", cut.text()]));
    assert_eq!(code, 1);
    assert!(out.starts_with(&sha256(&bytes[..bytes.len() / 2])), "{out}");
    let expected = format!(
        "fault: {} of {} bytes are there: ",
        bytes.len() / 2,
        bytes.len()
    );
    assert!(out.contains(&expected), "{out}");

    let text = with("text.gguf", b"no model");
    let (code, out, _) = told(&infall(&["verify", "--quiet", text.text()]));
    assert_eq!(code, 1);
    assert!(out.starts_with(&sha256(b"no model")), "{out}");
    assert!(out.contains("not a GGUF file"), "{out}");

    // A hole, as a broken download leaves one.
    let hole = gguf.tensor("blk.1.ffn_up_exps.weight").unwrap().extent;
    let mut holed = bytes;
    holed[hole.offset as usize..hole.end().unwrap() as usize].fill(0);
    let holed = with("holed.gguf", &holed);
    let (code, out, _) = told(&infall(&["verify", "--quiet", holed.text()]));
    assert_eq!(code, 0);
    let expected = "note: 1 tensors hold nothing but zeros, first blk.1.ffn_up_exps.weight";
    assert!(out.contains(expected), "{out}");

    let (code, out, err) = told(&infall(&["verify", "/nonexistent.gguf"]));
    assert!(
        code == 1 && out.is_empty() && err.contains("No such file"),
        "{err}"
    );
}

/// Three parts, the first without tensors, as most published sets are.
fn three_parts() -> Vec<Vec<u8>> {
    let (bytes, _) = micro();
    let whole = Whole::read(&bytes);
    whole.split(&[0, 80, whole.n_tensors()], Place::Packed)
}

#[test]
fn all_parts_of_a_model_are_verified() {
    let mut parts = three_parts();
    let folder = Folder::new("parts");
    let paths = parts::write(&folder, &parts);
    let names: Vec<&str> = paths.iter().map(|p| p.to_str().unwrap()).collect();
    let hashes: Vec<String> = parts.iter().map(|p| sha256(p)).collect();
    let verify = |args: &[&str]| told(&infall(&[&["verify", "--quiet"], args].concat()));

    let all = hashes.join(",");
    let (code, out, _) = verify(&[names[1], "--sha256", &all]);
    let mut expected: String = std::iter::zip(&hashes, &names)
        .map(|(hash, name)| format!("{hash}  {name}\n"))
        .collect();
    expected += "sound: 154 tensors, ";
    assert!(code == 0 && out.starts_with(&expected), "{out}");
    // One hash is that of the file that is named.
    assert_eq!(verify(&[names[2], "--sha256", &hashes[2]]).0, 0);
    let (code, out, _) = verify(&[names[0], "--sha256", &hashes[2]]);
    let fault = format!(
        "fault: SHA-256: found {}, expected {}",
        hashes[0], hashes[2]
    );
    assert!(code == 1 && out.contains(&fault), "{out}");
    let two = [&hashes[0][..], &hashes[1]].join(",");
    let (code, _, err) = verify(&[names[0], "--sha256", &two]);
    assert!(
        code == 2 && err.contains("found 2 hashes, expected one"),
        "{err}"
    );

    // A place is one in the part.
    let gguf = Gguf::survey(&File::open(&paths[2]).unwrap()).unwrap();
    let tensor = gguf
        .tensors
        .iter()
        .find(|t| t.format == Format::Q2K)
        .unwrap();
    let (name, byte, spoiled) = scale(tensor, 0);
    let at = byte as usize;
    parts[2][at..at + spoiled.len()].copy_from_slice(spoiled);
    parts::write(&folder, &parts);
    let (code, out, _) = verify(&[names[0]]);
    let fault = format!("fault: tensor {}: {name} at byte {byte} (", tensor.name);
    let expected = format!("{}  {}\n{fault}", sha256(&parts[2]), names[2]);
    assert!(code == 1 && out.contains(&expected), "{expected} in {out}");

    std::fs::remove_file(&paths[1]).unwrap();
    let (code, out, _) = verify(&[names[0]]);
    assert!(
        code == 1 && out.contains(&format!("wanted first: {}", names[1])),
        "{out}"
    );
    assert!(
        out.contains(&hashes[0]) && out.ends_with("not sound: 2 faults\n"),
        "{out}"
    );
}

#[test]
fn parts_that_are_still_arriving_are_inspected() {
    let mut parts = three_parts();
    let all: usize = parts.iter().map(Vec::len).sum();
    let half = parts[2].len() / 2;
    parts[2].truncate(half);
    let there: usize = parts.iter().map(Vec::len).sum();
    let folder = Folder::new("arriving");
    let paths = parts::write(&folder, &parts);
    for path in &paths {
        let (code, out, err) = told(&infall(&["inspect", path.to_str().unwrap()]));
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let line = last_line(&out);
        let expected = format!("not complete: {there} of {all} bytes are there (");
        assert!(line.starts_with(&expected), "{expected}: {line}");
        assert!(
            line.contains("runs when complete: the least is --budget 15 "),
            "{line}"
        );
    }
    let (code, _, err) = told(&infall(&[
        "run",
        "-m",
        paths[0].to_str().unwrap(),
        "-p",
        "x",
    ]));
    assert!(code == 1 && err.contains("is it cut off?"), "{err}");
    assert!(err.contains(paths[2].to_str().unwrap()), "{err}");
}

#[test]
fn ctrl_c_stops_it() {
    // A sparse file that takes many seconds.
    let long = with("long.gguf", &micro().0);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&long.0)
        .unwrap();
    file.set_len(32 << 30).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    command.args(["verify", long.text()]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let (code, out, err) = told(&child.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "infall verify: stopped\n");
}
