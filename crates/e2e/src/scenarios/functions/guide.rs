//! Guides, followed line by line.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::pause;
use crate::world::World;

const OWN: &str = include_str!("../../../../../docs/guides/functions.md");
const FISSION: &str = include_str!("../../../../../docs/guides/fission.md");
/// Longest run of one line: a build of a compiled language on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A line with `$`, and what must be in its answer.
#[derive(Debug, PartialEq, Eq)]
struct Step<'a> {
    command: &'a str,
    answers: Vec<&'a str>,
}

fn steps(guide: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        match (inside, line) {
            (_, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command,
                    answers: Vec::new(),
                }),
                (None, Some(step)) => step.answers.push(line),
                (None, None) => {}
            },
            _ => {}
        }
    }
    steps
}

/// `docs/guides/functions.md`.
pub fn own(world: &World) -> Result<()> {
    // The guide begins with a cluster without functions.
    super::farplane_raw(world, &["fn", "delete", "hello", "--yes"])?;
    followed(world, "guide", OWN)
}

/// `docs/guides/fission.md`, with the command of the Fission project.
pub fn fission(world: &World) -> Result<()> {
    let program = world.tool("fission")?;
    ensure!(program.is_file(), "no {}", program.display());
    followed(world, "guide-of-fission", FISSION)
}

/// Every command of a guide works, and says what the guide says.
fn followed(world: &World, folder: &str, guide: &str) -> Result<()> {
    let folder = world.file(folder);
    std::fs::create_dir_all(&folder).context("make a folder")?;
    let root = world.dist.parent().context("find the clone")?;
    for name in ["environments", "dist"] {
        let (from, to) = (root.join(name), folder.join(name));
        std::os::unix::fs::symlink(&from, &to)
            .with_context(|| format!("link {}", from.display()))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut programs = format!("{}/bin", world.dist.display());
    if let Some(tools) = &world.tools {
        programs = format!("{programs}:{}", tools.display());
    }
    let hub = format!("/var/lib/farplane-hub/{}/admin.kubeconfig", world.hub);
    let steps = steps(guide);
    ensure!(steps.len() > 30, "the guide has {} commands", steps.len());
    for Step { command, answers } in steps {
        let log = folder.join("answer");
        let output = std::fs::File::create(&log).context("make a file for the answer")?;
        let errors = output.try_clone().context("share a file")?;
        let mut child = Command::new("sh")
            .args(["-c", command])
            .current_dir(&folder)
            .env("PATH", format!("{programs}:{path}"))
            .env("FARPLANE_KUBECONFIG", &hub)
            // What a guide exports is gone with its line.
            .env("KUBECONFIG", folder.join("functions.kubeconfig"))
            .env("FISSION_NAMESPACE", super::PLATFORM)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {command}"))?;
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for a command")? {
                break status;
            }
            if Instant::now() > end {
                child.kill().context("end a command")?;
                bail!("{command}: still running after {LIMIT:?}");
            }
            pause(Duration::from_millis(20));
        };
        let said = std::fs::read_to_string(&log).context("read an answer")?;
        // What fails on purpose says so in the line itself.
        ensure!(status.success(), "{command}: {status}: {said}");
        for answer in answers {
            ensure!(said.contains(answer), "{command}: no {answer:?} in: {said}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_answers_are_those_of_console_blocks() {
        let guide = "a\n```console\n$ one\nfirst\nsecond\n$ two\n```\n$ no\n```\n$ neither\n```\n";
        let expected = [("one", vec!["first", "second"]), ("two", vec![])];
        let expected = expected.map(|(command, answers)| Step { command, answers });
        assert_eq!(steps(guide), expected);
    }
}
