//! Rows of question, bar, figure and verdict; as JSON for programs, as a table for people.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::stats::rounded;

/// Whether a figure is what was promised.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// At or better than the bar.
    Met,
    /// Worse than the bar.
    Missed,
    /// There is no bar; for understanding the others.
    Told,
    /// Could not be measured.
    Failed,
}

/// One figure.
#[derive(Serialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Name of the benchmark.
    pub benchmark: String,
    /// What the figure answers.
    pub question: String,
    /// What is promised, in words.
    pub bar: Option<String>,
    /// The figure; `None` when it could not be measured.
    pub value: Option<f64>,
    /// Unit of it.
    pub unit: String,
    /// Whether the promise is kept.
    pub verdict: Verdict,
    /// What the figure was made of, or why there is none.
    pub details: Value,
}

impl Row {
    /// A figure without a bar.
    pub fn told(benchmark: &str, question: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            benchmark: benchmark.to_owned(),
            question: question.into(),
            bar: None,
            value: Some(rounded(value, 3)),
            unit: unit.to_owned(),
            verdict: Verdict::Told,
            details: Value::Null,
        }
    }

    /// The figure must not be above `bar`.
    pub fn at_most(self, bar: f64) -> Self {
        let met = self.value.is_some_and(|value| value <= bar);
        let text = format!("≤ {bar} {}", self.unit);
        self.judged(text, met)
    }

    /// The figure must not be below `bar`.
    pub fn at_least(self, bar: f64) -> Self {
        let met = self.value.is_some_and(|value| value >= bar);
        let text = format!("≥ {bar} {}", self.unit);
        self.judged(text, met)
    }

    /// The figure must be above the rival's, or below it.
    pub fn ahead_of(self, rival: &str, figure: Option<f64>, more_is_better: bool) -> Self {
        let text = match figure {
            Some(figure) => format!("{rival}: {} {}", rounded(figure, 3), self.unit),
            None => format!("{rival}: no answer"),
        };
        let met = match (self.value, figure) {
            (Some(ours), Some(theirs)) if more_is_better => ours > theirs,
            (Some(ours), Some(theirs)) => ours < theirs,
            (ours, None) => ours.is_some(),
            (None, Some(_)) => false,
        };
        self.judged(text, met)
    }

    /// A benchmark that ended with an error.
    pub fn failed(benchmark: &str, question: &str, error: &anyhow::Error) -> Self {
        Self {
            value: None,
            verdict: Verdict::Failed,
            ..Self::told(benchmark, question, 0.0, "")
        }
        .with(json!({ "error": format!("{error:#}") }))
    }

    /// Adds what the figure was made of.
    pub fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    fn cells(&self) -> [String; 5] {
        let measured = match self.value {
            Some(value) => format!("{value} {}", self.unit).trim_end().to_owned(),
            None => "–".to_owned(),
        };
        let verdict = match self.verdict {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed => "MISSED".to_owned(),
            Verdict::Told => String::new(),
            Verdict::Failed => format!(
                "FAILED: {}",
                self.details["error"].as_str().unwrap_or_default()
            ),
        };
        let bar = self.bar.clone().unwrap_or_default();
        [
            self.benchmark.clone(),
            self.question.clone(),
            bar,
            measured,
            verdict,
        ]
    }

    fn judged(mut self, bar: String, met: bool) -> Self {
        self.bar = Some(bar);
        self.verdict = if met { Verdict::Met } else { Verdict::Missed };
        self
    }
}

/// Everything that was measured in one run.
#[derive(Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Where.
    pub machine: Value,
    /// Whether it was shortened: good for trying out, not for `SPEC.md`.
    pub quick: bool,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// Takes over rows of the tunnel's own benchmark, under the name of their part here.
    ///
    /// # Errors
    /// When they have another form.
    pub fn take_tunnel(&mut self, benchmark: &str, rows: &Value) -> Result<()> {
        let rows = rows.as_array().context("rows of the tunnel are no list")?;
        for row in rows {
            let text = |key: &str| row[key].as_str().map(str::to_owned);
            let verdict = match row["met"].as_bool() {
                Some(true) => Verdict::Met,
                Some(false) => Verdict::Missed,
                None => Verdict::Told,
            };
            self.rows.push(Row {
                benchmark: benchmark.to_owned(),
                question: text("question").context("a row of the tunnel has no question")?,
                bar: text("bar"),
                value: row["value"].as_f64(),
                unit: String::new(),
                verdict,
                details: Value::Null,
            });
        }
        Ok(())
    }

    /// Whether everything could be measured.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Failed)
    }

    /// Writes the JSON file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("encode the report")?;
        text.push('\n');
        let new = path.with_extension("json.new");
        std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        std::fs::rename(&new, path).with_context(|| format!("write {}", path.display()))
    }

    /// The table.
    pub fn table(&self) -> String {
        let head = ["BENCHMARK", "QUESTION", "BAR", "MEASURED", "VERDICT"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head)
            .chain(self.rows.iter().map(Row::cells))
            .collect();
        let width = |column: usize| {
            let widths = lines.iter().map(|cells| cells[column].chars().count());
            widths.max().unwrap_or(0)
        };
        let widths = [0, 1, 2, 3].map(width);
        let mut text = String::new();
        for [benchmark, question, bar, measured, verdict] in &lines {
            let [a, b, c, d] = widths;
            let line =
                format!("{benchmark:<a$}  {question:<b$}  {bar:<c$}  {measured:<d$}  {verdict}");
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// What figures depend on.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let memory = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    json!({
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "memoryKiB": memory,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64) -> Row {
        Row::told("b", "q?", value, "s")
    }

    #[test]
    fn the_bar_itself_is_met_and_less_is_not() {
        assert_eq!(row(5.0).at_least(5.0).verdict, Verdict::Met);
        assert_eq!(row(4.999).at_least(5.0).verdict, Verdict::Missed);
    }

    #[test]
    fn the_bar_itself_is_met_and_more_is_not() {
        assert_eq!(row(4.0).at_most(4.0).verdict, Verdict::Met);
        assert_eq!(row(4.001).at_most(4.0).verdict, Verdict::Missed);
        assert_eq!(row(1.0).verdict, Verdict::Told);
    }

    #[test]
    fn ahead_means_strictly_and_a_rival_that_never_ends_is_behind() {
        for (ours, theirs, more, expected) in [
            (2.0, Some(1.0), true, Verdict::Met),
            (1.0, Some(1.0), true, Verdict::Missed),
            (1.0, Some(2.0), false, Verdict::Met),
            (1.0, Some(1.0), false, Verdict::Missed),
            (1.0, None, false, Verdict::Met),
        ] {
            assert_eq!(row(ours).ahead_of("x", theirs, more).verdict, expected);
        }
        let mut never = row(1.0);
        never.value = None;
        assert_eq!(
            never.clone().ahead_of("x", None, false).verdict,
            Verdict::Missed
        );
        assert_eq!(
            never.ahead_of("x", Some(1.0), false).verdict,
            Verdict::Missed
        );
    }

    #[test]
    fn a_failed_row_makes_the_report_incomplete_and_says_why_in_the_table() {
        let mut report = Report::default();
        report.rows.push(row(9.0).at_most(1.0));
        assert!(report.is_complete());
        report
            .rows
            .push(Row::failed("b", "q?", &anyhow::anyhow!("no etcd")));
        assert!(!report.is_complete());
        let table = report.table();
        assert!(
            table.contains("MISSED") && table.contains("FAILED: no etcd"),
            "{table}"
        );
    }

    #[test]
    fn rows_of_the_tunnel_keep_their_verdict() {
        let rows = json!([
            { "question": "a", "value": 1.5, "bar": "at most 2", "met": true },
            { "question": "b", "value": 3.0, "bar": "at most 2", "met": false },
            { "question": "c", "value": 3, "bar": null, "met": null },
        ]);
        let mut report = Report::default();
        report.take_tunnel("tunnel-open", &rows).unwrap();
        let verdicts: Vec<_> = report.rows.iter().map(|row| row.verdict).collect();
        assert_eq!(verdicts, [Verdict::Met, Verdict::Missed, Verdict::Told]);
        assert!(report.take_tunnel("tunnel-open", &json!({})).is_err());
    }
}
