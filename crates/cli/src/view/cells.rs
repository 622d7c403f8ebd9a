//! Tables of plain columns, without lines, that fit pipes as well as people.

use owo_colors::OwoColorize as _;

/// Meaning of a text; colours follow from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Neither.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Not yet.
    Wait,
    /// Wrong.
    Bad,
}

/// A text with a meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What is shown.
    pub text: String,
    /// What it means.
    pub tone: Tone,
}

impl Cell {
    /// A text with a meaning.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    /// `-` when there is nothing to show.
    pub fn or_dash(text: Option<impl Into<String>>) -> Self {
        match text.map(Into::into) {
            Some(text) if !text.is_empty() => text.into(),
            _ => "-".into(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Paints a text when colours are wanted.
pub(crate) fn paint(text: &str, tone: Tone, color: bool) -> String {
    match tone {
        Tone::Good if color => text.green().to_string(),
        Tone::Wait if color => text.yellow().to_string(),
        Tone::Bad if color => text.red().to_string(),
        _ => text.to_owned(),
    }
}

/// Rows below their heads; without heads when there are none. Every line ends with a
/// line feed and has no blanks before it.
pub(crate) fn table(heads: &[&str], rows: &[Vec<Cell>], color: bool) -> String {
    let heads: Vec<Cell> = heads.iter().map(|head| Cell::from(*head)).collect();
    let lines: Vec<&[Cell]> = std::iter::once(heads.as_slice())
        .filter(|heads| !heads.is_empty())
        .chain(rows.iter().map(Vec::as_slice))
        .collect();
    let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let filled = line.iter().rposition(|cell| !cell.text.is_empty());
        let filled = filled.map_or(0, |last| last + 1);
        for (column, cell) in line.iter().enumerate().take(filled) {
            text.push_str(&paint(&cell.text, cell.tone, color));
            if column + 1 < filled {
                let gap = widths[column] - cell.text.chars().count() + 3;
                text.push_str(&" ".repeat(gap));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_hangs_over() {
        let rows = vec![
            vec!["a".into(), Cell::toned("yes", Tone::Good), "1m".into()],
            vec!["longer".into(), "no".into(), "".into()],
        ];
        assert_eq!(
            table(&["NAME", "READY", "AGE"], &rows, false),
            "NAME     READY   AGE\na        yes     1m\nlonger   no\n"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let rows = vec![vec![Cell::toned("x", Tone::Bad), "y".into()]];
        let painted = table(&["AB", "C"], &rows, true);
        assert_eq!(painted, format!("AB   C\n{}    y\n", "x".red()));
    }
}
