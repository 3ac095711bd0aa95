//! Dequantisation against an independent implementation; see the head of the golden file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use infall::quant::Format;
use infall::quant::blocks::dequantize_row;

const GOLDEN: &str = include_str!("golden/quant.txt");

#[test]
fn weights_equal_the_golden_file() {
    let mut lines_of = [0; Format::ALL.len()];
    for line in GOLDEN.lines().filter(|l| !l.starts_with('#')) {
        let mut fields = line.split(' ');
        let mut field = || fields.next().unwrap();
        let (name, row, expected) = (field(), hex(field()), hex(field()));
        let format = Format::ALL.into_iter().find(|f| f.name() == name).unwrap();
        lines_of[format as usize] += 1;

        let mut weights = vec![0.0; expected.len() / 4];
        dequantize_row(format, &row, &mut weights);
        for (i, (w, e)) in weights.iter().zip(expected.as_chunks().0).enumerate() {
            let e = f32::from_bits(u32::from_be_bytes(*e));
            let equal =
                w.to_bits() == e.to_bits() || *w == 0.0 && e == 0.0 || w.is_nan() && e.is_nan();
            assert!(equal, "{line:.60}: weight {i}: {w:e}, expected {e:e}");
        }
    }
    for format in Format::ALL {
        let missing = lines_of[format as usize] == 0;
        assert_eq!(
            missing,
            matches!(format, Format::F32 | Format::I32),
            "{}",
            format.name()
        );
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}
