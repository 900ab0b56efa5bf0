//! Text tables. Pure: rows in, lines out.

/// Columns as wide as their widest cell; the last one is not padded. `right` names columns of numbers.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let room = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let cell = if right.contains(&column) {
                format!("{room}{cell}")
            } else {
                format!("{cell}{room}")
            };
            text.push_str(if column == 0 { "" } else { "  " });
            text.push_str(&cell);
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(
        &header
            .iter()
            .map(|&cell| cell.to_owned())
            .collect::<Vec<_>>(),
    );
    text.push_str(&line(
        &widths
            .iter()
            .map(|&width| "─".repeat(width))
            .collect::<Vec<_>>(),
    ));
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_names_left_and_numbers_right() {
        let rows = [
            vec!["a".to_owned(), "1.0 s".to_owned(), "x".to_owned()],
            vec!["bc".to_owned(), "10.0 s".to_owned()],
        ];
        let text = render(&["step", "time", "note"], &rows, &[1]);
        assert_eq!(
            text,
            "step    time  note\n────  ──────  ────\na      1.0 s  x\nbc    10.0 s\n"
        );
    }
}
