//! The order of the classes by their numbers.

use std::collections::BTreeMap;

use super::{Problem, Row, Rows};

/// The rows in the order of their numbers, which run from 0 or 1 without gaps. Rows without numbers keep their order.
pub(super) fn in_order(mut rows: Vec<Row>) -> Result<Rows, Problem> {
    let mut lines: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        let Some(number) = row.number else { return Ok(Rows { rows, first: None }) };
        if number == 255 {
            let message = "255 is the ignored label, which is no class; remove the line";
            return Err(Problem::new(row.line, message));
        }
        if let Some(line) = lines.insert(number, row.line) {
            return Err(Problem::new(row.line, format!("the class number {number} is already that of line {line}")));
        }
    }
    let first = usize::from(!lines.contains_key(&0));
    for ((number, line), expected) in lines.iter().zip(first..) {
        if *number != expected {
            let message =
                format!("the class number is {number}, but no class has the number {expected}; numbers run from 0 or 1 without gaps");
            return Err(Problem::new(*line, message));
        }
    }
    rows.sort_by_key(|row| row.number);
    Ok(Rows { rows, first: Some(first) })
}
