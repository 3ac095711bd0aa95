//! Tables of the number formats as a header for kernels.

use std::fmt::Write as _;

/// The text of `quant_tables.h`: the magnitudes of the IQ2_XXS grid, the first in the lowest byte, and the values of E2M1
/// doubled (`src/quant/tables.rs`).
pub fn quant_tables(iq2_xxs_grid: &[[u8; 8]; 256], mxfp4_values: &[i8; 16]) -> String {
    let mut text = String::from("#pragma once\n\nconstant ulong IQ2_XXS_GRID[256] = {\n");
    for points in iq2_xxs_grid.chunks(4) {
        text.push_str("   ");
        for point in points {
            let _ = write!(text, " {:#018x},", u64::from_le_bytes(*point));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "}};\n\nconstant char MXFP4_VALUES[16] = {{");
    let values: Vec<String> = mxfp4_values.iter().map(i8::to_string).collect();
    let _ = writeln!(text, "    {},\n}};", values.join(", "));
    text
}
