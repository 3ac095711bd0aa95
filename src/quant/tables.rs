//! Constant tables of the number formats: the IQ2_XXS grid, the signs of points, the values of IQ4 and MXFP4.
//!
//! Each table stands here once; it has no dependency, so that a build script can read this file too.

/// The 256 grid points of IQ2_XXS in a compact code: the sum over j of `digit_j * 4^j`, digit 0, 1, 2
/// for the magnitudes 8, 25, 43 of element j.
///
/// A hand-picked subset of the 3^8 points, so no formula gives it; a constant of the format, published
/// with ggml (`iq2xxs_grid`) and with its Python reader.
#[rustfmt::skip]
pub const IQ2_XXS_CODES: [u16; 256] = [
    0, 2, 5, 8, 10, 17, 20, 32, 34, 40, 42, 65, 68, 80, 88, 97, 100, 128, 130, 138, 162, 257, 260,
    272, 277, 320, 388, 408, 512, 514, 546, 642, 1025, 1028, 1040, 1057, 1060, 1088, 1090, 1096,
    1120, 1153, 1156, 1168, 1188, 1280, 1282, 1288, 1312, 1350, 1385, 1408, 1425, 1545, 1552,
    1600, 1668, 1700, 2048, 2053, 2056, 2068, 2088, 2113, 2116, 2128, 2130, 2184, 2308, 2368,
    2562, 2580, 4097, 4100, 4112, 4129, 4160, 4192, 4228, 4240, 4245, 4352, 4360, 4384, 4432,
    4442, 4480, 4644, 4677, 5120, 5128, 5152, 5157, 5193, 5248, 5400, 5474, 5632, 5654, 6145,
    6148, 6160, 6208, 6273, 6400, 6405, 6560, 6737, 8192, 8194, 8202, 8260, 8289, 8320, 8322,
    8489, 8520, 8704, 8706, 9217, 9220, 9232, 9280, 9302, 9472, 9537, 9572, 9872, 10248, 10272,
    10388, 10820, 16385, 16388, 16400, 16408, 16417, 16420, 16448, 16456, 16470, 16480, 16513,
    16516, 16528, 16640, 16672, 16737, 16768, 16773, 16897, 16912, 16968, 16982, 17000, 17408,
    17416, 17440, 17536, 17561, 17682, 17700, 17920, 18433, 18436, 18448, 18496, 18501, 18688,
    18776, 18785, 18818, 19013, 19088, 20480, 20488, 20497, 20505, 20512, 20608, 20616, 20740,
    20802, 20900, 21137, 21648, 21650, 21770, 22017, 22100, 22528, 22545, 22553, 22628, 22848,
    23048, 24580, 24592, 24640, 24680, 24832, 24917, 25112, 25184, 25600, 25605, 25872, 25874,
    25988, 26690, 32768, 32770, 32778, 32833, 32898, 33028, 33048, 33088, 33297, 33793, 33796,
    33808, 33813, 33856, 33888, 34048, 34118, 34196, 34313, 34368, 34400, 34818, 35076, 35345,
    36868, 36880, 36900, 36928, 37025, 37142, 37248, 37445, 37888, 37922, 37956, 38225, 39041,
    39200, 40962, 41040, 41093, 41225, 41472, 42008, 43088, 43268,
];

/// The IQ2_XXS grid: the eight magnitudes (8, 25 or 43) of each point, in element order.
pub static IQ2_XXS_GRID: [[u8; 8]; 256] = expand_grid();

const fn expand_grid() -> [[u8; 8]; 256] {
    let magnitudes = [8, 25, 43];
    let mut grid = [[0; 8]; 256];
    let mut i = 0;
    while i < 256 {
        let mut j = 0;
        while j < 8 {
            grid[i][j] = magnitudes[(IQ2_XXS_CODES[i] >> (2 * j)) as usize & 3];
            j += 1;
        }
        i += 1;
    }
    grid
}

/// The eight signs (bit j set: element j is negative) that seven stored bits stand for.
///
/// The eighth makes the number of minus signs even.
pub const fn even_signs(seven_bits: u32) -> u8 {
    let bits = (seven_bits & 127) as u8;
    bits | ((bits.count_ones() as u8 & 1) << 7)
}

/// The values of the 16 codes of IQ4_NL and IQ4_XS: a constant of the formats.
pub const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the value of each E2M1 code; bit 3 is the sign. MXFP4 scales are halved to match.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the E8M0 scale `2^(e - 127)`, the scale that belongs to [`MXFP4_VALUES`]; 255 is NaN.
pub const fn mxfp4_scale(e: u8) -> f32 {
    f32::from_bits(match e as u32 {
        255 => f32::NAN.to_bits(),
        // 2^-128 and 2^-127 are subnormal; from 2^-126 on the exponent field is e - 1.
        e if e < 2 => 0x0020_0000 << e,
        e => (e - 1) << 23,
    })
}

/// [`mxfp4_scale`] of each byte, for kernels: a look-up is faster than the steps (12.9 against 11.4 GB/s of a core).
pub static MXFP4_SCALES: [f32; 256] = {
    let mut scales = [0.0; 256];
    let mut e = 0;
    while e < 256 {
        scales[e] = mxfp4_scale(e as u8);
        e += 1;
    }
    scales
};

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    #[test]
    fn codes_and_grid_have_their_hashes() {
        let codes: Vec<u8> = IQ2_XXS_CODES.iter().flat_map(|c| c.to_le_bytes()).collect();
        assert_eq!(
            sha256(&codes),
            "915952ebc4af8ddba8113583ca1316fc818843f7b825bbf1a25ae1c39bf0e16d"
        );
        assert_eq!(
            sha256(IQ2_XXS_GRID.as_flattened()),
            "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54"
        );
    }

    #[test]
    fn grid_has_its_properties() {
        assert!(IQ2_XXS_CODES.is_sorted_by(|a, b| a < b));
        assert_eq!(IQ2_XXS_GRID[0], [8; 8]);
        assert_eq!(IQ2_XXS_GRID[1], [43, 8, 8, 8, 8, 8, 8, 8]);
        assert_eq!(IQ2_XXS_GRID[2], [25, 25, 8, 8, 8, 8, 8, 8]);
        assert_eq!(IQ2_XXS_GRID[255], [8, 25, 8, 8, 25, 43, 43, 43]);
        let mut rows_by_large = [0; 9];
        for row in &IQ2_XXS_GRID {
            assert!(row.iter().all(|m| [8, 25, 43].contains(m)));
            assert!(row.iter().filter(|m| **m == 25).count().is_multiple_of(2));
            rows_by_large[row.iter().filter(|m| **m != 8).count()] += 1;
        }
        assert_eq!(rows_by_large, [1, 8, 38, 107, 24, 51, 24, 3, 0]);
    }

    #[test]
    fn signs_are_even_in_number() {
        for n in 0..128 {
            let signs = even_signs(n);
            assert_eq!(u32::from(signs & 127), n);
            assert!(signs.count_ones().is_multiple_of(2));
        }
        assert_eq!(even_signs(0x81), even_signs(1), "only seven bits count");
    }

    #[test]
    fn scales_are_powers_of_two() {
        for e in 0..255 {
            assert_eq!(f64::from(mxfp4_scale(e)), 2_f64.powi(i32::from(e) - 128));
        }
        assert!(mxfp4_scale(255).is_nan());
    }
}
