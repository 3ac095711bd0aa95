//! The experiment's record: rows that `infall bench --row` writes, and the report that is made of them.
//!
//! ```text
//! folder of rows → Row (checked) → cells: runs of one setup → tables, pictures → one HTML file, or a terminal
//! ```

pub mod axis;
pub mod cells;
pub mod charts;
pub mod compare;
pub mod figures;
pub mod html;
pub mod read;
pub mod record;
pub mod row;
pub mod svg;
pub mod tables;
pub mod text;

pub use read::Folder;
pub use row::Row;
