//! `farplane doctor`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use farplane_embedded::{Finding, Severity};

use crate::App;
use crate::engine::{self, Wanted};
use crate::failure::Failure;
use crate::up;
use crate::view::cells::{Cell, Tone, table};

/// Where the parts of a hub are.
#[derive(Args, Debug, Clone)]
pub(crate) struct Distribution {
    /// Directory with bin/, images/ and artifacts/ [default: that of this program]
    #[arg(long, value_name = "PATH")]
    pub dist: Option<PathBuf>,
    /// Directory of the Helm chart [default: beside or in the distribution]
    #[arg(long, value_name = "PATH")]
    pub chart: Option<PathBuf>,
}

/// What to look at.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    from: Distribution,
}

/// Tells what is fine and what is missing; fails when a hub could not start.
pub(crate) fn run(app: &App, args: &DoctorArgs) -> Result<()> {
    let wanted = Wanted {
        name: up::chosen(app, None)?,
        dist: args.from.dist.clone(),
        chart: args.from.chart.clone(),
        ..Wanted::default()
    };
    let findings = engine::doctor(wanted)?;
    app.out.value(&findings, |color| render(&findings, color))?;
    let wrong = findings.iter().filter(|finding| is_wrong(finding)).count();
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::Refused("1 thing keeps a hub from starting".to_owned()).into()),
        several => {
            Err(Failure::Refused(format!("{several} things keep a hub from starting")).into())
        }
    }
}

fn is_wrong(finding: &Finding) -> bool {
    !finding.ok && finding.severity == Severity::Error
}

fn render(findings: &[Finding], color: bool) -> String {
    let rows: Vec<Vec<Cell>> = findings
        .iter()
        .map(|finding| {
            let verdict = match (finding.ok, finding.severity) {
                (true, _) => Cell::toned("ok", Tone::Good),
                (false, Severity::Warning) => Cell::toned("warning", Tone::Wait),
                (false, Severity::Error) => Cell::toned("error", Tone::Bad),
            };
            let words = match finding.fix.as_str() {
                "" => finding.message.clone(),
                fix => format!("{}; {fix}", finding.message),
            };
            vec![finding.check.clone().into(), verdict, words.into()]
        })
        .collect();
    table(&["CHECK", "RESULT", "WHAT"], &rows, color)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_with_what_to_do() {
        let finding = |ok, severity| Finding {
            check: "disk".into(),
            ok,
            severity,
            message: "1 MiB is free".into(),
            fix: if ok { "" } else { "free some" }.into(),
        };
        let bad = finding(false, Severity::Error);
        assert!(is_wrong(&bad) && !is_wrong(&finding(false, Severity::Warning)));
        assert_eq!(
            render(&[bad, finding(true, Severity::Error)], false),
            "CHECK   RESULT   WHAT\ndisk    error    1 MiB is free; free some\ndisk    ok       1 MiB is free\n"
        );
    }
}
